//! The search for a timeline that breaks a law, and the macro that makes tests of it.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::{
    prelude::Strategy,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRunner},
};

use crate::{
    engine::{
        Input, Policy, Sighting,
        invariants::{Timeline, Verdict},
    },
    probe::{FailReason, Outcome},
};

/// A law that does not hold, and the shortest timeline found that shows it.
#[derive(Clone, PartialEq)]
pub struct Counterexample<P> {
    /// Which law, and how it shows.
    pub why: String,
    /// The timeline, shrunk.
    pub timeline: Timeline<P>,
}

impl<P: Policy> fmt::Display for Counterexample<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.why, self.timeline)
    }
}

impl<P: Policy> fmt::Debug for Counterexample<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<P: Policy> std::error::Error for Counterexample<P> {}

/// How many cases the laws are tried on: the number in the environment variable
/// `HEALTHMON_LAW_CASES`, or 10,000.
///
/// # Panics
/// When the variable is set to what is no number.
pub fn cases() -> u32 {
    match std::env::var("HEALTHMON_LAW_CASES") {
        Ok(cases) => cases.parse().unwrap_or_else(|error| panic!("HEALTHMON_LAW_CASES is `{cases}`: {error}")),
        Err(_) => 10_000,
    }
}

/// A search of this many cases, without a memory of earlier failures.
pub fn some_cases(cases: u32) -> Config {
    // Unoptimised, proptest's usual generator takes longer than everything else together.
    Config { cases, failure_persistence: None, rng_algorithm: RngAlgorithm::XorShift, ..Config::default() }
}

/// Looks for a timeline that breaks `law`, and shrinks it.
///
/// # Errors
/// The shrunk timeline, if there is one.
///
/// # Panics
/// When the strategy rejects more values than `config` allows.
pub fn refute<P: Policy>(
    config: &Config,
    timelines: impl Strategy<Value = Timeline<P>>,
    law: impl Fn(&Timeline<P>) -> Verdict,
) -> Result<(), Box<Counterexample<P>>> {
    let mut runner = TestRunner::new(config.clone());
    let outcome = runner
        .run(&timelines, |timeline| law(&timeline).map_err(|violation| TestCaseError::fail(violation.to_string())));
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, timeline)) => Err(Box::new(shorten(why.message(), timeline, law))),
        Err(TestError::Abort(why)) => panic!("the strategy gives no cases: {why}"),
    }
}

/// Leaves out all inputs that are not needed and makes the others as plain as can be, which
/// proptest, thinking in events, may not have done.
fn shorten<P: Policy>(why: &str, timeline: Timeline<P>, law: impl Fn(&Timeline<P>) -> Verdict) -> Counterexample<P> {
    // A policy that panics has broken law 1, and its shortest timeline is proptest's.
    let fails = |timeline: &Timeline<P>| match catch_unwind(AssertUnwindSafe(|| law(timeline))) {
        Ok(Err(violation)) => Some(violation.to_string()),
        Ok(Ok(())) | Err(_) => None,
    };
    let mut found = Counterexample { why: why.to_owned(), timeline };
    let mut chunk = found.timeline.inputs.len();
    while chunk > 0 {
        let mut from = 0;
        while from < found.timeline.inputs.len() {
            let mut shorter = found.timeline.clone().everywhere();
            shorter.inputs.drain(from..(from + chunk).min(shorter.inputs.len()));
            match fails(&shorter) {
                Some(why) => found = Counterexample { why, timeline: shorter },
                None => from += chunk,
            }
        }
        chunk /= 2;
    }
    for index in 0..found.timeline.inputs.len() {
        let plainer = plainer(&found.timeline.inputs[index]).into_iter().find_map(|input| {
            let mut plainer = found.timeline.clone().everywhere();
            plainer.inputs[index] = input;
            fails(&plainer).map(|why| Counterexample { why, timeline: plainer })
        });
        found = plainer.unwrap_or(found);
    }
    found
}

/// The same input with a plainer outcome, the plainest first.
fn plainer<P: Policy>(input: &Input<P>) -> Vec<Input<P>> {
    let Input::Result(seen) = input else { return Vec::new() };
    let outcomes = match seen.outcome {
        Outcome::Pass => vec![],
        Outcome::Fail(_) => vec![Outcome::Pass],
        Outcome::Slow | Outcome::Fatal(_) | Outcome::Indeterminate(_) => {
            vec![Outcome::Pass, Outcome::Fail(FailReason::Timeout)]
        }
    };
    let plainer = |outcome| Input::Result(Sighting { outcome, ..seen.clone() });
    outcomes.into_iter().map(plainer).collect()
}

