//! One ring per distinct interval, sorted by offset: what is due is a range of it.

use std::collections::{BTreeMap, HashMap};

use super::{DueSlot, offset};
use crate::{
    id::ServiceId,
    service::Interval,
    time::{Slot, Timestamp},
};

/// Services by interval and offset; what falls due in a window is found by two binary searches a
/// ring. Twelve bytes a service in the rings, and an entry of the index.
#[derive(Debug, Default)]
pub struct Rings {
    rings: BTreeMap<Interval, Ring>,
    intervals: HashMap<ServiceId, Interval>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Sorted by (offset, id) up to `sorted`, in order of arrival behind it.
    entries: Vec<(u32, ServiceId)>,
    sorted: usize,
    /// Entries whose service has left, to be dropped with the next sort.
    gone: usize,
}

impl Rings {
    /// No services.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many services there are.
    pub fn count(&self) -> usize {
        self.intervals.len()
    }

    /// Puts a service in, or moves it to another interval.
    pub fn insert(&mut self, service: ServiceId, interval: Interval) {
        match self.intervals.insert(service, interval) {
            Some(before) if before == interval => return,
            Some(before) => self.leave(before),
            None => {}
        }
        let ring = self.rings.entry(interval).or_default();
        ring.entries.push((Self::place(service, interval), service));
    }

    /// Takes a service out.
    pub fn remove(&mut self, service: ServiceId) {
        if let Some(interval) = self.intervals.remove(&service) {
            self.leave(interval);
        }
    }

    fn leave(&mut self, interval: Interval) {
        if let Some(ring) = self.rings.get_mut(&interval) {
            ring.gone += 1;
        }
    }

    fn place(service: ServiceId, interval: Interval) -> u32 {
        // An offset is below an interval, and that fits: 30 days are 2,592,000,000 ms.
        offset(service, interval) as u32
    }

    /// The slots in `(t0, t1]`, pushed onto `slots` in order: the newest of each service. Returns
    /// how many older ones were skipped. The same as [`due`](super::due) says of these services.
    pub fn due(&mut self, t0: Timestamp, t1: Timestamp, slots: &mut Vec<DueSlot>) -> u64 {
        let start = slots.len();
        let mut skipped = 0;
        if t1 <= t0 {
            return 0;
        }
        let rings_with_slots: usize = self
            .rings
            .iter_mut()
            .map(|(interval, ring)| {
                ring.tidy(*interval, &self.intervals);
                let before = slots.len();
                skipped += ring.due(*interval, t0.as_millis(), t1.as_millis(), slots);
                usize::from(slots.len() > before)
            })
            .sum();
        self.rings.retain(|_, ring| !ring.entries.is_empty());
        if rings_with_slots > 1 {
            slots[start..].sort_unstable();
        }
        skipped
    }

    /// The first slot after `time`, if there is any service.
    pub fn next_after(&mut self, time: Timestamp) -> Option<Slot> {
        let millis = time.as_millis();
        self.rings
            .iter_mut()
            .filter_map(|(interval, ring)| {
                ring.tidy(*interval, &self.intervals);
                let length = interval.as_millis();
                let (base, phase) = (millis - millis.rem_euclid(length), millis.rem_euclid(length));
                let at = ring.entries.partition_point(|(offset, _)| i64::from(*offset) <= phase);
                match ring.entries.get(at) {
                    Some((offset, _)) => Some(base + i64::from(*offset)),
                    None => ring.entries.first().map(|(offset, _)| base + length + i64::from(*offset)),
                }
            })
            .min()
            .map(Slot::from_millis)
    }
}

impl Ring {
    /// Drops entries that left, and sorts in those that came. A stable sort finds the long sorted
    /// run and merges, so that one newcomer does not cost a whole sort.
    fn tidy(&mut self, interval: Interval, intervals: &HashMap<ServiceId, Interval>) {
        if self.gone > 0 {
            self.entries.retain(|(_, service)| intervals.get(service) == Some(&interval));
            self.gone = 0;
            self.sorted = 0;
        }
        if self.sorted < self.entries.len() {
            self.entries.sort();
            // A service that left and came back before a tidying stands here twice.
            self.entries.dedup();
            self.sorted = self.entries.len();
        }
    }

