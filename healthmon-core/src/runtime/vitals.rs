//! How the monitor itself is doing: lateness, lag, counts. Through the `metrics` facade for whoever
//! installs a recorder, and as newest values for whoever asks.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use serde::{Deserialize, Serialize};

use crate::{
    ports::{Enqueued, Recorded, SetAside},
    probe::{IndeterminateReason, Kind, Outcome, Probe, ProbeResult},
    status::{LogEntry, LogEvent},
    time::Timestamp,
};

/// How long a window of newest values is; what is shown is one to two windows old at most.
const WINDOW: Duration = Duration::from_secs(10);

/// What the loops note of themselves as they go.
pub struct Vitals {
    emission: Span,
    start: Span,
    record: Span,
    emitted: Counter,
    missed: Counter,
    fenced: Counter,
    enqueued_again: Counter,
    sooner: Counter,
    recorded: Counter,
    repeated: Counter,
    expired: Counter,
    /// When the scheduler last answered, in microseconds; 0 is never.
    scheduled_at_us: AtomicI64,
}

/// What canaries say of the prober's own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// At least one of them was reached.
    Up,
    /// None of them was.
    Down,
    /// They cannot say.
    Unclear,
}

/// Spans of the last moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VitalSigns {
    /// From slot to enqueuing, for scheduled probes this process emitted.
    pub emission_lateness: Recent,
    /// From slot to start, for scheduled probes this process performed.
    pub start_lateness: Recent,
    /// From a probe's start to its result being recorded by this process, the probe's own time included.
    pub record_lag: Recent,
    /// When this process's scheduler last said what is due, if it ever did.
    pub scheduled_at: Option<Timestamp>,
}

/// How many there were in the last ten to twenty seconds, and the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recent {
    /// How many.
    pub count: u64,
    /// The longest, in microseconds.
    pub longest_us: u64,
}

struct Span {
    histogram: Histogram,
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    began: Timestamp,
    current: Recent,
    before: Recent,
}

impl Recent {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.longest_us = self.longest_us.max(other.longest_us);
    }
}

impl Windows {
    fn turn(&mut self, now: Timestamp) {
        let age = now.since(self.began);
        if age >= WINDOW {
            let current = std::mem::take(&mut self.current);
            self.before = if age < 2 * WINDOW { current } else { Recent::default() };
            self.began = now;
        }
    }
}

impl Span {
    fn new(histogram: Histogram) -> Self {
        Self { histogram, windows: Mutex::default() }
    }

    fn note(&self, now: Timestamp, spans: impl Iterator<Item = Duration>) {
        let mut noted = Recent::default();
        for span in spans {
            self.histogram.record(span.as_secs_f64());
            let longest_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
            noted.add(Recent { count: 1, longest_us });
        }
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        windows.current.add(noted);
    }

    fn recent(&self, now: Timestamp) -> Recent {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.turn(now);
        let mut recent = windows.before;
        recent.add(windows.current);
        recent
    }
}

impl Default for Vitals {
    /// Reports to the metrics recorder that is installed now, if one is.
    fn default() -> Self {
        describe_histogram!("healthmon_emission_lateness_seconds", "From slot to enqueuing, scheduled probes");
        describe_histogram!("healthmon_start_lateness_seconds", "From slot to the probe's start, scheduled probes");
        describe_histogram!("healthmon_record_lag_seconds", "From a probe's start to its result being recorded");
        describe_counter!("healthmon_probes_emitted_total", "Probes enqueued");
        describe_counter!("healthmon_slots_missed_total", "Slots for which no probe was begun in time");
        describe_counter!("healthmon_probes_repeated_total", "Probes that were on the queue already, or had been");
        describe_counter!("healthmon_probes_fenced_total", "Probes that the queue dropped: their claim was stale");
        describe_counter!("healthmon_probes_total", "Probes performed, by outcome and reason");
        describe_counter!("healthmon_edge_probes_total", "Probes enqueued sooner because a change is undecided");
        describe_counter!("healthmon_results_recorded_total", "Results recorded");
        describe_counter!("healthmon_results_total", "Results given to the store, by outcome and reason");
        describe_counter!("healthmon_probes_expired_total", "Probes that nobody began by their start-by, as recorded");
        describe_counter!("healthmon_results_repeated_total", "Results that were recorded already");
        describe_counter!("healthmon_results_set_aside_total", "Results that cannot be recorded, by why");
        describe_counter!("healthmon_transitions_total", "Transitions recorded, by the status they lead to");
        describe_counter!("healthmon_canary_questions_total", "Times that the canaries were asked, by their answer");
        describe_gauge!("healthmon_canary_reachable", "Whether a canary could be reached when last asked: 1 or 0");
        Self {
            emission: Span::new(histogram!("healthmon_emission_lateness_seconds")),
            start: Span::new(histogram!("healthmon_start_lateness_seconds")),
            record: Span::new(histogram!("healthmon_record_lag_seconds")),
            emitted: counter!("healthmon_probes_emitted_total"),
            missed: counter!("healthmon_slots_missed_total"),
            fenced: counter!("healthmon_probes_fenced_total"),
            enqueued_again: counter!("healthmon_probes_repeated_total"),
            sooner: counter!("healthmon_edge_probes_total"),
            recorded: counter!("healthmon_results_recorded_total"),
            repeated: counter!("healthmon_results_repeated_total"),
            expired: counter!("healthmon_probes_expired_total"),
            scheduled_at_us: AtomicI64::new(0),
        }
    }
}

