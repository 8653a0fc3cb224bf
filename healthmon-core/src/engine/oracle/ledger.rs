//! The oracle for long logs: the same lists, and each input is taken in once.

use super::{LatchAccount, RegionAccount, cause, recovery};
use crate::{
    engine::{
        Control, Damping, Effects, Grade, Hint, Ignored, Input, LatchRule, Sighting, TargetChange, Thresholds, Vote,
    },
    id::{Applied, Epoch, Region},
    probe::{Kind, Outcome},
    service::Regions,
    status::{Edge, Overlay, Status, Transition},
    time::Slot,
};

/// The naive engine with its accounts kept from one input to the next.
///
/// What [`Oracle`](super::Oracle) works out anew from the list of all inputs, whenever it is asked,
/// takes the cube of their number. Here each input is written once into the accounts of the regions;
/// they are lists still. A test of the laws holds it against the oracle.
///
/// ```
/// use healthmon_core::{engine::{Control, Input, Thresholds, oracle::{Ledger, Oracle}}, service::Regions};
/// let (policy, regions) = (Thresholds::default(), Regions::default());
/// let (mut ledger, mut oracle) = (Ledger::registered(policy, &regions), Oracle::registered(policy, &regions));
/// let input = Input::Control(Control::Pause);
/// assert_eq!(ledger.apply(&input), oracle.apply(&input));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Ledger {
    policy: Thresholds,
    accounts: Vec<(Region, RegionAccount)>,
    /// Those that were applied, but for what was missed.
    controls: Vec<Control<Thresholds>>,
    applied: u64,
    /// The level at the last moment it was not frozen.
    status: Status,
}

impl Ledger {
    /// A service just registered.
    pub fn registered(policy: Thresholds, regions: &Regions) -> Self {
        let accounts = regions.iter().map(|region| (region.clone(), RegionAccount::default())).collect();
        Self { policy, accounts, controls: Vec::new(), applied: 1, status: Status::Unknown }
    }

    /// The status that the world has been told.
    pub fn status(&self) -> Status {
        self.status
    }

    /// One more than the changes of settings and the resumptions.
    pub fn epoch(&self) -> Epoch {
        let bumps = |control: &&Control<Thresholds>| matches!(control, Control::Configure { .. } | Control::Resume);
        Epoch(1 + self.controls.iter().filter(bumps).count() as u32)
    }

    /// How many inputs have counted, the registration first.
    pub fn applied(&self) -> Applied {
        Applied(self.applied)
    }

    /// What it knows of one region; `None` for one that the service is not probed from.
    pub fn region(&self, region: &Region) -> Option<&RegionAccount> {
        self.accounts.iter().find(|(known, _)| known == region).map(|(_, account)| account)
    }

    /// Takes in one input.
    pub fn apply(&mut self, input: &Input<Thresholds>) -> Effects {
        if let Some(why) = self.refusal(input) {
            return Effects { vote: Vote::Ignored(why), transition: None, overlays: vec![], hint: Hint::None };
        }
        let overlays = [Overlay::Paused, Overlay::Maintenance, Overlay::Blind];
        let (from, had) = (self.status, overlays.map(|overlay| self.has(overlay)));
        match input {
            Input::Control(Control::Configure { policy, regions, .. }) => {
                self.policy = *policy;
                let kept = |region: &Region| self.region(region).cloned().unwrap_or_default();
                self.accounts = regions.iter().map(|region| (region.clone(), kept(region))).collect();
            }
            Input::Control(Control::Delete) => self.accounts.clear(),
            _ => {}
        }
        match input {
            Input::Result(_) | Input::Control(Control::Missed { .. }) => {}
            Input::Control(control) => self.controls.push(control.clone()),
        }
        self.applied += 1;
        for (region, account) in &mut self.accounts {
            account.take(region, input, &self.policy);
        }
        if !self.paused() && !self.in_maintenance() {
            self.status = self.level();
        }
        let to = self.status;
        let changed = overlays.into_iter().zip(had).filter(|(overlay, had)| self.has(*overlay) != *had);
        Effects {
            vote: Vote::Applied(self.applied()),
            transition: (from != to).then(|| Transition { from, to, cause: cause(input) }),
            overlays: changed.map(|(overlay, had)| (overlay, if had { Edge::Ended } else { Edge::Began })).collect(),
            hint: self.hint(input),
        }
    }

    fn refusal(&self, input: &Input<Thresholds>) -> Option<Ignored> {
        let unchanged = |already: bool| already.then_some(Ignored::NoChange);
        if self.controls.contains(&Control::Delete) {
            return Some(Ignored::Deleted);
        }
        match input {
            Input::Result(seen) => self.refusal_of_result(seen),
            Input::Control(Control::Pause) => unchanged(self.paused()),
            Input::Control(Control::Resume) => unchanged(!self.paused()),
            Input::Control(Control::BeginMaintenance) => unchanged(self.in_maintenance()),
            Input::Control(Control::EndMaintenance) => unchanged(!self.in_maintenance()),
            Input::Control(Control::Configure { .. } | Control::Delete) => None,
            Input::Control(Control::Missed { .. }) if self.paused() => Some(Ignored::Paused),
            Input::Control(Control::Missed { region, through, .. }) => match self.region(region) {
                None => Some(Ignored::UnknownRegion),
                Some(account) => account.is_behind([account.watermark, account.missed_through], *through),
            },
        }
    }

    fn refusal_of_result(&self, seen: &Sighting) -> Option<Ignored> {
        if self.paused() {
            Some(Ignored::Paused)
        } else if seen.kind == Kind::Manual {
            Some(Ignored::Manual)
        } else if seen.epoch < self.epoch() {
            Some(Ignored::OldEpoch)
        } else {
            match self.region(&seen.region) {
                None => Some(Ignored::UnknownRegion),
                Some(account) => account.is_behind([account.watermark], seen.slot),
            }
        }
    }

