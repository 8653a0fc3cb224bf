//! The monitored thing and its settings, validated when they are made.

mod fields;
mod settings;
mod target;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use fields::{FieldError, FieldErrors, Fields};
pub use settings::{
    Interval, InvalidInterval, InvalidName, InvalidRegions, InvalidTags, InvalidTimeout, Label, Options, Regions,
    ServiceSettings, Tags, Timeout,
};
pub use target::{InvalidTarget, Target};

use crate::{
    id::{Epoch, Revision, ServiceId},
    status::ServiceLabel,
    time::Timestamp,
};

/// Whether a service's probes are to be scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// They are.
    Active,
    /// They are not, until it is resumed.
    Paused,
    /// Never again.
    Deleted,
}

/// A registered service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its id.
    pub id: ServiceId,
    /// What was written of it.
    #[serde(flatten)]
    pub settings: ServiceSettings,
    /// Whether its probes are to be scheduled.
    pub activity: Activity,
    /// The number of its last change in the feed of all services' changes.
    pub revision: Revision,
    /// Which settings its results are judged by; a result of an older epoch does not vote.
    pub epoch: Epoch,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When its settings or activity were last changed.
    pub updated_at: Timestamp,
    /// Since when its present schedule holds: it was new, resumed or rescheduled then.
    pub scheduled_since: Timestamp,
}

impl Service {
    /// A service as it is when it is registered.
    pub fn registered(
        id: ServiceId,
        settings: ServiceSettings,
        revision: Revision,
        epoch: Epoch,
        now: Timestamp,
    ) -> Self {
        let activity = Activity::Active;
        Self { id, settings, activity, revision, epoch, created_at: now, updated_at: now, scheduled_since: now }
    }

    /// What it is called now.
    pub fn label(&self) -> ServiceLabel {
        ServiceLabel {
            id: self.id,
            name: Arc::clone(self.settings.name.shared()),
            group: self.settings.group.as_ref().map(|group| Arc::clone(group.shared())),
            tags: self.settings.tags.to_map(),
        }
    }
}
