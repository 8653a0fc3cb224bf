use std::{sync::Arc, time::Duration};

use super::{PATIENCE, QueueFixture, QueueSetup, ack, by_probe, consumer, ids_of, passed, pull, pull_results};
use crate::{
    conformance::samples::{ALL, FAIL, INTERVAL, NOTHING, many, probes, unregistered},
    id::Region,
    ports::{Completion, Delivery, Receipt},
    probe::{Kind, Outcome, Phases, Probe, ProbeResult},
    time::Slot,
};

/// A result comes out as it was completed: every field of it.
pub async fn results_come_back_as_they_were_seen(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    fixture.filled(4).await;
    let taken = fixture.take(4, ALL).await;
    let mut completions = passed(&taken);
    completions.sort_by(|a, b| a.result.id.cmp(&b.result.id));
    for (completion, outcome) in completions.iter_mut().zip([Outcome::Pass, Outcome::Slow, FAIL, NOTHING]) {
        completion.result.seen.outcome = outcome;
    }
    let seen = &mut completions[2].result.seen;
    seen.phases =
        Phases { dns_us: Some(0), connect_us: Some(1), tls_us: Some(u32::MAX), first_byte_us: Some(300_000_000) };
    (seen.code, seen.certificate_expires) = (Some(599), Some(fixture.time.now()));
    *seen = seen.clone().with_detail("expected 200 … saw \"503\" 🩺");
    fixture.queue.complete(completions.clone()).await.expect("completed");
    let results = by_probe(fixture.take_results(&consumer("one"), 4).await);
    let expected: Vec<ProbeResult> = completions.into_iter().map(|completion| completion.result).collect();
    assert_eq!(results.into_values().collect::<Vec<_>>(), expected);
}

/// Results of one service come in the order in which they were completed.
pub async fn results_come_in_the_order_they_were_completed(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    let now = fixture.time.now();
    let services: Vec<_> = (1..=2).map(|number| unregistered(number, now)).collect();
    let slot = |number: u32| Slot::at(now.before(INTERVAL / 2)).after(Duration::from_millis(u64::from(number)));
    let probe = |number: u32| {
        let service = Arc::clone(&services[number as usize % 2]);
        Probe::new(service, Region::default(), slot(number), Kind::Edge)
    };
    fixture.queue.enqueue((0..50).map(probe).collect()).await.expect("enqueued");
    let mut taken = fixture.take(50, ALL).await;
    taken.sort_by_key(|delivery| delivery.probe.id.slot);
    for some in taken.chunks(7) {
        fixture.queue.complete(passed(some)).await.expect("completed");
    }
    let (recorder, mut results) = (consumer("one"), Vec::new());
    fixture
        .time
        .until(PATIENCE, "all results come", async || {
            let some = fixture.queue.pull_results(&recorder, many(3), Duration::ZERO).await.expect("pulled");
            assert!(some.len() <= 3, "no more than asked for");
            results.extend(some);
            (results.len() >= 50).then_some(())
        })
        .await;
    for service in &services {
        let own = results.iter().filter(|taken| taken.result.id.service == service.id);
        let slots: Vec<_> = own.map(|taken| taken.result.id.slot).collect();
        assert_eq!(slots.len(), 25);
        assert!(slots.is_sorted(), "in the order of completion: {slots:?}");
    }
}

/// Completing the same delivery twice, at once or later, harms neither it nor another.
pub async fn completing_twice_is_harmless(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { lease_margin: Duration::from_mins(1), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let probes = fixture.filled(3).await;
    let taken = fixture.take(3, ALL).await;
    let done: Vec<Completion> = passed(&taken[..2]);
    fixture.queue.complete(done.clone()).await.expect("completed");
    fixture.other.complete(done.clone()).await.expect("completed again");
    fixture.queue.complete([done.clone(), done].concat()).await.expect("completed twice at once");
    assert_eq!(fixture.depth().await.in_flight, 1, "the third is still with its worker");
    let recorder = consumer("one");
    let results = fixture.take_results(&recorder, 2).await;
    ack(&*fixture.queue, &recorder, &results).await;
    fixture.queue.complete(passed(&taken[2..])).await.expect("completed");
    let mut all = by_probe(results);
    all.extend(by_probe(fixture.take_results(&recorder, 1).await));
    assert_eq!(all.into_keys().collect::<Vec<_>>(), ids_of(&probes));
    assert_eq!(pull(&*fixture.queue, ALL).await, []);
}

/// A consumer that waits has a result as soon as it is completed, on whichever node.
pub async fn a_waiting_consumer_is_woken_by_a_result(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { drain_lease: Duration::from_mins(10), ..QueueSetup::default() }).await;
    fixture.filled(1).await;
    let taken = fixture.take(1, ALL).await;
    let queue = Arc::clone(&fixture.queue);
    let waiting = tokio::spawn(async move { queue.pull_results(&consumer("one"), ALL, Duration::from_mins(5)).await });
    fixture.time.pass(Duration::from_millis(100)).await;
    let before = fixture.time.now();
    fixture.other.complete(passed(&taken)).await.expect("completed");
    let results = waiting.await.expect("no panic").expect("pulled");
    assert_eq!(results.len(), 1);
    let waited = fixture.time.now().since(before);
    assert!(waited < Duration::from_secs(5), "it was woken after {waited:?}");
}

