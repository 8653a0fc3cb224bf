//! What is *not* a law, however much it looks like one: kept, so that nobody promises it again.

use std::num::NonZeroU8;

use healthmon_core::{
    engine::{Damping, Grade, Latch, LatchRule, Mark, Policy, Thresholds, Tripped},
    status::Status,
};

use crate::story::{Story, policy, rule, told};

/// A latch whose window *is* reset by every transition: the design that laws 19 to 21 forbid.
#[derive(Debug, Clone, PartialEq)]
struct ResetOnTransition(LatchRule);

impl Policy for ResetOnTransition {
    type Memory = Latch;

    fn observe(&self, memory: &mut Latch, grade: Grade) {
        let before = memory.is_tripped();
        memory.observe(self.0, None, if grade.passed() { Mark::Good } else { Mark::Bad });
        if before != memory.is_tripped() {
            memory.clear_window(None);
        }
    }

    fn tripped(&self, memory: &Latch) -> Tripped {
        Tripped { down: memory.is_tripped(), degraded: false }
    }

    fn clear_windows(&self, memory: &mut Latch) {
        memory.clear_window(None);
    }

    fn quorum(&self) -> NonZeroU8 {
        NonZeroU8::MIN
    }

    fn blind_after(&self) -> NonZeroU8 {
        NonZeroU8::MAX
    }
}

#[test]
fn with_a_reset_on_transition_a_higher_threshold_may_detect_what_a_lower_one_missed() {
    let end = |k| told(ResetOnTransition(rule(k, 4, 1)), "FFPF").0;
    assert_eq!((end(2), end(3)), (Status::Up, Status::Down));
    // Without the reset, law 19 holds of the same timeline.
    let end = |k| told(policy(k, 4, 1), "FFPF").0;
    assert_eq!((end(2), end(3)), (Status::Down, Status::Down));
}

#[test]
fn with_a_window_wider_than_the_threshold_a_higher_one_may_give_more_transitions() {
    let from_up = |k| told(policy(k, 2, 1), "PFFPFF").1 - 1;
    assert_eq!((from_up(1), from_up(2)), (1, 3));
}

#[test]
fn from_unknown_a_higher_consecutive_threshold_may_give_more_transitions() {
    let transitions = |k| told(policy(k, k, 2), "FPFF").1;
    assert_eq!((transitions(1), transitions(2)), (1, 2));
}

#[test]
fn with_damping_a_worse_outcome_may_look_healthier_later() {
    let damped = Thresholds { damping: Damping::new(4, 5).ok(), ..policy(1, 1, 1) };
    assert_eq!(told(damped, "FPFP").0, Status::Down, "two trips, so one success is not enough");
    assert_eq!(told(damped, "FFFP").0, Status::Up, "one long outage is one trip");
    // Undamped, law 21 holds of the same pair.
    assert_eq!((told(policy(1, 1, 1), "FPFP").0, told(policy(1, 1, 1), "FFFP").0), (Status::Up, Status::Up));
}

#[test]
fn with_a_degraded_latch_damping_may_give_the_service_more_transitions() {
    // The degraded latch has tripped more often, so it recovers later: DOWN becomes UP by DEGRADED.
    let plain = Thresholds { degraded: Some(rule(1, 1, 1)), ..policy(1, 1, 1) };
    let damped = Thresholds { damping: Damping::new(4, 9).ok(), ..plain };
    let transitions = |policy| told(policy, "PSPFPPP").1;
    assert_eq!((transitions(plain), transitions(damped)), (5, 6));
}

#[test]
fn a_configuration_may_make_a_service_that_never_passed_unknown_again() {
    let with_quorum = |quorum| Thresholds { quorum, ..policy(1, 1, 1) };
    let mut story = Story::in_regions(with_quorum(NonZeroU8::MIN), &["ap", "eu"]);
    assert_eq!(story.run("F"), Status::Down);
    story.configure(with_quorum(NonZeroU8::MAX), &["ap", "eu"]);
    assert_eq!(story.status(), Status::Unknown);
}
