//! Connections that outlive their probe, and those that must not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Loopback},
};
use healthmon_core::probe::{FailReason, Outcome};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::support::{OK, Server, answer, detail, dialer, header, prober, read_request, see};

fn keep_alive() -> Value {
    json!({"http": {"connection": "keep_alive"}})
}

#[tokio::test]
async fn keep_alive_reuses_one_connection_and_fresh_never_does() {
    for (options, connections, sent) in [(keep_alive(), 1, None), (json!({}), 3, Some("close"))] {
        let server = Server::answering(|_| OK.to_vec()).await;
        let prober = prober();
        for _ in 0..3 {
            let seen = see(&prober, &server.url(), options.clone()).await;
            assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
        }
        assert_eq!((server.accepted(), server.requests().len()), (connections, 3), "{options}");
        assert_eq!(header(&server.requests()[0], "connection"), sent);
    }
}

#[tokio::test]
async fn a_reused_connection_shows_no_connect_phase() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let prober = prober();
    let first = see(&prober, &server.url(), keep_alive()).await;
    let second = see(&prober, &server.url(), keep_alive()).await;
    assert!(first.phases.connect_us.is_some() && second.phases.connect_us.is_none());
}

/// Answers the first request of each connection, and closes at the second without a word.
async fn server_that_closes_under_the_second_request() -> Server {
    Server::raw(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(OK).await.expect("sent");
        read_request(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn a_connection_closed_under_the_request_is_retried_once_over_a_fresh_one() {
    let server = server_that_closes_under_the_second_request().await;
    let prober = prober();
    for _ in 0..2 {
        let seen = see(&prober, &server.url(), keep_alive()).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    }
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn a_post_that_may_have_arrived_is_not_repeated() {
    let server = server_that_closes_under_the_second_request().await;
    let prober = prober();
    let post = json!({"http": {"connection": "keep_alive", "method": "POST", "body": "once"}});
    assert_eq!(see(&prober, &server.url(), post.clone()).await.outcome, Outcome::Pass);
    let second = see(&prober, &server.url(), post).await;
    assert_eq!(second.outcome, Outcome::Fail(FailReason::Protocol), "{second:?}");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_target_that_closes_after_each_answer_still_passes() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let server = Server::raw(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            if read_request(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(OK).await.expect("sent");
            }
        }
    })
    .await;
    let prober = prober();
    for _ in 0..5 {
        let seen = see(&prober, &server.url(), keep_alive()).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    }
    assert_eq!(served.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn an_answer_that_says_close_is_not_kept() {
    let server = Server::answering(|_| answer(200, "connection: close\r\n", "ok")).await;
    let prober = prober();
    for _ in 0..2 {
        assert_eq!(see(&prober, &server.url(), keep_alive()).await.outcome, Outcome::Pass);
    }
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn without_room_for_idle_connections_every_probe_is_fresh() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let dialer = dialer(AddressPolicy::new(Loopback::Allowed)).into();
    let config = HttpProberConfig { dialer, idle_connections: None, ..Default::default() };
    let prober = HttpProber::new(config).expect("a prober");
    for _ in 0..2 {
        let seen = see(&prober, &server.url(), keep_alive()).await;
        assert_eq!((seen.outcome, detail(&seen)), (Outcome::Pass, ""));
    }
    assert_eq!(server.accepted(), 2);
}
