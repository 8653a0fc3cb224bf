//! Which slots should have had a result.

use crate::{
    schedule::slots_between,
    service::{Activity, Service},
    status::{Edge, LogEntry, LogEvent, Overlay},
    time::{Slot, Timestamp},
};

/// A span in which a service was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// Since when; none: since before what is known.
    pub from: Option<Timestamp>,
    /// Until when; none: it is paused still.
    pub to: Option<Timestamp>,
}

/// The pauses that a part of a service's log tells of, oldest first.
pub fn pauses<'a>(log: impl IntoIterator<Item = &'a LogEntry>) -> Vec<Pause> {
    let mut pauses: Vec<Pause> = Vec::new();
    for entry in log {
        match entry.event {
            LogEvent::Overlay { overlay: Overlay::Paused, edge: Edge::Began } => {
                pauses.push(Pause { from: Some(entry.at), to: None });
            }
            LogEvent::Overlay { overlay: Overlay::Paused, edge: Edge::Ended } => {
                match pauses.last_mut().filter(|pause| pause.to.is_none()) {
                    Some(pause) => pause.to = Some(entry.at),
                    None => pauses.push(Pause { from: None, to: Some(entry.at) }),
                }
            }
            _ => {}
        }
    }
    pauses
}

/// How many slots of a service in `[from, to)` were to be probed, in each of its regions: not those
/// from before it was registered, from while it was paused, or from after it was deleted.
///
/// `pauses` are those known, oldest first. Exact since [`scheduled_since`](Service::scheduled_since).
/// Before, the present interval is taken for the one that held: after a change of the interval the
/// number is off for the time before it, by as much as the intervals differ.
pub fn expected_slots(service: &Service, pauses: &[Pause], from: Slot, to: Slot) -> u64 {
    const NEVER: Timestamp = Timestamp::from_micros(i64::MAX);
    let end = match service.activity {
        Activity::Active => NEVER,
        Activity::Deleted => service.updated_at,
        // Of a pause that nothing more is known of, it is known that it is older than the last change.
        Activity::Paused if pauses.last().is_none_or(|pause| pause.to.is_some()) => service.updated_at,
        Activity::Paused => NEVER,
    };
    let mut begin = service.created_at;
    let mut expected = 0;
    for pause in pauses {
        expected += slots(service, (begin, pause.from.unwrap_or(begin).min(end)), from, to);
        begin = begin.max(pause.to.unwrap_or(NEVER));
    }
    expected + slots(service, (begin, end), from, to)
}

/// How many slots lie in `(after, until]` as well as in `[from, to)`.
fn slots(service: &Service, (after, until): (Timestamp, Timestamp), from: Slot, to: Slot) -> u64 {
    // Slots are whole milliseconds, so that the last one before an instant is at most one earlier.
    let before = |slot: Slot| Timestamp::from_millis(slot.as_millis().saturating_sub(1));
    let (after, until) = (after.max(before(from)), until.min(before(to)));
    if after >= until { 0 } else { slots_between(service.id, service.settings.interval, after, until) }
}
