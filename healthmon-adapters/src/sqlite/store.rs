use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    engine::{Control, State, TargetChange, Thresholds},
    id::{Applied, LogId, Revision, Seq, ServiceId},
    ports::{
        AppliedInput, Change, Changed, Clock, LogHead, Recorded, ResultQuery, ResultStore, ServiceFilter, ServiceView,
        StoreError, StoredResult, Swept,
    },
    probe::{Probe, ProbeId, ProbeResult},
    record::{self, sweep},
    service::{Activity, Service, ServiceSettings},
    status::{LogEntry, LogEvent, ServiceLabel},
    summary::Summed,
    time::{Slot, Timestamp},
};
use sqlx::{
    Connection, Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    cache::Cache,
    error::{bad_row, from_migration, from_sqlx, no_folder, unless_bad},
    rows::{self, Regions},
};

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it is on the disk: it survives a power cut. SQLite's `synchronous = FULL`.
    #[default]
    PowerCut,
    /// When it is with the operating system: it survives a crash of the process, not of the
    /// machine. SQLite's `synchronous = NORMAL`.
    Crash,
}

/// Where the database is and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteOptions {
    /// The database file; made if it is missing, but not its folder.
    pub path: PathBuf,
    /// When a commit counts as done.
    pub durability: Durability,
    /// How long results are kept.
    pub retention: Duration,
    /// How long entries of the transition log are kept.
    pub log_retention: Duration,
    /// How long another program's lock is waited for.
    pub busy_timeout: Duration,
}

impl SqliteOptions {
    /// The usual options for this file: power-cut safe, results for 30 days, the log for a year.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::default(),
            retention: Duration::from_hours(30 * 24),
            log_retention: Duration::from_hours(365 * 24),
            busy_timeout: Duration::from_secs(5),
        }
    }
}

/// A [`ResultStore`] in one SQLite file.
pub struct SqliteResultStore {
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) regions: Regions,
    pub(super) cache: Cache,
    /// When old rows were last let go.
    expired: Mutex<Option<Timestamp>>,
    pub(super) options: SqliteOptions,
    log_id: LogId,
}

/// A service's row as it stands under the writer's lock.
pub(super) struct Held {
    pub(super) service: Service,
    pub(super) state: State<Thresholds>,
    pub(super) since: Timestamp,
    pub(super) maintenance_until: Option<Timestamp>,
}

