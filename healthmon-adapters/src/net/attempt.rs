//! What every prober's attempt has in common: a deadline for all of it, and one way to conclude.

use std::time::Duration;

use healthmon_core::{
    probe::{FailReason, IndeterminateReason, Inspection, Observation, Outcome, Probe},
    service::FieldErrors,
};
use tokio::time::{Instant, Timeout, error::Elapsed, timeout_at};

use super::{DialError, Expectations, Progress, Stage};
use crate::secrets::SecretError;

/// Why a probe did not pass.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) outcome: Outcome,
    pub(crate) detail: String,
}

impl Fault {
    pub(crate) fn fail(reason: FailReason, detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail(reason), detail: detail.into() }
    }

    pub(crate) fn indeterminate(reason: IndeterminateReason, detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Indeterminate(reason), detail: detail.into() }
    }

    /// Settings that were checked when the service was registered and cannot be read now: this
    /// worker is older than they are. Only the fields are named, for what stands in them may be secret.
    pub(crate) fn unreadable(errors: &FieldErrors) -> Self {
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let detail = format!("this prober cannot read the settings: {}", fields.join(", "));
        Self::indeterminate(IndeterminateReason::Unsupported, detail)
    }
}

#[cfg(any(feature = "grpc", feature = "http", feature = "tcp", feature = "websocket"))]
impl Fault {
    /// The same without what was sent in confidence: some peers repeat it, be it in a certificate's names.
    pub(crate) fn redacted(self, redactor: &crate::secrets::Redactor) -> Self {
        Self { detail: redactor.redact(&self.detail), ..self }
    }
}

#[cfg(any(feature = "tcp", feature = "websocket"))]
impl Fault {
    /// The same where nothing that a peer says is told but the names in its certificate. All else is our own
    /// text, in which "connection" may be a word that was sent as well.
    pub(crate) fn redacted_of_certificate(self, redactor: impl FnOnce() -> crate::secrets::Redactor) -> Self {
        match self.outcome {
            Outcome::Fail(FailReason::Tls | FailReason::Certificate) => self.redacted(&redactor()),
            _ => self,
        }
    }
}

impl From<DialError> for Fault {
    fn from(error: DialError) -> Self {
        Self { outcome: error.outcome(), detail: error.to_string() }
    }
}

impl From<SecretError> for Fault {
    fn from(error: SecretError) -> Self {
        Self::indeterminate(IndeterminateReason::Secret, error.to_string())
    }
}

impl From<Fault> for Observation {
    /// What is observed when nothing was tried at all.
    fn from(fault: Fault) -> Self {
        Self::new(fault.outcome, Duration::ZERO).with_detail(&fault.detail)
    }
}

/// One attempt at a probe, from its begin to its end.
///
/// ```ignore
/// let attempt = Attempt::begin(probe);
/// let settings = prepared.of(&probe.service)?;
/// let attempt = attempt.measured_from_now();
/// let mut progress = Progress::default();
/// let ended = attempt.limit(run(attempt.deadline(), &mut progress)).await;
/// attempt.conclude(ended, progress, &expectations)
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    probe: &'a Probe,
    /// When the probe came: the deadline counts from here.
    came: Instant,
    /// Since when the target is measured.
    begun: Instant,
}

impl<'a> Attempt<'a> {
    pub(crate) fn begin(probe: &'a Probe) -> Self {
        let now = Instant::now();
        Self { probe, came: now, begun: now }
    }

    /// The same attempt, now that all is read that it takes: what that took is no part of what is
    /// measured, and yet of the time that there is.
    pub(crate) fn measured_from_now(self) -> Self {
        Self { begun: Instant::now(), ..self }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.came + self.timeout()
    }

    fn timeout(&self) -> Duration {
        self.probe.service.settings.timeout.get()
    }

    /// Runs `attempt` until the deadline, which drops it. Not `async`: such a function would hold
    /// room for its argument twice, for each probe that waits.
    pub(crate) fn limit<F>(&self, attempt: F) -> Timeout<F>
    where
        F: Future,
    {
        timeout_at(self.deadline(), attempt)
    }

