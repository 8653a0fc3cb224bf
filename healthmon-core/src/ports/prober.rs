use async_trait::async_trait;

use crate::{
    probe::{Inspection, Observation, Probe},
    service::{FieldErrors, Service, ServiceSettings, Target},
};

/// Performs one probe.
///
/// # Contract
///
/// - Never fails: whatever goes wrong is an outcome. A panic is caught by the worker and becomes
///   `Indeterminate(internal)`.
/// - Returns by the deadline: at most the service's timeout after it was called. (The worker has
///   a backstop just behind it.)
/// - Dropping the future closes its sockets; nothing is left running.
/// - Memory per probe is bounded, whatever the target sends.
/// - What it returns holds no secret and no body of the target.
#[async_trait]
pub trait Prober: Send + Sync {
    /// The URL schemes it takes, in lower case.
    fn schemes(&self) -> &[&'static str];

    /// Checks settings whose target has one of its schemes: the target itself and every section of
    /// [`options`](ServiceSettings::options). It must refuse sections and fields it does not know.
    ///
    /// # Errors
    /// Every field that is wrong, with what would be right.
    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors>;

    /// Where secrets stand in the [`options`](ServiceSettings::options): paths such as
    /// `http.headers.*`, where `*` is every field of an object. What stands there is never shown,
    /// and is kept sealed where there is a key.
    fn secrets(&self) -> &'static [&'static str] {
        &[]
    }

    /// On whom a probe of this target waits: probes that wait on the same host share a bound, so that
    /// one which hangs holds up no other. By default the target's [`place`](Target::place); `None`
    /// for a prober that waits on nobody, such as one that looks whether a report came in.
    fn host<'t>(&self, target: &'t Target) -> Option<&'t str> {
        Some(target.place())
    }

    /// Performs the probe now.
    async fn probe(&self, probe: &Probe) -> Observation;

    /// Performs the probe now and tells a person all that is of interest. Costs more than
    /// [`probe`](Self::probe), and comes to the same outcome.
    async fn inspect(&self, probe: &Probe) -> Inspection {
        Inspection::of(self.probe(probe).await)
    }

    /// Whether a change of such a service can be noticed between its probes, by [`watch`](Self::watch).
    fn watches(&self, _: &ServiceSettings) -> bool {
        false
    }

    /// Calls `changed` whenever something is noticed that may be a change of the service. It is then
    /// probed out of turn: what is judged is what that probe sees, never what was noticed here.
    ///
    /// Asked only of services that it [`watches`](Self::watches). It goes on until it is dropped, which
    /// closes its sockets, or returns when such a service cannot be watched after all. What it holds,
    /// and how often it tries again, is bounded whatever the target does.
    async fn watch(&self, _: &Service, _changed: &(dyn Fn() + Send + Sync)) {}
}
