//! The upgrade, and why there is none.

use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Outcome},
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    peers::{answering, consent, echo, header, prober, prober_of, read_head, secure},
    support::{Authority, PATIENCE, SHORT, Server, detail, probe_of, see, see_within, settings, wait_for_end},
};

fn at(server: &Server) -> String {
    format!("ws://{}/", server.address)
}

type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// Its name, the answer, the options; the reason, the status and what is told of it.
type Row = (&'static str, Answer, Value, FailReason, Option<u16>, &'static str);

fn text(answer: &'static str) -> Answer {
    Box::new(move |_| answer.as_bytes().to_vec())
}

fn without(line: &'static str) -> Answer {
    Box::new(move |request| {
        let whole = String::from_utf8(consent(request, "")).expect("text");
        whole
            .lines()
            .filter(|have| !have.starts_with(line))
            .map(|line| format!("{line}\r\n"))
            .collect::<String>()
            .into()
    })
}

fn also(extra: &'static str) -> Answer {
    Box::new(move |request| consent(request, extra))
}

#[tokio::test]
async fn every_refusal_is_told_as_what_it_is() {
    use FailReason::{Protocol, Status, Unimplemented};
    let chat = || json!({"websocket": {"subprotocols": ["chat", "talk"]}});
    let plain = || json!({});
    let endless: &'static str = Box::leak(format!("HTTP/1.1 101 X\r\nx: {}", "y".repeat(70_000)).into_boxed_str());
    let headers: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    let headers: &'static str = Box::leak(format!("HTTP/1.1 101 X\r\n{headers}\r\n").into_boxed_str());
    let rows: Vec<Row> = vec![
        ("200", text("HTTP/1.1 200 OK\r\n\r\ncanary"), plain(), Status, Some(200), "expected status 101, got 200"),
        ("301", text("HTTP/1.1 301 canary\r\nlocation: ws://canary/\r\n\r\n"), plain(), Status, Some(301), "got 301"),
        ("401", text("HTTP/1.1 401 canary\r\n\r\n"), plain(), Status, Some(401), "got 401"),
        ("503", text("HTTP/1.1 503 canary\r\n\r\n"), plain(), Status, Some(503), "got 503"),
        ("no upgrade", without("upgrade"), plain(), Protocol, None, "No \"Upgrade: websocket\" header"),
        ("no connection", without("connection"), plain(), Protocol, None, "No \"Connection: upgrade\" header"),
        ("no accept", without("sec-websocket-accept"), plain(), Protocol, None, "Sec-WebSocket-Accept"),
        (
            "wrong accept",
            text("HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: canary\r\n\r\n"),
            plain(),
            Protocol,
            None,
            "Sec-WebSocket-Accept",
        ),
        ("no subprotocol", also(""), chat(), Unimplemented, Some(101), "none of the subprotocols that were offered"),
        ("another one", also("sec-websocket-protocol: canary\r\n"), chat(), Protocol, None, "invalid subprotocol"),
        (
            "one not asked for",
            also("sec-websocket-protocol: canary\r\n"),
            plain(),
            Protocol,
            None,
            "none was requested",
        ),
        ("HTTP/1.0", text("HTTP/1.0 101 X\r\n\r\n"), plain(), Protocol, None, "HTTP version"),
        ("not HTTP", text("SSH-2.0-canary\r\n\r\n"), plain(), Protocol, None, "httparse"),
        ("nothing", text(""), plain(), Protocol, None, "Handshake not finished"),
        ("half", text("HTTP/1.1 101 X\r\nupg"), plain(), Protocol, None, "Handshake not finished"),
        ("endless head", text(endless), plain(), Protocol, None, "too long"),
        ("200 headers", text(headers), plain(), Protocol, None, "Too many headers"),
    ];
    let prober = prober();
    let mut wrong = Vec::new();
    for (name, answer, options, reason, code, told) in rows {
        let server = answering(answer).await;
        let seen = see(&prober, &at(&server), &options).await;
        let right = seen.outcome == Outcome::Fail(reason) && seen.code == code && detail(&seen).contains(told);
        if !right || detail(&seen).contains("canary") {
            wrong.push(format!("{name}: {reason:?} {code:?} {told:?} expected, {seen:?} seen"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_what_it_is() {
    let prober = prober();
    let seen = see(&prober, &format!("ws://{}/", Server::nobody().await), &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Connect), "{seen:?}");
    let seen = see(&prober, "ws://nowhere.test/", &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Dns), "{seen:?}");
    let blackhole = Server::blackhole().await;
    let seen = see_within(&prober, &at(&blackhole), SHORT, &json!({})).await;
    assert_eq!(detail(&seen), "timed out after 300 ms while connecting", "{seen:?}");
    let silent = Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await;
    let seen = see_within(&prober, &at(&silent), SHORT, &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout), "{seen:?}");
    assert_eq!(detail(&seen), "timed out after 300 ms while waiting for the answer");
    let seen = see_within(&prober, &format!("wss://{}/", silent.address), SHORT, &json!({})).await;
    assert_eq!(detail(&seen), "timed out after 300 ms while in the tls handshake", "{seen:?}");
    let reset = Server::raw(|stream| async move { stream.set_zero_linger().expect("a socket") }).await;
    let seen = see(&prober, &at(&reset), &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Protocol), "{seen:?}");
}

#[tokio::test]
async fn certificates_are_judged_before_anything_is_asked() {
    let authority = Authority::new();
    let prober = prober_of(&authority);
    let none = json!({"websocket": {"tls": {"verify": "none"}, "send": "x", "expect": "echo: x"}});
    let days = json!({"expect": {"certificate": {"days": 90}}});
    for (identity, options, outcome, told) in [
        (authority.good(), json!({}), Outcome::Pass, ""),
        (authority.good(), json!({"websocket": {"ping": {}, "send": "x", "expect": "echo: x"}}), Outcome::Pass, ""),
        (authority.sign("other.test", 2100), json!({}), Outcome::Fail(FailReason::Certificate), "not valid for name"),
        (authority.sign("mail.test", 2021), json!({}), Outcome::Fail(FailReason::Certificate), "expired"),
        (Authority::new().good(), json!({}), Outcome::Fail(FailReason::Certificate), "invalid peer certificate"),
        (authority.sign("mail.test", 2100), days, Outcome::Fail(FailReason::Certificate), "at least 90 days left"),
        (authority.sign("other.test", 2021), none, Outcome::Pass, ""),
    ] {
        let server = secure(&identity).await;
        let seen = see(&prober, &format!("wss://mail.test:{}/", server.address.port()), &options).await;
        assert_eq!(seen.outcome, outcome, "{options}: {seen:?}");
        assert!(detail(&seen).contains(told), "{options}: {seen:?}");
        assert!(seen.certificate_expires.is_some() && seen.phases.tls_us.is_some(), "{seen:?}");
    }
    let plain = echo().await;
    let seen = see(&prober, &format!("wss://mail.test:{}/", plain.address.port()), &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Tls), "{seen:?}");
}

