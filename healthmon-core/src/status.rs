//! What is announced of a service, and the log of its changes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Applied, Region, Seq, ServiceId},
    time::{Slot, Timestamp},
};

/// The status of a service.
///
/// Ordered from best to worst: `Up < Degraded < Unknown < Down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It answers as it should.
    Up,
    /// It answers, but slowly or on the edge, by the thresholds set for that.
    Degraded,
    /// No region has ever seen it pass, nor enough of them seen it fail.
    Unknown,
    /// Its failures have reached the failure threshold.
    Down,
}

impl Status {
    /// The name in JSON and logs, such as `UP`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Degraded => "DEGRADED",
            Self::Unknown => "UNKNOWN",
            Self::Down => "DOWN",
        }
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Up, Self::Degraded, Self::Unknown, Self::Down].into_iter().find(|s| s.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a transition happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A result crossed a threshold.
    Result,
    /// Target, policy, regions or quorum were changed.
    Configuration,
    /// A pause ended, and the level had moved since it began.
    Resumed,
    /// Maintenance ended, and the level had moved since it began.
    MaintenanceEnded,
    /// The service was deleted.
    Deleted,
}

impl Cause {
    /// The name in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Configuration => "configuration",
            Self::Resumed => "resumed",
            Self::MaintenanceEnded => "maintenance_ended",
            Self::Deleted => "deleted",
        }
    }
}

/// A change of the announced status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transition {
    /// The status announced until now.
    pub from: Status,
    /// The status announced from now on.
    pub to: Status,
    /// Why.
    pub cause: Cause,
}

/// Something laid over the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlay {
    /// Too few regions have seen anything lately for the status to be trusted; the status stays.
    Blind,
    /// Probing is suspended; the announced status is frozen.
    Paused,
    /// Results are judged, but the announced status is frozen.
    Maintenance,
}

impl Overlay {
    /// The name in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blind => "blind",
            Self::Paused => "paused",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Which end of an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edge {
    /// It began.
    Began,
    /// It ended.
    Ended,
}

/// What an entry of the log says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LogEvent {
    /// The announced status changed.
    Transition(Transition),
    /// An overlay began or ended; the status did not change.
    Overlay {
        /// Which overlay.
        overlay: Overlay,
        /// Which end of it.
        edge: Edge,
    },
}

/// What a service was called when something happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLabel {
    /// Its id.
    pub id: ServiceId,
    /// Its name then.
    pub name: Arc<str>,
    /// Its group then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    /// Its tags then.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// One entry of the transition log, the truth that broadcasts only hint at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its place: gapless, in commit order.
    pub seq: Seq,
    /// The number of the input that caused it, within the service.
    pub applied: Applied,
    /// The service as it was called then.
    pub service: ServiceLabel,
    /// What happened.
    #[serde(flatten)]
    pub event: LogEvent,
    /// When it was recorded.
    pub at: Timestamp,
    /// The slot of the result that caused it, if a result did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// The region of the result that caused it, if a result did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// The reason that result gave, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<crate::probe::Reason>,
    /// That result's own words, capped: what was expected and what was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
}
