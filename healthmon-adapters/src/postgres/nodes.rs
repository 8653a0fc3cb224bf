//! The processes of a deployment: who is there, what each says of itself, and its number in the ids
//! of the services that it registers.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use healthmon_core::{id::ClaimEpoch, ports::StoreError, shard::Shard};
use serde_json::Value;
use sqlx::Row;
use tokio::sync::Mutex;

use super::{
    Postgres,
    connect::{bounded, sql},
    error::{bad_row, from_sqlx},
};

/// A process of the deployment, as it last reported.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// Its number: no other process has it now.
    pub number: u16,
    /// What it is called.
    pub name: String,
    /// How long ago it was heard of.
    pub seen_ago: Duration,
    /// What it says of itself.
    pub report: Value,
}

/// A shard and who schedules it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardRow {
    /// The shard.
    pub shard: Shard,
    /// The scheduler's name, which begins with its node's and a slash; none when it is free.
    pub owner: Option<String>,
    /// How often it was claimed.
    pub epoch: ClaimEpoch,
    /// For how long the lease still runs; none when it has run out.
    pub lease_left: Option<Duration>,
}

/// This process's entry in the list of nodes.
pub struct PostgresNodes {
    postgres: Postgres,
    name: String,
    lease: Duration,
    number: Mutex<u16>,
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.max(0.0)).unwrap_or_default()
}

impl PostgresNodes {
    /// Enters the list under the lowest number that is free. The entry is another's to take when
    /// it was not [reported](Self::report) on for `lease`.
    ///
    /// # Errors
    /// Transient when the database is away; permanent when 1,024 processes are there already.
    pub async fn join(postgres: Postgres, name: &str, lease: Duration, report: &Value) -> Result<Self, StoreError> {
        let number = bounded(take_number(&postgres, name, lease, report)).await?;
        Ok(Self { postgres, name: name.to_owned(), lease, number: Mutex::new(number) })
    }

    /// The number that it has now.
    pub async fn number(&self) -> u16 {
        *self.number.lock().await
    }

    /// Says that this process is there, and how it is doing. Enters the list anew if the entry
    /// was taken meanwhile.
    ///
    /// # Errors
    /// Transient when the database is away.
    pub async fn report(&self, report: &Value) -> Result<(), StoreError> {
        let mut number = self.number.lock().await;
        let there = bounded(async {
            let mut tx = self.postgres.begin().await?;
            let updated = sql(
                "UPDATE nodes SET lease_until = clock_timestamp() + $3, report = $4 WHERE number = $1 AND name = $2",
            )
            .bind(number.cast_signed())
            .bind(&self.name)
            .bind(self.lease)
            .bind(report)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
            tx.commit().await.map_err(from_sqlx)?;
            Ok(updated.rows_affected() == 1)
        });
        if !there.await? {
            *number = bounded(take_number(&self.postgres, &self.name, self.lease, report)).await?;
        }
        Ok(())
    }

    /// Leaves the list.
    ///
    /// # Errors
    /// Transient when the database is away; the entry goes by itself in time.
    pub async fn leave(&self) -> Result<(), StoreError> {
        let number = *self.number.lock().await;
        bounded(async {
            let mut tx = self.postgres.begin().await?;
            sql("DELETE FROM nodes WHERE number = $1 AND name = $2")
                .bind(number.cast_signed())
                .bind(&self.name)
                .execute(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            tx.commit().await.map_err(from_sqlx)
        })
        .await
    }

    /// Every process that was heard of within its lease.
    ///
    /// # Errors
    /// Transient when the database is away.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        bounded(async {
            let mut tx = self.postgres.begin_reading().await?;
            let rows =
                sql("SELECT number, name, extract(epoch FROM clock_timestamp() + $1 - lease_until)::float8, report \
                 FROM nodes WHERE lease_until > clock_timestamp() ORDER BY name, number")
                .bind(self.lease)
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            tx.commit().await.map_err(from_sqlx)?;
            let node = |row: &sqlx::postgres::PgRow| {
                Ok(NodeRow {
                    number: row.try_get::<i16, _>(0)?.cast_unsigned(),
                    name: row.try_get(1)?,
                    seen_ago: seconds(row.try_get(2)?),
                    report: row.try_get(3)?,
                })
            };
            rows.iter().map(node).collect::<sqlx::Result<_>>().map_err(bad_row)
        })
        .await
    }

    /// Every shard, and who schedules it.
    ///
    /// # Errors
    /// Transient when the database is away.
    pub async fn shards(&self) -> Result<Vec<ShardRow>, StoreError> {
        bounded(async {
            let mut tx = self.postgres.begin_reading().await?;
            let rows = sql("SELECT shard, owner, epoch, extract(epoch FROM lease_until - clock_timestamp())::float8 \
                 FROM shards ORDER BY shard")
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
            tx.commit().await.map_err(from_sqlx)?;
            let shard = |row: &sqlx::postgres::PgRow| {
                Ok(ShardRow {
                    shard: Shard(row.try_get::<i16, _>(0)?.cast_unsigned()),
                    owner: row.try_get(1)?,
                    epoch: ClaimEpoch(row.try_get::<i64, _>(2)?.cast_unsigned()),
                    lease_left: row.try_get::<Option<f64>, _>(3)?.filter(|left| *left > 0.0).map(seconds),
                })
            };
            rows.iter().map(shard).collect::<sqlx::Result<_>>().map_err(bad_row)
        })
        .await
    }
}

async fn take_number(postgres: &Postgres, name: &str, lease: Duration, report: &Value) -> Result<u16, StoreError> {
    // Two that begin together may choose the same number: one of them finds it taken, and looks again,
    // after a while from some other number on, so that a crowd does not choose alike again and again.
    for attempt in 0..16 {
        let start = if attempt < 4 { 0 } else { RandomState::new().build_hasher().finish() % 1024 };
        let mut tx = postgres.begin().await?;
        let row = sql("INSERT INTO nodes SELECT n, $1, clock_timestamp() + $2, $3 FROM generate_series(0, 1023) n \
             WHERE NOT EXISTS (SELECT 1 FROM nodes WHERE number = n AND lease_until > clock_timestamp()) \
             ORDER BY (n + $4) % 1024 LIMIT 1 ON CONFLICT (number) DO UPDATE \
             SET name = excluded.name, lease_until = excluded.lease_until, report = excluded.report \
             WHERE nodes.lease_until <= clock_timestamp() RETURNING number")
        .bind(name)
        .bind(lease)
        .bind(report)
        .bind(i32::try_from(start).unwrap_or(0))
        .fetch_optional(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        if let Some(row) = row {
            return row.try_get::<i16, _>(0).map(i16::cast_unsigned).map_err(from_sqlx);
        }
    }
    Err(StoreError::Permanent("no number from 0 to 1023 is free for this process".into()))
}