impl SqliteResultStore {
    /// Opens the database, makes it if it is missing, and brings its schema up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, is locked, or was written by a newer build.
    pub async fn open(options: SqliteOptions, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let folder = options.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(no_folder(folder));
        }
        make_private(&options.path).map_err(|error| from_sqlx(sqlx::Error::Io(error)))?;
        let synchronous = match options.durability {
            Durability::PowerCut => SqliteSynchronous::Full,
            Durability::Crash => SqliteSynchronous::Normal,
        };
        let connect = SqliteConnectOptions::new()
            .filename(&options.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .busy_timeout(options.busy_timeout)
            // Rows come from SQLite's thread one by one; with room for a page of them it does not stop
            // at each.
            .row_buffer_size(1_000)
            .pragma("journal_size_limit", "67108864")
            .pragma("cache_size", "-8192");
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                .max_lifetime(None)
                .idle_timeout(None)
                .after_release(|connection, _| Box::pin(is_free(connection)))
        };
        let writer = pool(1).connect_with(connect.clone()).await.map_err(from_sqlx)?;
        sqlx::migrate!("migrations/sqlite").run(&writer).await.map_err(from_migration)?;
        let readers =
            pool(4).connect_with(connect.read_only(true).pragma("cache_size", "-1024")).await.map_err(from_sqlx)?;
        let mut connection = writer.acquire().await.map_err(from_sqlx)?;
        let regions = Regions::load(&mut connection).await?;
        let log_id: String =
            sqlx::query_scalar("SELECT log_id FROM head").fetch_one(&mut *connection).await.map_err(from_sqlx)?;
        drop(connection);
        Ok(Self {
            writer,
            readers,
            clock,
            regions,
            cache: Cache::default(),
            expired: Mutex::default(),
            options,
            log_id: LogId(log_id.into()),
        })
    }

    /// Closes the database once what is under way is done.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Takes the write lock: from here on nobody else changes anything.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(from_sqlx)
    }

    async fn register_now(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service, StoreError> {
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        if let Some(held) = held(&mut tx, id).await? {
            let same = held.service.settings == settings && held.service.activity != Activity::Deleted;
            return if same { Ok(held.service) } else { Err(StoreError::Conflict(held.service.revision)) };
        }
        let revision = next_revision(&mut tx).await?;
        let state = State::registered(settings.policy, &settings.regions);
        let registration = Control::Configure {
            policy: settings.policy,
            regions: settings.regions.clone(),
            target: TargetChange::Changed,
        };
        let service = Service::registered(id, settings, revision, state.epoch(), now);
        sqlx::query(
            "INSERT INTO services (id, settings, group_name, activity, revision, epoch, created_at, updated_at, \
             scheduled_since) VALUES (?, ?, ?, 'active', ?, ?, ?, ?, ?)",
        )
        .bind(id.as_i64())
        .bind(json(&service.settings)?)
        .bind(service.settings.group.as_ref().map(|group| group.as_str().to_owned()))
        .bind(rows::number(revision.0))
        .bind(i64::from(state.epoch().0))
        .bind(now.as_micros())
        .bind(now.as_micros())
        .bind(now.as_micros())
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        sqlx::query(
            "INSERT INTO states (service_id, snapshot, announced, overlays, since, stored_through, patience, look_at) \
             VALUES (?, ?, ?, 0, ?, ?, 0, 0)",
        )
        .bind(id.as_i64())
        .bind(state.to_snapshot())
        .bind(state.announced().as_str())
        .bind(now.as_micros())
        .bind(i64::MIN)
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        save_control(&mut tx, id, state.applied(), now, &registration).await?;
        let held = Held { service: service.clone(), state, since: now, maintenance_until: None };
        save_state(&mut tx, &held).await?;
        tx.commit().await.map_err(from_sqlx)?;
        Ok(service)
    }

    async fn change_now(
        &self,
        id: ServiceId,
        expected: Option<Revision>,
        change: Change,
    ) -> Result<Changed, StoreError> {
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        self.cache.forget(id);
        let held = held(&mut tx, id).await?.filter(|held| held.service.activity != Activity::Deleted);
        let mut held = held.ok_or(StoreError::NotFound(id))?;
        if expected.is_some_and(|expected| expected != held.service.revision) {
            return Err(StoreError::Conflict(held.service.revision));
        }
        let Some(plan) = record::plan(&held.service, &held.state, held.maintenance_until, change, now) else {
            return Ok(Changed { service: held.service, entries: Vec::new() });
        };
        let entries = match plan.control {
            Some(control) => apply_control(&mut tx, &mut held, now, control).await?,
            None => Vec::new(),
        };
        let revision = next_revision(&mut tx).await?;
        held.service = Service { revision, epoch: held.state.epoch(), ..plan.service };
        held.maintenance_until = plan.maintenance_until;
        save_service(&mut tx, &held.service).await?;
        save_state(&mut tx, &held).await?;
        tx.commit().await.map_err(from_sqlx)?;
        Ok(Changed { service: held.service, entries })
    }

    async fn sweep_now(&self, after: Option<ServiceId>, limit: NonZeroUsize) -> Result<Swept, StoreError> {
        let now = self.clock.now();
        let after = after.map_or(0, ServiceId::as_i64);
        let mut reader = self.readers.acquire().await.map_err(from_sqlx)?;
        // Looked for without the lock, looked at again under it.
        let ids: Vec<i64> = sqlx::query_scalar(
            "SELECT service_id FROM states WHERE service_id > ? AND look_at <= ? ORDER BY service_id LIMIT ?",
        )
        .bind(after)
        .bind(now.as_millis())
        .bind(rows::number(limit.get() as u64))
        .fetch_all(&mut *reader)
        .await
        .map_err(from_sqlx)?;
        drop(reader);
        if after == 0 && self.retention_is_due(now) {
            self.expire(now).await?;
        }
        let full = ids.len() == limit.get();
        let mut swept = Swept { next: None, ..Swept::default() };
        if ids.is_empty() {
            return Ok(swept);
        }
        let mut tx = self.begin().await?;
        for id in ids {
            let id = rows::service_id(id)?;
            self.cache.forget(id);
            swept.next = Some(id).filter(|_| full);
            let Some(mut held) = unless_bad(held(&mut tx, id).await)?.flatten() else { continue };
            for control in sweep::due(&held.service, &held.state, held.maintenance_until, now) {
                swept.missed += sweep::slots_missed(&control);
                if control == Control::EndMaintenance {
                    held.maintenance_until = None;
                }
                swept.entries.extend(apply_control(&mut tx, &mut held, now, control).await?);
            }
            save_state(&mut tx, &held).await?;
        }
        tx.commit().await.map_err(from_sqlx)?;
        Ok(swept)
    }

    /// Whether it is time to let go of old rows again. Claims it if so.
    fn retention_is_due(&self, now: Timestamp) -> bool {
        /// Finding old rows asks every service, so it is not done all the time.
        const PERIOD: Duration = Duration::from_mins(5);
        let period = PERIOD.min(self.options.retention / 1_000);
        let mut expired = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
        let due = expired.is_none_or(|expired| now.since(expired) >= period || now < expired);
        if due {
            *expired = Some(now);
        }
        due
    }

    /// Lets go of all that is past its retention, a piece at a time: between two pieces whoever
    /// waits for the writer has it.
    async fn expire(&self, now: Timestamp) -> Result<(), StoreError> {
        let results = "DELETE FROM results WHERE (service_id, slot, region_id, kind) IN (\
             SELECT r.service_id, r.slot, r.region_id, r.kind FROM services s \
             CROSS JOIN results r ON r.service_id = s.id AND r.slot < ?1 LIMIT ?2)";
        let log = "DELETE FROM log WHERE seq IN (SELECT seq FROM log ORDER BY seq LIMIT ?2) AND at < ?1";
        self.delete_pieces(results, now.before(self.options.retention).as_millis()).await?;
        self.delete_pieces(log, now.before(self.options.log_retention).as_micros()).await
    }

    async fn delete_pieces(&self, sql: &'static str, oldest: i64) -> Result<(), StoreError> {
        /// How many rows go in one transaction, so that recording never waits long.
        const PIECE: u64 = 5_000;
        loop {
            let deleted = sqlx::query(sql).bind(oldest).bind(rows::number(PIECE)).execute(&self.writer).await;
            if deleted.map_err(from_sqlx)?.rows_affected() < PIECE {
                return Ok(());
            }
        }
    }
}

