//! Probes: put in, handed out, and seen to when they are late.

use std::{sync::PoisonError, time::Duration};

use healthmon_core::{
    id::{ClaimEpoch, Region},
    ports::{Delivery, Enqueued, MAX_DELIVERIES, Receipt, StoreError},
    probe::{IndeterminateReason, Kind, Outcome, Probe, ProbeId, Reason},
    shard::{Claim, Shard},
    time::{Slot, Timestamp},
};
use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow};
use tokio::time::Instant;

use super::{
    super::{
        connect::sql,
        error::{bad_row, from_sqlx},
        rows,
    },
    MOST, NOW, PostgresProbeQueue, at_most, services,
};

type Result<T> = std::result::Result<T, StoreError>;

/// For how long a count is gone by at most.
const LONGEST_TRUST: Duration = Duration::from_secs(10);

/// How full the queue was when it was last counted.
#[derive(Default)]
pub(super) struct Room {
    /// Beyond it the count is too old to go by.
    until: Option<Instant>,
    /// What was counted, and what was put in here since.
    taken: usize,
}

/// Inserts what is neither fenced nor there, and answers how many were not fenced and how many were
/// inserted.
const PUT_IN: &str = "WITH offered AS (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], \
     $5::integer[], $6::integer[], $7::smallint[], $8::smallint[], $9::smallint[], $10::text[], $11::text[]) \
     o (service_id, slot, start_by, claim_epoch, timeout, epoch, shard, claim_shard, kind, region, service)), \
     newest AS (SELECT o.claim_shard AS shard, max(o.claim_epoch) AS offered, max(e.epoch) AS seen \
     FROM offered o LEFT JOIN queue_epochs e ON e.shard = o.claim_shard \
     WHERE o.claim_shard IS NOT NULL GROUP BY o.claim_shard), \
     raised AS (INSERT INTO queue_epochs AS e SELECT shard, offered FROM newest WHERE seen IS NULL OR seen < offered \
     ORDER BY shard ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch WHERE e.epoch < excluded.epoch), \
     wanted AS (SELECT o.* FROM offered o LEFT JOIN newest n ON n.shard = o.claim_shard \
     WHERE o.claim_shard IS NULL OR o.claim_epoch >= greatest(n.offered, n.seen)), \
     put AS (INSERT INTO queued_probes (service_id, slot, start_by, look_at, claim_epoch, timeout, epoch, shard, \
     claim_shard, kind, region, service) SELECT service_id, slot, start_by, start_by, claim_epoch, timeout, epoch, shard, \
     claim_shard, kind, region, service FROM wanted ON CONFLICT DO NOTHING RETURNING 1) \
     SELECT (SELECT count(*) FROM wanted), (SELECT count(*) FROM put)";

/// What upkeep did.
pub(super) struct Swept {
    /// How many probes were late.
    pub(super) late: usize,
    /// How many of them wait again.
    pub(super) back: usize,
}

fn reason(reason: IndeterminateReason) -> (i16, i16) {
    (Outcome::Indeterminate(reason).code(), Reason::Indeterminate(reason).code())
}

fn count(row: &PgRow, column: usize) -> Result<usize> {
    let count: i64 = row.try_get(column).map_err(from_sqlx)?;
    usize::try_from(count).map_err(bad_row)
}

impl PostgresProbeQueue {
    /// Puts all of these in, or none; nothing is answered when there is no room for them.
    pub(super) async fn put_in(&self, mut probes: Vec<Probe>) -> Result<Option<Enqueued>> {
        // In one order everywhere, so that two who put in the same do not wait for each other.
        probes.sort_by(|a, b| a.id.cmp(&b.id));
        let texts = services::write(&self.services, probes.iter().map(|probe| &probe.service))?;
        let mut tx = self.postgres.begin_queueing().await?;
        if !self.has_room(&mut tx, probes.len()).await? {
            return Ok(None);
        }
        let mut enqueued = Enqueued::default();
        for (probes, texts) in probes.chunks(MOST).zip(texts.chunks(MOST)) {
            let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
            let (wanted, accepted) = self.put_in_some(&mut tx, probes, texts).await?;
            enqueued.accepted += accepted;
            enqueued.repeated += wanted - accepted;
            enqueued.fenced += probes.len() - wanted;
        }
        tx.commit().await.map_err(from_sqlx)?;
        self.room.lock().unwrap_or_else(PoisonError::into_inner).taken += enqueued.accepted;
        Ok(Some(enqueued))
    }

