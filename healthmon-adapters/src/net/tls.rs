//! TLS for what dials out: rustls with ring, a fresh handshake each time, and the certificate's
//! expiry read even when the certificate is refused.

#[cfg(all(feature = "fuzz", any(fuzzing, test)))]
pub(crate) mod fuzz;
mod look;
mod sessions;
mod settings;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use healthmon_core::probe::{FailReason, IndeterminateReason};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, HandshakeKind, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;

use super::{Progress, Stage, attempt::Fault, progress::add};
use crate::secrets::{SecretError, Secrets};
use look::Look;
use sessions::Sessions;
pub use settings::TlsSettings;
use settings::{Resume, Written};

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
    /// The certificate was refused.
    #[error("certificate: {}", rustls::Error::InvalidCertificate(.0.clone()))]
    Certificate(rustls::CertificateError),
    /// The handshake failed.
    #[error("tls handshake: {0}")]
    Handshake(#[source] io::Error),
    /// The client's own certificate or key cannot be used.
    #[error("the client's certificate: {0}")]
    Identity(String),
    /// The client's key could not be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The settings cannot be used.
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
}

impl TlsError {
    fn of_handshake(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(refused)) => Self::Certificate(refused.clone()),
            _ => Self::Handshake(error),
        }
    }
}

impl From<TlsError> for Fault {
    fn from(error: TlsError) -> Self {
        let detail = error.to_string();
        match error {
            TlsError::Name(_) | TlsError::Certificate(_) => Self::fail(FailReason::Certificate, detail),
            TlsError::Handshake(_) => Self::fail(FailReason::Tls, detail),
            TlsError::Identity(_) | TlsError::Secret(_) => Self::indeterminate(IndeterminateReason::Secret, detail),
            TlsError::Setup(_) => Self::indeterminate(IndeterminateReason::Internal, detail),
        }
    }
}

/// The application protocols that a handshake offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// None at all.
    None,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// HTTP/2, or else HTTP/1.1.
    Http,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        let offered: &[&[u8]] = match self {
            Self::None => &[],
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Http => &[b"h2", b"http/1.1"],
        };
        offered.iter().map(|protocol| protocol.to_vec()).collect()
    }
}

/// What a handshake offers: one of the usual, or what a service names itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Offer {
    Usual(Alpn),
    Named(Arc<[Box<str>]>),
}

impl Offer {
    fn protocols(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Usual(alpn) => alpn.protocols(),
            Self::Named(names) => names.iter().map(|name| name.as_bytes().to_vec()).collect(),
        }
    }
}

/// One way of doing TLS: the settings that differ from the defaults, and what is offered.
type Way = (Option<Arc<Written>>, Offer);

/// How many ways of doing TLS are held ready; beyond them, they are made anew.
const CONNECTORS: usize = 1_024;
/// When there is no more room, those that are ready are let go after so long, for some of them will be of
/// services that are no more. Not sooner: services come round and round, and to let others go for each newcomer
/// would keep nothing at all as soon as they do not all fit.
const RENEWED_AFTER: Duration = Duration::from_mins(10);

/// The client side of TLS. Cheap to clone; clones share what was set up.
#[derive(Clone)]
pub struct TlsClient(Arc<Shared>);

struct Shared {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    secrets: Secrets,
    /// Set up once for each way in which services want it.
    connectors: Mutex<Connectors>,
}

struct Connectors {
    ready: HashMap<Way, TlsConnector>,
    since: Instant,
}

impl Default for Connectors {
    fn default() -> Self {
        Self { ready: HashMap::new(), since: Instant::now() }
    }
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
    /// A client that trusts the system's roots and those in `extra_roots` (PEM).
    ///
    /// # Errors
    /// When an extra root is no certificate.
    pub fn new(extra_roots: &[u8]) -> Result<Self, TlsSetupError> {
        let mut roots = ROOTS.clone();
        if !extra_roots.is_empty() {
            add_roots(&mut roots, extra_roots)?;
        }
        let provider = Arc::new(ring::default_provider());
        let (roots, secrets, connectors) = (Arc::new(roots), Secrets::default(), Mutex::default());
        Ok(Self(Arc::new(Shared { provider, roots, secrets, connectors })))
    }

