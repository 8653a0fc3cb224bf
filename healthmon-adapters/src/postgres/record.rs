//! The record transaction: the one place where correctness is enforced.

use std::collections::{BTreeMap, HashMap, btree_map::Entry};

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
use sqlx::{PgConnection, Row};

use super::{
    PostgresResultStore,
    connect::sql,
    error::{from_sqlx, is_without_partition, outdated, unless_bad},
    head::append,
    regions::Numbers,
    results::ResultColumns,
    rows,
    states::{Kept, Opened, ReadState, StateColumns, Version, look_at, services},
};

type Result<T> = std::result::Result<T, StoreError>;

type Batch = BTreeMap<ServiceId, BTreeMap<ResultKey, ProbeResult>>;

/// A result's key as the database has it, and the number that it has if it voted.
type Stored = HashMap<Place, Option<Applied>>;

/// How often it is tried without locks, before it is done with them.
const LOOKS: usize = 2;

/// What a transaction is about to write.
#[derive(Default)]
struct Draft {
    results: ResultColumns,
    states: StateColumns,
    /// Of the states, if they are not locked.
    versions: Vec<Version>,
    /// The states, as this node is to remember them.
    written: Vec<(ServiceId, ReadState)>,
    entries: Vec<LogEntry>,
    /// Results that are there already and voted: their entries are looked for.
    repeated: Vec<(ServiceId, Applied)>,
    recorded: Recorded,
}

impl PostgresResultStore {
    pub(super) async fn record_now(&self, results: Vec<ProbeResult>) -> Result<Recorded> {
        let (mut batch, repeated) = sorted(results);
        let mut recorded = Recorded { repeated, ..Recorded::default() };
        self.prepare(&mut batch, &mut recorded).await?;
        if batch.is_empty() {
            return Ok(recorded);
        }
        let ids: Vec<i64> = batch.keys().map(|id| id.as_i64()).collect();
        // A shard's results come to one recorder, so that hardly ever anybody changes a state meanwhile.
        for _ in 0..LOOKS {
            let opened = self.look(&ids).await?;
            if let Some(recorded) = self.write(opened, batch.clone(), recorded.clone()).await? {
                return Ok(recorded);
            }
            self.remembered.forget(&ids);
        }
        let opened = self.lock(&ids).await?;
        self.write(opened, batch, recorded).await?.ok_or_else(outdated)
    }

    /// Folds the batch into the states and writes what comes of it; or nothing, if somebody else has
    /// changed one of them since it was read.
    async fn write(&self, mut opened: Opened, batch: Batch, recorded: Recorded) -> Result<Option<Recorded>> {
        let mut draft = Draft { recorded, ..Draft::default() };
        // One look at the numbers for all that follows: another server may take over meanwhile, and its
        // numbers may be others.
        let regions = self.regions.of(batch.values().flat_map(BTreeMap::keys)).ok_or_else(outdated)?;
        let stored = stored(&mut opened, &batch, &regions).await?;
        for (id, results) in batch {
            match read(opened.states.remove(&id))? {
                Ok(read) => {
                    let known = Known { regions: &regions, stored: &stored };
                    fold(id, read, results, &known, opened.now, &mut draft)?;
                }
                Err(why) => draft.recorded.set_aside.extend(results.into_values().map(|result| (result.id, why))),
            }
        }
        let Draft { results, states, versions, mut written, mut entries, repeated, mut recorded } = draft;
        let late = self.rollups.late(results.places(), opened.now);
        let tx = &mut opened.tx;
        // First of all, so that results go in only if their states are what they were judged by. It
        // locks them, in order of id.
        if let Some(writer) = opened.writer {
            if !states.update_unchanged(&versions, &mut *tx).await? {
                opened.tx.rollback().await.map_err(from_sqlx)?;
                return Ok(None);
            }
            written.iter_mut().for_each(|(_, state)| state.version = Some(Version::new(writer, &state.kept)));
        } else {
            written.clear();
            states.update(&mut *tx).await?;
        }
        match results.insert(&mut *tx).await {
            Err(error) if is_without_partition(&error) => {
                // Another node keeps results for less time.
                self.partitions.forget();
                return Err(outdated());
            }
            done => done.map_err(from_sqlx)?,
        }
        late.insert(&mut *tx).await?;
        name(tx, &mut entries).await?;
        append(tx, &mut entries).await?;
        entries.append(&mut entries_of(tx, &repeated).await?);
        opened.tx.commit().await.map_err(from_sqlx)?;
        self.remembered.keep(written);
        entries.sort_by_key(|entry| entry.seq);
        entries.dedup_by_key(|entry| entry.seq);
        self.head.saw(&entries);
        recorded.entries = entries;
        Ok(Some(recorded))
    }

