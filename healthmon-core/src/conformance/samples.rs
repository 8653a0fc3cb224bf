//! Services, probes and results that the suites make.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use crate::{
    engine::{LatchRule, Thresholds},
    id::{Region, ServiceId},
    probe::{FailReason, IndeterminateReason, Kind, Observation, Outcome, Probe, ProbeId, ProbeResult},
    service::{Interval, Label, Regions, Service, ServiceSettings, Tags, Timeout},
    time::{Slot, Timestamp},
};

pub(super) const FAIL: Outcome = Outcome::Fail(FailReason::Timeout);
pub(super) const NOTHING: Outcome = Outcome::Indeterminate(IndeterminateReason::Stalled);
pub(super) const INTERVAL: Duration = Duration::from_mins(1);
pub(super) const TIMEOUT: Duration = Duration::from_millis(100);

pub(super) fn many(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("more than none")
}

pub(super) const ALL: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

pub(super) fn id(number: u64) -> ServiceId {
    ServiceId::new(number).expect("a number from 1")
}

pub(super) fn interval(span: Duration) -> Interval {
    Interval::new(span).expect("an interval")
}

pub(super) fn region(name: &str) -> Region {
    Region::new(name).expect("a region")
}

pub(super) fn regions(names: &[&str]) -> Regions {
    Regions::new(names.iter().map(|name| region(name)).collect()).expect("regions")
}

pub(super) fn tags(pairs: &[(&str, &str)]) -> Tags {
    let pairs: BTreeMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Tags::new(pairs).expect("tags")
}

/// Thresholds of `k` failures in a row and `s` successes in a row.
pub(super) fn thresholds(failures: u8, successes: u8) -> Thresholds {
    Thresholds::with_down(LatchRule::new(failures, failures, successes).expect("a rule"))
}

/// A service probed each minute, which one failure takes down and one success up: with it each
/// change of outcome is a transition.
pub(super) fn touchy(name: &str) -> ServiceSettings {
    let url = format!("http://{name}.conformance.test/").parse().expect("a target");
    ServiceSettings {
        timeout: Timeout::new(TIMEOUT).expect("a timeout"),
        policy: thresholds(1, 1),
        ..ServiceSettings::new(Label::new(name).expect("a name"), url, interval(INTERVAL))
    }
}

/// The same with the usual thresholds: three failures in a row, two successes.
pub(super) fn usual(name: &str) -> ServiceSettings {
    ServiceSettings { policy: Thresholds::default(), ..touchy(name) }
}

/// The same, probed this often.
pub(super) fn each(name: &str, span: Duration) -> ServiceSettings {
    ServiceSettings { interval: interval(span), ..touchy(name) }
}

pub(super) fn probe_id(service: &Service, slot: Slot) -> ProbeId {
    ProbeId { service: service.id, slot, region: Region::default(), kind: Kind::Scheduled }
}

/// A scheduled result from the region `local`.
pub(super) fn result(service: &Service, slot: Slot, outcome: Outcome) -> ProbeResult {
    let started = slot.time().after(Duration::from_micros(1_234));
    let seen = Observation::new(outcome, Duration::from_micros(12_345));
    ProbeResult { id: probe_id(service, slot), epoch: service.epoch, started, seen }
}

/// A service that no store has seen, for the queue's probes.
pub(super) fn unregistered(number: u64, now: Timestamp) -> Arc<Service> {
    let (revision, epoch) = (crate::id::Revision(number), crate::id::Epoch(1));
    Arc::new(Service::registered(id(number), touchy(&format!("service-{number}")), revision, epoch, now))
}

/// `count` probes of as many services, due at `now`.
pub(super) fn probes(from: u64, count: u64, now: Timestamp) -> Vec<Probe> {
    let probe = |number| Probe::new(unregistered(number, now), Region::default(), Slot::at(now), Kind::Scheduled);
    (from..from + count).map(probe).collect()
}

/// A small generator of numbers that look random and are the same in every run (SplitMix64).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit.max(1) as u64).unwrap_or(0)
    }

    /// One of five outcomes.
    pub(super) fn outcome(&mut self) -> Outcome {
        [Outcome::Pass, Outcome::Pass, FAIL, FAIL, Outcome::Slow, NOTHING][self.below(6)]
    }
}
