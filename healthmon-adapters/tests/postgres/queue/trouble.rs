//! Crashes of the server, and rows that nobody can read.

use std::{collections::BTreeSet, time::Duration};

use healthmon_adapters::servers::{PrivatePostgres, StopMode};
use healthmon_core::{
    memory::QueueLimits,
    ports::QueueError,
    probe::{IndeterminateReason, Outcome},
};

use super::{ALL, PATIENCE, ack, consumer, ids, open, passed, patiently, probes, pull_all, pull_results, real};
use crate::support::{Database, execute};

#[tokio::test]
async fn an_immediate_stop_of_the_server_loses_no_completed_result_and_heals() {
    let server = PrivatePostgres::start().expect("started");
    let queue = open(&server.url("postgres"), &["local"], QueueLimits::shared()).await;
    let all = probes(1, 100);
    queue.enqueue(all.clone()).await.expect("enqueued");
    let taken = queue.pull(ALL.min(60.try_into().expect("some")), Duration::ZERO).await.expect("pulled");
    assert_eq!(taken.len(), 60);
    queue.complete(passed(&taken[..40])).await.expect("completed");
    let one = consumer("one");
    let handed = pull_results(&*queue, &one).await;
    assert_eq!(handed.len(), 40);
    ack(&*queue, &one, &handed[..10]).await;
    server.stop(StopMode::Immediate).expect("stopped");
    let away = queue.enqueue(probes(500, 1)).await;
    assert!(matches!(away, Err(QueueError::Transient { .. })), "{away:?}");
    server.resume().expect("started again");
    // Probes that nobody had begun are gone until their next slot; what workers have is completed.
    assert_eq!(pull_all(&*queue).await, []);
    patiently(async || queue.complete(passed(&taken[40..])).await).await;
    let again = patiently(async || queue.enqueue(all.clone()).await).await;
    assert_eq!(again.accepted, 100, "the table of probes is empty");
    let rest = pull_all(&*queue).await;
    assert_eq!(ids(rest.iter().map(|delivery| &delivery.probe)), ids(&all));
    queue.complete(passed(&rest)).await.expect("completed");
    patiently(async || queue.release(&one).await).await;
    let two = consumer("two");
    let (mut counts, mut seen) = (Vec::new(), BTreeSet::new());
    real()
        .until(PATIENCE, "every result comes", async || {
            let results = pull_results(&*queue, &two).await;
            counts.push(results.len());
            seen.extend(results.iter().map(|taken| taken.result.id.clone()));
            // Those that were acknowledged may come again: an acknowledgement is not waited for.
            (counts.iter().sum::<usize>() >= 30 + 20 + 100).then_some(())
        })
        .await;
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ids(&all));
}

#[tokio::test]
async fn a_result_or_a_probe_that_nobody_can_read_holds_up_no_other() {
    let database = Database::new().await;
    let limits = QueueLimits { lease_margin: Duration::ZERO, ..QueueLimits::shared() };
    let queue = open(&database.url, &["local"], limits).await;
    let mut all = probes(1, 4);
    // Their lease is their timeout.
    for probe in &mut all {
        let mut service = (*probe.service).clone();
        service.settings.timeout =
            healthmon_core::service::Timeout::new(Duration::from_millis(100)).expect("a timeout");
        probe.service = service.into();
    }
    queue.enqueue(all).await.expect("enqueued");
    execute(&database.url, "UPDATE queued_probes SET service = '{}' WHERE service_id = 1").await;
    // Once: those that were taken come again soon.
    let taken = queue.pull(ALL, Duration::ZERO).await.expect("pulled");
    assert_eq!(taken.len(), 3);
    let mut done = passed(&taken);
    done[0].result.seen.detail = Some("a NUL \0 in it".into());
    let marked = done[0].result.id.clone();
    let other = done[1].result.id.service;
    queue.complete(done).await.expect("completed");
    execute(&database.url, &format!("UPDATE queued_results SET outcome = 99 WHERE service_id = {other}")).await;
    let (one, mut results) = (consumer("one"), Vec::new());
    real()
        .until(PATIENCE, "the readable ones and the poison come", async || {
            assert_eq!(pull_all(&*queue).await, []);
            results.extend(pull_results(&*queue, &one).await);
            (results.len() >= 3).then_some(())
        })
        .await;
    let marked = results.iter().find(|taken| taken.result.id == marked).expect("it comes");
    assert_eq!(marked.result.seen.detail.as_deref(), Some("a NUL \\u{0} in it"));
    let poison = results.iter().find(|taken| taken.result.id.service.get() == 1).expect("it is given up");
    assert_eq!(poison.result.seen.outcome, Outcome::Indeterminate(IndeterminateReason::Poison));
    ack(&*queue, &one, &results).await;
    assert_eq!(queue.depth().await.expect("the depth").results, 0, "the unreadable one is dropped");
}
