//! Bring your own policy, and have the published laws find what is wrong with it.
//!
//! ```text
//! cargo run --example property_test_policy
//! ```
//!
//! The policy below has a bug on purpose. The search finds it, shrinks the timeline to the few
//! inputs that matter, and says which law they break. In a test one would write
//!
//! ```text
//! healthmon_core::check_laws! {
//!     mod strikes;
//!     policy: any_strikes(), claims: [universal, latch],
//! }
//! ```
//!
//! and get one named test a law; `claims` takes `snapshot` and `threshold` too, for policies that
//! can be stored and whose thresholds can be turned.

#![allow(clippy::print_stdout)]

use std::num::NonZeroU8;

use healthmon_core::engine::{
    Grade, LatchRule, Policy, Tripped,
    invariants::{
        LatchPolicy, Timeline, Verdict, Which, law_10_to_13_hold_of_regions_and_levels,
        law_21_worse_outcomes_never_look_healthier, law_24_successes_forget_everything,
    },
    strategies::{
        proptest::{
            strategy::Strategy,
            test_runner::{Config, RngSeed},
        },
        refute, some_cases, timelines,
    },
};

/// DOWN after so many failures in a row, and up again with the first success.
#[derive(Debug, Clone, PartialEq)]
struct Strikes {
    strikes: u8,
    version: Version,
}

/// Whether the policy is as it was first written, or as it should be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Version {
    Buggy,
    Fixed,
}

/// What it remembers of a region.
#[derive(Debug, Clone, Default, PartialEq)]
struct Count {
    failures: u8,
    down: bool,
}

impl Policy for Strikes {
    type Memory = Count;

    fn observe(&self, memory: &mut Count, grade: Grade) {
        match grade {
            Grade::Pass => *memory = Count::default(),
            // The bug: a slow pass is a success and ends the outage, but the failures before it
            // still count, as if they were in a row with those after it.
            Grade::Slow if self.version == Version::Buggy => memory.down = false,
            Grade::Slow => *memory = Count::default(),
            Grade::Fail | Grade::Fatal => {
                memory.failures = memory.failures.saturating_add(1).min(self.strikes);
                memory.down |= memory.failures == self.strikes || grade == Grade::Fatal;
            }
        }
    }

    fn tripped(&self, memory: &Count) -> Tripped {
        Tripped { down: memory.down, degraded: false }
    }

    fn clear_windows(&self, memory: &mut Count) {
        memory.failures = 0;
    }

    fn quorum(&self) -> NonZeroU8 {
        NonZeroU8::MIN
    }

    fn blind_after(&self) -> NonZeroU8 {
        NonZeroU8::MAX
    }
}

/// It claims to be a latch: `strikes` bad of the last `strikes` trip, one good clears.
impl LatchPolicy for Strikes {
    fn rule(&self, which: Which) -> Option<LatchRule> {
        match which {
            Which::Down => LatchRule::new(self.strikes, self.strikes, 1).ok(),
            Which::Degraded => None,
        }
    }
}

fn any_strikes(version: Version) -> impl Strategy<Value = Strikes> {
    (1..=5_u8).prop_map(move |strikes| Strikes { strikes, version })
}

/// A check, with what it is of.
type Check = (&'static str, fn(&Timeline<Strikes>) -> Verdict);

const CHECKS: [Check; 7] = [
    ("laws 5, 7 to 9 and 14 to 18, of every step", |timeline| timeline.every_step(|step| step.check())),
    ("law 10", |timeline| law_10_to_13_hold_of_regions_and_levels(timeline, 10)),
    ("law 11", |timeline| law_10_to_13_hold_of_regions_and_levels(timeline, 11)),
    ("law 12", |timeline| law_10_to_13_hold_of_regions_and_levels(timeline, 12)),
    ("law 13", |timeline| law_10_to_13_hold_of_regions_and_levels(timeline, 13)),
    ("law 21", law_21_worse_outcomes_never_look_healthier),
    ("law 24", law_24_successes_forget_everything),
];

/// Checks the laws on one version of the policy; says how many are broken.
fn check(version: Version) -> usize {
    // The same search every time, so that this page can say what it prints; tests leave it to chance.
    let config = Config { rng_seed: RngSeed::Fixed(7), ..some_cases(2_000) };
    let mut broken = 0;
    for (name, law) in CHECKS {
        match refute(&config, timelines(any_strikes(version)), law) {
            Ok(()) => println!("  {name}: holds"),
            Err(found) => {
                broken += 1;
                println!("  {name}: BROKEN\n");
                found.to_string().lines().for_each(|line| println!("      {line}"));
                println!();
            }
        }
    }
    broken
}

fn main() {
    println!("The policy as it was first written:\n");
    let found = check(Version::Buggy);
    println!("\nThe policy as it should be:\n");
    let left = check(Version::Fixed);
    println!("\n{found} law broken by the bug, {left} after the fix.");
    assert!(found > 0 && left == 0, "the laws tell the two apart");
}
