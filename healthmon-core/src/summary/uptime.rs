use super::{Counts, Histogram, Incident, RegionSummary, Summed, expected_slots, incidents, pauses};
use crate::{
    id::Region,
    record::sweep,
    service::Service,
    status::LogEntry,
    time::{Slot, Timestamp},
};

/// What results come to beside what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// How many results saw what.
    pub counts: Counts,
    /// How many results there should be.
    pub expected: u64,
    /// How long those took that passed.
    pub latency: Histogram,
}

impl Figures {
    /// The part of those results that say something in which the service answered: from 0 to 1. None
    /// when nothing was seen: silence is neither UP nor DOWN.
    pub fn uptime(&self) -> Option<f64> {
        ratio(self.counts.pass + self.counts.slow, self.counts.seen())
    }

    /// The part of the expected results that came and say something: from 0 to 1. None when none was
    /// expected.
    pub fn coverage(&self) -> Option<f64> {
        ratio(self.counts.seen().min(self.expected), self.expected)
    }

    fn add(&mut self, other: &Self) {
        self.counts.merge(&other.counts);
        self.expected += other.expected;
        self.latency.merge(&other.latency);
    }
}

#[expect(clippy::cast_precision_loss, reason = "no count of results reaches 2^53")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// How a service did over a span.
#[derive(Debug, Clone, PartialEq)]
pub struct Uptime {
    /// The first slot of the span.
    pub from: Slot,
    /// The slot after its last.
    pub to: Slot,
    /// All regions together.
    pub total: Figures,
    /// Each region, by name: those that the service is probed from, and others that results came from.
    pub regions: Vec<(Region, Figures)>,
    /// When it was down, oldest first.
    pub incidents: Vec<Incident>,
    /// Whether the whole of the service's log in this span was looked at. If not, older incidents
    /// are missing, and older pauses count as gaps.
    pub is_complete: bool,
}

impl Uptime {
    /// What a service's results and its log come to, as it stands at `now`. `log` is the part of the log that concerns the span, oldest first; see
    /// [`incidents`] for how much that is.
    ///
    /// A slot is expected once a result for it or for a later one has come from that region, or could no
    /// longer come (as the sweep has it): what is under way is no gap yet. From a region that the
    /// service is no longer probed from, what came is what was expected; one that it is newly probed
    /// from counts as if it always had been.
    pub fn of(summed: &Summed, log: &[LogEntry], now: Timestamp) -> Self {
        let Summed { service, from, to, summary } = summed;
        let pauses = pauses(log);
        let mut regions: Vec<(Region, Figures)> = Vec::new();
        let probed = service.settings.regions.iter().filter(|region| summary.region(region).is_none());
        let silent = RegionSummary::default();
        let all = summary.regions().chain(probed.map(|region| (region, &silent)));
        for (region, part) in all {
            let expected = if service.settings.regions.iter().any(|probed| probed == region) {
                expected_slots(service, &pauses, *from, (*to).min(reported_by(service, part, now)))
            } else {
                part.counts.all()
            };
            let figures = Figures { counts: part.counts, expected, latency: part.latency.clone() };
            regions.push((region.clone(), figures));
        }
        regions.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut total = Figures::default();
        regions.iter().for_each(|(_, figures)| total.add(figures));
        let incidents = incidents(log, from.time(), to.time().min(now));
        Self { from: *from, to: *to, total, regions, incidents, is_complete: true }
    }
}

/// The slot after the last one whose result must be there by now.
fn reported_by(service: &Service, part: &RegionSummary, now: Timestamp) -> Slot {
    let overdue = Slot::at(now.before(sweep::allowance(service)));
    let next = |slot: Slot| Slot::from_millis(slot.as_millis().saturating_add(1));
    next(part.newest.map_or(overdue, |newest| newest.max(overdue)))
}
