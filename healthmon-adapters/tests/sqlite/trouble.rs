//! What befalls database files: locks, damage, foreign files, newer builds. Each is told clearly, as
//! an error that says what can be done, and what was recorded is there when the trouble is over.

use std::{fs, num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use healthmon_adapters::sqlite::{SqliteOptions, SqliteResultStore};
use healthmon_core::{
    conformance::ManualClock,
    engine::{Control, Input, State},
    id::{Applied, Epoch, Region, Revision, Seq, ServiceId},
    ports::{Clock, ResultQuery, ResultStore, SetAside, StoreError},
    probe::{FailReason, Kind, Observation, Outcome, Probe, ProbeId, ProbeResult},
    runtime::clock::SystemClock,
    service::{Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use sqlx::{Connection, SqliteConnection};

pub(crate) const ALL: std::num::NonZeroUsize = std::num::NonZeroUsize::MAX;
const NOW: Timestamp = Timestamp::from_millis(1_795_168_800_000);

pub(crate) async fn try_open(path: &Path) -> Result<SqliteResultStore, StoreError> {
    let options = SqliteOptions { busy_timeout: Duration::from_millis(200), ..SqliteOptions::new(path) };
    SqliteResultStore::open(options, Arc::new(ManualClock::starting_at(NOW))).await
}

pub(crate) async fn open(path: &Path) -> SqliteResultStore {
    try_open(path).await.expect("the database opens")
}

pub(crate) async fn service(store: &SqliteResultStore) -> Service {
    let settings = serde_json::json!({
        "name": "one", "url": "http://one.test/", "interval": "1m",
        "policy": {"failure_threshold": 1, "success_threshold": 1},
    });
    let settings = ServiceSettings::from_json(settings.as_object().cloned().expect("an object")).expect("settings");
    store.register(ServiceId::new(1).expect("an id"), settings).await.expect("registered")
}

/// A batch of results, each of which is a transition.
pub(crate) fn batch(service: &Service, number: i64, size: i64) -> Vec<ProbeResult> {
    let result = |place: i64| {
        let slot = Slot::from_millis(NOW.as_millis() - 80_000_000 + (number * size + place) * 10);
        let outcome = if place % 2 == 0 { Outcome::Fail(FailReason::Timeout) } else { Outcome::Pass };
        let seen = Observation::new(outcome, Duration::from_millis(5)).with_detail(&"no answer ".repeat(20));
        let id = ProbeId { service: service.id, slot, region: Default::default(), kind: Kind::Scheduled };
        ProbeResult { id, epoch: service.epoch, started: slot.time(), seen }
    };
    (0..size).map(result).collect()
}

/// Asserts that exactly these results are there, with the log and the state that they led to.
pub(crate) async fn assert_holds(store: &SqliteResultStore, service: &Service, expected: &[ProbeResult]) {
    let stored = store.results(service.id, &ResultQuery::default(), ALL).await.expect("results");
    let stored: Vec<ProbeResult> = stored.into_iter().rev().map(|stored| stored.result).collect();
    assert_eq!(stored, expected);
    let log = store.log(Seq(0), ALL).await.expect("the log");
    assert_eq!(log.iter().map(|entry| entry.seq.0).collect::<Vec<_>>(), (1..=log.len() as u64).collect::<Vec<_>>());
    assert_eq!(log.len(), expected.len(), "each of these results is a transition");
    let inputs = store.inputs(service.id, Applied(0), ALL).await.expect("inputs");
    let Input::Control(Control::Configure { policy, regions, .. }) = &inputs[0].input else { panic!("{inputs:?}") };
    let mut state = State::registered(*policy, regions);
    inputs[1..].iter().for_each(|input| drop(state.apply(&input.input)));
    assert_eq!(store.state(service.id).await.expect("a state"), Some(state));
}

async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnection::connect(path.to_str().expect("a path")).await.expect("a connection")
}

async fn execute(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(connection).await.expect("executed");
}

#[tokio::test]
async fn a_file_locked_by_another_program_is_transient_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("healthmon.db");
    let store = open(&path).await;
    let service = service(&store).await;
    let (first, second) = (batch(&service, 0, 10), batch(&service, 1, 10));
    store.record(first.clone()).await.expect("recorded");

    let mut other = connect(&path).await;
    execute(&mut other, "BEGIN EXCLUSIVE").await;
    let refused = store.record(second.clone()).await.expect_err("the file is locked");
    assert!(matches!(refused, StoreError::Transient { .. }), "{refused:?}");
    assert!(refused.to_string().contains("another program holds the database file locked"), "{refused}");
    assert_holds(&store, &service, &first).await;
    let opened = try_open(&path).await.map(drop);
    assert!(matches!(opened, Ok(()) | Err(StoreError::Transient { .. })), "{opened:?}");

    execute(&mut other, "ROLLBACK").await;
    let done = store.record(second.clone()).await.expect("recorded");
    assert_eq!(done.inserted, 10);
    assert_holds(&store, &service, &[first, second].concat()).await;
}

#[tokio::test]
async fn a_short_lock_is_waited_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("healthmon.db");
    let options = SqliteOptions { busy_timeout: Duration::from_secs(20), ..SqliteOptions::new(&path) };
    let store = SqliteResultStore::open(options, Arc::new(ManualClock::starting_at(NOW))).await.expect("it opens");
    let service = service(&store).await;
    let mut other = connect(&path).await;
    execute(&mut other, "BEGIN IMMEDIATE").await;
    let results = batch(&service, 0, 10);
    let (done, ()) = tokio::join!(store.record(results.clone()), async {
        // By then the recording has asked for the lock, and will ask again.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        execute(&mut other, "COMMIT").await;
    });
    assert_eq!(done.expect("recorded").inserted, 10);
    assert_holds(&store, &service, &results).await;
}

