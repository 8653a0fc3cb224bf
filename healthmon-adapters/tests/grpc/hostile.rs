//! Servers that misbehave: the outcome is right, the probe ends on time, memory stays flat.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use healthmon_core::probe::{FailReason, Outcome};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{
    frames::{
        CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, PING, PUSH_PROMISE, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE,
        block, frame, grpc_head, head, message, read_request, serving, trailers, wait_for_end,
    },
    support::{PATIENCE, detail, prober, see_within},
};

/// The deadline of servers that hang.
const SHORT: Duration = Duration::from_millis(300);
/// How late a probe may come back on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

type Setup = Pin<Box<dyn Future<Output = Raw>>>;

struct Row {
    name: &'static str,
    server: Setup,
    outcome: Outcome,
    says: &'static str,
}

fn row(name: &'static str, server: impl Future<Output = Raw> + 'static, reason: FailReason, says: &'static str) -> Row {
    Row { name, server: Box::pin(server), outcome: Outcome::Fail(reason), says }
}

fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

const OK: &[(&str, &[u8])] = &[("grpc-status", b"0")];
const FLOODED: &str = "more than 131072 bytes came for one health check";

fn floods() -> Vec<Row> {
    let protocol = FailReason::Protocol;
    let dripping = Raw::new(|mut stream| async move {
        read_request(&mut stream).await;
        while stream.write_all(&settings()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let started = [settings(), frame(HEADERS, 0, 1, &block(&[(":status", b"200")]))].concat();
    let field = block(&[("x", &[b'y'; 1_000])]);
    vec![
        row("settings flood", Raw::repeating(settings(), settings()), protocol, FLOODED),
        row("ping flood", Raw::repeating(settings(), frame(PING, 0, 0, &[7; 8])), protocol, FLOODED),
        row("window flood", Raw::repeating(settings(), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])), protocol, ""),
        row("empty data for ever", Raw::repeating(grpc_head(&[]), frame(DATA, 0, 1, &[])), protocol, ""),
        row("messages for ever", Raw::repeating(grpc_head(&[]), serving()), protocol, ""),
        row("headers that never end", Raw::repeating(started.clone(), frame(CONTINUATION, 0, 1, &field)), protocol, ""),
        row("empty continuations", Raw::repeating(started, frame(CONTINUATION, 0, 1, &[])), protocol, ""),
        row("resets of other streams", Raw::repeating(settings(), frame(RST_STREAM, 0, 3, &[0; 4])), protocol, ""),
        row("settings, a few at a time", dripping, FailReason::Timeout, "timed out after 300 ms while waiting"),
    ]
}

fn answers() -> Vec<Row> {
    let protocol = FailReason::Protocol;
    let goaway = |reason: u8, debug: &[u8]| frame(GOAWAY, 0, 0, &[&[0, 0, 0, 0, 0, 0, 0, reason], debug].concat());
    let gzip = grpc_head(&[("grpc-encoding", b"gzip")]);
    let large = head("200", 0, &[("content-type", b"application/grpc"), ("x", &[b'y'; 15_000]), ("z", &[b'y'; 1_300])]);
    let html = |status: &str| head(status, END_STREAM, &[("content-type", b"text/html")]);
    let said = Raw::saying;
    vec![
        row("silence", said(Vec::new()), FailReason::Timeout, "timed out after 300 ms while waiting for the answer"),
        row("settings and silence", said(settings()), FailReason::Timeout, "while waiting for the answer"),
        row("a head and silence", said(grpc_head(&[])), FailReason::Timeout, "while reading the body"),
        row("HTTP/1", said(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), protocol, "the peer answers in HTTP/1"),
        row("noise", said(vec![0xff; 100]), protocol, "http/2: "),
        row("closed at once", Raw::saying_and_closing(Vec::new()), protocol, "the peer closed the connection"),
        row(
            "closed in the answer",
            Raw::saying_and_closing(grpc_head(&[])),
            protocol,
            "the peer closed the connection",
        ),
        row("goaway at once", said([settings(), goaway(0, b"")].concat()), protocol, ""),
        row(
            "goaway with a reason",
            Raw::saying_and_closing([settings(), goaway(11, b"calm")].concat()),
            protocol,
            "calm",
        ),
        row(
            "reset",
            said([settings(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 7])].concat()),
            protocol,
            "http/2: stream error",
        ),
        row(
            "reset after the head",
            said([grpc_head(&[]), frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])].concat()),
            protocol,
            "http/2: ",
        ),
        row("a push", said([settings(), frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2])].concat()), protocol, "http/2: "),
        row("a header list too large", said([large, serving(), trailers(OK)].concat()), protocol, ""),
        row(
            "a giant message",
            said([grpc_head(&[]), message(0, 1 << 30, &[8, 1])].concat()),
            protocol,
            "length too large",
        ),
        row(
            "a compressed message",
            said([gzip, message(1, 2, &[8, 1]), trailers(OK)].concat()),
            protocol,
            "compressed",
        ),
        row(
            "a compressed flag alone",
            said([grpc_head(&[]), message(1, 2, &[8, 1])].concat()),
            protocol,
            "compressed-flag",
        ),
        row(
            "a message that is none",
            said([grpc_head(&[]), message(0, 2, &[0xff, 0xff]), trailers(OK)].concat()),
            protocol,
            "cannot be read",
        ),
        row("no message", said([grpc_head(&[]), trailers(OK)].concat()), protocol, "cannot be read"),
        row(
            "trailers only, and all is well",
            said(head("200", END_STREAM, &[("content-type", b"application/grpc"), ("grpc-status", b"0")])),
            protocol,
            "cannot be read",
        ),
        row(
            "no status",
            said([grpc_head(&[]), serving(), frame(DATA, END_STREAM, 1, &[])].concat()),
            protocol,
            "grpc-status",
        ),
        row("another content type", said(html("200")), protocol, "the answer's content type is \"text/html\""),
        row("no content type", said(head("200", END_STREAM, &[])), protocol, "the answer's content type is \"\""),
        row("HTTP 401", said(html("401")), FailReason::Authentication, "HTTP status 401 and no grpc-status"),
        row("HTTP 403", said(html("403")), FailReason::Authentication, "HTTP status 403 and no grpc-status"),
        row("HTTP 404", said(html("404")), FailReason::Unimplemented, "HTTP status 404 and no grpc-status"),
        row("HTTP 502", said(html("502")), FailReason::Status, "HTTP status 502 and no grpc-status"),
        row(
            "trailers only",
            said(head(
                "200",
                END_STREAM,
                &[("content-type", b"application/grpc"), ("grpc-status", b"14"), ("grpc-message", b"gone%20away")],
            )),
            FailReason::Status,
            "grpc status UNAVAILABLE (14): \"gone away\"",
        ),
        row(
            "a status that is none",
            said(head("200", END_STREAM, &[("content-type", b"application/grpc"), ("grpc-status", b"ninety")])),
            FailReason::Status,
            "grpc status UNKNOWN (2)",
        ),
    ]
}

