//! What the prober must withstand: each test turns red when its guard is removed.

use std::{
    io,
    sync::{Arc, Mutex},
};

use healthmon_adapters::{net::Loopback, secrets::Secrets, websocket::WebSocketProber};
use healthmon_core::{
    ports::Prober,
    probe::{IndeterminateReason, Outcome},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use super::{
    peers::{answering, echo, prober, prober_of, secure, sending},
    support::{Authority, PATIENCE, Server, detail, dialer, probe_of, see, settings, wait_for_end},
};

#[tokio::test]
async fn sec_no_form_of_a_special_address_is_dialled() {
    let server = Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await;
    let port = server.address.port();
    let prober = WebSocketProber::new(dialer(Loopback::Refused), Authority::new().tls(), Secrets::default());
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "%31%32%37.0.0.1",
        "0",
        "169.254.169.254",
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[fe80::1]",
        "mail.test",
    ] {
        for scheme in ["ws", "wss"] {
            let seen = see(&prober, &format!("{scheme}://{host}:{port}/"), &json!({})).await;
            assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Blocked), "{host}: {seen:?}");
            assert_eq!(seen.phases.connect_us, None, "{host}");
        }
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn sec_redirects_are_not_followed() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = elsewhere.local_addr().expect("bound");
    let location = format!("HTTP/1.1 302 Found\r\nlocation: ws://{address}/\r\n\r\n");
    let server = answering(move |_| location.clone().into_bytes()).await;
    let seen = see(&prober(), &format!("ws://{}/", server.address), &json!({})).await;
    assert_eq!(detail(&seen), "expected status 101, got 302");
    let own = TcpStream::connect(address).await.expect("it listens");
    let (_, first) = elsewhere.accept().await.expect("a connection");
    assert_eq!(first, own.local_addr().expect("connected"), "somebody had connected before");
}

#[tokio::test]
async fn sec_a_secret_that_cannot_be_had_says_nothing_of_the_target_and_no_connection_is_made() {
    let server = echo().await;
    for options in [
        json!({"websocket": {"headers": {"authorization": {"env": "HEALTHMON_SECRET_NOWHERE"}}}}),
        json!({"websocket": {"send": {"file": "nowhere"}}}),
        json!({"websocket": {"send": {"sealed": "canary"}}}),
    ] {
        let seen = see(&prober(), &format!("ws://{}/", server.address), &options).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Secret), "{seen:?}");
        assert!(!detail(&seen).contains("canary"), "{seen:?}");
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn sec_a_secret_that_is_no_header_is_told_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "canary\u{1b}").expect("written");
    let secrets = Secrets::of_environment(Some(folder.path().to_owned()));
    let prober = WebSocketProber::new(dialer(Loopback::Allowed), Authority::new().tls(), secrets);
    let options = json!({"websocket": {"headers": {"authorization": {"file": "token"}}}});
    let seen = see(&prober, "ws://mail.test/", &options).await;
    assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Secret), "{seen:?}");
    assert!(detail(&seen).contains("authorization") && !detail(&seen).contains("canary"), "{seen:?}");
}

#[tokio::test]
async fn sec_neither_messages_nor_secrets_nor_reasons_are_returned() {
    let servers = [
        echo().await,
        sending(b"\x81\x06canary", b"").await,
        sending(b"\x88\x08\x03\xf0canary", b"").await,
        sending(b"\x88\x0a\x03\xf0\x1b[2J\x1b[2J", b"").await,
        answering(|_| b"HTTP/1.1 500 canary\r\nx-canary: canary\r\n\r\ncanary".to_vec()).await,
        answering(|_| b"canary canary canary\r\n\r\n".to_vec()).await,
    ];
    for server in servers {
        let options = json!({"websocket": {
            "headers": {"authorization": "canary"}, "send": "canary", "expect": "another", "ping": {"within": "100ms"},
        }});
        let probe = probe_of(settings(&format!("ws://{}/", server.address), PATIENCE / 20, &options));
        let inspection = prober().inspect(&probe).await;
        assert!(matches!(inspection.seen.outcome, Outcome::Fail(_)), "{inspection:?}");
        assert!(!format!("{inspection:?}").contains("canary"), "{inspection:?}");
        assert!(!detail(&inspection.seen).chars().any(char::is_control), "{inspection:?}");
    }
}

/// A peer that has been told a secret before can have it in its certificate, whose names are told.
#[tokio::test]
async fn sec_no_secret_is_told_that_a_certificate_repeats() {
    let authority = Authority::new();
    let server = secure(&authority.sign("canary.test", 2100)).await;
    let url = format!("wss://mail.test:{}/", server.address.port());
    for options in [
        json!({"headers": {"authorization": "Bearer canary.test"}}),
        // canary:canary.test
        json!({"headers": {"authorization": "Basic Y2FuYXJ5OmNhbmFyeS50ZXN0"}}),
        json!({"send": r#"{"password": "canary.test"}"#}),
    ] {
        for verify in ["full", "none"] {
            let mut section = options.clone();
            section["tls"] = json!({"verify": verify});
            let probe = probe_of(settings(&url, PATIENCE, &json!({"websocket": section})));
            let inspection = prober_of(&authority).inspect(&probe).await;
            let told = format!("{inspection:?}");
            assert!(told.contains("***") && !told.contains("canary"), "{section}: {told}");
            let seen = prober_of(&authority).probe(&probe).await;
            assert_eq!(seen.outcome, inspection.seen.outcome, "{section}: {seen:?}");
            assert!(!detail(&seen).contains("canary"), "{section}: {seen:?}");
        }
    }
}

/// Keeps all that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The library writes whole requests and messages to the log, hexadecimal and as text, at its lowest level.
#[tokio::test]
async fn sec_the_lowest_level_of_the_log_holds_no_secret() {
    let log = Log::default();
    let layer = tracing_subscriber::fmt::layer().with_writer(log.clone());
    // Of this thread, and so of this test; takes the records of the `log` crate too, which is what the
    // library writes.
    let _heard = tracing_subscriber::registry().with(EnvFilter::new("trace")).with(layer).set_default();
    log::info!("the log is heard");
    let options = json!({"websocket": {
        "headers": {"authorization": "Bearer sparrow"}, "send": "sparrow", "expect": "echo: sparrow", "ping": {"within": "100ms"},
    }});
    // A server in this process would log what it gets: this one is answered by hand.
    let server = sending(b"\x81\x0decho: sparrow", b"").await;
    let seen = see(&prober(), &format!("ws://{}/", server.address), &options).await;
    let logged = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(logged.contains("the log is heard"), "{logged}");
    assert!(!logged.contains("sparrow") && !logged.contains("73706172726f77"), "{seen:?} {logged}");
    assert!(matches!(seen.outcome, Outcome::Fail(_)), "nobody answers the ping: {seen:?}");
}
