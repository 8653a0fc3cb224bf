//! A monitor over memory whose clock follows tokio's paused timer, and targets with a script.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    memory::{MemoryProbeQueue, MemoryResultStore, QueueLimits, StoreLimits},
    ports::{Clock, ProbeQueue, Prober, ResultStore},
    probe::{FailReason, Observation, Outcome, Probe},
    runtime::{Monitor, MonitorBuilder, clock::TimerClock},
    service::{FieldErrors, ServiceSettings},
    time::Timestamp,
};

pub(crate) const ALL: NonZeroUsize = NonZeroUsize::new(10_000_000).unwrap();

/// The first instant of the simulation.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// What a simulated monitor works with.
pub(crate) struct World {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<MemoryResultStore>,
    pub(crate) queue: Arc<dyn ProbeQueue>,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TimerClock::starting_at(START));
        let limits = StoreLimits { results_per_service: 1_000_000, log: 10_000_000, ..StoreLimits::default() };
        let store = Arc::new(MemoryResultStore::new(Arc::clone(&clock), limits));
        let queue = Arc::new(MemoryProbeQueue::new(Arc::clone(&clock), QueueLimits::default()));
        Self { clock, store, queue }
    }

    pub(crate) fn monitor(&self, prober: Arc<dyn Prober>) -> MonitorBuilder {
        Monitor::builder()
            .clock(Arc::clone(&self.clock))
            .store(Arc::clone(&self.store) as Arc<dyn ResultStore>)
            .queue(Arc::clone(&self.queue))
            .prober(prober)
    }
}

/// A walk that looks random and is the same every time for a seed.
pub(crate) struct Walk(pub(crate) u64);

impl Walk {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Targets whose behaviour is a function of their name and the time: minutes of passing, failing,
/// flapping, hanging and panicking.
pub(crate) struct Scripted(pub(crate) Arc<dyn Clock>);

#[async_trait]
impl Prober for Scripted {
    fn schemes(&self) -> &[&'static str] {
        &["test"]
    }

    fn check(&self, _: &ServiceSettings) -> Result<(), FieldErrors> {
        Ok(())
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        let minute = self.0.now().as_millis() / 60_000;
        let second = self.0.now().as_millis() / 1_000;
        let mut mood = Walk(probe.service.id.get() ^ minute.cast_unsigned());
        let mut moment = Walk(probe.service.id.get() ^ second.cast_unsigned());
        let took = Duration::from_millis(1 + moment.below(200));
        let seen = |outcome| Observation::new(outcome, took);
        tokio::time::sleep(took).await;
        match mood.below(8) {
            0 | 1 => seen(Outcome::Fail(FailReason::Status)),
            2 if moment.below(2) == 0 => seen(Outcome::Fail(FailReason::Connect)),
            3 if moment.below(2) == 0 => seen(Outcome::Slow),
            4 if moment.below(4) == 0 => std::future::pending().await,
            5 if moment.below(4) == 0 => panic!("a prober with a bug"),
            6 if moment.below(8) == 0 => seen(Outcome::Fatal(FailReason::Tls)),
            _ => seen(Outcome::Pass),
        }
    }
}

/// Targets that always pass.
pub(crate) struct Up;

#[async_trait]
impl Prober for Up {
    fn schemes(&self) -> &[&'static str] {
        &["test"]
    }

    fn check(&self, _: &ServiceSettings) -> Result<(), FieldErrors> {
        Ok(())
    }

    async fn probe(&self, _: &Probe) -> Observation {
        Observation::new(Outcome::Pass, Duration::from_millis(1))
    }
}

/// What a target does at an instant: what is seen of it, after how long.
pub(crate) type Seen = (Outcome, Duration);

/// Targets whose behaviour is told by a function of their host and the time since [`START`]. What
/// takes longer than the timeout is a timeout.
pub(crate) struct Truth<F> {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tell: F,
}

#[async_trait]
impl<F: Fn(&str, Duration) -> Seen + Send + Sync> Prober for Truth<F> {
    fn schemes(&self) -> &[&'static str] {
        &["test"]
    }

    fn check(&self, _: &ServiceSettings) -> Result<(), FieldErrors> {
        Ok(())
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        let (url, timeout) = (probe.service.settings.url.url(), probe.service.settings.timeout.get());
        let (outcome, took) = (self.tell)(url.host_str().unwrap_or(""), self.clock.now().since(START));
        tokio::time::sleep(took.min(timeout)).await;
        if took > timeout {
            return Observation::new(Outcome::Fail(FailReason::Timeout), timeout).with_detail("nothing came");
        }
        let seen = Observation::new(outcome, took);
        match outcome {
            Outcome::Slow => seen.with_detail("latency: expected at most 500ms, got 812.0 ms"),
            Outcome::Fail(_) => seen.with_detail("Connection refused"),
            _ => seen,
        }
    }
}

/// Settings of a service at `test://<host>`, with what else is given.
pub(crate) fn settings(host: &str, more: &serde_json::Value) -> ServiceSettings {
    let mut json = serde_json::json!({"name": host, "url": format!("test://{host}"), "interval": "10s"});
    for (field, value) in more.as_object().into_iter().flatten() {
        json[field] = value.clone();
    }
    serde_json::from_value(json).unwrap()
}
