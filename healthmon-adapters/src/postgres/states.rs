//! The states' rows: locked in order of id, and written back many at a time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use healthmon_core::{
    engine::{State, Thresholds},
    id::ServiceId,
    ports::StoreError,
    probe::Probe,
    record::sweep,
    service::{Activity, Service},
    time::Timestamp,
};
use indexmap::IndexMap;
use sqlx::{
    PgConnection, Postgres, Row, Transaction,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    PostgresResultStore,
    connect::sql,
    error::{from_sqlx, unless_bad},
    head::Lineage,
    rows::{self, SERVICE_COLUMNS},
};

type Result<T> = std::result::Result<T, StoreError>;

/// A row of `states`, but for what the engine's state says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) since: Timestamp,
    pub(super) maintenance_until: Option<Timestamp>,
    /// No result with a later slot is stored, in milliseconds.
    pub(super) stored_through: i64,
    /// After how many milliseconds of silence the sweep looks.
    pub(super) patience: i64,
    /// The sweep need not look before, in milliseconds.
    pub(super) look_at: i64,
}

impl Kept {
    /// What is kept of a service that is new.
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { since: now, maintenance_until: None, stored_through: i64::MIN, patience: 0, look_at: 0 }
    }
}

/// A row of `states` as a transaction has read it.
#[derive(Clone)]
pub(super) struct ReadState {
    pub(super) snapshot: Vec<u8>,
    pub(super) kept: Kept,
    /// Of one that is not locked.
    pub(super) version: Option<Version>,
}

/// Tells whether a row is the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// The transaction that wrote it: `xmin`.
    writer: i64,
    /// How far its results went. A number of a transaction comes again after four billion others.
    stored_through: i64,
}

impl Version {
    pub(super) const fn new(writer: i64, kept: &Kept) -> Self {
        Self { writer, stored_through: kept.stored_through }
    }
}

/// States that a transaction has read, and has locked or not.
pub(super) struct Opened {
    pub(super) tx: Transaction<'static, Postgres>,
    /// The server's time once everything was locked, or before anything was read.
    pub(super) now: Timestamp,
    pub(super) states: BTreeMap<ServiceId, ReadState>,
    /// The number of this transaction, unless it has locked: `xmin` of what it writes.
    pub(super) writer: Option<i64>,
}

/// States as this node has last written or read them, as many as there is room for: a recorder has
/// the same services' results again and again. Whether they are so still, the update asks.
///
/// When there is no room, whatever chance points at makes some: services come round and round, and
/// to let the oldest go would keep none.
#[derive(Default)]
pub(super) struct Remembered(Mutex<IndexMap<ServiceId, ReadState>>);

impl Remembered {
    /// Some 250 bytes each.
    const MOST: usize = 200_000;

    fn lock(&self) -> MutexGuard<'_, IndexMap<ServiceId, ReadState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, ids: &[i64]) -> BTreeMap<ServiceId, ReadState> {
        let known = self.lock();
        let find = |id: &i64| {
            let id = rows::service_id(*id).ok()?;
            known.get(&id).map(|state| (id, state.clone()))
        };
        ids.iter().filter_map(find).collect()
    }

    pub(super) fn keep(&self, states: impl IntoIterator<Item = (ServiceId, ReadState)>) {
        let mut known = self.lock();
        for (id, state) in states {
            if known.len() >= Self::MOST && !known.contains_key(&id) {
                let chance = (state.kept.stored_through.unsigned_abs() ^ id.get() >> 3) % known.len() as u64;
                known.swap_remove_index(chance as usize);
            }
            known.insert(id, state);
        }
    }

    /// Lets go of these, which somebody else may have changed.
    pub(super) fn forget(&self, ids: &[i64]) {
        let mut known = self.lock();
        ids.iter().filter_map(|id| rows::service_id(*id).ok()).for_each(|id| drop(known.swap_remove(&id)));
    }

    /// Lets go of all: the server may be another one.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

/// A service whose state is locked.
pub(super) struct Held {
    pub(super) service: Service,
    pub(super) state: State<Thresholds>,
    pub(super) kept: Kept,
}

impl Held {
    /// Works out anew when the sweep is to look at it.
    pub(super) fn reconsider(&mut self) {
        let settings = &self.service.settings;
        let start = settings.interval.get().min(Probe::START_BY_LIMIT);
        let span = settings.interval.get() + start + settings.timeout.get() + sweep::PATIENCE;
        self.kept.patience = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.kept.look_at = sweep::next_look(&self.service, &self.state, self.kept.maintenance_until).as_millis();
    }
}

/// When the sweep is to look at a service that has just been heard of. It is not known here how
/// often it is probed; how long it may be silent is.
pub(super) fn look_at(state: &State<Thresholds>, kept: &Kept) -> i64 {
    if state.activity() != Activity::Active {
        return kept.look_at;
    }
    let heard = state.regions().iter().map(|region| region.watermark().max(region.missed_through())).min().flatten();
    let silent = heard.map_or(kept.look_at, |slot| slot.as_millis().saturating_add(kept.patience));
    kept.maintenance_until.map_or(silent, |until| silent.min(until.as_millis()))
}

