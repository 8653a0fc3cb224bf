//! The adapters over PostgreSQL, on a real server.

mod connect;
mod failover;
mod partitions;
mod queue;
mod rollups;
mod scheduler;
mod speed;
mod store;
mod support;
mod tls;
mod trouble;

use healthmon_adapters::servers::{PrivatePostgres, StopMode};

#[test]
fn a_private_server_starts_stops_and_starts_again() {
    let server = PrivatePostgres::start().unwrap();
    server.stop(StopMode::Immediate).unwrap();
    server.resume().unwrap();
    let process = server.process().unwrap();
    drop(server);
    assert!(!std::path::Path::new(&format!("/proc/{process}/cmdline")).exists(), "it goes with its handle");
}
