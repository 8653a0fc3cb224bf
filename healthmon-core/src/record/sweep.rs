//! What nobody reports is found here: silence, and maintenance that is over.

use std::{num::NonZeroU8, time::Duration};

use crate::{
    engine::{Control, State, Thresholds},
    probe::Probe,
    schedule::{slot_at, slots_between},
    service::{Activity, Service},
    status::Overlay,
    time::{Slot, Timestamp},
};

/// How long after the last instant at which a slot's result could be made it may still be on its
/// way to the store before the slot counts as missed.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The control inputs that are due for a service at `now`.
///
/// A slot was missed when its start-by, its timeout and [`PATIENCE`] have all passed and nothing
/// as new was applied in its region.
pub fn due(
    service: &Service,
    state: &State<Thresholds>,
    maintenance_until: Option<Timestamp>,
    now: Timestamp,
) -> Vec<Control<Thresholds>> {
    let mut controls = Vec::new();
    if state.has(Overlay::Maintenance) && maintenance_until.is_some_and(|until| until <= now) {
        controls.push(Control::EndMaintenance);
    }
    if state.activity() != Activity::Active {
        return controls;
    }
    let (interval, horizon) = (service.settings.interval, now.before(allowance(service)));
    let through = slot_at(service.id, interval, horizon);
    for region in state.regions() {
        let known = region.watermark().max(region.missed_through()).map_or(service.scheduled_since, Slot::time);
        let since = known.max(service.scheduled_since);
        let slots = slots_between(service.id, interval, since, through.time());
        if let Some(slots) = NonZeroU8::new(u8::try_from(slots).unwrap_or(u8::MAX)) {
            controls.push(Control::Missed { region: region.region().clone(), through, slots });
        }
    }
    controls
}

/// The earliest instant at which [`due`] can have something to say about a service whose inputs
/// stand as they do: for stores that would rather not look at every service each time.
pub fn next_look(service: &Service, state: &State<Thresholds>, maintenance_until: Option<Timestamp>) -> Timestamp {
    const NEVER: Timestamp = Timestamp::from_micros(i64::MAX);
    let maintenance = maintenance_until.filter(|_| state.has(Overlay::Maintenance)).unwrap_or(NEVER);
    if state.activity() != Activity::Active {
        return maintenance;
    }
    let oldest = state.regions().iter().map(|region| region.watermark().max(region.missed_through())).min().flatten();
    let since = oldest.map_or(service.scheduled_since, Slot::time).max(service.scheduled_since);
    // The slot after `since` is at most an interval away, and at least a moment.
    let next = slot_at(service.id, service.settings.interval, since).after(service.settings.interval.get());
    maintenance.min(next.time().after(allowance(service)))
}

/// How many slots a control input notes as missed.
pub fn slots_missed(control: &Control<Thresholds>) -> u64 {
    match control {
        Control::Missed { slots, .. } => u64::from(slots.get()),
        _ => 0,
    }
}

/// How long after its slot a result may come before the slot counts as missed.
pub(crate) fn allowance(service: &Service) -> Duration {
    service.settings.interval.get().min(Probe::START_BY_LIMIT) + service.settings.timeout.get() + PATIENCE
}