#[tokio::test]
async fn sec_hostile_servers_end_on_time_with_the_right_outcome() {
    for Row { name, server, outcome, says } in floods().into_iter().chain(answers()) {
        let server = server.await;
        let timeout = if outcome == Outcome::Fail(FailReason::Timeout) { SHORT } else { PATIENCE };
        let (prober, begun) = (prober(), Instant::now());
        let seen = see_within(&prober, &server.url(), timeout, json!({})).await;
        let took = begun.elapsed();
        assert_eq!(seen.outcome, outcome, "{name}: {seen:?}");
        assert!(detail(&seen).contains(says), "{name}: {seen:?}");
        assert!(took < timeout + GRACE, "{name}: {took:?}");
    }
}

#[tokio::test]
async fn an_answer_by_hand_that_is_right_passes() {
    let server = Raw::saying([grpc_head(&[]), serving(), trailers(OK)].concat()).await;
    let seen = see_within(&prober(), &server.url(), PATIENCE, json!({})).await;
    assert_eq!((seen.outcome, detail(&seen)), (Outcome::Pass, ""));
}

#[tokio::test]
async fn a_server_that_never_reads_is_a_timeout() {
    let server = Raw::new(|stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let seen = see_within(&prober(), &server.url(), SHORT, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout), "{seen:?}");
    // What a test server of this file waits with is itself part of the tests.
    let mut nothing: &[u8] = &[];
    wait_for_end(&mut nothing).await;
}
