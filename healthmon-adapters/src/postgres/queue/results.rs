//! Results: stored, handed to the recorder that has their shard, and forgotten when they are recorded.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use healthmon_core::{
    ports::{Completion, ConsumerId, Receipt, ResultDelivery, StoreError},
    probe::{ProbeResult, printable},
};
use sqlx::{PgConnection, Row, postgres::PgRow};
use tokio::time::Instant;

use super::{
    super::{connect::sql, error::from_sqlx, results::ResultColumns, rows},
    MOST, PostgresProbeQueue, at_most,
};

type Result<T> = std::result::Result<T, StoreError>;

/// How often one who could have more shards looks for free ones.
const CLAIM_PERIOD: Duration = Duration::from_millis(200);

/// Stores results in the order in which they are given, and deletes their probes.
const STORE: &str = "WITH done AS (SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], \
     $5::bigint[], $6::integer[], $7::integer[], $8::integer[], $9::integer[], $10::integer[], $11::integer[], \
     $12::smallint[], $13::smallint[], $14::smallint[], $15::smallint[], $16::smallint[], $17::text[], $18::text[]) \
     WITH ORDINALITY d (service_id, slot, delay, applied, certificate, latency, epoch, dns, connect, tls, first_byte, \
     shard, kind, outcome, reason, code, detail, region, place)), \
     gone AS (DELETE FROM queued_probes p USING done d WHERE p.service_id = d.service_id AND p.slot = d.slot \
     AND p.region = d.region AND p.kind = d.kind) \
     INSERT INTO queued_results (shard, kind, epoch, service_id, slot, delay, certificate, latency, dns, connect, tls, \
     first_byte, outcome, reason, code, region, detail) SELECT shard, kind, epoch, service_id, slot, delay, certificate, \
     latency, dns, connect, tls, first_byte, outcome, reason, code, region, detail FROM done ORDER BY place";

/// The results of the shards $1, each under the claim $2, which $3 has and was not given ($4 are the
/// numbers of those that it was given), at most $5, in the order of the shards.
///
/// The columns are those that [`rows::result`] reads, and two more.
const READ: &str = "SELECT r.service_id, r.slot, r.delay, NULL::bigint, r.certificate, r.latency, \
     r.epoch, r.dns, r.connect, r.tls, r.first_byte, r.region, r.kind, r.outcome, r.reason, r.code, r.detail, \
     r.shard, r.number FROM (SELECT h.shard FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY h (shard, claim, place) \
     JOIN queue_drains d ON d.shard = h.shard AND d.claim = h.claim AND d.consumer = $3 ORDER BY h.place OFFSET 0) d, \
     LATERAL (SELECT * FROM queued_results q WHERE q.shard = d.shard AND q.number <> ALL ($4::bigint[]) \
     ORDER BY q.number LIMIT $5) r LIMIT $5";

/// What each recorder of this process has, and was given.
#[derive(Default)]
pub(super) struct Drains(Mutex<HashMap<ConsumerId, Drain>>);

impl Drains {
    fn lock(&self) -> MutexGuard<'_, HashMap<ConsumerId, Drain>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shards that are a recorder's, each under the number of its claim.
type Claims = BTreeMap<i16, i64>;

#[derive(Default, Clone)]
struct Drain {
    claims: Claims,
    /// The numbers of what it was given and has not acknowledged, by shard.
    handed: BTreeMap<i16, BTreeSet<i64>>,
    /// When its lease was last renewed.
    renewed: Option<Instant>,
    /// The shard to begin with.
    first: i16,
}

impl Drain {
    /// What it has now. What it was given of a shard that it lost meanwhile is another's to have,
    /// and its own again if the shard comes back.
    fn has(&mut self, claims: Claims, renewed: Instant) {
        self.handed.retain(|shard, _| claims.get(shard).is_some_and(|claim| self.claims.get(shard) == Some(claim)));
        (self.claims, self.renewed) = (claims, Some(renewed));
    }
}

/// Where a result lies. The service is part of it because numbers may be given anew, when a standby
/// takes over that had not heard of the last ones.
#[derive(Clone, Copy)]
struct Place {
    shard: i16,
    number: i64,
    service: i64,
}

impl Place {
    fn of(receipt: &Receipt) -> Option<Self> {
        let (service, number) = receipt.id;
        let (number, service) = (i64::try_from(number).ok()?, i64::try_from(service).ok()?);
        Some(Self { shard: i16::try_from(receipt.stream).ok()?, number, service })
    }

