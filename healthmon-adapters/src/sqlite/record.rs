//! The record transaction: the one place where correctness is enforced.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::LazyLock,
};

use healthmon_core::{
    engine::{Hint, State, Thresholds},
    id::{Applied, ServiceId},
    ports::{Recorded, ResultKey, SetAside, StoreError},
    probe::{ProbeId, ProbeResult},
    record::fold_results,
    service::Activity,
    status::{LogEntry, LogEvent, ServiceLabel},
    time::Timestamp,
};
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::{
    SqliteResultStore,
    error::{from_sqlx, unless_bad},
    rows::{self, RESULT_COLUMNS},
    store::append,
};

type Result<T> = std::result::Result<T, StoreError>;

/// Rows go in statements of these sizes, so that a handful of prepared statements serve any batch.
/// Powers of two: each statement is a message to SQLite's thread and back, so few are better.
const CHUNKS: [usize; 10] = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1];
const RESULT_WIDTH: usize = 17;
const STATE_WIDTH: usize = 8;

/// What is known of a service under the lock.
struct Locked {
    state: State<Thresholds>,
    row: StateRow,
}

/// A row of `states`, as the cache keeps it: the state as the bytes that the database has.
#[derive(Debug)]
pub(super) struct StateRow {
    snapshot: Box<[u8]>,
    since: Timestamp,
    maintenance_until: Option<i64>,
    stored_through: i64,
    patience: i64,
    look_at: i64,
}

/// What a transaction is about to write.
#[derive(Default)]
struct Draft {
    results: Vec<(ProbeResult, Option<Applied>)>,
    states: Vec<(ServiceId, Locked)>,
    entries: Vec<LogEntry>,
    /// Results that are there already and voted: their entries are looked for.
    repeated: Vec<(ServiceId, Applied)>,
    recorded: Recorded,
}

impl SqliteResultStore {
    pub(super) async fn record_now(&self, results: Vec<ProbeResult>) -> Result<Recorded> {
        let now = self.clock.now();
        let mut draft = Draft::default();
        let mut batch: BTreeMap<ServiceId, BTreeMap<ResultKey, ProbeResult>> = BTreeMap::new();
        for result in results {
            if let Some(why) = self.out_of_time(&result.id, now) {
                draft.recorded.set_aside.push((result.id, why));
                continue;
            }
            match batch.entry(result.id.service).or_default().entry(ResultKey::of(&result.id)) {
                Entry::Vacant(place) => drop(place.insert(result)),
                Entry::Occupied(_) => draft.recorded.repeated += 1,
            }
        }
        self.number_regions(&batch).await?;
        let mut tx = self.begin().await?;
        // From here on, whatever way this ends but a commit, what is cached is read anew.
        let cache = self.cache.within(&mut tx).await?;
        let mut locked = cache.take(batch.keys());
        lock(&mut tx, batch.keys(), &mut locked).await?;
        for (id, results) in batch {
            let why = match locked.remove(&id) {
                None => SetAside::NoService,
                // One damaged row must not hold up the others.
                Some(row) => match unless_bad(rows::state(&row.snapshot))? {
                    None => SetAside::Refused,
                    Some(state) if state.activity() == Activity::Deleted => SetAside::NoService,
                    Some(state) => {
                        self.fold(&mut tx, id, Locked { state, row }, results, now, &mut draft).await?;
                        continue;
                    }
                },
            };
            draft.recorded.set_aside.extend(results.into_values().map(|result| (result.id, why)));
        }
        self.write(&mut tx, &mut draft).await?;
        // Before the commit, while nobody else can have changed these rows since.
        cache.put(draft.states.into_iter().map(|(id, locked)| (id, locked.row)));
        tx.commit().await.map_err(from_sqlx)?;
        cache.keep();
        Ok(draft.recorded)
    }

    fn out_of_time(&self, id: &ProbeId, now: Timestamp) -> Option<SetAside> {
        if id.slot.time() < now.before(self.options.retention) {
            Some(SetAside::TooOld)
        } else if id.slot.time() > now.after(ResultKey::AHEAD) {
            Some(SetAside::Ahead)
        } else {
            None
        }
    }

    async fn number_regions(&self, batch: &BTreeMap<ServiceId, BTreeMap<ResultKey, ProbeResult>>) -> Result<()> {
        for key in batch.values().flat_map(BTreeMap::keys) {
            if self.regions.known_number(&key.region).is_none() {
                let mut connection = self.writer.acquire().await.map_err(from_sqlx)?;
                self.regions.give_number(&key.region, &mut connection).await?;
            }
        }
        Ok(())
    }

