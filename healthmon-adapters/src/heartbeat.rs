//! The prober of services that report in: it looks at what they said last.

mod judge;
mod settings;

use std::sync::Arc;

use async_trait::async_trait;
use healthmon_core::{
    heartbeat::{Heard, Said},
    ports::{Heartbeats, Prober, StoreError},
    probe::{Fact, IndeterminateReason, Inspection, Observation, Probe},
    service::{FieldErrors, ServiceSettings, Target},
    time::{Timestamp, span},
};
use tokio::time::{Instant, timeout};

use self::{judge::Expected, settings::Settings};
use crate::prepared::Prepared;

/// Probes `heartbeat` targets: services that are not asked, but report in.
///
/// A probe passes when the service's last word is a success, and that is not too long ago. It
/// fails as `reported` when the last word is a failure, as `silence` when there was none for longer
/// than it is expected plus a grace, and as `timeout` when a run began and has not ended within the
/// longest time that it may take. Until a service that is new, or probed again, has had that time
/// for its first word, a probe says nothing (`awaited`): silence is neither health nor failure.
///
/// # Options
///
/// ```
/// # let settings = serde_json::json!({ "name": "nightly backup",
/// "url": "heartbeat://nightly-backup",      // what comes after // is only a label
/// "interval": "1m",                         // how often it is looked whether a sign is overdue
/// "heartbeat": {
///   "every": "24h",                         // the interval; how often a success is expected
///   "grace": "30m",                         // a tenth of that, from 10 s to 1 h
///   "max_runtime": "2h"                     // none; how long a run may take that said it began
/// }
/// # });
/// # use healthmon_core::{memory::{MemoryResultStore, StoreLimits}, ports::Prober, runtime::clock::SystemClock};
/// # use std::sync::Arc;
/// # let store = MemoryResultStore::new(Arc::new(SystemClock::new()), StoreLimits::default());
/// # let prober = healthmon_adapters::heartbeat::HeartbeatProber::new(Arc::new(store));
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Silence that may be our own is none: where nobody took signs at a time in which one was to come, the
/// service is awaited once more.
///
/// While a run is under way that began in time, nothing is overdue until `max_runtime` is over.
pub struct HeartbeatProber {
    heartbeats: Arc<dyn Heartbeats>,
    prepared: Prepared<Settings>,
}

impl HeartbeatProber {
    /// A prober that looks at what this store keeps.
    pub fn new(heartbeats: Arc<dyn Heartbeats>) -> Self {
        Self { heartbeats, prepared: Prepared::default() }
    }

    async fn perform(&self, probe: &Probe) -> (Observation, Option<(Heard, Expected)>) {
        let (begun, limit, id) = (Instant::now(), probe.service.settings.timeout.get(), probe.service.id);
        let expected = match self.prepared.of(&probe.service) {
            Ok(settings) => Expected::of(probe, &settings),
            Err(errors) => {
                let detail = format!("this prober cannot read the settings: {errors}");
                return (Observation::indeterminate(IndeterminateReason::Unsupported, &detail), None);
            }
        };
        let heard = match timeout(limit, self.heartbeats.heard(id)).await {
            Ok(Ok(heard)) => heard,
            Ok(Err(error)) => return (unread(&error), None),
            Err(_) => {
                let detail = format!("what it said last could not be read within {} ms", limit.as_millis());
                return (Observation::indeterminate(IndeterminateReason::Internal, &detail), None);
            }
        };
        let verdict = expected.judge(heard.as_ref());
        let mut seen = Observation::new(verdict.outcome, begun.elapsed().min(limit));
        seen.code = verdict.code;
        let seen = match verdict.detail {
            Some(detail) => seen.with_detail(&detail),
            None => seen,
        };
        (seen, heard.map(|heard| (heard, expected)))
    }
}

/// Our own trouble is no word on the service.
fn unread(error: &StoreError) -> Observation {
    let detail = format!("what it said last could not be read: {error}");
    Observation::indeterminate(IndeterminateReason::Internal, &detail)
}

#[async_trait]
impl Prober for HeartbeatProber {
    fn schemes(&self) -> &[&'static str] {
        &["heartbeat"]
    }

    /// Nobody is waited for: what was said is looked up.
    fn host<'t>(&self, _: &'t Target) -> Option<&'t str> {
        None
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        settings::check(settings)
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe).await.0
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        let (seen, known) = self.perform(probe).await;
        let mut inspection = Inspection::of(seen);
        let Some((Heard { pulse, listening }, expected)) = known else { return inspection };
        for (what, said) in
            [("last success", &pulse.success), ("last failure", &pulse.failure), ("last start", &pulse.start)]
        {
            inspection.facts.extend(said.as_ref().map(|said| Fact::new(what, &told(said))));
        }
        if let Some(since) = pulse.open_since {
            inspection.facts.push(Fact::new("run under way since", &since.to_string()));
        }
        for deaf in listening.deaf_by(probe.id.slot.time()) {
            let value = format!("from {} to {}", deaf.from, deaf.to);
            inspection.facts.push(Fact::new("nobody took signs", &value));
        }
        inspection.facts.push(Fact::new("expected by", &expected.by(&pulse).to_string()));
        inspection
    }
}

/// A sign in words.
fn told(said: &Said) -> String {
    let mut text = said.at.to_string();
    if let Some(status) = said.exit_status {
        text.push_str(&format!(", exit status {status}"));
    }
    if let Some(run) = &said.run {
        text.push_str(&format!(", run {run}"));
    }
    if let Some(message) = &said.message {
        text.push_str(&format!(": {message}"));
    }
    text
}

/// A span in words, to the second.
fn rough(from: Timestamp, to: Timestamp) -> String {
    span::format(std::time::Duration::from_secs(to.since(from).as_secs()))
}
