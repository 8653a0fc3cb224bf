//! Every law can fail: for each there is a fault that it, and the timeline it prints, gives away.

use std::{
    num::NonZeroU8,
    sync::atomic::{AtomicU64, Ordering},
};

use healthmon_core::{
    engine::{
        Control, Damping, Effects, Grade, Hint, Ignored, Input, Latch, LatchRule, Policy, State, Thresholds, Tripped,
        Vote,
        invariants::{self, LatchPolicy, Step, ThresholdPolicy, Timeline, Verdict, Which},
        strategies::{
            dampings,
            proptest::{
                option,
                strategy::Strategy as _,
                test_runner::{Config, RngSeed},
            },
            refute, some_cases, timelines,
        },
    },
    id::Applied,
    status::{Cause, Status},
};
use serde::{Deserialize, Serialize};

use crate::story::{BLANK, FAIL, PASS, Story, policy, transition};

/// What is wrong with a policy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Fault {
    TripsEarly,
    TripsLate,
    ClearsEarly,
    ClearsLate,
    ResetsOnTransition,
    DampsInSecret,
    DampedTripsLate,
    TurnsThresholdsRound,
    NeverForgets,
    ClearingWithdrawsTheVote,
    ThrowsDice,
    SavesHalf,
    EvenThresholdsAreOne,
}

/// [`Thresholds`] with a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Faulty(Thresholds, Fault);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    latch: Latch,
    seen: u64,
    #[serde(skip)]
    unsaved: u64,
}

static DICE: AtomicU64 = AtomicU64::new(0);

impl Faulty {
    fn down(&self) -> LatchRule {
        let rule = self.0.down;
        let (k, n, s) = rule.into();
        let other = match self.1 {
            Fault::TripsEarly => LatchRule::new(k - 1, n, s),
            Fault::TripsLate => LatchRule::new(k + 1, n.max(k + 1), s),
            Fault::ClearsEarly => LatchRule::new(k, n, s - 1),
            Fault::ClearsLate => LatchRule::new(k, n, s + 1),
            Fault::DampedTripsLate if self.0.damping.is_some() => LatchRule::new(k + 1, n.max(k + 1), s),
            Fault::TurnsThresholdsRound => LatchRule::new(n - k + 1, n, s),
            Fault::EvenThresholdsAreOne if k % 2 == 0 => LatchRule::new(1, 1, 1),
            _ => Ok(rule),
        };
        other.unwrap_or(rule)
    }
}

impl Policy for Faulty {
    type Memory = Memory;

    fn observe(&self, memory: &mut Memory, grade: Grade) {
        let before = memory.latch.is_tripped();
        let damping = if self.1 == Fault::DampsInSecret { Damping::new(8, 20).ok() } else { self.0.damping };
        memory.latch.observe(self.down(), damping, Which::Down.mark(grade));
        match self.1 {
            Fault::NeverForgets => memory.seen += 1,
            Fault::SavesHalf => memory.unsaved += 1,
            Fault::ThrowsDice if DICE.fetch_add(1, Ordering::Relaxed).is_multiple_of(7) => {
                *memory = Memory::default();
            }
            Fault::ResetsOnTransition if before != memory.latch.is_tripped() => memory.latch.clear_window(damping),
            _ => {}
        }
    }

    fn tripped(&self, memory: &Memory) -> Tripped {
        Tripped { down: memory.latch.is_tripped(), degraded: false }
    }

    fn clear_windows(&self, memory: &mut Memory) {
        memory.latch.clear_window(self.0.damping);
        if self.1 == Fault::ClearingWithdrawsTheVote {
            *memory = Memory::default();
        }
    }

    fn quorum(&self) -> NonZeroU8 {
        self.0.quorum
    }

    fn blind_after(&self) -> NonZeroU8 {
        self.0.blind_after
    }
}

