//! The latch: trips on `k` bad of the last `n`, clears after `s` good in a row with fewer than `k` bad.

use healthmon_core::engine::{Damping, Latch, LatchRule, Mark};

use crate::story::rule;

/// The latch after these outcomes: `.` good, `x` bad, `X` fatal.
fn after(rule: LatchRule, damping: Option<Damping>, marks: &str) -> Latch {
    let mut latch = Latch::default();
    take_in(&mut latch, rule, damping, marks);
    latch
}

fn take_in(latch: &mut Latch, rule: LatchRule, damping: Option<Damping>, marks: &str) {
    for mark in marks.chars() {
        let mark = match mark {
            '.' => Mark::Good,
            'x' => Mark::Bad,
            _ => Mark::Fatal,
        };
        latch.observe(rule, damping, mark);
    }
}

fn trips(rule: LatchRule, marks: &str) -> bool {
    after(rule, None, marks).is_tripped()
}

#[test]
fn a_new_latch_is_clear_and_empty() {
    let latch = Latch::default();
    assert_eq!((latch.is_tripped(), latch.history(), latch.run(), latch.trips()), (false, 0, 0, 0));
}

#[test]
fn three_failures_at_threshold_three_trip() {
    assert!(trips(rule(3, 3, 2), "xxx"));
    assert!(!trips(rule(3, 3, 2), "xx"));
    assert!(!trips(rule(3, 3, 2), "xx.xx"));
}

#[test]
fn failures_within_the_window_need_not_be_in_a_row() {
    assert!(trips(rule(2, 3, 1), "x.x"));
    assert!(!trips(rule(2, 3, 1), "x..x"));
    assert!(trips(rule(3, 5, 1), "x.x.x"));
}

#[test]
fn a_success_never_trips_even_with_failures_enough_in_the_window() {
    // A wider window takes effect over a memory with more failures in it than before: only with the
    // next failure does it trip.
    let mut latch = Latch::from_parts(0b11, 0, 0, false);
    latch.observe(rule(2, 3, 1), None, Mark::Good);
    assert!(!latch.is_tripped());
    latch.observe(rule(2, 3, 1), None, Mark::Bad);
    assert!(latch.is_tripped());
}

#[test]
fn a_fatal_failure_trips_at_once() {
    assert!(trips(rule(3, 3, 2), "X"));
    assert!(trips(rule(64, 64, 2), "...X"));
}

#[test]
fn s_successes_clear_and_no_fewer() {
    assert!(trips(rule(1, 1, 2), "x."));
    assert!(!trips(rule(1, 1, 2), "x.."));
    assert!(trips(rule(1, 1, 2), "x.x."), "they must be in a row");
    assert!(!trips(rule(1, 1, 64), &format!("x{}", ".".repeat(64))));
    assert!(trips(rule(1, 1, 64), &format!("x{}", ".".repeat(63))));
}

#[test]
fn the_window_must_be_calm_as_well() {
    // k = 2 of n = 4: after "xx" one success is enough by s, but two failures are in the window.
    assert!(trips(rule(2, 4, 1), "xx."));
    assert!(trips(rule(2, 4, 1), "xx.."));
    assert!(!trips(rule(2, 4, 1), "xx..."));
}

#[test]
fn neither_tripping_nor_clearing_resets_the_window() {
    let latch = after(rule(2, 4, 1), None, "xx...");
    assert_eq!(latch.history(), 0b1000);
    assert_eq!(after(rule(1, 4, 1), None, "xx").history(), 0b11);
}

#[test]
fn the_history_is_as_wide_as_the_window() {
    assert_eq!(after(rule(1, 3, 1), None, "xxxxx").history(), 0b111);
    assert_eq!(after(rule(1, 64, 1), None, &"x".repeat(70)).history(), u64::MAX);
    assert_eq!(after(rule(64, 64, 1), None, &"x".repeat(63)).history(), u64::MAX >> 1);
}

#[test]
fn the_run_counts_no_further_than_it_matters() {
    assert_eq!(after(rule(1, 1, 3), None, "..").run(), 2);
    assert_eq!(after(rule(1, 1, 3), None, ".....").run(), 3);
    assert_eq!(after(rule(1, 1, 3), None, "..x").run(), 0);
    let damping = Damping::new(2, 5).ok();
    assert_eq!(after(rule(1, 1, 3), damping, "........").run(), 5, "damped, up to the quiet run");
    assert_eq!(after(rule(1, 1, 8), damping, "..........").run(), 8, "or s, if that is longer");
}

#[test]
fn clearing_the_window_keeps_the_vote() {
    let mut latch = after(rule(1, 3, 2), None, "x.");
    latch.clear_window(None);
    assert_eq!((latch.is_tripped(), latch.history(), latch.run()), (true, 0, 0));
    take_in(&mut latch, rule(1, 3, 2), None, ".");
    assert!(latch.is_tripped(), "the success before the clearing does not count");
    take_in(&mut latch, rule(1, 3, 2), None, ".");
    assert!(!latch.is_tripped(), "what never happened is not bad");
}

