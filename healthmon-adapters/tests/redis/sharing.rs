//! Several nodes on one queue.

use std::{collections::BTreeSet, time::Duration};

use healthmon_adapters::{redis::RedisProbeQueue, servers::PrivateRedis};
use healthmon_core::{
    id::ClaimEpoch,
    memory::QueueLimits,
    ports::{Enqueued, ProbeQueue, QueueError},
    probe::{Kind, Probe},
    shard::{Claim, Shard, ShardCount},
    time::Slot,
};

use crate::support::{
    ALL, ack, at, clock, connect, connect_in, consumer, ids, ids_of, now, options, passed, probe, probes, pull,
    pull_results, region, say, until,
};

#[tokio::test]
async fn two_schedulers_enqueue_the_same_slots_and_each_is_handed_out_once() {
    let options = options();
    let (one, two) = (connect(&options).await, connect(&options).await);
    let begin = now();
    let mut all = Vec::new();
    // The second lags behind by a batch, as schedulers do that share a shard for a moment.
    let mut before = Vec::new();
    for millis in 0..20 {
        let batch = probes(1..=50, begin.after(Duration::from_millis(millis)));
        let first = one.enqueue(batch.clone()).await.unwrap();
        assert_eq!(first, Enqueued { accepted: 50, ..Enqueued::default() });
        let second = two.enqueue(std::mem::replace(&mut before, batch.clone())).await.unwrap();
        assert_eq!(second.accepted, 0);
        all.extend(batch);
    }
    let mut taken = Vec::new();
    loop {
        let some = pull(&two).await;
        if some.is_empty() {
            break;
        }
        taken.extend(some);
    }
    let mut expected = ids_of(&all);
    expected.sort_unstable();
    assert_eq!(ids(&taken), expected);
    one.complete(passed(&taken)).await.unwrap();
    // Redis itself refuses what it has had, done or not.
    let again = two.enqueue(all).await.unwrap();
    assert_eq!(again, Enqueued { repeated: 1_000, ..Enqueued::default() });
    assert!(pull(&one).await.is_empty());
}

#[tokio::test]
async fn a_slot_that_comes_after_later_ones_is_no_repeat() {
    let queue = connect_in(&options(), &["local"], QueueLimits::default()).await;
    let begin = now();
    let early = probes(1..=200, begin.before(Duration::from_secs(5)));
    queue.enqueue(probes(201..=400, begin)).await.unwrap();
    let late = queue.enqueue(early.clone()).await.unwrap();
    assert_eq!(late, Enqueued { accepted: 200, ..Enqueued::default() });
    let again = queue.enqueue(early).await.unwrap();
    assert_eq!(again, Enqueued { repeated: 200, ..Enqueued::default() });
    assert_eq!(pull(&queue).await.len(), 400);
}

#[tokio::test]
async fn edge_and_manual_probes_of_one_slot_are_three_probes_and_each_comes_once() {
    let queue = connect(&options()).await;
    let of = |kind| Probe { id: healthmon_core::probe::ProbeId { kind, ..probe(1, now()).id }, ..probe(1, now()) };
    let slot = Slot::at(now());
    let all: Vec<Probe> = [Kind::Scheduled, Kind::Edge, Kind::Manual]
        .map(|kind| {
            let mut probe = of(kind);
            probe.id.slot = slot;
            probe
        })
        .into();
    assert_eq!(queue.enqueue(all.clone()).await.unwrap().accepted, 3);
    assert_eq!(queue.enqueue(all.clone()).await.unwrap().repeated, 3);
    let taken = pull(&queue).await;
    assert_eq!(ids(&taken), ids_of(&all));
    queue.complete(passed(&taken)).await.unwrap();
    assert_eq!(queue.enqueue(all).await.unwrap().repeated, 3, "also when they are done");
}