impl LatchPolicy for Faulty {
    fn rule(&self, which: Which) -> Option<LatchRule> {
        (which == Which::Down).then_some(self.0.down)
    }

    fn damping(&self) -> Option<Damping> {
        self.0.damping
    }

    fn undamped(&self) -> Option<Self> {
        Some(Self(Thresholds { damping: None, ..self.0 }, self.1))
    }
}

impl ThresholdPolicy for Faulty {
    fn with_rule(&self, _: Which, rule: LatchRule) -> Self {
        Self(Thresholds { down: rule, ..self.0 }, self.1)
    }
}

/// `law` finds `fault`, names itself and shrinks to a timeline of at most this many inputs.
fn finds(fault: Fault, number: u8, most: usize, law: impl Fn(&Timeline<Faulty>) -> Verdict) {
    let small = (1..=4_u8, 0..=3_u8, 1..=3_u8, option::of(dampings()));
    let policies =
        small.prop_map(move |(k, wider, s, damping)| Faulty(Thresholds { damping, ..policy(k, k + wider, s) }, fault));
    let config = Config { rng_seed: RngSeed::Fixed(27), ..some_cases(10_000) };
    let found = refute(&config, timelines(policies), law).expect_err("the fault is found");
    assert!(found.why.starts_with(&format!("law {number} (")), "{found}");
    assert!(found.timeline.inputs.len() <= most, "{found}");
}

fn latch_law(number: u8) -> impl Fn(&Timeline<Faulty>) -> Verdict {
    move |timeline| invariants::law_10_to_13_hold_of_regions_and_levels(timeline, number)
}

#[test]
fn laws_1_2_3_6_25_and_26_find_a_policy_that_throws_dice() {
    finds(Fault::ThrowsDice, 1, usize::MAX, invariants::law_01_total_and_deterministic);
    finds(Fault::ThrowsDice, 2, usize::MAX, invariants::law_02_the_state_is_the_fold_of_the_log);
    finds(Fault::ThrowsDice, 3, usize::MAX, invariants::law_03_splits_and_batches_do_not_matter);
    finds(Fault::ThrowsDice, 6, usize::MAX, invariants::law_06_duplicates_do_not_matter);
    finds(Fault::ThrowsDice, 25, usize::MAX, invariants::law_25_services_are_independent);
    finds(Fault::ThrowsDice, 26, usize::MAX, invariants::law_26_quorum_is_symmetric_and_monotone);
}

#[test]
fn law_4_finds_a_memory_that_is_only_half_saved() {
    finds(Fault::SavesHalf, 4, 3, invariants::law_04_snapshots_change_nothing);
}

#[test]
fn law_10_finds_a_latch_that_trips_early() {
    finds(Fault::TripsEarly, 10, 6, latch_law(10));
}

#[test]
fn law_11_finds_a_latch_that_clears_early() {
    finds(Fault::ClearsEarly, 11, 6, latch_law(11));
}

#[test]
fn law_12_finds_a_latch_that_trips_late() {
    finds(Fault::TripsLate, 12, 6, latch_law(12));
}

#[test]
fn law_13_finds_a_latch_that_clears_late() {
    finds(Fault::ClearsLate, 13, 8, latch_law(13));
}

#[test]
fn law_15_finds_a_vote_that_is_withdrawn_when_the_windows_are_cleared() {
    let law = |timeline: &Timeline<Faulty>| timeline.every_step(invariants::law_15_controls_never_move_the_level);
    finds(Fault::ClearingWithdrawsTheVote, 15, 6, law);
}

#[test]
fn law_19_finds_a_threshold_turned_round() {
    finds(Fault::TurnsThresholdsRound, 19, 8, invariants::law_19_higher_thresholds_never_detect_earlier);
}

#[test]
fn law_19_finds_a_window_that_is_reset_on_transition() {
    finds(Fault::ResetsOnTransition, 19, 8, invariants::law_19_higher_thresholds_never_detect_earlier);
}

