//! The 27 laws of the engine, each defined once.
//!
//! A law is a row of [`LAWS`] and one check function named after it, `law_08_…`. Laws about one
//! step take a [`Step`] (or a [`LatchStep`]) and are debug assertions of
//! [`State::apply`](super::State::apply) and [`Latch::observe`](super::Latch::observe) too. Laws
//! about a run, or about two runs, take a `Timeline`.
//!
//! Three tags say whom a law binds:
//!
//! | Tag | Binds | Asks of the policy |
//! |---|---|---|
//! | universal | the frame around the policies, and with it any [`Policy`] that keeps its vote when its windows are cleared, and withdraws a vote for DOWN only on a pass | nothing (law 4: serde) |
//! | latch | policies whose votes are latches: `k` bad of the last `n` trip, `s` good in a row clear | `LatchPolicy` |
//! | threshold | policies that are nothing but their thresholds, as [`Thresholds`] is | `ThresholdPolicy` |
//!
//! The laws are proved or sampled in `tests/laws` (properties), `tests/exhaustive` (enumeration and
//! induction) and, for a policy of one's own, by `check_laws!`, all with feature `laws`.

mod step;

#[cfg(any(test, feature = "laws", feature = "conformance"))]
mod latch;
#[cfg(any(test, feature = "laws", feature = "conformance"))]
mod run;
#[cfg(any(test, feature = "laws", feature = "conformance"))]
mod threshold;
#[cfg(any(test, feature = "laws", feature = "conformance"))]
mod timeline;

use std::fmt;

pub use step::{
    LatchStep, Step, law_05_ignored_inputs_change_nothing, law_07_numbers_are_gapless_and_watermarks_rise,
    law_08_from_is_the_previous_to, law_09_at_most_one_transition_per_input, law_10_a_latch_trips_only_on_a_failure,
    law_11_a_latch_clears_only_on_successes, law_12_enough_failures_in_a_row_trip, law_13_enough_successes_clear,
    law_14_indeterminate_never_moves_the_level, law_15_controls_never_move_the_level, law_16_overlays_emit_nothing,
    law_17_announced_is_the_level, law_18_unknown_is_seldom_re_entered,
};
#[cfg(debug_assertions)]
pub(super) use step::{assert_latch_step, assert_step};

#[cfg(any(test, feature = "laws", feature = "conformance"))]
pub use {
    latch::{
        LatchPolicy, Which, Windows, law_10_to_13_hold_of_regions_and_levels,
        law_21_worse_outcomes_never_look_healthier, law_24_successes_forget_everything,
    },
    run::{
        WithQuorum, law_01_total_and_deterministic, law_02_the_state_is_the_fold_of_the_log,
        law_03_splits_and_batches_do_not_matter, law_04_snapshots_change_nothing, law_06_duplicates_do_not_matter,
        law_07_sequence_numbers_are_gapless, law_25_services_are_independent, law_26_quorum_is_symmetric_and_monotone,
    },
    threshold::{
        ThresholdPolicy, law_19_higher_thresholds_never_detect_earlier,
        law_20_longer_windows_and_recoveries_hold_longer, law_22_higher_consecutive_thresholds_transit_no_more,
        law_23_damping_only_lengthens_recovery, law_27_the_engine_is_the_oracle,
    },
    timeline::Timeline,
};

#[cfg(doc)]
use super::{Policy, Thresholds};

/// Whom a law binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tag {
    /// Any policy.
    Universal,
    /// Policies whose votes are latches.
    Latch,
    /// Policies that are nothing but their thresholds.
    Threshold,
}

/// A law, as people are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Law {
    /// Its number, 1 to 27.
    pub number: u8,
    /// Whom it binds.
    pub tag: Tag,
    /// What it says.
    pub title: &'static str,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "law {} ({})", self.number, self.title)
    }
}

const fn law(number: u8, tag: Tag, title: &'static str) -> Law {
    Law { number, tag, title }
}

/// The laws; law `i` is at `i - 1`.
pub const LAWS: [Law; 27] = {
    use Tag::{Latch, Threshold, Universal};
    [
        law(1, Universal, "the engine is total and deterministic"),
        law(2, Universal, "the state is the fold of the log"),
        law(3, Universal, "any split or batching of the log gives the same"),
        law(4, Universal, "a snapshot round-trip changes nothing"),
        law(5, Universal, "late, old-epoch, paused and manual inputs are bit-identical no-ops"),
        law(6, Universal, "a log with duplicates is worth the log without, through the record pipeline"),
        law(7, Universal, "watermarks rise; the service's numbers and the log's are gapless from 1"),
        law(8, Universal, "from is the previous to, and to is another"),
        law(9, Universal, "at most one transition per input"),
        law(10, Latch, "a latch trips only on a failure, with k of them in the last n, or on a fatal one"),
        law(11, Latch, "a latch clears only with the last s all passing"),
        law(12, Latch, "k consecutive failures trip a latch now"),
        law(13, Latch, "max(s, n-k+1) passes clear a latch"),
        law(14, Universal, "Indeterminate never moves the level"),
        law(15, Universal, "control inputs never move the level, but for cause configuration"),
        law(16, Universal, "overlays emit nothing; the end of the last one emits what differs, once"),
        law(17, Universal, "outside overlays the announced status is the level"),
        law(18, Universal, "UNKNOWN is re-entered only when nothing that ever passed is left"),
        law(19, Threshold, "a higher threshold never detects earlier"),
        law(20, Threshold, "a wider window or a longer recovery never clears earlier"),
        law(21, Latch, "worsening an outcome never yields a healthier latch or level, ever after"),
        law(22, Threshold, "of consecutive policies a higher threshold never gives more transitions"),
        law(23, Threshold, "damping only lengthens DOWN, gives no more transitions, and delays no outage"),
        law(24, Latch, "max(n, s) passes drive any latch to one state"),
        law(25, Universal, "services are independent"),
        law(26, Universal, "quorum is symmetric and monotone"),
        law(27, Threshold, "the engine is the naive list engine"),
    ]
};

/// A law that does not hold, where, and how that shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which law.
    pub law: Law,
    /// How it shows.
    pub why: String,
    /// The input of the timeline at which it shows, counted from 1, if it shows at one.
    pub input: Option<usize>,
}

impl Violation {
    /// This violation, shown at the input at this index.
    #[must_use]
    pub fn at(self, index: usize) -> Self {
        Self { input: self.input.or(Some(index + 1)), ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { law, why, input } = self;
        match input {
            Some(input) => write!(f, "{law} is broken at input {input}: {why}"),
            None => write!(f, "{law} is broken: {why}"),
        }
    }
}

impl std::error::Error for Violation {}

/// What a check answers. Boxed, for a violation is rare and large.
pub type Verdict = Result<(), Box<Violation>>;

/// Law `number` is broken.
pub(crate) fn broken(number: u8, why: impl fmt::Display) -> Box<Violation> {
    Box::new(Violation { law: LAWS[usize::from(number) - 1], why: why.to_string(), input: None })
}

/// `ensure!(number, condition, "how it shows", …)`: the law holds here, or we are done.
macro_rules! ensure {
    ($number:literal, $holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err($crate::engine::invariants::broken($number, format_args!($($why)+)));
        }
    };
}
use ensure;
