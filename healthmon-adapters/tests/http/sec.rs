//! What a prober must withstand: each test turns red when its guard is removed.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Loopback},
};
use healthmon_core::{
    ports::Prober,
    probe::{DETAIL_LIMIT, FailReason, IndeterminateReason, Observation, Outcome},
    service::{InvalidTarget, Target},
};
use rcgen::{Certificate, CertificateParams, CustomExtension, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use url::Host;

use super::support::{
    Names, OK, PATIENCE, Server, answer, detail, dialer, header, inspect, policy_of_one, probe_of, prober, prober_with,
    see, settings,
};

const BLOCKED: Outcome = Outcome::Indeterminate(IndeterminateReason::Blocked);

/// Addresses that no probe may reach unless they are allowed by name, in every disguise.
const FORBIDDEN: &[&str] = &[
    "127.0.0.1",
    "127.1",
    "127.255.255.254",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "0",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.0.1",
    "0xa9fea9fe",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
    "127\u{3002}0\u{3002}0\u{3002}1",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::0]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:0.0.0.0]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[::a9fe:a9fe]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:0:7f00:1::f7f7:f7f7]",
    "[2001::80ff:fffe]",
    "[2001:0:4136:e378:8000:63bf:5601:5601]",
    "[fe80::1]",
    "[fe80::5efe:127.0.0.1]",
    "[2001:db8::5efe:7f00:1]",
    "[2001:db8::200:5efe:7f00:1]",
    "[ff02::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "[fd00:42::42]",
    "[fd00:c1::a9fe:a9fe]",
    "[fd00:a9fe:a9fe::1]",
    "[fd00:100::100:200]",
];

#[tokio::test]
async fn sec_no_form_of_a_special_address_is_dialled() {
    let prober = prober_with(dialer(AddressPolicy::new(Loopback::Refused)));
    for host in FORBIDDEN {
        let seen = see(&prober, &format!("http://{host}:1/"), json!({})).await;
        assert_eq!(seen.outcome, BLOCKED, "{host}: {seen:?}");
        assert_eq!(seen.phases.connect_us, None, "{host}");
        assert!(detail(&seen).starts_with("the address policy refuses "), "{host}: {seen:?}");
    }
}

#[test]
fn sec_public_and_private_addresses_pass_the_filter() {
    let policy = AddressPolicy::new(Loopback::Refused);
    let controls = [
        "8.8.8.8",
        "1.1.1.1",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "223.255.255.255",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "192.0.2.1",
        "[2606:4700:4700::1111]",
        "[2001:4860:4860::8888]",
        "[2001:db8::1]",
        "[fd12:3456::1]",
        "[fdff::1]",
        "[::ffff:8.8.8.8]",
        "[64:ff9b::8.8.8.8]",
        "[2002:808:808::1]",
        "[2001:0:808:808::f7f7:f7f7]",
    ];
    for control in controls {
        let url = format!("http://{control}/").parse::<Target>().expect("a target").url();
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            other => panic!("{control} is read as {other:?}"),
        };
        assert_eq!(policy.judge(address), Ok(()), "{control}");
    }
}

#[tokio::test]
async fn sec_what_the_one_parser_takes_for_the_host_is_what_is_dialled() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen_by_resolver = Arc::clone(&asked);
    let resolver = Names(Box::new(move |host| {
        seen_by_resolver.lock().expect("not poisoned").push(host.to_owned());
        Vec::new()
    }));
    let prober = prober_with(dialer(AddressPolicy::default()).with_resolver(Arc::new(resolver)));
    for (url, host) in [
        ("http://example.org#@169.254.169.254/", "example.org"),
        ("http://example.org?@169.254.169.254/", "example.org"),
        ("http://example.org\\@169.254.169.254/", "example.org"),
        ("http://169.254.169.254.example.org/", "169.254.169.254.example.org"),
        ("http://EXAMPLE.org./", "example.org."),
    ] {
        let seen = see(&prober, url, json!({})).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Dns), "{url}: {seen:?}");
        assert_eq!(asked.lock().expect("not poisoned").pop().as_deref(), Some(host), "{url}");
    }
    for url in
        ["http://169.254.169.254#@example.org/", "http://169.254.169.254/@example.org", "http://169.254.169.254\t/"]
    {
        assert_eq!(see(&prober, url, json!({})).await.outcome, BLOCKED, "{url}");
    }
    for url in ["http://a.com:p@169.254.169.254/", "http://a.com@169.254.169.254/"] {
        assert_eq!(url.parse::<Target>(), Err(InvalidTarget::Credentials), "{url}");
    }
}