    /// What it comes to: the fault that ended it, or else the assertions that did not hold.
    pub(crate) fn conclude(
        &self,
        ended: Result<Result<(), Fault>, Elapsed>,
        progress: &mut Progress,
        expectations: &Expectations,
    ) -> Observation {
        let timeout = self.timeout();
        let latency = self.begun.elapsed().saturating_sub(progress.queued).min(timeout);
        let fault = match ended {
            Ok(Ok(())) => {
                expectations.judge(latency, self.probe.id.slot.time(), progress);
                progress.assertions.verdict()
            }
            Ok(Err(fault)) => Some(fault),
            Err(_) => Some(self.cut_off(progress)),
        };
        let mut seen = Observation::new(fault.as_ref().map_or(Outcome::Pass, |fault| fault.outcome), latency);
        seen.phases = progress.phases;
        seen.code = progress.code;
        seen.certificate_expires = progress.certificate_expires;
        match fault {
            Some(fault) => seen.with_detail(&fault.detail),
            None => seen,
        }
    }

    /// The same with all that was learnt on the way, for an attempt that took a closer look.
    pub(crate) fn inspected(
        &self,
        ended: Result<Result<(), Fault>, Elapsed>,
        mut progress: Progress,
        expectations: &Expectations,
    ) -> Inspection {
        let seen = self.conclude(ended, &mut progress, expectations);
        Inspection { seen, facts: progress.facts.unwrap_or_default(), assertions: progress.assertions.all() }
    }

    fn cut_off(&self, progress: &Progress) -> Fault {
        let stage = progress.stage;
        let at = if progress.is_at_proxy && stage != Stage::Proxy { " to the proxy" } else { "" };
        let detail = format!("timed out after {} ms while {}{at}", self.timeout().as_millis(), stage.as_str());
        // Never to have got a lookup is our trouble, not the target's; nor is to have begun too late. And
        // whoever was not reached yet, because the proxy or the token server hangs, is not what timed out.
        match stage {
            _ if self.begun >= self.deadline() => Fault::indeterminate(IndeterminateReason::Internal, detail),
            Stage::Preparing | Stage::LookupQueue => Fault::indeterminate(IndeterminateReason::Internal, detail),
            Stage::Token => Fault::fail(FailReason::Authentication, detail),
            _ if progress.is_at_proxy => Fault::fail(FailReason::Proxy, detail),
            _ => Fault::fail(FailReason::Timeout, detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use healthmon_core::{
        id::{Epoch, Region, Revision, ServiceId},
        probe::Kind,
        service::Service,
        time::{Slot, Timestamp},
    };
    use serde_json::json;
    use tokio::time::{advance, sleep};

    use super::*;

    /// A probe that may take a second.
    fn probe() -> Probe {
        let settings = json!({"name": "a", "url": "tcp://192.0.2.1:1", "interval": "1m", "timeout": "1s"});
        let settings = serde_json::from_value(settings).expect("settings");
        let now = Timestamp::from_millis(1_700_000_000_000);
        let id = ServiceId::new(1).expect("an id");
        let service = Service::registered(id, settings, Revision(1), Epoch(1), now);
        Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Scheduled)
    }

    /// What comes of an attempt that connects for so long, after so long was taken by its settings.
    async fn seen(reading: Duration, connecting: impl Future<Output = ()>) -> Observation {
        let (probe, mut progress) = (probe(), Progress::default());
        let attempt = Attempt::begin(&probe);
        advance(reading).await;
        let attempt = attempt.measured_from_now();
        progress.stage = Stage::Connect;
        let connecting = async {
            connecting.await;
            Ok(())
        };
        let ended = attempt.limit(connecting).await;
        attempt.conclude(ended, &mut progress, &Expectations::default())
    }

    #[tokio::test(start_paused = true)]
    async fn what_reading_the_settings_takes_is_no_latency() {
        let seen = seen(Duration::from_millis(400), async { sleep(Duration::from_millis(100)).await }).await;
        assert_eq!(seen.outcome, Outcome::Pass);
        // Timers go by whole milliseconds.
        assert!((100_000..=102_000).contains(&seen.latency_us), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_reading_the_settings_takes_is_part_of_the_time_there_is() {
        let begun = Instant::now();
        let seen = seen(Duration::from_millis(400), pending()).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout));
        assert!((600_000..=602_000).contains(&seen.latency_us), "{seen:?}");
        assert!(begun.elapsed() < Duration::from_millis(1_010), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn when_reading_the_settings_took_all_of_it_the_target_is_not_to_blame() {
        let seen = seen(Duration::from_secs(1), pending()).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Internal), "{seen:?}");
    }
}
