//! Everything that can come next, relative to where a service is.

use healthmon_core::{
    engine::{Control, Damping, Input, LatchRule, Sighting, State, TargetChange, Thresholds},
    id::{Epoch, Region},
    probe::{FailReason, IndeterminateReason, Kind, Outcome},
    service::Regions,
    time::Slot,
};
use std::num::NonZeroU8;

/// A small policy, the one it is exchanged for, and where the service is probed from.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) policies: [Thresholds; 2],
    pub(crate) regions: Vec<Regions>,
    /// To how many of its regions inputs go.
    pub(crate) fed: usize,
    /// How long its sequences are.
    pub(crate) length: u32,
}

pub(crate) fn rule(k: u8, n: u8, s: u8) -> LatchRule {
    LatchRule::new(k, n, s).expect("a rule")
}

pub(crate) fn count(n: u8) -> NonZeroU8 {
    NonZeroU8::new(n).expect("not zero")
}

fn regions(names: &[&str]) -> Regions {
    Regions::new(names.iter().map(|name| Region::new(name).expect("a region")).collect()).expect("regions")
}

impl Scenario {
    /// A service probed from one region, which may be exchanged or joined by another.
    pub(crate) fn of_one(name: &'static str, policies: [Thresholds; 2]) -> Self {
        let choices = vec![regions(&["ap"]), regions(&["eu"]), regions(&["ap", "eu"])];
        Self { name, policies, regions: choices, fed: 1, length: 7 }
    }

    /// A service probed from three regions, which may become fewer, or others.
    pub(crate) fn of_three(name: &'static str, policies: [Thresholds; 2]) -> Self {
        let choices = vec![regions(&["ap", "eu", "us"]), regions(&["ap", "eu"]), regions(&["us"])];
        Self { name, policies, regions: choices, fed: 3, length: 5 }
    }

    pub(crate) fn start(&self) -> State<Thresholds> {
        State::registered(self.policies[0], &self.regions[0])
    }

    /// How many inputs there are in every state.
    pub(crate) fn alphabet(&self) -> usize {
        self.inputs(&self.start(), 1).len()
    }

    /// Every input, for a state that has had fewer than `time` inputs. The list is as long for
    /// every state, so that sequences can be counted.
    pub(crate) fn inputs(&self, state: &State<Thresholds>, time: i64) -> Vec<Input<Thresholds>> {
        let mut inputs = Vec::new();
        for fed in 0..self.fed {
            inputs.extend(from_region(state, fed, time));
        }
        inputs.push(Input::Result(Sighting {
            region: Region::new("nowhere").expect("a region"),
            slot: Slot::from_millis(10 * time),
            kind: Kind::Scheduled,
            epoch: state.epoch(),
            outcome: Outcome::Fatal(FailReason::Tls),
        }));
        let [first, second] = self.policies;
        let other = if *state.policy() == first { second } else { first };
        let same = state.regions().iter().map(|region| region.region().clone()).collect();
        let same = Regions::new(same).unwrap_or_default();
        let configure = |policy, regions, target| Control::Configure { policy, regions, target };
        let mut controls = vec![
            Control::Pause,
            Control::Resume,
            Control::BeginMaintenance,
            Control::EndMaintenance,
            configure(other, same.clone(), TargetChange::Same),
            configure(*state.policy(), same, TargetChange::Changed),
            Control::Delete,
        ];
        let choices = self.regions.iter().cloned();
        controls.extend(choices.map(|regions| configure(*state.policy(), regions, TargetChange::Same)));
        inputs.extend(controls.into_iter().map(Input::Control));
        inputs
    }
}

/// Everything that can come from one region.
fn from_region(state: &State<Thresholds>, fed: usize, time: i64) -> Vec<Input<Thresholds>> {
    // Newer than every slot before, and older: what is relative to a slot that there is not must
    // depend on nothing but that there is none, or sequences that meet would not stay together.
    let (now, never) = (Slot::from_millis(10 * time), Slot::from_millis(-10 * time));
    let known = state.regions().get(fed % state.regions().len().max(1));
    let region = known.map_or_else(Region::default, |known| known.region().clone());
    let newest = known.and_then(|known| known.watermark()).unwrap_or(never);
    let missed = known.and_then(|known| known.missed_through()).unwrap_or(never);
    let seen =
        |slot, outcome| Sighting { region: region.clone(), slot, kind: Kind::Scheduled, epoch: state.epoch(), outcome };
    let fail = Outcome::Fail(FailReason::Timeout);
    let old = Epoch(state.epoch().0 - 1);
    let results = [
        seen(now, Outcome::Pass),
        seen(now, Outcome::Slow),
        seen(now, fail),
        seen(now, Outcome::Fatal(FailReason::Tls)),
        seen(now, Outcome::Indeterminate(IndeterminateReason::Expired)),
        // Late: the newest slot again, with another outcome.
        seen(newest, fail),
        // A straggler: the result of a slot that was noted as missed.
        seen(missed, Outcome::Pass),
        Sighting { epoch: old, ..seen(now, fail) },
        Sighting { kind: Kind::Manual, ..seen(now, Outcome::Pass) },
    ];
    let silence = |through| Input::Control(Control::Missed { region: region.clone(), through, slots: count(1) });
    // A silence that is new, and one of a slot that has a result or was noted already.
    results.into_iter().map(Input::Result).chain([silence(now), silence(newest.max(missed))]).collect()
}

/// Small policies that between them have every feature.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let plain = |k, n, s, blind: u8| Thresholds { blind_after: count(blind), ..Thresholds::with_down(rule(k, n, s)) };
    let degraded = |down, degraded| Thresholds { degraded: Some(degraded), ..down };
    let damped = |policy: Thresholds| Thresholds { damping: Damping::new(4, 5).ok(), ..policy };
    let quorum = |quorum, policy| Thresholds { quorum: count(quorum), ..policy };
    vec![
        Scenario::of_one("consecutive", [plain(1, 1, 1, 1), plain(2, 2, 2, 2)]),
        Scenario::of_one("windowed", [plain(2, 3, 2, 2), plain(3, 3, 1, 1)]),
        Scenario::of_one("degraded", [degraded(plain(2, 2, 1, 2), rule(1, 2, 2)), plain(2, 3, 1, 2)]),
        Scenario::of_one("damped", [damped(plain(1, 1, 1, 2)), damped(plain(1, 2, 2, 1))]),
        Scenario::of_one("damped or not", [degraded(damped(plain(2, 2, 1, 2)), rule(1, 1, 1)), plain(1, 2, 2, 1)]),
        Scenario::of_three("quorum 2 or 1", [quorum(2, plain(1, 1, 1, 1)), quorum(1, plain(2, 2, 1, 2))]),
        Scenario::of_three("quorum 2 or 3", [quorum(2, plain(2, 2, 1, 2)), quorum(3, plain(1, 2, 2, 1))]),
        Scenario::of_three(
            "quorum 2, degraded, damped",
            [
                quorum(2, degraded(plain(2, 2, 1, 1), rule(1, 1, 1))),
                quorum(2, degraded(damped(plain(1, 1, 1, 1)), rule(1, 2, 1))),
            ],
        ),
    ]
}
