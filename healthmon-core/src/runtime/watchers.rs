//! Watches services between their probes, where their prober can: what it notices has the service
//! probed out of turn.
//!
//! What is noticed decides nothing; the edge probe does, by queue and recorder like any other. Nothing
//! here is kept: what is lost costs only speed, for the next slot comes anyway.
//!
//! A service is watched by whoever probes it, from where it is probed. That takes no agreement between
//! workers; its cost is that several workers of a region each watch the service they share.

use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::Probers;
use crate::{
    id::{Region, Revision, ServiceId},
    ports::{Clock, ProbeQueue, ResultStore, StoreError},
    probe::{Kind, Probe},
    service::{Activity, Service},
    time::Slot,
};

/// How many services one process watches; those beyond are probed by their schedule alone.
const WATCHES: usize = 1_000;
/// How many probed services may wait to be looked at.
const NEWS: usize = 1_024;
/// How often the feed of changed services is looked at while any is watched.
const FEED_PERIOD: Duration = Duration::from_secs(1);
/// How many changes are read at a time.
const FEED_PAGE: NonZeroUsize = NonZeroUsize::new(5_000).unwrap();
/// A service that was not probed here for so many intervals is not watched here any more.
const INTERVALS: u32 = 3;
/// Out of turn a service is probed at most so often in an interval.
const PROBES_PER_INTERVAL: u32 = 10;
/// The shortest and the longest pause between two probes out of turn.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

type Place = (ServiceId, Region);

/// A service that was probed here.
#[derive(Debug)]
struct Probed {
    service: Arc<Service>,
    region: Region,
}

/// How it is told that a service was probed. Never waits.
#[derive(Debug, Clone)]
pub(super) struct WatchNews(mpsc::Sender<Probed>);

/// The other end of [`WatchNews`].
#[derive(Debug)]
pub(super) struct WatchInbox(mpsc::Receiver<Probed>);

/// A bounded way to a [`Watchers`] loop.
pub(super) fn channel() -> (WatchNews, WatchInbox) {
    let (sender, receiver) = mpsc::channel(NEWS);
    (WatchNews(sender), WatchInbox(receiver))
}

impl WatchNews {
    /// Tells of a probe whose service can be watched. Forgotten when the loop is behind, for there
    /// will be another one. What a person asks for once is not watched.
    pub(super) fn tell(&self, probe: &Probe) {
        if probe.id.kind != Kind::Manual {
            let probed = Probed { service: Arc::clone(&probe.service), region: probe.id.region.clone() };
            self.0.try_send(probed).ok();
        }
    }
}

/// What the loop works with.
pub(super) struct Watchers {
    /// Watch.
    pub(super) probers: Probers,
    /// Takes the edge probes.
    pub(super) queue: Arc<dyn ProbeQueue>,
    /// Says which services changed.
    pub(super) store: Arc<dyn ResultStore>,
    /// The time.
    pub(super) clock: Arc<dyn Clock>,
    /// What was probed.
    pub(super) inbox: WatchInbox,
}

/// What is watched.
#[derive(Default)]
struct Held {
    watches: HashMap<Place, Watch>,
    tasks: JoinSet<()>,
    seen: Revision,
}

/// One service watched from one region. Dropping it ends that.
struct Watch {
    revision: Revision,
    probed: Instant,
    patience: Duration,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watchers {
    /// Runs until `stop`, which ends every watch.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Self { probers, queue, store, clock, mut inbox } = self;
        let nudge = Arc::new(Nudge { probers, queue, clock });
        let watching = async {
            let mut held = Held::default();
            let mut look = tokio::time::interval(FEED_PERIOD);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    Some(probed) = inbox.0.recv() => held.take_in(probed, &nudge, &*store).await,
                    _ = look.tick(), if !held.watches.is_empty() => held.look(&*store).await,
                    Some(ended) = held.tasks.join_next(), if !held.tasks.is_empty() => note(&ended),
                    // The worker has ended, and nothing is held.
                    else => return std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
        }
    }
}