#[test]
fn law_20_finds_a_threshold_turned_round() {
    finds(Fault::TurnsThresholdsRound, 20, 8, invariants::law_20_longer_windows_and_recoveries_hold_longer);
}

#[test]
fn law_21_finds_damping_that_nobody_knew_of() {
    finds(Fault::DampsInSecret, 21, 8, invariants::law_21_worse_outcomes_never_look_healthier);
}

#[test]
fn law_22_finds_a_threshold_that_is_ignored() {
    finds(Fault::EvenThresholdsAreOne, 22, 4, invariants::law_22_higher_consecutive_thresholds_transit_no_more);
}

#[test]
fn law_23_finds_damping_that_delays_an_outage() {
    finds(Fault::DampedTripsLate, 23, 8, invariants::law_23_damping_only_lengthens_recovery);
}

#[test]
fn law_24_finds_a_memory_that_never_forgets() {
    finds(Fault::NeverForgets, 24, 3, invariants::law_24_successes_forget_everything);
}

#[test]
fn law_27_finds_any_of_them() {
    for fault in [Fault::TripsEarly, Fault::TripsLate, Fault::ClearsEarly, Fault::ClearsLate, Fault::ResetsOnTransition]
    {
        finds(fault, 27, 6, invariants::law_27_the_engine_is_the_oracle);
    }
}

/// The law with this number is the first that a step with such states and effects breaks.
#[track_caller]
fn broken_by(
    number: u8,
    before: &State<Thresholds>,
    input: &Input<Thresholds>,
    effects: &Effects,
    after: &State<Thresholds>,
) {
    let violation = Step { before, input, effects, after }.check().expect_err("a law is broken");
    assert_eq!(violation.law.number, number, "{violation}");
}

fn applied(state: &State<Thresholds>) -> Effects {
    Effects { vote: Vote::Applied(state.applied()), transition: None, overlays: vec![], hint: Hint::None }
}

#[test]
fn law_5_finds_an_ignored_input_with_effects_or_a_vote_that_should_not_count() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    let before = story.state.clone();
    let late = Input::Result(story.sighting("ap", 1, FAIL));
    let fresh = Input::Result(story.sighting("ap", 2, FAIL));
    story.run("P");
    let after = story.state.clone();
    let ignored = Effects { vote: Vote::Ignored(Ignored::Late), ..applied(&before) };
    broken_by(5, &before, &late, &ignored, &after);
    broken_by(5, &before, &late, &applied(&after), &after);
    broken_by(5, &before, &fresh, &ignored, &before);
    let told = transition(Status::Up, Status::Down, Cause::Result);
    broken_by(5, &before, &late, &Effects { transition: told, ..ignored.clone() }, &before);
    broken_by(5, &before, &late, &Effects { hint: Hint::ProbeSooner, ..ignored }, &before);
}

#[test]
fn law_7_finds_a_number_left_out_and_a_watermark_that_falls() {
    let mut story = Story::of(policy(9, 9, 1));
    story.run("P");
    let before = story.state.clone();
    let input = Input::Result(story.sighting("ap", 2, PASS));
    story.run("PP");
    broken_by(7, &before, &input, &applied(&story.state), &story.state);
    story.run("P");
    let wrong = Effects { vote: Vote::Applied(Applied(9)), ..applied(&before) };
    broken_by(7, &before, &input, &wrong, &story.state);
    // The same number of inputs, but an older slot.
    let mut other = Story::of(policy(9, 9, 1));
    other.now = -9;
    other.run("PP");
    broken_by(7, &before, &input, &applied(&other.state), &other.state);
}

#[test]
fn laws_8_and_9_find_transitions_that_lie_or_fail_to_come() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    let before = story.state.clone();
    let input = Input::Result(story.sighting("ap", 2, FAIL));
    story.run("F");
    let told = |from, to| Effects { transition: transition(from, to, Cause::Result), ..applied(&story.state) };
    broken_by(8, &before, &input, &told(Status::Unknown, Status::Down), &story.state);
    broken_by(8, &before, &input, &told(Status::Up, Status::Degraded), &story.state);
    broken_by(9, &before, &input, &applied(&story.state), &story.state);
}

