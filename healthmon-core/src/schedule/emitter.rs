//! What a scheduler knows of its services, and what it has yet to emit: no clock, no store.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{DueSlot, Rings};
use crate::{
    id::{Region, ServiceId},
    probe::{Kind, Probe},
    service::{Activity, Service},
    shard::ShardCount,
    time::{Slot, Timestamp},
};

/// Edge probes of a crowd come this far apart, ...
const EDGE_SPACING: Duration = Duration::from_micros(500);
/// ... but all within this long.
const EDGE_SPREAD: Duration = Duration::from_secs(10);
/// A service whose schedule is at most this old when it is first seen gets its edge probe still.
const EDGE_FRESHNESS: Duration = Duration::from_secs(60);
/// How often the caller is to ask, at the most ...
const QUANTUM: Duration = Duration::from_millis(2);
/// ... and at the least.
const IDLE: Duration = Duration::from_secs(1);

/// Turns services and the passing of time into probes: each slot once, the newest of a service
/// when several went by, none ahead of its time.
///
/// ```
/// # use healthmon_core::{id::*, schedule::Emitter, service::*, time::Timestamp};
/// # let settings = serde_json::from_value(serde_json::json!({"name": "shop", "url": "test://shop", "interval": "1s"}))?;
/// let start = Timestamp::from_millis(1_700_000_000_000);
/// let mut emitter = Emitter::default();
/// emitter.take_in(Service::registered(ServiceId::new(7)?, settings, Revision(1), Epoch(1), start), start);
/// let mut probes = Vec::new();
/// emitter.emit(start, 100, &mut probes);
/// emitter.emit(start.after(std::time::Duration::from_secs(1)), 100, &mut probes);
/// assert_eq!(probes.len(), 2, "one at once, because it is new, and one slot");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Emitter {
    /// How far apart edge probes of a crowd come.
    edge_spacing: Duration,
    services: HashMap<ServiceId, Arc<Service>>,
    rings: Rings,
    /// Up to here slots have been found due.
    cursor: Option<Timestamp>,
    /// Due, but not yet emitted.
    pending: VecDeque<DueSlot>,
    /// Begun to be emitted, but there was no room for all of its regions.
    begun: Option<Begun>,
    /// Edge probes by their instant.
    edges: BTreeSet<(Timestamp, ServiceId)>,
    /// The same by service: each has one at most.
    edge_of: HashMap<ServiceId, Timestamp>,
    last_edge: Timestamp,
}

/// A slot on its way out.
#[derive(Debug)]
struct Begun {
    due: DueSlot,
    kind: Kind,
    /// How many regions have their probe already.
    regions: usize,
}

impl Default for Emitter {
    /// One for all services there are.
    fn default() -> Self {
        Self {
            edge_spacing: EDGE_SPACING,
            services: HashMap::new(),
            rings: Rings::new(),
            cursor: None,
            pending: VecDeque::new(),
            begun: None,
            edges: BTreeSet::new(),
            edge_of: HashMap::new(),
            last_edge: Timestamp::default(),
        }
    }
}

impl Emitter {
    /// One for the services of a single shard: a crowd that comes to all shards alike is spread as
    /// thinly as if there were one emitter for all.
    pub fn of_a_shard(shards: ShardCount) -> Self {
        Self { edge_spacing: EDGE_SPACING * u32::from(shards.get()), ..Self::default() }
    }

    /// Goes on where another stopped: slots after `cursor` have not been emitted.
    pub fn go_on_after(&mut self, cursor: Timestamp) {
        self.cursor = Some(cursor);
    }

    /// How many services it emits for.
    pub fn count(&self) -> usize {
        self.services.len()
    }

    /// Up to where every slot has been emitted or skipped: none before the first [`emit`](Self::emit).
    pub fn emitted_through(&self) -> Option<Timestamp> {
        let begun = self.begun.as_ref().filter(|begun| begun.kind == Kind::Scheduled).map(|begun| begun.due.slot);
        let first = begun.or(self.pending.front().map(|due| due.slot));
        first.map(|slot| slot.time().before(Duration::from_millis(1))).or(self.cursor)
    }