    fn due(&self, interval: Interval, t0: i64, t1: i64, slots: &mut Vec<DueSlot>) -> u64 {
        let length = interval.as_millis();
        let base = |time: i64| time - time.rem_euclid(length);
        let upto = |phase: i64| self.entries.partition_point(|(offset, _)| i64::from(*offset) <= phase);
        let mut emit = |base: i64, range: std::ops::Range<usize>| {
            slots.extend(self.entries[range].iter().map(|(offset, service)| DueSlot {
                slot: Slot::from_millis(base + i64::from(*offset)),
                service: *service,
            }));
        };
        let (b0, b1) = (base(t0), base(t1));
        let (i0, i1) = (upto(t0 - b0), upto(t1 - b1));
        let all = self.entries.len();
        if b0 == b1 {
            emit(b1, i0..i1);
            return 0;
        }
        // Those at or before t1's phase have their newest slot in t1's round, the others in the
        // round before it, which for the oldest window may lie at or before t0.
        let before = b1 - length;
        let first = if before == b0 { i0.max(i1) } else { i1 };
        emit(before, first..all);
        emit(b1, 0..i1);
        let rounds = ((b1 - b0) / length).cast_unsigned();
        let total = rounds * all as u64 + i1 as u64 - i0 as u64;
        total - (all - first + i1) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::due;

    fn interval(millis: u64) -> Interval {
        Interval::new(Duration::from_millis(millis)).unwrap()
    }

    #[test]
    fn rings_tell_what_the_definition_tells_through_changes_and_standstills() {
        // A fixed linear congruence instead of a random source: the same walk every time.
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let lengths = [100, 1_000, 1_500, 7_000, 60_000, 2_592_000_000];
        let (mut rings, mut naive) = (Rings::new(), BTreeMap::new());
        let mut now = Timestamp::from_millis(1_700_000_000_123);
        for _ in 0..4_000 {
            match random(4) {
                0 | 1 => {
                    let id = ServiceId::new(random(300) + 1).unwrap();
                    let length = interval(lengths[random(6) as usize]);
                    rings.insert(id, length);
                    naive.insert(id, length);
                }
                2 => {
                    let id = ServiceId::new(random(300) + 1).unwrap();
                    rings.remove(id);
                    naive.remove(&id);
                }
                _ => {}
            }
            let span = [1, 40, 900, 1_500, 12_345, 400_000][random(6) as usize];
            let later = now.after(Duration::from_millis(span));
            let mut slots = Vec::new();
            let skipped = rings.due(now, later, &mut slots);
            slots.sort_unstable();
            assert_eq!((slots, skipped), due(naive.iter().map(|(id, i)| (*id, *i)), now, later));
            let next = naive.iter().map(|(id, i)| super::super::slot_at(*id, *i, later).after(i.get())).min();
            assert_eq!(rings.next_after(later), next);
            assert_eq!(rings.count(), naive.len());
            now = later;
        }
    }

    #[test]
    fn slots_of_many_services_spread_evenly_over_the_interval() {
        let length = interval(10_000);
        let mut buckets = [0u32; 100];
        for id in 0..100_000u64 {
            let id = ServiceId::new((1 << 40) + id).unwrap();
            buckets[(offset(id, length) / 100) as usize] += 1;
        }
        // 1,000 expected in each; six standard deviations of a binomial are 190.
        assert!(buckets.iter().all(|n| (810..1_190).contains(n)), "{buckets:?}");
    }

    #[test]
    fn a_window_that_ends_before_it_begins_is_empty() {
        let mut rings = Rings::new();
        rings.insert(ServiceId::new(1).unwrap(), interval(100));
        let mut slots = Vec::new();
        assert_eq!(rings.due(Timestamp::from_millis(500), Timestamp::from_millis(100), &mut slots), 0);
        assert!(slots.is_empty());
    }
}
