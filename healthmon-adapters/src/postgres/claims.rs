//! Leases on shards: who may emit which services' probes, until when, and under which epoch.

use std::{collections::BTreeSet, time::Duration};

use healthmon_core::{
    id::ClaimEpoch,
    ports::StoreError,
    shard::{Claim, Shard, ShardCount},
    time::Timestamp,
};
use sqlx::{PgConnection, Row};

use super::{connect::sql, error::from_sqlx};

/// A lease that is held, and up to where its slots have been emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) claim: Claim,
    pub(super) emitted_through: Option<Timestamp>,
}

/// One scheduler's dealings with the leases. All times are the database's.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    /// Unique per process start: a restarted process is another one.
    name: String,
    lease: Duration,
}

/// Arrays of these standings, as the statements take them.
type Columns = (Vec<i16>, Vec<i64>, Vec<Option<i64>>);

fn columns(standings: &[Standing]) -> Columns {
    let shard = |standing: &Standing| standing.claim.shard.0.cast_signed();
    let epoch = |standing: &Standing| standing.claim.epoch.0.cast_signed();
    let through = |standing: &Standing| standing.emitted_through.map(Timestamp::as_micros);
    (
        standings.iter().map(shard).collect(),
        standings.iter().map(epoch).collect(),
        standings.iter().map(through).collect(),
    )
}

fn shard(number: i16) -> Shard {
    Shard(number.cast_unsigned())
}

impl Claims {
    pub(super) const fn new(name: String, lease: Duration) -> Self {
        Self { name, lease }
    }

    /// Makes the row of every shard that has none yet.
    pub(super) async fn prepare(&self, tx: &mut PgConnection, shards: ShardCount) -> Result<(), StoreError> {
        sql("INSERT INTO shards (shard) SELECT generate_series(0, $1 - 1)::smallint \
             EXCEPT SELECT shard FROM shards ON CONFLICT DO NOTHING")
        .bind(i32::from(shards.get()))
        .execute(tx)
        .await
        .map_err(from_sqlx)?;
        Ok(())
    }

    /// How many schedulers share the shards, this one among them.
    pub(super) async fn live(&self, tx: &mut PgConnection) -> Result<usize, StoreError> {
        let row = sql("SELECT count(*) FROM schedulers WHERE seen_until > clock_timestamp() AND name <> $1")
            .bind(&self.name)
            .fetch_one(tx)
            .await
            .map_err(from_sqlx)?;
        let others: i64 = row.try_get(0).map_err(from_sqlx)?;
        Ok(usize::try_from(others).unwrap_or(0) + 1)
    }

    /// Renews the leases, and says that this scheduler is there. Returns those that it has still.
    pub(super) async fn renew(
        &self,
        tx: &mut PgConnection,
        standings: &[Standing],
    ) -> Result<BTreeSet<Shard>, StoreError> {
        let (shards, epochs, through) = columns(standings);
        let held = sql(
            "WITH here AS (INSERT INTO schedulers VALUES ($1, clock_timestamp() + $2) \
             ON CONFLICT (name) DO UPDATE SET seen_until = excluded.seen_until), \
             gone AS (DELETE FROM schedulers WHERE seen_until < clock_timestamp() - interval '1 hour') \
             UPDATE shards s SET lease_until = clock_timestamp() + $2, \
             emitted_through = greatest(s.emitted_through, least(u.through, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)) \
             FROM unnest($3::smallint[], $4::bigint[], $5::bigint[]) u (shard, epoch, through) \
             WHERE s.shard = u.shard AND s.epoch = u.epoch AND s.owner = $1 RETURNING s.shard",
        )
        .bind(&self.name)
        .bind(self.lease)
        .bind(shards)
        .bind(epochs)
        .bind(through)
        .fetch_all(tx)
        .await
        .map_err(from_sqlx)?;
        held.iter().map(|row| row.try_get(0).map(shard)).collect::<sqlx::Result<_>>().map_err(from_sqlx)
    }

    /// Claims up to `count` shards that nobody holds, or whose lease has run out.
    ///
    /// An epoch is at least the time in milliseconds: also when the database went back (restored, or
    /// failed over to a standby that had not got all), it is beyond any that the queue has seen.
    pub(super) async fn claim(
        &self,
        tx: &mut PgConnection,
        shards: ShardCount,
        count: usize,
    ) -> Result<Vec<Standing>, StoreError> {
        let rows = sql("UPDATE shards SET owner = $1, \
             epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint), lease_until = clock_timestamp() + $2 \
             WHERE shard IN (SELECT shard FROM shards WHERE shard < $3 \
             AND (owner IS NULL OR lease_until < clock_timestamp()) ORDER BY shard LIMIT $4 FOR UPDATE SKIP LOCKED) \
             RETURNING shard, epoch, emitted_through")
        .bind(&self.name)
        .bind(self.lease)
        .bind(shards.get().cast_signed())
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .fetch_all(tx)
        .await
        .map_err(from_sqlx)?;
        let standing = |row: &sqlx::postgres::PgRow| {
            let (number, epoch): (i16, i64) = (row.try_get(0)?, row.try_get(1)?);
            let through: Option<i64> = row.try_get(2)?;
            let claim = Claim { shard: shard(number), epoch: ClaimEpoch(epoch.cast_unsigned()) };
            Ok(Standing { claim, emitted_through: through.map(Timestamp::from_micros) })
        };
        rows.iter().map(standing).collect::<sqlx::Result<_>>().map_err(from_sqlx)
    }

    /// Gives leases back, so that another has them at once.
    pub(super) async fn release(&self, tx: &mut PgConnection, standings: &[Standing]) -> Result<(), StoreError> {
        let (shards, epochs, through) = columns(standings);
        sql(
            "UPDATE shards s SET owner = NULL, lease_until = NULL, \
             emitted_through = greatest(s.emitted_through, least(u.through, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)) \
             FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) u (shard, epoch, through) \
             WHERE s.shard = u.shard AND s.epoch = u.epoch AND s.owner = $1",
        )
        .bind(&self.name)
        .bind(shards)
        .bind(epochs)
        .bind(through)
        .execute(tx)
        .await
        .map_err(from_sqlx)?;
        Ok(())
    }

    /// Gives back what a round claimed that could not tell of it; nothing was emitted of those.
    pub(super) async fn release_rest(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        let rest = sql("UPDATE shards SET owner = NULL, lease_until = NULL WHERE owner = $1");
        rest.bind(&self.name).execute(tx).await.map_err(from_sqlx)?;
        Ok(())
    }

    /// Takes part in sharing out no longer.
    pub(super) async fn leave(&self, tx: &mut PgConnection) -> Result<(), StoreError> {
        sql("DELETE FROM schedulers WHERE name = $1").bind(&self.name).execute(tx).await.map_err(from_sqlx)?;
        Ok(())
    }
}