#[tokio::test]
async fn the_request_is_what_the_settings_say() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::raw(move |mut stream| {
        let tell = tell.clone();
        async move {
            let Some(request) = read_head(&mut stream).await else { return };
            stream.write_all(&consent(&request, "sec-websocket-protocol: talk\r\n")).await.ok();
            tell.send(request).expect("somebody listens");
            wait_for_end(&mut stream).await;
        }
    })
    .await;
    let options = json!({"websocket": {
        "headers": {"Origin": "https://shop.test", "authorization": "Bearer x"}, "host": "feed.test:81",
        "subprotocols": ["chat", "talk"],
    }});
    let url = format!("ws://{}/a/b?room=1#here", server.address);
    let probe = probe_of(settings(&url, PATIENCE, &options));
    let inspection = prober().inspect(&probe).await;
    assert_eq!((inspection.seen.outcome, inspection.seen.code), (Outcome::Pass, Some(101)), "{inspection:?}");
    assert!(inspection.facts.iter().any(|fact| &*fact.what == "subprotocol" && &*fact.value == "talk"));
    let request = told.recv().await.expect("a request");
    assert!(request.starts_with("GET /a/b?room=1 HTTP/1.1\r\n"), "{request}");
    for (name, value) in [
        ("host", "feed.test:81"),
        ("origin", "https://shop.test"),
        ("authorization", "Bearer x"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, talk"),
    ] {
        assert_eq!(header(&request, name), Some(value), "{request}");
    }
    assert_eq!(header(&request, "sec-websocket-extensions"), None, "nothing is compressed");
}
