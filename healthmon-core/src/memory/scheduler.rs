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
    /// Edge probes by their instant.
    edges: BTreeSet<(Timestamp, ServiceId)>,
    last_edge: Timestamp,
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
            self.edges.insert((self.last_edge, id));
        }
        self.services.insert(id, Arc::new(service));
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
            && let Some(&(at, id)) = self.edges.first().filter(|(at, _)| *at <= now)
        {
            self.edges.remove(&(at, id));
            self.probe(id, Slot::at(at), Kind::Edge, now, &mut probes);
        }
        while probes.len() < max
            && let Some(due) = self.pending.pop_front()
        {
            if !self.probe(due.service, due.slot, Kind::Scheduled, now, &mut probes) {
                missed += 1;
            }
        }
        let next = if self.pending.is_empty() {
            let slot = self.rings.next_after(now).map(Slot::time);
            let edge = self.edges.first().map(|(at, _)| *at);
            let wanted = [slot, edge].into_iter().flatten().min().unwrap_or(now.after(FEED_PERIOD));
            wanted.max(now.after(QUANTUM)).min(now.after(FEED_PERIOD))
        } else {
            now
        };
        Due { probes, missed, next }
    }

    /// Adds the service's probes at `slot`. False when their start-by has passed.
    fn probe(&self, id: ServiceId, slot: Slot, kind: Kind, now: Timestamp, probes: &mut Vec<Probe>) -> bool {
        let Some(service) = self.services.get(&id) else { return true };
        let of_region = |region: &crate::id::Region| Probe::new(Arc::clone(service), region.clone(), slot, kind);
        let mut made = service.settings.regions.iter().map(of_region).peekable();
        if made.peek().is_some_and(|probe| probe.start_by < now) {
            return false;
        }
        probes.extend(made);
        true
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