/// Makes the file, if it is missing, readable by its owner alone: headers may hold secrets. SQLite
/// gives the files beside it the same rights.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether a connection may be used again. SQLite ends a transaction by itself when the disk is full;
/// sqlx then fails to roll it back and would take it for open ever after.
async fn is_free(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    if connection.is_in_transaction() {
        // A rollback that a drop has asked for comes before the answer.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(bad_row)
}

/// Reads a service and its state within a transaction that holds the lock.
pub(super) async fn held(connection: &mut SqliteConnection, id: ServiceId) -> Result<Option<Held>, StoreError> {
    let row = sqlx::query(
        "SELECT s.id, s.settings, s.activity, s.revision, s.epoch, s.created_at, s.updated_at, s.scheduled_since, \
         t.snapshot, t.since, t.maintenance_until FROM services s JOIN states t ON t.service_id = s.id WHERE s.id = ?",
    )
    .bind(id.as_i64())
    .fetch_optional(connection)
    .await
    .map_err(from_sqlx)?;
    let Some(row) = row else { return Ok(None) };
    let until: Option<i64> = row.try_get(10).map_err(from_sqlx)?;
    Ok(Some(Held {
        service: rows::service(&row)?,
        state: rows::state(row.try_get(8).map_err(from_sqlx)?)?,
        since: Timestamp::from_micros(row.try_get(9).map_err(from_sqlx)?),
        maintenance_until: until.map(Timestamp::from_micros),
    }))
}

async fn next_revision(connection: &mut SqliteConnection) -> Result<Revision, StoreError> {
    let revision: i64 = sqlx::query_scalar("UPDATE head SET revision = revision + 1 RETURNING revision")
        .fetch_one(connection)
        .await
        .map_err(from_sqlx)?;
    Ok(Revision(rows::counter(revision)))
}

async fn save_service(connection: &mut SqliteConnection, service: &Service) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE services SET settings = ?2, group_name = ?3, activity = ?4, revision = ?5, epoch = ?6, \
         updated_at = ?7, scheduled_since = ?8 WHERE id = ?1",
    )
    .bind(service.id.as_i64())
    .bind(json(&service.settings)?)
    .bind(service.settings.group.as_ref().map(|group| group.as_str().to_owned()))
    .bind(rows::activity_name(service.activity))
    .bind(rows::number(service.revision.0))
    .bind(i64::from(service.epoch.0))
    .bind(service.updated_at.as_micros())
    .bind(service.scheduled_since.as_micros())
    .execute(connection)
    .await
    .map_err(from_sqlx)?;
    Ok(())
}

