//! A service's state, and the one function that moves it.

use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

#[cfg(debug_assertions)]
use super::invariants;
use super::{Control, Effects, Grade, Hint, Ignored, Input, Policy, Sighting, TargetChange, Tripped, Vote};
use crate::{
    id::{Applied, Epoch, Region},
    probe::Kind,
    service::{Activity, Regions},
    status::{Cause, Edge, Overlay, Status, Transition},
    time::Slot,
};

/// What is remembered of one region.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegionState<M> {
    region: Region,
    watermark: Option<Slot>,
    missed_through: Option<Slot>,
    passed: bool,
    blind_run: u8,
    memory: M,
}

impl<M: Default> RegionState<M> {
    fn new(region: Region) -> Self {
        Self { region, watermark: None, missed_through: None, passed: false, blind_run: 0, memory: M::default() }
    }
}

impl<M> RegionState<M> {
    /// Which region.
    pub const fn region(&self) -> &Region {
        &self.region
    }

    /// The slot of the newest result that voted.
    pub const fn watermark(&self) -> Option<Slot> {
        self.watermark
    }

    /// The newest slot that was noted as missed.
    pub const fn missed_through(&self) -> Option<Slot> {
        self.missed_through
    }

    /// Whether the target was ever seen to pass from here.
    pub const fn passed(&self) -> bool {
        self.passed
    }

    /// How many probes in a row said nothing, no further than 255. Counted beyond what the policy
    /// asks for, so that the next policy judges by what really happened.
    pub const fn blind_run(&self) -> u8 {
        self.blind_run
    }

    /// What the policy remembers.
    pub const fn memory(&self) -> &M {
        &self.memory
    }
}

/// All that is known of one service: the fold of its inputs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound(
    serialize = "P: Serialize, P::Memory: Serialize",
    deserialize = "P: Deserialize<'de>, P::Memory: Deserialize<'de>"
))]
pub struct State<P: Policy> {
    policy: P,
    applied: Applied,
    epoch: Epoch,
    announced: Status,
    activity: Activity,
    maintenance: bool,
    blind: bool,
    regions: Vec<RegionState<P::Memory>>,
}

impl<P: Policy> State<P> {
    /// The state of a service just registered: its registration is input 1, under epoch 1.
    pub fn registered(policy: P, regions: &Regions) -> Self {
        Self {
            policy,
            applied: Applied(1),
            epoch: Epoch(1),
            announced: Status::Unknown,
            activity: Activity::Active,
            maintenance: false,
            blind: false,
            regions: regions.iter().cloned().map(RegionState::new).collect(),
        }
    }

    /// The policy in force.
    pub const fn policy(&self) -> &P {
        &self.policy
    }

    /// The number of the last input that moved it.
    pub const fn applied(&self) -> Applied {
        self.applied
    }

    /// The epoch of the settings in force.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The status that the world has been told.
    pub const fn announced(&self) -> Status {
        self.announced
    }

    /// Whether it is active, paused or deleted.
    pub const fn activity(&self) -> Activity {
        self.activity
    }

    /// Whether an overlay lies over the status.
    pub fn has(&self, overlay: Overlay) -> bool {
        match overlay {
            Overlay::Blind => self.blind,
            Overlay::Paused => self.activity == Activity::Paused,
            Overlay::Maintenance => self.maintenance,
        }
    }

    /// What is remembered of each region.
    pub fn regions(&self) -> &[RegionState<P::Memory>] {
        &self.regions
    }

    /// Whether the announced status may not move now.
    pub fn is_frozen(&self) -> bool {
        self.maintenance || self.activity == Activity::Paused
    }

    /// The status as the regions vote now, whatever is announced.
    pub fn level(&self) -> Status {
        let quorum = self.quorum();
        let votes = |vote: fn(Tripped) -> bool| {
            self.regions.iter().filter(|region| vote(self.policy.tripped(&region.memory))).count() >= quorum
        };
        if votes(|tripped| tripped.down) {
            Status::Down
        } else if !self.regions.iter().any(|region| region.passed) {
            Status::Unknown
        } else if votes(|tripped| tripped.degraded) {
            Status::Degraded
        } else {
            Status::Up
        }
    }

    /// The quorum among the regions there are; at least 1, so that no regions decide nothing.
    fn quorum(&self) -> usize {
        usize::from(self.policy.quorum().get()).min(self.regions.len()).max(1)
    }

    /// Applies one input. Total: every input has an answer in every state.
    ///
    /// With debug assertions on, every step is held against the [laws](super::invariants) about one step,
    /// and a policy that breaks one panics with the law's name.
    pub fn apply(&mut self, input: &Input<P>) -> Effects {
        #[cfg(debug_assertions)]
        let before = self.clone();
        let effects = self.step(input);
        #[cfg(debug_assertions)]
        invariants::assert_step(&invariants::Step { before: &before, input, effects: &effects, after: self });
        effects
    }

    pub(super) fn step(&mut self, input: &Input<P>) -> Effects {
        match input {
            Input::Result(sighting) => self.apply_result(sighting),
            Input::Control(control) => self.apply_control(control),
        }
    }

    fn apply_result(&mut self, sighting: &Sighting) -> Effects {
        let ignored = match self.activity {
            Activity::Deleted => Some(Ignored::Deleted),
            Activity::Paused => Some(Ignored::Paused),
            Activity::Active if sighting.kind == Kind::Manual => Some(Ignored::Manual),
            Activity::Active if sighting.epoch < self.epoch => Some(Ignored::OldEpoch),
            Activity::Active => None,
        };
        if let Some(why) = ignored {
            return Effects::ignored(why);
        }
        let Some(region) = self.regions.iter_mut().find(|region| region.region == sighting.region) else {
            return Effects::ignored(Ignored::UnknownRegion);
        };
        if region.watermark.is_some_and(|watermark| sighting.slot <= watermark) {
            return Effects::ignored(Ignored::Late);
        }
        region.watermark = Some(sighting.slot);
        let grade = Grade::of(sighting.outcome);
        match grade {
            None => region.blind_run = region.blind_run.saturating_add(1),
            Some(grade) => {
                region.blind_run = 0;
                region.passed |= grade.passed();
                self.policy.observe(&mut region.memory, grade);
            }
        }
        let mut effects = self.settle(Cause::Result);
        effects.hint = self.hint(grade);
        effects
    }