    /// Whether this many more fit in. Counting goes through all that is there, and so it is not
    /// done again for fifty times as long as it took, unless the answer would be no.
    async fn has_room(&self, tx: &mut PgConnection, more: usize) -> Result<bool> {
        let fits = |taken: usize| taken.saturating_add(more) <= self.limits.capacity;
        {
            let room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
            if room.until.is_some_and(|until| Instant::now() < until) && fits(room.taken) {
                return Ok(true);
            }
        }
        let began = Instant::now();
        let row = sql("SELECT (SELECT count(*) FROM (SELECT FROM queued_probes LIMIT $1) p) \
             + (SELECT count(*) FROM (SELECT FROM queued_results LIMIT $1) r)")
        .bind(at_most(self.limits.capacity))
        .fetch_one(tx)
        .await
        .map_err(from_sqlx)?;
        let taken = count(&row, 0)?;
        let until = Instant::now() + (began.elapsed() * 50).min(LONGEST_TRUST);
        *self.room.lock().unwrap_or_else(PoisonError::into_inner) = Room { until: Some(until), taken };
        Ok(fits(taken))
    }

    async fn put_in_some(&self, tx: &mut PgConnection, probes: &[Probe], texts: Vec<&str>) -> Result<(usize, usize)> {
        let of = |number: fn(&Probe) -> i64| probes.iter().map(number).collect::<Vec<i64>>();
        let (shards, timeout) = (self.postgres.shards(), |probe: &Probe| probe.service.settings.timeout.get());
        let row = sql(PUT_IN)
            .bind(of(|probe| probe.id.service.as_i64()))
            .bind(of(|probe| probe.id.slot.as_millis()))
            .bind(of(|probe| probe.start_by.as_micros()))
            .bind(probes.iter().map(|probe| probe.claim.map(|claim| rows::number(claim.epoch.0))).collect::<Vec<_>>())
            .bind(probes.iter().map(|p| i32::try_from(timeout(p).as_millis()).unwrap_or(i32::MAX)).collect::<Vec<_>>())
            .bind(probes.iter().map(|probe| probe.service.epoch.0.cast_signed()).collect::<Vec<_>>())
            .bind(probes.iter().map(|p| shards.shard_of(p.id.service).0.cast_signed()).collect::<Vec<_>>())
            .bind(probes.iter().map(|p| p.claim.map(|claim| claim.shard.0.cast_signed())).collect::<Vec<_>>())
            .bind(probes.iter().map(|probe| probe.id.kind.code()).collect::<Vec<_>>())
            .bind(probes.iter().map(|probe| probe.id.region.as_str()).collect::<Vec<_>>())
            .bind(texts)
            .fetch_one(tx)
            .await
            .map_err(from_sqlx)?;
        Ok((count(&row, 0)?, count(&row, 1)?))
    }

    /// Hands out at most `max` probes of this node's regions, those first that expire first.
    pub(super) async fn take(&self, max: usize) -> Result<Vec<Delivery>> {
        let (mut taken, max) = (Vec::new(), max.min(MOST));
        let mut tx = self.postgres.begin_queueing().await?;
        for (number, region) in self.regions.iter().enumerate() {
            if taken.len() < max {
                let rows = self.lease(&mut tx, region, max - taken.len()).await?;
                taken.extend(rows.iter().filter_map(|row| self.delivery(row, number, region)));
            }
        }
        tx.commit().await.map_err(from_sqlx)?;
        Ok(taken)
    }

    async fn lease(&self, tx: &mut PgConnection, region: &Region, max: usize) -> Result<Vec<PgRow>> {
        let text = format!(
            "UPDATE queued_probes SET leased = true, deliveries = deliveries + 1, \
             look_at = {NOW} + timeout * 1000::bigint + $3 WHERE ctid = ANY (ARRAY(SELECT ctid FROM queued_probes \
             WHERE NOT leased AND region = $1 AND start_by >= {NOW} ORDER BY start_by LIMIT $2 FOR UPDATE SKIP LOCKED)) \
             RETURNING service_id, slot, start_by, claim_epoch, claim_shard, kind, deliveries, service"
        );
        sql(AssertSqlSafe(text))
            .bind(region.as_str())
            .bind(at_most(max))
            .bind(i64::try_from(self.limits.lease_margin.as_micros()).unwrap_or(i64::MAX / 2))
            .fetch_all(tx)
            .await
            .map_err(from_sqlx)
    }