impl Vitals {
    /// The newest values, as of `now`.
    pub fn signs(&self, now: Timestamp) -> VitalSigns {
        VitalSigns {
            emission_lateness: self.emission.recent(now),
            start_lateness: self.start.recent(now),
            record_lag: self.record.recent(now),
            scheduled_at: Some(self.scheduled_at_us.load(Ordering::Relaxed))
                .filter(|at| *at > 0)
                .map(Timestamp::from_micros),
        }
    }

    /// The scheduler said what is due.
    pub(super) fn scheduled(&self, now: Timestamp) {
        self.scheduled_at_us.store(now.as_micros(), Ordering::Relaxed);
    }

    /// Probes were enqueued.
    pub(super) fn enqueued(&self, now: Timestamp, probes: &[Probe], enqueued: Enqueued) {
        let scheduled = probes.iter().filter(|probe| probe.id.kind == Kind::Scheduled);
        self.emission.note(now, scheduled.map(|probe| now.since(probe.id.slot.time())));
        self.emitted.increment(enqueued.accepted as u64);
        self.fenced.increment(enqueued.fenced as u64);
        self.enqueued_again.increment(enqueued.repeated as u64);
    }

    /// Slots went by.
    pub(super) fn missed(&self, slots: u64) {
        self.missed.increment(slots);
    }

    /// A probe was performed.
    pub(super) fn probed(&self, result: &ProbeResult) {
        let outcome = result.seen.outcome;
        if result.id.kind == Kind::Scheduled {
            self.start.note(result.started, std::iter::once(result.started.since(result.id.slot.time())));
        }
        let (outcome, reason) = labels(outcome);
        counter!("healthmon_probes_total", "outcome" => outcome, "reason" => reason).increment(1);
    }

    /// The canaries were asked.
    pub(super) fn asked(&self, network: Network) {
        let answer = match network {
            Network::Up => "up",
            Network::Down => "down",
            Network::Unclear => "unclear",
        };
        counter!("healthmon_canary_questions_total", "answer" => answer).increment(1);
        if network != Network::Unclear {
            gauge!("healthmon_canary_reachable").set(if network == Network::Up { 1.0 } else { 0.0 });
        }
    }

    /// Edge probes were enqueued because changes are undecided.
    pub(super) fn asked_sooner(&self, probes: usize) {
        self.sooner.increment(probes as u64);
    }

    /// Results were recorded.
    pub(super) fn recorded(&self, now: Timestamp, results: &[ProbeResult], recorded: &Recorded) {
        self.record.note(now, results.iter().map(|result| now.since(result.started)));
        self.recorded.increment(recorded.inserted as u64);
        self.repeated.increment(recorded.repeated as u64);
        let expired = Outcome::Indeterminate(IndeterminateReason::Expired);
        self.expired.increment(results.iter().filter(|result| result.seen.outcome == expired).count() as u64);
        let mut counts: BTreeMap<(&'static str, &'static str), u64> = BTreeMap::new();
        for result in results {
            *counts.entry(labels(result.seen.outcome)).or_default() += 1;
        }
        for ((outcome, reason), count) in counts {
            counter!("healthmon_results_total", "outcome" => outcome, "reason" => reason).increment(count);
        }
        for (_, why) in &recorded.set_aside {
            self.set_aside(*why);
        }
        Self::changed(&recorded.entries);
    }

    /// The sweep added to the log.
    pub(super) fn swept(&self, entries: &[LogEntry]) {
        Self::changed(entries);
    }

    fn changed(entries: &[LogEntry]) {
        for entry in entries {
            if let LogEvent::Transition(transition) = &entry.event {
                counter!("healthmon_transitions_total", "to" => transition.to.as_str()).increment(1);
            }
        }
    }

    /// A result cannot be recorded.
    pub(super) fn set_aside(&self, why: SetAside) {
        counter!("healthmon_results_set_aside_total", "why" => why.as_str()).increment(1);
    }
}

/// An outcome as metrics have it: its name, and the reason's or nothing.
fn labels(outcome: Outcome) -> (&'static str, &'static str) {
    (outcome.as_str(), outcome.reason().map_or("", |reason| reason.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_of_the_last_moments() {
        let span = Span::new(Histogram::noop());
        let at = |seconds: i64| Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000);
        let millis = Duration::from_millis;
        span.note(at(0), [millis(5), millis(9)].into_iter());
        span.note(at(1), std::iter::once(millis(3)));
        assert_eq!(span.recent(at(2)), Recent { count: 3, longest_us: 9_000 });
        span.note(at(11), std::iter::once(millis(1)));
        assert_eq!(span.recent(at(12)), Recent { count: 4, longest_us: 9_000 });
        assert_eq!(span.recent(at(21)), Recent { count: 1, longest_us: 1_000 });
        assert_eq!(span.recent(at(60)), Recent::default());
    }
}
