//! HTTP/2, agreed on in the handshake or spoken without asking.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Outcome},
};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::{
    support::{OK, PATIENCE, Server, detail, probe_of, prober, read_request, see, see_within, settings, wait_for_end},
    tls::{Authority, Identity, at, params, serve_with},
};

/// What a server saw: method, scheme, authority, path, headers, body.
type Seen = Arc<Mutex<Vec<String>>>;

async fn answer_two(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seen: Seen) {
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let mut said = format!("{} {}", parts.method, parts.uri);
            for (name, value) in &parts.headers {
                said += &format!("\n{name}: {}", String::from_utf8_lossy(value.as_bytes()));
            }
            seen.lock().expect("not poisoned").push(format!("{said}\n\n{}", String::from_utf8_lossy(&body)));
            let redirect = parts.uri.path() == "/away";
            let response = Response::builder().status(if redirect { 302 } else { 200 }).header("location", "/");
            Ok::<_, Infallible>(response.body(Full::new(Bytes::from_static(b"pong"))).expect("a response"))
        }
    });
    // A client that has seen enough goes away.
    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await.ok();
}

async fn serve_two() -> (Server, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    (Server::raw(move |stream| answer_two(stream, Arc::clone(&noted))).await, seen)
}

/// A server over TLS that agrees to what is in `alpn`, and speaks HTTP/2 if that comes of it.
async fn serve_secure(identity: &Identity, alpn: &[&str]) -> (Server, Seen) {
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], key)
        .expect("a certificate");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let server = Server::raw(move |stream| {
        let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                return answer_two(stream, noted).await;
            }
            while read_request(&mut stream).await.is_some() && stream.write_all(OK).await.is_ok() {}
        }
    })
    .await;
    (server, seen)
}

fn over(version: &str) -> Value {
    json!({"http": {"version": version}})
}

#[tokio::test]
async fn without_tls_it_is_spoken_without_asking() {
    let (server, asked) = serve_two().await;
    let options = json!({
        "http": {"version": "2", "method": "POST", "body": "ping", "host": "shop.test:81", "headers": {"x-key": "abc"}},
        "expect": {"version": "2", "body": "pong", "size": 4},
    });
    let seen = see(&prober(), &format!("{}a?b", server.url()), options).await;
    assert_eq!((seen.outcome, seen.code), (Outcome::Pass, Some(200)), "{seen:?}");
    assert!(seen.phases.first_byte_us.is_some());
    let asked = asked.lock().expect("not poisoned").clone();
    assert!(asked[0].starts_with("POST http://shop.test:81/a?b\n"), "{asked:?}");
    assert!(asked[0].contains("\nx-key: abc\n") && asked[0].ends_with("\n\nping"), "{asked:?}");
    assert!(!asked[0].contains("\nhost: ") && !asked[0].contains("\nconnection: "), "{asked:?}");
}

#[tokio::test]
async fn over_tls_it_is_what_both_agree_to() {
    let authority = Authority::new();
    let identity = authority.sign(&params("shop.test"));
    for (offered, wanted, spoken) in [
        (&["h2", "http/1.1"][..], "2", "2"),
        (&["h2", "http/1.1"], "any", "2"),
        (&["http/1.1"], "any", "1.1"),
        (&[], "any", "1.1"),
        (&["h2", "http/1.1"], "1.1", "1.1"),
    ] {
        let (server, _) = serve_secure(&identity, offered).await;
        let mut options = over(wanted);
        options["expect"] = json!({"version": spoken});
        let seen = see(&authority.prober(), &at(&server, "shop.test"), options).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{offered:?} {wanted}: {seen:?}");
        assert!(seen.certificate_expires.is_some());
    }
}

#[tokio::test]
async fn a_server_that_does_not_agree_is_a_failure_that_says_so() {
    let authority = Authority::new();
    let identity = authority.sign(&params("shop.test"));
    let (server, _) = serve_secure(&identity, &[]).await;
    let seen = see(&authority.prober(), &at(&server, "shop.test"), over("2")).await;
    assert_eq!(
        (seen.outcome, detail(&seen)),
        (Outcome::Fail(FailReason::Protocol), "the server did not agree to speak HTTP/2")
    );
    let (server, _) = serve_secure(&identity, &["http/1.1"]).await;
    let seen = see(&authority.prober(), &at(&server, "shop.test"), over("2")).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Tls), "{seen:?}");
    let server = serve_with(super::tls::acceptor(&identity, rustls::ALL_VERSIONS), OK.to_vec()).await;
    assert_eq!(see(&authority.prober(), &at(&server, "shop.test"), over("any")).await.outcome, Outcome::Pass);
}

