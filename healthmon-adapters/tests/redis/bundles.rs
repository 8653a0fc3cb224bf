//! Bundles: probes and results that travel together, and part.

use std::{num::NonZeroUsize, ops::RangeInclusive, sync::Arc, time::Duration};

use healthmon_adapters::{redis::RedisOptions, servers::PrivateRedis};
use healthmon_core::{
    memory::QueueLimits,
    ports::{Delivery, ProbeQueue},
    probe::{IndeterminateReason, Outcome, Probe},
    service::{Options, Timeout},
};

use crate::support::{
    ack, at, connect, connect_in, consumer, ids, ids_of, now, passed, probes, pull, pull_results, say, until,
};

/// Leases of probes with the shortest timeout run out soon, and yet not while something is looked at that
/// holds only until then.
fn short_leases() -> QueueLimits {
    QueueLimits { lease_margin: Duration::from_secs(2), ..QueueLimits::default() }
}

fn quick(numbers: RangeInclusive<u64>) -> Vec<Probe> {
    let mut batch = probes(numbers, now());
    for probe in &mut batch {
        let mut service = (*probe.service).clone();
        service.settings.timeout = Timeout::new(Duration::from_millis(200)).unwrap();
        probe.service = Arc::new(service);
    }
    batch
}

/// A number of Redis's, by a command or a line of Lua.
fn number(server: &PrivateRedis, command: &str) -> u64 {
    let said = say(server, command);
    said.trim().trim_start_matches(':').parse().unwrap_or_else(|_| panic!("{command}: {said}"))
}

/// How many bundles lie there, waiting or with workers.
fn bundles(server: &PrivateRedis, options: &RedisOptions) -> u64 {
    number(server, &format!("XLEN {{{}}}:s:local", options.prefix))
}

/// How many bundles are with workers.
fn with_workers(server: &PrivateRedis, options: &RedisOptions) -> String {
    let lua = format!("\"return redis.call('XPENDING', '{{{}}}:s:local', 'w')[1]\"", options.prefix);
    say(server, &format!("EVAL {lua} 0")).trim().to_owned()
}

#[tokio::test]
async fn what_two_calls_complete_together_is_acknowledged_at_once() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let queue = connect(&options).await;
    queue.enqueue(probes(1..=10, now())).await.unwrap();
    let taken = pull(&queue).await;
    assert_eq!(with_workers(&server, &options), ":1", "they are one bundle");
    let (odd, even) = taken.split_at(5);
    let (one, two) = tokio::join!(queue.complete(passed(odd)), queue.complete(passed(even)));
    one.unwrap();
    two.unwrap();
    assert_eq!(with_workers(&server, &options), ":0", "nobody waits for a lease to run out");
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight, depth.results), (0, 0, 10));
}

#[tokio::test]
async fn what_does_not_fit_goes_to_others_as_if_nobody_had_had_it() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let (full, free) = (connect(&options).await, connect(&options).await);
    let batch = probes(1..=16, now());
    full.enqueue(batch.clone()).await.unwrap();
    let mut taken = full.pull(NonZeroUsize::new(3).unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!(taken.len(), 3);
    let depth = free.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight), (13, 3));
    full.complete(passed(&taken)).await.unwrap();
    assert_eq!(with_workers(&server, &options), ":0", "the bundle is done with");
    let rest = pull(&free).await;
    assert!(rest.iter().all(|delivery| delivery.delivery == 1), "nobody had begun them");
    free.complete(passed(&rest)).await.unwrap();
    taken.extend(rest);
    assert_eq!(ids(&taken), ids_of(&batch));
    assert_eq!(with_workers(&server, &options), ":0");
}

#[tokio::test]
async fn of_a_worker_that_vanished_only_what_it_did_not_complete_comes_back_and_one_by_one() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let limits = short_leases();
    let gone = connect_in(&options, &["local"], limits).await;
    let batch = quick(1..=12);
    gone.enqueue(batch.clone()).await.unwrap();
    let taken = pull(&gone).await;
    gone.complete(passed(&taken[..7])).await.unwrap();
    drop(gone);
    let worker = connect_in(&options, &["local"], limits).await;
    let mut back = Vec::new();
    until("they come back", async || {
        back.extend(pull(&worker).await);
        (back.len() >= 5).then_some(())
    })
    .await;
    let left = taken[7..].to_vec();
    assert_eq!(ids(&back), ids(&left));
    assert!(back.iter().all(|delivery| delivery.delivery == 2));
    assert_eq!(with_workers(&server, &options), ":5", "one that ends its worker takes no other with it again");
    worker.complete(passed(&back)).await.unwrap();
    let depth = worker.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight, depth.results), (0, 0, 12));
}

