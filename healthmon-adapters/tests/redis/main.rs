//! The adapters over Redis, on a real server.

mod broadcast;
mod bundles;
mod conformance;
mod sharing;
mod support;
mod tls;
mod trouble;

use healthmon_adapters::servers::PrivateRedis;

#[test]
fn a_private_server_keeps_its_data_over_a_kill_until_it_is_made_to_lose_it() {
    let server = PrivateRedis::start().unwrap();
    server.say("SET a b").unwrap();
    server.kill().unwrap();
    server.resume().unwrap();
    assert_eq!(server.say("GET a").unwrap(), "$1\r\nb\r\n");
    server.kill().unwrap();
    server.lose_data().unwrap();
    server.resume().unwrap();
    assert_eq!(server.say("GET a").unwrap(), "$-1\r\n");
}
