//! Sums of whole hours: made once, made again for what came late, by any number of nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use healthmon_adapters::postgres::{PostgresOptions, PostgresResultStore};
use healthmon_core::{
    id::{Region, ServiceId},
    ports::{ResultStore, StoreError},
    probe::{FailReason, IndeterminateReason, Observation, Outcome, ProbeResult},
    service::Service,
    summary::{Histogram, Summary},
    time::Slot,
};
use sqlx::{Connection, PgConnection};

use crate::support::{ALL, Database, execute, patiently, registered, result};

const HOUR_MS: i64 = 3_600_000;
const HOUR: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

async fn open(database: &Database) -> PostgresResultStore {
    let options = PostgresOptions { max_connections: 2, ..PostgresOptions::new(&database.url) };
    PostgresResultStore::connect(options).await.expect("connected")
}

/// The beginning of the hour so many hours ago.
async fn hour(store: &PostgresResultStore, ago: u32) -> Slot {
    let now = store.now().await.expect("the time");
    Slot::from_millis(now.before(HOUR * ago).as_millis() / HOUR_MS * HOUR_MS)
}

/// Results of every outcome from two regions, a minute apart.
fn motley(service: &Service, begin: Slot, minutes: std::ops::Range<u32>) -> Vec<ProbeResult> {
    let outcomes = [
        Outcome::Pass,
        Outcome::Slow,
        Outcome::Fail(FailReason::Dns),
        Outcome::Fatal(FailReason::Tls),
        Outcome::Pass,
        Outcome::Indeterminate(IndeterminateReason::Expired),
    ];
    let one = |minute: u32| {
        let mut one = result(service, begin.after(MINUTE * minute), 0);
        one.seen = Observation::new(outcomes[minute as usize % 6], MINUTE / (minute % 50 + 1));
        if minute.is_multiple_of(7) {
            one.id.region = Region::new("east").expect("a region");
        }
        one
    };
    minutes.map(one).collect()
}

async fn sum(store: &PostgresResultStore, id: ServiceId, from: Slot, to: Slot) -> Summary {
    store.summary(id, from, to).await.expect("a summary").expect("a service").summary
}

async fn number(database: &Database, query: &'static str) -> i64 {
    let mut connection = PgConnection::connect(&database.url).await.expect("a connection");
    sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a number")
}

/// Sweeps by new nodes, each of which looks at once, until all is summed that can be.
async fn settle(database: &Database) {
    const LEFT: &str = "SELECT (SELECT count(*) FROM rollup_late) + greatest(0, coalesce(\
         (SELECT floor((extract(epoch FROM clock_timestamp()) - 900) / 3600)::bigint - hour FROM rollup_progress), 1))";
    for _ in 0..60 {
        patiently(async || open(database).await.sweep(None, ALL).await).await;
        if number(database, LEFT).await == 0 {
            return;
        }
    }
    panic!("hours stay without a sum");
}

#[tokio::test]
async fn an_hour_that_is_summed_is_not_added_up_again() {
    let database = Database::new().await;
    let store = open(&database).await;
    let (one, other) = (registered(&store, 1).await, registered(&store, 2).await);
    let begin = hour(&store, 8).await;
    let results = motley(&one, begin, 0..300);
    store.record(results.clone()).await.expect("recorded");
    store.record(motley(&other, begin, 0..100)).await.expect("recorded");
    let expected: Summary = results.iter().collect();
    let span = (begin, begin.after(HOUR * 6));
    assert_eq!(sum(&store, one.id, span.0, span.1).await, expected, "before anything is summed");
    settle(&database).await;
    assert_eq!(sum(&store, one.id, span.0, span.1).await, expected, "by the hours' sums");
    assert_eq!(number(&database, "SELECT count(*) FROM rollups").await, 5 * 2 + 2 * 2, "hours, regions, services");
    execute(&database.url, "DELETE FROM results").await;
    assert_eq!(sum(&store, one.id, span.0, span.1).await, expected, "the results are not looked at");
    let within = (begin.after(MINUTE * 30), begin.after(HOUR * 4));
    let whole: Summary = results[60..240].iter().collect();
    assert_eq!(sum(&store, one.id, within.0, within.1).await, whole, "but for those of half an hour");
}

