//! Real handshakes with certificates made for the test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback, tls::TlsSetupError},
};
use healthmon_core::{
    probe::{FailReason, Observation, Outcome},
    time::Timestamp,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use super::support::{
    Names, OK, PATIENCE, Server, answer, detail, inspect, prober, read_request, see, see_within, wait_for_end,
};

const EXPIRES: &str = "2100-01-02T00:00:00Z";

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { pem: certificate.pem(), certificate: certificate.der().clone(), key }
    }

    pub(crate) fn prober(&self) -> HttpProber {
        let dialer = Dialer::new(AddressPolicy::new(Loopback::Allowed)).with_resolver(Names::all_at("127.0.0.1"));
        let extra_roots = self.pem.clone().into_bytes();
        HttpProber::new(HttpProberConfig { dialer: dialer.into(), extra_roots, ..Default::default() })
            .expect("a prober")
    }
}

pub(crate) struct Identity {
    pub(crate) pem: String,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: KeyPair,
}

pub(crate) fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.not_after = date_time_ymd(2100, 1, 2);
    params
}

pub(crate) fn expired(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    params
}

pub(crate) fn self_signed(name: &str) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let certificate = params(name).self_signed(&key).expect("a certificate");
    Identity { pem: certificate.pem(), certificate: certificate.der().clone(), key }
}

pub(crate) fn acceptor(identity: &Identity, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], key)
        .expect("a certificate");
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) async fn serve_with(acceptor: TlsAcceptor, answer: Vec<u8>) -> Server {
    Server::raw(move |stream| {
        let (acceptor, answer) = (acceptor.clone(), answer.clone());
        async move {
            // A client that refuses the certificate breaks the handshake off.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() && stream.write_all(&answer).await.is_ok() {}
        }
    })
    .await
}

async fn serve(identity: &Identity) -> Server {
    serve_with(acceptor(identity, rustls::ALL_VERSIONS), OK.to_vec()).await
}

pub(crate) fn at(server: &Server, host: &str) -> String {
    format!("https://{host}:{}/", server.address.port())
}

fn time(text: &str) -> Option<Timestamp> {
    Some(text.parse().expect("a time"))
}

#[tokio::test]
async fn a_good_certificate_passes_by_name_and_by_address_and_shows_its_expiry() {
    let authority = Authority::new();
    for host in ["shop.test", "127.0.0.1"] {
        for version in rustls::ALL_VERSIONS {
            let acceptor = acceptor(&authority.sign(&params(host)), &[version]);
            let server = serve_with(acceptor, OK.to_vec()).await;
            let seen = see(&authority.prober(), &at(&server, host), json!({})).await;
            assert_eq!((seen.outcome, seen.code), (Outcome::Pass, Some(200)), "{host} {version:?}: {seen:?}");
            assert_eq!(seen.certificate_expires, time(EXPIRES));
            assert!(seen.phases.tls_us.is_some());
        }
    }
}

fn refused(seen: &Observation, says: &str) {
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Certificate), "{seen:?}");
    assert!(detail(seen).contains(says), "{seen:?}");
    assert!(seen.phases.tls_us.is_some() && seen.code.is_none());
}

#[tokio::test]
async fn a_bad_certificate_is_refused_and_still_shows_its_expiry() {
    let authority = Authority::new();
    let cases = [
        ("wrong name", authority.sign(&params("other.test")), EXPIRES, "not valid for name"),
        ("expired", authority.sign(&expired("shop.test")), "2021-01-01T00:00:00Z", "expired"),
        ("self-signed", self_signed("shop.test"), EXPIRES, "invalid peer certificate"),
        ("unknown issuer", Authority::new().sign(&params("shop.test")), EXPIRES, "invalid peer certificate"),
    ];
    for (name, identity, expires, says) in cases {
        let server = serve(&identity).await;
        let seen = see(&authority.prober(), &at(&server, "shop.test"), json!({})).await;
        refused(&seen, says);
        assert_eq!(seen.certificate_expires, time(expires), "{name}");
    }
}