const LOCK: &str = "WITH l AS MATERIALIZED (SELECT * FROM states WHERE service_id = ANY($1) ORDER BY service_id \
         FOR NO KEY UPDATE) \
     SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (SELECT lineage()), l.service_id, l.since, \
         l.maintenance_until, l.stored_through, l.patience, l.look_at, l.snapshot \
     FROM (VALUES (1)) one LEFT JOIN l ON true";

/// A lock on a row is written to it and to the log of writes, which costs as much as the row's update.
const LOOK: &str = "SELECT (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint), (SELECT lineage()), \
         l.service_id, l.since, l.maintenance_until, l.stored_through, l.patience, l.look_at, l.snapshot, \
         l.xmin::text::bigint, (SELECT pg_current_xact_id()::xid::text::bigint) \
     FROM (VALUES (1)) one LEFT JOIN states l ON l.service_id = ANY($1)";

impl PostgresResultStore {
    /// Begins a transaction and locks the states of these services: all writers lock states by id,
    /// and then the head, so that none of them waits for another in a circle.
    pub(super) async fn lock(&self, ids: &[i64]) -> Result<Opened> {
        self.open(LOCK, ids).await
    }

    /// Begins a transaction and reads the states of these services without locking them, or remembers
    /// them: what is made of them is written with [`StateColumns::update_unchanged`].
    pub(super) async fn look(&self, ids: &[i64]) -> Result<Opened> {
        let mut known = self.remembered.find(ids);
        let unknown: Vec<i64> = if known.is_empty() {
            ids.to_vec()
        } else {
            let is_known = |id: &i64| rows::service_id(*id).is_ok_and(|id| known.contains_key(&id));
            ids.iter().copied().filter(|id| !is_known(id)).collect()
        };
        let mut opened = self.open(LOOK, &unknown).await?;
        opened.states.append(&mut known);
        Ok(opened)
    }

    async fn open(&self, statement: &'static str, ids: &[i64]) -> Result<Opened> {
        loop {
            let mut tx = self.postgres.begin().await?;
            let read = sql(statement).bind(ids).fetch_all(&mut *tx).await.map_err(from_sqlx)?;
            let lineage: &str = read.first().map_or(Ok(""), |row| row.try_get(1)).map_err(from_sqlx)?;
            if self.head.stands_on(lineage) == Lineage::Other {
                tx.rollback().await.map_err(from_sqlx)?;
                self.settle().await?;
                continue;
            }
            let (mut now, mut states) = (Timestamp::default(), BTreeMap::new());
            for row in &read {
                now = now.max(Timestamp::from_micros(row.try_get(0).map_err(from_sqlx)?));
                if let Some(id) = row.try_get::<Option<i64>, _>(2).map_err(from_sqlx)? {
                    states.insert(rows::service_id(id)?, read_state(row).map_err(from_sqlx)?);
                }
            }
            let writer = read.first().filter(|row| row.len() > 10).map(|row| row.try_get(10));
            return Ok(Opened { tx, now, states, writer: writer.transpose().map_err(from_sqlx)? });
        }
    }
}

fn read_state(row: &PgRow) -> sqlx::Result<ReadState> {
    let kept = Kept {
        since: Timestamp::from_micros(row.try_get(3)?),
        maintenance_until: row.try_get::<Option<i64>, _>(4)?.map(Timestamp::from_micros),
        stored_through: row.try_get(5)?,
        patience: row.try_get(6)?,
        look_at: row.try_get(7)?,
    };
    let version = if row.len() > 9 { Some(Version::new(row.try_get(9)?, &kept)) } else { None };
    Ok(ReadState { snapshot: row.try_get(8)?, kept, version })
}

/// Reads the services whose states are locked. In a statement of its own: the one that locks sees
/// other tables as they were before it waited.
pub(super) async fn services(tx: &mut PgConnection, ids: &[i64]) -> Result<Vec<Result<Service>>> {
    let read = format!("SELECT {SERVICE_COLUMNS} FROM services s WHERE s.id = ANY($1) ORDER BY s.id");
    let read = sql(sqlx::AssertSqlSafe(read)).bind(ids).fetch_all(tx).await.map_err(from_sqlx)?;
    Ok(read.iter().map(rows::service).collect())
}

/// What is locked, with the services; those that cannot be understood are left out, loudly.
pub(super) async fn held(locked: &mut Opened) -> Result<Vec<Held>> {
    let ids: Vec<i64> = locked.states.keys().map(|id| id.as_i64()).collect();
    let mut held = Vec::with_capacity(ids.len());
    for service in services(&mut locked.tx, &ids).await? {
        let Some(service) = unless_bad(service)? else { continue };
        let Some(found) = locked.states.remove(&service.id) else { continue };
        let Some(state) = unless_bad(rows::state(&found.snapshot))? else { continue };
        held.push(Held { service, state, kept: found.kept });
    }
    Ok(held)
}

