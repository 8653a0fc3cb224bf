//! What a prober must withstand: each test turns red when its guard is removed.

use std::{
    io,
    sync::{Arc, Mutex},
};

use healthmon_adapters::{
    grpc::{GrpcProber, GrpcProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
};
use healthmon_core::{
    ports::Prober,
    probe::{DETAIL_LIMIT, FailReason, IndeterminateReason, Outcome},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;
use tracing_subscriber::fmt::MakeWriter;

use super::{
    frames::{END_STREAM, GOAWAY, Raw, SETTINGS, frame, grpc_head, head, serving, trailers},
    support::{Backend, Names, PATIENCE, detail, dialer, probe_of, prober, see, settings},
};

const BLOCKED: Outcome = Outcome::Indeterminate(IndeterminateReason::Blocked);

fn strict() -> GrpcProber {
    let dialer = dialer(AddressPolicy::new(Loopback::Refused));
    GrpcProber::new(GrpcProberConfig { dialer, ..Default::default() }).expect("a prober")
}

#[tokio::test]
async fn sec_no_form_of_a_special_address_is_dialled() {
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "0xa9fea9fe",
        "%31%32%37.0.0.1",
        "[::1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]",
        "[fe80::1]",
    ] {
        for scheme in ["grpc", "grpcs"] {
            let seen = see(&strict(), &format!("{scheme}://{host}:1/"), json!({})).await;
            assert_eq!((seen.outcome, seen.phases.connect_us), (BLOCKED, None), "{host}: {seen:?}");
            assert!(detail(&seen).starts_with("the address policy refuses "), "{host}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn sec_a_refused_loopback_address_or_name_makes_no_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let inside = Arc::new(Names(Some(address.ip())));
    let dialer = Dialer::new(AddressPolicy::new(Loopback::Refused)).with_resolver(inside);
    let config = GrpcProberConfig { dialer: Arc::new(dialer), ..Default::default() };
    let prober = GrpcProber::new(config).expect("a prober");
    for host in ["127.0.0.1", "inside.test"] {
        let seen = see(&prober, &format!("grpc://{host}:{}/", address.port()), json!({})).await;
        assert_eq!(seen.outcome, BLOCKED, "{host}: {seen:?}");
    }
    let own = TcpStream::connect(address).await.expect("it listens");
    let (_, first) = listener.accept().await.expect("a connection");
    assert_eq!(first, own.local_addr().expect("connected"), "somebody had connected before");
}

#[tokio::test]
async fn sec_only_grpc_schemes_are_taken() {
    let prober = prober();
    assert_eq!(prober.schemes(), ["grpc", "grpcs"]);
    for url in ["http://127.0.0.1:1/", "file://host/etc/passwd", "ftp://127.0.0.1:1/"] {
        let settings = settings(url, PATIENCE, &json!({}));
        assert!(prober.check(&settings).is_err(), "{url}");
        let seen = prober.probe(&probe_of(settings)).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Unsupported), "{url}");
    }
}

/// What a logger writes.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The servers run on other threads, so that the log is of the prober alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sec_metadata_is_in_no_detail_and_no_log_even_when_the_server_repeats_it() {
    let repeating = Backend::answering(|_| Err(Status::unauthenticated("no such token: canary-canary"))).await;
    let goaway = [&[0, 0, 0, 0, 0, 0, 0, 11][..], b"Bearer canary-canary"].concat();
    let rude = Raw::saying_and_closing([frame(SETTINGS, 0, 0, &[]), frame(GOAWAY, 0, 0, &goaway)].concat()).await;
    let typed = Raw::saying(head("200", END_STREAM, &[("content-type", b"canary-canary")])).await;
    let options = json!({"grpc": {"metadata": {"authorization": "Bearer canary-canary", "x-bin": "Y2FuYXJ5"}}});
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let subscriber: Arc<dyn tracing::Subscriber + Send + Sync> = Arc::new(subscriber);
    // First without a log: h2 itself writes a peer's GOAWAY text into its debug log.
    let mut logged = None;
    for url in [rude.url(), repeating.url(""), typed.url()] {
        let probe = probe_of(settings(&url, PATIENCE, &options));
        let looked = prober().inspect(&probe).await;
        assert!(matches!(looked.seen.outcome, Outcome::Fail(_)), "{looked:?}");
        let shown = format!("{:?} {:?} {:?}", looked.seen, looked.facts, looked.assertions);
        assert!(shown.contains("***"), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("Y2FuYXJ5"), "{shown}");
        let begin = || tracing::subscriber::set_default(Arc::clone(&subscriber));
        logged.get_or_insert_with(begin);
    }
    drop(logged);
    assert_eq!(repeating.arrived()[0].header("authorization"), Some("Bearer canary-canary"));
    let log = String::from_utf8_lossy(&log.0.lock().expect("not poisoned")).into_owned();
    assert!(!log.is_empty(), "it is at TRACE, and something is logged");
    assert!(!log.contains("canary") && !log.contains("Y2FuYXJ5"), "{log}");
}

#[tokio::test]
async fn sec_a_servers_message_is_escaped_and_capped() {
    let hostile = "\u{1b}[31mred\r\nforged: line\0\u{202e}rlo\u{7}";
    let server = Backend::answering(move |_| Err(Status::internal(hostile))).await;
    let seen = see(&prober(), &server.url(""), json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Status), "{seen:?}");
    assert!(!detail(&seen).chars().any(|c| c.is_control() || c == '\u{202e}'), "{seen:?}");
    assert!(detail(&seen).contains("forged: line"), "{seen:?}");
    let long = Backend::answering(|_| Err(Status::internal("x".repeat(8_000)))).await;
    let seen = see(&prober(), &long.url(""), json!({})).await;
    assert_eq!(seen.code, Some(13), "{seen:?}");
    assert!(detail(&seen).chars().count() <= 240 && detail(&seen).chars().count() <= DETAIL_LIMIT, "{seen:?}");
}

#[tokio::test]
async fn sec_status_details_that_are_no_base64_crash_nothing() {
    let details: &[(&str, &[u8])] = &[("grpc-status", b"13"), ("grpc-status-details-bin", b"!not base64!")];
    let fields = [&[("content-type", &b"application/grpc"[..])], details].concat();
    for answer in [head("200", END_STREAM, &fields), [grpc_head(&[]), serving(), trailers(details)].concat()] {
        let server = Raw::saying(answer).await;
        let seen = see(&prober(), &server.url(), json!({})).await;
        assert_eq!((seen.outcome, seen.code), (Outcome::Fail(FailReason::Status), Some(13)), "{seen:?}");
    }
}

#[tokio::test]
async fn sec_a_server_cannot_hide_a_secret_in_the_closer_look() {
    let repeating = Backend::answering(|_| Err(Status::unauthenticated("canary-canary"))).await;
    for server in [Backend::real(None).await, repeating] {
        let options = json!({"grpc": {"metadata": {"authorization": "canary-canary"}}});
        let probe = probe_of(settings(&server.url(""), PATIENCE, &options));
        let looked = format!("{:?}", prober().inspect(&probe).await);
        assert!(looked.contains("grpc status") && !looked.contains("canary"), "{looked}");
    }
}
