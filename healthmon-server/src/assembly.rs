//! Which adapters stand behind the ports: by the settings, one process's or shared ones.

use std::{sync::Arc, time::Duration};

use healthmon_adapters::{
    postgres::{
        Postgres, PostgresNodes, PostgresOptions, PostgresProbeQueue, PostgresResultStore, PostgresScheduler,
        SchedulerOptions,
    },
    redis::{RedisBroadcaster, RedisOptions, RedisProbeQueue},
    sqlite::{SqliteOptions, SqliteResultStore},
};
use healthmon_core::{
    memory::{LocalScheduler, MemoryBroadcaster, MemoryProbeQueue, QueueLimits},
    ports::{Broadcaster, Clock, ProbeQueue, ResultStore, Scheduler, StoreError},
    runtime::clock::SystemClock,
};
use serde_json::Value;

use crate::{
    Config, ServeError,
    config::{Database, Queue, Secret},
};

/// How long a database that is away is waited for at the start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a silent process stays in the list of nodes.
pub(crate) const NODE_LEASE: Duration = Duration::from_secs(30);

/// What the ports are given, and what is to be closed in the end.
pub(crate) struct Backends {
    pub(crate) store: Arc<dyn ResultStore>,
    pub(crate) queue: Arc<dyn ProbeQueue>,
    pub(crate) scheduler: Arc<dyn Scheduler>,
    pub(crate) broadcaster: Arc<dyn Broadcaster>,
    pub(crate) clock: Arc<SystemClock>,
    /// The list of processes, where there are several.
    pub(crate) nodes: Option<Arc<PostgresNodes>>,
    opened: Opened,
}

enum Opened {
    Sqlite(Arc<SqliteResultStore>),
    Postgres(Postgres),
}

impl Backends {
    /// Opens what the settings name. `report` is what this process, called `name`, says of itself.
    pub(crate) async fn open(config: &Config, name: &str, report: &Value) -> Result<Self, ServeError> {
        let clock = Arc::new(SystemClock::new());
        match &config.database {
            Database::File(path) => {
                let options = SqliteOptions {
                    durability: config.durability,
                    retention: config.retention,
                    ..SqliteOptions::new(path)
                };
                let refused = |source| ServeError::Database { name: path.display().to_string(), source };
                let opened = SqliteResultStore::open(options, Arc::clone(&clock) as Arc<dyn Clock>).await;
                let sqlite = Arc::new(opened.map_err(refused)?);
                let store = Arc::clone(&sqlite) as Arc<dyn ResultStore>;
                Ok(Self {
                    queue: memory_queue(&clock),
                    scheduler: Arc::new(LocalScheduler::new(Arc::clone(&store))),
                    broadcaster: Arc::new(MemoryBroadcaster::default()),
                    store,
                    clock,
                    nodes: None,
                    opened: Opened::Sqlite(sqlite),
                })
            }
            Database::Postgres(url) => Self::open_shared(config, url, name, report, clock).await,
        }
    }

    async fn open_shared(
        config: &Config,
        url: &Secret,
        name: &str,
        report: &Value,
        clock: Arc<SystemClock>,
    ) -> Result<Self, ServeError> {
        let refused = |source| ServeError::Database { name: "PostgreSQL".to_owned(), source };
        let options = PostgresOptions {
            migrate_url: config.migrations_url.as_ref().map(|url| url.expose().to_owned()),
            shards: config.shards,
            retention: config.retention,
            rollup_retention: config.rollup_retention,
            ..PostgresOptions::new(url.expose())
        };
        let postgres = patiently(|| Postgres::connect(options.clone())).await.map_err(refused)?;
        let store = PostgresResultStore::new(postgres.clone()).await.map_err(refused)?;
        let store = Arc::new(store) as Arc<dyn ResultStore>;
        clock.follow(&*store).await.map_err(refused)?;
        let scheduler = PostgresScheduler::new(postgres.clone(), SchedulerOptions::new(name)).await.map_err(refused)?;
        let nodes = PostgresNodes::join(postgres.clone(), name, NODE_LEASE, report).await.map_err(refused)?;
        let regions = vec![config.region.clone()];
        let (queue, broadcaster): (Arc<dyn ProbeQueue>, Arc<dyn Broadcaster>) = match &config.queue {
            Queue::Memory => (memory_queue(&clock), Arc::new(MemoryBroadcaster::default())),
            Queue::Postgres => {
                let queue = PostgresProbeQueue::new(postgres.clone(), regions, QueueLimits::shared());
                (Arc::new(queue.await.map_err(refused)?), Arc::new(MemoryBroadcaster::default()))
            }
            Queue::Redis(url) => {
                let away = |error| ServeError::Redis { source: Box::new(error) };
                let options =
                    RedisOptions::new(url.expose()).map_err(|error| ServeError::Redis { source: error.into() })?;
                let at = Arc::clone(&clock) as Arc<dyn Clock>;
                let queue =
                    RedisProbeQueue::connect(options.clone(), regions, postgres.shards(), QueueLimits::shared(), at);
                let queue = queue.await.map_err(away)?;
                let broadcaster = RedisBroadcaster::connect(options).await.map_err(away)?;
                (Arc::new(queue), Arc::new(broadcaster))
            }
        };
        let (scheduler, nodes) = (Arc::new(scheduler), Some(Arc::new(nodes)));
        Ok(Self { store, queue, scheduler, broadcaster, clock, nodes, opened: Opened::Postgres(postgres) })
    }

    /// Leaves the list of processes and closes the database.
    pub(crate) async fn close(self) {
        if let Some(nodes) = &self.nodes
            && let Err(error) = nodes.leave().await
        {
            tracing::warn!(%error, "could not leave the list of nodes; the entry goes by itself");
        }
        match &self.opened {
            Opened::Sqlite(sqlite) => sqlite.close().await,
            Opened::Postgres(postgres) => postgres.close().await,
        }
    }
}

fn memory_queue(clock: &Arc<SystemClock>) -> Arc<dyn ProbeQueue> {
    Arc::new(MemoryProbeQueue::new(Arc::clone(clock) as Arc<dyn Clock>, QueueLimits::default()))
}

/// Tries again while the database is away, for a while: processes and databases start together.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(mut open: impl FnMut() -> F) -> Result<T, StoreError> {
    let until = tokio::time::Instant::now() + START_PATIENCE;
    loop {
        match open().await {
            Err(StoreError::Transient { retry_after, source }) if tokio::time::Instant::now() < until => {
                tracing::warn!(error = %source, "the database is away; trying again");
                tokio::time::sleep(retry_after.max(Duration::from_secs(1))).await;
            }
            opened => return opened,
        }
    }
}
