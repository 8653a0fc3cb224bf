//! A primary fails and a standby is promoted.

use std::sync::Arc;

use healthmon_adapters::{
    postgres::{PostgresOptions, PostgresResultStore},
    servers::{PrivatePostgres, StopMode},
};
use healthmon_core::{id::Seq, ports::ResultStore};
use sqlx::{Connection, PgConnection};

use crate::support::{ALL, an_hour_ago, assert_holds, batch, execute, patiently, registered};

/// Both hosts in one URL.
fn both(one: &PrivatePostgres, two: &PrivatePostgres) -> PostgresOptions {
    PostgresOptions::new(format!("postgres://healthmon@127.0.0.1:{},127.0.0.1:{}/postgres", one.port(), two.port()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("joined").expect("done")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_that_is_promoted_has_everything_and_the_log_goes_on() {
    let primary = blocking(|| PrivatePostgres::start_with(&[("synchronous_standby_names", "one")])).await;
    let primary = Arc::new(primary);
    let from = Arc::clone(&primary);
    let standby = Arc::new(blocking(move || from.replica("one")).await);
    // The standby first: it is not what comes first that is taken, but what writes.
    let store = PostgresResultStore::connect(both(&standby, &primary)).await.expect("connected");
    let service = registered(&store, 1).await;
    let begin = an_hour_ago(&store).await;
    patiently(async || store.record(batch(&service, begin, 0..50)).await).await;
    let before = store.head().await.expect("the head");
    assert_eq!(before.head, Seq(50));

    let (stopped, promoted) = (Arc::clone(&primary), Arc::clone(&standby));
    blocking(move || stopped.stop(StopMode::Immediate)).await;
    blocking(move || promoted.promote()).await;
    // It has no standby of its own to wait for.
    execute(&standby.url("postgres"), "ALTER SYSTEM SET synchronous_standby_names = ''").await;
    execute(&standby.url("postgres"), "SELECT pg_reload_conf()").await;

    let more = patiently(async || store.record(batch(&service, begin, 50..60)).await).await;
    assert_eq!((more.inserted, more.entries[0].seq), (10, Seq(51)));
    let after = patiently(async || store.head().await).await;
    assert_eq!((after.log, after.head), (before.log.clone(), Seq(60)), "it is the same log");
    assert_holds(&store, &service, &batch(&service, begin, 0..60)).await;
    let fresh = PostgresResultStore::connect(both(&primary, &standby)).await.expect("connected");
    assert_eq!(fresh.head().await.expect("the head").log, before.log, "for everybody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_entries_to_a_failover_is_another_log() {
    let primary = Arc::new(blocking(|| PrivatePostgres::start_with(&[])).await);
    let from = Arc::clone(&primary);
    let standby = Arc::new(blocking(move || from.replica("behind")).await);
    let store = PostgresResultStore::connect(both(&primary, &standby)).await.expect("connected");
    let service = registered(&store, 1).await;
    let begin = an_hour_ago(&store).await;
    store.record(batch(&service, begin, 0..20)).await.expect("recorded");
    caught_up(&primary, &standby).await;
    let stopped = Arc::clone(&standby);
    blocking(move || stopped.stop(StopMode::Fast)).await;
    // The standby will never have these.
    store.record(batch(&service, begin, 20..30)).await.expect("recorded");
    let before = store.head().await.expect("the head");
    assert_eq!(before.head, Seq(30));

    let (stopped, promoted) = (Arc::clone(&primary), Arc::clone(&standby));
    blocking(move || stopped.stop(StopMode::Immediate)).await;
    blocking(move || promoted.resume()).await;
    let promoted = Arc::clone(&standby);
    blocking(move || promoted.promote()).await;

    // A node that has just started knows nothing of what was lost, and one that runs on does.
    let fresh = patiently(async || PostgresResultStore::connect(both(&primary, &standby)).await).await;
    let other = fresh.head().await.expect("the head");
    assert_eq!(other.head, Seq(20));
    assert_ne!(other.log, before.log, "places 21 to 30 will be given to others");
    let after = patiently(async || store.head().await).await;
    assert_eq!(after, other, "every node says the same");
    // What the queue still has is recorded again.
    let again = patiently(async || store.record(batch(&service, begin, 10..30)).await).await;
    assert_eq!((again.inserted, again.repeated), (10, 10));
    assert_eq!(store.log(Seq(0), ALL).await.expect("the log").len(), 30);
    assert_eq!(fresh.head().await.expect("the head").log, other.log, "it changes once");
    assert_holds(&store, &service, &batch(&service, begin, 0..30)).await;
}

/// Waits until a standby has applied all that its primary has written.
async fn caught_up(primary: &PrivatePostgres, standby: &PrivatePostgres) {
    let mut primary = PgConnection::connect(&primary.url("postgres")).await.expect("connected");
    let mut standby = PgConnection::connect(&standby.url("postgres")).await.expect("connected");
    let wanted: String =
        sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&mut primary).await.expect("a place");
    let look = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn";
    for _ in 0..6_000 {
        if sqlx::query_scalar(look).bind(&wanted).fetch_one(&mut standby).await.expect("a look") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the standby does not catch up");
}
