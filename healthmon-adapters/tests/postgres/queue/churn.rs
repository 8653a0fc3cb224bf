//! Many workers, many rounds.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use healthmon_core::{memory::QueueLimits, ports::ProbeQueue, probe::Kind};
use sqlx::{Connection, PgConnection, Row};

use super::{ack, consumer, ids, open, passed, patiently, probes, pull_all, pull_results, region};
use crate::support::{Database, execute};

#[tokio::test]
async fn workers_of_several_nodes_never_share_a_probe() {
    let database = Database::new().await;
    let open = || open(&database.url, &["local"], QueueLimits::shared());
    let queues = [open().await, open().await, open().await];
    let (all, is_all_in) = (probes(1, 3_000), AtomicBool::new(false));
    let work = async |queue: &dyn ProbeQueue, most: usize| {
        let (mut taken, most) = (Vec::new(), NonZeroUsize::new(most).expect("some"));
        loop {
            let is_last = is_all_in.load(Ordering::SeqCst);
            let some = patiently(async || queue.pull(most, Duration::from_secs(1)).await).await;
            if some.is_empty() {
                if is_last {
                    return taken;
                }
                continue;
            }
            patiently(async || queue.complete(passed(&some)).await).await;
            taken.extend(some);
        }
    };
    let workers = join_all((0..9).map(|n| work(&*queues[n % 3], 7 + 13 * n)));
    // Put in by two at once, in another order each, all of it by both.
    let scheduling = async {
        let (mut accepted, back) = (0, all.iter().rev().cloned().collect::<Vec<_>>());
        for (a, b) in all.chunks(250).zip(back.chunks(250)) {
            let (a, b) = tokio::join!(
                patiently(async || queues[0].enqueue(a.to_vec()).await),
                patiently(async || queues[1].enqueue(b.to_vec()).await)
            );
            accepted += a.accepted + b.accepted;
        }
        is_all_in.store(true, Ordering::SeqCst);
        accepted
    };
    let (taken, accepted) = tokio::join!(workers, scheduling);
    let taken = taken.concat();
    assert_eq!(taken.len(), accepted, "each that was accepted once");
    assert!(taken.iter().all(|delivery| delivery.delivery == 1));
    let mut seen = ids(taken.iter().map(|delivery| &delivery.probe));
    // One that was done already when the second scheduler put it in is performed again.
    seen.dedup();
    assert_eq!(seen, ids(&all));
}

#[tokio::test]
async fn a_regions_worker_gets_only_its_regions_probes() {
    let database = Database::new().await;
    let open = |regions: &'static [&'static str]| open(&database.url, regions, QueueLimits::shared());
    let (here, there, nowhere) = (open(&["local"]).await, open(&["far-away", "further"]).await, open(&[]).await);
    let mut all = probes(1, 30);
    for (number, probe) in all.iter_mut().enumerate() {
        probe.id.region = region(["local", "far-away", "further"][number % 3]);
        probe.id.kind = [Kind::Scheduled, Kind::Manual][number % 2];
    }
    nowhere.enqueue(all.clone()).await.expect("a region that this node does not stand in is put in too");
    assert_eq!(pull_all(&*nowhere).await, []);
    let of = |name: &str| ids(all.iter().filter(|probe| probe.id.region.as_str() == name));
    let local = pull_all(&*here).await;
    assert_eq!(ids(local.iter().map(|delivery| &delivery.probe)), of("local"));
    let far = pull_all(&*there).await;
    let mut expected = [of("far-away"), of("further")].concat();
    expected.sort_unstable();
    assert_eq!(ids(far.iter().map(|delivery| &delivery.probe)), expected);
}

async fn size(connection: &mut PgConnection) -> i64 {
    let text = "SELECT sum(pg_total_relation_size(c))::bigint FROM unnest(ARRAY['queued_probes', 'queued_results', \
         'queue_epochs', 'queue_consumers', 'queue_drains']::regclass[]) c";
    sqlx::query(text).fetch_one(connection).await.expect("read").get(0)
}

#[tokio::test]
async fn tables_stay_as_small_as_what_lies_in_them_at_once_however_much_goes_through() {
    let database = Database::new().await;
    let queue = open(&database.url, &["local"], QueueLimits::shared()).await;
    let mut connection = PgConnection::connect(&database.url).await.expect("connected");
    let (one, mut sizes) = (consumer("one"), Vec::new());
    for round in 0..120u64 {
        queue.enqueue(probes(1 + round % 7 * 500, 500)).await.expect("enqueued");
        queue.complete(passed(&pull_all(&*queue).await)).await.expect("completed");
        let results = pull_results(&*queue, &one).await;
        assert_eq!(results.len(), 500);
        ack(&*queue, &one, &results).await;
        if round % 10 == 9 {
            // As autovacuum does after 10,000 dead rows; the tests do not wait for its minute.
            execute(&database.url, "VACUUM queued_probes").await;
            execute(&database.url, "VACUUM queued_results").await;
            sizes.push(size(&mut connection).await);
        }
    }
    // What grows with what goes through is twice as large after twice as much.
    let (half, whole) = (sizes[sizes.len() / 2 - 1], sizes[sizes.len() - 1]);
    assert!(whole <= half * 3 / 2, "{sizes:?}");
    let depth = queue.depth().await.expect("the depth");
    assert_eq!((depth.waiting, depth.in_flight, depth.results), (0, 0, 0));
}