    /// Sorts out what is stored already, and folds the rest into the service's state.
    async fn fold(
        &self,
        tx: &mut SqliteConnection,
        id: ServiceId,
        mut locked: Locked,
        results: BTreeMap<ResultKey, ProbeResult>,
        now: Timestamp,
        draft: &mut Draft,
    ) -> Result<()> {
        let mut fresh = Vec::with_capacity(results.len());
        for (key, result) in results {
            // Only at or before this slot can anything be stored: most results need no look.
            let stored = key.slot.as_millis() <= locked.row.stored_through;
            match if stored { self.stored(tx, &result.id).await? } else { None } {
                Some(applied) => {
                    draft.recorded.repeated += 1;
                    draft.repeated.extend(applied.map(|applied| (id, applied)));
                }
                None => fresh.push(result),
            }
        }
        let Some(newest) = fresh.iter().max_by_key(|result| result.id.slot) else { return Ok(()) };
        locked.row.stored_through = locked.row.stored_through.max(newest.id.slot.as_millis());
        // Most results lead to no entry, so names are read only for those that do.
        let nameless = ServiceLabel { id, name: "".into(), group: None, tags: BTreeMap::new() };
        let mut folded = fold_results(&mut locked.state, &nameless, now, fresh);
        if !folded.entries.is_empty()
            && let Some(label) = unless_bad(label(tx, id).await)?
        {
            for entry in &mut folded.entries {
                entry.service = label.clone();
            }
        }
        if folded.entries.iter().any(|entry| matches!(entry.event, LogEvent::Transition(_))) {
            locked.row.since = now;
        }
        locked.row.look_at = look_at(&locked);
        locked.row.snapshot = locked.state.to_snapshot().into_boxed_slice();
        if folded.hint == Hint::ProbeSooner {
            draft.recorded.sooner.push(id);
        }
        draft.recorded.inserted += folded.results.len();
        draft.results.append(&mut folded.results);
        draft.entries.append(&mut folded.entries);
        draft.states.push((id, locked));
        Ok(())
    }

    /// Whether this probe's result is stored, and the number it has if it voted.
    async fn stored(&self, tx: &mut SqliteConnection, id: &ProbeId) -> Result<Option<Option<Applied>>> {
        let applied: Option<Option<i64>> = sqlx::query_scalar(
            "SELECT applied FROM results WHERE service_id = ? AND slot = ? AND region_id = ? AND kind = ?",
        )
        .bind(id.service.as_i64())
        .bind(id.slot.as_millis())
        .bind(self.regions.known_number(&id.region))
        .bind(i64::from(id.kind.code()))
        .fetch_optional(tx)
        .await
        .map_err(from_sqlx)?;
        Ok(applied.map(|applied| applied.map(|applied| Applied(rows::counter(applied)))))
    }

    async fn write(&self, tx: &mut SqliteConnection, draft: &mut Draft) -> Result<()> {
        let mut results = draft.results.as_slice();
        while let Some((now, later, sql)) = chunk(results, &RESULT_SQL) {
            let mut query = sqlx::query(AssertSqlSafe(sql.as_str()));
            for (result, applied) in now {
                let (id, seen) = (&result.id, &result.seen);
                query = query
                    .bind(id.service.as_i64())
                    .bind(id.slot.as_millis())
                    .bind(self.regions.known_number(&id.region))
                    .bind(i64::from(id.kind.code()))
                    .bind(i64::from(result.epoch.0))
                    .bind(result.started.as_micros().saturating_sub(id.slot.time().as_micros()))
                    .bind(i64::from(seen.latency_us))
                    .bind(i64::from(seen.outcome.code()))
                    .bind(seen.outcome.reason().map(|reason| i64::from(reason.code())))
                    .bind(seen.phases.dns_us.map(i64::from))
                    .bind(seen.phases.connect_us.map(i64::from))
                    .bind(seen.phases.tls_us.map(i64::from))
                    .bind(seen.phases.first_byte_us.map(i64::from))
                    .bind(seen.code.map(i64::from))
                    .bind(seen.certificate_expires.map(Timestamp::as_micros))
                    .bind(seen.detail.as_deref())
                    .bind(applied.map(|applied| rows::number(applied.0)));
            }
            query.execute(&mut *tx).await.map_err(from_sqlx)?;
            results = later;
        }
        let mut states = draft.states.as_slice();
        while let Some((now, later, sql)) = chunk(states, &STATE_SQL) {
            let mut query = sqlx::query(AssertSqlSafe(sql.as_str()));
            for (id, locked) in now {
                query = query
                    .bind(id.as_i64())
                    .bind(&*locked.row.snapshot)
                    .bind(locked.state.announced().as_str())
                    .bind(rows::overlay_bits(&locked.state))
                    .bind(locked.row.since.as_micros())
                    .bind(locked.row.stored_through)
                    .bind(locked.row.patience)
                    .bind(locked.row.look_at);
            }
            query.execute(&mut *tx).await.map_err(from_sqlx)?;
            states = later;
        }
        append(tx, &mut draft.entries).await?;
        let mut entries = std::mem::take(&mut draft.entries);
        for (id, applied) in &draft.repeated {
            entries.append(&mut entries_of(tx, *id, *applied).await?);
        }
        entries.sort_by_key(|entry| entry.seq);
        entries.dedup_by_key(|entry| entry.seq);
        draft.recorded.entries = entries;
        Ok(())
    }
}

