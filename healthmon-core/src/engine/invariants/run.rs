//! Laws about a whole run of any policy, and about the models of the record pipeline and the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU8,
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Step, Timeline, Verdict, broken, ensure, timeline::fold};
use crate::{
    engine::{Control, Effects, Grade, Input, Policy, State, Tripped, Vote},
    id::{Region, Seq},
    probe::{FailReason, Kind, Outcome},
    service::Regions,
    status::{Status, Transition},
    time::Slot,
};

/// Law 1: every input has an answer in every state (that no step panics is seen by running), and
/// the same input in the same state has the same one.
pub fn law_01_total_and_deterministic<P: Policy>(timeline: &Timeline<P>) -> Verdict {
    let (first, second) =
        (fold(&mut timeline.start(), &timeline.inputs), fold(&mut timeline.start(), &timeline.inputs));
    ensure!(1, first == second, "two runs differ: {first:?} and {second:?}");
    // No input is excluded: each of the timeline's is tried in the states around its places.
    for place in timeline.places() {
        let state = timeline.state_at(place);
        for input in &timeline.inputs {
            let (mut one, mut other) = (state.clone(), state.clone());
            ensure!(1, one.step(input) == other.step(input) && one == other, "{input:?} has two answers");
        }
    }
    Ok(())
}

/// Law 2: the log holds the inputs that moved the state, in order. Folding them and nothing else
/// gives the same state, numbers and transitions; and the announced status is where the last
/// transition led.
pub fn law_02_the_state_is_the_fold_of_the_log<P: Policy>(timeline: &Timeline<P>) -> Verdict {
    let (state, effects) = fold(&mut timeline.start(), &timeline.inputs);
    let moved = |effects: &&Effects| matches!(effects.vote, Vote::Applied(_));
    let log: Vec<_> =
        timeline.inputs.iter().zip(&effects).filter(|(_, e)| moved(e)).map(|(input, _)| input.clone()).collect();
    let (replayed, again) = fold(&mut timeline.start(), &log);
    ensure!(2, replayed == state, "the replay of the log ends in {replayed:?}, not in {state:?}");
    ensure!(2, effects.iter().filter(moved).eq(&again), "the replay of the log tells another story");
    let last = effects.iter().filter_map(|effects| effects.transition).next_back();
    let announced = last.map_or(Status::Unknown, |transition| transition.to);
    ensure!(2, announced == state.announced(), "the last transition led to {announced}, not {}", state.announced());
    Ok(())
}

/// Law 3: cut anywhere, and in batches of any size, with the state carried over from one batch to
/// the next, the log gives the same state and the same effects.
pub fn law_03_splits_and_batches_do_not_matter<P: Policy>(timeline: &Timeline<P>) -> Verdict {
    let whole = fold(&mut timeline.start(), &timeline.inputs);
    for place in timeline.places() {
        let (head, tail) = timeline.inputs.split_at(place);
        let sizes = [(head.len().max(1), head), (place.max(1), tail)];
        let mut state = timeline.start();
        let mut told = Vec::new();
        for batch in sizes.into_iter().flat_map(|(size, part)| part.chunks(size)) {
            let (carried, effects) = fold(&mut state.clone(), batch);
            state = carried;
            told.extend(effects);
        }
        ensure!(3, (state, told) == whole, "cut after {place} inputs, then in batches of {place}, it differs");
    }
    Ok(())
}

/// Law 4: a state read back from its snapshot is the same, and goes on in the same way. (Snapshots
/// of older versions are kept as fixtures in `tests/laws`.)
pub fn law_04_snapshots_change_nothing<P>(timeline: &Timeline<P>) -> Verdict
where
    P: Policy + Serialize + DeserializeOwned,
    P::Memory: Serialize + DeserializeOwned,
{
    for place in timeline.places() {
        let mut state = timeline.state_at(place);
        let mut read = State::from_snapshot(&state.to_snapshot()).map_err(|error| broken(4, error))?;
        ensure!(4, read == state, "after {place} inputs {state:?} is read back as {read:?}");
        let tail = &timeline.inputs[place..];
        ensure!(4, fold(&mut read, tail) == fold(&mut state, tail), "read back after {place} inputs, it goes on apart");
    }
    Ok(())
}