#[test]
fn law_14_finds_an_indeterminate_result_that_moves_the_level() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    let before = story.state.clone();
    let input = Input::Result(story.sighting("ap", 2, BLANK));
    let effects = story.see(FAIL);
    broken_by(14, &before, &input, &effects, &story.state);
}

#[test]
fn law_15_finds_a_transition_with_another_cause() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    let before = story.state.clone();
    let input = Input::Result(story.sighting("ap", 2, FAIL));
    story.run("F");
    let told = transition(Status::Up, Status::Down, Cause::Resumed);
    broken_by(15, &before, &input, &Effects { transition: told, ..applied(&story.state) }, &story.state);
}

#[test]
fn law_16_finds_what_is_announced_under_an_overlay() {
    let mut frozen = Story::of(policy(1, 1, 1));
    frozen.run("P");
    frozen.control(Control::BeginMaintenance);
    frozen.run("F");
    let mut told = Story::of(policy(1, 1, 1));
    told.run("PF");
    told.control(Control::BeginMaintenance);
    let before = {
        let mut story = Story::of(policy(1, 1, 1));
        story.run("P");
        story.control(Control::BeginMaintenance);
        story.state
    };
    let input = Input::Result(frozen.sighting("ap", 2, FAIL));
    let announced = transition(Status::Up, Status::Down, Cause::Result);
    broken_by(16, &before, &input, &Effects { transition: announced, ..applied(&told.state) }, &told.state);
}

#[test]
fn law_17_finds_a_level_that_is_not_announced() {
    // Still announced as UP, with the level of a service that failed in maintenance.
    let mut frozen = Story::of(policy(1, 1, 1));
    frozen.run("P");
    frozen.control(Control::BeginMaintenance);
    frozen.run("F");
    let mut bytes = frozen.state.to_snapshot();
    let thawed = (0..bytes.len()).find_map(|at| {
        let kept = std::mem::replace(&mut bytes[at], 0);
        let read = State::<Thresholds>::from_snapshot(&bytes).ok().filter(|state| {
            !state.is_frozen() && state.level() == Status::Down && state.applied() == frozen.state.applied()
        });
        bytes[at] = kept;
        read
    });
    let after = thawed.expect("maintenance is one byte of the snapshot");
    let mut before = Story::of(policy(1, 1, 1));
    before.run("P?");
    let input = Input::Result(before.sighting("ap", 3, FAIL));
    broken_by(17, &before.state, &input, &applied(&after), &after);
}

#[test]
fn law_18_finds_a_result_that_makes_it_unknown() {
    let mut before = Story::of(policy(1, 1, 1));
    before.run("P");
    let mut after = Story::of(policy(9, 9, 1));
    after.run("FF");
    let input = Input::Result(before.sighting("ap", 2, FAIL));
    let told = transition(Status::Up, Status::Unknown, Cause::Result);
    broken_by(18, &before.state, &input, &Effects { transition: told, ..applied(&after.state) }, &after.state);
}

#[test]
fn the_laws_are_numbered_in_order_and_say_their_names() {
    assert!(invariants::LAWS.iter().map(|law| law.number).eq(1..=27));
    let violation = latch_law(12)(&Timeline::new(
        Faulty(policy(1, 1, 1), Fault::TripsLate),
        Default::default(),
        vec![Input::Result(Story::of(policy(1, 1, 1)).sighting("local", 1, FAIL))],
    ));
    let message = violation.expect_err("it is broken").to_string();
    assert_eq!(
        message,
        "law 12 (k consecutive failures trip a latch now) is broken at input 1: it is clear after 1 failures in a row"
    );
}
