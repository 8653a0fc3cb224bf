use std::{collections::HashMap, sync::Arc};

use crate::{
    ports::Prober,
    probe::{IndeterminateReason, Observation, Probe},
    service::{FieldErrors, ServiceSettings},
};

/// Two probers claim one scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two probers take the scheme {0}")]
pub struct AmbiguousScheme(pub &'static str);

/// The probers of a monitor, by the scheme of the target.
#[derive(Clone, Default)]
pub struct Probers(HashMap<&'static str, Arc<dyn Prober>>);

impl Probers {
    /// Adds a prober for each of its schemes.
    ///
    /// # Errors
    /// When another prober has one of them.
    pub fn add(&mut self, prober: Arc<dyn Prober>) -> Result<(), AmbiguousScheme> {
        for scheme in prober.schemes() {
            if self.0.insert(scheme, Arc::clone(&prober)).is_some() {
                return Err(AmbiguousScheme(scheme));
            }
        }
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the parts of a service's settings that its prober understands.
    ///
    /// # Errors
    /// Every field that is wrong, with what would be right.
    pub fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        match self.0.get(settings.url.scheme()) {
            Some(prober) => prober.check(settings),
            None => {
                let mut schemes: Vec<_> = self.0.keys().copied().collect();
                schemes.sort_unstable();
                Err(FieldErrors::one("url", format_args!("must have one of the schemes {}", schemes.join(", "))))
            }
        }
    }

    /// Performs a probe with the prober of its target's scheme.
    pub async fn probe(&self, probe: &Probe) -> Observation {
        let scheme = probe.service.settings.url.scheme();
        match self.0.get(scheme) {
            Some(prober) => prober.probe(probe).await,
            None => {
                let detail = format!("no prober here takes {scheme}:// targets");
                Observation::indeterminate(IndeterminateReason::Unsupported, &detail)
            }
        }
    }
}