/// How long a service may be silent before the sweep looks at it, in milliseconds.
fn patience(service: &Service) -> i64 {
    let settings = &service.settings;
    let start = settings.interval.get().min(Probe::START_BY_LIMIT);
    let span = settings.interval.get() + start + settings.timeout.get() + sweep::PATIENCE;
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

async fn save_state(connection: &mut SqliteConnection, held: &Held) -> Result<(), StoreError> {
    let look_at = sweep::next_look(&held.service, &held.state, held.maintenance_until);
    sqlx::query(
        "UPDATE states SET snapshot = ?2, announced = ?3, overlays = ?4, since = ?5, maintenance_until = ?6, \
         patience = ?7, look_at = ?8 WHERE service_id = ?1",
    )
    .bind(held.service.id.as_i64())
    .bind(held.state.to_snapshot())
    .bind(held.state.announced().as_str())
    .bind(rows::overlay_bits(&held.state))
    .bind(held.since.as_micros())
    .bind(held.maintenance_until.map(Timestamp::as_micros))
    .bind(patience(&held.service))
    .bind(look_at.as_millis())
    .execute(connection)
    .await
    .map_err(from_sqlx)?;
    Ok(())
}

async fn save_control(
    connection: &mut SqliteConnection,
    id: ServiceId,
    applied: Applied,
    at: Timestamp,
    control: &Control<Thresholds>,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO controls (service_id, applied, at, control) VALUES (?, ?, ?, ?)")
        .bind(id.as_i64())
        .bind(rows::number(applied.0))
        .bind(at.as_micros())
        .bind(json(control)?)
        .execute(connection)
        .await
        .map_err(from_sqlx)?;
    Ok(())
}

async fn apply_control(
    connection: &mut SqliteConnection,
    held: &mut Held,
    now: Timestamp,
    control: Control<Thresholds>,
) -> Result<Vec<LogEntry>, StoreError> {
    let label: ServiceLabel = held.service.label();
    let Some((applied, mut entries)) = record::fold_control(&mut held.state, &label, now, control.clone()) else {
        return Ok(Vec::new());
    };
    save_control(connection, held.service.id, applied, now, &control).await?;
    append(connection, &mut entries).await?;
    if entries.iter().any(|entry| matches!(entry.event, LogEvent::Transition(_))) {
        held.since = now;
    }
    Ok(entries)
}

/// Gives entries their places in the log and writes them there.
pub(super) async fn append(connection: &mut SqliteConnection, entries: &mut [LogEntry]) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let head: i64 = sqlx::query_scalar("UPDATE head SET seq = seq + ? RETURNING seq")
        .bind(rows::number(entries.len() as u64))
        .fetch_one(&mut *connection)
        .await
        .map_err(from_sqlx)?;
    let first = rows::counter(head) - entries.len() as u64 + 1;
    for (seq, entry) in (first..).zip(entries) {
        entry.seq = Seq(seq);
        sqlx::query("INSERT INTO log (seq, service_id, applied, at, entry) VALUES (?, ?, ?, ?, ?)")
            .bind(rows::number(seq))
            .bind(entry.service.id.as_i64())
            .bind(rows::number(entry.applied.0))
            .bind(entry.at.as_micros())
            .bind(json(entry)?)
            .execute(&mut *connection)
            .await
            .map_err(from_sqlx)?;
    }
    Ok(())
}

#[async_trait]
impl ResultStore for SqliteResultStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }

    async fn register(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service, StoreError> {
        self.register_now(id, settings).await
    }

    async fn change(&self, id: ServiceId, expected: Option<Revision>, change: Change) -> Result<Changed, StoreError> {
        self.change_now(id, expected, change).await
    }

    async fn service(&self, id: ServiceId) -> Result<Option<ServiceView>, StoreError> {
        self.read_service(id).await
    }

    async fn services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<ServiceView>, StoreError> {
        self.read_services(filter, after, limit.get()).await
    }

    async fn changes(&self, after: Revision, limit: NonZeroUsize) -> Result<Vec<Service>, StoreError> {
        self.read_changes(after, limit.get()).await
    }

    async fn record(&self, results: Vec<ProbeResult>) -> Result<Recorded, StoreError> {
        self.record_now(results).await
    }

    async fn sweep(&self, after: Option<ServiceId>, limit: NonZeroUsize) -> Result<Swept, StoreError> {
        self.sweep_now(after, limit).await
    }

    async fn results(
        &self,
        id: ServiceId,
        query: &ResultQuery,
        limit: NonZeroUsize,
    ) -> Result<Vec<StoredResult>, StoreError> {
        self.read_results(id, query, limit.get()).await
    }

    async fn result(&self, id: &ProbeId) -> Result<Option<StoredResult>, StoreError> {
        self.read_result(id).await
    }

    async fn summary(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>, StoreError> {
        self.read_summary(id, from, to).await
    }

    async fn log(&self, after: Seq, limit: NonZeroUsize) -> Result<Vec<LogEntry>, StoreError> {
        self.read_log(after, limit.get()).await
    }

    async fn service_log(
        &self,
        id: ServiceId,
        before: Option<Seq>,
        limit: NonZeroUsize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.read_service_log(id, before, limit.get()).await
    }

    async fn head(&self) -> Result<LogHead, StoreError> {
        let (head, tail) = self.read_head().await?;
        Ok(LogHead { log: self.log_id.clone(), head, tail })
    }

    async fn inputs(
        &self,
        id: ServiceId,
        after: Applied,
        limit: NonZeroUsize,
    ) -> Result<Vec<AppliedInput>, StoreError> {
        self.read_inputs(id, after, limit.get()).await
    }

    async fn state(&self, id: ServiceId) -> Result<Option<State<Thresholds>>, StoreError> {
        self.read_state(id).await
    }
}