#[tokio::test]
async fn a_database_of_before_there_were_sums_is_summed_from_its_beginning() {
    let database = Database::new().await;
    let store = open(&database).await;
    let service = registered(&store, 1).await;
    let begin = hour(&store, 180).await;
    let results = motley(&service, begin, 0..10_100);
    for part in results.chunks(2_525).rev() {
        store.record(part.to_vec()).await.expect("recorded");
    }
    execute(&database.url, "DELETE FROM rollup_late; DELETE FROM rollup_progress; DELETE FROM rollups").await;
    settle(&database).await;
    execute(&database.url, "DELETE FROM results").await;
    let expected: Summary = results.iter().collect();
    assert_eq!(sum(&store, service.id, begin, begin.after(HOUR * 170)).await, expected);
}

#[tokio::test]
async fn a_late_result_is_summed_at_once_and_its_hour_again_by_the_sweep() {
    let database = Database::new().await;
    let store = open(&database).await;
    let service = registered(&store, 1).await;
    let begin = hour(&store, 8).await;
    let mut results = motley(&service, begin, 0..300);
    let late: Vec<ProbeResult> = (0..15).rev().map(|n| results.remove(n * 20)).collect();
    store.record(results.clone()).await.expect("recorded");
    settle(&database).await;
    // A node that does not know yet what is summed, and one that does.
    let (early, rest) = late.split_at(7);
    let to = begin.after(HOUR * 6);
    for (node, part) in [(&open(&database).await, early), (&store, rest)] {
        node.record(part.to_vec()).await.expect("recorded");
        results.extend(part.iter().cloned());
        let expected: Summary = results.iter().collect();
        assert_eq!(sum(&store, service.id, begin, to).await, expected, "late ones are in it at once");
        assert!(number(&database, "SELECT count(*) FROM rollup_late").await > 0);
        settle(&database).await;
        assert_eq!(sum(&store, service.id, begin, to).await, expected, "and in the hours' sums");
    }
    // Older than anything that was summed: from before the first partition.
    let older = result(&service, hour(&store, 100).await, 0);
    store.record(vec![older.clone()]).await.expect("recorded");
    results.push(older.clone());
    let expected: Summary = results.iter().collect();
    for _ in 0..2 {
        assert_eq!(sum(&store, service.id, older.id.slot, to).await, expected);
        settle(&database).await;
    }
    store.record(late.clone()).await.expect("recorded");
    assert_eq!(sum(&store, service.id, older.id.slot, to).await, expected, "a repeat is not summed");
    execute(&database.url, "DELETE FROM results; DELETE FROM rollup_late").await;
    assert_eq!(sum(&store, service.id, older.id.slot, to).await, expected, "all of it is in the hours' sums");
}

