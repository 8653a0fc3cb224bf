//! Which slots fall due: pure arithmetic, so that scheduling writes nothing per probe.
//!
//! A service's slots are `k · interval + offset`, the offset being a stable hash of its id within
//! the interval: services spread evenly, and every node computes the same slots without talking.

mod emitter;
mod rings;

pub use emitter::Emitter;
pub use rings::Rings;

use crate::{
    id::ServiceId,
    service::Interval,
    time::{Slot, Timestamp},
};

/// The offset of a service's slots within its interval, in milliseconds: `0 ≤ offset < interval`.
///
/// A finaliser of SplitMix64 over the id (Steele, Lea and Flood, 2014), so that ids that follow
/// each other closely, as snowflakes do, still spread evenly.
pub const fn offset(id: ServiceId, interval: Interval) -> i64 {
    (mix(id.get()) % interval.as_millis().cast_unsigned()).cast_signed()
}

/// SplitMix64's step: every bit of the outcome hangs on every bit of `x`.
pub(crate) const fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The newest slot of a service at or before `time`.
pub const fn slot_at(id: ServiceId, interval: Interval, time: Timestamp) -> Slot {
    let (length, offset) = (interval.as_millis(), offset(id, interval));
    let past = (time.as_millis() - offset).rem_euclid(length);
    Slot::from_millis(time.as_millis() - past)
}

/// How many slots of a service lie in `(after, until]`.
pub const fn slots_between(id: ServiceId, interval: Interval, after: Timestamp, until: Timestamp) -> u64 {
    let (first, last) = (slot_at(id, interval, after), slot_at(id, interval, until));
    let count = (last.as_millis() - first.as_millis()) / interval.as_millis();
    if count > 0 { count.cast_unsigned() } else { 0 }
}

/// A slot that fell due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DueSlot {
    /// The slot.
    pub slot: Slot,
    /// The service.
    pub service: ServiceId,
}

/// The slots of `services` in `(t0, t1]`, in order: the newest of each service, and how many older
/// ones were skipped. The plain definition that [`Rings`] computes quickly.
///
/// ```
/// use healthmon_core::{id::ServiceId, schedule::due, service::Interval, time::Timestamp};
/// let service = (ServiceId::new(7)?, Interval::new(std::time::Duration::from_secs(10))?);
/// let (slots, skipped) = due([service], Timestamp::from_millis(0), Timestamp::from_millis(35_000));
/// assert_eq!((slots.len(), skipped + 1), (1, (35_000 - slots[0].slot.as_millis() % 10_000) as u64 / 10_000 + 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn due(
    services: impl IntoIterator<Item = (ServiceId, Interval)>,
    t0: Timestamp,
    t1: Timestamp,
) -> (Vec<DueSlot>, u64) {
    let (mut slots, mut skipped) = (Vec::new(), 0);
    for (service, interval) in services {
        let count = slots_between(service, interval, t0, t1);
        if count > 0 {
            skipped += count - 1;
            slots.push(DueSlot { slot: slot_at(service, interval, t1), service });
        }
    }
    slots.sort_unstable();
    (slots, skipped)
}
