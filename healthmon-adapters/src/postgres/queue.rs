//! The queue for deployments whose only server is PostgreSQL.
//!
//! Probes lie in a table that is not logged: a crash of the server empties it, and the slots of the
//! next moments fill it again. Results lie in one that is, until they are recorded.
//!
//! - A probe is its row. A worker's lease is written into it, and it is deleted in the transaction
//!   that stores its result.
//! - Results are drained shard by shard. Each shard is one recorder's at a time; it is given what it
//!   has not been given yet, and not what comes after a place: of two transactions the one that
//!   numbered its results later may commit first.
//! - All times are the database's.
//! - Nobody is told across processes, for want of a way through poolers: whoever waits looks again
//!   after 20 ms, and less and less often, up to 250 ms, for as long as there is nothing. Within a
//!   process one is told at once.

mod probes;
mod results;
mod services;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    id::Region,
    memory::QueueLimits,
    ports::{
        Completion, ConsumerId, Delivery, Enqueued, ProbeQueue, QueueDepth, QueueError, Receipt, ResultDelivery,
        StoreError,
    },
    probe::Probe,
};
use sqlx::{AssertSqlSafe, Row};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Postgres,
    connect::{bounded, sql},
    error::from_sqlx,
};
use crate::services::Services;
use probes::Room;
use results::Drains;

/// The database's time in microseconds, the same throughout a statement, so that indexes serve it.
const NOW: &str = "(SELECT (extract(epoch FROM statement_timestamp()) * 1000000)::bigint)";
/// The most rows that one statement writes or hands out.
const MOST: usize = 2_000;
/// How long one who waits sleeps at first between two looks, and at most.
const NAPS_MS: (u64, u64) = (20, 250);
/// How often what is late is looked for.
const UPKEEP_PERIOD: Duration = Duration::from_millis(250);
/// When to offer probes again to a queue that was full.
const FULL: QueueError = QueueError::Full { retry_after: Duration::from_millis(50) };

/// A queue in PostgreSQL: leased, bounded, with deadlines. Results are as durable as the database's
/// commits; probes are lost when the server crashes or a standby takes over, until their next slot.
///
/// The capacity is that of the deployment. Counting takes half a second when there are a million, so
/// that a count is gone by for fifty times as long as it took, 10 s at most, unless it says that there
/// is no room: several schedulers may exceed the capacity by what they put in meanwhile.
pub struct PostgresProbeQueue {
    postgres: Postgres,
    /// Those whose probes are pulled here.
    regions: Vec<Region>,
    limits: QueueLimits,
    services: Services<Arc<str>>,
    room: Mutex<Room>,
    drains: Drains,
    probes_came: Waiting,
    results_came: Waiting,
    /// When to look for what is late.
    upkeep: Mutex<Option<Instant>>,
}

/// Those of this process who wait for something.
struct Waiting {
    came: Notify,
    nap_ms: AtomicU64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { came: Notify::new(), nap_ms: AtomicU64::new(NAPS_MS.0) }
    }
}

impl Waiting {
    /// Looks until there is something, at most for `wait`, and at least once.
    async fn until<T, F: Future<Output = Result<Vec<T>, StoreError>>>(
        &self,
        wait: Duration,
        mut look: impl FnMut() -> F,
    ) -> Result<Vec<T>, QueueError> {
        let end = Instant::now() + wait;
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            // Registered before looking, so that what comes in between is not slept through.
            came.as_mut().enable();
            let found = look().await.map_err(unusable)?;
            if !found.is_empty() {
                self.nap_ms.store(NAPS_MS.0, Ordering::Relaxed);
                return Ok(found);
            }
            if Instant::now() >= end {
                return Ok(found);
            }
            let nap = self.nap_ms.load(Ordering::Relaxed);
            self.nap_ms.store((nap * 3 / 2).min(NAPS_MS.1), Ordering::Relaxed);
            // Either way it is time to look again.
            timeout_at(end.min(Instant::now() + Duration::from_millis(nap)), came).await.ok();
        }
    }
}

fn unusable(error: StoreError) -> QueueError {
    match error {
        StoreError::Transient { retry_after, source } => QueueError::Transient { retry_after, source },
        other => QueueError::Permanent(Box::new(other)),
    }
}

