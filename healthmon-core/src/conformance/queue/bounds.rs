use std::time::Duration;

use super::{PATIENCE, QueueFixture, QueueSetup, ack, by_probe, consumer, ids, passed, pull, pull_results};
use crate::{
    conformance::samples::{ALL, many, probes},
    id::ClaimEpoch,
    ports::{Enqueued, MAX_DELIVERIES, QueueError},
    probe::{IndeterminateReason, Outcome, Probe},
    shard::{Claim, Shard},
};

/// A probe that nobody began by its start-by comes back as a result, `expired`, and is not handed out.
pub async fn a_probe_not_begun_by_its_start_by_comes_back_as_expired(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    let now = fixture.time.now();
    let mut probes = probes(1, 3, now);
    probes[0].start_by = now.after(Duration::from_millis(200));
    probes[1].start_by = now.before(Duration::from_millis(1));
    fixture.queue.enqueue(probes.clone()).await.expect("enqueued");
    fixture.time.pass(Duration::from_millis(250)).await;
    assert_eq!(ids(&pull(&*fixture.queue, ALL).await), [probes[2].id.clone()], "the others are too late to begin");
    let results = by_probe(fixture.take_results(&consumer("one"), 2).await);
    for probe in &probes[..2] {
        let result = results.get(&probe.id).expect("a result");
        assert_eq!(result.seen.outcome, Outcome::Indeterminate(IndeterminateReason::Expired));
        assert_eq!(result.epoch, probe.service.epoch);
    }
    assert_eq!(results.len(), 2);
}

