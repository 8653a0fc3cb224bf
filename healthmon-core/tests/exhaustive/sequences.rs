//! Every sequence of inputs up to a length.
//!
//! Sequences that lead to the same place are walked on as one. A place is what anything after it
//! can depend on: the engine's state, with slots only by their order, epoch and numbers left out
//! (inputs are made relative to them, and each step is checked to count them on); and the outcomes
//! since the windows were cleared, as far back as any rule looks, of which the oracle's lists and
//! laws 10 to 13 are functions. There are finitely many places, so that walking on until no new one
//! turns up covers the sequences of every length. That the merging loses nothing is itself checked, on the sequences
//! short enough to be walked one by one.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet, VecDeque},
    time::Instant,
};

use healthmon_core::{
    engine::{
        Effects, Grade, Input, Latch, Latches, RegionState, State, Thresholds,
        invariants::{Step, Timeline, Which, Windows},
        oracle::{LatchAccount, Oracle},
    },
    id::Region,
    service::Activity,
    status::{Overlay, Status},
};

use crate::alphabet::{Scenario, scenarios};

#[derive(Clone)]
struct Node {
    state: State<Thresholds>,
    oracle: Oracle,
    windows: Windows,
    /// One of the sequences that lead here.
    inputs: Vec<Input<Thresholds>>,
    /// How many do.
    sequences: u128,
}

#[derive(PartialEq, Eq, Hash)]
struct Place {
    policy: Thresholds,
    activity: Activity,
    maintenance: bool,
    blind: bool,
    announced: Status,
    regions: Vec<RegionPlace>,
}

#[derive(PartialEq, Eq, Hash)]
struct RegionPlace {
    region: Region,
    slots: (bool, bool, Ordering),
    passed: bool,
    silent: u8,
    memory: Latches,
    outcomes: Vec<Grade>,
}

impl Scenario {
    /// As far back as any rule of it looks.
    fn reach(&self) -> usize {
        let rules = self.policies.iter().flat_map(|policy| [Some(policy.down), policy.degraded]).flatten();
        let longest = rules.map(|rule| usize::from(rule.window().max(rule.success()))).max();
        let quiet =
            self.policies.iter().filter_map(|policy| policy.damping).map(|damping| damping.quiet().into()).max();
        longest.max(quiet).unwrap_or(0)
    }

    /// What an outcome is once it is past: a fatal failure is then one like any other, and where no
    /// policy has a degraded rule, a slow pass a pass.
    fn past(&self, grade: Grade) -> Grade {
        match grade {
            Grade::Fatal => Grade::Fail,
            Grade::Slow if self.policies.iter().all(|policy| policy.degraded.is_none()) => Grade::Pass,
            other => other,
        }
    }

    fn place(&self, node: &Node) -> Place {
        let state = &node.state;
        let patience = self.policies.iter().map(|policy| policy.blind_after.get()).max().unwrap_or(0);
        let region = |region: &RegionState<Latches>| {
            let (watermark, missed) = (region.watermark(), region.missed_through());
            let outcomes = node.windows.outcomes(region.region()).iter().rev().take(self.reach());
            RegionPlace {
                region: region.region().clone(),
                slots: (watermark.is_some(), missed.is_some(), watermark.cmp(&missed)),
                passed: region.passed(),
                silent: region.blind_run().min(patience),
                memory: Latches { down: plain(region.memory().down), degraded: plain(region.memory().degraded) },
                outcomes: outcomes.map(|grade| self.past(*grade)).collect(),
            }
        };
        Place {
            policy: *state.policy(),
            activity: state.activity(),
            maintenance: state.has(Overlay::Maintenance),
            blind: state.has(Overlay::Blind),
            announced: state.announced(),
            regions: state.regions().iter().map(region).collect(),
        }
    }

    fn origin(&self) -> Node {
        let oracle = Oracle::registered(self.policies[0], &self.regions[0]);
        Node { state: self.start(), oracle, windows: Windows::default(), inputs: Vec::new(), sequences: 1 }
    }