/// What the record transaction does, as far as the engine can tell: a result whose id is stored,
/// or came earlier in the batch, is dropped; everything else is folded.
fn record<P: Policy>(
    state: &mut State<P>,
    stored: &mut BTreeSet<(Slot, Region, Kind)>,
    batch: &[Input<P>],
) -> Vec<Effects> {
    let new = batch.iter().filter(|input| match input {
        Input::Result(seen) => stored.insert((seen.slot, seen.region.clone(), seen.kind)),
        Input::Control(_) => true,
    });
    new.map(|input| state.step(input)).collect()
}

/// Law 6: results that come again, after any delay, in the same batch or a later one, and even
/// with another outcome, change nothing: what the pipeline folds is the log without them.
pub fn law_06_duplicates_do_not_matter<P: Policy>(timeline: &Timeline<P>) -> Verdict {
    let mut once = (timeline.start(), BTreeSet::new());
    let clean = record(&mut once.0, &mut once.1, &timeline.inputs);
    for place in timeline.places() {
        let doubled = with_duplicates(&timeline.inputs, place);
        let mut twice = (timeline.start(), BTreeSet::new());
        let batches = doubled.chunks(place % 5 + 1);
        let effects: Vec<_> = batches.flat_map(|batch| record(&mut twice.0, &mut twice.1, batch)).collect();
        ensure!(6, twice.0 == once.0, "with duplicates the state is {:?}, without {:?}", twice.0, once.0);
        ensure!(6, effects == clean, "with duplicates the effects are {effects:?}, without {clean:?}");
    }
    Ok(())
}

/// The log with every result again up to `delay` inputs later, turned to its opposite every other time.
fn with_duplicates<P: Policy>(inputs: &[Input<P>], delay: usize) -> Vec<Input<P>> {
    let mut doubled: Vec<(usize, Input<P>)> = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        doubled.push((2 * index, input.clone()));
        if let Input::Result(seen) = input {
            let mut again = seen.clone();
            if index % 2 == 0 {
                again.outcome =
                    if seen.outcome == Outcome::Pass { Outcome::Fail(FailReason::Connect) } else { Outcome::Pass };
            }
            doubled.push((2 * (index + (index * 7 + delay) % (delay + 1)) + 1, Input::Result(again)));
        }
    }
    doubled.sort_by_key(|(at, _)| *at);
    doubled.into_iter().map(|(_, input)| input).collect()
}

/// Two services with one log: the even inputs are one's, the odd the other's.
struct Fleet<P: Policy> {
    services: [State<P>; 2],
    log: Vec<(Seq, usize, Transition)>,
}

impl<P: Policy> Fleet<P> {
    fn new(timeline: &Timeline<P>) -> Self {
        Self { services: [timeline.start(), timeline.start()], log: Vec::new() }
    }

    fn apply(&mut self, service: usize, input: &Input<P>) {
        if let Some(transition) = self.services[service].step(input).transition {
            let seq = self.log.last().map_or(Seq(1), |(last, ..)| last.next());
            self.log.push((seq, service, transition));
        }
    }

    fn transitions(&self, service: usize) -> Vec<Transition> {
        self.log.iter().filter(|(_, of, _)| *of == service).map(|(.., transition)| *transition).collect()
    }
}

/// Law 7, its second half, on a model of the store: the log's `seq` is gapless from 1 over all
/// services, and each service's `applied` numbers are gapless from 1, its registration's.
pub fn law_07_sequence_numbers_are_gapless<P: Policy>(timeline: &Timeline<P>) -> Verdict {
    let mut fleet = Fleet::new(timeline);
    for (index, input) in timeline.inputs.iter().enumerate() {
        fleet.apply(index % 2, input);
    }
    let seqs = fleet.log.iter().map(|(seq, ..)| seq.0);
    ensure!(7, seqs.eq(1..=fleet.log.len() as u64), "the log is numbered {:?}", fleet.log);
    let (_, effects) = fold(&mut timeline.start(), &timeline.inputs);
    let numbers: Vec<u64> = effects.iter().filter_map(Effects::applied).map(|applied| applied.0).collect();
    ensure!(7, numbers.iter().copied().eq(2..2 + numbers.len() as u64), "the inputs are numbered {numbers:?}");
    Ok(())
}