#[tokio::test]
async fn a_stale_epoch_is_fenced_even_across_batches_and_nodes() {
    let options = options();
    let (old, new) = (connect(&options).await, connect(&options).await);
    let claim = |epoch| Claim { shard: Shard(9), epoch: ClaimEpoch(epoch) };
    let under = |number, epoch| probe(number, now()).under(claim(epoch));
    // None is too small for a shard that was never claimed.
    let nothing = probe(1_000, now()).under(Claim { shard: Shard(40), epoch: ClaimEpoch(0) });
    assert_eq!(old.enqueue(vec![nothing]).await.unwrap().accepted, 1);
    // Epochs are compared as 64 bits are, and 9 is less than 10.
    for (epoch, newer) in [(9, 10), (u64::from(u32::MAX), 1 << 40), (u64::MAX - 1, u64::MAX)] {
        let first = epoch ^ newer;
        assert_eq!(old.enqueue(vec![under(first | 1, epoch)]).await.unwrap().accepted, 1);
        assert_eq!(new.enqueue(vec![under((first | 1) + 1, newer)]).await.unwrap().accepted, 1);
        for _ in 0..2 {
            let stale = old.enqueue(vec![under((first | 1) + 2, epoch)]).await.unwrap();
            assert_eq!(stale, Enqueued { fenced: 1, ..Enqueued::default() });
        }
    }
    assert_eq!(pull(&new).await.len(), 7);
}

#[tokio::test]
async fn a_worker_gets_the_probes_of_its_own_regions_only() {
    let options = options();
    let here = connect_in(&options, &["local"], QueueLimits::default()).await;
    let there = connect_in(&options, &["moon", "mars"], QueueLimits::default()).await;
    let at = now();
    let of = |name: &str, number, kind| {
        let mut probe = probe(number, at);
        (probe.id.region, probe.id.kind) = (region(name), kind);
        probe
    };
    let mut all = Vec::new();
    for name in ["local", "moon", "mars"] {
        all.extend((1..=10).map(|number| of(name, number, Kind::Scheduled)));
        all.push(of(name, 1, Kind::Edge));
    }
    assert_eq!(here.enqueue(all).await.unwrap().accepted, 33);
    let regions = |taken: &[healthmon_core::ports::Delivery]| -> BTreeSet<String> {
        taken.iter().map(|delivery| delivery.probe.id.region.to_string()).collect()
    };
    let (local, others) = (pull(&here).await, pull(&there).await);
    assert_eq!((local.len(), regions(&local)), (11, ["local".to_owned()].into()));
    assert_eq!((others.len(), regions(&others)), (22, ["mars".to_owned(), "moon".to_owned()].into()));
}

#[tokio::test]
async fn results_of_a_service_come_in_slot_order_across_a_recorder_change() {
    let options = options();
    let (one, two) = (connect(&options).await, connect(&options).await);
    let begin = now().before(Duration::from_secs(10));
    let mut seen = Vec::new();
    for round in 0..6 {
        let batch: Vec<Probe> =
            (0..10).map(|slot| probe(7, begin.after(Duration::from_millis(round * 10 + slot)))).collect();
        one.enqueue(batch).await.unwrap();
        let mut taken = pull(&one).await;
        taken.sort_by_key(|delivery| delivery.probe.id.slot);
        one.complete(passed(&taken)).await.unwrap();
        // Now one recorder, now the other; each leaves half of what it has for its successor.
        let (queue, name) = if round % 2 == 0 { (&one, "one") } else { (&two, "two") };
        let results = pull_results(queue, name).await;
        let half = &results[..results.len() / 2];
        ack(queue, name, half).await;
        seen.extend(half.iter().map(|taken| taken.result.id.slot));
        queue.release(&consumer(name)).await.unwrap();
    }
    seen.extend(pull_results(&two, "last").await.iter().map(|taken| taken.result.id.slot));
    assert_eq!(seen.len(), 60, "each once");
    assert!(seen.is_sorted(), "{seen:?}");
}