/// When the sweep is to look at a service that has just been heard of.
fn look_at(locked: &Locked) -> i64 {
    if locked.state.activity() != Activity::Active {
        return locked.row.look_at;
    }
    let heard = locked.state.regions().iter().map(|region| region.watermark().max(region.missed_through())).min();
    let silent =
        heard.flatten().map_or(locked.row.look_at, |slot| slot.as_millis().saturating_add(locked.row.patience));
    locked.row.maintenance_until.map_or(silent, |until| silent.min(until.div_euclid(1_000)))
}

/// Reads those of `ids` that are not in `locked` yet.
async fn lock<'a>(
    tx: &mut SqliteConnection,
    ids: impl Iterator<Item = &'a ServiceId>,
    locked: &mut HashMap<ServiceId, StateRow>,
) -> Result<()> {
    let missing: Vec<_> = ids.filter(|id| !locked.contains_key(id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = rows::id_list(missing.into_iter());
    let read = sqlx::query(
        "SELECT t.service_id, t.snapshot, t.since, t.maintenance_until, t.stored_through, t.patience, t.look_at \
         FROM json_each(?) j CROSS JOIN states t ON t.service_id = j.value",
    )
    .bind(list)
    .fetch_all(tx)
    .await
    .map_err(from_sqlx)?;
    for row in &read {
        let get = |i: usize| row.try_get::<i64, _>(i).map_err(from_sqlx);
        let read = StateRow {
            snapshot: row.try_get::<&[u8], _>(1).map_err(from_sqlx)?.into(),
            since: Timestamp::from_micros(get(2)?),
            maintenance_until: row.try_get(3).map_err(from_sqlx)?,
            stored_through: get(4)?,
            patience: get(5)?,
            look_at: get(6)?,
        };
        locked.insert(rows::service_id(get(0)?)?, read);
    }
    Ok(())
}

async fn label(tx: &mut SqliteConnection, id: ServiceId) -> Result<ServiceLabel> {
    let sql = format!("SELECT {} FROM services s WHERE s.id = ?", rows::SERVICE_COLUMNS);
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.as_i64()).fetch_one(tx).await.map_err(from_sqlx)?;
    Ok(rows::service(&row)?.label())
}

async fn entries_of(tx: &mut SqliteConnection, id: ServiceId, applied: Applied) -> Result<Vec<LogEntry>> {
    let read = sqlx::query("SELECT seq, entry FROM log WHERE service_id = ? AND applied = ?")
        .bind(id.as_i64())
        .bind(rows::number(applied.0))
        .fetch_all(tx)
        .await
        .map_err(from_sqlx)?;
    read.iter().map(rows::entry).collect()
}

/// The rows of the next statement, those after it, and the statement.
fn chunk<'a, T>(rows: &'a [T], statements: &'a [String; CHUNKS.len()]) -> Option<(&'a [T], &'a [T], &'a String)> {
    let (size, sql) = CHUNKS.iter().zip(statements).find(|(size, _)| **size <= rows.len())?;
    let (now, later) = rows.split_at(*size);
    Some((now, later, sql))
}

/// A statement for each chunk size: `head`, then so many rows of so many parameters, then `tail`.
fn statements(head: &str, width: usize, tail: &str) -> [String; CHUNKS.len()] {
    let row = format!("({})", vec!["?"; width].join(","));
    CHUNKS.map(|size| format!("{head} VALUES {} {tail}", vec![row.as_str(); size].join(",")))
}

static RESULT_SQL: LazyLock<[String; CHUNKS.len()]> =
    LazyLock::new(|| statements(&format!("INSERT INTO results ({RESULT_COLUMNS})"), RESULT_WIDTH, ""));

static STATE_SQL: LazyLock<[String; CHUNKS.len()]> = LazyLock::new(|| {
    statements(
        "INSERT INTO states (service_id, snapshot, announced, overlays, since, stored_through, patience, look_at)",
        STATE_WIDTH,
        "ON CONFLICT (service_id) DO UPDATE SET snapshot = excluded.snapshot, announced = excluded.announced, \
         overlays = excluded.overlays, since = excluded.since, stored_through = excluded.stored_through, \
         look_at = excluded.look_at",
    )
});