/// A database of some results, closed; its path and what it holds.
async fn closed(folder: &Path) -> (std::path::PathBuf, Service, Vec<ProbeResult>) {
    let path = folder.join("healthmon.db");
    let store = open(&path).await;
    let service = service(&store).await;
    let mut recorded = Vec::new();
    for number in 0..5 {
        let results = batch(&service, number, 100);
        store.record(results.clone()).await.expect("recorded");
        recorded.extend(results);
    }
    store.close().await;
    (path, service, recorded)
}

/// Opens the file and reads and writes all of it; returns the first error.
async fn use_it(path: &Path, service: &Service) -> Result<(), StoreError> {
    let store = try_open(path).await?;
    store.results(service.id, &ResultQuery::default(), ALL).await?;
    store.log(Seq(0), ALL).await?;
    store.inputs(service.id, Applied(0), ALL).await?;
    store.state(service.id).await?;
    store.record(batch(service, 99, 100)).await.map(drop)
}

#[tokio::test]
async fn a_damaged_file_is_permanent_and_a_backup_brings_everything_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, service, recorded) = closed(folder.path()).await;
    let sound = fs::read(&path).expect("the file");
    for damage in ["everything but the first page", "the first page's content"] {
        let mut bytes = sound.clone();
        let range = if damage.starts_with("every") { 4_096..bytes.len() } else { 100..4_096 };
        bytes[range].fill(0xa5);
        fs::write(&path, bytes).expect("written");
        let error = use_it(&path, &service).await.expect_err(damage);
        assert!(matches!(error, StoreError::Permanent(_)), "{damage}: {error:?}");
        assert!(error.to_string().contains("damaged"), "{damage}: {error}");
        for leftover in ["healthmon.db-wal", "healthmon.db-shm"] {
            fs::remove_file(folder.path().join(leftover)).ok();
        }
    }
    fs::write(&path, sound).expect("restored");
    assert_holds(&open(&path).await, &service, &recorded).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_permanent_and_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("letter.txt");
    let letter = "Dear reader, this is no database. ".repeat(300);
    fs::write(&path, &letter).expect("written");
    let error = try_open(&path).await.map(drop).expect_err("it is no database");
    assert!(matches!(error, StoreError::Permanent(_)), "{error:?}");
    assert!(error.to_string().contains("no database"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("the letter"), letter);
}

#[tokio::test]
async fn a_folder_that_does_not_exist_is_permanent_and_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("no-such-folder");
    let error = try_open(&missing.join("healthmon.db")).await.map(drop).expect_err("there is no such folder");
    assert!(matches!(error, StoreError::Permanent(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("no-such-folder") && text.contains("does not exist"), "{text}");
    assert!(!missing.exists(), "and it is not made");
    fs::create_dir(&missing).expect("made");
    open(&missing.join("healthmon.db")).await;
}

#[tokio::test]
async fn a_schema_of_a_newer_build_is_permanent_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, service, recorded) = closed(folder.path()).await;
    let mut other = connect(&path).await;
    execute(
        &mut other,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (20990101, 'of a newer build', 1, x'00', 1)",
    )
    .await;
    let error = try_open(&path).await.map(drop).expect_err("a newer build wrote it");
    assert!(matches!(error, StoreError::Permanent(_)), "{error:?}");
    assert!(error.to_string().contains("schema is not this build's"), "{error}");
    execute(&mut other, "DELETE FROM _sqlx_migrations WHERE version = 20990101").await;
    other.close().await.expect("closed");
    assert_holds(&open(&path).await, &service, &recorded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_row_holds_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.db");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let settings: ServiceSettings =
        serde_json::from_value(serde_json::json!({"name": "a", "url": "http://127.0.0.1/", "interval": "1s"})).unwrap();
    let id = |n| ServiceId::new(n).unwrap();
    let store = SqliteResultStore::open(SqliteOptions::new(&path), Arc::clone(&clock)).await.unwrap();
    for n in 1..=2 {
        store.register(id(n), settings.clone()).await.unwrap();
    }
    store.close().await;
    let raw = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::query("UPDATE states SET snapshot = x'ff00' WHERE service_id = 1").execute(&raw).await.unwrap();
    sqlx::query("UPDATE services SET settings = '{' WHERE id = 1").execute(&raw).await.unwrap();
    raw.close().await;

    let store = SqliteResultStore::open(SqliteOptions::new(&path), Arc::clone(&clock)).await.unwrap();
    let result = |n| {
        let service = Service::registered(id(n), settings.clone(), Revision(1), Epoch(1), clock.now());
        let slot = Slot::at(clock.now());
        let region = Region::default();
        let kind = Kind::Scheduled;
        let probe = Probe::new(Arc::new(service), region, slot, kind);
        let pass = Outcome::Pass;
        probe.result(clock.now(), Observation::new(pass, Duration::ZERO))
    };
    let recorded = store.record(vec![result(1), result(2)]).await.unwrap();
    assert_eq!(recorded.inserted, 1);
    let aside: Vec<_> = recorded.set_aside.iter().map(|(probe, why)| (probe.service, *why)).collect();
    assert_eq!(aside, [(id(1), SetAside::Refused)]);
    let limit = NonZeroUsize::new(10).unwrap();
    let listed = store.services(&Default::default(), None, limit).await.unwrap();
    assert_eq!(listed.iter().map(|view| view.service.id).collect::<Vec<_>>(), [id(2)]);
    assert_eq!(store.changes(Default::default(), limit).await.unwrap().len(), 1);
    store.sweep(None, limit).await.unwrap();
}
