//! Telling a service's life in a line, for tests that read as specification.

use std::num::NonZeroU8;

use healthmon_core::{
    engine::{
        Control, Effects, Hint, Ignored, Input, LatchRule, Policy, Sighting, State, TargetChange, Thresholds, Vote,
    },
    id::{Epoch, Region},
    probe::{FailReason, IndeterminateReason, Kind, Outcome},
    service::Regions,
    status::{Cause, Edge, Overlay, Status, Transition},
    time::Slot,
};

pub(crate) const PASS: Outcome = Outcome::Pass;
pub(crate) const SLOW: Outcome = Outcome::Slow;
pub(crate) const FAIL: Outcome = Outcome::Fail(FailReason::Timeout);
pub(crate) const FATAL: Outcome = Outcome::Fatal(FailReason::Tls);
pub(crate) const BLANK: Outcome = Outcome::Indeterminate(IndeterminateReason::Expired);

pub(crate) fn rule(k: u8, n: u8, s: u8) -> LatchRule {
    LatchRule::new(k, n, s).expect("a rule")
}

pub(crate) fn policy(k: u8, n: u8, s: u8) -> Thresholds {
    Thresholds::with_down(rule(k, n, s))
}

pub(crate) fn count(n: u8) -> NonZeroU8 {
    NonZeroU8::new(n).expect("not zero")
}

pub(crate) fn region(name: &str) -> Region {
    Region::new(name).expect("a region")
}

pub(crate) fn regions(names: &[&str]) -> Regions {
    Regions::new(names.iter().map(|name| region(name)).collect()).expect("regions")
}

/// A service and the slot it has got to.
pub(crate) struct Story<P: Policy> {
    pub(crate) state: State<P>,
    pub(crate) now: i64,
    pub(crate) transitions: Vec<Transition>,
}

impl<P: Policy> Story<P> {
    pub(crate) fn of(policy: P) -> Self {
        Self::in_regions(policy, &["ap"])
    }

    pub(crate) fn in_regions(policy: P, names: &[&str]) -> Self {
        Self { state: State::registered(policy, &regions(names)), now: 0, transitions: Vec::new() }
    }

    pub(crate) fn apply(&mut self, input: &Input<P>) -> Effects {
        let effects = self.state.apply(input);
        self.transitions.extend(effects.transition);
        effects
    }

    pub(crate) fn control(&mut self, control: Control<P>) -> Effects {
        self.apply(&Input::Control(control))
    }

    /// A scheduled result under the settings in force.
    pub(crate) fn sighting(&self, name: &str, slot: i64, outcome: Outcome) -> Sighting {
        let (region, slot, epoch) = (region(name), Slot::from_millis(slot), self.state.epoch());
        Sighting { region, slot, kind: Kind::Scheduled, epoch, outcome }
    }

    /// The next slot's result in a region.
    pub(crate) fn see_in(&mut self, name: &str, outcome: Outcome) -> Effects {
        self.now += 1;
        let sighting = self.sighting(name, self.now, outcome);
        self.apply(&Input::Result(sighting))
    }

    pub(crate) fn see(&mut self, outcome: Outcome) -> Effects {
        self.see_in("ap", outcome)
    }

    /// The next slots' results, a letter each: Pass, Slow, Fail, Fatal (`X`), Indeterminate (`?`).
    pub(crate) fn run(&mut self, outcomes: &str) -> Status {
        for letter in outcomes.chars() {
            self.see(match letter {
                'P' => PASS,
                'S' => SLOW,
                'F' => FAIL,
                'X' => FATAL,
                _ => BLANK,
            });
        }
        self.status()
    }

    pub(crate) fn missed(&mut self, name: &str, slots: u8) -> Effects {
        self.now += i64::from(slots);
        let (region, through) = (region(name), Slot::from_millis(self.now));
        self.control(Control::Missed { region, through, slots: count(slots) })
    }

    pub(crate) fn configure(&mut self, policy: P, names: &[&str]) -> Effects {
        self.control(Control::Configure { policy, regions: regions(names), target: TargetChange::Same })
    }

    pub(crate) fn retarget(&mut self) -> Effects {
        let policy = self.state.policy().clone();
        let names = self.state.regions().iter().map(|region| region.region().clone()).collect();
        let regions = Regions::new(names).expect("regions");
        self.control(Control::Configure { policy, regions, target: TargetChange::Changed })
    }

    pub(crate) fn status(&self) -> Status {
        self.state.announced()
    }
}

/// The status after these outcomes, and how many transitions led there.
pub(crate) fn told<P: Policy>(policy: P, outcomes: &str) -> (Status, usize) {
    let mut story = Story::of(policy);
    (story.run(outcomes), story.transitions.len())
}

pub(crate) fn transition(from: Status, to: Status, cause: Cause) -> Option<Transition> {
    Some(Transition { from, to, cause })
}

pub(crate) fn ignored(why: Ignored) -> Effects {
    Effects { vote: Vote::Ignored(why), transition: None, overlays: vec![], hint: Hint::None }
}

pub(crate) fn begins(overlay: Overlay) -> Vec<(Overlay, Edge)> {
    vec![(overlay, Edge::Began)]
}

pub(crate) fn ends(overlay: Overlay) -> Vec<(Overlay, Edge)> {
    vec![(overlay, Edge::Ended)]
}

/// The epoch before the one in force.
pub(crate) fn older(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 - 1)
}
