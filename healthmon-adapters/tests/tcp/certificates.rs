//! `tls://`: handshakes and certificates, right and wrong.

use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Outcome},
};
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::{
    peers::{Then, saying, tls},
    support::{
        Authority, Identity, PATIENCE, SHORT, Server, acceptor, detail, probe_of, see, see_within, settings,
        wait_for_end,
    },
};

async fn serve(acceptor: TlsAcceptor) -> Server {
    saying(&[], Then::Tls(acceptor, &["", "pong\r\n"])).await
}

fn at(server: &Server) -> String {
    format!("tls://mail.test:{}", server.address.port())
}

struct Row {
    name: &'static str,
    identity: Identity,
    options: Value,
    outcome: Outcome,
    told: &'static str,
}

fn rows(authority: &Authority) -> Vec<Row> {
    let row = |name, identity, options, outcome, told| Row { name, identity, options, outcome, told };
    let certificate = Outcome::Fail(FailReason::Certificate);
    let soon = || authority.sign("mail.test", 2100);
    vec![
        row("good", authority.good(), json!({}), Outcome::Pass, ""),
        row("wrong name", authority.sign("other.test", 2100), json!({}), certificate, "not valid for name"),
        row("expired", authority.sign("mail.test", 2021), json!({}), certificate, "expired"),
        row("unknown issuer", Authority::new().good(), json!({}), certificate, "invalid peer certificate"),
        row("another root", authority.good(), json!({"tls": {"ca": Authority::new().pem}}), certificate, "invalid"),
        row(
            "another name asked for",
            authority.sign("other.test", 2100),
            json!({"tls": {"server_name": "other.test"}}),
            Outcome::Pass,
            "",
        ),
        row("not verified", Authority::new().good(), json!({"tls": {"verify": "none"}}), Outcome::Pass, ""),
        row("days left", soon(), json!({"expect": {"certificate": {"days": 30}}}), Outcome::Pass, ""),
        row(
            "too few days left",
            soon(),
            json!({"expect": {"certificate": {"days": 90}}}),
            certificate,
            "certificate: expected at least 90 days left, got 4",
        ),
        row(
            "few days left",
            soon(),
            json!({"expect": {"certificate": {"days": 30, "degraded_days": 90}}}),
            Outcome::Slow,
            "certificate: expected at least 90 days left, got 4",
        ),
        row("answer", authority.good(), json!({"tls": {"send": "ping", "expect": "pong"}}), Outcome::Pass, ""),
        row(
            "another answer",
            authority.good(),
            json!({"tls": {"send": "ping", "expect": {"prefix": "canary"}}}),
            Outcome::Fail(FailReason::Assertion),
            "answer: expected to begin with \"canary\", got something else",
        ),
    ]
}

#[tokio::test]
async fn every_certificate_is_judged_and_its_expiry_is_told() {
    let authority = Authority::new();
    let prober = tls(authority.tls());
    for Row { name, identity, options, outcome, told } in rows(&authority) {
        let server = serve(acceptor(&identity, rustls::ALL_VERSIONS, &[])).await;
        let seen = see(&prober, &at(&server), &options).await;
        assert_eq!(seen.outcome, outcome, "{name}: {seen:?}");
        assert!(detail(&seen).contains(told), "{name}: {seen:?}");
        assert!(seen.certificate_expires.is_some() && seen.phases.tls_us.is_some(), "{name}");
    }
}

