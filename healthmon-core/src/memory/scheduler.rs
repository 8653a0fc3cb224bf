use std::{
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
    id::Revision,
    ports::{Due, ResultStore, Scheduler, SchedulerError, StoreError},
    schedule::Emitter,
    time::Timestamp,
};

/// How often the feed of changes is looked at when nobody says that there are some.
const FEED_PERIOD: Duration = Duration::from_secs(1);
/// How many changes are read at a time.
const FEED_PAGE: NonZeroUsize = NonZeroUsize::new(5_000).unwrap();

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
    emitter: Emitter,
    seen: Revision,
    looked: Option<Timestamp>,
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
        let mut probes = Vec::new();
        let missed = inner.emitter.emit(now, max, &mut probes);
        Ok(Due { probes, missed, next: inner.emitter.next(now) })
    }

    async fn follow_feed(&self, inner: &mut Inner, now: Timestamp) -> Result<(), SchedulerError> {
        loop {
            let changed = self.store.changes(inner.seen, FEED_PAGE).await.map_err(transient)?;
            let last = changed.len() < FEED_PAGE.get();
            for service in changed {
                inner.seen = inner.seen.max(service.revision);
                inner.emitter.take_in(service, now);
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
