use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{PATIENCE, QueueFixture, QueueSetup, by_probe, consumer, ids, ids_of, passed, pull, pull_results};
use crate::{
    conformance::samples::{ALL, Numbers, many, probes, region},
    ports::{Enqueued, ProbeQueue},
    probe::{Kind, Probe},
};

/// A probe comes out as it went in: its identity, its settings, its start-by.
pub async fn every_probe_is_handed_out_as_it_was_put_in(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { lease_margin: Duration::from_mins(1), ..QueueSetup::default() }).await;
    let mut probes = probes(1, 60, fixture.time.now());
    probes[1].id.kind = Kind::Edge;
    probes[2].id.kind = Kind::Manual;
    probes[3].id.region = region("far-away");
    probes[4].start_by = probes[4].start_by.before(Duration::from_micros(1));
    let enqueued = fixture.queue.enqueue(probes.clone()).await.expect("enqueued");
    assert_eq!(enqueued, Enqueued { accepted: 60, repeated: 0, fenced: 0 });
    let mut taken = fixture.take(60, many(7)).await;
    taken.sort_by(|a, b| a.probe.id.cmp(&b.probe.id));
    assert!(taken.iter().all(|delivery| delivery.delivery == 1), "the first hand-out of each");
    let receipts: BTreeSet<_> = taken.iter().map(|delivery| delivery.receipt).collect();
    assert_eq!(receipts.len(), 60, "each has a receipt of its own");
    let taken: Vec<Probe> = taken.into_iter().map(|delivery| delivery.probe).collect();
    assert_eq!(taken, probes);
}

/// A probe that waits is not put in a second time, nor twice by one batch.
pub async fn enqueuing_the_same_id_again_is_harmless(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    let probes = fixture.filled(5).await;
    let twice = [probes.clone(), probes.clone()].concat();
    let again = fixture.other.enqueue(twice).await.expect("enqueued");
    assert_eq!(again, Enqueued { accepted: 0, repeated: 10, fenced: 0 });
    let fresh = super::probes(50, 1, fixture.time.now());
    let once = fixture.queue.enqueue([fresh.clone(), fresh].concat()).await.expect("enqueued");
    assert_eq!(once, Enqueued { accepted: 1, repeated: 1, fenced: 0 });
    fixture.take(6, ALL).await;
    assert_eq!(pull(&*fixture.queue, ALL).await, []);
}

/// A probe that a worker has is not handed to another because it is put in again.
pub async fn enqueuing_a_probe_that_a_worker_has_is_harmless(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { lease_margin: Duration::from_mins(1), ..QueueSetup::default() }).await;
    let probes = fixture.filled(3).await;
    let taken = fixture.take(3, ALL).await;
    fixture.other.enqueue(probes).await.expect("enqueued");
    assert_eq!(pull(&*fixture.queue, ALL).await, []);
    fixture.queue.complete(passed(&taken)).await.expect("completed");
    assert_eq!(pull(&*fixture.queue, ALL).await, []);
}

/// A probe that was completed may be put in again: at worst it is performed again, and its result
/// is one that the store knows.
pub async fn enqueuing_a_probe_that_is_done_is_harmless(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    let probes = fixture.filled(3).await;
    let taken = fixture.take(3, ALL).await;
    fixture.queue.complete(passed(&taken)).await.expect("completed");
    let again = fixture.queue.enqueue(probes.clone()).await.expect("enqueued");
    assert_eq!(again.accepted + again.repeated, 3);
    let taken = fixture.take(again.accepted, ALL).await;
    fixture.queue.complete(passed(&taken)).await.expect("completed");
    let results = by_probe(fixture.take_results(&consumer("one"), 3 + again.accepted).await);
    assert_eq!(results.into_keys().collect::<Vec<_>>(), ids_of(&probes));
}

/// A worker never gets more than it has room for; the rest is for others.
pub async fn pull_takes_only_what_fits(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { lease_margin: Duration::from_mins(1), ..QueueSetup::default() }).await;
    let probes = fixture.filled(20).await;
    let mut taken = Vec::new();
    fixture
        .time
        .until(PATIENCE, "all probes are handed out", async || {
            for (queue, max) in [(&fixture.queue, 3), (&fixture.other, 1), (&fixture.queue, 8)] {
                let some = pull(&**queue, many(max)).await;
                assert!(some.len() <= max, "{} probes for {max} places", some.len());
                taken.extend(some);
            }
            (taken.len() >= 20).then_some(())
        })
        .await;
    assert_eq!(ids(&taken), ids_of(&probes));
}

/// A pull waits as long as it is told to, and then returns with nothing.
pub async fn pull_returns_with_nothing_when_nothing_comes(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    let before = fixture.time.now();
    let wait = Duration::from_millis(300);
    assert_eq!(fixture.queue.pull(ALL, wait).await.expect("pulled"), []);
    assert_eq!(fixture.queue.pull_results(&consumer("one"), ALL, wait).await.expect("pulled"), []);
    let waited = fixture.time.now().since(before);
    assert!(waited < PATIENCE, "{waited:?} for two waits of {wait:?}");
}

/// A pull that waits returns as soon as a probe comes, from whichever node.
pub async fn a_waiting_pull_is_woken_by_a_probe(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    let queue = Arc::clone(&fixture.queue);
    let waiting = tokio::spawn(async move { queue.pull(ALL, Duration::from_mins(5)).await });
    fixture.time.pass(Duration::from_millis(100)).await;
    let before = fixture.time.now();
    let probe = probes(1, 1, before);
    fixture.other.enqueue(probe.clone()).await.expect("enqueued");
    let taken = waiting.await.expect("no panic").expect("pulled");
    assert_eq!(ids(&taken), ids_of(&probe));
    let waited = fixture.time.now().since(before);
    assert!(waited < Duration::from_secs(5), "it was woken after {waited:?}");
}

