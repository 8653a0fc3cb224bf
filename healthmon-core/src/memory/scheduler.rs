use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::{
    id::{Revision, ServiceId},
    ports::{Due, ResultStore, Scheduler, SchedulerError, StoreError},
    probe::{Kind, Probe},
    schedule::{DueSlot, Rings},
    service::{Activity, Service},
    time::{Slot, Timestamp},
};

/// How often the feed of changes is looked at when nobody says that there are some.
const FEED_PERIOD: Duration = Duration::from_secs(1);
/// How many changes are read at a time.
const FEED_PAGE: NonZeroUsize = NonZeroUsize::new(5_000).unwrap();
/// Edge probes of a crowd come this far apart, ...
const EDGE_SPACING: Duration = Duration::from_micros(500);
/// ... but all within this long.
const EDGE_SPREAD: Duration = Duration::from_secs(10);
/// A service whose schedule is at most this old when it is first seen gets its edge probe still.
const EDGE_FRESHNESS: Duration = Duration::from_secs(60);
/// How often the scheduler asks to be asked, at the most.
const QUANTUM: Duration = Duration::from_millis(2);

/// Schedules every service of a store from this one process.
///
/// It follows the store's feed of changes; its claim is the process itself, so it is never fenced.
/// When it starts it begins with the present: slots of before are left as the gap they are.
pub struct LocalScheduler {
    store: Arc<dyn ResultStore>,
    look_now: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    services: HashMap<ServiceId, Arc<Service>>,
    rings: Rings,
    seen: Revision,
    looked: Option<Timestamp>,
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
struct Begun {
    due: DueSlot,
    kind: Kind,
    /// How many regions have their probe already.
    regions: usize,
}

impl LocalScheduler {
    /// A scheduler of the services in `store`.
    pub fn new(store: Arc<dyn ResultStore>) -> Self {
        Self { store, look_now: AtomicBool::new(true), inner: Mutex::default() }
    }

    async fn due_now(&self, now: Timestamp, max: usize) -> Result<Due, SchedulerError> {
        let mut inner = self.inner.lock().await;
        let asked = self.look_now.swap(false, Ordering::AcqRel);
        if asked || inner.looked.is_none_or(|looked| now.since(looked) >= FEED_PERIOD || now < looked) {
            match self.follow_feed(&mut inner, now).await {
                Ok(()) => inner.looked = Some(now),
                // Services that are known go on being probed while the store is away; those loops
                // that need it will say so.
                Err(error) if inner.looked.is_some() => {
                    tracing::warn!(%error, "cannot look for changed services");
                    inner.looked = Some(now);
                }
                Err(error) => {
                    self.look_now.store(true, Ordering::Release);
                    return Err(error);
                }
            }
        }
        Ok(inner.emit(now, max))
    }

    async fn follow_feed(&self, inner: &mut Inner, now: Timestamp) -> Result<(), SchedulerError> {
        loop {
            let changed = self.store.changes(inner.seen, FEED_PAGE).await.map_err(transient)?;
            let last = changed.len() < FEED_PAGE.get();
            for service in changed {
                inner.seen = inner.seen.max(service.revision);
                inner.take_in(service, now);
            }
            if last {
                return Ok(());
            }
        }
    }
}

fn transient(error: StoreError) -> SchedulerError {
    match error {
        StoreError::Transient { retry_after, .. } => SchedulerError::Transient { retry_after, source: Box::new(error) },
        other => SchedulerError::Permanent(Box::new(other)),
    }
}

impl Inner {
    fn take_in(&mut self, service: Service, now: Timestamp) {
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
            let latest = now.after(EDGE_SPREAD.min(service.settings.interval.get()));
            self.last_edge = self.last_edge.after(EDGE_SPACING).max(now).min(latest);
            self.forget_edge(id);
            self.edges.insert((self.last_edge, id));
            self.edge_of.insert(id, self.last_edge);
        }
        self.services.insert(id, Arc::new(service));
    }

    fn forget_edge(&mut self, id: ServiceId) {
        if let Some(at) = self.edge_of.remove(&id) {
            self.edges.remove(&(at, id));
        }
    }

    fn emit(&mut self, now: Timestamp, max: usize) -> Due {
        let mut missed = 0;
        let cursor = *self.cursor.get_or_insert(now);
        if now > cursor {
            let mut slots = Vec::new();
            missed += self.rings.due(cursor, now, &mut slots);
            self.pending.extend(slots);
            self.cursor = Some(now);
        }
        let mut probes = Vec::with_capacity(max.min(self.pending.len() + self.edges.len()));
        while probes.len() < max
            && let Some(begun) = self.begun.take().or_else(|| self.next_due(now))
        {
            missed += self.probe(begun, now, max, &mut probes);
        }
        let next = if self.pending.is_empty() && self.begun.is_none() {
            let slot = self.rings.next_after(now).map(Slot::time);
            let edge = self.edges.first().map(|(at, _)| *at);
            let wanted = [slot, edge].into_iter().flatten().min().unwrap_or(now.after(FEED_PERIOD));
            wanted.max(now.after(QUANTUM)).min(now.after(FEED_PERIOD))
        } else {
            now
        };
        Due { probes, missed, next }
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
        let of_region = |region: &crate::id::Region| Probe::new(Arc::clone(service), region.clone(), slot, kind);
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

#[async_trait]
impl Scheduler for LocalScheduler {
    async fn due(&self, now: Timestamp, max: NonZeroUsize) -> Result<Due, SchedulerError> {
        self.due_now(now, max.get()).await
    }

    fn services_changed(&self) {
        self.look_now.store(true, Ordering::Release);
    }

    async fn release(&self) -> Result<(), SchedulerError> {
        Ok(())
    }
}