#[tokio::test]
async fn recorders_come_to_share_the_shards_and_each_result_goes_to_one() {
    let options = options();
    let (one, two) = (connect(&options).await, connect(&options).await);
    let (mut first, mut second) = (0, 0);
    let (mut number, begin) = (0, now());
    until("both record", async || {
        let batch = probes(number + 1..=number + 100, begin);
        number += 100;
        one.enqueue(batch).await.unwrap();
        let taken = pull(&one).await;
        one.complete(passed(&taken)).await.unwrap();
        let (of_one, of_two) = (pull_results(&one, "one").await, pull_results(&two, "two").await);
        let own: BTreeSet<_> = of_one.iter().map(|taken| taken.receipt.stream).collect();
        assert!(of_two.iter().all(|taken| !own.contains(&taken.receipt.stream)), "a shard is drained by one");
        ack(&one, "one", &of_one).await;
        ack(&two, "two", &of_two).await;
        (first, second) = (first + of_one.len(), second + of_two.len());
        (number >= 2_000 && second > 0).then_some(())
    })
    .await;
    let rest = pull_results(&one, "one").await.len() + pull_results(&two, "two").await.len();
    assert_eq!(u64::try_from(first + second + rest).unwrap(), number);
    assert!(second * 3 > first, "a fair share: {first} and {second}");
}

#[tokio::test]
async fn a_recorder_that_lost_its_right_acknowledges_nothing_of_its_successors() {
    let options = options();
    let limits = QueueLimits { drain_lease: Duration::from_millis(200), ..QueueLimits::default() };
    let (one, two) = (connect_in(&options, &[], limits).await, connect_in(&options, &["local"], limits).await);
    two.enqueue(probes(1..=20, now())).await.unwrap();
    let taken = pull(&two).await;
    two.complete(passed(&taken)).await.unwrap();
    let stale = pull_results(&one, "one").await;
    assert_eq!(stale.len(), 20);
    let successor = until("the other has them", async || {
        let taken = pull_results(&two, "two").await;
        (taken.len() == 20).then_some(taken)
    })
    .await;
    ack(&one, "one", &stale).await;
    assert_eq!(two.depth().await.unwrap().results, 20, "they are the successor's");
    ack(&two, "two", &successor).await;
    assert_eq!(two.depth().await.unwrap().results, 0);
}

#[tokio::test]
async fn a_node_that_was_told_another_number_of_shards_is_refused() {
    let options = options();
    let _queue = connect(&options).await;
    let shards = ShardCount::new(16).unwrap();
    let other = RedisProbeQueue::connect(options, vec![region("local")], shards, QueueLimits::default(), clock());
    let Err(QueueError::Permanent(error)) = other.await else { panic!("it connected") };
    assert_eq!(error.to_string(), "the queue is cut into 64 shards, and this node was told 16");
}

#[tokio::test]
async fn a_queue_that_lies_as_another_version_left_it_is_refused() {
    let server = PrivateRedis::start().unwrap();
    for (key, left, layout) in [("shards", "64", 1), ("layout", "9 64", 9)] {
        let options = at(&server.url(0));
        say(&server, &format!("SET {{{}}}:{key} \"{left}\"", options.prefix));
        let regions = vec![region("local")];
        let limits = QueueLimits::default();
        let queue = RedisProbeQueue::connect(options, regions, ShardCount::default(), limits, clock()).await;
        let Err(QueueError::Permanent(error)) = queue else { panic!("it connected") };
        let said = error.to_string();
        assert!(said.contains(&format!("(layout {layout}, this one knows 3)")), "{said}");
    }
}

#[tokio::test]
async fn prefixes_keep_deployments_apart() {
    let server = options();
    let other = options();
    let (here, there) = (connect(&server).await, connect(&other).await);
    here.enqueue(probes(1..=5, now())).await.unwrap();
    assert!(there.pull(ALL, Duration::ZERO).await.unwrap().is_empty());
    assert_eq!(here.pull(ALL, Duration::ZERO).await.unwrap().len(), 5);
    assert_ne!(at("redis://127.0.0.1").prefix, server.prefix);
}
