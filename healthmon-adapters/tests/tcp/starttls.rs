//! STARTTLS by peers that do as they should, and by peers that do not.

use std::sync::Arc;

use healthmon_core::probe::{FailReason, Outcome};
use serde_json::json;

use super::{
    peers::{Then, plain, saying, tcp},
    support::{Authority, PATIENCE, SHORT, acceptor, detail, see, see_within},
};

type Says = &'static [&'static [u8]];

/// What the consent of each protocol looks like, from the greeting on.
const CONSENT: &[(&str, Says)] = &[
    ("smtp", &[b"220-a\r\n220 b\r\n", b"250-me\r\n250-StartTLS\r\n250 HELP\r\n", b"220 go on\r\n"]),
    ("imap", &[b"* OK hello\r\n", b"* CAPABILITY IMAP4rev1\r\nh1 OK go on\r\n"]),
    ("pop3", &[b"+OK hello\r\n", b"+OK go on\r\n"]),
    ("ftp", &[b"220-a\r\nanything\r\n 220 not yet\r\n220 b\r\n", b"234 go on\r\n"]),
    ("postgres", &[b"", b"S"]),
    ("ldap", &[b"", b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00"]),
];

#[tokio::test]
async fn with_consent_the_handshake_follows_and_the_dialogue_goes_on_behind_it() {
    let authority = Authority::new();
    let prober = tcp(authority.tls());
    for (protocol, says) in CONSENT {
        let acceptor = acceptor(&authority.good(), rustls::ALL_VERSIONS, &[]);
        let server = saying(says, Then::Tls(acceptor, &["", "pong"])).await;
        let options = json!({
            "tcp": {"starttls": protocol, "send": "ping", "expect": {"prefix": "pong"}},
            "expect": {"tls": {"version": "1.3"}, "certificate": {"days": 365}},
        });
        let seen = see(&prober, &format!("tcp://mail.test:{}", server.address.port()), &options).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{protocol}: {seen:?}");
        assert!(seen.phases.tls_us.is_some() && seen.phases.first_byte_us.is_some(), "{protocol}");
        assert_eq!(seen.certificate_expires, "2200-01-01T00:00:00Z".parse().ok());
    }
}

#[tokio::test]
async fn sec_what_comes_in_plain_behind_the_consent_is_refused() {
    // CVE-2011-0411 and its kin: whoever stands between puts commands or answers behind the consent,
    // to be taken for what came over TLS.
    let authority = Authority::new();
    let prober = tcp(authority.tls());
    let injected: &[(&str, Says)] = &[
        ("smtp", &[b"220 a\r\n", b"250-me\r\n250 STARTTLS\r\n", b"220 go on\r\n250 injected\r\n"]),
        ("smtp", &[b"220 a\r\n", b"250-me\r\n250 STARTTLS\r\n", b"220 go on\r\n2"]),
        ("imap", &[b"* OK hello\r\n", b"h1 OK go on\r\n* PREAUTH injected\r\n"]),
        ("pop3", &[b"+OK hello\r\n", b"+OK go on\r\n+OK injected\r\n"]),
        ("ftp", &[b"220 a\r\n", b"234 go on\r\n230 injected\r\n"]),
        ("postgres", &[b"", b"SE"]),
        ("ldap", &[b"", b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00\x30"]),
    ];
    for (protocol, says) in injected {
        let acceptor = acceptor(&authority.good(), rustls::ALL_VERSIONS, &[]);
        let server = saying(says, Then::Tls(acceptor, &["injected"])).await;
        let options = json!({"tcp": {"starttls": protocol, "expect": "injected"}});
        let seen = see(&prober, &format!("tcp://mail.test:{}", server.address.port()), &options).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Protocol), "{protocol}: {seen:?}");
        assert!(detail(&seen).starts_with("bytes came in plain behind the consent"), "{protocol}: {seen:?}");
        assert_eq!(seen.phases.tls_us, None, "{protocol}");
    }
}

#[tokio::test]
async fn sec_a_peer_that_answers_before_it_is_asked_is_refused() {
    let says: &[(&str, Says)] = &[
        ("smtp", &[b"220 a\r\n250-me\r\n250 STARTTLS\r\n220 go on\r\n"]),
        ("pop3", &[b"+OK hello\r\n+OK go on\r\n"]),
        ("imap", &[b"* OK hello\r\nh1 OK go on\r\n"]),
        ("ftp", &[b"220 a\r\n234 go on\r\n"]),
    ];
    for (protocol, says) in says {
        let server = saying(says, Then::Hang).await;
        let options = json!({"tcp": {"starttls": protocol}});
        let seen = see(&*plain(), &format!("tcp://{}", server.address), &options).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Protocol), "{protocol}: {seen:?}");
        assert_eq!(detail(&seen), "the peer answered before it was asked", "{protocol}");
    }
}