    /// The node after one more input, every law checked on the way.
    fn step(&self, node: &Node, input: &Input<Thresholds>) -> Node {
        let mut next = node.clone();
        next.inputs.push(input.clone());
        let effects = next.state.apply(input);
        let expected = next.oracle.apply(input);
        let step = Step { before: &node.state, input, effects: &effects, after: &next.state };
        let verdict = step.check().and_then(|()| next.windows.see(&step, 10..=13));
        verdict.unwrap_or_else(|violation| panic!("{violation}\n{}", self.story(&next)));
        self.agree(&next, &effects, &expected);
        next
    }

    fn story(&self, node: &Node) -> Timeline<Thresholds> {
        Timeline::new(self.policies[0], self.regions[0].clone(), node.inputs.clone())
    }

    /// Law 27, to the last detail: the engine's bits are what the oracle's lists come to.
    fn agree(&self, node: &Node, effects: &Effects, expected: &Effects) {
        let (state, oracle) = (&node.state, &node.oracle);
        assert_eq!(effects, expected, "law 27: engine, then oracle\n{}", self.story(node));
        let told = (state.announced(), state.level(), state.epoch(), state.applied());
        let expected = (oracle.status(), oracle.level(), oracle.epoch(), oracle.applied());
        assert_eq!(told, expected, "law 27: engine, then oracle\n{}", self.story(node));
        for region in state.regions() {
            let account = oracle.region(region.region()).expect("the oracle knows it too");
            let facts = (region.watermark(), region.missed_through(), region.passed(), usize::from(region.blind_run()));
            let expected = (account.watermark, account.missed_through, account.passed, account.silent);
            assert_eq!(facts, expected, "law 27: engine, then oracle\n{}", self.story(node));
            let latch = |which, latch: Latch, account: LatchAccount| {
                let facts = (latch.is_tripped(), usize::from(latch.trips()));
                assert_eq!(facts, (account.tripped, account.trips), "law 27: {which:?}\n{}", self.story(node));
            };
            latch(Which::Down, region.memory().down, account.down);
            latch(Which::Degraded, region.memory().degraded, account.degraded);
            let bad = account.outcomes.iter().rev().take(state.policy().down.window().into()).enumerate();
            let bits = bad.fold(0, |bits, (back, grade)| bits | u64::from(*grade >= Grade::Fail) << back);
            assert_eq!(region.memory().down.history(), bits, "law 27: the window\n{}", self.story(node));
            assert_eq!(account.outcomes, node.windows.outcomes(region.region()), "{}", self.story(node));
        }
    }

    /// Walks every sequence, merging those that meet; returns the places of each depth.
    fn walk(&self, length: u32) -> Counts {
        let began = Instant::now();
        let mut counts = Counts { places: Vec::new(), steps: 0, sequences: 0, nodes: 1 };
        let mut nodes = vec![self.origin()];
        for depth in 1..=length {
            let mut met: HashMap<Place, Node> = HashMap::new();
            for node in &nodes {
                for input in self.inputs(&node.state, i64::from(depth)) {
                    let next = self.step(node, &input);
                    counts.steps += 1;
                    match met.entry(self.place(&next)) {
                        std::collections::hash_map::Entry::Occupied(mut same) => {
                            same.get_mut().sequences += next.sequences
                        }
                        std::collections::hash_map::Entry::Vacant(new) => {
                            self.survives_a_snapshot(&next);
                            new.insert(next);
                        }
                    }
                }
            }
            let sequences: u128 = met.values().map(|node| node.sequences).sum();
            assert_eq!(sequences, (self.alphabet() as u128).pow(depth), "every sequence is counted once");
            counts.sequences += sequences;
            counts.nodes += met.len();
            let (places, now): (HashSet<Place>, Vec<Node>) = met.into_iter().unzip();
            counts.places.push(places);
            nodes = now;
        }
        println!(
            "{:<28} {:>2} inputs, length <= {length}: {:>14} sequences, {:>9} steps run, {:>7} places, {:>6} ms",
            self.name,
            self.alphabet(),
            counts.sequences,
            counts.steps,
            counts.nodes,
            began.elapsed().as_millis()
        );
        counts
    }

