//! The schema, brought up to date by whoever comes first.

use std::{collections::HashMap, time::Duration};

use healthmon_core::{ports::StoreError, shard::ShardCount};
use sqlx::{Connection, PgConnection, Row, migrate::Migrator};

use super::{
    connect::{PostgresOptions, sql},
    error::{PostgresError, bad_row, from_sqlx, permanent},
};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// Whoever changes tables takes this lock, for the length of a transaction: a session's lock would
/// be lost on a pooler.
pub(super) const LOCK: &str = "SELECT pg_advisory_xact_lock(4857310263)";

/// What is settled once, when a deployment begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    pub(super) shards: ShardCount,
    pub(super) partition_ms: i64,
}

/// Applies what is missing of the schema, all of it or nothing.
///
/// The table of what was applied is the one that sqlx's own tool keeps; sqlx's migrator is not used
/// because it holds a lock and statements in the session.
pub(super) async fn settle(mut connection: PgConnection, options: &PostgresOptions) -> Result<Settled, StoreError> {
    let mut tx = connection
        .begin_with("BEGIN; SET LOCAL lock_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '30s'")
        .await
        .map_err(from_sqlx)?;
    sqlx::raw_sql(LOCK).execute(&mut *tx).await.map_err(from_sqlx)?;
    migrate(&mut tx).await?;
    let settled = settled(&mut tx, options).await?;
    tx.commit().await.map_err(from_sqlx)?;
    connection.close().await.ok();
    Ok(settled)
}

async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    // Without a notice in the server's log each time.
    let there = sqlx::raw_sql("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(&mut *connection).await;
    if !there.and_then(|row| row.try_get(0)).map_err(from_sqlx)? {
        const TABLE: &str = "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL, \
             installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL, \
             execution_time bigint NOT NULL)";
        sqlx::raw_sql(TABLE).execute(&mut *connection).await.map_err(from_sqlx)?;
    }
    let read = sql("SELECT version, checksum FROM _sqlx_migrations").fetch_all(&mut *connection).await;
    let mut applied: HashMap<i64, Vec<u8>> = HashMap::new();
    for row in read.map_err(from_sqlx)? {
        applied.insert(row.try_get(0).map_err(from_sqlx)?, row.try_get(1).map_err(from_sqlx)?);
    }
    let not_ours = |what: String| permanent(PostgresError::Schema(what));
    for migration in MIGRATIONS.iter() {
        match applied.remove(&migration.version) {
            Some(checksum) if checksum == *migration.checksum => continue,
            Some(_) => return Err(not_ours(format!("migration {} was another one", migration.version))),
            None => {}
        }
        sqlx::raw_sql(migration.sql.clone()).execute(&mut *connection).await.map_err(from_sqlx)?;
        sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES ($1, $2, true, $3, -1)")
        .bind(migration.version)
        .bind(&*migration.description)
        .bind(&*migration.checksum)
        .execute(&mut *connection)
        .await
        .map_err(from_sqlx)?;
    }
    match applied.keys().max() {
        Some(newer) => Err(not_ours(format!("a newer build has applied migration {newer}"))),
        None => Ok(()),
    }
}

/// What was settled at the beginning, or is now.
async fn settled(connection: &mut PgConnection, options: &PostgresOptions) -> Result<Settled, StoreError> {
    let asked = options.shards.unwrap_or_default().get();
    sql("INSERT INTO deployment (shards, partition_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(i16::try_from(asked).map_err(bad_row)?)
        .bind(partition_ms(options.retention))
        .execute(&mut *connection)
        .await
        .map_err(from_sqlx)?;
    let row = sql("SELECT shards, partition_ms FROM deployment").fetch_one(connection).await.map_err(from_sqlx)?;
    let stored = u16::try_from(row.try_get::<i16, _>(0).map_err(from_sqlx)?).map_err(bad_row)?;
    if let Some(asked) = options.shards.map(ShardCount::get).filter(|asked| *asked != stored) {
        return Err(permanent(PostgresError::Shards { stored, asked }));
    }
    Ok(Settled { shards: ShardCount::new(stored).map_err(bad_row)?, partition_ms: row.try_get(1).map_err(from_sqlx)? })
}

/// How wide partitions are: a day, or an eighth of the retention, and at least a second.
fn partition_ms(retention: Duration) -> i64 {
    let width = (retention / 8).clamp(Duration::from_secs(1), Duration::from_hours(24));
    i64::try_from(width.as_secs()).unwrap_or(86_400) * 1_000
}
