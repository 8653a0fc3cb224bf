use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    engine::{State, Thresholds},
    id::{Applied, Revision, Seq, ServiceId},
    ports::{
        AppliedInput, Change, Changed, LogHead, Recorded, ResultQuery, ResultStore, ServiceFilter, ServiceView,
        StoreError, StoredResult, Swept,
    },
    probe::{ProbeId, ProbeResult},
    service::{Service, ServiceSettings},
    status::LogEntry,
    summary::Summed,
    time::{Slot, Timestamp},
};

use super::{
    connect::{Postgres, PostgresOptions, bounded, sql},
    error::from_sqlx,
    head::Head,
    partitions::Partitions,
    regions::Regions,
    rollups::{Rollups, hour_of},
    rows,
    states::Remembered,
};

/// A [`ResultStore`] in PostgreSQL, for any number of nodes.
///
/// Its time is the server's. What it keeps in memory, another node has too or reads anew: regions'
/// numbers, which partitions there are, the newest place of the log that it has seen, and states, of
/// which it is asked at each update whether they are so still.
///
/// # The log's identity
///
/// The log keeps its id through restarts, and when a *synchronous* standby is promoted: nothing that
/// anybody saw is lost then, and clients go on where they are. When an asynchronous standby is
/// promoted, or a backup is restored, newest entries may be missing and their places be given to
/// others; the log gets another id then, and its clients begin anew. Promote none but the standbys
/// that `synchronous_standby_names` names, if it names any.
pub struct PostgresResultStore {
    pub(super) postgres: Postgres,
    pub(super) regions: Regions,
    pub(super) partitions: Partitions,
    pub(super) rollups: Rollups,
    pub(super) head: Head,
    pub(super) remembered: Remembered,
    /// When old rows were last let go.
    retained: Mutex<Option<Timestamp>>,
}

impl PostgresResultStore {
    /// Connects; see [`Postgres::connect`].
    ///
    /// # Errors
    /// Those of [`Postgres::connect`].
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        Self::new(Postgres::connect(options).await?).await
    }

    /// The store of a deployment that is connected to.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn new(postgres: Postgres) -> Result<Self, StoreError> {
        let store = Self {
            regions: Regions::default(),
            partitions: Partitions::of_results(postgres.partition_ms()),
            rollups: Rollups::default(),
            postgres,
            head: Head::default(),
            remembered: Remembered::default(),
            retained: Mutex::default(),
        };
        bounded(async {
            store.settle().await?;
            store.make_partitions(store.postgres.now().await?).await
        })
        .await?;
        Ok(store)
    }

    /// Closes the connections once what is under way is done.
    pub async fn close(&self) {
        self.postgres.close().await;
    }

    /// Finds out which log it is, when the server is or may be another one than before. What else
    /// is known may hold no longer then.
    pub(super) async fn settle(&self) -> Result<(), StoreError> {
        self.head.settle(&self.postgres).await?;
        self.regions.forget();
        self.partitions.forget();
        self.rollups.partitions.forget();
        self.remembered.clear();
        Ok(())
    }

    /// Makes partitions of results ahead.
    async fn make_partitions(&self, now: Timestamp) -> Result<(), StoreError> {
        /// How many beyond the present one.
        const AHEAD: i64 = 2;
        self.partitions.ahead(&self.postgres, now.as_millis(), AHEAD).await
    }

    async fn head_now(&self) -> Result<LogHead, StoreError> {
        loop {
            if let Some(head) = self.head.read(&self.postgres).await? {
                return Ok(head);
            }
            self.settle().await?;
        }
    }

    /// Makes partitions ahead and lets go of what is past its retention, now and then.
    pub(super) async fn retain(&self, now: Timestamp) -> Result<(), StoreError> {
        const PERIOD: Duration = Duration::from_mins(5);
        let width = Duration::from_millis(self.postgres.partition_ms().unsigned_abs());
        let period = PERIOD.min(width / 4);
        {
            let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
            if retained.is_some_and(|before| now.since(before) < period && now >= before) {
                return Ok(());
            }
            *retained = Some(now);
        }
        self.make_partitions(now).await?;
        if let Err(error) = self.expire_partitions(now, width).await {
            // What is left is let go of next time; it holds up nobody.
            tracing::warn!(%error, "old results could not be let go of");
        }
        self.expire_log(now).await
    }

    /// Drops what is past its retention.
    async fn expire_partitions(&self, now: Timestamp, width: Duration) -> Result<(), StoreError> {
        let options = self.postgres.options();
        // Some time beyond it, for results on their way that were not too old when they were looked at.
        let margin = Duration::from_secs(60).min(width);
        let oldest = now.before(options.retention).before(margin).as_millis();
        self.partitions.expire(&self.postgres, oldest).await?;
        let oldest = now.before(options.rollup_retention.max(options.retention));
        self.rollups.partitions.expire(&self.postgres, hour_of(oldest.as_millis())).await
    }

    /// Deletes old entries of the log, a piece at a time.
    async fn expire_log(&self, now: Timestamp) -> Result<(), StoreError> {
        const PIECE: u64 = 5_000;
        let oldest = now.before(self.postgres.options().log_retention).as_micros();
        loop {
            let mut tx = self.postgres.begin().await?;
            let done = sql("DELETE FROM log WHERE seq IN (SELECT seq FROM log ORDER BY seq LIMIT $2) AND at < $1")
                .bind(oldest)
                .bind(rows::number(PIECE))
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            tx.commit().await.map_err(from_sqlx)?;
            if done.rows_affected() < PIECE {
                return Ok(());
            }
        }
    }
}