    fn has(&self, overlay: Overlay) -> bool {
        match overlay {
            Overlay::Paused => self.paused(),
            Overlay::Maintenance => self.in_maintenance(),
            Overlay::Blind => self.blind(),
        }
    }

    fn paused(&self) -> bool {
        let ends =
            |control: &&Control<Thresholds>| matches!(control, Control::Pause | Control::Resume | Control::Delete);
        self.controls.iter().rfind(ends) == Some(&Control::Pause)
    }

    fn in_maintenance(&self) -> bool {
        let ends = |control: &&Control<Thresholds>| {
            matches!(control, Control::BeginMaintenance | Control::EndMaintenance | Control::Delete)
        };
        self.controls.iter().rfind(ends) == Some(&Control::BeginMaintenance)
    }

    fn count(&self, holds: impl Fn(&RegionAccount) -> bool) -> usize {
        self.accounts.iter().filter(|(_, account)| holds(account)).count()
    }

    fn quorum(&self) -> usize {
        usize::from(self.policy.quorum.get()).min(self.accounts.len())
    }

    fn level(&self) -> Status {
        if self.accounts.is_empty() {
            Status::Unknown
        } else if self.count(|account| account.down.tripped) >= self.quorum() {
            Status::Down
        } else if self.count(|account| account.passed) == 0 {
            Status::Unknown
        } else if self.count(|account| account.degraded.tripped) >= self.quorum() {
            Status::Degraded
        } else {
            Status::Up
        }
    }

    fn blind(&self) -> bool {
        let patience = usize::from(self.policy.blind_after.get());
        let seeing = self.count(|account| account.silent < patience);
        !self.accounts.is_empty() && !self.paused() && seeing < self.quorum()
    }

    fn hint(&self, input: &Input<Thresholds>) -> Hint {
        let Input::Result(Sighting { outcome, .. }) = input else { return Hint::None };
        match (self.level(), outcome) {
            (Status::Down, Outcome::Pass | Outcome::Slow) => Hint::ProbeSooner,
            (Status::Up | Status::Degraded, Outcome::Fail(_) | Outcome::Fatal(_)) => Hint::ProbeSooner,
            _ => Hint::None,
        }
    }
}

impl RegionAccount {
    fn is_behind<const N: usize>(&self, marks: [Option<Slot>; N], slot: Slot) -> Option<Ignored> {
        marks.into_iter().flatten().any(|mark| slot <= mark).then_some(Ignored::Late)
    }

    /// Writes down an input that counts, if it is of this region.
    fn take(&mut self, own: &Region, input: &Input<Thresholds>, policy: &Thresholds) {
        match input {
            Input::Control(Control::Configure { target: TargetChange::Changed, .. }) => {
                // Of another target only the schedule is known.
                let Self { watermark, missed_through, .. } = *self;
                *self = Self { watermark, missed_through, ..Self::default() };
            }
            Input::Control(Control::Configure { .. } | Control::Resume) => {
                self.outcomes.clear();
                self.judge(policy, None);
            }
            Input::Control(Control::Pause) => self.silent = 0,
            Input::Control(Control::Missed { region, through, slots }) if region == own => {
                self.missed_through = self.missed_through.max(Some(*through));
                self.silent += usize::from(slots.get());
            }
            Input::Result(seen) if seen.region == *own => {
                self.watermark = self.watermark.max(Some(seen.slot));
                self.passed |= matches!(seen.outcome, Outcome::Pass | Outcome::Slow);
                match Grade::of(seen.outcome) {
                    None => self.silent += 1,
                    Some(grade) => {
                        self.silent = 0;
                        self.outcomes.push(grade);
                        self.judge(policy, Some(grade));
                    }
                }
            }
            _ => {}
        }
    }

    /// Moves the latches by the newest outcome; by none when the windows were cleared.
    fn judge(&mut self, policy: &Thresholds, newest: Option<Grade>) {
        let (outcomes, damping) = (&self.outcomes, policy.damping);
        self.down.judge(Some(policy.down), damping, outcomes, newest, |grade| grade >= Grade::Fail);
        // A failure that is fatal to the other latch is a failure to this one.
        let newest = newest.map(|grade| grade.min(Grade::Fail));
        self.degraded.judge(policy.degraded, damping, outcomes, newest, |grade| grade >= Grade::Slow);
    }
}

impl LatchAccount {
    /// Moves the latch by the outcomes since the windows were cleared, of which the newest is new; none
    /// is when they were cleared just now.
    fn judge(
        &mut self,
        rule: Option<LatchRule>,
        damping: Option<Damping>,
        outcomes: &[Grade],
        newest: Option<Grade>,
        bad: fn(Grade) -> bool,
    ) {
        let Some(rule) = rule else {
            *self = Self::default();
            return;
        };
        if damping.is_none() {
            self.trips = 0;
        }
        let Some(newest) = newest else { return };
        let failures = outcomes.iter().rev().take(rule.window().into()).filter(|grade| bad(**grade)).count();
        let successes = outcomes.iter().rev().take_while(|grade| !bad(**grade)).count();
        if damping.is_some_and(|damping| successes >= usize::from(damping.quiet())) {
            self.trips = 0;
        }
        if self.tripped {
            let clears = successes >= recovery(rule, damping, self.trips) && failures < rule.threshold().into();
            self.tripped = !clears;
        } else if newest == Grade::Fatal || (bad(newest) && failures >= rule.threshold().into()) {
            self.tripped = true;
            self.trips += usize::from(damping.is_some());
        }
    }
}