/// Nor is a probe lost in silence when its worker vanished and its start-by passed meanwhile.
pub async fn a_probe_whose_worker_vanished_and_whose_start_by_passed_comes_back_as_a_result(
    make: impl AsyncFn(QueueSetup) -> QueueFixture,
) {
    let setup = QueueSetup { lease_margin: Duration::from_secs(5), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let mut probes = probes(1, 2, fixture.time.now());
    probes.iter_mut().for_each(|probe| probe.start_by = fixture.time.now().after(setup.lease() / 2));
    fixture.queue.enqueue(probes.clone()).await.expect("enqueued");
    fixture.take(2, ALL).await;
    let mut results = Vec::new();
    fixture
        .time
        .until(PATIENCE * 2, "they come back as results", async || {
            assert_eq!(pull(&*fixture.queue, ALL).await, [], "their start-by has passed");
            results.extend(pull_results(&*fixture.queue, &consumer("one")).await);
            (results.len() >= 2).then_some(())
        })
        .await;
    for result in by_probe(results).values() {
        assert!(matches!(result.seen.outcome, Outcome::Indeterminate(_)), "{result:?}");
    }
}

/// A probe that worker after worker takes and never completes comes back as a result, `poison`.
pub async fn a_probe_handed_out_too_often_comes_back_as_poison(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { lease_margin: Duration::from_millis(100), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let probe: Vec<Probe> = fixture.filled(1).await;
    let (mut handed_out, mut results) = (0, Vec::new());
    fixture
        .time
        .until(PATIENCE, "it comes back as a result", async || {
            for delivery in pull(&*fixture.queue, ALL).await {
                handed_out += 1;
                assert_eq!(delivery.delivery, handed_out, "the hand-outs are counted");
            }
            results.extend(pull_results(&*fixture.queue, &consumer("one")).await);
            results.first().map(|_| ())
        })
        .await;
    assert_eq!(handed_out, MAX_DELIVERIES);
    assert_eq!(results[0].result.id, probe[0].id);
    assert_eq!(results[0].result.seen.outcome, Outcome::Indeterminate(IndeterminateReason::Poison));
    fixture.time.pass(setup.lease() * 2).await;
    assert_eq!(pull(&*fixture.queue, ALL).await, [], "and nobody is given it any more");
}

/// Fills a queue one by one until it refuses; returns how many it took.
async fn fill(fixture: &QueueFixture, setup: QueueSetup) -> u64 {
    for probe in probes(1, 2 * setup.capacity as u64, fixture.time.now()) {
        let number = probe.id.service.get();
        match fixture.queue.enqueue(vec![probe]).await {
            Ok(enqueued) => assert_eq!(enqueued.accepted, 1),
            Err(QueueError::Full { retry_after }) => {
                assert!(retry_after < Duration::from_mins(1), "it may be tried again soon");
                return number - 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a queue for {} took {}", setup.capacity, 2 * setup.capacity);
}

/// Probes of a claim older than the queue has seen for their shard are dropped, and no others.
pub async fn probes_of_a_stale_claim_are_dropped_and_counted(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    let claim = |shard, epoch| Claim { shard: Shard(shard), epoch: ClaimEpoch(epoch) };
    let all = probes(1, 7, fixture.time.now());
    let under = |at: usize, claim| all[at].clone().under(claim);
    let first = fixture.queue.enqueue(vec![under(0, claim(3, 7)), under(1, claim(4, 2))]).await.expect("enqueued");
    assert_eq!(first, Enqueued { accepted: 2, ..Enqueued::default() });
    let newer = fixture.other.enqueue(vec![under(2, claim(3, 8))]).await.expect("enqueued");
    assert_eq!(newer, Enqueued { accepted: 1, ..Enqueued::default() }, "whoever has claimed the shard since goes on");
    let mixed = vec![under(3, claim(3, 7)), under(4, claim(4, 2)), under(5, claim(3, 8)), all[6].clone()];
    let mixed = fixture.queue.enqueue(mixed).await.expect("enqueued");
    assert_eq!(mixed, Enqueued { accepted: 3, fenced: 1, ..Enqueued::default() });
    let taken = ids(&fixture.take(6, ALL).await);
    assert!(!taken.contains(&all[3].id), "the stale one is not handed out");
    assert_eq!(pull(&*fixture.queue, ALL).await, []);
}

/// A full queue refuses, and takes nothing of a batch that does not fit whole.
pub async fn a_full_queue_refuses_the_whole_batch(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { capacity: 20, lease_margin: Duration::from_mins(1), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let took = fill(&fixture, setup).await;
    assert!(0 < took && took <= setup.capacity as u64, "{took} of {}", setup.capacity);
    let (one, taken) = (consumer("one"), fixture.take(1, many(1)).await);
    fixture.queue.complete(passed(&taken)).await.expect("completed");
    let results = fixture.take_results(&one, 1).await;
    ack(&*fixture.queue, &one, &results).await;
    // There is room for one now, and not for a batch of this many.
    let before = fixture.depth().await;
    let batch = probes(1_000, setup.capacity as u64, fixture.time.now());
    let refused = fixture.other.enqueue(batch).await;
    assert!(matches!(refused, Err(QueueError::Full { .. })), "{refused:?}");
    assert_eq!(fixture.depth().await.waiting, before.waiting, "nothing of the batch was taken");
    let single = probes(2_000, 1, fixture.time.now());
    assert_eq!(fixture.queue.enqueue(single).await.expect("there is room for one").accepted, 1);
    let left = fixture.take(usize::try_from(took).unwrap_or(0), ALL).await;
    let strays = left.iter().filter(|delivery| (1_000..2_000).contains(&delivery.probe.id.service.get())).count();
    assert_eq!(strays, 0);
}

/// While results pile up no new probes are taken in; once they are acknowledged, there is room.
pub async fn results_count_towards_the_capacity(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { capacity: 20, lease_margin: Duration::from_mins(1), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let took = usize::try_from(fill(&fixture, setup).await).unwrap_or(0);
    let taken = fixture.take(took, ALL).await;
    let more = probes(1_000, 1, fixture.time.now());
    let with_workers = fixture.queue.enqueue(more.clone()).await;
    assert!(matches!(with_workers, Err(QueueError::Full { .. })), "{with_workers:?}");
    fixture.queue.complete(passed(&taken)).await.expect("completed");
    let as_results = fixture.queue.enqueue(more.clone()).await;
    assert!(matches!(as_results, Err(QueueError::Full { .. })), "{as_results:?}");
    let one = consumer("one");
    let results = fixture.take_results(&one, took).await;
    let handed_out = fixture.queue.enqueue(more.clone()).await;
    assert!(matches!(handed_out, Err(QueueError::Full { .. })), "{handed_out:?}");
    ack(&*fixture.queue, &one, &results).await;
    assert_eq!(fixture.queue.enqueue(more).await.expect("there is room again").accepted, 1);
}

/// Results are taken always, a full queue's too: what was probed is not thrown away.
pub async fn results_are_taken_when_the_queue_is_full(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { capacity: 20, lease_margin: Duration::from_mins(1), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let took = usize::try_from(fill(&fixture, setup).await).unwrap_or(0);
    let taken = fixture.take(took, ALL).await;
    for _ in 0..3 {
        fixture.queue.complete(passed(&taken)).await.expect("results are always taken");
    }
    let results = by_probe(fixture.take_results(&consumer("one"), took).await);
    assert_eq!(results.into_keys().collect::<Vec<_>>(), ids(&taken));
}

/// The depth tells what waits, what is with workers, what is not acknowledged, and how old the oldest is.
pub async fn the_depth_says_what_there_is(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { lease_margin: Duration::from_mins(1), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let look = async || {
        let depth = fixture.depth().await;
        (depth.waiting, depth.in_flight, depth.results)
    };
    assert_eq!((look().await, fixture.depth().await.oldest), ((0, 0, 0), Duration::ZERO));
    fixture.filled(5).await;
    // It comes last, and has waited longest.
    let late = probes(90, 1, fixture.time.now().before(Duration::from_secs(20)));
    fixture.queue.enqueue(late).await.expect("enqueued");
    assert_eq!(look().await, (6, 0, 0));
    let oldest = fixture.depth().await.oldest;
    assert!((Duration::from_secs(20)..Duration::from_secs(30)).contains(&oldest), "{oldest:?}");
    let taken = fixture.take(2, many(2)).await;
    assert_eq!(look().await, (4, 2, 0));
    fixture.queue.complete(passed(&taken[..1])).await.expect("completed");
    assert_eq!(look().await, (4, 1, 1));
    let one = consumer("one");
    let results = fixture.take_results(&one, 1).await;
    assert_eq!(look().await, (4, 1, 1), "a result counts until it is acknowledged");
    ack(&*fixture.queue, &one, &results).await;
    assert_eq!(look().await, (4, 1, 0));
}