/// Law 25: two services' inputs may be interleaved in any way that keeps each service's own order:
/// each ends in the same state with the same transitions.
pub fn law_25_services_are_independent<P: Policy>(timeline: &Timeline<P>) -> Verdict {
    let of = |service: usize| timeline.inputs.iter().skip(service).step_by(2);
    let mut apart = Fleet::new(timeline);
    (0..2).for_each(|service| of(service).for_each(|input| apart.apply(service, input)));
    for place in timeline.places() {
        let mut mixed = Fleet::new(timeline);
        let mut queues = [of(0), of(1)];
        let mut dice = place;
        while queues.iter().any(|queue| queue.len() > 0) {
            dice = dice.wrapping_mul(25_214_903_917).wrapping_add(11);
            let first = (dice >> 16) % 2;
            let turn = if queues[first].len() > 0 { first } else { 1 - first };
            queues[turn].next().into_iter().for_each(|input| mixed.apply(turn, input));
        }
        for service in 0..2 {
            let same = mixed.services[service] == apart.services[service]
                && mixed.transitions(service) == apart.transitions(service);
            ensure!(25, same, "interleaved, service {service} fares otherwise");
        }
    }
    Ok(())
}

/// A policy with another quorum.
#[derive(Debug, Clone, PartialEq)]
pub struct WithQuorum<P> {
    /// The policy.
    pub policy: P,
    /// The quorum in place of its own.
    pub quorum: NonZeroU8,
}

impl<P: Policy> Policy for WithQuorum<P> {
    type Memory = P::Memory;

    fn observe(&self, memory: &mut P::Memory, grade: Grade) {
        self.policy.observe(memory, grade);
    }

    fn tripped(&self, memory: &P::Memory) -> Tripped {
        self.policy.tripped(memory)
    }

    fn clear_windows(&self, memory: &mut P::Memory) {
        self.policy.clear_windows(memory);
    }

    fn quorum(&self) -> NonZeroU8 {
        self.quorum
    }

    fn blind_after(&self) -> NonZeroU8 {
        self.policy.blind_after()
    }
}

/// Law 26: which region says what does not matter, only how many do: with the regions' names
/// exchanged, everything told is the same. And a higher quorum is never less healthy: at every
/// step the level is at most that under the lower one, in `Up < Degraded < Unknown < Down`.
pub fn law_26_quorum_is_symmetric_and_monotone<P: Policy>(timeline: &Timeline<P>) -> Verdict {
    let exchanged = exchange_regions(timeline);
    let (one, other) = (fold(&mut timeline.start(), &timeline.inputs), fold(&mut exchanged.start(), &exchanged.inputs));
    ensure!(26, one.1 == other.1, "with the regions' names exchanged it tells another story");
    let with = |quorum: u8| {
        let quorum = NonZeroU8::MIN.saturating_add(quorum - 1);
        timeline.with_policies(|policy| WithQuorum { policy: policy.clone(), quorum })
    };
    let levels = |timeline: &Timeline<WithQuorum<P>>| {
        let mut levels = Vec::new();
        let verdict = timeline.every_step(|step: &Step<'_, _>| {
            levels.push(step.after.level());
            Ok(())
        });
        verdict.map(|()| levels)
    };
    for quorum in 1..=3 {
        let (lower, higher) = (levels(&with(quorum))?, levels(&with(quorum + 1))?);
        if let Some(at) = lower.iter().zip(&higher).position(|(lower, higher)| higher > lower) {
            let why = format_args!("quorum {quorum} gives {}, and {} gives {}", lower[at], quorum + 1, higher[at]);
            return Err(Box::new(broken(26, why).at(at)));
        }
    }
    Ok(())
}

/// The timeline with the names of all its regions turned round: the first is the last, and so on.
fn exchange_regions<P: Policy>(timeline: &Timeline<P>) -> Timeline<P> {
    let lists = timeline.inputs.iter().filter_map(|input| match input {
        Input::Control(Control::Configure { regions, .. }) => Some(regions),
        _ => None,
    });
    let names: BTreeSet<Region> = std::iter::once(&timeline.regions).chain(lists).flatten().cloned().collect();
    let other: BTreeMap<Region, Region> = names.iter().cloned().zip(names.iter().rev().cloned()).collect();
    let rename = |region: &Region| other.get(region).unwrap_or(region).clone();
    let rename_all =
        |regions: &Regions| Regions::new(regions.iter().map(rename).collect()).unwrap_or_else(|_| regions.clone());
    let mut exchanged = timeline.clone();
    exchanged.regions = rename_all(&timeline.regions);
    for input in &mut exchanged.inputs {
        match input {
            Input::Result(seen) => seen.region = rename(&seen.region),
            Input::Control(Control::Configure { regions, .. }) => *regions = rename_all(regions),
            Input::Control(Control::Missed { region, .. }) => *region = rename(region),
            Input::Control(_) => {}
        }
    }
    exchanged
}
