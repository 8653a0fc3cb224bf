//! Proptest strategies for timelines, and the search for one that breaks a law.
//!
//! What is generated is a list of [`Event`]s, which speak of slots and epochs relative to where the
//! service is ("the next slot", "the epoch before"); [`Event`]s are what shrinks, and only then they
//! become the inputs of a [`Timeline`]. So a timeline stays sensible however far it is shrunk.
//!
//! ```
//! use healthmon_core::engine::strategies::{refute, some_cases, thresholds, timelines};
//! let steps_keep_the_laws = refute(&some_cases(50), timelines(thresholds()), |timeline| timeline.every_step(|step| step.check()));
//! assert!(steps_keep_the_laws.is_ok());
//! ```

mod check;

use std::num::NonZeroU8;

pub use check::{Counterexample, assert_law, cases, refute, some_cases};
pub use proptest;
use proptest::{
    collection::vec,
    option,
    prelude::{BoxedStrategy, Just, Strategy},
    prop_oneof,
};

use super::{
    Control, Damping, Input, LatchRule, Policy, Sighting, State, TargetChange, Thresholds, invariants::Timeline,
};
use crate::{
    id::{Epoch, Region},
    probe::{FailReason, IndeterminateReason, Kind, Outcome},
    service::Regions,
    time::Slot,
};

/// Something that happens to a service, told relative to where it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The same outcome this many times in a row in one region, each at the next slot.
    Burst(usize, Outcome, u8, Kind),
    /// A result as many slots before the newest of its region; 0 is that one again.
    Late(usize, Outcome, u8),
    /// A result found under settings this many epochs older, at the next slot.
    OldEpoch(usize, Outcome, u8),
    /// A result that a person asked for, at the next slot, under settings this many epochs older.
    Manual(usize, Outcome, u8),
    /// A result from a region that no timeline is registered in, under settings this many epochs older.
    Elsewhere(Outcome, u8),
    /// The result of the slot last noted as missed, which came after all.
    Straggler(usize, Outcome),
    /// This many slots went by in silence.
    Missed(usize, NonZeroU8),
    /// Slots that have a result, or were noted as missed, are said to have gone by in silence, up to
    /// as many slots before the newest known; 0 is that one.
    MissedLate(usize, u8),
    /// Probing is suspended.
    Pause,
    /// Probing goes on.
    Resume,
    /// Maintenance begins.
    BeginMaintenance,
    /// Maintenance ends.
    EndMaintenance,
    /// The settings become these: which of the policies, which of the regions, which target.
    Configure(usize, usize, TargetChange),
    /// The end.
    Delete,
}

/// The names that generated regions have.
const NAMES: [&str; 3] = ["ap", "eu", "us"];

fn region(index: usize) -> Region {
    Region::new(NAMES[index % NAMES.len()]).unwrap_or_default()
}

/// The regions whose bits are set in `bits`, modulo 7, plus 1: one of the seven choices there are.
fn regions(bits: usize) -> Regions {
    let chosen = (0..NAMES.len()).filter(|index| (bits % 7 + 1) & (1 << index) != 0);
    Regions::new(chosen.map(region).collect()).unwrap_or_default()
}

/// Outcomes: mostly passes and failures.
pub fn outcomes() -> BoxedStrategy<Outcome> {
    let reasons = proptest::sample::select(&FailReason::ALL[..]);
    prop_oneof![
        8 => Just(Outcome::Pass),
        8 => Just(Outcome::Fail(FailReason::Timeout)),
        1 => reasons.clone().prop_map(Outcome::Fail),
        3 => Just(Outcome::Slow),
        1 => reasons.prop_map(Outcome::Fatal),
        3 => proptest::sample::select(&IndeterminateReason::ALL[..]).prop_map(Outcome::Indeterminate),
    ]
    .boxed()
}

/// Results that may vote: bursts of the same outcome in one region.
pub fn bursts() -> BoxedStrategy<Event> {
    let length = prop_oneof![4 => Just(1_u8), 3 => 1..=3_u8, 1 => 1..=8_u8];
    let kind = prop_oneof![6 => Just(Kind::Scheduled), 1 => Just(Kind::Edge)];
    (0..3_usize, outcomes(), length, kind)
        .prop_map(|(region, outcome, times, kind)| Event::Burst(region, outcome, times, kind))
        .boxed()
}

