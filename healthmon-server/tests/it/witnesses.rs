//! The fault harness's witness notes when the machine stood still, and that excuses lateness and nothing else.

#[path = "../faults/window.rs"]
#[expect(dead_code, reason = "the harness uses all of it")]
mod window;
#[path = "../faults/witness.rs"]
mod witness;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_core::{
    probe::{FailReason, IndeterminateReason, Outcome},
    runtime::clock::SystemClock,
    time::Timestamp,
};

use self::{
    window::{Excuses, Window},
    witness::{Account, Standstill, Witness},
};

const TIMEOUT: Outcome = Outcome::Fail(FailReason::Timeout);

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The machine stood still once, from then until then.
fn account(from: i64, until: i64) -> Account {
    let standstills = vec![Standstill { from: at(from), until: at(until) }];
    Account { standstills, watched: millis(10_000) }
}

/// What the same window excuses, of a machine that stood still and of a fault.
fn excuses(from: i64, until: i64) -> [Excuses; 2] {
    let windows: Vec<Window> = account(from, until).windows();
    [Excuses { faults: Vec::new(), still: windows.clone() }, Excuses { faults: windows, still: Vec::new() }]
}

#[test]
fn sleeps_that_were_too_long_are_noted_with_their_begin_and_end() {
    let mut account = Account::default();
    for (slept, over) in [(20, 20), (250, 270), (251, 521), (20, 541), (1_500, 2_041)] {
        account.woke(millis(slept), at(over));
    }
    let still = |from, until| Standstill { from: at(from), until: at(until) };
    assert_eq!(account.standstills, [still(270, 521), still(541, 2_041)]);
    assert_eq!((account.watched, account.in_all()), (millis(2_041), millis(1_751)));
    assert_eq!(account.to_string(), "the machine stood still 2 times, for 1.8 s of 2.0 s");
}

#[test]
fn a_machine_for_which_more_than_half_of_a_run_is_excused_is_too_busy() {
    assert_eq!(Account::default().too_busy(), None);
    // With a second before it and three after it.
    assert_eq!(account(0, 1_000).too_busy(), None);
    let told = account(0, 1_001).too_busy().unwrap();
    assert!(told.contains("too busy to judge") && told.contains("1 times, for 1.0 s of 10.0 s"), "{told}");
    // Often and shortly is as bad; what overlaps counts once.
    let often = |apart: i64| {
        let from = [0, apart, 2 * apart];
        let standstills = from.map(|from| Standstill { from: at(from), until: at(from + 300) }).to_vec();
        Account { standstills, watched: millis(20_000) }
    };
    assert!(often(5_000).too_busy().is_some());
    assert_eq!(often(2_000).too_busy(), None);
}

#[test]
fn a_witness_watches_from_its_start_to_its_end() {
    let begun = Instant::now();
    let witness = Witness::start(Arc::new(SystemClock::new()));
    std::thread::sleep(millis(100));
    let account = witness.end();
    assert!((millis(100)..=begun.elapsed()).contains(&account.watched), "{account}");
}

#[test]
fn a_standstill_excuses_slots_from_a_probe_before_it_to_some_seconds_after_it() {
    let [still, _] = excuses(10_000, 11_000);
    for (slot, gap, late) in [
        (8_999, false, false),
        (9_000, true, true),
        (13_000, true, true),
        (13_001, false, true),
        (14_000, false, true),
        (14_001, false, false),
    ] {
        let slot = at(slot);
        assert_eq!((still.gap(slot), still.late(slot), still.mistake(TIMEOUT, slot)), (gap, late, late), "{slot}");
    }
    for (from, until, calm) in
        [(0, 9_999, true), (0, 10_000, false), (16_000, 30_000, false), (16_001, 30_000, true), (0, 30_000, false)]
    {
        assert_eq!(still.calm(at(from), at(until)), calm, "{from} to {until}");
    }
}

#[test]
fn a_standstill_excuses_what_a_fault_does_and_a_probe_that_timed_out() {
    let [still, fault] = excuses(10_000, 10_300);
    for time in (0..20_000).map(at) {
        assert_eq!((still.gap(time), still.late(time)), (fault.gap(time), fault.late(time)), "{time}");
        assert_eq!(still.calm(time, time), fault.calm(time, time), "{time}");
        assert!(!fault.mistake(TIMEOUT, time), "{time}");
        for timeout in [TIMEOUT, Outcome::Fatal(FailReason::Timeout)] {
            assert_eq!(still.mistake(timeout, time), still.late(time), "{time}");
        }
    }
}

#[test]
fn nothing_else_that_a_probe_said_is_excused() {
    let [still, fault] = excuses(10_000, 11_000);
    for outcome in [
        Outcome::Pass,
        Outcome::Slow,
        Outcome::Fail(FailReason::Status),
        Outcome::Fatal(FailReason::Status),
        Outcome::Fail(FailReason::Connect),
        Outcome::Indeterminate(IndeterminateReason::Expired),
    ] {
        let excused = (0..20_000).map(at).any(|time| still.mistake(outcome, time) || fault.mistake(outcome, time));
        assert!(!excused, "{outcome:?}");
    }
}