/// Of several pulls that wait each gets a probe when there is one for each.
pub async fn every_waiting_pull_gets_its_probe(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { lease_margin: Duration::from_mins(10), ..QueueSetup::default() }).await;
    let pull_one = |queue: &Arc<dyn ProbeQueue>| {
        let queue = Arc::clone(queue);
        tokio::spawn(async move { queue.pull(many(1), Duration::from_mins(5)).await })
    };
    let waiting = [pull_one(&fixture.queue), pull_one(&fixture.other), pull_one(&fixture.queue)];
    fixture.time.pass(Duration::from_millis(100)).await;
    let probes = fixture.filled(3).await;
    let before = fixture.time.now();
    let mut taken = Vec::new();
    for pull in waiting {
        taken.extend(pull.await.expect("no panic").expect("pulled"));
    }
    assert_eq!(ids(&taken), ids_of(&probes));
    let waited = fixture.time.now().since(before);
    assert!(waited < Duration::from_secs(5), "the last was woken after {waited:?}");
}

/// While its lease holds, a probe is with one worker.
pub async fn two_workers_never_have_the_same_probe(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { lease_margin: Duration::from_mins(10), ..QueueSetup::default() }).await;
    let probes = fixture.filled(200).await;
    let work = |queue: Arc<dyn ProbeQueue>| async move {
        let mut taken = Vec::new();
        loop {
            let some = queue.pull(many(3), Duration::from_millis(200)).await.expect("pulled");
            if some.is_empty() {
                return taken;
            }
            taken.extend(some);
            tokio::task::yield_now().await;
        }
    };
    let (mut a, b) = tokio::join!(work(Arc::clone(&fixture.queue)), work(Arc::clone(&fixture.other)));
    a.extend(b);
    assert_eq!(ids(&a), ids_of(&probes), "each probe once");
}

/// A probe taken by a worker that vanished comes back after the lease, and not before; the
/// hand-outs are counted.
pub async fn a_probe_whose_worker_vanished_comes_back_after_its_lease(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup::default();
    let fixture = make(setup).await;
    let probes = fixture.filled(3).await;
    let before = fixture.time.now();
    let taken = fixture.take(3, ALL).await;
    fixture.queue.complete(passed(&taken[..1])).await.expect("completed");
    let back = fixture.take(2, ALL).await;
    let away = fixture.time.now().since(before);
    assert!(away >= setup.lease(), "it came back after {away:?}, and the lease is {:?}", setup.lease());
    assert!(back.iter().all(|delivery| delivery.delivery == 2), "the second hand-out of each");
    let mut seen = ids(&back);
    seen.push(taken[0].probe.id.clone());
    seen.sort_unstable();
    assert_eq!(seen, ids_of(&probes));
}

/// A probe that was completed does not come back, however long one waits.
pub async fn a_completed_probe_does_not_come_back(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup::default();
    let fixture = make(setup).await;
    fixture.filled(5).await;
    let taken = fixture.take(5, ALL).await;
    fixture.other.complete(passed(&taken)).await.expect("completed");
    for _ in 0..6 {
        fixture.time.pass(setup.lease() / 2).await;
        assert_eq!(pull(&*fixture.queue, ALL).await, []);
    }
    assert_eq!(fixture.depth().await.in_flight, 0);
}

/// A worker that was merely slow is heard: its result is taken, and the probe is not handed out on.
pub async fn a_result_that_comes_after_the_lease_is_taken_and_settles_the_probe(
    make: impl AsyncFn(QueueSetup) -> QueueFixture,
) {
    let setup = QueueSetup::default();
    let fixture = make(setup).await;
    let probes = fixture.filled(2).await;
    let slow = fixture.take(2, ALL).await;
    let again = fixture.take(2, ALL).await;
    fixture.queue.complete(passed(&slow)).await.expect("completed");
    fixture.queue.complete(passed(&again[..1])).await.expect("completed");
    let results = by_probe(fixture.take_results(&consumer("one"), 2).await);
    assert_eq!(results.into_keys().collect::<Vec<_>>(), ids_of(&probes));
    fixture.time.pass(setup.lease() * 2).await;
    assert_eq!(pull(&*fixture.queue, ALL).await, [], "it is done");
}

/// Workers that complete, vanish, and complete too late: every probe has a result in the end.
pub async fn no_probe_is_lost_whatever_its_workers_do(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { lease_margin: Duration::from_millis(200), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let probes = fixture.filled(40).await;
    let (mut numbers, mut held, recorder) = (Numbers(99), Vec::new(), consumer("one"));
    let mut results = BTreeSet::new();
    fixture
        .time
        .until(Duration::from_secs(20), "every probe has a result", async || {
            let taken = pull(&*fixture.queue, many(1 + numbers.below(9))).await;
            match numbers.below(3) {
                0 => fixture.queue.complete(passed(&taken)).await.expect("completed"),
                1 => held.extend(taken),
                _ => {}
            }
            if numbers.below(4) == 0 {
                fixture.other.complete(passed(&std::mem::take(&mut held))).await.expect("completed");
            }
            let done = pull_results(&*fixture.queue, &recorder).await;
            super::ack(&*fixture.queue, &recorder, &done).await;
            results.extend(by_probe(done).into_keys());
            (results.len() == probes.len()).then_some(())
        })
        .await;
    assert_eq!(results.into_iter().collect::<Vec<_>>(), ids_of(&probes));
}