struct Row {
    protocol: &'static str,
    says: Says,
    reason: FailReason,
    code: Option<u16>,
    told: &'static str,
}

fn row(protocol: &'static str, says: Says, reason: FailReason, code: u16, told: &'static str) -> Row {
    Row { protocol, says, reason, code: Some(code).filter(|code| *code > 0), told }
}

fn rows() -> Vec<Row> {
    use FailReason::{NotServing, Protocol, Status, Unimplemented};
    const EHLO: &[u8] = b"250-me\r\n250 STARTTLS\r\n";
    const OVERLONG: &[u8] = &[b'x'; 5000];
    vec![
        row("smtp", &[b"220 a\r\n", EHLO, b"454 canary\r\n"], Unimplemented, 454, "it answered STARTTLS with 454"),
        row("smtp", &[b"220 a\r\n", EHLO, b"502 canary\r\n"], Unimplemented, 502, "it answered STARTTLS with 502"),
        row("smtp", &[b"220 a\r\n", b"250-me\r\n250 HELP\r\n"], Unimplemented, 250, "not among what it lists"),
        row("smtp", &[b"220 a\r\n", b"250-me\r\n250 STARTTLSX\r\n"], Unimplemented, 250, "not among what it lists"),
        row("smtp", &[b"220 a\r\n", b"550 canary\r\n"], Status, 550, "its answer to EHLO is 550"),
        row("smtp", &[b"220 a\r\n", b"421 canary\r\n"], NotServing, 421, "it answered EHLO with 421"),
        row("smtp", &[b"220 a\r\n", EHLO, b"421 canary\r\n"], NotServing, 421, "it answered STARTTLS with 421"),
        row("smtp", &[b"554 canary\r\n"], NotServing, 554, "its greeting is 554"),
        row("smtp", &[b"421-canary\r\n421 canary\r\n"], NotServing, 421, "its greeting is 421"),
        row("smtp", &[b"501 canary\r\n"], Status, 501, "its greeting is 501"),
        row("smtp", &[b"SSH-2.0-canary\r\n"], Protocol, 0, "the answer is not smtp"),
        row("smtp", &[b"999 canary\r\n"], Protocol, 0, "the answer is not smtp"),
        row("smtp", &[b"22\r\n"], Protocol, 0, "the answer is not smtp"),
        row("smtp", &[b"\r\n"], Protocol, 0, "the answer is not smtp"),
        row("smtp", &[b"220"], Protocol, 0, "the connection was closed within a line"),
        row("smtp", &[b""], Protocol, 0, "the connection was closed before a line came"),
        row("smtp", &[OVERLONG], Protocol, 0, "a line is longer than 4096 bytes"),
        row("imap", &[b"* BYE canary\r\n"], NotServing, 0, "its greeting is BYE"),
        row("imap", &[b"* PREAUTH canary\r\n"], Unimplemented, 0, "its greeting is PREAUTH"),
        row("imap", &[b"* OKAY\r\n"], Protocol, 0, "the greeting is not imap"),
        row("imap", &[b"220 canary\r\n"], Protocol, 0, "the greeting is not imap"),
        row("imap", &[b"* OK\r\n", b"h1 NO canary\r\n"], Unimplemented, 0, "with NO"),
        row("imap", &[b"* OK\r\n", b"* OK wait\r\nh1 BAD canary\r\n"], Unimplemented, 0, "with BAD"),
        row("imap", &[b"* OK\r\n", b"* BYE canary\r\n"], NotServing, 0, "with BYE"),
        row("imap", &[b"* OK\r\n", b"h2 OK canary\r\n"], Protocol, 0, "the answer to STARTTLS is not imap"),
        row("pop3", &[b"-ERR canary\r\n"], NotServing, 0, "its greeting is -ERR"),
        row("pop3", &[b"* OK canary\r\n"], Protocol, 0, "the greeting is not pop3"),
        row("pop3", &[b"+OK\r\n", b"-ERR canary\r\n"], Unimplemented, 0, "it answered STLS with -ERR"),
        row("pop3", &[b"+OK\r\n", b"canary\r\n"], Protocol, 0, "the answer to STLS is not pop3"),
        row("ftp", &[b"220 a\r\n", b"530 canary\r\n"], Unimplemented, 530, "it answered AUTH TLS with 530"),
        row("ftp", &[b"220 a\r\n", b"421 canary\r\n"], NotServing, 421, "it answered AUTH TLS with 421"),
        row("ftp", &[b"120 canary\r\n"], NotServing, 120, "its greeting is 120"),
        row("ftp", &[b"530 canary\r\n"], Status, 530, "its greeting is 530"),
        row("ftp", &[b"* OK canary\r\n"], Protocol, 0, "the answer is not ftp"),
        row("postgres", &[b"", b"N"], Unimplemented, 0, "it has no tls"),
        row("postgres", &[b"", b"E\0\0\0\x0fScanary\0"], NotServing, 0, "it answered with an error"),
        row("postgres", &[b"", b"HTTP/1.1 400 canary\r\n"], Protocol, 0, "the answer is not postgres"),
        row("postgres", &[b""], Protocol, 0, "the connection was closed without an answer"),
        row(
            "ldap",
            &[b"", b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00"],
            Unimplemented,
            2,
            "result is 2",
        ),
        row("ldap", &[b"", b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x34\x04\x00\x04\x00"], Unimplemented, 52, "is 52"),
        row("ldap", &[b"", b"\x30\x0c\x02\x01\x00\x78\x07\x0a\x01\x34\x04\x00\x04\x00"], NotServing, 52, "result 52"),
        row("ldap", &[b"", b"\x30\x0c\x02\x01\x07\x78\x07\x0a\x01\x00\x04\x00\x04\x00"], Protocol, 0, "is not ldap"),
        row("ldap", &[b"", b"\x30\x84\xff\xff\xff\xff"], Protocol, 0, "the answer is not ldap"),
        row("ldap", &[b"", b"\x30\x0c\x02\x01"], Protocol, 0, "the answer is not ldap"),
        row("ldap", &[b"", b"HTTP/1.1 400 canary\r\n"], Protocol, 0, "the answer is not ldap"),
    ]
}

#[tokio::test]
async fn every_refusal_is_told_as_what_it_is_and_no_text_of_the_peer_is_repeated() {
    let prober = plain();
    let mut wrong = Vec::new();
    for Row { protocol, says, reason, code, told } in rows() {
        let server = saying(says, Then::Close).await;
        let options = json!({"tcp": {"starttls": protocol}});
        let seen = see(&*prober, &format!("tcp://{}", server.address), &options).await;
        let right = seen.outcome == Outcome::Fail(reason) && detail(&seen).contains(told);
        if !right || detail(&seen).contains("canary") || (code.is_some() && seen.code != code) {
            wrong.push(format!("{protocol}: {reason:?} {code:?} {told:?} expected, {seen:?} seen"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_peer_that_consents_and_has_no_tls_is_a_tls_failure() {
    for (protocol, says) in CONSENT {
        let (mut closing, mut hanging) = (Vec::new(), Vec::new());
        for (then, timeout, seen) in [(Then::Close, PATIENCE, &mut closing), (Then::Hang, SHORT, &mut hanging)] {
            let server = saying(says, then).await;
            let options = json!({"tcp": {"starttls": protocol}});
            seen.push(see_within(&*plain(), &format!("tcp://{}", server.address), timeout, &options).await);
        }
        assert_eq!(closing[0].outcome, Outcome::Fail(FailReason::Tls), "{protocol}: {closing:?}");
        assert_eq!(hanging[0].outcome, Outcome::Fail(FailReason::Timeout), "{protocol}: {hanging:?}");
        assert_eq!(detail(&hanging[0]), "timed out after 300 ms while in the tls handshake", "{protocol}");
    }
}

#[tokio::test]
async fn a_greeting_that_never_comes_says_what_was_waited_for() {
    let server = saying(&[b"220-a\r\n220-"], Then::Hang).await;
    let options = json!({"tcp": {"starttls": "smtp"}});
    let seen = see_within(&*plain(), &format!("tcp://{}", server.address), SHORT, &options).await;
    assert_eq!(detail(&seen), "timed out after 300 ms while asking for tls", "{seen:?}");
}

#[tokio::test]
async fn a_certificate_behind_starttls_is_judged_by_the_services_own_settings() {
    let (authority, other) = (Authority::new(), Authority::new());
    let prober = Arc::new(tcp(authority.tls()));
    let cases = [
        (authority.sign("other.test", 2100), json!({}), false),
        (authority.sign("mail.test", 2021), json!({}), false),
        (other.good(), json!({}), false),
        (other.good(), json!({"ca": other.pem}), true),
        (authority.sign("other.test", 2100), json!({"server_name": "other.test"}), true),
        (authority.sign("other.test", 2021), json!({"verify": "none"}), true),
    ];
    for (identity, tls, good) in cases {
        let acceptor = acceptor(&identity, rustls::ALL_VERSIONS, &[]);
        let server = saying(CONSENT[0].1, Then::Tls(acceptor, &[])).await;
        let options = json!({"tcp": {"starttls": "smtp", "tls": tls}});
        let seen = see(&*prober, &format!("tcp://mail.test:{}", server.address.port()), &options).await;
        let expected = if good { Outcome::Pass } else { Outcome::Fail(FailReason::Certificate) };
        assert_eq!(seen.outcome, expected, "{options}: {seen:?}");
        assert!(seen.certificate_expires.is_some(), "{options}");
    }
}
