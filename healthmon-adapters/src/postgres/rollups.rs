//! The sums of whole hours: made by the sweep, once no more results of an hour are to be expected, and
//! made again when some came after all.
//!
//! # Why no result is missed
//!
//! The record transaction notes each result that comes [`LATE`] or more after the end of its hour. An
//! hour is summed no earlier than [`CLOSED`] after its end, and not while any transaction still
//! writes that began before its results were late: so what is not in a sum was noted, or is seen by it.
//! A note is locked by whoever makes or repeats it until its results are there; who sums an hour again
//! takes the notes that are not locked, and sees what they stand for.
//!
//! Nodes take turns, a piece at a time. That two of them sum the same does no harm.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use healthmon_core::{ports::StoreError, probe::Kind, summary::Histogram, time::Timestamp};
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{PostgresResultStore, connect::sql, error::from_sqlx, partitions::Partitions, rows};
use crate::sums::bucket_sql;

type Result<T> = std::result::Result<T, StoreError>;

/// How long after the end of its hour a result is late.
const LATE: Duration = Duration::from_mins(10);
/// How long after its end an hour is summed. More than any record transaction takes.
const CLOSED: Duration = Duration::from_mins(15);
/// How long a sweep may be at it.
const BUDGET: Duration = Duration::from_millis(1_500);
/// How long one transaction should take.
const PIECE: Duration = Duration::from_millis(250);
/// How long it rests when there is nothing left to do.
const REST: Duration = Duration::from_secs(30);
/// How many results are looked through for the first of all.
const FEW: i64 = 10_000;
/// How many services, or late hours, are summed in one transaction at most.
const MOST: usize = 2_000;
/// How wide a partition is.
const WIDTH_HOURS: i64 = 30 * 24;
pub(super) const HOUR_MS: i64 = 3_600_000;

/// The hour that a millisecond is in.
pub(super) const fn hour_of(millis: i64) -> i64 {
    millis.div_euclid(HOUR_MS)
}

/// What a node knows of the sums.
#[derive(Debug)]
pub(super) struct Rollups {
    pub(super) partitions: Partitions,
    /// Hours before this one are known to be summed.
    done: AtomicI64,
    pace: Mutex<Pace>,
}

#[derive(Debug)]
struct Pace {
    /// It rests until then.
    until: Option<Instant>,
    /// How many are summed in one transaction.
    piece: usize,
}

impl Default for Rollups {
    fn default() -> Self {
        let pace = Mutex::new(Pace { until: None, piece: 50 });
        Self { partitions: Partitions::of_rollups(WIDTH_HOURS), done: AtomicI64::new(i64::MIN), pace }
    }
}

/// Hours of services whose results came late.
#[derive(Default)]
pub(super) struct Late(BTreeSet<(i64, i64)>);

impl Late {
    /// Notes them, or locks the notes that are there.
    pub(super) async fn insert(self, tx: &mut PgConnection) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let (services, hours): (Vec<i64>, Vec<i32>) = self.0.into_iter().map(|(id, hour)| (id, number(hour))).unzip();
        sql("INSERT INTO rollup_late (service_id, hour) SELECT * FROM UNNEST($1::bigint[], $2::integer[]) \
             ON CONFLICT (service_id, hour) DO UPDATE SET hour = excluded.hour")
        .bind(services)
        .bind(hours)
        .execute(tx)
        .await
        .map_err(from_sqlx)?;
        Ok(())
    }
}

/// An hour as the database has it.
pub(super) fn number(hour: i64) -> i32 {
    i32::try_from(hour).unwrap_or(if hour < 0 { i32::MIN } else { i32::MAX })
}

/// What a step came to.
#[derive(PartialEq, Eq)]
enum Step {
    /// So many were summed, and there is more.
    More(usize),
    /// There is nothing left for now.
    Done,
}

