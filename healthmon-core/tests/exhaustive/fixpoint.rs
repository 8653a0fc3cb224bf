//! Laws that pairs of latches keep for ever: walked until nothing new turns up, so that sequences
//! of every length are covered. And what has few enough cases to try them all.

use std::{collections::HashSet, num::NonZeroU8};

use healthmon_core::{
    engine::{Damping, Grade, Input, Latch, LatchRule, Mark, Policy, Sighting, State, Tripped},
    id::{Epoch, Region},
    probe::{FailReason, Kind, Outcome},
    service::Regions,
    status::Status,
    time::Slot,
};

use crate::alphabet::{count, rule};

const MARKS: [Mark; 3] = [Mark::Good, Mark::Bad, Mark::Fatal];

/// Two latches fed alike, and by how many the first has changed its vote more often than the second,
/// but never above 3: rounding down can only make the law look worse.
type Pair = (Latch, Latch, u8);

/// Walks a pair of latches from their start until nothing new turns up; `holds` speaks of every pair.
fn walk(rules: [(LatchRule, Option<Damping>); 2], holds: impl Fn(Latch, Latch)) -> usize {
    // More than nine trips count as nine: recovery is then as long as it gets.
    let plain =
        |latch: Latch| Latch::from_parts(latch.history(), latch.run(), latch.trips().min(9), latch.is_tripped());
    let mut known: HashSet<Pair> = HashSet::new();
    let mut open: Vec<Pair> = vec![(Latch::default(), Latch::default(), 0)];
    while let Some((a, b, lead)) = open.pop() {
        for mark in MARKS {
            let (mut next_a, mut next_b) = (a, b);
            next_a.observe(rules[0].0, rules[0].1, mark);
            next_b.observe(rules[1].0, rules[1].1, mark);
            let changed = |before: Latch, after: Latch| u8::from(before.is_tripped() != after.is_tripped());
            let lead = (lead + changed(a, next_a)).checked_sub(changed(b, next_b));
            let lead = lead.unwrap_or_else(|| panic!("{rules:?}: the second changes more often, at {a:?} and {b:?}"));
            holds(next_a, next_b);
            let next = (plain(next_a), plain(next_b), lead.min(3));
            if known.insert(next) {
                open.push(next);
            }
        }
    }
    known.len()
}

#[test]
fn law_22_holds_for_sequences_of_every_length() {
    let (mut pairs, mut states) = (0, 0);
    for (k, s) in (1..=9).flat_map(|k| (1..=9).map(move |s| (k, s))) {
        states += walk([(rule(k, k, s), None), (rule(k + 1, k + 1, s), None)], |_, _| {});
        pairs += 1;
    }
    println!("law 22: {pairs} pairs of consecutive policies, {states} pairs of latches, every length");
}

#[test]
fn law_23_holds_for_sequences_of_every_length() {
    let (mut pairs, mut states) = (0, 0);
    for (n, s) in (1..=4).flat_map(|n| (1..=4).map(move |s| (n, s))) {
        for (k, cap) in (1..=n).flat_map(|k| [1, 2, 3, 5, 8].map(|cap| (k, cap))) {
            for longer in [1, 3] {
                let damping = Damping::new(cap, u16::from(cap) + longer).expect("a damping");
                let rule = rule(k, n, s);
                states += walk([(rule, None), (rule, Some(damping))], |undamped, damped| {
                    assert!(!undamped.is_tripped() || damped.is_tripped(), "{rule:?} {damping:?}: an outage is hidden");
                });
                pairs += 1;
            }
        }
    }
    println!("law 23: {pairs} rules with damping, {states} pairs of latches, every length");
}