/// For `LIMIT`.
fn at_most(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl PostgresProbeQueue {
    /// The queue of this database's deployment. Pulls give probes of `regions`, of no others.
    ///
    /// # Errors
    /// Transient when the database is away.
    pub async fn new(postgres: Postgres, regions: Vec<Region>, limits: QueueLimits) -> Result<Self, StoreError> {
        let queue = Self {
            postgres,
            regions,
            limits,
            services: Services::new(),
            room: Mutex::default(),
            drains: Drains::default(),
            probes_came: Waiting::default(),
            results_came: Waiting::default(),
            upkeep: Mutex::default(),
        };
        bounded(queue.prepare_drains()).await?;
        Ok(queue)
    }

    async fn enqueue_all(&self, probes: Vec<Probe>) -> Result<Enqueued, QueueError> {
        if probes.is_empty() {
            return Ok(Enqueued::default());
        }
        let enqueued = bounded(self.put_in(probes)).await.map_err(unusable)?.ok_or(FULL)?;
        if enqueued.accepted > 0 {
            self.probes_came.came.notify_waiters();
        }
        Ok(enqueued)
    }

    async fn pull_some(&self, max: NonZeroUsize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let look = || async {
            self.keep_up().await?;
            bounded(self.take(max.get())).await
        };
        self.probes_came.until(wait, look).await
    }

    async fn pull_some_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        wait: Duration,
    ) -> Result<Vec<ResultDelivery>, QueueError> {
        let look = || async {
            self.keep_up().await?;
            bounded(self.take_results(consumer, max.get())).await
        };
        self.results_came.until(wait, look).await
    }

    async fn complete_all(&self, completions: Vec<Completion>) -> Result<(), QueueError> {
        if !completions.is_empty() {
            bounded(self.store(completions)).await.map_err(unusable)?;
            self.results_came.came.notify_waiters();
        }
        Ok(())
    }

    /// Sees to what is late, when it was not done a moment ago.
    async fn keep_up(&self) -> Result<(), StoreError> {
        {
            let mut due = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
            if due.is_some_and(|due| Instant::now() < due) {
                return Ok(());
            }
            *due = Some(Instant::now() + UPKEEP_PERIOD);
        }
        let swept = bounded(self.sweep()).await?;
        if swept.late == MOST {
            // There is more.
            *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        if swept.back > 0 {
            self.probes_came.came.notify_waiters();
        }
        if swept.late > swept.back {
            self.results_came.came.notify_waiters();
        }
        Ok(())
    }

    async fn count(&self) -> Result<QueueDepth, StoreError> {
        let text = format!(
            "SELECT * FROM (SELECT count(*) FILTER (WHERE NOT leased), count(*) FILTER (WHERE leased), \
             coalesce({NOW} - min(slot) FILTER (WHERE NOT leased) * 1000, 0) FROM queued_probes) p, \
             (SELECT count(*), coalesce(extract(epoch FROM statement_timestamp() - min(came_at)) * 1000000, 0)::bigint \
             FROM queued_results) r"
        );
        let mut tx = self.postgres.begin_reading().await?;
        let row = sql(AssertSqlSafe(text)).fetch_one(&mut *tx).await.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let get = |i: usize| row.try_get::<i64, _>(i).map(|n| u64::try_from(n).unwrap_or(0)).map_err(from_sqlx);
        let count = |i: usize| get(i).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        Ok(QueueDepth {
            waiting: count(0)?,
            in_flight: count(1)?,
            oldest: Duration::from_micros(get(2)?),
            results: count(3)?,
            oldest_result: Duration::from_micros(get(4)?),
        })
    }
}

#[async_trait]
impl ProbeQueue for PostgresProbeQueue {
    async fn enqueue(&self, probes: Vec<Probe>) -> Result<Enqueued, QueueError> {
        self.enqueue_all(probes).await
    }

    async fn pull(&self, max: NonZeroUsize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        self.pull_some(max, wait).await
    }

    async fn complete(&self, completions: Vec<Completion>) -> Result<(), QueueError> {
        self.complete_all(completions).await
    }

    async fn pull_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        wait: Duration,
    ) -> Result<Vec<ResultDelivery>, QueueError> {
        self.pull_some_results(consumer, max, wait).await
    }

    async fn ack_results(&self, consumer: &ConsumerId, receipts: &[Receipt]) -> Result<(), QueueError> {
        bounded(self.forget(consumer, receipts)).await.map_err(unusable)
    }

    async fn release(&self, consumer: &ConsumerId) -> Result<(), QueueError> {
        bounded(self.leave(consumer)).await.map_err(unusable)?;
        self.results_came.came.notify_waiters();
        Ok(())
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        bounded(self.count()).await.map_err(unusable)
    }
}