impl Rollups {
    /// Which of these results, by service and slot in milliseconds, are late at `now`.
    pub(super) fn late(&self, places: impl Iterator<Item = (i64, i64)>, now: Timestamp) -> Late {
        let before = hour_of(now.before(LATE).as_millis()).max(self.done.load(Ordering::Relaxed));
        let end = before.saturating_mul(HOUR_MS);
        Late(places.filter(|(_, slot)| *slot < end).map(|(id, slot)| (id, hour_of(slot))).collect())
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to be looked for something to do; if so, who else asks need not for now.
    fn is_due(&self) -> bool {
        let (mut pace, now) = (self.pace(), Instant::now());
        let due = pace.until.is_none_or(|until| until <= now);
        if due {
            pace.until = Some(now + REST);
        }
        due
    }

    /// Learns from how long a piece took.
    fn took(&self, count: usize, took: Duration) {
        let mut pace = self.pace();
        if count == pace.piece {
            let fits = PIECE.as_secs_f64() / took.as_secs_f64().max(1e-6);
            // It grows step by step: the next services may be busier ones.
            pace.piece = ((count as f64 * fits.clamp(0.1, 2.0)) as usize).clamp(1, MOST);
        }
    }
}

impl PostgresResultStore {
    /// Sums hours that are over, for a while.
    pub(super) async fn roll_up(&self, now: Timestamp) {
        if !self.rollups.is_due() {
            return;
        }
        let end = Instant::now() + BUDGET;
        let mut late_is_done = false;
        loop {
            let (begun, piece) = (Instant::now(), self.rollups.pace().piece);
            let step = if late_is_done { self.roll_next(now, piece).await } else { self.roll_late(now, piece).await };
            match step {
                Ok(Step::Done) if late_is_done => return,
                Ok(Step::Done) => late_is_done = true,
                Ok(Step::More(count)) => self.rollups.took(count, begun.elapsed()),
                Err(error) => {
                    // Sums are made when they can be; until then results are added up when asked for.
                    tracing::warn!(%error, "hours could not be summed");
                    self.rollups.pace().piece = (piece / 4).max(1);
                    return;
                }
            }
            if Instant::now() >= end {
                self.rollups.pace().until = None;
                return;
            }
        }
    }

