//! The engine: decides a service's status. Pure, total, and exhaustively checked.
//!
//! No async, clock, randomness, I/O, floats or panics. A [`State`] is moved by [`State::apply`],
//! one [`Input`] at a time, and by nothing else; what the world must be told comes back as
//! [`Effects`]. The state is the fold of its inputs, so anyone who has the inputs can replay it.
//!
//! ```
//! use healthmon_core::{engine::{Input, Sighting, State, Thresholds}, id::Region, probe::{FailReason, Kind, Outcome}, service::Regions, status::Status, time::Slot};
//!
//! let mut state = State::registered(Thresholds::default(), &Regions::default());
//! let mut last = None;
//! for slot in 1..=3 {
//!     let effects = state.apply(&Input::Result(Sighting {
//!         region: Region::default(), slot: Slot::from_millis(slot), kind: Kind::Scheduled,
//!         epoch: state.epoch(), outcome: Outcome::Fail(FailReason::Timeout),
//!     }));
//!     last = effects.transition;
//! }
//! assert_eq!(last.map(|transition| transition.to), Some(Status::Down));
//! ```

pub mod invariants;
mod latch;
#[cfg(any(test, feature = "laws", feature = "conformance"))]
pub mod oracle;
mod snapshot;
mod state;
#[cfg(feature = "laws")]
pub mod strategies;
mod thresholds;

use std::{fmt::Debug, hash::Hash, num::NonZeroU8};

use serde::{Deserialize, Serialize};

pub use latch::{Damping, InvalidDamping, InvalidLatchRule, Latch, LatchRule, Mark};
pub use snapshot::SnapshotError;
pub use state::{RegionState, State};
pub use thresholds::{Latches, Thresholds};

use crate::{
    id::{Applied, Epoch, Region},
    probe::{Kind, Outcome},
    service::Regions,
    status::{Edge, Overlay, Transition},
    time::Slot,
};

/// An outcome that says something about the target, as a policy sees it: `Pass < Slow < Fail < Fatal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Grade {
    /// As it should be.
    Pass,
    /// As it should be, but too slow.
    Slow,
    /// Not as it should be.
    Fail,
    /// A failure that the service's own rule calls enough by itself.
    Fatal,
}

impl Grade {
    /// The grade of an outcome; `None` for one that says nothing.
    pub const fn of(outcome: Outcome) -> Option<Self> {
        match outcome {
            Outcome::Pass => Some(Self::Pass),
            Outcome::Slow => Some(Self::Slow),
            Outcome::Fail(_) => Some(Self::Fail),
            Outcome::Fatal(_) => Some(Self::Fatal),
            Outcome::Indeterminate(_) => None,
        }
    }

    /// Whether the target answered.
    pub const fn passed(self) -> bool {
        matches!(self, Self::Pass | Self::Slow)
    }
}

/// What one region's memory amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tripped {
    /// The region votes for DOWN.
    pub down: bool,
    /// The region votes for DEGRADED.
    pub degraded: bool,
}

/// How one region's outcomes become its vote. [`Thresholds`] is the one that healthmon ships; an
/// embedder may bring another and check the laws on it.
pub trait Policy: Clone + Debug + PartialEq {
    /// What is remembered of a region's outcomes; the default is "nothing seen yet".
    type Memory: Clone + Default + Debug + PartialEq;

    /// Takes in one outcome of the region.
    fn observe(&self, memory: &mut Self::Memory, grade: Grade);

    /// The region's vote.
    fn tripped(&self, memory: &Self::Memory) -> Tripped;

    /// Forgets the outcomes, not the vote: after a resume or a change of policy.
    fn clear_windows(&self, memory: &mut Self::Memory);

    /// How many regions' votes decide. Taken as the number of regions where there are fewer.
    fn quorum(&self) -> NonZeroU8;

    /// How many probes in a row may say nothing before a region counts as blind.
    fn blind_after(&self) -> NonZeroU8;
}

/// A result, as far as the engine is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// Where it was seen from.
    pub region: Region,
    /// The planned instant.
    pub slot: Slot,
    /// Why it was asked for.
    pub kind: Kind,
    /// The settings it was seen under.
    pub epoch: Epoch,
    /// What was seen.
    pub outcome: Outcome,
}

/// Whether a change of settings leaves the probed thing the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetChange {
    /// It is the same thing, judged otherwise.
    Same,
    /// It is another thing: what was known of the old one is worth nothing.
    Changed,
}

/// What people and the sweep do to a service: every input but results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum Control<P> {
    /// Target, policy, regions or quorum were changed; registration is the first of these.
    Configure {
        /// The policy from now on.
        policy: P,
        /// The regions from now on.
        regions: Regions,
        /// Whether the target is another one.
        target: TargetChange,
    },
    /// Probing was suspended.
    Pause,
    /// Probing goes on.
    Resume,
    /// The announced status is frozen from now on.
    BeginMaintenance,
    /// And no longer.
    EndMaintenance,
    /// Slots went by without a result.
    Missed {
        /// In which region.
        region: Region,
        /// The newest of them.
        through: Slot,
        /// How many.
        slots: NonZeroU8,
    },
    /// The service was deleted; nothing moves it any more.
    Delete,
}

/// Everything that can move a state.
#[derive(Debug, Clone, PartialEq)]
pub enum Input<P> {
    /// A result.
    Result(Sighting),
    /// Anything else.
    Control(Control<P>),
}

/// Why an input moved nothing. Where several would do, the first of this order is given: deleted,
/// paused, manual, old epoch, unknown region, late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// A result at or below its region's watermark.
    Late,
    /// A result of older settings.
    OldEpoch,
    /// The service is paused.
    Paused,
    /// A person asked for it.
    Manual,
    /// From a region that the service is not probed from.
    UnknownRegion,
    /// The service is deleted.
    Deleted,
    /// It already is as the input would have it.
    NoChange,
}

/// Whether an input moved the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vote {
    /// It did; this is its number.
    Applied(Applied),
    /// It did not.
    Ignored(Ignored),
}

/// What the engine would like of the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// A change is undecided: an earlier probe would decide it sooner.
    ProbeSooner,
}

/// What follows from one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects {
    /// Whether the state moved.
    pub vote: Vote,
    /// The change of the announced status, if there was one.
    pub transition: Option<Transition>,
    /// The overlays that began or ended, in order; seldom more than one.
    pub overlays: Vec<(Overlay, Edge)>,
    /// What the scheduler might do about it.
    pub hint: Hint,
}

impl Effects {
    const fn ignored(why: Ignored) -> Self {
        Self { vote: Vote::Ignored(why), transition: None, overlays: Vec::new(), hint: Hint::None }
    }

    /// The number of the input, if it moved the state.
    pub const fn applied(&self) -> Option<Applied> {
        match self.vote {
            Vote::Applied(applied) => Some(applied),
            Vote::Ignored(_) => None,
        }
    }
}
