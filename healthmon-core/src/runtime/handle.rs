use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc, time::Duration};

use super::{Probers, ServiceIds, VitalSigns, Vitals, recorder::publish};
use crate::{
    id::{Revision, Seq, ServiceId},
    ports::{
        Broadcaster, Change, Clock, Enqueued, Hint, Hints, ProbeQueue, QueueError, ResultQuery, ResultStore,
        ServiceFilter, ServiceView, StoreError, StoredResult,
    },
    probe::{Kind, Probe},
    service::{Activity, FieldErrors, Regions, Service, ServiceSettings},
    status::LogEntry,
    time::{Slot, Timestamp},
};

/// How long the log is trusted not to have grown when no hint comes.
const HEAD_PERIOD: Duration = Duration::from_secs(1);
/// How many entries are read from the log at a time.
const LOG_PAGE: NonZeroUsize = NonZeroUsize::new(500).unwrap();
/// How often a manual probe's result is looked for: at first, and after a while.
const RESULT_PERIOD: Duration = Duration::from_millis(10);
const RESULT_PERIOD_MOST: Duration = Duration::from_millis(500);

/// Why a handle could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// Fields of the settings are wrong; nothing was changed.
    #[error("the settings are wrong: {0}")]
    Invalid(#[from] FieldErrors),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue took no probe.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No worker gave a result in time.
    #[error("no worker gave a result within {0:?}")]
    NoResult(Duration),
}

/// What a program, or the server's API, does with a monitor while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
    /// The way to the store that calls take.
    store: Arc<dyn ResultStore>,
}

