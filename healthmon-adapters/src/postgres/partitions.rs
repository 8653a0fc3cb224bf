//! The partitions of `results` and `rollups`: made ahead, or when they are missing, and dropped when all
//! that is in them is past its retention. Nothing here stops whoever writes or reads.
//!
//! A new partition is a table of its own until it is attached, which takes a lock that only others
//! of its kind conflict with. An old one is detached concurrently: the server waits until nobody
//! uses it any more, holding nothing meanwhile.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use healthmon_core::ports::StoreError;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::time::timeout;

use super::{connect::Postgres, error::from_sqlx, hosts::Hosts, schema::LOCK};

/// The partitions of one table.
#[derive(Debug)]
pub(super) struct Partitions {
    table: Table,
    /// How wide each is, in what the table is cut by.
    width: i64,
    /// Those that are known to be there, by what each begins with.
    known: Mutex<BTreeSet<i64>>,
}

/// A table that is cut into partitions, called after it and after what they begin with.
#[derive(Debug, Clone, Copy)]
struct Table {
    name: &'static str,
    key: &'static str,
}

/// A table that is a partition or was one.
struct Found {
    from: i64,
    attached: bool,
    /// It was being detached when that was interrupted.
    pending: bool,
}

impl Partitions {
    /// Those of `results`, each so many milliseconds wide.
    pub(super) fn of_results(width_ms: i64) -> Self {
        Self { table: Table { name: "results", key: "slot" }, width: width_ms, known: Mutex::default() }
    }