#[test]
fn every_recent_trip_doubles_recovery_up_to_the_cap() {
    let (rule, damping) = (rule(1, 1, 1), Damping::new(4, 10).ok());
    let mut latch = after(rule, damping, "x");
    let mut recoveries = vec![latch.recovery(rule, damping)];
    for _ in 0..4 {
        let passes = ".".repeat(latch.recovery(rule, damping).into());
        take_in(&mut latch, rule, damping, &passes[1..]);
        assert!(latch.is_tripped(), "one success too few");
        take_in(&mut latch, rule, damping, ".");
        assert!(!latch.is_tripped());
        take_in(&mut latch, rule, damping, "x");
        recoveries.push(latch.recovery(rule, damping));
    }
    assert_eq!(recoveries, [1, 2, 4, 4, 4]);
}

#[test]
fn recovery_is_never_shorter_than_s() {
    let (rule, damping) = (rule(1, 1, 6), Damping::new(2, 3).ok());
    assert_eq!(after(rule, damping, "x").recovery(rule, damping), 6);
    assert_eq!(Latch::from_parts(0, 0, 9, true).recovery(rule, damping), 6);
}

#[test]
fn recovery_doubles_from_s_and_stays_in_bounds_with_any_number_of_trips() {
    let (long, damping) = (rule(1, 1, 3), Damping::new(255, 300).ok());
    let recovery = |trips| Latch::from_parts(0, 0, trips, true).recovery(long, damping);
    assert_eq!([0, 1, 2, 3, 4, 7, 8, 255].map(recovery), [3, 3, 6, 12, 24, 192, 255, 255]);
    assert_eq!(Latch::from_parts(0, 0, 255, true).recovery(rule(1, 1, 64), damping), 255);
    assert_eq!(Latch::from_parts(0, 0, 255, true).recovery(rule(1, 1, 1), damping), 255);
}

#[test]
fn a_quiet_run_forgets_the_trips() {
    let (rule, damping) = (rule(1, 1, 1), Damping::new(2, 3).ok());
    assert_eq!(after(rule, damping, "x.x").trips(), 2);
    assert_eq!(after(rule, damping, "x.x..").trips(), 2, "two are not quiet enough");
    assert_eq!(after(rule, damping, "x.x...").trips(), 0);
    assert_eq!(after(rule, damping, "x.x...x").trips(), 1);
}

#[test]
fn a_quiet_run_forgets_the_trips_even_where_the_window_keeps_it_tripped() {
    let (rule, damping) = (rule(1, 4, 1), Damping::new(1, 2).ok());
    let latch = after(rule, damping, "x..");
    assert_eq!((latch.is_tripped(), latch.trips()), (true, 0));
}

#[test]
fn trips_are_counted_to_255_and_only_with_damping() {
    let (rule, damping) = (rule(1, 1, 1), Damping::new(1, 2).ok());
    let flapping = "x.".repeat(300);
    assert_eq!(after(rule, damping, &flapping).trips(), 255);
    assert_eq!(after(rule, None, &flapping).trips(), 0);
    let mut latch = after(rule, damping, "x.x");
    latch.observe(rule, None, Mark::Bad);
    assert_eq!(latch.trips(), 0, "damping was switched off");
}

#[test]
fn clearing_the_window_forgets_the_trips_only_without_damping() {
    let (rule, damping) = (rule(1, 1, 1), Damping::new(4, 9).ok());
    let mut latch = after(rule, damping, "x.x");
    latch.clear_window(damping);
    assert_eq!(latch.trips(), 2);
    latch.clear_window(None);
    assert_eq!(latch.trips(), 0);
}

#[test]
fn a_rule_has_k_within_n_within_64() {
    assert!(LatchRule::new(1, 1, 1).is_ok());
    assert!(LatchRule::new(64, 64, 64).is_ok());
    for (k, n, s) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (2, 1, 1), (1, 65, 1), (1, 1, 65), (65, 65, 1)] {
        assert!(LatchRule::new(k, n, s).is_err(), "{k} of {n}, {s}");
        assert!(LatchRule::try_from((k, n, s)).is_err());
    }
    assert_eq!(<(u8, u8, u8)>::from(rule(2, 5, 3)), (2, 5, 3));
    assert_eq!(LatchRule::try_from((2, 5, 3)), Ok(rule(2, 5, 3)));
}

#[test]
fn a_damping_is_quiet_longer_than_it_recovers() {
    let damping = Damping::new(4, 5).expect("a damping");
    assert_eq!((damping.cap(), damping.quiet()), (4, 5));
    assert_eq!(<(u8, u16)>::from(damping), (4, 5));
    assert_eq!(Damping::try_from((4, 5)), Ok(damping));
    assert!(Damping::new(255, u16::MAX).is_ok());
    for (cap, quiet) in [(0, 5), (5, 0), (4, 4), (4, 3)] {
        assert!(Damping::new(cap, quiet).is_err(), "{cap}, {quiet}");
        assert!(Damping::try_from((cap, quiet)).is_err());
    }
}