pub(super) struct Shared {
    pub(super) store: Arc<dyn ResultStore>,
    pub(super) queue: Arc<dyn ProbeQueue>,
    pub(super) broadcaster: Arc<dyn Broadcaster>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) vitals: Arc<Vitals>,
    pub(super) probers: Probers,
    pub(super) regions: Regions,
    pub(super) ids: ServiceIds,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { store: Arc::clone(&shared.store), shared }
    }

    /// The same monitor's, by another way to its store: with connections of its own, for instance, so
    /// that whoever asks much is not in the way of who records.
    #[must_use]
    pub fn over(&self, store: Arc<dyn ResultStore>) -> Self {
        Self { shared: Arc::clone(&self.shared), store }
    }

    /// The store, for reading what there is no method for here.
    pub fn store(&self) -> &Arc<dyn ResultStore> {
        &self.store
    }

    /// The queue, for its depth.
    pub fn queue(&self) -> &Arc<dyn ProbeQueue> {
        &self.shared.queue
    }

    /// The time by the monitor's clock.
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// How the monitor's loops are doing.
    pub fn signs(&self) -> VitalSigns {
        self.shared.vitals.signs(self.now())
    }

    /// Where secrets stand in the options of services with this scheme: paths such as
    /// `http.headers.*`. None when no prober here takes the scheme, so that anything may be one.
    pub fn secrets(&self, scheme: &str) -> Option<&'static [&'static str]> {
        self.shared.probers.secrets(scheme)
    }

    /// Checks settings as registering would, without registering.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        if let Some(region) = settings.regions.iter().find(|region| !self.shared.regions.iter().any(|r| r == *region)) {
            let known: Vec<_> = self.shared.regions.iter().map(|region| region.as_str()).collect();
            let problem = format!("{region} is not a region of this monitor, which has {}", known.join(", "));
            return Err(FieldErrors::one("regions", problem));
        }
        self.shared.probers.check(settings)
    }

    /// Registers a service; its first probe goes out at once. A bound that degrades brings its
    /// policy with it, see [`ServiceSettings::with_policy_for_bounds`].
    ///
    /// # Errors
    /// [`HandleError::Invalid`] names every wrong field; [`HandleError::Store`] when it cannot be kept.
    pub async fn register(&self, settings: ServiceSettings) -> Result<Service, HandleError> {
        self.check(&settings)?;
        let settings = settings.with_policy_for_bounds();
        let mut id = self.shared.ids.next().await;
        let mut registered = self.store.register(id, settings.clone()).await;
        if let Err(StoreError::Conflict(_)) = registered {
            // Another node has this one's number for now, and made an id in the same millisecond.
            id = self.shared.ids.next().await;
            registered = self.store.register(id, settings).await;
        }
        let service = registered?;
        // Not the target: its query may hold a token.
        tracing::info!(service = %service.settings.name, %id, "service registered");
        self.shared.broadcaster.publish(Hint::Services(service.revision));
        Ok(service)
    }

    /// Changes a service, if it is still at revision `expected` when one is given.
    ///
    /// # Errors
    /// [`HandleError::Invalid`], or [`HandleError::Store`] with `NotFound` or `Conflict`.
    pub async fn change(
        &self,
        id: ServiceId,
        expected: Option<Revision>,
        mut change: Change,
    ) -> Result<Service, HandleError> {
        if let Change::Settings(settings) = &mut change {
            self.check(settings)?;
            **settings = settings.as_ref().clone().with_policy_for_bounds();
        }
        let changed = self.store.change(id, expected, change).await?;
        publish(&*self.shared.broadcaster, changed.entries);
        self.shared.broadcaster.publish(Hint::Services(changed.service.revision));
        Ok(changed.service)
    }

    /// Replaces a service's settings.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn reconfigure(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service, HandleError> {
        self.change(id, None, Change::Settings(Box::new(settings))).await
    }

    /// Suspends a service's probing.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn pause(&self, id: ServiceId) -> Result<Service, HandleError> {
        self.change(id, None, Change::Pause).await
    }

    /// Lets a service's probing go on; a probe goes out at once.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn resume(&self, id: ServiceId) -> Result<Service, HandleError> {
        self.change(id, None, Change::Resume).await
    }

    /// Deletes a service; its history stays.
    ///
    /// # Errors
    /// As [`change`](Self::change).
    pub async fn delete(&self, id: ServiceId) -> Result<Service, HandleError> {
        self.change(id, None, Change::Delete).await
    }

    /// One service and how it stands.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn service(&self, id: ServiceId) -> Result<Option<ServiceView>, StoreError> {
        self.store.service(id).await
    }

    /// Services by id, those after `after`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<ServiceView>, StoreError> {
        self.store.services(filter, after, limit).await
    }

    /// A service's newest results.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn results(&self, id: ServiceId, limit: NonZeroUsize) -> Result<Vec<StoredResult>, StoreError> {
        self.store.results(id, &ResultQuery::default(), limit).await
    }

    /// Probes a service now, through queue and worker like any other probe, and returns the
    /// recorded result. It does not vote.
    ///
    /// # Errors
    /// [`HandleError::NoResult`] when no worker gave one in time.
    pub async fn probe(&self, id: ServiceId) -> Result<StoredResult, HandleError> {
        let shared = &self.shared;
        let view = self.store.service(id).await?.ok_or(StoreError::NotFound(id))?;
        let service = Arc::new(view.service);
        let region = service.settings.regions.iter().next().cloned().unwrap_or_default();
        let probe = Probe::new(Arc::clone(&service), region, Slot::at(shared.clock.now()), Kind::Manual);
        let probe_id = probe.id.clone();
        let patience = probe.start_by.since(shared.clock.now()) + service.settings.timeout.get() + HEAD_PERIOD;
        shared.queue.enqueue(vec![probe]).await?;
        let found = async {
            let mut pause = RESULT_PERIOD;
            loop {
                if let Some(result) = self.store.result(&probe_id).await? {
                    return Ok(result);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 5 / 4).min(RESULT_PERIOD_MOST);
            }
        };
        tokio::time::timeout(patience, found).await.map_err(|_| HandleError::NoResult(patience))?
    }

    /// Has these services probed now, out of turn and from all of their regions, by probes that vote:
    /// for whoever learns of a change before the next slot would. Those that are not active are
    /// passed over. It returns without waiting for results.
    ///
    /// # Errors
    /// [`HandleError::Queue`] when the queue took none of them.
    pub async fn probe_out_of_turn(&self, services: Vec<Service>) -> Result<Enqueued, HandleError> {
        let slot = Slot::at(self.now());
        let mut probes = Vec::with_capacity(services.len());
        for service in services.into_iter().filter(|service| service.activity == Activity::Active).map(Arc::new) {
            let regions = service.settings.regions.iter().cloned();
            probes.extend(regions.map(|region| Probe::new(Arc::clone(&service), region, slot, Kind::Edge)));
        }
        if probes.is_empty() {
            return Ok(Enqueued::default());
        }
        Ok(self.shared.queue.enqueue(probes).await?)
    }

    /// Hints of what changes, for those who keep their own place in the log.
    pub fn hints(&self) -> Hints {
        self.shared.broadcaster.subscribe()
    }

    /// Every entry of the log after `after`, in order and without a gap, for as long as it is read.
    pub fn log(&self, after: Seq) -> LogStream {
        LogStream { store: Arc::clone(&self.store), hints: Some(self.hints()), cursor: after, buffer: VecDeque::new() }
    }
}

/// The log from a place on: hints tell when to look, the store tells what there is.
pub struct LogStream {
    store: Arc<dyn ResultStore>,
    hints: Option<Hints>,
    cursor: Seq,
    buffer: VecDeque<LogEntry>,
}

impl LogStream {
    /// The next entry, as soon as there is one. Safe to drop while it waits.
    ///
    /// # Errors
    /// Those of the store; the place is kept, so that calling again goes on where it was.
    pub async fn next(&mut self) -> Result<LogEntry, StoreError> {
        loop {
            if let Some(entry) = self.buffer.pop_front() {
                self.cursor = entry.seq;
                return Ok(entry);
            }
            let page = self.store.log(self.cursor, LOG_PAGE).await?;
            if page.is_empty() {
                self.wait().await;
            } else {
                self.buffer.extend(page);
            }
        }
    }

    async fn wait(&mut self) {
        let Some(hints) = &mut self.hints else {
            return tokio::time::sleep(HEAD_PERIOD).await;
        };
        // Whatever comes, or nothing for a second: it is time to look into the store.
        if let Ok(None) = tokio::time::timeout(HEAD_PERIOD, hints.next()).await {
            self.hints = None;
        }
    }
}
