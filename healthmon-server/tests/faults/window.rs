//! When it is excused that something came late, or not at all.

use std::time::Duration;

use healthmon_core::{
    probe::{FailReason, Outcome},
    time::Timestamp,
};

/// A probe's timeout in these runs, and a moment.
pub(crate) const PROBE: Duration = Duration::from_secs(1);
/// For how long an outage may be told later than results come.
const TELLING: Duration = Duration::from_secs(2);

/// A time in which something was wrong, and what that may excuse.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) what: String,
    /// Slots from then ...
    pub(crate) from: Timestamp,
    /// ... until then may have no result; none excused when the two are the same.
    pub(crate) gaps_until: Timestamp,
    /// Results with slots until then may have come late, or said nothing.
    pub(crate) late_until: Timestamp,
}

impl Window {
    /// Until the schedulers have shared out the shards, slots come late.
    pub(crate) fn of_the_start(begun: Timestamp, started: Timestamp) -> Self {
        let late_until = started.after(Duration::from_secs(2));
        Self { what: "the start".to_owned(), from: begun, gaps_until: begun, late_until }
    }

    /// The machine stood still, and every process with it. After it all is in time again as soon as after a SIGTERM.
    pub(crate) fn of_a_standstill(from: Timestamp, until: Timestamp) -> Self {
        let (gaps_until, late_until) = (until.after(Duration::from_secs(2)), until.after(Duration::from_secs(3)));
        Self { what: "the machine stood still".to_owned(), from, gaps_until, late_until }
    }

    /// Whether a slot may have come to nothing.
    fn loses(&self, slot: Timestamp) -> bool {
        self.gaps_until > self.from && self.from.before(PROBE) <= slot && slot <= self.gaps_until
    }

    /// Whether a probe of then may have come late.
    fn delays(&self, probe: Timestamp) -> bool {
        self.from <= probe.after(PROBE) && probe <= self.late_until
    }
}

/// What excuses lateness. It excuses nothing else: what is written, what was heard, what the oracle says, and what
/// was done twice are as they must be, whatever goes wrong.
pub(crate) struct Excuses {
    pub(crate) faults: Vec<Window>,
    /// Times in which the machine stood still.
    pub(crate) still: Vec<Window>,
}

impl Excuses {
    fn windows(&self) -> impl Iterator<Item = &Window> {
        self.faults.iter().chain(&self.still)
    }

    /// Whether a slot may have no result.
    pub(crate) fn gap(&self, slot: Timestamp) -> bool {
        self.windows().any(|window| window.loses(slot))
    }

    /// Whether a slot's result may have come late, or said nothing.
    pub(crate) fn late(&self, slot: Timestamp) -> bool {
        self.windows().any(|window| window.delays(slot))
    }

    /// Whether a probe that began then may have seen what was not so: when the machine stood still, it may have
    /// timed out. No fault makes it see anything else than there is.
    pub(crate) fn mistake(&self, outcome: Outcome, started: Timestamp) -> bool {
        matches!(outcome, Outcome::Fail(FailReason::Timeout) | Outcome::Fatal(FailReason::Timeout))
            && self.still.iter().any(|window| window.delays(started))
    }

    /// Whether nothing was in the way of telling of an outage from then until then.
    pub(crate) fn calm(&self, from: Timestamp, until: Timestamp) -> bool {
        !self.windows().any(|window| window.from <= until && from <= window.late_until.after(TELLING))
    }
}
