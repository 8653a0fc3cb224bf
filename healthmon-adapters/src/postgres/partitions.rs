//! The partitions of `results`: made ahead, or when they are missing, and dropped when all that is
//! in them is past its retention. Nothing here stops whoever writes or reads.
//!
//! A new partition is a table of its own until it is attached, which takes a lock that only others
//! of its kind conflict with. An old one is detached concurrently: the server waits until nobody
//! uses it any more, holding nothing meanwhile.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use healthmon_core::{ports::StoreError, time::Timestamp};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::time::timeout;

use super::{connect::Postgres, error::from_sqlx, hosts::Hosts, schema::LOCK};

/// The partitions that are known to be there, by the slot that each begins with.
#[derive(Debug, Default)]
pub(super) struct Partitions(Mutex<BTreeSet<i64>>);

/// A table that is a partition or was one.
struct Found {
    from: i64,
    attached: bool,
    /// It was being detached when that was interrupted.
    pending: bool,
}

/// How many partitions beyond the present one are made ahead.
const AHEAD: i64 = 2;

impl Partitions {
    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self) {
        self.known().clear();
    }

    /// Sees to it that each of these slots, in milliseconds, has a partition to go to.
    pub(super) async fn ensure(&self, postgres: &Postgres, slots: impl Iterator<Item = i64>) -> Result<(), StoreError> {
        let width = postgres.partition_ms();
        let mut wanted: BTreeSet<i64> = slots.map(|slot| slot.div_euclid(width) * width).collect();
        {
            let known = self.known();
            wanted.retain(|from| !known.contains(from));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut tx = postgres.begin().await?;
        sqlx::raw_sql(LOCK).execute(&mut *tx).await.map_err(from_sqlx)?;
        let there: BTreeSet<i64> = found(&mut tx).await?.into_iter().map(|found| found.from).collect();
        for from in wanted.difference(&there) {
            make(&mut tx, *from, from + width).await?;
        }
        tx.commit().await.map_err(from_sqlx)?;
        let mut known = self.known();
        known.extend(wanted);
        known.extend(there);
        Ok(())
    }

    /// Makes partitions ahead of `now`.
    pub(super) async fn ahead(&self, postgres: &Postgres, now: Timestamp) -> Result<(), StoreError> {
        let width = postgres.partition_ms();
        self.ensure(postgres, (0..=AHEAD).map(|n| now.as_millis() + n * width)).await
    }

    /// Drops the partitions all of whose slots are past the retention.
    pub(super) async fn expire(&self, postgres: &Postgres, now: Timestamp) -> Result<(), StoreError> {
        let width = postgres.partition_ms();
        // Some time beyond it, for results on their way that were not too old when they were looked at.
        let margin = Duration::from_secs(60).min(Duration::from_millis(width.unsigned_abs()));
        let oldest = now.before(postgres.options().retention).before(margin).as_millis();
        let mut tx = postgres.begin_reading().await?;
        let mut old = found(&mut tx).await?;
        tx.commit().await.map_err(from_sqlx)?;
        old.retain(|found| found.from + width <= oldest);
        if old.is_empty() {
            return Ok(());
        }
        // The statements below wait for others as long as it takes, and a pooler might give up on them.
        let limit = postgres.options().connect_timeout;
        let (_, mut connection) = Hosts::parse(postgres.options().direct_url())?.primary(limit).await?;
        for found in old {
            self.known().remove(&found.from);
            if !drop_one(&mut connection, &found).await? {
                // Somebody holds it. The server goes on waiting; whoever sweeps later finds it done.
                return Ok(());
            }
        }
        connection.close().await.map_err(from_sqlx)
    }
}

/// All tables that are partitions of `results`, or were.
async fn found(connection: &mut PgConnection) -> Result<Vec<Found>, StoreError> {
    const FIND: &str = "SELECT substr(c.relname, 9)::bigint, i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false) \
         FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'results'::regclass \
         WHERE c.relname ~ '^results_[0-9]{1,18}$' AND c.relkind = 'r' \
         AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'results'::regclass) ORDER BY 1";
    let read = super::connect::sql(FIND).fetch_all(connection).await.map_err(from_sqlx)?;
    let found =
        read.iter().map(|row| Ok(Found { from: row.try_get(0)?, attached: row.try_get(1)?, pending: row.try_get(2)? }));
    found.collect::<sqlx::Result<_>>().map_err(from_sqlx)
}

/// Makes a partition as a table of its own, and attaches it. The check is there for as long as it
/// saves the server from looking into the table.
async fn make(connection: &mut PgConnection, from: i64, to: i64) -> Result<(), StoreError> {
    let make = format!(
        "CREATE TABLE results_{from} (LIKE results, CONSTRAINT in_range CHECK (slot >= {from} AND slot < {to})); \
         ALTER TABLE results ATTACH PARTITION results_{from} FOR VALUES FROM ({from}) TO ({to}); \
         ALTER TABLE results_{from} DROP CONSTRAINT in_range"
    );
    sqlx::raw_sql(AssertSqlSafe(make)).execute(connection).await.map_err(from_sqlx)?;
    Ok(())
}

/// Detaches a partition and drops it. Says whether that was done, or is still waiting for somebody.
async fn drop_one(connection: &mut PgConnection, found: &Found) -> Result<bool, StoreError> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let from = found.from;
    let detach = match found {
        Found { attached: false, .. } => None,
        Found { pending: true, .. } => Some(format!("ALTER TABLE results DETACH PARTITION results_{from} FINALIZE")),
        _ => Some(format!("ALTER TABLE results DETACH PARTITION results_{from} CONCURRENTLY")),
    };
    if let Some(detach) = detach {
        if is_being_detached(connection).await? {
            return Ok(false);
        }
        match timeout(PATIENCE, sqlx::raw_sql(AssertSqlSafe(detach)).execute(&mut *connection)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if is_done_by_another(&error) => return Ok(true),
            Ok(Err(error)) => return Err(from_sqlx(error)),
            Err(_) => return Ok(false),
        }
    }
    let begin = "BEGIN; SET LOCAL lock_timeout = '1s'; SET LOCAL idle_in_transaction_session_timeout = '4s'";
    let mut tx = connection.begin_with(begin).await.map_err(from_sqlx)?;
    let drop = format!("DROP TABLE IF EXISTS results_{from}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *tx).await.map_err(from_sqlx)?;
    tx.commit().await.map_err(from_sqlx)?;
    Ok(true)
}

/// Whether another node is at it: one of them is enough, and waits for as long as it takes.
async fn is_being_detached(connection: &mut PgConnection) -> Result<bool, StoreError> {
    const LOOK: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
         AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE 'ALTER TABLE results DETACH PARTITION%'";
    let row = sqlx::raw_sql(LOOK).fetch_one(connection).await.map_err(from_sqlx)?;
    row.try_get(0).map_err(from_sqlx)
}

/// Another node was faster: the table is gone, is no partition any more, or is about to be none.
fn is_done_by_another(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "42809" | "55000" | "55006"))
}
