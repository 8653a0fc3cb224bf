//! Which adapters stand behind the ports: by the settings, one process's or shared ones.

use std::{sync::Arc, time::Duration};

use healthmon_adapters::{
    postgres::{
        Postgres, PostgresNodes, PostgresOptions, PostgresProbeQueue, PostgresResultStore, PostgresScheduler,
        SchedulerOptions,
    },
    redis::{InvalidRedisOptions, RedisBroadcaster, RedisOptions, RedisProbeQueue},
    sqlite::{SqliteOptions, SqliteResultStore},
};
use healthmon_core::{
    memory::{LocalScheduler, MemoryBroadcaster, MemoryProbeQueue, QueueLimits},
    ports::{Broadcaster, Clock, Heartbeats, ProbeQueue, QueueError, ResultStore, Scheduler, StoreError},
    runtime::clock::SystemClock,
};
use serde_json::Value;

use crate::{
    Config, ServeError,
    config::{Database, Queue, Secret, ServerRole},
};

/// How long a backend that is away is waited for at the start.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a silent process stays in the list of nodes.
pub(crate) const NODE_LEASE: Duration = Duration::from_secs(30);

/// What the ports are given, and what is to be closed in the end.
pub(crate) struct Backends {
    pub(crate) store: Arc<dyn ResultStore>,
    /// The store for requests and WebSocket clients, if they have connections of their own.
    pub(crate) api_store: Option<Arc<dyn ResultStore>>,
    /// What services say of themselves, in the same database.
    pub(crate) heartbeats: Arc<dyn Heartbeats>,
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
    Postgres { postgres: Postgres, of_api: Option<Arc<PostgresResultStore>> },
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
                    api_store: None,
                    heartbeats: Arc::clone(&sqlite) as Arc<dyn Heartbeats>,
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
            max_connections: config.connections.get(),
            ..PostgresOptions::new(url.expose())
        };
        let shared = patiently(|| Box::pin(Shared::open(&options, name, report, &clock))).await.map_err(refused)?;
        let Shared { postgres, store, heartbeats, scheduler, nodes } = shared;
        let of_api = if config.roles.contains(&ServerRole::Api) {
            let open = async || {
                let postgres = postgres.beside(config.api_connections.get()).await?;
                Ok(Arc::new(PostgresResultStore::new(postgres).await?))
            };
            Some(patiently(open).await.map_err(refused)?)
        } else {
            None
        };
        // Signs come in by requests.
        let heartbeats = of_api.clone().map_or(heartbeats, |store| store as Arc<dyn Heartbeats>);
        let api_store = of_api.clone().map(|store| store as Arc<dyn ResultStore>);
        let regions = vec![config.region.clone()];
        let (queue, broadcaster): (Arc<dyn ProbeQueue>, Arc<dyn Broadcaster>) = match &config.queue {
            Queue::Memory => (memory_queue(&clock), Arc::new(MemoryBroadcaster::default())),
            Queue::Postgres => {
                let open = || PostgresProbeQueue::new(postgres.clone(), regions.clone(), QueueLimits::shared());
                (Arc::new(patiently(open).await.map_err(refused)?), Arc::new(MemoryBroadcaster::default()))
            }
            Queue::Redis(url) => {
                let wrong = |error: InvalidRedisOptions| ServeError::Redis { source: error.into() };
                let away = |error: QueueError| ServeError::Redis { source: error.into() };
                let options = RedisOptions::new(url.expose()).map_err(wrong)?;
                let (shards, limits) = (postgres.shards(), QueueLimits::shared());
                let open = || {
                    let at = Arc::clone(&clock) as Arc<dyn Clock>;
                    RedisProbeQueue::connect(options.clone(), regions.clone(), shards, limits, at)
                };
                let queue = patiently(open).await.map_err(away)?;
                let broadcaster = patiently(|| RedisBroadcaster::connect(options.clone())).await.map_err(away)?;
                (Arc::new(queue), Arc::new(broadcaster))
            }
        };
        let (nodes, opened) = (Some(nodes), Opened::Postgres { postgres, of_api });
        Ok(Self { store, api_store, heartbeats, queue, scheduler, broadcaster, clock, nodes, opened })
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
            Opened::Postgres { postgres, of_api } => {
                if let Some(of_api) = of_api {
                    of_api.close().await;
                }
                postgres.close().await;
            }
        }
    }
}

/// What stands on PostgreSQL whatever the queue.
struct Shared {
    postgres: Postgres,
    store: Arc<dyn ResultStore>,
    heartbeats: Arc<dyn Heartbeats>,
    scheduler: Arc<dyn Scheduler>,
    nodes: Arc<PostgresNodes>,
}

impl Shared {
    async fn open(
        options: &PostgresOptions,
        name: &str,
        report: &Value,
        clock: &SystemClock,
    ) -> Result<Self, StoreError> {
        let postgres = Postgres::connect(options.clone()).await?;
        let store = Arc::new(PostgresResultStore::new(postgres.clone()).await?);
        clock.follow(&*store).await?;
        let scheduler = Arc::new(PostgresScheduler::new(postgres.clone(), SchedulerOptions::new(name)).await?);
        let nodes = Arc::new(PostgresNodes::join(postgres.clone(), name, NODE_LEASE, report).await?);
        let heartbeats = Arc::clone(&store) as Arc<dyn Heartbeats>;
        Ok(Self { postgres, store, heartbeats, scheduler, nodes })
    }
}

fn memory_queue(clock: &Arc<SystemClock>) -> Arc<dyn ProbeQueue> {
    Arc::new(MemoryProbeQueue::new(Arc::clone(clock) as Arc<dyn Clock>, QueueLimits::default()))
}

/// An error of whom we begin with.
trait Backend: std::fmt::Display {
    /// After which time it may be tried again, if that makes sense.
    fn retry_after(&self) -> Option<Duration>;
}

impl Backend for StoreError {
    fn retry_after(&self) -> Option<Duration> {
        if let Self::Transient { retry_after, .. } = self { Some(*retry_after) } else { None }
    }
}

impl Backend for QueueError {
    fn retry_after(&self) -> Option<Duration> {
        if let Self::Transient { retry_after, .. } = self { Some(*retry_after) } else { None }
    }
}

/// Tries again while a backend is away, for a while: processes and backends start together, and
/// a process may be started while one of them is.
async fn patiently<T, E, F>(mut open: impl FnMut() -> F) -> Result<T, E>
where
    E: Backend,
    F: Future<Output = Result<T, E>>,
{
    let until = tokio::time::Instant::now() + START_PATIENCE;
    loop {
        let error = match open().await {
            Ok(opened) => return Ok(opened),
            Err(error) => error,
        };
        let Some(retry_after) = error.retry_after().filter(|_| tokio::time::Instant::now() < until) else {
            return Err(error);
        };
        tracing::warn!(%error, "cannot begin yet; trying again");
        tokio::time::sleep(retry_after.max(Duration::from_millis(500))).await;
    }
}
