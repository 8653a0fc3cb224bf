//! Every prober of the server, put together in one place for all that probes.

use std::sync::Arc;

use healthmon_adapters::{
    dns::{DnsProber, DnsProberConfig},
    grpc::{GrpcProber, GrpcProberConfig},
    http::{HttpProber, HttpProberConfig},
    icmp::IcmpProber,
    net::{Dialer, tls::TlsClient},
    secrets::Secrets,
    tcp::TcpProber,
    tls::TlsProber,
    websocket::WebSocketProber,
};
use healthmon_core::{
    ports::Prober,
    runtime::{AmbiguousScheme, Probers},
};

/// What probers share.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    /// The one connector.
    pub dialer: Arc<Dialer>,
    /// Where secrets are found.
    pub secrets: Secrets,
}

/// Why a prober cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the prober of {prober} cannot be set up: {source}")]
pub struct SetupError {
    prober: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The probers that the server has, one line for each; the one of heartbeats needs a database, and
/// comes with it.
///
/// # Errors
/// When one cannot be set up.
pub fn build(shared: &Shared) -> Result<Vec<Arc<dyn Prober>>, SetupError> {
    let (dialer, secrets) = (|| Arc::clone(&shared.dialer), || shared.secrets.clone());
    let http = HttpProberConfig { dialer: dialer(), secrets: secrets(), ..HttpProberConfig::default() };
    let grpc = GrpcProberConfig { dialer: dialer(), secrets: secrets(), ..GrpcProberConfig::default() };
    let dns = DnsProberConfig { dialer: dialer(), secrets: secrets(), ..DnsProberConfig::default() };
    let tls = TlsClient::new(&[]).map_err(of("tls"))?.with_secrets(secrets());
    Ok(vec![
        Arc::new(HttpProber::new(http).map_err(of("http"))?),
        Arc::new(GrpcProber::new(grpc).map_err(of("grpc"))?),
        Arc::new(TcpProber::new(dialer(), tls.clone(), secrets())),
        Arc::new(TlsProber::new(dialer(), tls.clone(), secrets())),
        Arc::new(WebSocketProber::new(dialer(), tls, secrets())),
        Arc::new(DnsProber::new(dns).map_err(of("dns"))?),
        Arc::new(IcmpProber::new(dialer())),
    ])
}

/// The same, by the schemes they take.
///
/// # Errors
/// When one cannot be set up, or two take one scheme.
pub fn by_scheme(shared: &Shared) -> Result<Probers, SetupError> {
    let mut probers = Probers::default();
    for prober in build(shared)? {
        probers.add(prober).map_err(|AmbiguousScheme(scheme)| of(scheme)(AmbiguousScheme(scheme)))?;
    }
    Ok(probers)
}

fn of<E: Into<Box<dyn std::error::Error + Send + Sync>>>(prober: &'static str) -> impl FnOnce(E) -> SetupError {
    move |source| SetupError { prober, source: source.into() }
}
