//! Every prober of the server, put together in one place for all that probes.

use std::sync::Arc;

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::Dialer,
    secrets::Secrets,
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

/// The probers that the server has, one line for each.
///
/// # Errors
/// When one cannot be set up.
pub fn build(shared: &Shared) -> Result<Vec<Arc<dyn Prober>>, SetupError> {
    let (dialer, secrets) = (|| Arc::clone(&shared.dialer), || shared.secrets.clone());
    let http = HttpProberConfig { dialer: dialer(), secrets: secrets(), ..HttpProberConfig::default() };
    Ok(vec![Arc::new(HttpProber::new(http).map_err(of("http"))?)])
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
