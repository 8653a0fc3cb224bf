//! Real handshakes with certificates made for the test.

use std::sync::Arc;

use healthmon_core::probe::{FailReason, IndeterminateReason, Outcome};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use super::{
    frames::{Raw, wait_for_end},
    support::{Backend, detail, prober, see},
};

/// A certificate authority of the test's own.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, until: i32) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 2);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

fn server_tls(pair: &Pair) -> ServerTlsConfig {
    ServerTlsConfig::new().identity(Identity::from_pem(&pair.certificate, &pair.key))
}

fn at(server: &Backend, service: &str) -> String {
    format!("grpcs://{}/{service}", server.address)
}

fn trusting(authority: &Authority, more: Value) -> Value {
    let mut tls = json!({"ca": authority.pem});
    tls.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    json!({"grpc": {"tls": tls}})
}

#[tokio::test]
async fn a_good_certificate_passes_and_shows_its_expiry_and_http2_is_agreed_on() {
    let authority = Authority::new();
    let server = Backend::real(Some(server_tls(&authority.sign("127.0.0.1", 2100)))).await;
    let seen = see(&prober(), &at(&server, "shop.v1.Cart"), trusting(&authority, json!({}))).await;
    assert_eq!((seen.outcome, seen.code, detail(&seen)), (Outcome::Pass, Some(0), ""));
    assert_eq!(seen.certificate_expires.map(|at| at.to_string()[..10].to_owned()).as_deref(), Some("2100-01-02"));
    assert!(seen.phases.tls_us.is_some() && seen.phases.first_byte_us.is_some());
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_told_with_its_expiry() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (pair, trusted, says) in [
        (authority.sign("127.0.0.1", 2021), &authority, "expired"),
        (authority.sign("shop.test", 2100), &authority, "not valid for name"),
        (authority.sign("127.0.0.1", 2100), &other, "invalid peer certificate"),
    ] {
        let server = Backend::real(Some(server_tls(&pair))).await;
        let seen = see(&prober(), &at(&server, ""), trusting(trusted, json!({}))).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Certificate), "{seen:?}");
        assert!(detail(&seen).contains(says) && seen.certificate_expires.is_some(), "{seen:?}");
        let lax = json!({"grpc": {"tls": {"verify": "none"}}});
        assert_eq!(see(&prober(), &at(&server, ""), lax).await.outcome, Outcome::Pass);
    }
}

#[tokio::test]
async fn a_certificate_is_looked_for_by_another_name_when_told_so() {
    let authority = Authority::new();
    let server = Backend::real(Some(server_tls(&authority.sign("shop.test", 2100)))).await;
    let seen = see(&prober(), &at(&server, ""), trusting(&authority, json!({"server_name": "shop.test"}))).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
}

#[tokio::test]
async fn a_certificate_close_to_its_expiry_degrades() {
    let authority = Authority::new();
    let server = Backend::real(Some(server_tls(&authority.sign("127.0.0.1", 2024)))).await;
    let mut options = json!({"grpc": {"tls": {"verify": "none"}}});
    // The probes' slot is in November 2023, 49 days before.
    options["expect"] = json!({"certificate": {"days": 7, "degraded_days": 60}});
    let seen = see(&prober(), &at(&server, ""), options).await;
    assert_eq!(seen.outcome, Outcome::Slow, "{seen:?}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_it_and_refuses_those_without() {
    let authority = Authority::new();
    let tls = server_tls(&authority.sign("127.0.0.1", 2100)).client_ca_root(Certificate::from_pem(&authority.pem));
    let server = Backend::real(Some(tls)).await;
    let client = authority.sign("prober.test", 2100);
    let shown = json!({"certificate": client.certificate, "key": client.key});
    let seen = see(&prober(), &at(&server, ""), trusting(&authority, shown)).await;
    assert_eq!((seen.outcome, detail(&seen)), (Outcome::Pass, ""));
    let without = see(&prober(), &at(&server, ""), trusting(&authority, json!({}))).await;
    assert_eq!(without.outcome, Outcome::Fail(FailReason::Tls), "{without:?}");
    assert!(detail(&without).contains("CertificateRequired"), "{without:?}");
    let lost = json!({"certificate": client.certificate, "key": {"env": "HEALTHMON_SECRET_THAT_IS_NOT_SET"}});
    let seen = see(&prober(), &at(&server, ""), trusting(&authority, lost)).await;
    assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Secret), "{seen:?}");
}

#[tokio::test]
async fn keep_alive_over_tls_makes_one_handshake_and_always_shows_the_expiry() {
    let authority = Authority::new();
    let server = Backend::real(Some(server_tls(&authority.sign("127.0.0.1", 2100)))).await;
    let prober = prober();
    let mut options = trusting(&authority, json!({}));
    options["grpc"]["connection"] = json!("keep_alive");
    for first in [true, false] {
        let seen = see(&prober, &at(&server, ""), options.clone()).await;
        assert_eq!((seen.outcome, seen.phases.tls_us.is_some()), (Outcome::Pass, first), "{seen:?}");
        assert!(seen.certificate_expires.is_some());
    }
    let strict = json!({"grpc": {"connection": "keep_alive"}});
    let seen = see(&prober, &at(&server, ""), strict).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Certificate), "one made with other roots is not reused");
}

#[tokio::test]
async fn tls_without_http2_is_a_protocol_failure() {
    let authority = Authority::new();
    let pair = authority.sign("127.0.0.1", 2100);
    for offered in [vec![], vec![b"http/1.1".to_vec()]] {
        let acceptor = acceptor(&pair, offered);
        let server = Raw::new(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    wait_for_end(&mut stream).await;
                }
            }
        })
        .await;
        let url = server.url().replace("grpc:", "grpcs:");
        let seen = see(&prober(), &url, trusting(&authority, json!({}))).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Protocol), "{seen:?}");
        assert_eq!(detail(&seen), "the peer offers no HTTP/2 (by ALPN), which gRPC needs");
    }
}

fn acceptor(pair: &Pair, offered: Vec<Vec<u8>>) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    config.alpn_protocols = offered;
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn a_plain_server_is_a_tls_failure_and_a_secured_one_asked_plainly_a_protocol_failure() {
    let plain = Backend::real(None).await;
    let seen = see(&prober(), &at(&plain, ""), json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Tls), "{seen:?}");
    let secured = Backend::real(Some(server_tls(&Authority::new().sign("127.0.0.1", 2100)))).await;
    let seen = see(&prober(), &secured.url(""), json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Protocol), "{seen:?}");
}
