//! TLS for what dials out: rustls with ring, a fresh handshake each time, and the certificate's
//! expiry read even when the certificate is refused.

use std::{
    cell::Cell,
    io,
    sync::{Arc, LazyLock},
};

use healthmon_core::time::Timestamp;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;
use x509_parser::{certificate::X509CertificateParser, nom::Parser};

use super::{Progress, Stage, progress::add};

/// How far a peer's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// The chain to a known root, the name and the dates.
    #[default]
    Full,
    /// Not at all; only that the peer holds the key of the certificate that it shows.
    None,
}

/// What cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// An extra root is no certificate in PEM.
    #[error("extra root certificates: {0}")]
    Root(String),
    /// rustls refuses the set-up.
    #[error("tls cannot be set up: {0}")]
    Rustls(String),
}

/// Why there is no TLS session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// No certificate can be for such a host.
    #[error("{0:?} is not a name that a certificate can be for")]
    Name(String),
    /// The handshake failed, or the certificate was refused.
    #[error("tls handshake: {0}")]
    Handshake(#[source] io::Error),
}

/// The client side of TLS.
pub struct TlsClient {
    full: TlsConnector,
    unverified: TlsConnector,
}

impl std::fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

/// The system's roots, or Mozilla's where the system has none. Read once in a process.
static ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "some of the system's root certificates could not be read");
    }
    let (known, ignored) = roots.add_parsable_certificates(native.certs);
    tracing::debug!(known, ignored, "read the system's root certificates");
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
});

impl TlsClient {
    /// A client that trusts the system's roots and those in `extra_roots` (PEM), and offers the
    /// application protocols in `alpn`.
    ///
    /// # Errors
    /// When an extra root is no certificate.
    pub fn new(extra_roots: &[u8], alpn: &[&[u8]]) -> Result<Self, TlsSetupError> {
        let mut roots = ROOTS.clone();
        let known = roots.len();
        for root in CertificateDer::pem_slice_iter(extra_roots) {
            let root = root.map_err(|error| TlsSetupError::Root(error.to_string()))?;
            roots.add(root).map_err(|error| TlsSetupError::Root(error.to_string()))?;
        }
        if !extra_roots.is_empty() && roots.len() == known {
            return Err(TlsSetupError::Root("there is none in the text".to_owned()));
        }
        let provider = Arc::new(ring::default_provider());
        let full = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsSetupError::Rustls(error.to_string()))?;
        Ok(Self {
            full: connector(&provider, Checks::Full(full), alpn)?,
            unverified: connector(&provider, Checks::Possession(Arc::clone(&provider)), alpn)?,
        })
    }

    /// The handshake over `stream` with `host`. What the certificate says of its expiry is noted
    /// in `progress`, also when the certificate is refused.
    ///
    /// # Errors
    /// When the handshake fails or the certificate is refused.
    pub async fn handshake(
        &self,
        stream: TcpStream,
        host: Host<&str>,
        verify: Verify,
        progress: &mut Progress,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let name = match host {
            Host::Ipv4(address) => ServerName::from(std::net::IpAddr::V4(address)),
            Host::Ipv6(address) => ServerName::from(std::net::IpAddr::V6(address)),
            Host::Domain(name) => ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?,
        };
        let connector = match verify {
            Verify::Full => &self.full,
            Verify::None => &self.unverified,
        };
        let begun = Instant::now();
        progress.stage = Stage::Handshake;
        // The verifier is shared by all connections but runs within a poll of this very future,
        // so a task-local slot tells whose certificate it saw.
        let (connected, expires) = LEAF_EXPIRES
            .scope(Cell::new(None), async {
                let connected = connector.connect(name, stream).await;
                (connected, LEAF_EXPIRES.with(Cell::take))
            })
            .await;
        add(&mut progress.phases.tls_us, begun.elapsed());
        progress.certificate(expires);
        connected.map_err(TlsError::Handshake)
    }
}

fn connector(provider: &Arc<CryptoProvider>, checks: Checks, alpn: &[&[u8]]) -> Result<TlsConnector, TlsSetupError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsSetupError::Rustls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Recording { checks }))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    // A resumed session shows no certificate, and would hide a server that can no longer do a full handshake.
    config.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

tokio::task_local! {
    static LEAF_EXPIRES: Cell<Option<Timestamp>>;
}

/// Reads the leaf's expiry, then leaves the judgement to the checks.
#[derive(Debug)]
struct Recording {
    checks: Checks,
}

#[derive(Debug)]
enum Checks {
    Full(Arc<WebPkiServerVerifier>),
    Possession(Arc<CryptoProvider>),
}

impl ServerCertVerifier for Recording {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // Outside of `handshake` nobody asks, and there is no slot.
        if LEAF_EXPIRES.try_with(|slot| slot.set(not_after(end_entity))).is_err() {
            tracing::debug!("a certificate was checked outside of a handshake");
        }
        match &self.checks {
            Checks::Full(webpki) => {
                webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Checks::Possession(_) => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.checks {
            Checks::Full(webpki) => webpki.verify_tls12_signature(message, cert, dss),
            Checks::Possession(provider) => {
                verify_tls12_signature(message, cert, dss, &provider.signature_verification_algorithms)
            }
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.checks {
            Checks::Full(webpki) => webpki.verify_tls13_signature(message, cert, dss),
            Checks::Possession(provider) => {
                verify_tls13_signature(message, cert, dss, &provider.signature_verification_algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match &self.checks {
            Checks::Full(webpki) => webpki.supported_verify_schemes(),
            Checks::Possession(provider) => provider.signature_verification_algorithms.supported_schemes(),
        }
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

/// When a certificate expires. Its extensions are left unread: they cost more than all the rest.
fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = X509CertificateParser::new().with_deep_parse_extensions(false).parse(certificate).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    Some(Timestamp::from_millis(seconds.saturating_mul(1_000)))
}
