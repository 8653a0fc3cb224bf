use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{PATIENCE, QueueFixture, QueueSetup, ack, consumer, ids, ids_of, passed, pull, pull_results};
use crate::{
    conformance::{
        poll_times,
        samples::{ALL, many, probes},
    },
    probe::ProbeId,
};

/// More awaits than any call should have.
const MOST: usize = 200;

fn quick() -> QueueSetup {
    QueueSetup { capacity: 100_000, lease_margin: Duration::from_millis(100), drain_lease: Duration::from_millis(300) }
}

/// An enqueue that is dropped, wherever it was, has put in the whole batch or nothing; repeating it
/// puts in the rest.
pub async fn a_dropped_enqueue_takes_all_or_nothing(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { lease_margin: Duration::from_mins(1), ..quick() }).await;
    for polls in 1..MOST {
        let batch = probes(polls as u64 * 10, 5, fixture.time.now());
        let ended = poll_times(fixture.queue.enqueue(batch.clone()), polls).await.is_some();
        let again = fixture.queue.enqueue(batch.clone()).await.expect("enqueued");
        assert!(matches!((again.accepted, again.repeated), (5, 0) | (0, 5)), "after {polls} polls: {again:?}");
        let taken = fixture.take(5, ALL).await;
        assert_eq!(ids(&taken), ids_of(&batch));
        fixture.queue.complete(passed(&taken)).await.expect("completed");
        if ended {
            return;
        }
    }
    panic!("an enqueue has not ended after {MOST} polls");
}

/// Waits until each of these probes was handed out, and completes it.
async fn come(fixture: &QueueFixture, expected: &[ProbeId], what: &str) {
    let mut missing: BTreeSet<ProbeId> = expected.iter().cloned().collect();
    fixture
        .time
        .until(PATIENCE, what, async || {
            let taken = pull(&*fixture.other, ALL).await;
            fixture.other.complete(passed(&taken)).await.expect("completed");
            missing.retain(|id| !ids(&taken).contains(id));
            missing.is_empty().then_some(())
        })
        .await;
}

/// A pull that is dropped, wherever it was, loses no probe: what it had taken comes to another.
pub async fn a_dropped_pull_loses_no_probe(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(quick()).await;
    for polls in 1..MOST {
        let batch = probes(polls as u64 * 10, 5, fixture.time.now());
        fixture.queue.enqueue(batch.clone()).await.expect("enqueued");
        let pulled = poll_times(fixture.queue.pull(many(5), Duration::from_secs(1)), polls).await;
        if let Some(taken) = pulled {
            let taken = taken.expect("pulled");
            fixture.queue.complete(passed(&taken)).await.expect("completed");
            let ids = ids(&taken);
            let rest: Vec<_> = ids_of(&batch).into_iter().filter(|id| !ids.contains(id)).collect();
            return come(&fixture, &rest, "the rest comes").await;
        }
        come(&fixture, &ids_of(&batch), "what a dropped pull had taken comes to another").await;
    }
    panic!("a pull has not ended after {MOST} polls");
}

/// A pull that waits and is dropped, just when a probe comes, does not swallow what would wake another.
pub async fn a_dropped_waiting_pull_wakes_another(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { lease_margin: Duration::from_mins(1), ..quick() }).await;
    for round in 1..=5 {
        let mut waiting = Box::pin(fixture.queue.pull(many(1), Duration::from_mins(5)));
        assert!(poll_times(waiting.as_mut(), 1).await.is_none());
        let queue = Arc::clone(&fixture.other);
        let other = tokio::spawn(async move { queue.pull(many(1), Duration::from_mins(5)).await });
        fixture.time.pass(Duration::from_millis(50)).await;
        let probe = probes(round * 10, 1, fixture.time.now());
        let before = fixture.time.now();
        fixture.queue.enqueue(probe.clone()).await.expect("enqueued");
        drop(waiting);
        let taken = other.await.expect("no panic").expect("pulled");
        assert_eq!(ids(&taken), ids_of(&probe));
        let waited = fixture.time.now().since(before);
        assert!(waited < PATIENCE, "the other was woken after {waited:?}");
        fixture.queue.complete(passed(&taken)).await.expect("completed");
    }
}