async fn completed(fixture: &QueueFixture, count: u64) -> Vec<Delivery> {
    fixture.filled(count).await;
    let mut taken = fixture.take(usize::try_from(count).unwrap_or(0), ALL).await;
    taken.sort_by(|a, b| a.probe.id.cmp(&b.probe.id));
    fixture.queue.complete(passed(&taken)).await.expect("completed");
    taken
}

/// While one consumer has the right, another gets nothing.
pub async fn results_are_drained_by_one_consumer_at_a_time(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { drain_lease: Duration::from_mins(10), ..QueueSetup::default() }).await;
    let done = completed(&fixture, 6).await;
    let (one, two) = (consumer("one"), consumer("two"));
    let first = fixture.queue.pull_results(&one, many(2), Duration::ZERO).await.expect("pulled");
    assert!(!first.is_empty());
    assert_eq!(pull_results(&*fixture.other, &two).await, [], "another has the right");
    ack(&*fixture.queue, &one, &first).await;
    assert_eq!(pull_results(&*fixture.other, &two).await, [], "and keeps it when it has acknowledged");
    let rest = fixture.take_results(&one, done.len() - first.len()).await;
    assert_eq!(pull_results(&*fixture.other, &two).await, []);
    let all = by_probe([first, rest].concat());
    assert_eq!(all.len(), 6, "one consumer has them all");
}

/// After a release another consumer has the right at once, and what its predecessor did not
/// acknowledge comes first, in order.
pub async fn after_release_another_has_the_unacknowledged_ones_first(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { drain_lease: Duration::from_mins(10), ..QueueSetup::default() }).await;
    let service = unregistered(1, fixture.time.now());
    let probes: Vec<Probe> = (0..6)
        .map(|number| {
            let slot = Slot::at(fixture.time.now().before(INTERVAL / 2)).after(Duration::from_millis(number));
            Probe::new(Arc::clone(&service), Region::default(), slot, Kind::Edge)
        })
        .collect();
    fixture.queue.enqueue(probes.clone()).await.expect("enqueued");
    let mut taken = fixture.take(6, ALL).await;
    taken.sort_by(|a, b| a.probe.id.cmp(&b.probe.id));
    let (earlier, later) = taken.split_at(4);
    fixture.queue.complete(passed(earlier)).await.expect("completed");
    let (one, two) = (consumer("one"), consumer("two"));
    let held = fixture.take_results(&one, 4).await;
    ack(&*fixture.queue, &one, &held[..1]).await;
    fixture.queue.complete(passed(later)).await.expect("completed");
    fixture.queue.release(&one).await.expect("released");
    let next = fixture.other.pull_results(&two, ALL, PATIENCE).await.expect("pulled");
    let slots: Vec<_> = next.iter().map(|taken| taken.result.id.slot).collect();
    assert!(slots.starts_with(&[probes[1].id.slot]), "the unacknowledged ones come first: {slots:?}");
    assert!(slots.is_sorted());
    let mut all = next;
    fixture
        .time
        .until(PATIENCE, "the others come too", async || {
            all.extend(pull_results(&*fixture.other, &two).await);
            (all.len() >= 5).then_some(())
        })
        .await;
    assert_eq!(by_probe(all).into_keys().collect::<Vec<_>>(), ids_of(&probes[1..]));
    assert_eq!(pull_results(&*fixture.queue, &one).await, [], "the first one's right is gone");
}