    /// Sums the next services of the oldest hour that is not done.
    async fn roll_next(&self, now: Timestamp, piece: usize) -> Result<Step> {
        let mut tx = self.postgres.begin_summing().await?;
        let oldest = self.partitions.oldest(&mut tx).await?.map_or(i64::MAX, hour_of);
        let newest = hour_of(now.before(CLOSED).as_millis());
        // It begins with the first hour that has results, if those are few: what comes later for an
        // earlier one is late. To look through many takes longer than a statement may, so that a
        // database of before there were sums begins where its partitions do.
        sql("INSERT INTO rollup_progress (hour, service_id) \
             SELECT least($1, CASE WHEN count(*) < $4 THEN coalesce(min(slot) / $2, $1) ELSE $3 END)::integer, 0 \
             FROM (SELECT slot FROM results LIMIT $4) r \
             WHERE NOT EXISTS (SELECT FROM rollup_progress) HAVING NOT EXISTS (SELECT FROM rollup_progress) \
             ON CONFLICT DO NOTHING")
        .bind(i64::from(number(newest)))
        .bind(HOUR_MS)
        .bind(oldest.min(newest))
        .bind(FEW)
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        // Whoever holds it is at it.
        let progress = sql("SELECT hour, service_id FROM rollup_progress FOR UPDATE SKIP LOCKED")
            .fetch_optional(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let Some(progress) = progress else { return Ok(Step::Done) };
        let (mut hour, mut after): (i64, i64) =
            (progress.try_get::<i32, _>(0).map_err(from_sqlx)?.into(), progress.try_get(1).map_err(from_sqlx)?);
        self.rollups.done.fetch_max(hour, Ordering::Relaxed);
        if hour < oldest.min(newest) {
            (hour, after) = (oldest.min(newest), 0);
        }
        if hour >= newest || self.is_being_written(&mut tx, hour).await? {
            tx.commit().await.map_err(from_sqlx)?;
            return Ok(Step::Done);
        }
        if !self.rollups.partitions.knows(hour) {
            // Not within this transaction: another connection might not be had.
            tx.rollback().await.map_err(from_sqlx)?;
            self.rollups.partitions.ensure(&self.postgres, std::iter::once(hour)).await?;
            return Ok(Step::More(0));
        }
        let services = sql("SELECT id FROM services WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after)
            .bind(rows::number(piece as u64))
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        let ids: Vec<i64> =
            services.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>().map_err(from_sqlx)?;
        let next = match ids.last() {
            Some(last) if ids.len() == piece => (hour, *last),
            _ => (hour + 1, 0),
        };
        let hours = vec![hour; ids.len()];
        sum_hours(&mut tx, &ids, &hours).await?;
        sql("UPDATE rollup_progress SET hour = $1, service_id = $2")
            .bind(number(next.0))
            .bind(next.1)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        self.rollups.done.fetch_max(next.0, Ordering::Relaxed);
        Ok(Step::More(ids.len()))
    }

    /// Whether a transaction writes that began when results of this hour were not late yet.
    async fn is_being_written(&self, tx: &mut PgConnection, hour: i64) -> Result<bool> {
        let row = sql("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_xid IS NOT NULL \
             AND backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid() \
             AND extract(epoch FROM xact_start) * 1000 < $1")
        .bind((hour + 1) * HOUR_MS + i64::try_from(LATE.as_millis()).unwrap_or(i64::MAX))
        .fetch_one(tx)
        .await
        .map_err(from_sqlx)?;
        row.try_get(0).map_err(from_sqlx)
    }

    /// Sums hours again that results came late for.
    async fn roll_late(&self, now: Timestamp, piece: usize) -> Result<Step> {
        let mut tx = self.postgres.begin_summing().await?;
        // Those of hours that are not done yet wait until they are.
        let taken =
            sql("DELETE FROM rollup_late WHERE (service_id, hour) IN (SELECT service_id, hour FROM rollup_late \
             WHERE hour < (SELECT hour FROM rollup_progress) LIMIT $1 FOR UPDATE SKIP LOCKED) \
             RETURNING service_id, hour")
            .bind(rows::number(piece as u64))
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        if taken.is_empty() {
            tx.commit().await.map_err(from_sqlx)?;
            return Ok(Step::Done);
        }
        // An hour whose results are going cannot be summed again: what was summed of it stays.
        let whole = now.before(self.postgres.options().retention).as_millis();
        let (mut ids, mut hours) = (Vec::new(), Vec::new());
        for row in &taken {
            let hour = i64::from(row.try_get::<i32, _>(1).map_err(from_sqlx)?);
            if hour * HOUR_MS >= whole {
                ids.push(row.try_get::<i64, _>(0).map_err(from_sqlx)?);
                hours.push(hour);
            }
        }
        if !hours.iter().all(|hour| self.rollups.partitions.knows(*hour)) {
            tx.rollback().await.map_err(from_sqlx)?;
            self.rollups.partitions.ensure(&self.postgres, hours.into_iter()).await?;
            return Ok(Step::More(0));
        }
        sum_hours(&mut tx, &ids, &hours).await?;
        tx.commit().await.map_err(from_sqlx)?;
        Ok(Step::More(taken.len()))
    }
}

/// Sums these hours of these services from their results, and puts the sums in the place of those
/// that are there.
async fn sum_hours(tx: &mut PgConnection, services: &[i64], hours: &[i64]) -> Result<()> {
    let (Some(first), Some(last)) = (hours.iter().min(), hours.iter().max()) else { return Ok(()) };
    // The outer bounds let the planner leave partitions out; the inner ones are each hour's.
    let insert = format!(
        "INSERT INTO rollups (service_id, hour, newest, pass, slow, fail, indeterminate, region_id, latency) \
         SELECT k.service_id, k.hour, s.newest - k.hour::bigint * {HOUR_MS}, s.pass, s.slow, s.fail, s.indeterminate, \
         s.region_id, s.latency FROM UNNEST($1::bigint[], $2::integer[]) AS k (service_id, hour) CROSS JOIN LATERAL (\
             SELECT region_id, max(newest) AS newest, \
             coalesce(sum(count) FILTER (WHERE outcome = 0), 0) AS pass, \
             coalesce(sum(count) FILTER (WHERE outcome = 1), 0) AS slow, \
             coalesce(sum(count) FILTER (WHERE outcome IN (2, 3)), 0) AS fail, \
             coalesce(sum(count) FILTER (WHERE outcome = 4), 0) AS indeterminate, \
             '\\x{:02x}'::bytea || coalesce(string_agg(CASE WHEN count <= {short} \
                 THEN int2send((count * {unit} + bucket)::smallint) \
                 ELSE int2send(bucket::smallint) || int4send(count::integer) END, ''::bytea ORDER BY bucket) \
                 FILTER (WHERE outcome <= 1), ''::bytea) AS latency \
             FROM ({GROUPS} WHERE service_id = k.service_id AND kind = {scheduled} \
                 AND slot >= k.hour::bigint * {HOUR_MS} AND slot < (k.hour::bigint + 1) * {HOUR_MS} \
                 AND slot >= $3 AND slot < $4 GROUP BY 1, 2, 3) g GROUP BY region_id) s \
         ON CONFLICT (service_id, hour, region_id) DO UPDATE SET newest = excluded.newest, pass = excluded.pass, \
         slow = excluded.slow, fail = excluded.fail, indeterminate = excluded.indeterminate, latency = excluded.latency",
        Histogram::VERSION,
        short = Histogram::SHORT,
        unit = Histogram::UNIT,
        scheduled = Kind::Scheduled.code(),
        GROUPS = groups(),
    );
    sql(AssertSqlSafe(insert))
        .bind(services)
        .bind(hours.iter().map(|hour| number(*hour)).collect::<Vec<i32>>())
        .bind(first * HOUR_MS)
        .bind((last + 1) * HOUR_MS)
        .execute(tx)
        .await
        .map_err(from_sqlx)?;
    Ok(())
}

/// Results by region, outcome and bucket of latency: what a sum is made of. Failures have no bucket: how
/// long they took is not summed. A condition and `GROUP BY 1, 2, 3` are to follow.
pub(super) fn groups() -> String {
    format!(
        "SELECT region_id, outcome, CASE WHEN outcome <= 1 THEN {} ELSE 0 END AS bucket, count(*) AS count, \
         max(slot) AS newest FROM results",
        bucket_sql("latency")
    )
}