    fn receipt(self) -> Receipt {
        let id = (self.service.cast_unsigned(), self.number.cast_unsigned());
        Receipt { stream: u32::from(self.shard.cast_unsigned()), id }
    }
}

/// PostgreSQL's texts know no NUL; nothing that probes is to hold up others' results by one.
fn storable(result: &ProbeResult) -> Cow<'_, ProbeResult> {
    match &result.seen.detail {
        Some(detail) if detail.contains('\0') => {
            let mut result = result.clone();
            result.seen.detail = Some(printable(detail));
            Cow::Owned(result)
        }
        _ => Cow::Borrowed(result),
    }
}

impl PostgresProbeQueue {
    /// Makes the row of every shard that has none yet.
    pub(super) async fn prepare_drains(&self) -> Result<()> {
        let mut tx = self.postgres.begin_queueing().await?;
        sql("INSERT INTO queue_drains (shard) SELECT generate_series(0, $1 - 1)::smallint \
             EXCEPT SELECT shard FROM queue_drains ON CONFLICT DO NOTHING")
        .bind(i32::from(self.postgres.shards().get()))
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)
    }

    pub(super) async fn store(&self, completions: Vec<Completion>) -> Result<()> {
        let mut tx = self.postgres.begin_queueing().await?;
        for completions in completions.chunks(MOST) {
            let (mut columns, mut regions) = (ResultColumns::default(), Vec::with_capacity(completions.len()));
            for Completion { result, .. } in completions {
                let shard = self.postgres.shards().shard_of(result.id.service);
                columns.push(&storable(result), shard.0.cast_signed(), None);
                regions.push(result.id.region.as_str());
            }
            columns.bind_to(sql(STORE)).bind(regions).execute(&mut *tx).await.map_err(from_sqlx)?;
        }
        tx.commit().await.map_err(from_sqlx)
    }

    pub(super) async fn take_results(&self, consumer: &ConsumerId, max: usize) -> Result<Vec<ResultDelivery>> {
        let mut drain = self.drains.lock().get(consumer).cloned().unwrap_or_default();
        let share = self.limits.drain_lease * 3 / 10;
        let every = if drain.claims.len() < usize::from(self.postgres.shards().get()) {
            share.min(CLAIM_PERIOD)
        } else {
            share
        };
        if drain.renewed.is_none_or(|renewed| renewed.elapsed() >= every) {
            let began = Instant::now();
            let claims = self.renew(consumer, &drain).await?;
            drain.has(claims, began);
            self.drains.lock().insert(consumer.clone(), drain.clone());
        }
        if drain.claims.is_empty() {
            return Ok(Vec::new());
        }
        let (shards, claims): (Vec<i16>, Vec<i64>) =
            drain.claims.range(drain.first..).chain(drain.claims.range(..drain.first)).unzip();
        let handed: Vec<i64> = drain.handed.values().flatten().copied().collect();
        let mut tx = self.postgres.begin_queueing().await?;
        let rows = sql(READ)
            .bind(shards)
            .bind(claims)
            .bind(&*consumer.0)
            .bind(handed)
            .bind(at_most(max.min(MOST)))
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let (taken, unreadable) = read(&rows)?;
        if !unreadable.is_empty() {
            delete(&mut tx, &unreadable).await?;
        }
        tx.commit().await.map_err(from_sqlx)?;
        // No await from here to the caller: a call that is dropped before leaves all as it was.
        let mut drains = self.drains.lock();
        let drain = drains.entry(consumer.clone()).or_default();
        for Place { shard, number, .. } in taken.iter().filter_map(|taken| Place::of(&taken.receipt)) {
            drain.handed.entry(shard).or_default().insert(number);
            drain.first = shard.saturating_add(1);
        }
        Ok(taken)
    }

    /// Says that this recorder is there, and evens out the shares: what is free is taken, and what
    /// is beyond the share is given up once nothing of it is in hand. Returns what it has now.
    ///
    /// A newcomer counts when it has been there for as long as a lease.
    async fn renew(&self, consumer: &ConsumerId, drain: &Drain) -> Result<Claims> {
        let (name, lease) = (&*consumer.0, self.limits.drain_lease);
        // What a crash takes of this is no worse than a lease that ran out.
        let mut tx = self.postgres.begin_forgetting().await?;
        let row = sql("WITH here AS (INSERT INTO queue_consumers AS c VALUES ($1, clock_timestamp(), clock_timestamp() + $2) \
             ON CONFLICT (name) DO UPDATE SET seen_until = excluded.seen_until, \
             joined_at = CASE WHEN c.seen_until < excluded.joined_at THEN excluded.joined_at ELSE c.joined_at END), \
             gone AS (DELETE FROM queue_consumers WHERE seen_until < clock_timestamp() - interval '1 hour' AND name <> $1) \
             SELECT (SELECT count(*) FROM queue_consumers WHERE name <> $1 AND seen_until > clock_timestamp() \
             AND joined_at <= clock_timestamp() - $2), (SELECT count(*) FROM queue_drains WHERE consumer = $1 AND shard < $3)")
        .bind(name)
        .bind(lease)
        .bind(self.postgres.shards().get().cast_signed())
        .fetch_one(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        let (others, has): (i64, i64) = (row.try_get(0).map_err(from_sqlx)?, row.try_get(1).map_err(from_sqlx)?);
        let share = (i64::from(self.postgres.shards().get()) + others) / (others + 1);
        if has > share {
            let in_hand: Vec<i16> = drain.handed.keys().copied().collect();
            sql("UPDATE queue_drains SET consumer = NULL WHERE shard IN (SELECT shard FROM queue_drains \
                 WHERE consumer = $1 AND shard <> ALL ($2) ORDER BY shard DESC LIMIT $3 FOR UPDATE SKIP LOCKED)")
            .bind(name)
            .bind(in_hand)
            .bind(has - share)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        } else if has < share {
            sql("UPDATE queue_drains SET consumer = $1, claim = claim + 1 WHERE shard IN (SELECT shard \
                 FROM queue_drains d WHERE shard < $2 AND d.consumer IS DISTINCT FROM $1 AND NOT EXISTS (SELECT 1 \
                 FROM queue_consumers c WHERE c.name = d.consumer AND c.seen_until > clock_timestamp()) \
                 ORDER BY shard LIMIT $3 FOR UPDATE SKIP LOCKED)")
            .bind(name)
            .bind(self.postgres.shards().get().cast_signed())
            .bind(share - has)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        }
        let rows =
            sql("SELECT shard, claim FROM queue_drains WHERE consumer = $1").bind(name).fetch_all(&mut *tx).await;
        let rows = rows.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let claim = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(claim).collect::<sqlx::Result<_>>().map_err(from_sqlx)
    }

    pub(super) async fn forget(&self, consumer: &ConsumerId, receipts: &[Receipt]) -> Result<()> {
        let places: Vec<_> = receipts.iter().filter_map(Place::of).collect();
        if places.is_empty() {
            return Ok(());
        }
        // What a crash takes of this comes again, and the store knows it.
        let mut tx = self.postgres.begin_forgetting().await?;
        delete(&mut tx, &places).await?;
        tx.commit().await.map_err(from_sqlx)?;
        if let Some(drain) = self.drains.lock().get_mut(consumer) {
            for Place { shard, number, .. } in places {
                if let Some(handed) = drain.handed.get_mut(&shard) {
                    handed.remove(&number);
                }
            }
            drain.handed.retain(|_, handed| !handed.is_empty());
        }
        Ok(())
    }

    /// Gives up all that a recorder has.
    pub(super) async fn leave(&self, consumer: &ConsumerId) -> Result<()> {
        self.drains.lock().remove(consumer);
        let mut tx = self.postgres.begin_queueing().await?;
        sql("WITH gone AS (DELETE FROM queue_consumers WHERE name = $1) \
             UPDATE queue_drains SET consumer = NULL WHERE shard IN (SELECT shard FROM queue_drains \
             WHERE consumer = $1 ORDER BY shard FOR UPDATE)")
        .bind(&*consumer.0)
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)
    }
}