#[tokio::test]
async fn verify_none_takes_any_certificate_and_still_reads_it() {
    let authority = Authority::new();
    let none = json!({"http": {"tls": {"verify": "none"}}});
    for identity in [self_signed("other.test"), authority.sign(&expired("other.test"))] {
        let server = serve(&identity).await;
        let seen = see(&authority.prober(), &at(&server, "shop.test"), none.clone()).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
        assert!(seen.certificate_expires.is_some());
    }
}

/// Two probes at once over one shared verifier must not read each other's certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn probes_at_the_same_time_read_their_own_certificates() {
    let authority = Authority::new();
    let fresh = serve(&authority.sign(&params("shop.test"))).await;
    let old = serve(&authority.sign(&expired("shop.test"))).await;
    let prober = Arc::new(authority.prober());
    let mut probes = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (server, expires) = if n % 2 == 0 { (&fresh, EXPIRES) } else { (&old, "2021-01-01T00:00:00Z") };
        let (prober, url) = (Arc::clone(&prober), at(server, "shop.test"));
        probes.spawn(async move { (see(&prober, &url, json!({})).await.certificate_expires, time(expires)) });
    }
    for (seen, expected) in probes.join_all().await {
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_a_timeout_that_says_so() {
    let server = Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await;
    let timeout = Duration::from_millis(300);
    let (prober, begun) = (prober(), std::time::Instant::now());
    let seen = see_within(&prober, &at(&server, "127.0.0.1"), timeout, json!({})).await;
    assert!(begun.elapsed() < timeout + Duration::from_secs(5));
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout));
    assert_eq!(detail(&seen), "timed out after 300 ms while in the tls handshake");
}

#[tokio::test]
async fn what_is_no_tls_is_a_tls_failure() {
    for said in ["HTTP/1.1 400 Bad Request\r\n\r\n", "", "\x16\x03\x01\x7f\x7f garbage"] {
        let server = Server::raw(move |mut stream| async move {
            stream.write_all(said.as_bytes()).await.ok();
            stream.shutdown().await.ok();
            wait_for_end(&mut stream).await;
        })
        .await;
        let seen = see(&prober(), &at(&server, "127.0.0.1"), json!({})).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Tls), "{said:?}: {seen:?}");
    }
}

