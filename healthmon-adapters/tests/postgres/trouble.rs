//! What befalls the server and those who use it: restarts, suspended transactions, rows that are damaged.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use healthmon_adapters::{
    postgres::{PostgresOptions, PostgresResultStore},
    servers::{PrivatePostgres, StopMode},
};
use healthmon_core::{
    id::ServiceId,
    ports::{Recorded, ResultStore, SetAside, StoreError},
};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{ALL, Database, an_hour_ago, assert_holds, batch, execute, patiently, registered, result};

async fn open(url: &str) -> PostgresResultStore {
    PostgresResultStore::connect(PostgresOptions::new(url)).await.expect("connected")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_in_the_middle_of_recording_loses_nothing_and_repeats_nothing() {
    let server = Arc::new(PrivatePostgres::start_with(&[]).expect("PostgreSQL starts"));
    let store = open(&server.url("postgres")).await;
    let service = registered(&store, 1).await;
    let begin = an_hour_ago(&store).await;
    let (done, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    const BATCHES: u64 = 400;
    let recorder = {
        let (store, service, done, failed) = (&store, &service, &done, &failed);
        async move {
            for number in 0..BATCHES {
                let results = batch(service, begin, number * 20..number * 20 + 20);
                let recorded = patiently(async || {
                    let recorded = store.record(results.clone()).await;
                    failed.fetch_add(usize::from(recorded.is_err()), Ordering::Relaxed);
                    recorded
                });
                let Recorded { inserted, repeated, entries, .. } = recorded.await;
                assert!(matches!((inserted, repeated), (20, 0) | (0, 20)), "all or nothing: {inserted}, {repeated}");
                assert_eq!(entries.len(), 20, "whichever it was, it is told what it led to");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let trouble = async {
        for mode in [StopMode::Fast, StopMode::Immediate] {
            let (before, seen) = (done.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
            until("some batches are recorded", || done.load(Ordering::Relaxed) > before + 5).await;
            let stopped = Arc::clone(&server);
            tokio::task::spawn_blocking(move || stopped.stop(mode)).await.expect("joined").expect("it stops");
            until("the outage is noticed", || failed.load(Ordering::Relaxed) > seen).await;
            let resumed = Arc::clone(&server);
            tokio::task::spawn_blocking(move || resumed.resume()).await.expect("joined").expect("it starts");
        }
    };
    tokio::join!(recorder, trouble);
    assert_holds(&store, &service, &batch(&service, begin, 0..BATCHES * 20)).await;
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether somebody holds the state of service 1 locked.
async fn is_locked(connection: &mut PgConnection) -> bool {
    let look = "SELECT FROM states WHERE service_id = 1 FOR UPDATE NOWAIT";
    connection.execute(look).await.is_err()
}

#[tokio::test]
async fn a_recorder_suspended_in_the_middle_delays_others_by_seconds_only() {
    let database = Database::new().await;
    let (store, other) = (open(&database.url).await, open(&database.url).await);
    let service = registered(&store, 1).await;
    let results = batch(&service, an_hour_ago(&store).await, 0..10);
    let mut watch = PgConnection::connect(&database.url).await.expect("connected");

    // It is polled until it holds the lock, and then no more, as if its process were suspended.
    let mut suspended = pin!(store.record(results.clone()));
    while !is_locked(&mut watch).await {
        let polled = poll_fn(|context| Poll::Ready(suspended.as_mut().poll(context).is_ready())).await;
        assert!(!polled, "it ended before it was found to hold the lock");
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    let recorded = patiently(async || other.record(results.clone()).await).await;
    assert_eq!(recorded.inserted, 10);
    assert!(begun.elapsed() < Duration::from_secs(12), "it took {:?}", begun.elapsed());
    let resumed = suspended.await;
    assert!(matches!(resumed, Err(StoreError::Transient { .. })), "its session was ended: {resumed:?}");
    assert_eq!(store.record(results.clone()).await.expect("it goes on").repeated, 10);
    assert_holds(&store, &service, &results).await;
}

#[tokio::test]
async fn a_lock_that_stays_is_transient_and_holds_up_no_other_service() {
    let database = Database::new().await;
    let store = open(&database.url).await;
    let (held, free) = (registered(&store, 1).await, registered(&store, 2).await);
    let begin = an_hour_ago(&store).await;
    let mut holder = PgConnection::connect(&database.url).await.expect("connected");
    holder.execute("BEGIN; SELECT FROM states WHERE service_id = 1 FOR UPDATE").await.expect("locked");
    let (blocked, passed) =
        tokio::join!(store.record(batch(&held, begin, 0..10)), store.record(batch(&free, begin, 0..10)));
    assert!(matches!(blocked, Err(StoreError::Transient { .. })), "{blocked:?}");
    assert_eq!(passed.expect("recorded").inserted, 10);
    holder.execute("ROLLBACK").await.expect("let go");
    assert_eq!(patiently(async || store.record(batch(&held, begin, 0..10)).await).await.inserted, 10);
}

#[tokio::test]
async fn what_the_database_refuses_is_refused_and_the_rest_is_recorded() {
    let database = Database::new().await;
    let store = open(&database.url).await;
    let service = registered(&store, 1).await;
    let mut results = batch(&service, an_hour_ago(&store).await, 0..4);
    results[2].seen.detail = Some("text cannot hold \0".into());
    let refused = store.record(results.clone()).await.expect_err("PostgreSQL refuses it");
    assert!(matches!(refused, StoreError::Refused(_)), "{refused:?}");
    // As the recorder does: halved until the offender is alone.
    let bad = results.remove(2);
    assert!(matches!(store.record(vec![bad]).await, Err(StoreError::Refused(_))));
    assert_eq!(store.record(results).await.expect("recorded").inserted, 3);
}

#[tokio::test]
async fn one_damaged_row_holds_up_nobody_else() {
    let database = Database::new().await;
    let store = open(&database.url).await;
    let (bad, good) = (registered(&store, 1).await, registered(&store, 2).await);
    let slot = an_hour_ago(&store).await;
    execute(&database.url, r"UPDATE states SET snapshot = '\xff00' WHERE service_id = 1").await;
    execute(&database.url, "UPDATE services SET settings = '{' WHERE id = 1").await;
    let recorded = store.record(vec![result(&bad, slot, 0), result(&good, slot, 0)]).await.expect("recorded");
    assert_eq!(recorded.inserted, 1);
    let aside: Vec<_> = recorded.set_aside.iter().map(|(probe, why)| (probe.service, *why)).collect();
    assert_eq!(aside, [(bad.id, SetAside::Refused)]);
    let listed = store.services(&Default::default(), None, ALL).await.expect("a list");
    assert_eq!(listed.iter().map(|view| view.service.id).collect::<Vec<ServiceId>>(), [good.id]);
    assert_eq!(store.changes(Default::default(), ALL).await.expect("changes").len(), 1);
    store.sweep(None, ALL).await.expect("swept");
}

#[tokio::test]
async fn a_schema_of_a_newer_build_is_permanent_and_left_alone() {
    let database = Database::new().await;
    drop(open(&database.url).await);
    execute(
        &database.url,
        r"INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (20990101, 'newer', true, '\x00', 1)",
    )
    .await;
    let error = PostgresResultStore::connect(PostgresOptions::new(&database.url)).await.map(drop);
    let error = error.expect_err("a newer build made it");
    assert!(matches!(error, StoreError::Permanent(_)), "{error:?}");
    assert!(error.to_string().contains("schema is not this build's"), "{error}");
}

#[tokio::test]
async fn no_password_is_shown() {
    let urls = [
        "postgres://user:hunter2@127.0.0.1:1/db?password=hunter2",
        "postgres://user:hunter2@127.0.0.1:1,127.0.0.1:2/db",
        "postgres://user:hunter2@[::1/db",
        "mysql://user:hunter2@127.0.0.1:1/db",
        "user:hunter2@127.0.0.1",
        "postgres://user:hunter2@127.0.0.1:99999/db?sslmode=hunter2",
    ];
    for url in urls {
        let options = PostgresOptions {
            migrate_url: Some(url.to_owned()),
            connect_timeout: Duration::from_secs(1),
            ..PostgresOptions::new(url)
        };
        let shown = format!("{options:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let error = PostgresResultStore::connect(options).await.map(drop).expect_err("nobody is there");
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn a_state_that_changed_since_it_was_read_is_read_again() {
    let database = Database::new().await;
    let store = open(&database.url).await;
    let service = registered(&store, 1).await;
    let begin = an_hour_ago(&store).await;
    let mut other = PgConnection::connect(&database.url).await.expect("connected");
    let mut watch = PgConnection::connect(&database.url).await.expect("connected");
    // Once more often than it is tried without locks, and some.
    for round in 0..4 {
        let until = i64::MAX - round;
        let change = format!("BEGIN; UPDATE states SET maintenance_until = {until}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut other).await.expect("changed");
        let results = batch(&service, begin, 0..(u64::try_from(round).expect("small") + 1) * 10);
        let (recorded, ()) = tokio::join!(store.record(results), async {
            // It has read what was there before, and waits for the row.
            let waits =
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
            while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watch).await.expect("counted") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other.execute("COMMIT").await.expect("committed");
        });
        assert_eq!(recorded.expect("recorded").inserted, 10);
        let kept: i64 =
            sqlx::query_scalar("SELECT maintenance_until FROM states").fetch_one(&mut watch).await.expect("it");
        assert_eq!(kept, until, "what another wrote stays");
    }
    assert_holds(&store, &service, &batch(&service, begin, 0..40)).await;
}
