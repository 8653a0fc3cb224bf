//! What the probers must withstand: each test turns red when its guard is removed.

use healthmon_adapters::{
    net::Loopback,
    secrets::{Secrets, VARIABLE_PREFIX},
    tcp::TcpProber,
    tls::TlsProber,
};
use healthmon_core::{
    ports::Prober,
    probe::{DETAIL_LIMIT, IndeterminateReason, Observation, Outcome},
};
use serde_json::json;

use super::{
    peers::{Then, plain, saying, tcp, tls},
    support::{Authority, PATIENCE, Server, acceptor, detail, dialer, probe_of, see, settings, wait_for_end},
};

const BLOCKED: Outcome = Outcome::Indeterminate(IndeterminateReason::Blocked);

/// Every way to write an address that no probe may reach unless it is allowed by name. The URL
/// parser leaves them as they are in such schemes, so that the prober must see through them.
const FORBIDDEN: &[&str] = &[
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "%31%32%37.0.0.1",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "169.254.169.254",
    "0xa9fea9fe",
    "224.0.0.1",
    "255.255.255.255",
    "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1",
    "127%E3%80%820%E3%80%820%E3%80%821",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "mail.test",
];

#[tokio::test]
async fn sec_no_form_of_a_special_address_is_dialled() {
    let server = Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await;
    let port = server.address.port();
    let (tls, secrets) = (Authority::new().tls(), Secrets::default());
    let tcp = TcpProber::new(dialer(Loopback::Refused), tls.clone(), secrets.clone());
    let tls = TlsProber::new(dialer(Loopback::Refused), tls, secrets);
    for host in FORBIDDEN {
        for (prober, scheme) in [(&tcp as &dyn Prober, "tcp"), (&tls as &dyn Prober, "tls")] {
            let seen = see(prober, &format!("{scheme}://{host}:{port}"), &json!({})).await;
            assert_eq!(seen.outcome, BLOCKED, "{scheme}://{host}: {seen:?}");
            assert_eq!(seen.phases.connect_us, None, "{host}");
            assert!(detail(&seen).starts_with("the address policy refuses "), "{host}: {seen:?}");
        }
    }
    assert_eq!(server.accepted(), 0);
}

/// A peer that has been told a secret before can have it in its certificate, whose names are told.
#[tokio::test]
async fn sec_no_secret_is_told_that_a_certificate_repeats() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority.sign("canary.test", 2100), rustls::ALL_VERSIONS, &[]);
    let direct = saying(&[], Then::Tls(acceptor.clone(), &["220 hello\r\n"])).await;
    let later = saying(&[b"220 hello\r\n", b"250 STARTTLS\r\n", b"220 go\r\n"], Then::Tls(acceptor, &[])).await;
    for (send, encoding) in [("PASS canary.test\r\n", "text"), ("Y2FuYXJ5LnRlc3Q=", "base64")] {
        for verify in ["full", "none"] {
            let mut section = json!({"verify": verify, "send": send, "encoding": encoding});
            let direct = (format!("tls://mail.test:{}", direct.address.port()), json!({"tls": section}));
            section = json!({"tls": {"verify": verify}, "starttls": "smtp", "send": send, "encoding": encoding});
            let later = (format!("tcp://mail.test:{}", later.address.port()), json!({"tcp": section}));
            let (tcp, tls) = (tcp(authority.tls()), tls(authority.tls()));
            for ((url, options), prober) in [(direct, &tls as &dyn Prober), (later, &tcp as &dyn Prober)] {
                let inspection = prober.inspect(&probe_of(settings(&url, PATIENCE, &options))).await;
                let told = format!("{inspection:?}");
                assert!(told.contains("***") && !told.contains("canary"), "{url} {options}: {told}");
                let seen = see(prober, &url, &options).await;
                assert_eq!(seen.outcome, inspection.seen.outcome, "{url} {options}: {seen:?}");
                assert!(!detail(&seen).contains("canary"), "{url} {options}: {seen:?}");
            }
        }
    }
}

/// Our own words are no secrets because they were sent as well.
#[tokio::test]
async fn why_there_is_no_connection_is_told_whole() {
    let nobody = Server::nobody().await;
    let send = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    let probe = probe_of(settings(&format!("tcp://{nobody}"), PATIENCE, &json!({"tcp": {"send": send}})));
    let inspection = plain().inspect(&probe).await;
    let told = detail(&inspection.seen);
    assert!(told.starts_with(&format!("connect to {nobody}: Connection refused")), "{told}");
}

