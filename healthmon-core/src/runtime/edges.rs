//! Probes a service sooner while a change of its status is undecided, if its settings say so.
//!
//! The recorder tells of what it recorded; what is undecided waits in a bounded timer, and goes on
//! the queue as an edge probe when it is due. Nothing here is kept: what is lost, by a full channel
//! or a recorder that ends, costs only speed, for the next slot comes anyway.

mod timer;

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::timer::{DueEdge, EdgeTimer, Heard};
use super::Vitals;
use crate::{
    id::{Revision, ServiceId},
    ports::{Clock, ProbeQueue, Recorded, ResultStore, StoreError},
    probe::{Kind, Outcome, Probe, ProbeResult},
    service::{Activity, Service},
    status::LogEvent,
    time::Slot,
};

/// How many services may be undecided at a time.
const SERVICES: usize = 10_000;
/// How many recorded batches may wait to be looked at.
const BATCHES: usize = 256;
/// How many services are probed out of turn at a time.
const AT_ONCE: usize = 500;
/// How often the feed of changed services is looked at, at least.
const FEED_PERIOD: Duration = Duration::from_secs(1);
/// How many changes are read at a time.
const FEED_PAGE: NonZeroUsize = NonZeroUsize::new(5_000).unwrap();

/// What a recorder recorded at a time.
#[derive(Debug)]
struct Batch {
    results: Vec<ProbeResult>,
    /// Services whose change is undecided.
    sooner: Vec<ServiceId>,
    /// Services whose status changed.
    changed: Vec<ServiceId>,
}

/// How a recorder tells the edge loop of what it recorded. Never waits.
#[derive(Debug, Clone)]
pub struct EdgeNews(mpsc::Sender<Batch>);

/// The other end of [`EdgeNews`].
#[derive(Debug)]
pub struct EdgeInbox(mpsc::Receiver<Batch>);

/// A bounded way from a recorder to an edge loop.
pub fn channel() -> (EdgeNews, EdgeInbox) {
    let (sender, receiver) = mpsc::channel(BATCHES);
    (EdgeNews(sender), EdgeInbox(receiver))
}

impl EdgeNews {
    /// Tells of a batch. Forgotten when the edge loop is behind, or has ended.
    pub(super) fn tell(&self, results: Vec<ProbeResult>, recorded: &Recorded) {
        let transitions = recorded.entries.iter().filter(|entry| matches!(entry.event, LogEvent::Transition(_)));
        let changed = transitions.map(|entry| entry.service.id).collect();
        // A hint that is lost costs speed and nothing else.
        self.0.try_send(Batch { results, sooner: recorded.sooner.clone(), changed }).ok();
    }
}

/// What the loop works with.
pub struct Edges {
    /// Says which services have an edge interval.
    pub store: Arc<dyn ResultStore>,
    /// Takes the edge probes.
    pub queue: Arc<dyn ProbeQueue>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counts the edge probes.
    pub vitals: Arc<Vitals>,
    /// What was recorded.
    pub inbox: EdgeInbox,
}

/// The services that have an edge interval, and those of them that are undecided.
struct Watch {
    services: HashMap<ServiceId, Arc<Service>>,
    seen: Revision,
    timer: EdgeTimer,
}