#[tokio::test]
async fn it_redirects_and_keeps_its_connection_like_http_1() {
    let (server, asked) = serve_two().await;
    let seen = see(&prober(), &format!("{}away", server.url()), over("2")).await;
    assert_eq!((seen.outcome, asked.lock().expect("not poisoned").len()), (Outcome::Pass, 2), "{seen:?}");
    let prober = prober();
    let (server, asked) = serve_two().await;
    for _ in 0..3 {
        let options = json!({"http": {"version": "2", "connection": "keep_alive"}});
        assert_eq!(see(&prober, &server.url(), options).await.outcome, Outcome::Pass);
    }
    assert_eq!((server.accepted(), asked.lock().expect("not poisoned").len()), (1, 3));
}

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends `head` and then `more` over and over, whatever it is told.
async fn flooding(head: Vec<u8>, more: Vec<u8>) -> Server {
    let (head, more) = (Arc::new(head), Arc::new(more));
    Server::raw(move |stream| {
        let (head, more) = (Arc::clone(&head), Arc::clone(&more));
        async move {
            let (mut from, mut to) = stream.into_split();
            let reading = tokio::spawn(async move { wait_for_end(&mut from).await });
            if to.write_all(&head).await.is_ok() {
                while !more.is_empty() && to.write_all(&more).await.is_ok() {}
            }
            reading.await.ok();
        }
    })
    .await
}

#[tokio::test]
async fn sec_hostile_servers_are_bounded_and_on_time() {
    let settings = |rest: &[u8]| [SETTINGS, rest].concat();
    let short = Duration::from_millis(500);
    let status_200 = frame(1, 4, 1, &[0x88]);
    for (name, head, more) in [
        ("silence", settings(&[]), Vec::new()),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Vec::new()),
        ("pings", settings(&[]), frame(6, 0, 0, &[7; 8]).repeat(100)),
        ("settings", settings(&[]), SETTINGS.repeat(100)),
        ("resets", settings(&[]), frame(3, 0, 1, &[0, 0, 0, 8])),
        ("continuations", settings(&frame(1, 0, 1, &[0x88])), frame(9, 0, 1, &[0; 16]).repeat(100)),
        ("a huge frame", settings(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]), vec![0; 16_384]),
        ("a body without end", settings(&status_200), frame(0, 0, 1, &[b'x'; 16_384])),
        ("empty data", settings(&status_200), frame(0, 0, 1, &[]).repeat(100)),
        (
            "goaway",
            settings(&frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11, b'c', b'a', b'n', b'a', b'r', b'y'])),
            Vec::new(),
        ),
    ] {
        let server = flooding(head, more).await;
        // A flood is cut off long before the deadline.
        let (reason, timeout) =
            if name == "silence" { (FailReason::Timeout, short) } else { (FailReason::Protocol, PATIENCE) };
        let (prober, begun) = (prober(), Instant::now());
        let seen = see_within(&prober, &server.url(), timeout, over("2")).await;
        assert!(begun.elapsed() < timeout + Duration::from_secs(3), "{name}: took {:?}", begun.elapsed());
        assert_eq!(seen.outcome, Outcome::Fail(reason), "{name}: {seen:?}");
        assert!(!detail(&seen).chars().any(char::is_control), "{name}: {seen:?}");
    }
}

#[tokio::test]
async fn dropping_a_probe_closes_its_socket_and_leaves_no_task() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let server = Server::raw(move |mut stream| {
        let (asked, count) = (asked.clone(), Arc::clone(&count));
        async move {
            stream.write_all(SETTINGS).await.expect("sent");
            asked.send(()).await.ok();
            wait_for_end(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (prober, probe) = (prober(), probe_of(settings(&server.url(), PATIENCE, &over("2"))));
    tokio::select! {
        seen = prober.probe(&probe) => panic!("no answer was given, yet {seen:?}"),
        asked = was_asked.recv() => assert!(asked.is_some()),
    }
    let gone = async {
        while ended.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the socket is still open");
    assert!(tokio::runtime::Handle::current().metrics().num_alive_tasks() <= before + 1, "the server's own at most");
}
