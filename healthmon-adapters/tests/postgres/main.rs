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

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use healthmon_adapters::servers::{PrivatePostgres, StopMode};

#[test]
fn a_private_server_starts_stops_and_starts_again() {
    let server = PrivatePostgres::start().unwrap();
    server.stop(StopMode::Immediate).unwrap();
    server.resume().unwrap();
    let entry = format!("/proc/{}/cmdline", server.process().unwrap());
    drop(server);
    // It was killed, and takes a moment to be gone.
    let end = Instant::now() + Duration::from_secs(10);
    while Path::new(&entry).exists() {
        assert!(Instant::now() < end, "it goes with its handle");
        thread::sleep(Duration::from_millis(10));
    }
}