#[async_trait]
impl ResultStore for PostgresResultStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        bounded(self.postgres.now()).await
    }

    async fn register(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service, StoreError> {
        bounded(self.register_now(id, settings)).await
    }

    async fn change(&self, id: ServiceId, expected: Option<Revision>, change: Change) -> Result<Changed, StoreError> {
        bounded(self.change_now(id, expected, change)).await
    }

    async fn service(&self, id: ServiceId) -> Result<Option<ServiceView>, StoreError> {
        bounded(self.read_service(id)).await
    }

    async fn services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<ServiceView>, StoreError> {
        bounded(self.read_services(filter, after, limit.get())).await
    }

    async fn changes(&self, after: Revision, limit: NonZeroUsize) -> Result<Vec<Service>, StoreError> {
        bounded(self.read_changes(after, limit.get())).await
    }

    async fn record(&self, results: Vec<ProbeResult>) -> Result<Recorded, StoreError> {
        bounded(self.record_now(results)).await
    }

    async fn sweep(&self, after: Option<ServiceId>, limit: NonZeroUsize) -> Result<Swept, StoreError> {
        bounded(self.sweep_now(after, limit)).await
    }

    async fn results(
        &self,
        id: ServiceId,
        query: &ResultQuery,
        limit: NonZeroUsize,
    ) -> Result<Vec<StoredResult>, StoreError> {
        bounded(self.read_results(id, query, limit.get())).await
    }

    async fn result(&self, id: &ProbeId) -> Result<Option<StoredResult>, StoreError> {
        bounded(self.read_result(id)).await
    }

    async fn summary(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>, StoreError> {
        bounded(self.read_summary(id, from, to)).await
    }

    async fn log(&self, after: Seq, limit: NonZeroUsize) -> Result<Vec<LogEntry>, StoreError> {
        bounded(self.read_log(after, limit.get())).await
    }

    async fn service_log(
        &self,
        id: ServiceId,
        before: Option<Seq>,
        limit: NonZeroUsize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        bounded(self.read_service_log(id, before, limit.get())).await
    }

    async fn head(&self) -> Result<LogHead, StoreError> {
        bounded(self.head_now()).await
    }

    async fn inputs(
        &self,
        id: ServiceId,
        after: Applied,
        limit: NonZeroUsize,
    ) -> Result<Vec<AppliedInput>, StoreError> {
        bounded(self.read_inputs(id, after, limit.get())).await
    }

    async fn state(&self, id: ServiceId) -> Result<Option<State<Thresholds>>, StoreError> {
        bounded(self.read_state(id)).await
    }
}
