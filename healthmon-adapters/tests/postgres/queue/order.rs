//! In which order results come, and to whom.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use healthmon_core::{
    id::{Region, ServiceId},
    memory::QueueLimits,
    ports::{Completion, ProbeQueue, ResultDelivery},
    probe::{Kind, Probe},
    shard::ShardCount,
    time::Slot,
};
use sqlx::{Connection, Executor, PgConnection, Row};

use super::{PATIENCE, ack, consumer, open, passed, probes, pull_all, pull_results, real, service};
use crate::support::{Database, execute};

/// Transactions that store results of a latency of 42 µs stay open for as long as this lock is held.
const HOLD: &str = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'; \
     CREATE TRIGGER hold AFTER INSERT ON queued_results FOR EACH ROW WHEN (NEW.latency = 42) EXECUTE FUNCTION hold()";

/// Two services of one shard.
fn neighbours() -> [u64; 2] {
    let shard = |number| ShardCount::default().shard_of(ServiceId::new(number).expect("an id"));
    let other = (2..).find(|number| shard(*number) == shard(1)).expect("one in 64");
    [1, other]
}

/// Probes of a service at one slot after the other, taken by a worker and passed.
async fn done(queue: &dyn ProbeQueue, number: u64, slots: u64) -> Vec<Completion> {
    let now = real().now();
    let (service, begin) = (service(number, now), Slot::at(now.before(Duration::from_secs(30))));
    let probe = |n| {
        let slot = begin.after(Duration::from_secs(n));
        Probe::new(Arc::clone(&service), Region::default(), slot, Kind::Edge)
    };
    queue.enqueue((0..slots).map(probe).collect()).await.expect("enqueued");
    let mut done = passed(&pull_all(queue).await);
    done.sort_by_key(|completion| completion.result.id.slot);
    done
}

fn slots(taken: &[ResultDelivery], done: &[Completion]) -> Vec<usize> {
    let place = |taken: &ResultDelivery| done.iter().position(|one| one.result.id == taken.result.id);
    taken.iter().filter_map(place).collect()
}

/// Waits until a transaction is held.
async fn held(watcher: &mut PgConnection) {
    let look = async || {
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let row = sqlx::query(waiting).fetch_one(&mut *watcher).await.expect("read");
        (row.get::<i64, _>(0) > 0).then_some(())
    };
    real().until(PATIENCE, "the transaction is held", look).await;
}

#[tokio::test]
async fn a_services_results_come_in_order_across_recorders_while_commits_come_out_of_order() {
    let database = Database::new().await;
    let limits = QueueLimits { drain_lease: Duration::from_mins(10), ..QueueLimits::shared() };
    let (queue, other) = (open(&database.url, &["local"], limits).await, open(&database.url, &["local"], limits).await);
    execute(&database.url, HOLD).await;
    let mut lock = PgConnection::connect(&database.url).await.expect("connected");
    lock.execute("SELECT pg_advisory_lock(7)").await.expect("locked");
    let [steady, stuck] = neighbours();
    let mut late = done(&*queue, stuck, 2).await;
    let done = done(&*queue, steady, 6).await;
    // Its results have the least numbers, and are not committed for now.
    late.iter_mut().for_each(|completion| completion.result.seen.latency_us = 42);
    let (slow, first) = (Arc::clone(&other), late[..1].to_vec());
    let slow = tokio::spawn(async move { slow.complete(first).await });
    held(&mut lock).await;
    // Meanwhile the service's next result is completed and another service's too.
    let mut next = late[1].clone();
    next.result.seen.latency_us = 7;
    queue.complete(vec![next]).await.expect("completed");
    queue.complete(done[..2].to_vec()).await.expect("completed");
    let (one, two) = (consumer("one"), consumer("two"));
    let handed = pull_results(&*queue, &one).await;
    assert_eq!((slots(&handed, &done), slots(&handed, &late)), (vec![0, 1], vec![1]));
    assert_eq!(pull_results(&*queue, &one).await, [], "nothing twice");
    lock.execute("SELECT pg_advisory_unlock(7)").await.expect("unlocked");
    slow.await.expect("no panic").expect("completed");
    other.complete(done[2..4].to_vec()).await.expect("completed");
    let more = pull_results(&*queue, &one).await;
    assert_eq!(slots(&more, &late), [0], "what was numbered earlier and committed later is not passed over");
    assert_eq!(slots(&more, &done), [2, 3]);
    // All of it is another's now, but for what was acknowledged, and in the order of numbers.
    let acknowledged: Vec<_> =
        handed.iter().filter(|taken| slots(&[(*taken).clone()], &done) == [0]).cloned().collect();
    ack(&*queue, &one, &acknowledged).await;
    queue.release(&one).await.expect("released");
    queue.complete(done[4..].to_vec()).await.expect("completed");
    let all = pull_results(&*other, &two).await;
    assert_eq!(slots(&all, &done), [1, 2, 3, 4, 5]);
    assert_eq!(slots(&all, &late), [0, 1]);
    ack(&*other, &two, &all).await;
    assert_eq!(other.depth().await.expect("the depth").results, 0);
}

#[tokio::test]
async fn recorders_share_the_shards_once_they_are_there_for_a_lease() {
    let database = Database::new().await;
    let limits = QueueLimits { drain_lease: Duration::from_secs(3), ..QueueLimits::shared() };
    let (queue, other) = (open(&database.url, &["local"], limits).await, open(&database.url, &["local"], limits).await);
    let (one, two) = (consumer("one"), consumer("two"));
    assert_eq!(pull_results(&*queue, &one).await, []);
    let (mut round, mut counts) = (0, BTreeMap::new());
    real()
        .until(PATIENCE, "each has about half", async || {
            round += 1;
            queue.enqueue(probes(round * 1_000, 300)).await.expect("enqueued");
            queue.complete(passed(&pull_all(&*queue).await)).await.expect("completed");
            let (a, b) = (pull_results(&*queue, &one).await, pull_results(&*other, &two).await);
            ack(&*queue, &one, &a).await;
            ack(&*other, &two, &b).await;
            counts.insert(round, (a.len(), b.len()));
            (a.len() > 100 && b.len() > 100).then_some(())
        })
        .await;
    assert_eq!(counts.get(&1), Some(&(300, 0)), "a newcomer takes nothing away");
    // And when one is gone, the other has all again.
    queue.release(&one).await.expect("released");
    real()
        .until(PATIENCE, "the other has all", async || {
            round += 1;
            queue.enqueue(probes(round * 1_000, 300)).await.expect("enqueued");
            queue.complete(passed(&pull_all(&*queue).await)).await.expect("completed");
            let all = pull_results(&*other, &two).await;
            ack(&*other, &two, &all).await;
            (all.len() >= 300).then_some(())
        })
        .await;
}