    /// An earlier probe is wanted while the level neither follows the outcome nor may ignore it.
    fn hint(&self, grade: Option<Grade>) -> Hint {
        match (self.level(), grade) {
            (Status::Down, Some(Grade::Pass | Grade::Slow)) => Hint::ProbeSooner,
            (Status::Up | Status::Degraded, Some(Grade::Fail | Grade::Fatal)) => Hint::ProbeSooner,
            _ => Hint::None,
        }
    }

    fn apply_control(&mut self, control: &Control<P>) -> Effects {
        if self.activity == Activity::Deleted {
            return Effects::ignored(Ignored::Deleted);
        }
        let mut overlays = Vec::new();
        let cause = match control {
            Control::Configure { policy, regions, target } => {
                self.configure(policy, regions, *target);
                Cause::Configuration
            }
            Control::Pause if self.activity == Activity::Active => {
                self.activity = Activity::Paused;
                self.regions.iter_mut().for_each(|region| region.blind_run = 0);
                overlays.push((Overlay::Paused, Edge::Began));
                Cause::Configuration
            }
            Control::Resume if self.activity == Activity::Paused => {
                self.activity = Activity::Active;
                self.epoch = self.epoch.next();
                self.clear_windows();
                overlays.push((Overlay::Paused, Edge::Ended));
                Cause::Resumed
            }
            Control::BeginMaintenance if !self.maintenance => {
                self.maintenance = true;
                overlays.push((Overlay::Maintenance, Edge::Began));
                Cause::Configuration
            }
            Control::EndMaintenance if self.maintenance => {
                self.maintenance = false;
                overlays.push((Overlay::Maintenance, Edge::Ended));
                Cause::MaintenanceEnded
            }
            Control::Missed { region, through, slots } => {
                if let Err(why) = self.miss(region, *through, *slots) {
                    return Effects::ignored(why);
                }
                Cause::Result
            }
            Control::Delete => {
                self.delete(&mut overlays);
                Cause::Deleted
            }
            Control::Pause | Control::Resume | Control::BeginMaintenance | Control::EndMaintenance => {
                return Effects::ignored(Ignored::NoChange);
            }
        };
        let mut effects = self.settle(cause);
        overlays.append(&mut effects.overlays);
        Effects { overlays, ..effects }
    }

    fn configure(&mut self, policy: &P, regions: &Regions, target: TargetChange) {
        self.policy = policy.clone();
        self.epoch = self.epoch.next();
        let mut old = std::mem::take(&mut self.regions);
        for name in regions {
            let kept = old.iter().position(|region| region.region == *name).map(|at| old.swap_remove(at));
            let mut region = kept.unwrap_or_else(|| RegionState::new(name.clone()));
            if target == TargetChange::Changed {
                region.passed = false;
                region.blind_run = 0;
                region.memory = P::Memory::default();
            }
            self.regions.push(region);
        }
        self.clear_windows();
    }

    fn clear_windows(&mut self) {
        for region in &mut self.regions {
            self.policy.clear_windows(&mut region.memory);
        }
    }

    /// Notes slots that went by in silence. The watermark stays: a result that is merely late in
    /// coming, because our own store was away, still votes.
    fn miss(&mut self, name: &Region, through: Slot, slots: NonZeroU8) -> Result<(), Ignored> {
        if self.activity == Activity::Paused {
            return Err(Ignored::Paused);
        }
        let region = self.regions.iter_mut().find(|region| region.region == *name).ok_or(Ignored::UnknownRegion)?;
        if region.watermark.max(region.missed_through).is_some_and(|known| through <= known) {
            return Err(Ignored::Late);
        }
        region.missed_through = Some(through);
        region.blind_run = region.blind_run.saturating_add(slots.get());
        Ok(())
    }

    fn delete(&mut self, overlays: &mut Vec<(Overlay, Edge)>) {
        let paused = self.activity == Activity::Paused;
        self.activity = Activity::Deleted;
        self.regions.clear();
        if paused {
            overlays.push((Overlay::Paused, Edge::Ended));
        }
        if std::mem::take(&mut self.maintenance) {
            overlays.push((Overlay::Maintenance, Edge::Ended));
        }
    }

    /// Numbers the input and announces what follows from it.
    fn settle(&mut self, cause: Cause) -> Effects {
        self.applied = self.applied.next();
        let mut overlays = Vec::new();
        let blind = self.is_blind();
        if blind != self.blind {
            self.blind = blind;
            overlays.push((Overlay::Blind, if blind { Edge::Began } else { Edge::Ended }));
        }
        let level = self.level();
        let transition = if self.is_frozen() || level == self.announced {
            None
        } else {
            let from = std::mem::replace(&mut self.announced, level);
            Some(Transition { from, to: level, cause })
        };
        Effects { vote: Vote::Applied(self.applied), transition, overlays, hint: Hint::None }
    }

    /// Whether fewer regions than the quorum have lately seen anything.
    fn is_blind(&self) -> bool {
        let blind_after = self.policy.blind_after().get();
        let seeing = self.regions.iter().filter(|region| region.blind_run < blind_after).count();
        self.activity == Activity::Active && seeing < self.quorum()
    }
}