/// A prober that panics is not asked again for this service until it changes.
fn note(ended: &Result<(), tokio::task::JoinError>) {
    if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
        tracing::error!("a prober panicked while it watched a service");
    }
}

impl Held {
    /// Begins to watch a service that was probed, or notes that it still is.
    async fn take_in(&mut self, Probed { service, region }: Probed, nudge: &Arc<Nudge>, store: &dyn ResultStore) {
        let place = (service.id, region);
        if let Some(watch) = self.watches.get_mut(&place) {
            if watch.revision >= service.revision {
                watch.probed = Instant::now();
                return;
            }
            self.watches.remove(&place);
        }
        if self.watches.len() >= WATCHES {
            tracing::debug!(service = %service.settings.name, "too many services are watched for one more");
            return;
        }
        // A probe may have been on its way for long; from here on the feed tells.
        match store.service(service.id).await {
            Ok(Some(view)) if view.service.revision == service.revision && is_active(&view.service) => {}
            Ok(_) => return,
            Err(error) => return tracing::warn!(%error, "cannot look whether a service is to be watched"),
        }
        if self.watches.is_empty() {
            self.seen = service.revision;
        }
        if let Entry::Vacant(vacant) = self.watches.entry(place.clone()) {
            let (revision, patience) = (service.revision, service.settings.interval.get() * INTERVALS);
            let task = self.tasks.spawn(Arc::clone(nudge).watch(service, place.1));
            vacant.insert(Watch { revision, probed: Instant::now(), patience, task });
        }
    }

    /// Ends what is watched of services that changed, or are probed elsewhere.
    async fn look(&mut self, store: &dyn ResultStore) {
        self.watches.retain(|_, watch| watch.probed.elapsed() <= watch.patience);
        if let Err(error) = self.follow(store).await {
            tracing::warn!(%error, "cannot look for changed services; what is watched stays so");
        }
    }

    async fn follow(&mut self, store: &dyn ResultStore) -> Result<(), StoreError> {
        loop {
            let page = store.changes(self.seen, FEED_PAGE).await?;
            let whole = page.len() == FEED_PAGE.get();
            for service in page {
                self.seen = self.seen.max(service.revision);
                // One that goes on as it was changed is watched again from its next probe on.
                self.watches.retain(|(id, _), watch| *id != service.id || watch.revision >= service.revision);
            }
            if !whole {
                return Ok(());
            }
        }
    }
}

fn is_active(service: &Service) -> bool {
    service.activity == Activity::Active
}

/// Has services probed out of turn.
struct Nudge {
    probers: Probers,
    queue: Arc<dyn ProbeQueue>,
    clock: Arc<dyn Clock>,
}

impl Nudge {
    /// Watches one service for as long as it can be watched.
    async fn watch(self: Arc<Self>, service: Arc<Service>, region: Region) {
        let noticed = Notify::new();
        let changed = || noticed.notify_one();
        let pause = (service.settings.interval.get() / PROBES_PER_INTERVAL).clamp(PAUSES.0, PAUSES.1);
        let nudging = async {
            loop {
                // Whatever is noticed in the pause comes as one when it is over.
                noticed.notified().await;
                self.probe(&service, &region).await;
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = self.probers.watch(&service, &changed) => {
                tracing::debug!(service = %service.settings.name, "the service cannot be watched");
            }
            () = nudging => {}
        }
    }

    async fn probe(&self, service: &Arc<Service>, region: &Region) {
        let slot = Slot::at(self.clock.now());
        let probe = Probe::new(Arc::clone(service), region.clone(), slot, Kind::Edge);
        match self.queue.enqueue(vec![probe]).await {
            Ok(_) => tracing::debug!(service = %service.settings.name, "a change was noticed; it is probed now"),
            Err(error) => tracing::warn!(%error, "a change was noticed, and is left to the next slot"),
        }
    }
}
