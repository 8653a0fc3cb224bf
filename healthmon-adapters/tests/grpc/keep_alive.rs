//! Connections that outlive their probe.

use healthmon_adapters::grpc::GrpcProberConfig;
use healthmon_core::probe::{FailReason, Outcome};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    frames::{Raw, grpc_head, read_request, serving, trailers},
    support::{Backend, detail, prober, prober_with, see},
};

fn keep_alive() -> Value {
    json!({"grpc": {"connection": "keep_alive"}})
}

#[tokio::test]
async fn probes_share_a_connection_only_when_asked_to() {
    for (options, connections) in [(json!({}), 3), (keep_alive(), 1)] {
        let server = Backend::real(None).await;
        let prober = prober();
        for _ in 0..3 {
            let seen = see(&prober, &server.url("shop.v1.Cart"), options.clone()).await;
            assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
        }
        assert_eq!((server.accepted(), server.arrived().len()), (connections, 3), "{options}");
    }
}

#[tokio::test]
async fn a_reused_connection_shows_no_connect_phase_and_other_answers_keep_it() {
    let server = Backend::real(None).await;
    let prober = prober();
    let first = see(&prober, &server.url("shop.v1.Till"), keep_alive()).await;
    let second = see(&prober, &server.url("shop.v1.Cart"), keep_alive()).await;
    assert_eq!((first.outcome, second.outcome), (Outcome::Fail(FailReason::NotServing), Outcome::Pass));
    assert!(first.phases.connect_us.is_some() && second.phases.connect_us.is_none());
    assert!(second.phases.first_byte_us.is_some());
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_connection_closed_while_it_lay_idle_or_under_the_question_is_replaced() {
    // Answers the first request of a connection, and closes, at once or at the second.
    for closes_at_once in [true, false] {
        let server = Raw::new(move |mut stream| async move {
            read_request(&mut stream).await;
            let answer = [grpc_head(&[]), serving(), trailers(&[("grpc-status", b"0")])].concat();
            stream.write_all(&answer).await.expect("sent");
            if !closes_at_once {
                let mut more = [0; 1];
                while tokio::io::AsyncReadExt::read(&mut stream, &mut more).await.is_ok_and(|read| read > 0) {
                    // Some acknowledgement of ours comes first; a HEADERS frame is of the next request.
                    if more == [1] {
                        return;
                    }
                }
            }
        })
        .await;
        let prober = prober();
        for _ in 0..3 {
            let seen = see(&prober, &server.url(), keep_alive()).await;
            assert_eq!((seen.outcome, detail(&seen)), (Outcome::Pass, ""));
        }
    }
}

#[tokio::test]
async fn without_room_for_idle_connections_every_probe_is_fresh() {
    let server = Backend::real(None).await;
    let prober = prober_with(GrpcProberConfig { idle_connections: None, ..Default::default() });
    for _ in 0..2 {
        assert_eq!(see(&prober, &server.url(""), keep_alive()).await.outcome, Outcome::Pass);
    }
    assert_eq!(server.accepted(), 2);
}
