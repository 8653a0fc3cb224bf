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
/// let mut progress = Progress::default();
/// let ended = attempt.limit(run(attempt.deadline(), &mut progress)).await;
/// attempt.conclude(ended, progress, &expectations)
/// ```
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt<'a> {
    probe: &'a Probe,
    begun: Instant,
}

impl<'a> Attempt<'a> {
    pub(crate) fn begin(probe: &'a Probe) -> Self {
        Self { probe, begun: Instant::now() }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.begun + self.timeout()
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
        let latency = self.begun.elapsed().min(timeout);
        let fault = match ended {
            Ok(Ok(())) => {
                expectations.judge(latency, self.probe.id.slot.time(), progress);
                progress.assertions.verdict()
            }
            Ok(Err(fault)) => Some(fault),
            Err(_) => Some(self.cut_off(progress.stage)),
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

    fn cut_off(&self, stage: Stage) -> Fault {
        let detail = format!("timed out after {} ms while {}", self.timeout().as_millis(), stage.as_str());
        // Never to have got a lookup is our trouble, not the target's.
        match stage {
            Stage::Preparing | Stage::LookupQueue => Fault::indeterminate(IndeterminateReason::Internal, detail),
            _ => Fault::fail(FailReason::Timeout, detail),
        }
    }
}