    /// Sets aside what is out of time, and sees to it that the rest has regions' numbers and partitions.
    async fn prepare(&self, batch: &mut Batch, recorded: &mut Recorded) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let now = self.postgres.now().await?;
        for results in batch.values_mut() {
            results.retain(|_, result| {
                let why = self.out_of_time(&result.id, now);
                recorded.set_aside.extend(why.map(|why| (result.id.clone(), why)));
                why.is_none()
            });
        }
        batch.retain(|_, results| !results.is_empty());
        let keys = || batch.values().flat_map(BTreeMap::keys);
        self.regions.number(&self.postgres, keys()).await?;
        self.partitions.ensure(&self.postgres, keys().map(|key| key.slot.as_millis())).await
    }

    fn out_of_time(&self, id: &ProbeId, now: Timestamp) -> Option<SetAside> {
        if id.slot.time() < now.before(self.postgres.options().retention) {
            Some(SetAside::TooOld)
        } else if id.slot.time() > now.after(ResultKey::AHEAD) {
            Some(SetAside::Ahead)
        } else {
            None
        }
    }
}

/// What is the same for all services of a batch.
struct Known<'a> {
    regions: &'a Numbers,
    stored: &'a Stored,
}

type Place = (i64, i64, i16, i16);

fn place(id: &ProbeId, regions: &Numbers) -> Option<Place> {
    Some((id.service.as_i64(), id.slot.as_millis(), *regions.get(&id.region)?, id.kind.code()))
}