impl Edges {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut watch = Watch { services: HashMap::new(), seen: Revision::default(), timer: EdgeTimer::new(SERVICES) };
        let mut look = tokio::time::Instant::now();
        loop {
            let due = watch.timer.next().map(|due| due.since(self.clock.now()));
            let wake = due.map_or(look, |due| look.min(tokio::time::Instant::now() + due));
            tokio::select! {
                () = stop.cancelled() => return,
                batch = self.inbox.0.recv() => match batch {
                    Some(batch) => watch.take_in(&batch, &*self.clock),
                    // No recorder, no hints.
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => {}
            }
            let due = watch.timer.take_due(self.clock.now(), AT_ONCE);
            if due.is_empty() && tokio::time::Instant::now() < look {
                continue;
            }
            // Looked at before each round too, so that none goes to a service that was paused meanwhile.
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = watch.follow(&*self.store) => looked,
            };
            look = tokio::time::Instant::now() + FEED_PERIOD;
            match looked {
                Ok(()) if due.is_empty() => {}
                Ok(()) => self.enqueue(&watch, due).await,
                Err(error) => tracing::warn!(%error, "cannot look for changed services; edge probes are left out"),
            }
        }
    }

    async fn enqueue(&self, watch: &Watch, due: Vec<DueEdge>) {
        let now = self.clock.now();
        let probes: Vec<Probe> = due.into_iter().flat_map(|due| watch.probes(due, Slot::at(now))).collect();
        if probes.is_empty() {
            return;
        }
        match self.queue.enqueue(probes.clone()).await {
            Ok(enqueued) => {
                self.vitals.enqueued(now, &probes, enqueued);
                self.vitals.asked_sooner(enqueued.accepted);
            }
            Err(error) => tracing::warn!(%error, probes = probes.len(), "edge probes are left out"),
        }
    }
}

impl Watch {
    /// Learns of services that changed. What was read stays read when the call is dropped.
    async fn follow(&mut self, store: &dyn ResultStore) -> Result<(), StoreError> {
        loop {
            let page = store.changes(self.seen, FEED_PAGE).await?;
            let whole = page.len() == FEED_PAGE.get();
            for service in page {
                self.seen = self.seen.max(service.revision);
                let id = service.id;
                if service.activity == Activity::Active && service.settings.edge_interval.is_some() {
                    self.services.insert(id, Arc::new(service));
                } else {
                    self.services.remove(&id);
                    self.timer.forget(id);
                }
            }
            if !whole {
                return Ok(());
            }
        }
    }

    fn take_in(&mut self, batch: &Batch, clock: &dyn Clock) {
        if self.services.is_empty() {
            return;
        }
        for id in &batch.changed {
            self.timer.forget(*id);
        }
        for (id, heard) in self.heard(&batch.results) {
            match self.services.get(&id) {
                Some(service) if batch.sooner.contains(&id) => self.timer.undecided(service, heard, clock.now()),
                _ => self.timer.decided(id, &heard.regions),
            }
        }
    }

    /// What a batch says of the services with an edge interval. What a person asked for decides
    /// nothing, nor does what says nothing.
    fn heard(&self, results: &[ProbeResult]) -> BTreeMap<ServiceId, Heard> {
        let mut heard: BTreeMap<ServiceId, Heard> = BTreeMap::new();
        let voting = results.iter().filter(|result| {
            let says = !matches!(result.seen.outcome, Outcome::Indeterminate(_));
            says && result.id.kind != Kind::Manual && self.services.contains_key(&result.id.service)
        });
        for result in voting {
            let (slot, epoch) = (result.id.slot, result.epoch);
            let of = heard.entry(result.id.service).or_insert_with(|| Heard { regions: Vec::new(), slot, epoch });
            if slot >= of.slot {
                (of.slot, of.epoch) = (slot, epoch);
            }
            if !of.regions.contains(&result.id.region) {
                of.regions.push(result.id.region.clone());
            }
        }
        heard
    }

    /// The probes of an edge, unless its service has changed since it was asked for.
    fn probes(&self, due: DueEdge, slot: Slot) -> impl Iterator<Item = Probe> {
        let service = self.services.get(&due.service).filter(|service| service.epoch == due.epoch).cloned();
        service.into_iter().flat_map(move |service| {
            let wanted = |region: &&crate::id::Region| due.regions.contains(region);
            let regions: Vec<_> = service.settings.regions.iter().filter(wanted).cloned().collect();
            regions.into_iter().map(move |region| Probe::new(Arc::clone(&service), region, slot, Kind::Edge))
        })
    }
}
