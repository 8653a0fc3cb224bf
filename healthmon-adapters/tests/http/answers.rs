//! What a well-behaved target answers, and what is made of it.

use std::io::Write;

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Outcome},
};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::support::{
    OK, PATIENCE, Server, answer, detail, header, probe_of, prober, read_request, see, settings, wait_for_end,
};

#[tokio::test]
async fn a_plain_get_passes_with_its_phases_measured() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let seen = see(&prober(), &server.url(), json!({})).await;
    assert_eq!((seen.outcome, seen.code, seen.detail.as_deref()), (Outcome::Pass, Some(200), None));
    assert!(seen.phases.connect_us.is_some() && seen.phases.first_byte_us.is_some());
    assert_eq!((seen.phases.dns_us, seen.phases.tls_us), (None, None));
    assert!(seen.latency_us >= seen.phases.first_byte_us.unwrap_or(0));
    let requests = server.requests();
    assert!(requests[0].starts_with("GET / HTTP/1.1\r\n"), "{}", requests[0]);
    assert_eq!(header(&requests[0], "host"), Some(server.address.to_string().as_str()));
    assert_eq!(header(&requests[0], "user-agent"), Some(concat!("healthmon/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(header(&requests[0], "accept-encoding"), None);
}

#[tokio::test]
async fn a_status_passes_when_it_is_listed_and_else_says_what_was_expected() {
    let cases = [
        (200, json!(null), Ok(())),
        (204, json!(null), Ok(())),
        (404, json!(null), Err("status: expected 200-299, got 404")),
        (404, json!(404), Ok(())),
        (404, json!("4xx"), Ok(())),
        (503, json!([200, "301-399", "4xx"]), Err("status: expected 200, 301-399, 400-499, got 503")),
        (302, json!([302]), Ok(())),
        (304, json!(null), Err("status: expected 200-299, got 304")),
    ];
    for (status, expected, verdict) in cases {
        let server = Server::answering(move |_| answer(status, "", "")).await;
        let seen = see(&prober(), &server.url(), json!({"expect": {"status": expected}})).await;
        assert_eq!(seen.code, Some(status));
        match verdict {
            Ok(()) => assert_eq!(seen.outcome, Outcome::Pass, "{status} {expected}"),
            Err(said) => assert_eq!((seen.outcome, detail(&seen)), (Outcome::Fail(FailReason::Status), said)),
        }
    }
}

fn encoded(encoding: &str, text: &[u8]) -> Vec<u8> {
    let done = match encoding {
        "gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).and_then(|()| encoder.finish())
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).and_then(|()| encoder.finish())
        }
        _ => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).and_then(|()| encoder.finish())
        }
    };
    done.expect("encoded in memory")
}

#[tokio::test]
async fn the_expected_text_is_found_in_a_body_of_any_encoding_that_was_offered() {
    let text = format!("{}needle{}", "x".repeat(9_000), "y".repeat(9_000));
    for (named, how) in [("identity", ""), ("gzip", "gzip"), ("deflate", "deflate"), ("deflate", "bare")] {
        let body = if how.is_empty() { text.clone().into_bytes() } else { encoded(how, text.as_bytes()) };
        let length = body.len();
        let server = Server::answering(move |_| {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: {named}\r\ncontent-length: {length}\r\n\r\n");
            [head.as_bytes(), &body].concat()
        })
        .await;
        let found = see(&prober(), &server.url(), json!({"expect": {"body": "needle"}})).await;
        assert_eq!(found.outcome, Outcome::Pass, "{named} {how}: {found:?}");
        assert_eq!(header(&server.requests()[0], "accept-encoding"), Some("gzip, deflate"));
        let missing = see(&prober(), &server.url(), json!({"expect": {"body": "thread"}})).await;
        assert_eq!(missing.outcome, Outcome::Fail(FailReason::Assertion), "{named} {how}");
        assert_eq!(detail(&missing), "body: expected to contain \"thread\", got a body of 18006 bytes");
    }
}

#[tokio::test]
async fn an_empty_body_is_an_empty_text_and_one_that_is_cut_off_is_none() {
    let coded = |named: &str, body: &[u8]| {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: {named}\r\ncontent-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let options = json!({"expect": {"body": {"not_contains": "error"}}});
    let text: String = (0..2_000).map(|n| format!("{n} ")).collect();
    for (named, how) in [("gzip", "gzip"), ("deflate", "deflate"), ("deflate", "bare")] {
        let empty = Server::sending(coded(named, b"")).await;
        let seen = see(&prober(), &empty.url(), options.clone()).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{named}: {seen:?}");
        let whole = encoded(how, text.as_bytes());
        let cut = Server::sending(coded(named, &whole[..whole.len() / 2])).await;
        let seen = see(&prober(), &cut.url(), options.clone()).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Protocol), "{named} {how}: {seen:?}");
        assert!(detail(&seen).starts_with("the body cannot be decoded: "), "{seen:?}");
    }
}

#[tokio::test]
async fn method_headers_and_body_are_sent_as_configured() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let options = json!({"http": {
        "method": "POST", "body": "ping", "host": "shop.test", "headers": {"X-Token": "abc", "User-Agent": "mine"},
    }});
    let seen = see(&prober(), &server.url(), options).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    let request = &server.requests()[0];
    assert!(request.starts_with("POST / HTTP/1.1\r\n") && request.ends_with("\r\n\r\nping"), "{request}");
    assert_eq!(header(request, "x-token"), Some("abc"));
    assert_eq!(header(request, "host"), Some("shop.test"));
    assert_eq!(header(request, "user-agent"), Some("mine"));
}

#[tokio::test]
async fn head_takes_no_body() {
    let server = Server::answering(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n".to_vec()).await;
    let seen = see(&prober(), &server.url(), json!({"http": {"method": "HEAD"}})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    assert!(server.requests()[0].starts_with("HEAD / "));
}

#[tokio::test]
async fn a_chunked_body_and_one_that_ends_with_the_connection_are_read_to_their_end() {
    let answers = [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnee\r\n3\r\ndle\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nneedle",
        "HTTP/1.0 200 OK\r\n\r\nneedle",
    ];
    for answer in answers {
        let server = Server::sending(answer).await;
        let seen = see(&prober(), &server.url(), json!({"expect": {"body": "needle"}})).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{answer:?}: {seen:?}");
    }
}

#[tokio::test]
async fn dropping_a_probe_closes_its_socket() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let (ended, mut has_ended) = tokio::sync::mpsc::channel(1);
    let server = Server::raw(move |mut stream| {
        let (asked, ended) = (asked.clone(), ended.clone());
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await.expect("sent");
            asked.send(()).await.expect("the test waits");
            wait_for_end(&mut stream).await;
            ended.send(()).await.expect("the test waits");
        }
    })
    .await;
    let (prober, probe) = (prober(), probe_of(settings(&server.url(), PATIENCE, &json!({}))));
    tokio::select! {
        seen = prober.probe(&probe) => panic!("no answer was given, yet {seen:?}"),
        asked = was_asked.recv() => assert!(asked.is_some()),
    }
    let ended = tokio::time::timeout(PATIENCE, has_ended.recv()).await;
    assert_eq!(ended, Ok(Some(())), "the socket is still open");
}