#[tokio::test]
async fn a_bundle_of_results_may_be_recorded_in_parts() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let queue = connect(&options).await;
    queue.enqueue(probes(1..=16, now())).await.unwrap();
    queue.complete(passed(&pull(&queue).await)).await.unwrap();
    let one = consumer("one");
    let mut all = Vec::new();
    // In pieces smaller than bundles, and acknowledged from the end.
    while all.len() < 16 {
        let some = queue.pull_results(&one, NonZeroUsize::new(1).unwrap(), Duration::ZERO).await.unwrap();
        assert_eq!(some.len(), 1);
        all.extend(some);
    }
    for (at, taken) in all.iter().rev().enumerate() {
        queue.ack_results(&one, &[taken.receipt]).await.unwrap();
        queue.ack_results(&one, &[taken.receipt]).await.unwrap();
        assert_eq!(queue.depth().await.unwrap().results, 15 - at);
    }
    let noted = format!("EXISTS {{{}}}:acked", options.prefix);
    assert_eq!(say(&server, &noted).trim(), ":0", "notes go with their bundles");
    assert!(pull_results(&queue, "one").await.is_empty());
}

#[tokio::test]
async fn what_another_completed_does_not_come_again_when_the_rest_of_its_bundle_does() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let [gone, free] = [
        connect_in(&options, &["local"], short_leases()).await,
        connect_in(&options, &["local"], short_leases()).await,
    ];
    gone.enqueue(quick(1..=16)).await.unwrap();
    let kept = gone.pull(NonZeroUsize::new(3).unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!(kept.len(), 3);
    let rest =
        until("the rest is given back", async || Some(pull(&free).await).filter(|taken| !taken.is_empty())).await;
    assert_eq!(rest.len(), 13);
    free.complete(passed(&rest)).await.unwrap();
    drop(gone);
    let mut back: Vec<Delivery> = Vec::new();
    until("they come back", async || {
        back.extend(pull(&free).await);
        (back.len() >= 3).then_some(())
    })
    .await;
    assert_eq!(ids(&back), ids(&kept));
    free.complete(passed(&back)).await.unwrap();
    let depth = free.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight, depth.results), (0, 0, 16));
    assert_eq!(bundles(&server, &options), 0);
}

#[tokio::test]
async fn a_bundle_that_takes_long_keeps_no_others_in_memory() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let queue = connect(&options).await;
    queue.enqueue(probes(1..=1, now())).await.unwrap();
    let long = pull(&queue).await;
    queue.enqueue(probes(2..=1_001, now())).await.unwrap();
    let taken = pull(&queue).await;
    queue.complete(passed(&taken)).await.unwrap();
    assert_eq!(bundles(&server, &options), 1, "those that are done are gone at once");
    queue.complete(passed(&long)).await.unwrap();
    assert_eq!(bundles(&server, &options), 0);
    assert_eq!(number(&server, &format!("EXISTS {{{}}}:with:local", options.prefix)), 0);
}

#[tokio::test]
async fn what_is_completed_late_is_counted_once_and_not_handed_out_again() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let [slow, other] = [
        connect_in(&options, &["local"], short_leases()).await,
        connect_in(&options, &["local"], short_leases()).await,
    ];
    slow.enqueue(quick(1..=6)).await.unwrap();
    let late = pull(&slow).await;
    until("their lease runs out", async || (bundles(&server, &options) == 6).then_some(())).await;
    let mut depth = slow.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight), (6, 0));
    let two = other.pull(NonZeroUsize::new(2).unwrap(), Duration::ZERO).await.unwrap();
    assert_eq!(two.len(), 2);
    // All six, two of which another has now.
    slow.complete(passed(&late)).await.unwrap();
    slow.complete(passed(&late[..1])).await.unwrap();
    depth = slow.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight), (4, 2), "nobody knows yet that the four need not be done");
    assert!(pull(&other).await.is_empty(), "they are known to be done");
    other.complete(passed(&two)).await.unwrap();
    depth = slow.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight, depth.results), (0, 0, 9), "repeats are the recorder's to absorb");
    let results = pull_results(&slow, "one").await;
    ack(&slow, "one", &results).await;
    ack(&slow, "one", &results).await;
    assert_eq!((results.len(), slow.depth().await.unwrap().results), (9, 0));
}