    /// This client with a place where the keys of clients' certificates are found.
    #[must_use]
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        let Shared { provider, roots, .. } = &*self.0;
        let (provider, roots) = (Arc::clone(provider), Arc::clone(roots));
        Self(Arc::new(Shared { provider, roots, secrets, connectors: Mutex::default() }))
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
        settings: &TlsSettings,
        alpn: Alpn,
        progress: &mut Progress,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        self.shake_hands(stream, host, settings, Offer::Usual(alpn), progress).await
    }

    /// The same, with application protocols that are named by the service's own settings.
    ///
    /// # Errors
    /// When the handshake fails or the certificate is refused.
    pub async fn handshake_offering(
        &self,
        stream: TcpStream,
        host: Host<&str>,
        settings: &TlsSettings,
        protocols: &Arc<[Box<str>]>,
        progress: &mut Progress,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        self.shake_hands(stream, host, settings, Offer::Named(Arc::clone(protocols)), progress).await
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        host: Host<&str>,
        settings: &TlsSettings,
        offer: Offer,
        progress: &mut Progress,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let name = match settings.written().and_then(|written| written.server_name.as_deref()) {
            Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?,
            None => match host {
                Host::Ipv4(address) => ServerName::from(std::net::IpAddr::V4(address)),
                Host::Ipv6(address) => ServerName::from(std::net::IpAddr::V6(address)),
                Host::Domain(name) => {
                    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?
                }
            },
        };
        let connector = self.connector(settings, offer)?;
        let begun = Instant::now();
        progress.stage = Stage::Handshake;
        // Boxed, for it is large and would stand in each of the futures around it.
        let shaking = Box::pin(connector.connect(name, stream));
        let (connected, look) = Look::during(progress.is_inspected(), shaking).await;
        add(&mut progress.phases.tls_us, begun.elapsed());
        progress.certificate(look.expires());
        look.tell(progress);
        let stream = connected.map_err(TlsError::of_handshake)?;
        let (_, session) = stream.get_ref();
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            // None was checked: that of the handshake which began the session still stands.
            let look = Look::again(progress.is_inspected(), session.peer_certificates().unwrap_or_default());
            progress.certificate(look.expires());
            look.tell(progress);
            progress.learn("handshake", "resumed");
        }
        if let Some(version) = session.protocol_version() {
            progress.learn("tls", format_args!("{version:?}"));
        }
        if let Some(suite) = session.negotiated_cipher_suite() {
            progress.learn("cipher suite", format_args!("{:?}", suite.suite()));
        }
        if let Some(protocol) = session.alpn_protocol() {
            progress.learn("application protocol", String::from_utf8_lossy(protocol));
        }
        Ok(stream)
    }

    fn connector(&self, settings: &TlsSettings, offer: Offer) -> Result<TlsConnector, TlsError> {
        let key = (settings.written().cloned(), offer);
        // A key may be rotated behind its reference: those are set up each time.
        let keep = key.0.as_ref().is_none_or(|written| written.identity.is_none());
        let known = self.0.connectors.lock().unwrap_or_else(PoisonError::into_inner).ready.get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let made = self.0.connect_by(key.0.as_deref().unwrap_or(&Written::default()), &key.1)?;
        let mut connectors = self.0.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if keep {
            if connectors.ready.len() >= CONNECTORS && connectors.since.elapsed() > RENEWED_AFTER {
                *connectors = Connectors::default();
            }
            if connectors.ready.len() < CONNECTORS {
                connectors.ready.insert(key, made.clone());
            }
        }
        Ok(made)
    }
}

impl Shared {
    fn connect_by(&self, written: &Written, offer: &Offer) -> Result<TlsConnector, TlsError> {
        let refused = |error: &dyn std::fmt::Display| TlsSetupError::Rustls(error.to_string());
        let roots = match &written.ca {
            None => Arc::clone(&self.roots),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                add_roots(&mut roots, ca.as_bytes())?;
                Arc::new(roots)
            }
        };
        let checks = match written.verify {
            Verify::Full => Checks::Full(
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
                    .build()
                    .map_err(|error| refused(&error))?,
            ),
            Verify::None => Checks::Possession(Arc::clone(&self.provider)),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Recording { checks }));
        let mut config = match &written.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let unusable = |error: &dyn std::fmt::Display| TlsError::Identity(error.to_string());
                let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
                let key = self.secrets.reveal(key)?;
                // The parser's errors do not repeat what they could not read.
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|error| unusable(&error))?;
                let chain = chain.map_err(|error| unusable(&error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
            }
        };
        config.alpn_protocols = offer.protocols();
        config.resumption = match written.resumption {
            Resume::Disabled => Resumption::disabled(),
            Resume::Enabled => Resumption::store(Arc::new(Sessions::default())),
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

fn add_roots(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), TlsSetupError> {
    let known = roots.len();
    for root in CertificateDer::pem_slice_iter(pem) {
        let root = root.map_err(|error| TlsSetupError::Root(error.to_string()))?;
        roots.add(root).map_err(|error| TlsSetupError::Root(error.to_string()))?;
    }
    if roots.len() == known { Err(TlsSetupError::Root("there is none in the text".to_owned())) } else { Ok(()) }
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
        Look::at(end_entity, intermediates);
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
