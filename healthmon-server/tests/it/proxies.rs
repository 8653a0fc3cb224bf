//! The fault harness's proxy does what it says to a commit.

#[path = "../faults/proxy.rs"]
#[expect(dead_code, reason = "the harness uses all of it")]
pub(crate) mod proxy;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use self::proxy::{Proxy, Trap};
use crate::support::PATIENCE;

/// A transaction that tells of a transition, and its commit.
const TELLING: &[u8] = br#"BEGIN; {"type":"transition"}; COMMIT"#;

/// Sends that through a proxy with this trap to a server that answers at once. Returns what arrived
/// there, and what came back.
async fn commit(trap: Trap) -> (Vec<u8>, Vec<u8>) {
    commit_of(TELLING, trap).await
}

async fn commit_of(transaction: &[u8], trap: Trap) -> (Vec<u8>, Vec<u8>) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(server.local_addr().unwrap().port()).await;
    proxy.trap(trap);
    let answering = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut arrived = vec![0; 64];
        let read = stream.read(&mut arrived).await.unwrap_or(0);
        arrived.truncate(read);
        // The proxy may have hung up.
        stream.write_all(b"COMMITTED").await.ok();
        stream.shutdown().await.ok();
        arrived
    });
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(transaction).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.unwrap().ok();
    (answering.await.unwrap(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_cut_after_has_arrived_and_its_answer_never_has() {
    for _ in 0..200 {
        assert_eq!(commit(Trap::CutAfter).await, (TELLING.to_vec(), Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_cut_before_does_not_arrive_and_any_other_is_answered() {
    assert_eq!(commit(Trap::CutBefore).await, (Vec::new(), Vec::new()));
    assert_eq!(commit(Trap::None).await, (TELLING.to_vec(), b"COMMITTED".to_vec()));
    let late = commit(Trap::StallAfter(std::time::Duration::from_millis(50))).await;
    assert_eq!(late, (TELLING.to_vec(), b"COMMITTED".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_what_only_read_goes_through_every_trap() {
    let reading = b"BEGIN READ ONLY; SELECT 1; COMMIT";
    for trap in [Trap::CutBefore, Trap::CutAfter] {
        assert_eq!(commit_of(reading, trap).await, (reading.to_vec(), b"COMMITTED".to_vec()));
    }
}