    /// The probe of a row. One that cannot be read, of a newer build perhaps, is left to others,
    /// and becomes poison in the end.
    fn delivery(&self, row: &PgRow, number: usize, region: &Region) -> Option<Delivery> {
        let read = || -> Result<Delivery> {
            let long = |i: usize| row.try_get::<i64, _>(i).map_err(from_sqlx);
            let short = |i: usize| row.try_get::<i16, _>(i).map_err(from_sqlx);
            let (service, slot, kind) = (rows::service_id(long(0)?)?, Slot::from_millis(long(1)?), short(5)?);
            let epoch: Option<i64> = row.try_get(3).map_err(from_sqlx)?;
            let shard: Option<i16> = row.try_get(4).map_err(from_sqlx)?;
            let claim = epoch.zip(shard).map(|(epoch, shard)| Claim {
                shard: Shard(shard.cast_unsigned()),
                epoch: ClaimEpoch(rows::counter(epoch)),
            });
            let id = ProbeId {
                service,
                slot,
                region: region.clone(),
                kind: Kind::from_code(kind.into()).ok_or_else(|| bad_row(format_args!("kind {kind}")))?,
            };
            let settings = services::read(&self.services, service, row.try_get(7).map_err(from_sqlx)?)?;
            let probe = Probe { id, service: settings, start_by: Timestamp::from_micros(long(2)?), claim };
            let delivery = u32::try_from(short(6)?).map_err(bad_row)?;
            // Only for telling hand-outs apart: a probe is found by what it is.
            let stream = u32::try_from(number << 16).unwrap_or(0) | u32::from(kind.cast_unsigned()) << 8 | delivery;
            let receipt = Receipt { stream, id: (service.get(), slot.as_millis().cast_unsigned()) };
            Ok(Delivery { probe, delivery, receipt })
        };
        read().inspect_err(|error| tracing::error!(%error, "a probe cannot be read and is left to other nodes")).ok()
    }

    /// Brings back what workers dropped, and turns what came too late or was dropped too often into
    /// results.
    pub(super) async fn sweep(&self) -> Result<Swept> {
        let text = format!(
            "WITH late AS MATERIALIZED (SELECT ctid AS place, leased AND deliveries < $2 AND start_by >= {NOW} AS back \
             FROM queued_probes WHERE look_at < {NOW} ORDER BY look_at LIMIT $1 \
             FOR UPDATE SKIP LOCKED), \
             back AS (UPDATE queued_probes SET leased = false, look_at = start_by \
             WHERE ctid = ANY (ARRAY(SELECT place FROM late WHERE back)) RETURNING 1), \
             gone AS (DELETE FROM queued_probes WHERE ctid = ANY (ARRAY(SELECT place FROM late WHERE NOT back)) \
             RETURNING *), \
             given_up AS (INSERT INTO queued_results (shard, kind, epoch, service_id, slot, delay, latency, region, outcome, \
             reason, detail) SELECT shard, kind, epoch, service_id, slot, {NOW} - slot * 1000, 0, region, \
             CASE WHEN poison THEN $3 ELSE $5 END, CASE WHEN poison THEN $4 ELSE $6 END, CASE WHEN poison \
             THEN 'handed out ' || deliveries || ' times and never completed' \
             ELSE 'no worker began it by its start-by' END \
             FROM (SELECT *, leased AND deliveries >= $2 AS poison FROM gone) g ORDER BY slot) \
             SELECT (SELECT count(*) FROM late), (SELECT count(*) FROM late WHERE back)"
        );
        let (poison, expired) = (reason(IndeterminateReason::Poison), reason(IndeterminateReason::Expired));
        let mut tx = self.postgres.begin_queueing().await?;
        let row = sql(AssertSqlSafe(text))
            .bind(at_most(MOST))
            .bind(i16::try_from(MAX_DELIVERIES).unwrap_or(i16::MAX))
            .bind(poison.0)
            .bind(poison.1)
            .bind(expired.0)
            .bind(expired.1)
            .fetch_one(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        Ok(Swept { late: count(&row, 0)?, back: count(&row, 1)? })
    }
}