#[tokio::test]
async fn keep_alive_over_tls_makes_one_handshake_and_always_shows_the_expiry() {
    let authority = Authority::new();
    let server = serve(&authority.sign(&params("shop.test"))).await;
    let prober = authority.prober();
    for first in [true, false] {
        let options = json!({"http": {"connection": "keep_alive"}});
        let seen = see(&prober, &at(&server, "shop.test"), options).await;
        assert_eq!((seen.outcome, seen.phases.tls_us.is_some()), (Outcome::Pass, first), "{seen:?}");
        assert_eq!(seen.certificate_expires, time(EXPIRES));
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_connection_made_without_verification_is_not_reused_with_it() {
    let server = serve(&self_signed("shop.test")).await;
    let prober = Authority::new().prober();
    let options = |verify: &str| json!({"http": {"connection": "keep_alive", "tls": {"verify": verify}}});
    let lax = see(&prober, &at(&server, "shop.test"), options("none")).await;
    let strict = see(&prober, &at(&server, "shop.test"), options("full")).await;
    assert_eq!((lax.outcome, strict.outcome), (Outcome::Pass, Outcome::Fail(FailReason::Certificate)));
}

#[tokio::test]
async fn https_may_redirect_to_http_without_the_configured_headers() {
    let plain = Server::answering(|_| OK.to_vec()).await;
    let authority = Authority::new();
    let redirect = answer(302, &format!("location: {}\r\n", plain.url()), "");
    let server = serve_with(acceptor(&authority.sign(&params("shop.test")), rustls::ALL_VERSIONS), redirect).await;
    let options: Value = json!({"http": {"headers": {"x-token": "canary"}}});
    let seen = see(&authority.prober(), &at(&server, "shop.test"), options).await;
    assert_eq!((seen.outcome, seen.certificate_expires), (Outcome::Pass, time(EXPIRES)), "{seen:?}");
    assert!(!plain.requests()[0].contains("canary"));
}

#[tokio::test]
async fn sec_a_certificates_names_cannot_poison_a_log() {
    let authority = Authority::new();
    let mut params = params("other.test");
    let hostile = "evil\u{1b}[31m\r\nINFO all is well.test";
    params.subject_alt_names = vec![SanType::DnsName(hostile.try_into().expect("ascii"))];
    params.distinguished_name.push(DnType::CommonName, hostile);
    let server = serve(&authority.sign(&params)).await;
    let seen = see_within(&authority.prober(), &at(&server, "shop.test"), PATIENCE, json!({})).await;
    refused(&seen, "certificate: ");
    assert!(!detail(&seen).chars().any(char::is_control), "{seen:?}");
}

#[test]
fn extra_roots_that_are_no_certificates_are_refused() {
    for pem in ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "/etc/ssl/certs/own.pem"] {
        let refused = HttpProber::new(HttpProberConfig { extra_roots: pem.into(), ..Default::default() });
        assert!(matches!(refused, Err(TlsSetupError::Root(_))), "{pem:?}");
    }
}

/// Asks every client for a certificate, answers with a redirect to `location` if there is one, and
/// counts the clients that showed theirs.
async fn asking(authority: &Authority, name: &str, location: Option<String>) -> (Server, Arc<AtomicUsize>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("pem")).expect("a root");
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let identity = authority.sign(&params(name));
    let key = PrivateKeyDer::try_from(identity.key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![identity.certificate.clone()], key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let shown = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&shown);
    let answer = location.map_or(OK.to_vec(), |location| answer(302, &format!("location: {location}\r\n"), ""));
    let server = Server::raw(move |stream| {
        let (acceptor, answer, count) = (acceptor.clone(), answer.clone(), Arc::clone(&count));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.peer_certificates().is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
            while read_request(&mut stream).await.is_some() && stream.write_all(&answer).await.is_ok() {}
        }
    })
    .await;
    (server, shown)
}

#[tokio::test]
async fn sec_a_clients_certificate_is_not_shown_to_another_origin() {
    let authority = Authority::new();
    let client = authority.sign(&params("monitor.test"));
    let pem = client.pem.clone();
    let (elsewhere, shown_elsewhere) = asking(&authority, "elsewhere.test", None).await;
    let (home, shown_at_home) = asking(&authority, "shop.test", Some(at(&elsewhere, "elsewhere.test"))).await;
    let tls = json!({"certificate": pem, "key": client.key.serialize_pem(), "server_name": "shop.test"});
    let seen = see(&authority.prober(), &at(&home, "shop.test"), json!({"http": {"tls": tls}})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "elsewhere is asked for by its own name: {seen:?}");
    assert_eq!((shown_at_home.load(Ordering::SeqCst), shown_elsewhere.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test]
async fn sessions_are_resumed_where_that_is_wanted_and_by_as_many_servers_as_there_are() {
    // More than rustls's own store of that size remembers.
    const SERVERS: usize = 100;
    let authority = Authority::new();
    let names: Vec<String> = (0..SERVERS).map(|n| format!("shop-{n}.test")).collect();
    for version in rustls::ALL_VERSIONS {
        let acceptor = acceptor(&authority.sign(&CertificateParams::new(names.clone()).expect("names")), &[version]);
        let resumed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&resumed);
        let server = Server::raw(move |stream| {
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let kind = stream.get_ref().1.handshake_kind();
                count.fetch_add(usize::from(kind == Some(rustls::HandshakeKind::Resumed)), Ordering::SeqCst);
                while read_request(&mut stream).await.is_some() && stream.write_all(OK).await.is_ok() {}
            }
        })
        .await;
        let prober = authority.prober();
        for (resumption, expected) in [("disabled", 0), ("enabled", SERVERS)] {
            let options = json!({"http": {"tls": {"resumption": resumption}}});
            for round in 0..2 {
                resumed.store(0, Ordering::SeqCst);
                for name in &names {
                    let seen = see(&prober, &at(&server, name), options.clone()).await;
                    assert_eq!(seen.outcome, Outcome::Pass, "{name} {version:?}: {seen:?}");
                }
                let expected = if round == 0 { 0 } else { expected };
                assert_eq!(resumed.load(Ordering::SeqCst), expected, "{resumption} {version:?} round {round}");
            }
        }
    }
}

