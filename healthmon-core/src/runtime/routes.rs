use std::{collections::HashMap, sync::Arc};

use super::watchers::WatchNews;
use crate::{
    ports::Prober,
    probe::{IndeterminateReason, Inspection, Observation, Probe},
    service::{FieldErrors, Service, ServiceSettings, Target},
};

/// Two probers claim one scheme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two probers take the scheme {0}")]
pub struct AmbiguousScheme(pub &'static str);

/// The probers of a monitor, by the scheme of the target; and who is told of probed services that
/// can be watched, if anybody.
#[derive(Clone, Default)]
pub struct Probers(HashMap<&'static str, Arc<dyn Prober>>, Option<WatchNews>);

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

    /// Where secrets stand in the options of services with this scheme; see [`Prober::secrets`].
    /// None when there is no prober for it, so that nobody here can say.
    pub fn secrets(&self, scheme: &str) -> Option<&'static [&'static str]> {
        self.0.get(scheme).map(|prober| prober.secrets())
    }

    /// On whom a probe of this target waits; see [`Prober::host`].
    pub fn host<'t>(&self, target: &'t Target) -> Option<&'t str> {
        self.0.get(target.scheme())?.host(target)
    }

    /// Performs a probe with the prober of its target's scheme.
    pub async fn probe(&self, probe: &Probe) -> Observation {
        match self.prober_of(probe) {
            Ok(prober) => {
                if let Some(news) = &self.1
                    && prober.watches(&probe.service.settings)
                {
                    news.tell(probe);
                }
                prober.probe(probe).await
            }
            Err(seen) => seen,
        }
    }

    /// The same with a closer look, for a person.
    pub async fn inspect(&self, probe: &Probe) -> Inspection {
        match self.prober_of(probe) {
            Ok(prober) => prober.inspect(probe).await,
            Err(seen) => Inspection::of(seen),
        }
    }

    /// These probers, which tell of what they probe.
    pub(super) fn telling(mut self, news: WatchNews) -> Self {
        self.1 = Some(news);
        self
    }

    /// Watches a service; see [`Prober::watch`].
    pub(super) async fn watch(&self, service: &Service, changed: &(dyn Fn() + Send + Sync)) {
        if let Some(prober) = self.0.get(service.settings.url.scheme()) {
            prober.watch(service, changed).await;
        }
    }

    fn prober_of(&self, probe: &Probe) -> Result<&Arc<dyn Prober>, Observation> {
        let scheme = probe.service.settings.url.scheme();
        self.0.get(scheme).ok_or_else(|| {
            let detail = format!("no prober here takes {scheme}:// targets");
            Observation::indeterminate(IndeterminateReason::Unsupported, &detail)
        })
    }
}
