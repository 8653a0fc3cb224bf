//! What is asked of a store.

use std::time::Duration;

use crate::{
    id::Region,
    probe::{Kind, ProbeId, Reason},
    service::Service,
    status::Status,
    time::Slot,
};

/// Which services are asked for; all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceFilter {
    /// Announced as this.
    pub status: Option<Status>,
    /// In this group.
    pub group: Option<String>,
    /// With these tags: a key, and its value if one is given.
    pub tags: Vec<(String, Option<String>)>,
    /// With this text somewhere in name or target, whatever the case.
    pub text: Option<String>,
}

impl ServiceFilter {
    /// Whether a service announced as `status` meets every condition.
    pub fn admits(&self, service: &Service, status: Status) -> bool {
        let settings = &service.settings;
        let tagged = |(key, value): &(String, Option<String>)| {
            settings.tags.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        let holds = |text: &str| {
            let text = text.to_lowercase();
            settings.name.as_str().to_lowercase().contains(&text)
                || settings.url.as_str().to_lowercase().contains(&text)
        };
        self.status.is_none_or(|wanted| wanted == status)
            && self.group.as_deref().is_none_or(|group| settings.group.as_ref().is_some_and(|g| g.as_str() == group))
            && self.tags.iter().all(tagged)
            && self.text.as_deref().is_none_or(holds)
    }
}

/// A result's place in a service's history.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultKey {
    /// The slot.
    pub slot: Slot,
    /// The region.
    pub region: Region,
    /// The kind.
    pub kind: Kind,
}

impl ResultKey {
    /// How far ahead of the store's time a slot may be.
    pub const AHEAD: Duration = Duration::from_secs(5);

    /// The place of this probe's result.
    pub fn of(id: &ProbeId) -> Self {
        Self { slot: id.slot, region: id.region.clone(), kind: id.kind }
    }
}

/// Which results of a service are asked for, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultQuery {
    /// With a slot at or after this instant.
    pub from: Option<Slot>,
    /// With a slot before this instant.
    pub to: Option<Slot>,
    /// With this outcome: `pass`, `slow`, `fail` or `indeterminate`.
    pub outcome: Option<&'static str>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// Older than this place: the last of the page before.
    pub before: Option<ResultKey>,
}