#[tokio::test]
async fn version_and_application_protocol_are_assertions() {
    let authority = Authority::new();
    let prober = tls(authority.tls());
    let assertion = Outcome::Fail(FailReason::Assertion);
    let cases = [
        (&TLS13, json!({"version": "1.3"}), Outcome::Pass, ""),
        (&TLS13, json!({"version": "1.2", "alpn": "h2"}), Outcome::Pass, ""),
        (&TLS12, json!({"version": "1.2"}), Outcome::Pass, ""),
        (&TLS12, json!({"version": "1.3"}), assertion, "tls version: expected at least 1.3, got 1.2"),
        (&TLS13, json!({"alpn": "imap"}), assertion, "application protocol: expected imap, got h2"),
        (
            &TLS12,
            json!({"version": "1.3", "alpn": "imap"}),
            assertion,
            "tls version: expected at least 1.3, got 1.2; application protocol: expected imap, got h2",
        ),
    ];
    for (version, expected, outcome, told) in cases {
        let server = serve(acceptor(&authority.good(), &[version], &["h2", "imap"])).await;
        let options = json!({"tls": {"alpn": ["imap", "h2"]}, "expect": {"tls": expected}});
        let seen = see(&prober, &at(&server), &options).await;
        assert_eq!((seen.outcome, detail(&seen)), (outcome, told), "{options}: {seen:?}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_none_of_the_protocols_is_a_tls_failure_and_one_that_does_not_say_an_assertion() {
    let authority = Authority::new();
    let prober = tls(authority.tls());
    let options = json!({"tls": {"alpn": ["imap"]}, "expect": {"tls": {"alpn": "imap"}}});
    let server = serve(acceptor(&authority.good(), rustls::ALL_VERSIONS, &["h2"])).await;
    let seen = see(&prober, &at(&server), &options).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Tls), "{seen:?}");
    let server = serve(acceptor(&authority.good(), rustls::ALL_VERSIONS, &[])).await;
    let seen = see(&prober, &at(&server), &options).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion), "{seen:?}");
    assert_eq!(detail(&seen), "application protocol: expected imap, got none");
}

#[tokio::test]
async fn what_is_no_tls_is_a_tls_failure() {
    let prober = tls(Authority::new().tls());
    let said: [&'static [&'static [u8]]; 4] =
        [&[b"220 mail.test ESMTP\r\n"], &[b""], &[b"\x16\x03\x01\x7f\x7f garbage"], &[b"\x15\x03\x01\x00\x02\x02\x28"]];
    for said in said {
        let server = saying(said, Then::Close).await;
        let seen = see(&prober, &at(&server), &json!({})).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Tls), "{said:?}: {seen:?}");
        assert!(detail(&seen).starts_with("tls handshake: "), "{said:?}: {seen:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_what_it_is() {
    let prober = tls(Authority::new().tls());
    let seen = see(&prober, &format!("tls://{}", Server::nobody().await), &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Connect), "{seen:?}");
    let blackhole = Server::blackhole().await;
    let seen = see_within(&prober, &at(&blackhole), SHORT, &json!({})).await;
    assert_eq!(detail(&seen), "timed out after 300 ms while connecting", "{seen:?}");
    let hanging = saying(&[], Then::Hang).await;
    let seen = see_within(&prober, &at(&hanging), SHORT, &json!({})).await;
    assert_eq!(detail(&seen), "timed out after 300 ms while in the tls handshake", "{seen:?}");
    let seen = see(&prober, "tls://nowhere.test:443", &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Dns), "{seen:?}");
}

#[tokio::test]
async fn the_session_is_ended_by_the_book() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority.good(), rustls::ALL_VERSIONS, &[]);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::raw(move |stream| {
        let (acceptor, tell) = (acceptor.clone(), tell.clone());
        async move {
            let mut stream = acceptor.accept(stream).await.expect("a handshake");
            // Zero is the end by a close notification; without one it would be an error.
            tell.send(stream.read(&mut [0; 16]).await.map_err(|error| error.kind())).expect("somebody listens");
            stream.shutdown().await.ok();
            wait_for_end(&mut stream).await;
        }
    })
    .await;
    let seen = see(&tls(authority.tls()), &at(&server), &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    assert_eq!(told.recv().await, Some(Ok(0)));
}

#[tokio::test]
async fn a_closer_look_shows_the_session_and_the_certificate() {
    let authority = Authority::new();
    let server = serve(acceptor(&authority.good(), &[&TLS13], &["imap"])).await;
    let options = json!({"tls": {"alpn": ["imap"]}, "expect": {"tls": {"version": "1.3", "alpn": "imap"}}});
    let probe = probe_of(settings(&at(&server), PATIENCE, &options));
    let inspection = tls(authority.tls()).inspect(&probe).await;
    assert_eq!(inspection.seen.outcome, Outcome::Pass, "{inspection:?}");
    for (what, value) in [("tls", "TLSv1_3"), ("application protocol", "imap"), ("certificate names", "mail.test")] {
        let found = inspection.facts.iter().any(|fact| &*fact.what == what && &*fact.value == value);
        assert!(found, "{what}: {inspection:?}");
    }
    let made: Vec<_> = inspection.assertions.iter().map(|made| (&*made.what, &*made.seen)).collect();
    assert_eq!(made, [("tls version", "1.3"), ("application protocol", "imap")]);
}
