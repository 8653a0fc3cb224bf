//! What a service's results come to over a span: counts, latency, uptime and coverage, incidents.
//!
//! A [`Summary`] is a sum: those of parts of a span, in whatever order and grouping they are merged,
//! give that of the whole. So a store may keep sums of whole hours, and read only what is left over.
//!
//! Only results of [`Kind::Scheduled`] are summed: how often others come says something about people
//! and about the engine, not about the service. Whether they voted makes no difference: one that
//! came late is as true as the others.

mod expected;
mod histogram;
mod incidents;
mod uptime;

use std::collections::BTreeMap;

pub use expected::{Pause, expected_slots, pauses};
pub use histogram::{Histogram, HistogramError};
pub use incidents::{Incident, incidents};
pub use uptime::{Figures, Uptime};

use crate::{
    id::Region,
    probe::{Kind, Outcome, ProbeResult},
    service::Service,
    time::Slot,
};

/// How many results saw what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// The target answered as it should.
    pub pass: u64,
    /// It did, but too slowly.
    pub slow: u64,
    /// It did not.
    pub fail: u64,
    /// Nothing was learnt about it.
    pub indeterminate: u64,
}

impl Counts {
    /// Adds `count` results of this outcome.
    pub const fn add(&mut self, outcome: Outcome, count: u64) {
        let place = match outcome {
            Outcome::Pass => &mut self.pass,
            Outcome::Slow => &mut self.slow,
            Outcome::Fail(_) | Outcome::Fatal(_) => &mut self.fail,
            Outcome::Indeterminate(_) => &mut self.indeterminate,
        };
        *place = place.saturating_add(count);
    }

    /// Adds those of `other`.
    pub const fn merge(&mut self, other: &Self) {
        self.pass = self.pass.saturating_add(other.pass);
        self.slow = self.slow.saturating_add(other.slow);
        self.fail = self.fail.saturating_add(other.fail);
        self.indeterminate = self.indeterminate.saturating_add(other.indeterminate);
    }

    /// How many of them say something about the service.
    pub const fn seen(&self) -> u64 {
        self.pass.saturating_add(self.slow).saturating_add(self.fail)
    }

    /// How many there are.
    pub const fn all(&self) -> u64 {
        self.seen().saturating_add(self.indeterminate)
    }
}

/// The scheduled results from one region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegionSummary {
    /// How many saw what.
    pub counts: Counts,
    /// How long those took that passed, slow ones among them. Failures are left out: a refused
    /// connection is quick, and a timeout tells only of the timeout.
    pub latency: Histogram,
    /// The newest slot that a result came for.
    pub newest: Option<Slot>,
}

impl RegionSummary {
    /// Adds what `other` has.
    pub fn merge(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.latency.merge(&other.latency);
        self.newest = self.newest.max(other.newest);
    }
}

/// The scheduled results of one service over a span, by region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    regions: BTreeMap<Region, RegionSummary>,
}

impl Summary {
    /// Adds a result, if it is a scheduled one.
    pub fn add(&mut self, result: &ProbeResult) {
        if result.id.kind != Kind::Scheduled {
            return;
        }
        let region = self.regions.entry(result.id.region.clone()).or_default();
        region.counts.add(result.seen.outcome, 1);
        if matches!(result.seen.outcome, Outcome::Pass | Outcome::Slow) {
            region.latency.add(result.seen.latency_us);
        }
        region.newest = region.newest.max(Some(result.id.slot));
    }

    /// Adds what came from a region.
    pub fn add_region(&mut self, region: &Region, part: &RegionSummary) {
        if part.counts.all() > 0 {
            self.regions.entry(region.clone()).or_default().merge(part);
        }
    }

    /// Adds the sum of another span, or of another part of this one.
    pub fn merge(&mut self, other: &Self) {
        other.regions.iter().for_each(|(region, part)| self.add_region(region, part));
    }

    /// The regions that results came from.
    pub fn regions(&self) -> impl Iterator<Item = (&Region, &RegionSummary)> {
        self.regions.iter()
    }

    /// What came from this region.
    pub fn region(&self, region: &Region) -> Option<&RegionSummary> {
        self.regions.get(region)
    }

    /// All regions together.
    pub fn total(&self) -> RegionSummary {
        let mut total = RegionSummary::default();
        self.regions.values().for_each(|part| total.merge(part));
        total
    }
}

impl<'a> Extend<&'a ProbeResult> for Summary {
    fn extend<I: IntoIterator<Item = &'a ProbeResult>>(&mut self, results: I) {
        results.into_iter().for_each(|result| self.add(result));
    }
}

impl<'a> FromIterator<&'a ProbeResult> for Summary {
    fn from_iter<I: IntoIterator<Item = &'a ProbeResult>>(results: I) -> Self {
        let mut summary = Self::default();
        summary.extend(results);
        summary
    }
}

/// A service, and what its results come to over a span.
#[derive(Debug, Clone, PartialEq)]
pub struct Summed {
    /// The service as it is now; it may be deleted.
    pub service: Service,
    /// The first slot of the span: the one asked for. Where single results are gone and only sums of
    /// whole hours are left, the next hour's beginning.
    pub from: Slot,
    /// The slot after the last of the span, likewise: or the beginning of its hour.
    pub to: Slot,
    /// The sum.
    pub summary: Summary,
}
