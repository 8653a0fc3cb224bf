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

/// Sends a commit through a proxy with this trap to a server that answers at once. Returns what
/// arrived there, and what came back.
async fn commit(trap: Trap) -> (Vec<u8>, Vec<u8>) {
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
    client.write_all(b"COMMIT").await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut answer)).await.unwrap().ok();
    (answering.await.unwrap(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_cut_after_has_arrived_and_its_answer_never_has() {
    for _ in 0..200 {
        assert_eq!(commit(Trap::CutAfter).await, (b"COMMIT".to_vec(), Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_cut_before_does_not_arrive_and_any_other_is_answered() {
    assert_eq!(commit(Trap::CutBefore).await, (Vec::new(), Vec::new()));
    assert_eq!(commit(Trap::None).await, (b"COMMIT".to_vec(), b"COMMITTED".to_vec()));
    let late = commit(Trap::StallAfter(std::time::Duration::from_millis(50))).await;
    assert_eq!(late, (b"COMMIT".to_vec(), b"COMMITTED".to_vec()));
}