#[tokio::test]
async fn sec_only_their_own_schemes_are_taken() {
    let (tls, secrets) = (Authority::new().tls(), Secrets::default());
    let tcp = TcpProber::new(dialer(Loopback::Allowed), tls.clone(), secrets.clone());
    let tls = TlsProber::new(dialer(Loopback::Allowed), tls, secrets);
    assert_eq!((tcp.schemes(), tls.schemes()), (&["tcp"][..], &["tls"][..]));
    let server = Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await;
    for scheme in ["http", "gopher", "unix"] {
        let settings = settings(&format!("{scheme}://127.0.0.1:{}/", server.address.port()), PATIENCE, &json!({}));
        for prober in [&tcp as &dyn Prober, &tls] {
            assert!(prober.check(&settings).is_err(), "{scheme}");
            let seen = prober.probe(&probe_of(settings.clone())).await;
            assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Unsupported), "{scheme}");
        }
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn sec_what_is_sent_and_what_is_answered_is_never_shown() {
    let cases: &[&'static [&'static [u8]]] =
        &[&[b"", b"canary canary\r\n"], &[b"canary\r\n", b"canary"], &[b"canary"], &[b"", b"canary\x1b[31mcanary"]];
    for says in cases {
        for expect in [json!("another"), json!({"prefix": "another"}), json!({"regex": "another"})] {
            let server = saying(says, Then::Close).await;
            let options = json!({"tcp": {"send": "canary\r\n", "expect": expect}});
            let probe = probe_of(settings(&format!("tcp://{}", server.address), PATIENCE, &options));
            let inspection = plain().inspect(&probe).await;
            assert!(matches!(inspection.seen.outcome, Outcome::Fail(_)), "{inspection:?}");
            assert!(!format!("{inspection:?}").contains("canary"), "{inspection:?}");
        }
    }
}

#[tokio::test]
async fn sec_a_secret_that_cannot_be_had_says_nothing_of_the_target_and_nothing_is_sent() {
    let server = saying(&[b""], Then::Hang).await;
    for (send, told) in [
        (json!({"env": format!("{VARIABLE_PREFIX}NOWHERE")}), "the variable HEALTHMON_SECRET_NOWHERE is not set"),
        (json!({"file": "nowhere"}), "no folder of secrets is set"),
        (json!({"sealed": "canary"}), "the secret is sealed"),
    ] {
        let options = json!({"tcp": {"send": send, "expect": "x"}});
        let seen = see(&*plain(), &format!("tcp://{}", server.address), &options).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Secret), "{seen:?}");
        assert!(detail(&seen).contains(told) && !detail(&seen).contains("canary"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_secret_from_a_file_is_what_is_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ping"), "50494e47\n").expect("written");
    let secrets = Secrets::of_environment(Some(folder.path().to_owned()));
    let prober = TcpProber::new(dialer(Loopback::Allowed), Authority::new().tls(), secrets);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::raw(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut got = [0; 4];
            if tokio::io::AsyncReadExt::read_exact(&mut stream, &mut got).await.is_ok() {
                tell.send(got).expect("somebody listens");
            }
        }
    })
    .await;
    let options = json!({"tcp": {"send": {"file": "ping"}, "encoding": "hex"}});
    let seen = see(&prober, &format!("tcp://{}", server.address), &options).await;
    assert_eq!((seen.outcome, told.recv().await), (Outcome::Pass, Some(*b"PING")), "{seen:?}");
    let text = json!({"tcp": {"send": {"file": "ping"}, "encoding": "base64"}});
    std::fs::write(folder.path().join("ping"), "canary!").expect("written");
    let seen = see(&prober, &format!("tcp://{}", server.address), &text).await;
    assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Secret), "{seen:?}");
    assert_eq!(detail(&seen), "what is to be sent must be base64, with padding");
}

fn assert_harmless(seen: &Observation) {
    let shown = detail(seen);
    assert!(!shown.is_empty() && !shown.chars().any(char::is_control), "{shown:?}");
    assert!(shown.chars().count() <= DETAIL_LIMIT, "{} characters", shown.chars().count());
}

#[tokio::test]
async fn sec_control_characters_are_escaped_wherever_they_come_from() {
    let banner: &[&[u8]] = &[b"\x1b[2J\0\x07220 \x1b]0;owned\x07\r\n", b"\x1b[31m\0\r\n"];
    for options in [
        json!({"tcp": {"expect": "\u{1b}[31mred\u{7}"}}),
        json!({"tcp": {"expect": {"regex": "\u{1b}\\[32m"}}}),
        json!({"tcp": {"expect": {"prefix": "\r\nforged: line"}}}),
        json!({"tcp": {"starttls": "smtp"}}),
        json!({"tcp": {"starttls": "imap"}}),
        json!({"tcp": {"starttls": "pop3"}}),
        json!({"tcp": {"starttls": "ftp"}}),
        json!({"tcp": {"starttls": "postgres"}}),
        json!({"tcp": {"starttls": "ldap"}}),
    ] {
        let server = saying(banner, Then::Close).await;
        let seen = see(&*plain(), &format!("tcp://{}", server.address), &options).await;
        assert!(matches!(seen.outcome, Outcome::Fail(_)), "{seen:?}");
        assert_harmless(&seen);
        assert!(!detail(&seen).contains("owned"), "{seen:?}");
    }
}
