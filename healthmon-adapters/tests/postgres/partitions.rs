//! Results' partitions: made ahead, let go of, and left out of queries that do not concern them.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use healthmon_adapters::{
    postgres::{PostgresOptions, PostgresResultStore},
    servers::PrivatePostgres,
};
use healthmon_core::{
    ports::{ResultQuery, ResultStore},
    time::Slot,
};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::{ALL, Database, an_hour_ago, batch, patiently, registered, result};

/// With results kept for two seconds, a partition is a second wide.
const RETENTION: Duration = Duration::from_secs(2);

async fn short_lived(database: &Database) -> PostgresResultStore {
    let options = PostgresOptions { retention: RETENTION, ..PostgresOptions::new(&database.url) };
    PostgresResultStore::connect(options).await.expect("connected")
}

/// The slots that the partitions begin with.
async fn partitions(connection: &mut PgConnection) -> Vec<i64> {
    sqlx::query_scalar(
        "SELECT substr(relname, 9)::bigint FROM pg_class WHERE relname ~ '^results_[0-9]+$' AND relkind = 'r' ORDER BY 1",
    )
    .fetch_all(connection)
    .await
    .expect("partitions")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_made_ahead_and_dropped_by_retention_while_others_write_and_sweep() {
    let database = Database::new().await;
    let (store, other) = (Arc::new(short_lived(&database).await), short_lived(&database).await);
    let service = registered(&store, 1).await;
    let mut connection = PgConnection::connect(&database.url).await.expect("connected");
    let now = store.now().await.expect("the time").as_millis();
    let first = partitions(&mut connection).await;
    assert!(first.iter().any(|from| *from > now), "the next ones are there before they are needed: {first:?}");
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop, service) = (Arc::clone(&store), Arc::clone(&stop), service.clone());
        async move {
            let (mut number, mut slowest) = (0, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let slot = Slot::at(store.now().await.expect("the time"));
                let begun = Instant::now();
                // Two results in one millisecond are one probe.
                let recorded = store.record(vec![result(&service, slot, number)]).await.expect("recorded");
                assert_eq!(recorded.set_aside, []);
                slowest = slowest.max(begun.elapsed());
                number += 1;
            }
            slowest
        }
    });
    // Two nodes sweep at once.
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let (one, two) = tokio::join!(store.sweep(None, ALL), other.sweep(None, ALL));
        one.and(two).expect("swept");
        let there = partitions(&mut connection).await;
        if first.iter().all(|from| !there.contains(from)) {
            assert!(there.len() <= 10, "as many as the retention needs: {there:?}");
            break;
        }
        assert!(Instant::now() < end, "the old partitions stay: {there:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let slowest = writer.await.expect("it wrote all the time");
    assert!(slowest < Duration::from_secs(3), "a writer waited for {slowest:?}");
}

#[tokio::test]
async fn a_reader_that_goes_on_for_long_keeps_its_partition_and_holds_up_no_writer() {
    let database = Database::new().await;
    let store = short_lived(&database).await;
    let service = registered(&store, 1).await;
    let old = Slot::at(store.now().await.expect("the time"));
    store.record(vec![result(&service, old, 0)]).await.expect("recorded");
    let mut reader = PgConnection::connect(&database.url).await.expect("connected");
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM results").await.expect("read");
    let mut watch = PgConnection::connect(&database.url).await.expect("connected");
    let is_pending = "SELECT count(*) > 0 FROM pg_inherits WHERE inhdetachpending";
    let end = Instant::now() + Duration::from_secs(30);
    while !sqlx::query_scalar::<_, bool>(is_pending).fetch_one(&mut watch).await.expect("a look") {
        assert!(Instant::now() < end, "nothing is being let go of");
        patiently(async || store.sweep(None, ALL).await).await;
    }
    for number in 1..20 {
        let begun = Instant::now();
        let slot = Slot::at(store.now().await.expect("the time"));
        store.record(vec![result(&service, slot, number)]).await.expect("recorded");
        assert!(begun.elapsed() < Duration::from_secs(2), "a writer waited for {:?}", begun.elapsed());
    }
    reader.execute("COMMIT").await.expect("done");
    let end = Instant::now() + Duration::from_secs(30);
    while partitions(&mut watch).await.contains(&(old.as_millis() / 1_000 * 1_000)) {
        assert!(Instant::now() < end, "the partition stays for ever");
        patiently(async || store.sweep(None, ALL).await).await;
    }
}

/// The plan of the last query that the server has run on results.
fn last_plan(server: &PrivatePostgres) -> String {
    let log = server.log().expect("the log");
    let (_, plan) = log.rsplit_once("plan:").expect("a plan");
    plan.to_owned()
}

/// The partitions in a plan that were not left out when it ran; the one that is being filled ahead of
/// time is looked into as well.
fn looked_into(plan: &str) -> BTreeSet<&str> {
    let scans = plan.lines().filter(|line| line.contains(" on results_") && !line.contains("never executed"));
    scans
        .filter(|line| !line.contains("rows=0 "))
        .filter_map(|line| line.split(" on ").nth(1)?.split(' ').next())
        .collect()
}

#[tokio::test]
async fn a_page_of_results_looks_only_into_the_partitions_that_it_needs() {
    let server = PrivatePostgres::start_with(&[
        ("fsync", "off"),
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
    ])
    .expect("PostgreSQL starts");
    // A day, cut into eight.
    let options =
        PostgresOptions { retention: Duration::from_hours(24), ..PostgresOptions::new(server.url("postgres")) };
    let store = PostgresResultStore::connect(options).await.expect("connected");
    let service = registered(&store, 1).await;
    let newest = an_hour_ago(&store).await;
    for hours in 0..8 {
        let begin = Slot::at(newest.time().before(Duration::from_hours(hours * 3 - hours / 7)));
        store.record(batch(&service, begin, 0..50)).await.expect("recorded");
    }
    let ten = NonZeroUsize::new(10).expect("some");

    let query =
        ResultQuery { from: Some(newest), to: Some(newest.after(Duration::from_secs(1))), ..Default::default() };
    assert_eq!(store.results(service.id, &query, ten).await.expect("a page").len(), 10);
    let plan = last_plan(&server);
    assert_eq!(looked_into(&plan).len(), 1, "one partition is enough:{plan}");

    assert_eq!(store.results(service.id, &ResultQuery::default(), ten).await.expect("a page").len(), 10);
    let plan = last_plan(&server);
    assert!(looked_into(&plan).len() <= 2, "the newest partitions fill the page:{plan}");
    assert!(
        plan.contains("Index Only Scan Backward using results_") || plan.contains("Index Scan Backward using results_"),
        "by the index, without sorting it all:{plan}"
    );
}