/// Tries `law` on [`cases`] timelines; failures are remembered beside `source`, and tried again first.
///
/// # Panics
/// When the law is broken; the message is the [`Counterexample`].
#[track_caller]
pub fn assert_law<P: Policy>(
    source: &'static str,
    timelines: impl Strategy<Value = Timeline<P>>,
    law: impl Fn(&Timeline<P>) -> Verdict,
) {
    let failure_persistence = Config::default().failure_persistence;
    let config = Config { source_file: Some(source), failure_persistence, ..some_cases(cases()) };
    if let Err(counterexample) = refute(&config, timelines, law) {
        panic!("{counterexample}");
    }
}

/// Checks the [laws](crate::engine::invariants) on a policy type, one named test a law.
///
/// `policy` is a strategy for policies, `claims` the tags that the type claims:
///
/// | Claim | Laws | Asks of the policy type |
/// |---|---|---|
/// | `universal` | 1–3, 5–9, 14–18, 25, 26 | [`Policy`](crate::engine::Policy) |
/// | `snapshot` | 4 | serde, of it and its memory |
/// | `latch` | 10–13, 21, 24 | [`LatchPolicy`](crate::engine::invariants::LatchPolicy) |
/// | `threshold` | 19, 20, 22, 23, 27 | [`ThresholdPolicy`](crate::engine::invariants::ThresholdPolicy) |
///
/// Each test tries 10,000 timelines, or as many as the environment variable
/// `HEALTHMON_LAW_CASES` says, and prints the shrunk timeline of the one that fails.
///
/// ```no_run
/// use healthmon_core::engine::strategies;
///
/// healthmon_core::check_laws! {
///     mod thresholds;
///     policy: strategies::thresholds(),
///     claims: [universal, snapshot, latch, threshold],
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! check_laws {
    ($(#[$attribute:meta])* mod $name:ident; policy: $policy:expr, claims: [$($claim:ident),+ $(,)?] $(,)?) => {
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $($crate::check_laws!(@$claim $policy);)+
        }
    };
    (@universal $policy:expr) => {
        $crate::check_laws!(@run $policy;
            law_01_total_and_deterministic, law_02_the_state_is_the_fold_of_the_log,
            law_03_splits_and_batches_do_not_matter, law_06_duplicates_do_not_matter,
            law_07_sequence_numbers_are_gapless, law_25_services_are_independent,
            law_26_quorum_is_symmetric_and_monotone);
        $crate::check_laws!(@step $policy;
            law_05_ignored_inputs_change_nothing, law_07_numbers_are_gapless_and_watermarks_rise,
            law_08_from_is_the_previous_to, law_09_at_most_one_transition_per_input,
            law_14_indeterminate_never_moves_the_level, law_15_controls_never_move_the_level,
            law_16_overlays_emit_nothing, law_17_announced_is_the_level, law_18_unknown_is_seldom_re_entered);
    };
    (@snapshot $policy:expr) => {
        $crate::check_laws!(@run $policy; law_04_snapshots_change_nothing);
    };
    (@latch $policy:expr) => {
        $crate::check_laws!(@numbered $policy;
            10 law_10_a_latch_trips_only_on_a_failure, 11 law_11_a_latch_clears_only_on_successes,
            12 law_12_enough_failures_in_a_row_trip, 13 law_13_enough_successes_clear);
        $crate::check_laws!(@run $policy;
            law_21_worse_outcomes_never_look_healthier, law_24_successes_forget_everything);
    };
    (@threshold $policy:expr) => {
        $crate::check_laws!(@run $policy;
            law_19_higher_thresholds_never_detect_earlier, law_20_longer_windows_and_recoveries_hold_longer,
            law_22_higher_consecutive_thresholds_transit_no_more, law_23_damping_only_lengthens_recovery,
            law_27_the_engine_is_the_oracle);
    };
    (@run $policy:expr; $($law:ident),+) => {
        $(#[test]
        fn $law() {
            let timelines = $crate::engine::strategies::timelines($policy);
            $crate::engine::strategies::assert_law(file!(), timelines, $crate::engine::invariants::$law);
        })+
    };
    (@step $policy:expr; $($law:ident),+) => {
        $(#[test]
        fn $law() {
            let timelines = $crate::engine::strategies::timelines($policy);
            $crate::engine::strategies::assert_law(file!(), timelines, |timeline| {
                timeline.every_step($crate::engine::invariants::$law)
            });
        })+
    };
    (@numbered $policy:expr; $($number:literal $law:ident),+) => {
        $(#[test]
        fn $law() {
            let timelines = $crate::engine::strategies::timelines($policy);
            $crate::engine::strategies::assert_law(file!(), timelines, |timeline| {
                $crate::engine::invariants::law_10_to_13_hold_of_regions_and_levels(timeline, $number)
            });
        })+
    };
}
