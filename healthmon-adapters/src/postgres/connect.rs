//! The pool, and what must be settled before anybody uses it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use healthmon_core::{ports::StoreError, shard::ShardCount};
use sqlx::{
    Connection, Row, Transaction,
    postgres::{PgPool, PgPoolOptions},
};
use tokio::time::timeout;

use super::{
    error::{from_sqlx, slow},
    hosts::{self, Hosts},
    schema,
};

/// Where the database is and how it is used.
///
/// # Poolers
///
/// `url` may lead through a pooler in transaction mode, such as PgBouncer: nothing here leaves
/// anything behind in a session. Give `migrate_url` then, a URL past the pooler, for the schema and
/// for letting go of old partitions; without it both go through the pooler too, which works as long
/// as it lets statements wait for some minutes. No `ignore_startup_parameters` is needed.
///
/// # Several hosts
///
/// `postgres://user:password@one:5432,two:5432/database` names a primary and its standbys in any
/// order. The one that writes is used, and when another is promoted, that one.
///
/// # TLS
///
/// As the URL says: `?sslmode=verify-full&sslrootcert=/path/to/ca.pem`.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// `postgres://user:password@host:port/database?parameters`; several hosts with commas between them.
    pub url: String,
    /// The same past the pooler, if `url` leads through one.
    pub migrate_url: Option<String>,
    /// How many connections at most.
    pub max_connections: u32,
    /// Into how many shards the services are cut. What the deployment began with when none is
    /// given; at its beginning, [`ShardCount::default`].
    pub shards: Option<ShardCount>,
    /// How long results are kept. It is by this, at the deployment's beginning, that results are cut
    /// into partitions: of a day, or of an eighth of the retention if that is less.
    pub retention: Duration,
    /// How long the sums of whole hours are kept: uptime goes back as far. At least as long as results.
    pub rollup_retention: Duration,
    /// How long entries of the transition log are kept.
    pub log_retention: Duration,
    /// How long a connection is waited for.
    pub connect_timeout: Duration,
}

impl PostgresOptions {
    /// The usual options for this URL: 8 connections, results for 30 days, sums of hours for 400, the
    /// log for a year.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            migrate_url: None,
            max_connections: 8,
            shards: None,
            retention: Duration::from_hours(30 * 24),
            rollup_retention: Duration::from_hours(400 * 24),
            log_retention: Duration::from_hours(365 * 24),
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// The URL that leads past any pooler.
    pub(super) fn direct_url(&self) -> &str {
        self.migrate_url.as_deref().unwrap_or(&self.url)
    }
}

impl fmt::Debug for PostgresOptions {
    /// Without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("url", &hosts::shown(&self.url))
            .field("migrate_url", &self.migrate_url.as_deref().map(hosts::shown))
            .field("max_connections", &self.max_connections)
            .field("shards", &self.shards)
            .field("retention", &self.retention)
            .field("rollup_retention", &self.rollup_retention)
            .field("log_retention", &self.log_retention)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

/// A deployment's database: a pool of connections to its primary, its schema up to date. Cheap to clone.
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

struct Inner {
    pool: PgPool,
    options: PostgresOptions,
    settled: schema::Settled,
    follower: Option<tokio::task::AbortHandle>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

/// What a transaction begins with. Whoever is suspended in the middle of one holds up the others
/// for as long, and no longer.
macro_rules! begin {
    ($more:literal) => {
        concat!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '6s'; SET LOCAL statement_timeout = '15s'; \
             SET LOCAL idle_in_transaction_session_timeout = '4s'; \
             SET LOCAL jit = off",
            $more
        )
    };
}
const BEGIN: &str = begin!("");
/// A queue's tables are all but empty at one moment and full at the next, so that what the planner
/// knows of them is wrong. Their indexes are always right, and a scan of them clears them of dead rows.
const BEGIN_QUEUE: &str = begin!("; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off");
/// The same, for what may be lost in a crash.
const BEGIN_QUEUE_ASYNC: &str = begin!(
    "; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
     SET LOCAL synchronous_commit = off"
);
/// What adds up results goes by their index, a service at a time, however many of them the planner
/// takes for all.
const BEGIN_SUMMING: &str = begin!("; SET LOCAL enable_seqscan = off");
const BEGIN_LOADING: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '110s'; SET LOCAL jit = off";
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '15s'; \
     SET LOCAL idle_in_transaction_session_timeout = '10s'; SET LOCAL jit = off";

/// How long any call takes at most, whatever has become of the server.
const PATIENCE: Duration = Duration::from_secs(40);

impl Postgres {
    /// Connects, brings the schema up to date, and settles what is settled once.
    ///
    /// # Errors
    /// Transient when no primary can be reached; permanent when the URL is wrong, the deployment
    /// has another number of shards than is asked for, or a newer build made the schema.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        let hosts = Hosts::parse(&options.url)?;
        let (_, direct) = Hosts::parse(options.direct_url())?.primary(options.connect_timeout).await?;
        let settled = timeout(PATIENCE, schema::settle(direct, &options)).await.unwrap_or_else(|_| Err(slow(PATIENCE)));
        Self::open(hosts, options, settled?).await
    }