/// Results that may not vote: repeated, late, of an old epoch, manual, from elsewhere.
pub fn strays() -> BoxedStrategy<Event> {
    prop_oneof![
        (0..3_usize, outcomes(), 0..3_u8).prop_map(|(region, outcome, back)| Event::Late(region, outcome, back)),
        (0..3_usize, outcomes(), 1..3_u8).prop_map(|(region, outcome, back)| Event::OldEpoch(region, outcome, back)),
        (0..3_usize, outcomes(), 0..2_u8).prop_map(|(region, outcome, back)| Event::Manual(region, outcome, back)),
        (outcomes(), 0..2_u8).prop_map(|(outcome, back)| Event::Elsewhere(outcome, back)),
    ]
    .boxed()
}

/// Missed slots, and results that come for them after all.
pub fn silences() -> BoxedStrategy<Event> {
    let slots = prop_oneof![4 => 1..=3_u8, 1 => 1..=u8::MAX].prop_map(|slots| NonZeroU8::MIN.saturating_add(slots - 1));
    prop_oneof![
        3 => (0..3_usize, slots).prop_map(|(region, slots)| Event::Missed(region, slots)),
        1 => (0..3_usize, 0..3_u8).prop_map(|(region, back)| Event::MissedLate(region, back)),
        1 => (0..3_usize, outcomes()).prop_map(|(region, outcome)| Event::Straggler(region, outcome)),
    ]
    .boxed()
}

/// Pauses and maintenance, begun and ended in any order.
pub fn overlays() -> BoxedStrategy<Event> {
    prop_oneof![
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::BeginMaintenance),
        2 => Just(Event::EndMaintenance),
    ]
    .boxed()
}

/// Changes of policy, regions and target.
pub fn configurations() -> BoxedStrategy<Event> {
    let target = prop_oneof![3 => Just(TargetChange::Same), 1 => Just(TargetChange::Changed)];
    (0..3_usize, 0..7_usize, target)
        .prop_map(|(policy, regions, target)| Event::Configure(policy, regions, target))
        .boxed()
}

/// Everything that happens to services, most of it results.
pub fn events() -> BoxedStrategy<Event> {
    prop_oneof![
        60 => bursts(),
        8 => strays(),
        8 => silences(),
        10 => overlays(),
        6 => configurations(),
        // Nothing happens any more after it, so it is rare.
        1 => proptest::bool::weighted(0.3).prop_map(|ends| if ends { Event::Delete } else { Event::Resume }),
    ]
    .boxed()
}

/// Latch rules, mostly small.
pub fn rules() -> impl Strategy<Value = LatchRule> + Clone {
    let window = prop_oneof![12 => 1..=5_u8, 1 => 1..=LatchRule::LIMIT];
    let success = prop_oneof![12 => 1..=4_u8, 1 => 1..=LatchRule::LIMIT];
    let rule = window.prop_flat_map(move |n| (1..=n, Just(n), success.clone()));
    rule.prop_filter_map("1 <= k <= n", |(k, n, s)| LatchRule::new(k, n, s).ok())
}

/// Dampings, mostly short.
pub fn dampings() -> impl Strategy<Value = Damping> + Clone {
    let cap = prop_oneof![8 => 1..=4_u8, 4 => 1..=8_u8, 1 => 1..=u8::MAX];
    (cap, 1..=3_u16).prop_filter_map("cap < quiet", |(cap, longer)| Damping::new(cap, u16::from(cap) + longer).ok())
}

/// Thresholds of every sort: consecutive and not, with a degraded rule, damped, with a quorum.
pub fn thresholds() -> impl Strategy<Value = Thresholds> + Clone {
    let quorum = (1..=3_u8).prop_map(|quorum| NonZeroU8::MIN.saturating_add(quorum - 1));
    let blind = prop_oneof![8 => 1..=4_u8, 1 => 1..=u8::MAX].prop_map(|b| NonZeroU8::MIN.saturating_add(b - 1));
    (rules(), option::weighted(0.4, rules()), option::weighted(0.4, dampings()), quorum, blind).prop_map(
        |(down, degraded, damping, quorum, blind_after)| Thresholds { down, degraded, damping, quorum, blind_after },
    )
}

/// The life of a service under policies drawn from `policy`: a few dozen inputs of every sort.
pub fn timelines<S>(policy: S) -> impl Strategy<Value = Timeline<S::Value>>
where
    S: Strategy,
    S::Value: Policy,
{
    timelines_of(policy, events(), 24)
}