/// The results of rows, and the places of those that cannot be understood: they would hold up all
/// that comes after them.
fn read(rows: &[PgRow]) -> Result<(Vec<ResultDelivery>, Vec<Place>)> {
    let (mut taken, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let place = || {
            let (shard, number, service) = (row.try_get(17)?, row.try_get(18)?, row.try_get(0)?);
            Ok(Place { shard, number, service })
        };
        let place = place().map_err(from_sqlx)?;
        match rows::result(row) {
            Ok(stored) => taken.push(ResultDelivery { result: stored.result, receipt: place.receipt() }),
            Err(error) => {
                let Place { shard, number, service } = place;
                tracing::error!(%error, service, shard, number, "a result was dropped");
                unreadable.push(place);
            }
        }
    }
    Ok((taken, unreadable))
}

async fn delete(tx: &mut PgConnection, places: &[Place]) -> Result<()> {
    sql("DELETE FROM queued_results q USING unnest($1::smallint[], $2::bigint[], $3::bigint[]) \
         u (shard, number, service_id) \
         WHERE q.shard = u.shard AND q.number = u.number AND q.service_id = u.service_id")
    .bind(places.iter().map(|place| place.shard).collect::<Vec<_>>())
    .bind(places.iter().map(|place| place.number).collect::<Vec<_>>())
    .bind(places.iter().map(|place| place.service).collect::<Vec<_>>())
    .execute(tx)
    .await
    .map_err(from_sqlx)?;
    Ok(())
}