    /// The same database by connections of their own, at most so many: whoever takes all of them is in
    /// nobody's way.
    ///
    /// # Errors
    /// Transient when no primary can be reached.
    pub async fn beside(&self, max_connections: u32) -> Result<Self, StoreError> {
        let options = PostgresOptions { max_connections, ..self.0.options.clone() };
        Self::open(Hosts::parse(&options.url)?, options, self.0.settled).await
    }

    async fn open(hosts: Hosts, options: PostgresOptions, settled: schema::Settled) -> Result<Self, StoreError> {
        let (primary, watched) = hosts.primary(options.connect_timeout).await?;
        // Connections from before the pool was pointed elsewhere.
        let moved: Arc<Mutex<Option<Instant>>> = Arc::default();
        let since = Arc::clone(&moved);
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.connect_timeout)
            .idle_timeout(Duration::from_mins(10))
            .max_lifetime(Duration::from_hours(1))
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let moved = *since.lock().unwrap_or_else(PoisonError::into_inner);
                let stale = moved.is_some_and(|moved| moved.elapsed() <= meta.age);
                Box::pin(async move { if stale { Ok(false) } else { hosts::is_fit(connection).await } })
            })
            .after_connect(|connection, _| {
                Box::pin(async move {
                    let fit = hosts::is_fit(connection).await?;
                    fit.then_some(()).ok_or_else(|| sqlx::Error::Protocol("the server only reads".to_owned()))
                })
            })
            .after_release(|connection, _| {
                // Rolls back what was dropped in the middle. A server that is gone without a word
                // must not keep the pool waiting.
                Box::pin(async move { Ok(matches!(timeout(hosts::ANSWER, connection.ping()).await, Ok(Ok(())))) })
            })
            .connect_lazy_with(primary);
        let follower = if hosts.several() {
            let note = move || *moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            Some(tokio::spawn(hosts::follow(hosts, pool.clone(), watched, note)).abort_handle())
        } else {
            watched.close().await.ok();
            None
        };
        Ok(Self(Arc::new(Inner { pool, options, settled, follower })))
    }

    /// The pool. Whoever uses it keeps to transactions ([`begin`](Self::begin)) and to statements
    /// that are not kept ([`sql`]): it may lead through a pooler.
    pub(super) fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    /// The options it was made with.
    pub fn options(&self) -> &PostgresOptions {
        &self.0.options
    }

    /// Into how many shards this deployment's services are cut.
    pub fn shards(&self) -> ShardCount {
        self.0.settled.shards
    }

    /// How wide a partition of results is, in milliseconds.
    pub(super) fn partition_ms(&self) -> i64 {
        self.0.settled.partition_ms
    }

    /// Begins a transaction that writes, with limits on how long it may wait and stand.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, sqlx::Postgres>, StoreError> {
        self.pool().begin_with(BEGIN).await.map_err(from_sqlx)
    }

    /// Begins a transaction on the tables of the queue.
    pub(super) async fn begin_queueing(&self) -> Result<Transaction<'static, sqlx::Postgres>, StoreError> {
        self.pool().begin_with(BEGIN_QUEUE).await.map_err(from_sqlx)
    }

    /// The same, for what does no harm when a crash of the server loses it.
    pub(super) async fn begin_forgetting(&self) -> Result<Transaction<'static, sqlx::Postgres>, StoreError> {
        self.pool().begin_with(BEGIN_QUEUE_ASYNC).await.map_err(from_sqlx)
    }

    /// Begins a transaction that adds up results.
    pub(super) async fn begin_summing(&self) -> Result<Transaction<'static, sqlx::Postgres>, StoreError> {
        self.pool().begin_with(BEGIN_SUMMING).await.map_err(from_sqlx)
    }

    /// Begins a transaction that only reads, all of it at one instant.
    pub(super) async fn begin_reading(&self) -> Result<Transaction<'static, sqlx::Postgres>, StoreError> {
        self.pool().begin_with(BEGIN_READING).await.map_err(from_sqlx)
    }

    /// Begins a transaction that reads all there is, such as the services of a shard.
    pub(super) async fn begin_loading(&self) -> Result<Transaction<'static, sqlx::Postgres>, StoreError> {
        self.pool().begin_with(BEGIN_LOADING).await.map_err(from_sqlx)
    }

    /// The server's time, in microseconds.
    pub(super) async fn now(&self) -> Result<healthmon_core::time::Timestamp, StoreError> {
        const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let row = sqlx::raw_sql(NOW).fetch_one(self.pool()).await.map_err(from_sqlx)?;
        row.try_get(0).map(healthmon_core::time::Timestamp::from_micros).map_err(from_sqlx)
    }

    /// Closes the pool once what is under way is done.
    pub async fn close(&self) {
        self.pool().close().await;
    }
}

/// Gives a call an end, whatever has become of the server.
pub(super) async fn bounded<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(PATIENCE, call).await.unwrap_or_else(|_| Err(slow(PATIENCE)))
}

/// A statement that leaves nothing behind in the session, for use within a transaction.
pub(super) fn sql<'q>(
    text: impl sqlx::SqlSafeStr,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(text).persistent(false)
}