pub(crate) fn until_2024(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2024, 1, 2);
    params
}

/// The probes' slot is in November 2023, 49 days before that certificate expires.
fn expecting(http: &Value) -> Value {
    json!({"http": http, "expect": {"certificate": {"days": 7, "degraded_days": 60}}})
}

#[tokio::test]
async fn the_certificate_of_a_resumed_session_is_judged_too() {
    let authority = Authority::new();
    for version in rustls::ALL_VERSIONS {
        let server = serve_with(acceptor(&authority.sign(&until_2024("shop.test")), &[version]), OK.to_vec()).await;
        let prober = authority.prober();
        let options = expecting(&json!({"tls": {"verify": "none", "resumption": "enabled"}}));
        for handshake in [None, Some("resumed")] {
            let seen = inspect(&prober, &at(&server, "shop.test"), options.clone()).await;
            let fact = |what: &str| seen.facts.iter().find(|fact| &*fact.what == what).map(|fact| &*fact.value);
            assert_eq!(fact("handshake"), handshake, "{version:?}: {seen:?}");
            assert!(
                fact("certificate valid").is_some_and(|valid| valid.ends_with("2024-01-02T00:00:00.000000Z")),
                "{seen:?}"
            );
            assert_eq!(seen.seen.outcome, Outcome::Slow, "{version:?}: {seen:?}");
            assert_eq!(seen.seen.certificate_expires, time("2024-01-02T00:00:00Z"), "{version:?}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn the_certificate_of_a_kept_connection_counts_only_if_the_answer_came_over_it() {
    let authority = Authority::new();
    let old = acceptor(&authority.sign(&until_2024("shop.test")), rustls::ALL_VERSIONS);
    let new = acceptor(&authority.sign(&params("shop.test")), rustls::ALL_VERSIONS);
    let connections = Arc::new(AtomicUsize::new(0));
    let server = Server::raw(move |stream| {
        let first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        let acceptor = if first { old.clone() } else { new.clone() };
        async move {
            let mut stream = acceptor.accept(stream).await.expect("a handshake");
            for _ in 0..2 {
                read_request(&mut stream).await;
                stream.write_all(OK).await.expect("sent");
            }
            // Under the third request it is closed without a word.
            read_request(&mut stream).await;
        }
    })
    .await;
    let prober = authority.prober();
    let options = expecting(&json!({"connection": "keep_alive", "tls": {"verify": "none"}}));
    for (connections, outcome, expires) in [
        (1, Outcome::Slow, "2024-01-02T00:00:00Z"),
        (1, Outcome::Slow, "2024-01-02T00:00:00Z"),
        (2, Outcome::Pass, EXPIRES),
        (2, Outcome::Pass, EXPIRES),
    ] {
        let seen = see(&prober, &at(&server, "shop.test"), options.clone()).await;
        assert_eq!(server.accepted(), connections);
        assert_eq!((seen.outcome, seen.certificate_expires), (outcome, time(expires)), "{connections}: {seen:?}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_expected_of_an_answer_without_tls_is_missed() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let seen = see(&prober(), &server.url(), expecting(&json!({}))).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Certificate), "{seen:?}");
    assert_eq!(detail(&seen), "certificate: expected at least 7 days left, got no certificate");
}
