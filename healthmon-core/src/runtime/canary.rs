//! Tells a target that is down from a network of ours that is: asked only when a probe failed.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{Probers, Vitals, vitals::Network};
use crate::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Clock,
    probe::{FailReason, IndeterminateReason, Kind, Observation, Outcome, Probe, ProbeResult},
    service::{FieldErrors, Interval, Label, Service, ServiceSettings, Target, Timeout},
    time::Slot,
};

/// A question whose answer took this much longer than it may was held up by our own machine.
const STALL: Duration = Duration::from_secs(1);
/// A prober that has not returned this long after the deadline is dropped.
const BACKSTOP: Duration = Duration::from_millis(100);

/// Targets that all but always answer, by which a worker knows whether its own network is there.
///
/// When a probe fails in a way that a dead network can cause, the canaries are probed, all at once.
/// Only when none of them can be reached does the failure count as `Indeterminate(offline)`, which
/// moves no status. One question at a time serves every probe that failed meanwhile, and its
/// answer those that fail within the next seconds.
///
/// So a network that dies is noticed by the first failure, unless it died within
/// [`remembered`](Self::remembered) of an answer that it is there: failures of that moment count,
/// which is why a threshold of one wants a short memory.
///
/// ```
/// use healthmon_core::runtime::Canary;
/// let targets = ["https://one.example/", "https://two.example/"].map(str::parse);
/// let canary = Canary::new(targets.into_iter().collect::<Result<Vec<_>, _>>()?)?;
/// assert_eq!(canary.targets().len(), 2);
/// assert!(Canary::new(vec!["https://one.example/".parse()?]).is_err(), "one alone may be down itself");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    targets: Vec<Target>,
    deadline: Duration,
    remembered: Duration,
}

/// Targets that make no canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 2 to 8 targets on different hosts, so that none of them alone decides")]
pub struct InvalidCanary;

impl Canary {
    /// How long a question may take, unless something else is said.
    pub const DEADLINE: Duration = Duration::from_secs(2);
    /// How long an answer is remembered, unless something else is said.
    pub const REMEMBERED: Duration = Duration::from_secs(2);

    /// A canary of these targets, of any schemes that the monitor probes.
    ///
    /// # Errors
    /// Unless they are 2 to 8, all on different hosts.
    pub fn new(targets: Vec<Target>) -> Result<Self, InvalidCanary> {
        let mut hosts: Vec<_> = targets.iter().map(|target| target.url().host_str().map(str::to_owned)).collect();
        hosts.sort_unstable();
        let once = hosts.windows(2).all(|pair| pair[0] != pair[1]);
        let right = once && (2..=8).contains(&targets.len());
        right.then_some(Self { targets, deadline: Self::DEADLINE, remembered: Self::REMEMBERED }).ok_or(InvalidCanary)
    }

    /// The same with a question that may take this long, 100 ms to 2.5 s: results wait for it, and a
    /// queue that waits for them long enough hands their probes out anew.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        // In whole milliseconds, as timeouts are.
        let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX).clamp(100, 2_500);
        Self { deadline: Duration::from_millis(millis), ..self }
    }

    /// The same with answers that are remembered for this long, at most 30 s.
    #[must_use]
    pub fn remembered(self, remembered: Duration) -> Self {
        Self { remembered: remembered.min(Duration::from_secs(30)), ..self }
    }

    /// The targets.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Checks that the targets can be probed.
    ///
    /// # Errors
    /// Those that cannot, as fields such as `canary.0.url`.
    pub(super) fn check(&self, probers: &Probers) -> Result<(), FieldErrors> {
        self.services().enumerate().try_for_each(|(n, service)| {
            probers.check(&service.settings).map_err(|errors| errors.within(&format!("canary.{n}")))
        })
    }

    /// The targets as services that are in no store.
    fn services(&self) -> impl Iterator<Item = Service> {
        self.targets.iter().zip(1..).filter_map(|(target, number)| {
            let interval = Interval::new(self.deadline).ok()?;
            let settings = ServiceSettings {
                timeout: Timeout::new(self.deadline).ok()?,
                ..ServiceSettings::new(Label::new("canary").ok()?, target.clone(), interval)
            };
            // No registered service has so small a number: ids begin with the time.
            let id = ServiceId::new(number).ok()?;
            Some(Service::registered(id, settings, Revision(1), Epoch(1), Slot::default().time()))
        })
    }
}

/// Whether a dead network can cause such a failure.
const fn is_suspicious(reason: FailReason) -> bool {
    match reason {
        FailReason::Dns
        | FailReason::Connect
        | FailReason::Tls
        | FailReason::Timeout
        | FailReason::Proxy
        // A connection that breaks off, a token that cannot be fetched, a report that cannot get through.
        | FailReason::Protocol
        | FailReason::Authentication
        | FailReason::Silence => true,
        FailReason::Status
        | FailReason::Assertion
        | FailReason::Redirect
        | FailReason::Certificate
        | FailReason::NotServing
        | FailReason::UnknownService
        | FailReason::Unimplemented
        | FailReason::Reported => false,
    }
}