#[test]
fn law_24_holds_of_corrupt_latches() {
    let mut latches = 0_u64;
    for (n, s) in (1..=6_u8).flat_map(|n| (1..=6_u8).map(move |s| (n, s))) {
        for k in 1..=n {
            let after_passes = |mut latch: Latch| {
                (0..n.max(s)).for_each(|_| latch.observe(rule(k, n, s), None, Mark::Good));
                latch
            };
            let one = after_passes(Latch::default());
            assert!(!one.is_tripped());
            for history in (0..1_u64 << (n + 2)).chain([u64::MAX]) {
                for run in (0..u16::from(s) + 3).chain([u16::MAX]) {
                    for (trips, tripped) in [0, 1, 200, u8::MAX].into_iter().flat_map(|t| [(t, false), (t, true)]) {
                        assert_eq!(after_passes(Latch::from_parts(history, run, trips, tripped)), one);
                        latches += 1;
                    }
                }
            }
        }
    }
    println!("law 24: {latches} latches, corrupt ones among them");
}

/// A policy that votes as it saw last, so that every set of votes can be had.
#[derive(Debug, Clone, PartialEq)]
struct AsSeenLast(NonZeroU8);

impl Policy for AsSeenLast {
    type Memory = Option<Grade>;

    fn observe(&self, memory: &mut Option<Grade>, grade: Grade) {
        *memory = Some(grade);
    }

    fn tripped(&self, memory: &Option<Grade>) -> Tripped {
        Tripped { down: *memory >= Some(Grade::Fail), degraded: *memory >= Some(Grade::Slow) }
    }

    fn clear_windows(&self, _: &mut Option<Grade>) {}

    fn quorum(&self) -> NonZeroU8 {
        self.0
    }

    fn blind_after(&self) -> NonZeroU8 {
        NonZeroU8::MAX
    }
}

/// The level when the regions have seen this last, by this quorum; 0 passes, 1 is slow, 2 fails.
fn level(seen: &[u8], quorum: u8) -> Status {
    let name = |index: usize| Region::new(&format!("r{index}")).expect("a region");
    let regions = Regions::new((0..seen.len()).map(name).collect()).expect("regions");
    let mut state = State::registered(AsSeenLast(count(quorum)), &regions);
    let mut see = |index, slot, outcome| {
        let slot = Slot::from_millis(slot);
        state.apply(&Input::Result(Sighting {
            region: name(index),
            slot,
            kind: Kind::Scheduled,
            epoch: Epoch(1),
            outcome,
        }));
    };
    // Every region has passed before, so that UNKNOWN is out of the way.
    (0..seen.len()).for_each(|index| see(index, 1, Outcome::Pass));
    for (index, grade) in seen.iter().enumerate() {
        see(index, 2, [Outcome::Pass, Outcome::Slow, Outcome::Fail(FailReason::Dns)][usize::from(*grade)]);
    }
    state.level()
}

#[test]
fn law_26_holds_of_all_votes_of_up_to_four_regions() {
    let mut votes = 0;
    for regions in 1..=4_u32 {
        for quorum in 1..=5_u8 {
            for code in 0..3_u32.pow(regions) {
                let seen: Vec<u8> = (0..regions).map(|at| (code / 3_u32.pow(at) % 3) as u8).collect();
                let now = level(&seen, quorum);
                let mut sorted = seen.clone();
                sorted.sort_unstable();
                assert_eq!(now, level(&sorted, quorum), "{seen:?}: it matters which region says what");
                assert!(level(&seen, quorum + 1) <= now, "{seen:?}: a higher quorum than {quorum} is less healthy");
                for at in (0..seen.len()).filter(|at| seen[*at] < 2) {
                    let mut worse = seen.clone();
                    worse[at] += 1;
                    assert!(level(&worse, quorum) >= now, "{seen:?} looks worse than {worse:?}");
                }
                let needed = usize::from(quorum).min(seen.len());
                let expected = match (seen.iter().filter(|g| **g == 2).count(), seen.iter().filter(|g| **g > 0).count())
                {
                    (down, _) if down >= needed => Status::Down,
                    (_, degraded) if degraded >= needed => Status::Degraded,
                    _ => Status::Up,
                };
                assert_eq!(now, expected, "{seen:?} with quorum {quorum}");
                votes += 1;
            }
        }
    }
    println!("law 26: {votes} sets of votes and quorums");
}
