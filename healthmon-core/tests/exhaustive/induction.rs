//! Laws 19 to 21 by one-step induction.
//!
//! Each of them says that of two latches one is never tripped without the other. So: take *any* two
//! latches, reachable or not, that are related (the healthier one's failures are among the other's,
//! it has at least as many successes in a row, and if it is tripped so is the other), give them
//! outcomes of which the healthier one's is no worse, and they are related still. New latches are
//! related, and so are latches whose windows were cleared; so the law holds after any number of
//! outcomes. The level follows, for quorums count votes.

use std::time::Instant;

use healthmon_core::engine::{Latch, LatchRule, Mark};

use crate::alphabet::rule;

const MARKS: [Mark; 3] = [Mark::Good, Mark::Bad, Mark::Fatal];

/// Two rules, and how the runs of the latches that they rule are related: `healthier`'s run is at
/// least the other's, as far as both count.
#[derive(Clone, Copy)]
struct Pair {
    healthier: LatchRule,
    other: LatchRule,
}

impl Pair {
    fn related(self, a: Latch, b: Latch) -> bool {
        let within = u64::MAX >> (64 - self.healthier.window());
        let common = u16::from(self.healthier.success());
        a.history() & !(b.history() & within) == 0
            && a.run() >= b.run().min(common)
            && (!a.is_tripped() || b.is_tripped())
    }

    /// Tries every related pair of latches with every pair of outcomes; says how many cases.
    fn prove(self, law: u8) -> u64 {
        let mut cases = 0;
        let whole = 1_u64 << self.other.window();
        let within = (1_u64 << self.healthier.window()) - 1;
        for other_history in 0..whole {
            let mut history = other_history & within;
            loop {
                cases += self.prove_histories(law, history, other_history);
                if history == 0 {
                    break;
                }
                // The next smaller subset of the other's failures.
                history = (history - 1) & other_history & within;
            }
        }
        cases
    }

    fn prove_histories(self, law: u8, history: u64, other_history: u64) -> u64 {
        let mut cases = 0;
        let common = u16::from(self.healthier.success());
        for other_run in 0..=u16::from(self.other.success()) {
            for run in other_run.min(common)..=common {
                for (tripped, other_tripped) in [(false, false), (false, true), (true, true)] {
                    let a = Latch::from_parts(history, run, 0, tripped);
                    let b = Latch::from_parts(other_history, other_run, 0, other_tripped);
                    assert!(self.related(a, b), "law {law}: the pairs are made related");
                    cases += self.prove_step(law, a, b);
                }
            }
        }
        cases
    }

    fn prove_step(self, law: u8, a: Latch, b: Latch) -> u64 {
        let mut cases = 0;
        for worse in MARKS {
            for mark in MARKS.into_iter().filter(|mark| *mark <= worse) {
                let (mut next_a, mut next_b) = (a, b);
                next_a.observe(self.healthier, None, mark);
                next_b.observe(self.other, None, worse);
                assert!(
                    self.related(next_a, next_b),
                    "law {law}: {:?} after {mark:?} and {:?} after {worse:?}, from {a:?} and {b:?}",
                    (self.healthier, next_a),
                    (self.other, next_b),
                );
                cases += 1;
            }
        }
        cases
    }
}

/// Every rule with `k ≤ n ≤ most` and `s ≤ most`.
fn rules(most: u8) -> impl Iterator<Item = (u8, u8, u8)> {
    (1..=most).flat_map(move |n| (1..=n).flat_map(move |k| (1..=most).map(move |s| (k, n, s))))
}

fn prove(law: u8, what: &str, most: u8, pairs: impl Iterator<Item = Pair>) {
    let began = Instant::now();
    let (mut cases, mut policies) = (0, 0);
    for pair in pairs {
        cases += pair.prove(law);
        policies += 1;
    }
    let elapsed = began.elapsed().as_millis();
    println!(
        "law {law}, {what}: k <= n <= {most}, s <= {most}: {policies} pairs of rules, {cases} cases, {elapsed} ms"
    );
}

fn law_19(most: u8) {
    let pairs = rules(most).filter(|(k, n, _)| k < n);
    prove(
        19,
        "k+1 against k",
        most,
        pairs.map(|(k, n, s)| Pair { healthier: rule(k + 1, n, s), other: rule(k, n, s) }),
    );
}

fn law_20(most: u8) {
    let pairs = rules(most).filter(|(_, n, _)| *n < most);
    prove(
        20,
        "n against n+1",
        most,
        pairs.map(|(k, n, s)| Pair { healthier: rule(k, n, s), other: rule(k, n + 1, s) }),
    );
    let pairs = rules(most).filter(|(_, _, s)| *s < most);
    prove(
        20,
        "s against s+1",
        most,
        pairs.map(|(k, n, s)| Pair { healthier: rule(k, n, s), other: rule(k, n, s + 1) }),
    );
}

fn law_21(most: u8) {
    let same = |(k, n, s)| Pair { healthier: rule(k, n, s), other: rule(k, n, s) };
    prove(21, "better against worse", most, rules(most).map(same));
}

#[test]
fn law_19_by_induction() {
    law_19(8);
}

#[test]
fn law_20_by_induction() {
    law_20(8);
}

#[test]
fn law_21_by_induction() {
    law_21(8);
}