    /// Those of `rollups`, each so many hours wide.
    pub(super) fn of_rollups(width_hours: i64) -> Self {
        Self { table: Table { name: "rollups", key: "hour" }, width: width_hours, known: Mutex::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<i64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the partition that this place goes to is known to be there.
    pub(super) fn knows(&self, place: i64) -> bool {
        self.known().contains(&(place.div_euclid(self.width) * self.width))
    }

    pub(super) fn forget(&self) {
        self.known().clear();
    }

    /// Sees to it that each of these places has a partition to go to.
    pub(super) async fn ensure(
        &self,
        postgres: &Postgres,
        places: impl Iterator<Item = i64>,
    ) -> Result<(), StoreError> {
        let (table, width) = (self.table, self.width);
        let mut wanted: BTreeSet<i64> = places.map(|place| place.div_euclid(width) * width).collect();
        {
            let known = self.known();
            wanted.retain(|from| !known.contains(from));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut tx = postgres.begin().await?;
        sqlx::raw_sql(LOCK).execute(&mut *tx).await.map_err(from_sqlx)?;
        let there: BTreeSet<i64> = found(&mut tx, table).await?.into_iter().map(|found| found.from).collect();
        for from in wanted.difference(&there) {
            make(&mut tx, table, *from, from + width).await?;
        }
        tx.commit().await.map_err(from_sqlx)?;
        let mut known = self.known();
        known.extend(wanted);
        known.extend(there);
        Ok(())
    }

    /// Makes the partition that `place` is in, and as many after it.
    pub(super) async fn ahead(&self, postgres: &Postgres, place: i64, more: i64) -> Result<(), StoreError> {
        self.ensure(postgres, (0..=more).map(|n| place + n * self.width)).await
    }

    /// Where the oldest partition begins, if there is one.
    pub(super) async fn oldest(&self, connection: &mut PgConnection) -> Result<Option<i64>, StoreError> {
        let there = found(connection, self.table).await?;
        Ok(there.iter().find(|found| found.attached && !found.pending).map(|found| found.from))
    }

    /// Drops the partitions all of which is before `oldest`.
    pub(super) async fn expire(&self, postgres: &Postgres, oldest: i64) -> Result<(), StoreError> {
        let mut tx = postgres.begin_reading().await?;
        let mut old = found(&mut tx, self.table).await?;
        tx.commit().await.map_err(from_sqlx)?;
        old.retain(|found| found.from + self.width <= oldest);
        if old.is_empty() {
            return Ok(());
        }
        // The statements below wait for others as long as it takes, and a pooler might give up on them.
        let limit = postgres.options().connect_timeout;
        let (_, mut connection) = Hosts::parse(postgres.options().direct_url())?.primary(limit).await?;
        for found in old {
            self.known().remove(&found.from);
            if !drop_one(&mut connection, self.table, &found).await? {
                // Somebody holds it. The server goes on waiting; whoever sweeps later finds it done.
                return Ok(());
            }
        }
        connection.close().await.map_err(from_sqlx)
    }
}

/// All tables that are partitions of this one, or were, in order.
async fn found(connection: &mut PgConnection, table: Table) -> Result<Vec<Found>, StoreError> {
    const FIND: &str = "SELECT substr(c.relname, length($1) + 2)::bigint, i.inhrelid IS NOT NULL, \
         coalesce(i.inhdetachpending, false) \
         FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = $1::regclass \
         WHERE c.relname ~ ('^' || $1 || '_[0-9]{1,18}$') AND c.relkind = 'r' \
         AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = $1::regclass) ORDER BY 1";
    let read = super::connect::sql(FIND).bind(table.name).fetch_all(connection).await.map_err(from_sqlx)?;
    let found =
        read.iter().map(|row| Ok(Found { from: row.try_get(0)?, attached: row.try_get(1)?, pending: row.try_get(2)? }));
    found.collect::<sqlx::Result<_>>().map_err(from_sqlx)
}

/// Makes a partition as a table of its own, and attaches it. The check is there for as long as it
/// saves the server from looking into the table.
async fn make(connection: &mut PgConnection, table: Table, from: i64, to: i64) -> Result<(), StoreError> {
    let Table { name, key } = table;
    let make = format!(
        "CREATE TABLE {name}_{from} (LIKE {name}, CONSTRAINT in_range CHECK ({key} >= {from} AND {key} < {to})); \
         ALTER TABLE {name} ATTACH PARTITION {name}_{from} FOR VALUES FROM ({from}) TO ({to}); \
         ALTER TABLE {name}_{from} DROP CONSTRAINT in_range"
    );
    sqlx::raw_sql(AssertSqlSafe(make)).execute(connection).await.map_err(from_sqlx)?;
    Ok(())
}

/// Detaches a partition and drops it. Says whether that was done, or is still waiting for somebody.
async fn drop_one(connection: &mut PgConnection, table: Table, found: &Found) -> Result<bool, StoreError> {
    const PATIENCE: Duration = Duration::from_secs(3);
    let (name, from) = (table.name, found.from);
    let detach = match found {
        Found { attached: false, .. } => None,
        Found { pending: true, .. } => Some(format!("ALTER TABLE {name} DETACH PARTITION {name}_{from} FINALIZE")),
        _ => Some(format!("ALTER TABLE {name} DETACH PARTITION {name}_{from} CONCURRENTLY")),
    };
    if let Some(detach) = detach {
        if is_being_detached(connection, table).await? {
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
    let drop = format!("DROP TABLE IF EXISTS {name}_{from}");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *tx).await.map_err(from_sqlx)?;
    tx.commit().await.map_err(from_sqlx)?;
    Ok(true)
}

/// Whether another node is at it: one of them is enough, and waits for as long as it takes.
async fn is_being_detached(connection: &mut PgConnection, table: Table) -> Result<bool, StoreError> {
    let look = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
         AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE 'ALTER TABLE {} DETACH PARTITION%'",
        table.name
    );
    let row = sqlx::raw_sql(AssertSqlSafe(look)).fetch_one(connection).await.map_err(from_sqlx)?;
    row.try_get(0).map_err(from_sqlx)
}

/// Another node was faster: the table is gone, is no partition any more, or is about to be none.
fn is_done_by_another(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "42809" | "55000" | "55006"))
}