/// Whether a canary that was seen so could not be reached.
const fn is_out_of_reach(outcome: Outcome) -> bool {
    use FailReason::{Connect, Dns, Proxy, Timeout, Tls};
    matches!(outcome, Outcome::Fail(Dns | Connect | Tls | Timeout | Proxy))
}

/// An answer, and when the question was asked.
#[derive(Debug, Clone, Copy)]
struct Answer {
    network: Network,
    asked: Instant,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<Answer>,
    /// When a question was last answered by that the network is down. It was so until then, also for
    /// those whose probe began after the question: a dead network takes all of a question's time,
    /// and they could not wait for another one.
    down_at: Option<Instant>,
}

/// Asks the canaries on behalf of all probes of a worker.
pub(super) struct Lookout {
    canary: Canary,
    services: Vec<Arc<Service>>,
    probers: Arc<Probers>,
    clock: Arc<dyn Clock>,
    vitals: Arc<Vitals>,
    known: Mutex<Known>,
    /// Held by who asks; the others wait for that answer.
    asking: tokio::sync::Mutex<()>,
}

impl Lookout {
    pub(super) fn new(canary: Canary, probers: Arc<Probers>, clock: Arc<dyn Clock>, vitals: Arc<Vitals>) -> Self {
        let services = canary.services().map(Arc::new).collect();
        Self { canary, services, probers, clock, vitals, known: Mutex::default(), asking: tokio::sync::Mutex::new(()) }
    }

    /// The result, or that it says nothing because our own network is down. Waits at most for the
    /// canary's deadline; what is not known by then counts as a failure of the target.
    pub(super) async fn judge(&self, begun: Instant, result: ProbeResult) -> ProbeResult {
        let (Outcome::Fail(reason) | Outcome::Fatal(reason)) = result.seen.outcome else { return result };
        if !is_suspicious(reason) {
            return result;
        }
        let patience = self.canary.deadline + BACKSTOP;
        match tokio::time::timeout(patience, self.network(begun)).await {
            Ok(Network::Down) => offline(result, self.services.len()),
            Ok(Network::Up | Network::Unclear) | Err(_) => result,
        }
    }

    /// How the network is, or was at some time since `begun`.
    async fn network(&self, begun: Instant) -> Network {
        if let Some(known) = self.known(begun) {
            return known;
        }
        let _asking = self.asking.lock().await;
        // Whoever asked before has perhaps answered this too.
        if let Some(known) = self.known(begun) {
            return known;
        }
        let asked = Instant::now();
        let network = self.ask().await;
        self.vitals.asked(network);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.last.map_or(Network::Up, |answer| answer.network);
        match (before, network) {
            (_, Network::Down) if before != Network::Down => {
                tracing::warn!(
                    canaries = self.services.len(),
                    "no canary can be reached: failures say nothing for now"
                );
            }
            (Network::Down, Network::Up) => tracing::info!("a canary can be reached again"),
            _ => {}
        }
        known.last = Some(Answer { network, asked });
        if network == Network::Down {
            known.down_at = Some(Instant::now());
        }
        network
    }

    fn known(&self, begun: Instant) -> Option<Network> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.down_at.is_some_and(|down_at| down_at >= begun) {
            return Some(Network::Down);
        }
        known.last.filter(|answer| answer.asked.elapsed() < self.canary.remembered).map(|answer| answer.network)
    }

    /// Probes all canaries until one is reached, or all are known to be out of reach.
    async fn ask(&self) -> Network {
        let (begin, slot) = (Instant::now(), Slot::at(self.clock.now()));
        let probes: Vec<_> = self
            .services
            .iter()
            .map(|service| Probe::new(Arc::clone(service), Region::default(), slot, Kind::Manual))
            .collect();
        let mut seen: FuturesUnordered<_> =
            probes.iter().map(|probe| AssertUnwindSafe(self.probers.probe(probe)).catch_unwind()).collect();
        let answers = async {
            while let Some(seen) = seen.next().await {
                match seen.map(|seen| seen.outcome) {
                    Ok(outcome) if is_out_of_reach(outcome) => {}
                    // What says nothing of the network (a panic, a forbidden address) shows nothing.
                    Err(_) | Ok(Outcome::Indeterminate(_)) => return Network::Unclear,
                    Ok(_) => return Network::Up,
                }
            }
            Network::Down
        };
        // One that does not return in time could not be reached either.
        let network = tokio::time::timeout(self.canary.deadline, answers).await.unwrap_or(Network::Down);
        let stalled = begin.elapsed() > self.canary.deadline + STALL;
        if network == Network::Down && stalled { Network::Unclear } else { network }
    }
}

fn offline(result: ProbeResult, canaries: usize) -> ProbeResult {
    let seen = result.seen;
    let reason = seen.outcome.reason().map_or("", |reason| reason.as_str());
    let words = seen.detail.as_deref().map_or(String::new(), |detail| format!(": {detail}"));
    let detail = format!("none of {canaries} canaries could be reached; the probe itself ended with {reason}{words}");
    let outcome = Outcome::Indeterminate(IndeterminateReason::Offline);
    ProbeResult { seen: Observation { outcome, ..seen }.with_detail(&detail), ..result }
}