/// The life of a service under policies drawn from `policy`, with up to `most` events.
pub fn timelines_of<S, E>(policy: S, events: E, most: usize) -> impl Strategy<Value = Timeline<S::Value>>
where
    S: Strategy,
    S::Value: Policy,
    E: Strategy<Value = Event>,
{
    (vec(policy, 1..=3), prop_oneof![2 => Just(1_usize), 3 => 0..7_usize], vec(events, 0..=most), 0..1_000_usize)
        .prop_map(|(policies, chosen, events, pivot)| timeline(&policies, &regions(chosen), &events).sampled(pivot))
}

/// The timeline in which these events happen, under the first of the policies to begin with.
///
/// # Panics
/// When there is no policy.
pub fn timeline<P: Policy>(policies: &[P], regions: &Regions, events: &[Event]) -> Timeline<P> {
    let mut state = State::registered(policies[0].clone(), regions);
    let mut now = Slot::default();
    let mut timeline = Timeline::new(policies[0].clone(), regions.clone(), Vec::new());
    for event in events {
        for input in inputs(event, &state, policies, &mut now) {
            state.step(&input);
            timeline.inputs.push(input);
        }
    }
    timeline
}

/// The length of a slot in generated timelines.
const INTERVAL_MS: i64 = 10;

fn inputs<P: Policy>(event: &Event, state: &State<P>, policies: &[P], now: &mut Slot) -> Vec<Input<P>> {
    let mut next = || {
        *now = Slot::from_millis(now.as_millis() + INTERVAL_MS);
        *now
    };
    let older = |back: u8| Epoch(state.epoch().0.saturating_sub(u32::from(back)));
    let sighting = |at: usize, slot, outcome| Sighting {
        region: chosen(state, at),
        slot,
        kind: Kind::Scheduled,
        epoch: state.epoch(),
        outcome,
    };
    let known = |at: usize| state.regions().iter().find(|known| *known.region() == chosen(state, at));
    let result = match event {
        Event::Burst(at, outcome, times, kind) => {
            let one = |slot| Input::Result(Sighting { kind: *kind, ..sighting(*at, slot, *outcome) });
            return (0..*times).map(|_| one(next())).collect();
        }
        Event::Late(at, outcome, back) => {
            let newest = known(*at).and_then(|known| known.watermark()).unwrap_or_else(&mut next);
            let slot = Slot::from_millis(newest.as_millis() - INTERVAL_MS * i64::from(*back));
            sighting(*at, slot, *outcome)
        }
        Event::OldEpoch(at, outcome, back) => Sighting { epoch: older(*back), ..sighting(*at, next(), *outcome) },
        Event::Manual(at, outcome, back) => {
            Sighting { kind: Kind::Manual, epoch: older(*back), ..sighting(*at, next(), *outcome) }
        }
        Event::Elsewhere(outcome, back) => {
            Sighting { region: Region::default(), epoch: older(*back), ..sighting(0, next(), *outcome) }
        }
        Event::Straggler(at, outcome) => {
            let slot = known(*at).and_then(|known| known.missed_through()).unwrap_or_else(next);
            sighting(*at, slot, *outcome)
        }
        other => return vec![Input::Control(control(other, state, policies, &mut next))],
    };
    vec![Input::Result(result)]
}

fn control<P: Policy>(event: &Event, state: &State<P>, policies: &[P], next: &mut impl FnMut() -> Slot) -> Control<P> {
    match event {
        Event::Missed(at, slots) => {
            let through = (0..slots.get().min(3)).map(|_| next()).max().unwrap_or_default();
            Control::Missed { region: chosen(state, *at), through, slots: *slots }
        }
        Event::MissedLate(at, back) => {
            let region = chosen(state, *at);
            let known = state.regions().iter().find(|known| *known.region() == region);
            let newest = known.and_then(|known| known.watermark().max(known.missed_through())).unwrap_or_else(next);
            let through = Slot::from_millis(newest.as_millis() - INTERVAL_MS * i64::from(*back));
            Control::Missed { region, through, slots: NonZeroU8::MIN }
        }
        Event::Configure(policy, bits, target) => {
            let policy = policies[policy % policies.len()].clone();
            Control::Configure { policy, regions: regions(*bits), target: *target }
        }
        Event::Pause => Control::Pause,
        Event::Resume => Control::Resume,
        Event::BeginMaintenance => Control::BeginMaintenance,
        Event::EndMaintenance => Control::EndMaintenance,
        _ => Control::Delete,
    }
}

/// One of the service's regions; any name when it has none left.
fn chosen<P: Policy>(state: &State<P>, at: usize) -> Region {
    let regions = state.regions();
    regions.get(at % regions.len().max(1)).map_or_else(|| region(at), |known| known.region().clone())
}