/// A consumer that is silent for a lease has lost its right; what it held comes to another.
pub async fn after_a_leases_silence_another_has_the_right(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup::default();
    let fixture = make(setup).await;
    let done = completed(&fixture, 4).await;
    let (one, two) = (consumer("one"), consumer("two"));
    let before = fixture.time.now();
    assert!(!pull_results(&*fixture.queue, &one).await.is_empty());
    let mut taken = Vec::new();
    fixture
        .time
        .until(PATIENCE, "another has the right", async || {
            taken.extend(pull_results(&*fixture.other, &two).await);
            (taken.len() >= done.len()).then_some(())
        })
        .await;
    let silent = fixture.time.now().since(before);
    assert!(silent >= setup.drain_lease, "after {silent:?}, and the lease is {:?}", setup.drain_lease);
    assert_eq!(by_probe(taken).len(), done.len());
    assert_eq!(pull_results(&*fixture.queue, &one).await, [], "the first one's right is gone");
}

/// A consumer that pulls, even when there is nothing, keeps its right for longer than a lease.
pub async fn a_consumer_keeps_its_right_by_pulling(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let setup = QueueSetup { drain_lease: Duration::from_secs(2), ..QueueSetup::default() };
    let fixture = make(setup).await;
    let (one, two) = (consumer("one"), consumer("two"));
    assert_eq!(pull_results(&*fixture.queue, &one).await, []);
    for _ in 0..9 {
        fixture.time.pass(setup.drain_lease / 4).await;
        assert_eq!(pull_results(&*fixture.queue, &one).await, []);
    }
    completed(&fixture, 2).await;
    assert_eq!(pull_results(&*fixture.other, &two).await, [], "the first one has the right still");
    assert_eq!(fixture.take_results(&one, 2).await.len(), 2);
}

/// What was acknowledged is done: it comes to nobody again.
pub async fn acknowledged_results_do_not_come_again(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    completed(&fixture, 5).await;
    let (one, two) = (consumer("one"), consumer("two"));
    let taken = fixture.take_results(&one, 5).await;
    ack(&*fixture.queue, &one, &taken[..3]).await;
    fixture.queue.release(&one).await.expect("released");
    let rest = fixture.take_results(&two, 2).await;
    let expected: Vec<_> = taken[3..].iter().map(|taken| &taken.result).collect();
    assert_eq!(rest.iter().map(|taken| &taken.result).collect::<Vec<_>>(), expected);
    ack(&*fixture.queue, &two, &rest).await;
    fixture.queue.release(&two).await.expect("released");
    assert_eq!(pull_results(&*fixture.other, &one).await, []);
    assert_eq!(fixture.depth().await.results, 0);
}

/// An acknowledgement may be repeated, and one of something unknown is no error.
pub async fn acknowledging_twice_is_harmless(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup::default()).await;
    completed(&fixture, 3).await;
    let one = consumer("one");
    let taken = fixture.take_results(&one, 3).await;
    ack(&*fixture.queue, &one, &taken[..2]).await;
    ack(&*fixture.other, &one, &taken[..2]).await;
    let unknown = Receipt { id: (0, u64::from(u32::MAX)), ..taken[0].receipt };
    fixture.queue.ack_results(&one, &[unknown]).await.expect("no error");
    fixture.queue.ack_results(&one, &[]).await.expect("no error");
    fixture.queue.release(&one).await.expect("released");
    let left = fixture.take_results(&consumer("two"), 1).await;
    assert_eq!(left.iter().map(|taken| &taken.result).collect::<Vec<_>>(), [&taken[2].result]);
}

/// A release by one who does not have the right takes it from nobody.
pub async fn releasing_without_the_right_changes_nothing(make: impl AsyncFn(QueueSetup) -> QueueFixture) {
    let fixture = make(QueueSetup { drain_lease: Duration::from_mins(10), ..QueueSetup::default() }).await;
    completed(&fixture, 2).await;
    let (one, two) = (consumer("one"), consumer("two"));
    let taken = fixture.take_results(&one, 2).await;
    fixture.other.release(&two).await.expect("no error");
    assert_eq!(pull_results(&*fixture.other, &two).await, []);
    ack(&*fixture.queue, &one, &taken).await;
    let more = probes(10, 1, fixture.time.now());
    fixture.queue.enqueue(more).await.expect("enqueued");
    let taken = fixture.take(1, ALL).await;
    fixture.queue.complete(passed(&taken)).await.expect("completed");
    assert_eq!(pull_results(&*fixture.other, &two).await, []);
    assert_eq!(fixture.take_results(&one, 1).await.len(), 1);
}