#[tokio::test]
async fn what_is_recorded_in_time_is_not_noted_as_late() {
    let database = Database::new().await;
    let store = open(&database).await;
    let service = registered(&store, 1).await;
    let now = Slot::at(store.now().await.expect("the time").before(MINUTE * 5));
    store.record(vec![result(&service, now, 0), result(&service, now.after(MINUTE), 1)]).await.expect("recorded");
    assert_eq!(number(&database, "SELECT count(*) FROM rollup_late").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_sum_at_once_while_others_record_lose_nothing() {
    let database = Database::new().await;
    let store = Arc::new(open(&database).await);
    let mut services = Vec::new();
    for number in 1..=20 {
        services.push(registered(&store, number).await);
    }
    let begin = hour(&store, 12).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sweeping: Vec<_> = (0..3)
        .map(|_| {
            let (stop, url) = (Arc::clone(&stop), database.url.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let options = PostgresOptions { max_connections: 2, ..PostgresOptions::new(&url) };
                    let node = PostgresResultStore::connect(options).await.expect("connected");
                    let swept = node.sweep(None, ALL).await;
                    assert!(matches!(swept, Ok(_) | Err(StoreError::Transient { .. })), "{swept:?}");
                    node.close().await;
                }
            })
        })
        .collect();
    // All of it is late: every hour is summed again and again.
    let mut expected: Vec<Summary> = vec![Summary::default(); services.len()];
    for round in 0..60u32 {
        let mut batch = Vec::new();
        for (service, sum) in services.iter().zip(&mut expected) {
            let results: Vec<ProbeResult> =
                (0..10).flat_map(|hour| motley(service, begin, hour * 60 + round..hour * 60 + round + 1)).collect();
            sum.extend(&results);
            batch.extend(results);
        }
        patiently(async || store.record(batch.clone()).await).await;
        let checked = round as usize % services.len();
        let found = sum(&store, services[checked].id, begin, begin.after(HOUR * 10)).await;
        assert_eq!(found, expected[checked], "in the middle of it, round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    for sweeper in sweeping {
        sweeper.await.expect("it swept all the time");
    }
    settle(&database).await;
    execute(&database.url, "DELETE FROM results").await;
    for (service, expected) in services.iter().zip(&expected) {
        assert_eq!(sum(&store, service.id, begin, begin.after(HOUR * 10)).await, *expected, "in the hours' sums");
    }
}

#[tokio::test]
async fn sums_outlive_their_results_and_go_by_their_own_retention() {
    let database = Database::new().await;
    let store = open(&database).await;
    let service = registered(&store, 1).await;
    // Longer than the two days that a partition and the hours beside it are.
    let begin = hour(&store, 96).await;
    let results = motley(&service, begin, 0..180);
    store.record(results.clone()).await.expect("recorded");
    settle(&database).await;
    let options = PostgresOptions { retention: HOUR * 24, ..PostgresOptions::new(&database.url) };
    let forgetful = PostgresResultStore::connect(options.clone()).await.expect("connected");
    for _ in 0..20 {
        patiently(async || PostgresResultStore::connect(options.clone()).await?.sweep(None, ALL).await).await;
        if number(&database, "SELECT count(*) FROM results").await == 0 {
            break;
        }
    }
    assert_eq!(number(&database, "SELECT count(*) FROM results").await, 0, "they are past their retention");
    let asked = (begin.after(MINUTE * 30), begin.after(MINUTE * 150));
    let summed = forgetful.summary(service.id, asked.0, asked.1).await.expect("a summary").expect("a service");
    assert_eq!((summed.from, summed.to), (begin.after(HOUR), begin.after(HOUR * 2)), "whole hours are left");
    assert_eq!(summed.summary, results[60..120].iter().collect::<Summary>());
    // A month that is long gone.
    let month = (begin.as_millis() / HOUR_MS - 20_000) / 720 * 720;
    let old = format!(
        "CREATE TABLE rollups_{month} PARTITION OF rollups FOR VALUES FROM ({month}) TO ({}); \
         INSERT INTO rollups SELECT service_id, {month}, newest, pass, slow, fail, indeterminate, region_id, latency \
         FROM rollups LIMIT 1",
        month + 720
    );
    execute(&database.url, &old).await;
    let before = number(&database, "SELECT count(*) FROM rollups").await;
    patiently(async || PostgresResultStore::connect(options.clone()).await?.sweep(None, ALL).await).await;
    assert_eq!(number(&database, "SELECT count(*) FROM rollups").await, before - 1, "its sums are let go of");
}

#[tokio::test]
async fn the_database_puts_latencies_into_the_same_buckets() {
    let database = Database::new().await;
    let store = open(&database).await;
    let service = registered(&store, 1).await;
    let begin = hour(&store, 4).await;
    let edges = (0..Histogram::BUCKETS).map(Histogram::shortest_us);
    let latencies = edges.flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1]).chain([u32::MAX]);
    let results: Vec<ProbeResult> = (0..)
        .zip(latencies)
        .map(|(n, latency_us)| {
            let mut one = result(&service, begin.after(Duration::from_secs(n)), 0);
            one.seen = Observation { latency_us, ..Observation::new(Outcome::Pass, Duration::ZERO) };
            one
        })
        .collect();
    store.record(results.clone()).await.expect("recorded");
    let expected: Summary = results.iter().collect();
    for _ in 0..2 {
        assert_eq!(sum(&store, service.id, begin, begin.after(HOUR)).await, expected);
        settle(&database).await;
    }
    // More in one bucket than fit beside its number.
    let more: Vec<ProbeResult> =
        (2_000..3_500).map(|n| result(&service, begin.after(Duration::from_secs(n)), 0)).collect();
    store.record(more.clone()).await.expect("recorded");
    settle(&database).await;
    let expected: Summary = results.iter().chain(&more).collect();
    assert_eq!(sum(&store, service.id, begin, begin.after(HOUR)).await, expected);
}