#[tokio::test]
async fn sec_only_http_schemes_are_taken() {
    for url in ["file:///etc/passwd", "file://localhost/etc/passwd"] {
        assert!(url.parse::<Target>().is_err(), "{url}");
    }
    let prober = prober();
    assert_eq!(prober.schemes(), ["http", "https"]);
    for url in ["file://host/etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "javascript://a/%0aalert(1)"] {
        let settings = settings(url, PATIENCE, &json!({}));
        let errors = prober.check(&settings).expect_err("not a scheme of this prober");
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["url"], "{url}");
        let seen = prober.probe(&probe_of(settings)).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Unsupported), "{url}");
    }
}

/// Asserts that nobody but this test has ever connected to `listener`.
async fn assert_untouched(listener: TcpListener) {
    let own = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let (_, first) = listener.accept().await.expect("a connection");
    assert_eq!(first, own.local_addr().expect("connected"), "somebody had connected before");
}

async fn redirecting_from_the_second(location: String) -> Server {
    let redirect = answer(302, &format!("location: {location}\r\n"), "");
    Server::answering_on("127.0.0.2:0".parse().expect("an address"), move |_| redirect.clone()).await
}

#[tokio::test]
async fn sec_a_redirect_inside_makes_no_connection() {
    let prober = prober_with(dialer(policy_of_one()).with_resolver(Names::all_at("127.0.0.1")));
    for host in ["127.0.0.1", "[::ffff:127.0.0.1]", "0x7f000001", "inside.test", "u:p@127.0.0.1"] {
        let inside = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = inside.local_addr().expect("bound").port();
        let server = redirecting_from_the_second(format!("http://{host}:{port}/admin")).await;
        let seen = see(&prober, &server.url(), json!({})).await;
        assert_eq!(seen.outcome, BLOCKED, "{host}: {seen:?}");
        assert!(detail(&seen).starts_with("redirected to http://"), "{host}: {seen:?}");
        assert_eq!((server.accepted(), seen.code), (1, Some(302)));
        assert_untouched(inside).await;
    }
}

#[tokio::test]
async fn sec_a_redirect_to_a_metadata_address_makes_no_connection() {
    let prober = prober_with(dialer(policy_of_one()));
    // Two of them are refused as link-local, too, unless that network is allowed.
    for host in
        ["169.254.169.254", "169.254.170.2", "169.254.170.23", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "2852039166"]
    {
        let server = redirecting_from_the_second(format!("http://{host}/latest/meta-data?token=canary")).await;
        let seen = see(&prober, &server.url(), json!({})).await;
        assert_eq!(seen.outcome, BLOCKED, "{host}: {seen:?}");
        assert!(detail(&seen).ends_with(": cloud metadata") && !detail(&seen).contains("canary"), "{seen:?}");
    }
}

/// Two listeners on one port: of 127.0.0.2, which is allowed, and of 127.0.0.1, which is not.
async fn allowed_and_forbidden() -> (Server, TcpListener) {
    loop {
        let server = Server::answering_on("127.0.0.2:0".parse().expect("an address"), |_| OK.to_vec()).await;
        let forbidden = TcpSocket::new_v4().expect("a socket");
        if forbidden.bind(SocketAddr::new("127.0.0.1".parse().expect("an address"), server.address.port())).is_ok() {
            return (server, forbidden.listen(16).expect("a listener"));
        }
    }
}