/// A `complete` that is dropped, wherever it was, leaves the result, or the probe, or both: it
/// stores before it acknowledges.
pub async fn a_dropped_complete_loses_neither_result_nor_probe(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(quick()).await;
    let recorder = consumer("one");
    for polls in 1..MOST {
        let batch = probes(polls as u64 * 10, 3, fixture.time.now());
        fixture.queue.enqueue(batch.clone()).await.expect("enqueued");
        let taken = fixture.take(3, ALL).await;
        let ended = poll_times(fixture.queue.complete(passed(&taken)), polls).await.is_some();
        let mut missing: BTreeSet<ProbeId> = ids_of(&batch).into_iter().collect();
        fixture
            .time
            .until(PATIENCE, "each probe has a result, or comes again", async || {
                let results = pull_results(&*fixture.queue, &recorder).await;
                ack(&*fixture.queue, &recorder, &results).await;
                missing.retain(|id| results.iter().all(|taken| taken.result.id != *id));
                let again = pull(&*fixture.queue, ALL).await;
                fixture.queue.complete(passed(&again)).await.expect("completed");
                missing.is_empty().then_some(())
            })
            .await;
        if ended {
            return;
        }
    }
    panic!("a complete has not ended after {MOST} polls");
}

/// A pull of results that is dropped, wherever it was, loses none: they come to whoever has the right next.
pub async fn a_dropped_pull_of_results_loses_no_result(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(quick()).await;
    for polls in 1..MOST {
        let batch = probes(polls as u64 * 10, 3, fixture.time.now());
        fixture.queue.enqueue(batch.clone()).await.expect("enqueued");
        let taken = fixture.take(3, ALL).await;
        fixture.queue.complete(passed(&taken)).await.expect("completed");
        let (dropped, next) = (consumer(&format!("dropped-{polls}")), consumer(&format!("next-{polls}")));
        let call = fixture.queue.pull_results(&dropped, ALL, Duration::from_secs(1));
        let ended = poll_times(call, polls).await.is_some();
        let mut missing: BTreeSet<ProbeId> = ids_of(&batch).into_iter().collect();
        fixture
            .time
            .until(PATIENCE, "the results come to another", async || {
                let results = pull_results(&*fixture.other, &next).await;
                ack(&*fixture.other, &next, &results).await;
                missing.retain(|id| results.iter().all(|taken| taken.result.id != *id));
                missing.is_empty().then_some(())
            })
            .await;
        fixture.other.release(&next).await.expect("released");
        if ended {
            return;
        }
    }
    panic!("a pull of results has not ended after {MOST} polls");
}

/// An acknowledgement that is dropped may be repeated, and then holds.
pub async fn a_dropped_acknowledgement_may_be_repeated(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(quick()).await;
    let one = consumer("one");
    for polls in 1..MOST {
        fixture.queue.enqueue(probes(polls as u64 * 10, 2, fixture.time.now())).await.expect("enqueued");
        let taken = fixture.take(2, ALL).await;
        fixture.queue.complete(passed(&taken)).await.expect("completed");
        let results = fixture.take_results(&one, 2).await;
        let receipts: Vec<_> = results.iter().map(|taken| taken.receipt).collect();
        let ended = poll_times(fixture.queue.ack_results(&one, &receipts), polls).await.is_some();
        ack(&*fixture.queue, &one, &results).await;
        fixture.queue.release(&one).await.expect("released");
        assert_eq!(pull_results(&*fixture.other, &one).await, [], "after {polls} polls");
        if ended {
            return;
        }
    }
    panic!("an acknowledgement has not ended after {MOST} polls");
}