/// One look for each row: where a batch is more than a hundredth of all services, the planner would
/// read the whole table instead, at twice the cost.
///
/// And it would lock the rows of a small table as they lie rather than by id.
const LOOK_UP: &str =
    "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off";

// The columns are taken apart in the list of what is selected: in `FROM` each would be written to a
// store of its own and read from there, three times the work.
macro_rules! update {
    ($columns:literal, $which:literal) => {
        concat!(
            "UPDATE states t SET since = u.since, maintenance_until = u.maintenance_until, \
             stored_through = u.stored_through, patience = u.patience, look_at = u.look_at, overlays = u.overlays, \
             announced = u.announced, snapshot = u.snapshot FROM (SELECT unnest($1::bigint[]) AS service_id, \
             unnest($2::bigint[]) AS since, unnest($3::bigint[]) AS maintenance_until, \
             unnest($4::bigint[]) AS stored_through, unnest($5::bigint[]) AS patience, unnest($6::bigint[]) AS look_at, \
             unnest($7::smallint[]) AS overlays, unnest($8::text[]) AS announced, unnest($9::bytea[]) AS snapshot",
            $columns,
            ") u WHERE t.service_id = u.service_id",
            $which
        )
    };
}

/// The columns of `states` apart, for `unnest`.
#[derive(Default)]
pub(super) struct StateColumns {
    id: Vec<i64>,
    since: Vec<i64>,
    maintenance_until: Vec<Option<i64>>,
    stored_through: Vec<i64>,
    patience: Vec<i64>,
    look_at: Vec<i64>,
    overlays: Vec<i16>,
    announced: Vec<&'static str>,
    snapshot: Vec<Vec<u8>>,
}

impl StateColumns {
    pub(super) fn push(&mut self, id: ServiceId, state: &State<Thresholds>, snapshot: Vec<u8>, kept: &Kept) {
        self.id.push(id.as_i64());
        self.since.push(kept.since.as_micros());
        self.maintenance_until.push(kept.maintenance_until.map(Timestamp::as_micros));
        self.stored_through.push(kept.stored_through);
        self.patience.push(kept.patience);
        self.look_at.push(kept.look_at);
        self.overlays.push(rows::overlay_bits(state));
        self.announced.push(state.announced().as_str());
        self.snapshot.push(snapshot);
    }

    pub(super) fn of<'a>(held: impl IntoIterator<Item = &'a Held>) -> Self {
        let mut columns = Self::default();
        held.into_iter().for_each(|held| {
            columns.push(held.service.id, &held.state, held.state.to_snapshot(), &held.kept);
        });
        columns
    }

    /// Writes these rows, which are there and locked.
    pub(super) async fn update(self, tx: &mut PgConnection) -> Result<()> {
        const UPDATE: &str = update!("", "");
        if self.id.is_empty() {
            return Ok(());
        }
        sqlx::raw_sql(LOOK_UP).execute(&mut *tx).await.map_err(from_sqlx)?;
        self.bind_to(sql(UPDATE)).execute(tx).await.map(drop).map_err(from_sqlx)
    }

    /// Writes these rows, in order of id, if all of them are still as they were read. If not, says so,
    /// and the transaction must come to nothing.
    pub(super) async fn update_unchanged(self, versions: &[Version], tx: &mut PgConnection) -> Result<bool> {
        const UPDATE: &str = update!(
            ", unnest($10::bigint[]) AS writer, unnest($11::bigint[]) AS before",
            " AND t.xmin = u.writer::text::xid AND t.stored_through = u.before"
        );
        if self.id.is_empty() {
            return Ok(true);
        }
        let count = self.id.len() as u64;
        let (writers, before): (Vec<_>, Vec<_>) =
            versions.iter().map(|read| (read.writer, read.stored_through)).unzip();
        sqlx::raw_sql(LOOK_UP).execute(&mut *tx).await.map_err(from_sqlx)?;
        let update = self.bind_to(sql(UPDATE)).bind(writers).bind(before);
        Ok(update.execute(tx).await.map_err(from_sqlx)?.rows_affected() == count)
    }

    /// Writes these rows, as far as there are none. Says how many that were.
    pub(super) async fn insert(self, tx: &mut PgConnection) -> Result<u64> {
        const INSERT: &str = "INSERT INTO states (service_id, since, maintenance_until, stored_through, patience, look_at, \
             overlays, announced, snapshot) SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], \
             $4::bigint[], $5::bigint[], $6::bigint[], $7::smallint[], $8::text[], $9::bytea[]) ON CONFLICT DO NOTHING";
        if self.id.is_empty() {
            return Ok(0);
        }
        Ok(self.bind_to(sql(INSERT)).execute(tx).await.map_err(from_sqlx)?.rows_affected())
    }

    /// Binds them as the parameters 1 to 9, in the order of the fields.
    fn bind_to(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        query
            .bind(self.id)
            .bind(self.since)
            .bind(self.maintenance_until)
            .bind(self.stored_through)
            .bind(self.patience)
            .bind(self.look_at)
            .bind(self.overlays)
            .bind(self.announced)
            .bind(self.snapshot)
    }
}