#[tokio::test]
async fn sec_a_rebinding_name_never_leads_to_a_forbidden_address() {
    let (server, forbidden) = allowed_and_forbidden().await;
    let answers = AtomicUsize::new(0);
    let flip = Names(Box::new(move |_| {
        let (good, bad) = ("127.0.0.2".parse().expect("an address"), "127.0.0.1".parse().expect("an address"));
        match answers.fetch_add(1, Ordering::SeqCst) % 3 {
            0 => vec![good],
            1 => vec![bad],
            _ => vec![bad, good],
        }
    }));
    let prober = prober_with(dialer(policy_of_one()).with_resolver(Arc::new(flip)));
    let url = format!("http://rebind.test:{}/", server.address.port());
    for round in 0..12 {
        let seen = see(&prober, &url, json!({})).await;
        let expected = if round % 3 == 1 { BLOCKED } else { Outcome::Pass };
        assert_eq!(seen.outcome, expected, "{round}: {seen:?}");
    }
    assert_eq!(server.accepted(), 8);
    assert_untouched(forbidden).await;
}

#[tokio::test]
async fn sec_configured_headers_go_to_the_targets_own_origin_only() {
    let home_port = Arc::new(AtomicUsize::new(0));
    let port = Arc::clone(&home_port);
    let elsewhere = Server::answering(move |_| {
        let home = port.load(Ordering::SeqCst);
        answer(302, &format!("location: http://127.0.0.1:{home}/back\r\n"), "")
    })
    .await;
    let away = elsewhere.url();
    let home = Server::answering(move |request| match request.split(' ').nth(1) {
        Some("/back") => OK.to_vec(),
        _ => answer(302, &format!("location: {away}\r\n"), ""),
    })
    .await;
    home_port.store(home.address.port().into(), Ordering::SeqCst);
    let options = json!({"http": {"host": "shop.test", "headers": {"authorization": "Bearer canary"}}});
    let seen = see(&prober(), &home.url(), options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    let [first, back] = &home.requests()[..] else { panic!("two requests at home") };
    assert_eq!(header(first, "authorization"), Some("Bearer canary"));
    let other = &elsewhere.requests()[0];
    assert!(!other.contains("canary") && !back.contains("canary"), "{other} {back}");
    assert_eq!(header(other, "host"), Some(elsewhere.address.to_string().as_str()));
}

#[tokio::test]
async fn sec_a_posted_body_is_not_sent_on_to_another_origin() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let location = format!("location: http://{}/\r\n", elsewhere.local_addr().expect("bound"));
    let server = Server::answering(move |_| answer(307, &location, "")).await;
    let options = json!({"http": {"method": "POST", "body": "password=canary"}});
    let seen = see(&prober(), &server.url(), options).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Redirect), "{seen:?}");
    assert_untouched(elsewhere).await;
}

#[tokio::test]
async fn sec_neither_bodies_nor_secrets_are_returned() {
    let answers = [
        answer(200, "set-cookie: canary\r\nx-canary: canary\r\n", "canary"),
        answer(500, "", "canary"),
        answer(302, "location: /canary?canary\r\n", "canary"),
        answer(302, "location: http://canary:canary@127.0.0.1:1/canary?canary#canary\r\n", "canary"),
        answer(302, "location: canary://canary\r\n", "canary"),
        b"HTTP/1.1 500 canary\r\n\r\n".to_vec(),
        b"canary canary canary\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ncanary\r\ncanary".to_vec(),
    ];
    for (at, bytes) in answers.into_iter().enumerate() {
        let server = Server::sending(bytes).await;
        let options = json!({
            "http": {"headers": {"x-token": "canary"}, "method": "POST", "body": "canary"},
            "expect": {"body": "another"},
        });
        let seen = see(&prober(), &server.url(), options).await;
        assert_ne!(seen.outcome, Outcome::Pass, "{at}");
        let shown = format!("{seen:?}").replace("\\\"canary\\\" url", "");
        assert!(!shown.contains("canary"), "{at}: {shown}");
    }
}