#[tokio::test]
async fn what_cannot_be_read_does_not_go_in_silence_with_the_worker_that_had_it() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let base = format!("{{{}}}", options.prefix);
    let queue = connect_in(&options, &["local"], short_leases()).await;
    // One is nobody's, the other says what it is and is of a version to come.
    let row = format!("struct.pack('>i8I8Bi8B', {0}, 7, 0, {0}, 9)", now().as_millis());
    say(&server, &format!("XGROUP CREATE {base}:s:local w 0 MKSTREAM"));
    let bundle = format!("struct.pack('>I2i8I4i8', 1, 0, 200, 0) .. {row} .. 'rest'");
    say(&server, &format!("EVAL \"return redis.call('XADD', KEYS[1], '*', 'b', {bundle})\" 1 {base}:s:local"));
    say(&server, &format!("XADD {base}:s:local * b no-bundle-at-all"));
    say(&server, &format!("XREADGROUP GROUP w gone STREAMS {base}:s:local >"));
    say(&server, &format!("SADD {base}:regions local"));
    let results = until("it comes as a result", async || {
        Some(pull_results(&queue, "one").await).filter(|taken| !taken.is_empty())
    });
    let results = results.await;
    let [one] = &results[..] else { panic!("{} results", results.len()) };
    assert_eq!(one.result.id.service.get(), 7);
    assert_eq!(one.result.seen.outcome, Outcome::Indeterminate(IndeterminateReason::Poison));
    until("neither stays", async || {
        pull(&queue).await;
        (bundles(&server, &options) == 0).then_some(())
    })
    .await;
    assert_eq!(number(&server, &format!("XLEN {base}:poison")), 2, "both are kept to be looked at");
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight), (0, 0));
}

#[tokio::test]
async fn a_mask_that_is_none_is_given_up_and_holds_up_nobody() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let base = format!("{{{}}}", options.prefix);
    let queue = connect_in(&options, &["local"], short_leases()).await;
    queue.enqueue(quick(1..=1)).await.unwrap();
    for (field, mask) in [("m", "65535"), ("m", "0"), ("m", "-1"), ("m", "nan"), ("m", "inf"), ("m", "0.5"), ("x", "1")]
    {
        let add = "local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][2] \
            return redis.call('XADD', KEYS[1], '*', 'b', first[2], ARGV[1], ARGV[2], 'd', 4294967295)";
        say(&server, &format!("EVAL \"{add}\" 1 {base}:s:local {field} {mask}"));
    }
    queue.enqueue(quick(2..=20)).await.unwrap();
    let taken = pull(&queue).await;
    assert_eq!(taken.len(), 20, "those that are ours");
    queue.complete(passed(&taken)).await.unwrap();
    let results = until("they are given up", async || {
        Some(pull_results(&queue, "one").await).filter(|_| bundles(&server, &options) == 0)
    });
    assert_eq!(results.await.len(), 20);
    assert_eq!(number(&server, &format!("XLEN {base}:poison")), 7);
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight), (0, 0));
}

#[tokio::test]
async fn a_bundle_of_large_services_is_small_in_number() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let queue = connect(&options).await;
    let mut batch = probes(1..=64, now());
    for probe in &mut batch {
        let mut service = (*probe.service).clone();
        let body = "0".repeat(4_000);
        let sections = serde_json::json!({"http": {"body": body}});
        service.settings.options = Options::new(sections.as_object().unwrap().clone());
        probe.service = Arc::new(service);
    }
    assert_eq!(queue.enqueue(batch.clone()).await.unwrap().accepted, 64);
    assert_eq!(bundles(&server, &options), 5, "fifteen of 4 kB each fit into one");
    assert_eq!(ids(&pull(&queue).await), ids_of(&batch));
}

#[tokio::test]
async fn what_has_no_room_stays_a_moment_and_keeps_its_turn() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let queue = connect(&options).await;
    let batch = probes(1..=160, now());
    queue.enqueue(batch.clone()).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..40 {
        let some = queue.pull(NonZeroUsize::new(4).unwrap(), Duration::ZERO).await.unwrap();
        queue.complete(passed(&some)).await.unwrap();
        seen.extend(some.iter().map(|taken| taken.probe.id.clone()));
    }
    assert_eq!(seen.len(), 160);
    // The first has not asked often yet, and a pause of this process lets others go to the end as well.
    let in_turn = seen.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(in_turn > 140, "{in_turn} of 159 came after the one before them");
}