/// Which of these results are stored already. Only at or before the newest slot of its service
/// can one be, so that most need no look.
async fn stored(opened: &mut Opened, batch: &Batch, numbers: &Numbers) -> Result<Stored> {
    let (mut services, mut slots, mut regions, mut kinds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for result in batch.values().flat_map(BTreeMap::values) {
        let through = opened.states.get(&result.id.service).map_or(i64::MIN, |state| state.kept.stored_through);
        if let Some(place) = place(&result.id, numbers).filter(|place| place.1 <= through) {
            services.push(place.0);
            slots.push(place.1);
            regions.push(place.2);
            kinds.push(place.3);
        }
    }
    if services.is_empty() {
        return Ok(Stored::new());
    }
    // The limit keeps it to one look into the index for each, whatever the planner thinks.
    let read = sql("SELECT k.*, r.applied FROM UNNEST($1::bigint[], $2::bigint[], $3::smallint[], $4::smallint[]) \
         AS k (service_id, slot, region_id, kind) CROSS JOIN LATERAL (SELECT n.applied FROM results n \
         WHERE n.service_id = k.service_id AND n.slot = k.slot AND n.region_id = k.region_id AND n.kind = k.kind \
         LIMIT 1) r")
    .bind(services)
    .bind(slots)
    .bind(regions)
    .bind(kinds)
    .fetch_all(&mut *opened.tx)
    .await
    .map_err(from_sqlx)?;
    let stored = read.iter().map(|row| {
        let place = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        Ok((place, row.try_get::<Option<i64>, _>(4)?.map(|applied| Applied(rows::counter(applied)))))
    });
    stored.collect::<sqlx::Result<_>>().map_err(from_sqlx)
}

/// Sorts out what is stored already, and folds the rest into the service's state.
fn fold(
    id: ServiceId,
    read: Read,
    results: BTreeMap<ResultKey, ProbeResult>,
    known: &Known<'_>,
    now: Timestamp,
    draft: &mut Draft,
) -> Result<()> {
    let Read { mut state, mut kept, version } = read;
    let mut fresh = Vec::with_capacity(results.len());
    for result in results.into_values() {
        match place(&result.id, known.regions).and_then(|place| known.stored.get(&place)) {
            Some(applied) => {
                draft.recorded.repeated += 1;
                draft.repeated.extend(applied.map(|applied| (id, applied)));
            }
            None => fresh.push(result),
        }
    }
    let Some(newest) = fresh.iter().map(|result| result.id.slot).max() else { return Ok(()) };
    kept.stored_through = kept.stored_through.max(newest.as_millis());
    // Most results lead to no entry, so names are read only for those that do.
    let nameless = ServiceLabel { id, name: "".into(), group: None, tags: BTreeMap::new() };
    let mut folded = fold_results(&mut state, &nameless, now, fresh);
    if folded.entries.iter().any(|entry| matches!(entry.event, LogEvent::Transition(_))) {
        kept.since = now;
    }
    kept.look_at = look_at(&state, &kept);
    if folded.hint == Hint::ProbeSooner {
        draft.recorded.sooner.push(id);
    }
    draft.recorded.inserted += folded.results.len();
    for (result, applied) in &folded.results {
        let region = known.regions.get(&result.id.region).ok_or_else(outdated)?;
        draft.results.push(result, *region, *applied);
    }
    draft.entries.append(&mut folded.entries);
    let snapshot = state.to_snapshot();
    draft.written.push((id, ReadState { snapshot: snapshot.clone(), kept, version: None }));
    draft.states.push(id, &state, snapshot, &kept);
    draft.versions.extend(version);
    Ok(())
}

/// A state that results can be folded into.
struct Read {
    state: State<Thresholds>,
    kept: Kept,
    version: Option<Version>,
}

/// The state that a row holds, or why nothing can be recorded for its service.
fn read(row: Option<ReadState>) -> Result<std::result::Result<Read, SetAside>> {
    let Some(ReadState { snapshot, kept, version }) = row else { return Ok(Err(SetAside::NoService)) };
    // One damaged row must not hold up the others.
    Ok(match unless_bad(rows::state(&snapshot))? {
        None => Err(SetAside::Refused),
        Some(state) if state.activity() == Activity::Deleted => Err(SetAside::NoService),
        Some(state) => Ok(Read { state, kept, version }),
    })
}

/// A batch by service and place, and how many in it came twice. The first of each stays.
fn sorted(results: Vec<ProbeResult>) -> (Batch, usize) {
    let (mut batch, mut twice) = (Batch::new(), 0);
    for result in results {
        match batch.entry(result.id.service).or_default().entry(ResultKey::of(&result.id)) {
            Entry::Vacant(place) => drop(place.insert(result)),
            Entry::Occupied(_) => twice += 1,
        }
    }
    (batch, twice)
}

/// Gives entries the names that their services have now.
async fn name(tx: &mut PgConnection, entries: &mut [LogEntry]) -> Result<()> {
    let mut ids: Vec<i64> = entries.iter().map(|entry| entry.service.id.as_i64()).collect();
    ids.dedup();
    if ids.is_empty() {
        return Ok(());
    }
    let mut labels = HashMap::new();
    for service in services(tx, &ids).await? {
        if let Some(service) = unless_bad(service)? {
            labels.insert(service.id, service.label());
        }
    }
    for entry in entries {
        if let Some(label) = labels.get(&entry.service.id) {
            entry.service = label.clone();
        }
    }
    Ok(())
}

async fn entries_of(tx: &mut PgConnection, repeated: &[(ServiceId, Applied)]) -> Result<Vec<LogEntry>> {
    if repeated.is_empty() {
        return Ok(Vec::new());
    }
    let (services, applied): (Vec<i64>, Vec<i64>) =
        repeated.iter().map(|(id, applied)| (id.as_i64(), rows::number(applied.0))).unzip();
    let read = sql("SELECT l.seq, l.entry FROM UNNEST($1::bigint[], $2::bigint[]) AS k (service_id, applied) \
         JOIN log l USING (service_id, applied)")
    .bind(services)
    .bind(applied)
    .fetch_all(tx)
    .await
    .map_err(from_sqlx)?;
    read.iter().map(rows::entry).collect()
}