/// What a terminal or a reader's eye would obey, and how it is to be shown.
const OBEYED: &[(&str, &str)] = &[
    ("\u{1b}[2J", "\\u{1b}[2J"),
    ("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}"),
    ("\r\nforged: line", "\\r\\nforged: line"),
    ("\0", "\\u{0}"),
    ("\u{7f}", "\\u{7f}"),
    ("\u{85}\u{9b}31m", "\\u{85}\\u{9b}31m"),
    ("\u{61c}\u{200e}\u{200f}", "\\u{61c}\\u{200e}\\u{200f}"),
    ("\u{2028}\u{2029}", "\\u{2028}\\u{2029}"),
    ("\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}", "\\u{202a}\\u{202b}\\u{202c}\\u{202d}\\u{202e}"),
    ("\u{2066}\u{2067}\u{2068}\u{2069}", "\\u{2066}\\u{2067}\\u{2068}\\u{2069}"),
];

fn assert_harmless(seen: &Observation) {
    let shown = detail(seen);
    let obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!shown.is_empty() && !shown.chars().any(obeyed), "{shown:?}");
    assert!(shown.chars().count() <= DETAIL_LIMIT, "{} characters", shown.chars().count());
}

/// Guarded twice, as texts of an answer are also quoted where they are put in: this fails only when
/// both guards are gone. The next test is about the escaping alone.
#[tokio::test]
async fn sec_control_characters_of_an_answer_are_escaped() {
    let answers = [
        b"HTTP/1.1 503 \x1b[31mred\x07\r\n\r\n".to_vec(),
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\x1b[2J\r\n\r\n".to_vec(),
        answer(302, "location: x\u{1b}://a\r\n", ""),
        answer(200, "content-encoding: \u{1b}]0;owned\u{7}\r\n", ""),
        answer(200, "content-encoding: \u{202e}rlo\r\n", ""),
        answer(200, "content-encoding: \u{85}\u{9b}31m\r\n", ""),
    ];
    for bytes in answers {
        let server = Server::sending(bytes).await;
        let seen = see(&prober(), &server.url(), json!({"expect": {"body": "x"}})).await;
        assert!(matches!(seen.outcome, Outcome::Fail(_)), "{seen:?}");
        assert_harmless(&seen);
    }
}

/// A certificate for `name`, which may be any text at all and must be shorter than 126 bytes.
fn certificate_for(name: &str) -> (Certificate, KeyPair) {
    let mut params = CertificateParams::default();
    // subjectAltName by hand, as no honest tool writes such a one: a sequence of one dNSName.
    let length = u8::try_from(name.len()).ok().filter(|length| *length < 126).expect("a short name");
    let content = [&[0x30, length + 2, 0x82, length], name.as_bytes()].concat();
    params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], content));
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate"), key)
}

/// A server that shows this certificate, and a prober that trusts it for the name that is in it.
async fn showing(certificate: &Certificate, key: &KeyPair) -> (Server, HttpProber) {
    let der = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = Server::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            assert!(acceptor.accept(stream).await.is_err(), "the certificate is for another name");
        }
    });
    let dialer = dialer(AddressPolicy::new(Loopback::Allowed)).with_resolver(Names::all_at("127.0.0.1"));
    let config =
        HttpProberConfig { dialer: dialer.into(), extra_roots: certificate.pem().into(), ..Default::default() };
    (server.await, HttpProber::new(config).expect("a prober"))
}

/// rustls repeats the names of a certificate as they are, so nothing but the detail's own escaping
/// stands between them and whoever reads it.
#[tokio::test]
async fn sec_control_characters_of_a_certificate_are_escaped() {
    for (name, escaped) in OBEYED {
        let (certificate, key) = certificate_for(name);
        let (server, prober) = showing(&certificate, &key).await;
        let seen = see(&prober, &format!("https://shop.test:{}/", server.address.port()), json!({})).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Certificate), "{seen:?}");
        assert_harmless(&seen);
        assert!(detail(&seen).contains(escaped), "{name:?} is shown as {escaped}: {seen:?}");
    }
}