    /// Learns of a service, or of a change to it. New, resumed and rescheduled ones get an edge probe.
    pub fn take_in(&mut self, service: Service, now: Timestamp) {
        let id = service.id;
        if service.activity != Activity::Active {
            self.forget_edge(id);
            self.rings.remove(id);
            self.services.remove(&id);
            return;
        }
        self.rings.insert(id, service.settings.interval);
        let known = self.services.get(&id).map(|before| before.scheduled_since);
        let anew = match known {
            Some(before) => before != service.scheduled_since,
            None => now.since(service.scheduled_since) < EDGE_FRESHNESS,
        };
        if anew {
            let spread = EDGE_SPREAD.min(service.settings.interval.get());
            let next = self.last_edge.after(self.edge_spacing).max(now);
            let at = if next <= now.after(spread) {
                self.last_edge = next;
                next
            } else {
                // Too many to come one after the other: each at a place of its own within the spread.
                let millis = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
                now.after(Duration::from_millis(super::mix(id.get()) % millis))
            };
            self.forget_edge(id);
            self.edges.insert((at, id));
            self.edge_of.insert(id, at);
        }
        self.services.insert(id, Arc::new(service));
    }

    fn forget_edge(&mut self, id: ServiceId) {
        if let Some(at) = self.edge_of.remove(&id) {
            self.edges.remove(&(at, id));
        }
    }

    /// Adds to `probes` what is due at `now`, until they are `max`. Returns how many slots were
    /// skipped because a newer one has come or their start-by has passed.
    pub fn emit(&mut self, now: Timestamp, max: usize, probes: &mut Vec<Probe>) -> u64 {
        let mut missed = 0;
        let cursor = *self.cursor.get_or_insert(now);
        if now > cursor {
            let mut slots = Vec::new();
            missed += self.rings.due(cursor, now, &mut slots);
            self.pending.extend(slots);
            self.cursor = Some(now);
        }
        while probes.len() < max
            && let Some(begun) = self.begun.take().or_else(|| self.next_due(now))
        {
            missed += self.probe(begun, now, max, probes);
        }
        missed
    }

    /// When to ask again at the latest: `now` if there is more already, otherwise within a second.
    pub fn next(&mut self, now: Timestamp) -> Timestamp {
        if self.pending.is_empty() && self.begun.is_none() && self.edges.first().is_none_or(|(at, _)| *at > now) {
            let slot = self.rings.next_after(now).map(Slot::time);
            let edge = self.edges.first().map(|(at, _)| *at);
            let wanted = [slot, edge].into_iter().flatten().min().unwrap_or(now.after(IDLE));
            wanted.max(now.after(QUANTUM)).min(now.after(IDLE))
        } else {
            now
        }
    }

    /// The oldest of what is due, scheduled or edge.
    fn next_due(&mut self, now: Timestamp) -> Option<Begun> {
        let edge = self.edges.first().filter(|(at, _)| *at <= now);
        let edge = edge.map(|&(at, service)| DueSlot { slot: Slot::at(at), service });
        match (edge, self.pending.front()) {
            (Some(edge), scheduled) if scheduled.is_none_or(|scheduled| edge.slot < scheduled.slot) => {
                self.forget_edge(edge.service);
                Some(Begun { due: edge, kind: Kind::Edge, regions: 0 })
            }
            _ => Some(Begun { due: self.pending.pop_front()?, kind: Kind::Scheduled, regions: 0 }),
        }
    }

    /// Adds the probes of a slot, as many as there is room for. Returns how many slots were missed
    /// because the start-by has passed: this one, or none.
    fn probe(&mut self, begun: Begun, now: Timestamp, max: usize, probes: &mut Vec<Probe>) -> u64 {
        let Begun { due: DueSlot { slot, service }, kind, regions } = begun;
        let Some(service) = self.services.get(&service) else { return 0 };
        let of_region = |region: &Region| Probe::new(Arc::clone(service), region.clone(), slot, kind);
        let mut made = service.settings.regions.iter().skip(regions).map(of_region).peekable();
        if made.peek().is_some_and(|probe| probe.start_by < now) {
            return u64::from(kind == Kind::Scheduled);
        }
        let room = max - probes.len();
        let left = made.len() > room;
        probes.extend(made.take(room));
        if left {
            self.begun = Some(Begun { regions: regions + room, ..begun });
        }
        0
    }
}