    /// Walks on until no new place turns up: with that, sequences of every length are covered.
    fn walk_until_closed(&self) {
        let began = Instant::now();
        let mut known = HashSet::from([self.place(&self.origin())]);
        let mut open = VecDeque::from([self.origin()]);
        let (mut steps, mut longest) = (0_u64, 0);
        while let Some(node) = open.pop_front() {
            longest = node.inputs.len();
            for input in self.inputs(&node.state, longest as i64 + 1) {
                let next = self.step(&node, &input);
                steps += 1;
                if known.insert(self.place(&next)) {
                    self.survives_a_snapshot(&next);
                    open.push_back(next);
                }
            }
        }
        println!(
            "{:<28} {:>2} inputs, every length: {:>7} places, the farthest {longest} inputs away, {steps:>9} steps run, {:>6} ms",
            self.name,
            self.alphabet(),
            known.len(),
            began.elapsed().as_millis()
        );
    }

    /// Law 4, at every place there is.
    fn survives_a_snapshot(&self, node: &Node) {
        let read = State::from_snapshot(&node.state.to_snapshot());
        assert_eq!(read.as_ref(), Ok(&node.state), "law 4\n{}", self.story(node));
    }

    /// Walks every sequence, one by one.
    fn walk_unmerged(&self, length: u32) -> Vec<HashSet<Place>> {
        let (began, mut steps) = (Instant::now(), 0_u64);
        let mut places: Vec<HashSet<Place>> = (0..length).map(|_| HashSet::new()).collect();
        let mut stack = vec![self.origin()];
        while let Some(node) = stack.pop() {
            let depth = node.inputs.len();
            if depth == length as usize {
                continue;
            }
            for input in self.inputs(&node.state, depth as i64 + 1) {
                let next = self.step(&node, &input);
                steps += 1;
                places[depth].insert(self.place(&next));
                stack.push(next);
            }
        }
        println!(
            "{:<28} {:>2} inputs, length <= {length}, one by one: {steps} steps run, {} ms",
            self.name,
            self.alphabet(),
            began.elapsed().as_millis()
        );
        places
    }
}

/// More trips than it takes to reach the cap count as that many: recovery is as long as it gets.
fn plain(latch: Latch) -> Latch {
    // No cap here is above 4, which the third trip reaches.
    Latch::from_parts(latch.history(), latch.run(), latch.trips().min(3), latch.is_tripped())
}

struct Counts {
    places: Vec<HashSet<Place>>,
    steps: u64,
    sequences: u128,
    nodes: usize,
}

fn walk_all(regions: usize) {
    let (mut steps, mut sequences) = (0, 0);
    for scenario in scenarios().iter().filter(|scenario| scenario.fed == regions) {
        let counts = scenario.walk(scenario.length);
        steps += counts.steps;
        sequences += counts.sequences;
    }
    println!("{regions} region(s), in all: {sequences} sequences covered, {steps} steps run");
}

#[test]
fn every_sequence_up_to_seven_inputs_in_one_region_keeps_the_laws() {
    walk_all(1);
}

#[test]
fn every_sequence_up_to_five_inputs_in_three_regions_keeps_the_laws() {
    walk_all(3);
}

#[test]
fn every_sequence_of_any_length_keeps_the_laws_of_consecutive_policies() {
    scenarios()[0].walk_until_closed();
}

#[test]
#[ignore = "takes two minutes: `-- --ignored every_sequence_of_any_length`"]
fn every_sequence_of_any_length_keeps_the_laws_of_undamped_policies() {
    // Damped latches remember too much for this: their places are millions.
    let undamped = |scenario: &&Scenario| scenario.policies.iter().all(|policy| policy.damping.is_none());
    for scenario in scenarios().iter().filter(undamped).filter(|scenario| scenario.fed == 1) {
        scenario.walk_until_closed();
    }
}

#[test]
fn merging_sequences_that_meet_loses_none_of_the_places() {
    for scenario in scenarios() {
        let length = if scenario.fed == 1 { 4 } else { 3 };
        let merged = scenario.walk(length).places;
        assert!(merged == scenario.walk_unmerged(length), "{}: other places one by one", scenario.name);
    }
}