/// Six characters for one: what would fit as it came does not when it is escaped.
#[tokio::test]
async fn sec_escaped_details_are_cut_to_the_limit() {
    let (certificate, key) = certificate_for(&"\u{1b}".repeat(125));
    let (server, prober) = showing(&certificate, &key).await;
    let seen = see(&prober, &format!("https://shop.test:{}/", server.address.port()), json!({})).await;
    assert_harmless(&seen);
    assert!(detail(&seen).contains("\\u{1b}\\u{1b}") && detail(&seen).ends_with('…'), "{seen:?}");
}

/// The canary in every place whose text is told of an answer.
fn parrot(address: &str, heard: &str) -> Vec<u8> {
    let path = heard.split(' ').nth(1).unwrap_or_default().to_owned();
    let canary = "Canary-Quill";
    let body = r#"{"number": 4711471147114711, "text": "Canary-Quill"}"#;
    match path.as_str() {
        "/away" => answer(302, &format!("location: http://{address}/{canary}/{canary}\r\n"), ""),
        "/elsewhere" => answer(302, &format!("location: http://{canary}.test/\r\n"), ""),
        "/scheme" => answer(302, &format!("location: {canary}://x/\r\n"), ""),
        "/encoding" => answer(200, &format!("content-encoding: {canary}\r\n"), body),
        _ => answer(
            200,
            // Quoted it is cut after 64 characters, in the middle of the last one.
            &format!(
                "x-heard: {canary} {}\r\nx-long: {} \\\"{canary}\r\n\
                 content-type: text/{canary}\r\nserver: {}{canary}\r\nlocation: /{canary}?{canary}\r\n",
                header(heard, "authorization").unwrap_or_default(),
                "x".repeat(57),
                "y".repeat(122),
            ),
            body,
        ),
    }
}

#[tokio::test]
async fn sec_no_secret_is_told_that_a_target_repeats() {
    let places = [
        json!({"headers": {"x-key": "Canary-Quill", "x-number": "4711471147114711"}}),
        json!({"headers": {"x-quote": "\\\"Canary-Quill", "authorization": "Bearer Canary-Quill", "x-number": "4711471147114711"}}),
        json!({"auth": {"basic": {"username": "owner", "password": "Canary-Quill"}}, "headers": {"x-number": "4711471147114711"}}),
        json!({"auth": {"bearer": {"token": "Canary-Quill"}}, "headers": {"x-number": "4711471147114711"}}),
        // owner:Canary-Quill
        json!({"headers": {"authorization": "Basic b3duZXI6Q2FuYXJ5LVF1aWxs", "x-number": "4711471147114711"}}),
        json!({"method": "POST", "body": "{\"a\": \"Canary-Quill\", \"b\": 4711471147114711}"}),
    ];
    let expect = json!({
        "header": {"x-heard": "another", "x-long": "another", "content-type": "another", "location": "another"},
        "url": "http://another.test/", "json": {"$.number": 1, "$.text": "another"}, "body": "another",
    });
    let prober = prober();
    for http in places {
        let server = Server::answering(|heard| parrot(header(heard, "host").unwrap_or_default(), heard)).await;
        for path in ["", "away", "elsewhere", "scheme", "encoding"] {
            let mut options = json!({"http": http, "expect": expect});
            if path == "encoding" {
                options["expect"] = json!({"body": "another"});
            }
            let seen = inspect(&prober, &format!("{}{path}", server.url()), options).await;
            let told = format!("{seen:?}").to_lowercase();
            assert!(matches!(seen.seen.outcome, Outcome::Fail(_)), "{seen:?}");
            assert!(told.contains("***"), "{http} {path}: the target repeated nothing: {told}");
            // Cut first and then looked through, four letters of it would be left.
            // (The number is longer than any figure that is measured, which it might meet by chance.)
            for piece in ["cana", "quill", "4711471147", "b3duzxi6"] {
                assert!(!told.contains(piece), "{http} {path}: {piece} in {told}");
            }
        }
    }
}
