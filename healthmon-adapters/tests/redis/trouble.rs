//! Redis away, empty, full, and filled with what is not ours.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_adapters::{
    redis::{RedisOptions, RedisProbeQueue},
    servers::PrivateRedis,
};
use healthmon_core::{
    conformance::ManualClock,
    memory::QueueLimits,
    ports::{Clock, ProbeQueue, QueueError},
    probe::{IndeterminateReason, Kind, Outcome},
    shard::ShardCount,
};

use crate::support::{
    ALL, COMMAND, ack, at, connect, connect_in, consumer, ids, ids_of, now, passed, probes, pull, pull_results, region,
    say, until,
};

/// A round all the way: what is put in comes out recorded.
async fn goes_all_the_way(queue: &RedisProbeQueue, numbers: std::ops::RangeInclusive<u64>) {
    let batch = probes(numbers, now());
    assert_eq!(queue.enqueue(batch.clone()).await.unwrap().accepted, batch.len());
    let taken = pull(queue).await;
    assert_eq!(ids(&taken), ids_of(&batch));
    queue.complete(passed(&taken)).await.unwrap();
    let results = pull_results(queue, "recorder").await;
    assert_eq!(results.len(), batch.len());
    ack(queue, "recorder", &results).await;
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight, depth.results), (0, 0, 0));
}

#[tokio::test]
async fn whatever_redis_loses_while_it_runs_is_made_again() {
    let server = PrivateRedis::start().unwrap();
    let queue = connect(&at(&server.url(0))).await;
    goes_all_the_way(&queue, 1..=100).await;
    // In the middle: some wait, some are with a worker, some are results.
    queue.enqueue(probes(101..=110, now())).await.unwrap();
    let with_worker = pull(&queue).await;
    queue.enqueue(probes(111..=120, now())).await.unwrap();
    say(&server, "FLUSHALL");
    say(&server, "SCRIPT FLUSH");
    // What was probed is recorded all the same.
    queue.complete(passed(&with_worker)).await.unwrap();
    let results = pull_results(&queue, "recorder").await;
    assert_eq!(results.len(), 10);
    ack(&queue, "recorder", &results).await;
    goes_all_the_way(&queue, 201..=300).await;
}

async fn transient<T: std::fmt::Debug>(what: &str, call: impl Future<Output = Result<T, QueueError>>) {
    let begun = Instant::now();
    let answer = tokio::time::timeout(COMMAND * 3, call).await;
    let answer = answer.unwrap_or_else(|_| panic!("{what} hangs"));
    assert!(matches!(answer, Err(QueueError::Transient { .. })), "{what}: {answer:?}");
    assert!(begun.elapsed() < COMMAND * 2, "{what} took {:?}", begun.elapsed());
}

/// Every call says that Redis is away, and none hangs.
async fn every_call_is_transient(queue: &RedisProbeQueue) {
    let recorder = consumer("recorder");
    transient("enqueue", queue.enqueue(probes(1..=1, now()))).await;
    transient("pull", queue.pull(ALL, Duration::ZERO)).await;
    transient("a waiting pull", queue.pull(ALL, Duration::from_millis(500))).await;
    transient("complete", queue.complete(Vec::new())).await;
    transient("pull_results", queue.pull_results(&recorder, ALL, Duration::from_millis(500))).await;
    let receipt = healthmon_core::ports::Receipt { stream: 0, id: (1, 1) };
    transient("ack_results", queue.ack_results(&recorder, &[receipt])).await;
    transient("release", queue.release(&recorder)).await;
    transient("depth", queue.depth()).await;
}

async fn back(queue: &RedisProbeQueue) {
    until("the connection is back", async || queue.depth().await.ok()).await;
}

#[tokio::test]
async fn a_killed_redis_hangs_nobody_and_all_goes_on_where_it_was() {
    let server = PrivateRedis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let queue = connect(&at(&server.url(0))).await;
    queue.enqueue(probes(1..=10, now())).await.unwrap();
    let taken = pull(&queue).await;
    queue.complete(passed(&taken[..5])).await.unwrap();
    let waiting = {
        let recorder = consumer("another");
        assert_eq!(pull_results(&queue, "recorder").await.len(), 5);
        let (call, kill) =
            tokio::join!(queue.pull_results(&recorder, ALL, Duration::from_secs(30)), async { server.kill() });
        kill.unwrap();
        call
    };
    assert!(matches!(waiting, Err(QueueError::Transient { .. })), "one that waits is told: {waiting:?}");
    every_call_is_transient(&queue).await;
    server.resume().unwrap();
    back(&queue).await;
    queue.complete(passed(&taken[5..])).await.unwrap();
    // It gave up its right while Redis was away: what it holds comes again, to whoever asks.
    let mut all: Vec<_> = pull_results(&queue, "recorder").await.into_iter().map(|taken| taken.result.id).collect();
    all.sort_unstable();
    assert_eq!(all, ids(&taken), "nothing is lost");
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_set_up_anew() {
    let server = PrivateRedis::start().unwrap();
    let queue = connect(&at(&server.url(0))).await;
    goes_all_the_way(&queue, 1..=10).await;
    queue.enqueue(probes(11..=20, now())).await.unwrap();
    server.kill().unwrap();
    every_call_is_transient(&queue).await;
    server.lose_data().unwrap();
    server.resume().unwrap();
    back(&queue).await;
    goes_all_the_way(&queue, 21..=120).await;
    let word = queue.pull(ALL, Duration::from_secs(10));
    let (taken, enqueued) = tokio::join!(word, queue.enqueue(probes(200..=200, now())));
    assert_eq!((taken.unwrap().len(), enqueued.unwrap().accepted), (1, 1), "who waits is woken again");
}

#[tokio::test]
async fn a_redis_that_hangs_is_away_and_then_comes_back() {
    let server = PrivateRedis::start().unwrap();
    let queue = connect(&at(&server.url(0))).await;
    let process = server.process().unwrap().to_string();
    let signal = |name: &str| std::process::Command::new("kill").args([name, &process]).status().unwrap();
    signal("-STOP");
    transient("enqueue", queue.enqueue(probes(1..=5, now()))).await;
    transient("pull", queue.pull(ALL, Duration::ZERO)).await;
    signal("-CONT");
    back(&queue).await;
    // Those of the call that was given up may be there by now, or not.
    queue.enqueue(probes(1..=5, now())).await.unwrap();
    let taken = until("they come", async || Some(pull(&queue).await).filter(|taken| !taken.is_empty())).await;
    assert!(taken.len() >= 5);
}

#[tokio::test]
async fn a_full_or_read_only_redis_is_away_for_now() {
    let server = PrivateRedis::start().unwrap();
    let queue = connect(&at(&server.url(0))).await;
    say(&server, "CONFIG SET maxmemory 1");
    transient("enqueue", queue.enqueue(probes(1..=5, now()))).await;
    say(&server, "CONFIG SET maxmemory 0");
    goes_all_the_way(&queue, 11..=20).await;
    say(&server, "REPLICAOF 127.0.0.1 1");
    let refused = queue.enqueue(probes(1..=5, now())).await;
    assert!(matches!(refused, Err(QueueError::Transient { .. })), "{refused:?}");
    say(&server, "REPLICAOF NO ONE");
    until("it is written to again", async || queue.enqueue(probes(21..=25, now())).await.ok()).await;
}

#[tokio::test]
async fn entries_that_cannot_be_read_hold_up_nobody() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let queue = connect(&options).await;
    let base = format!("{{{}}}", options.prefix);
    let begin = now();
    let slot = begin.as_millis();
    // Of a newer version, of nobody's, with other fields; and the same among results.
    for number in [77, 78, 79] {
        let kind = Kind::Scheduled as u8;
        let bundle =
            format!("struct.pack('>I2i8I4i8i8I8Bi8B', 1, 0, 1000, {slot}, {slot}, {number}, {kind}, 0, 9) .. 'rest'");
        say(&server, &format!("EVAL \"return redis.call('XADD', KEYS[1], '*', 'b', {bundle})\" 1 {base}:s:local"));
    }
    for fields in ["b x", "b garbage-that-is-long-enough-to-be-a-head", "a b c d"] {
        say(&server, &format!("XADD {base}:s:local * {fields}"));
    }
    for (shard, fields) in [(0, "r garbage"), (1, "r \x02garbage"), (2, "a b")] {
        say(&server, &format!("XADD {base}:r:{shard} * {fields}"));
    }
    let batch = probes(1..=50, begin);
    queue.enqueue(batch.clone()).await.unwrap();
    let taken = pull(&queue).await;
    assert_eq!(ids(&taken), ids_of(&batch));
    queue.complete(passed(&taken)).await.unwrap();
    let results = pull_results(&queue, "recorder").await;
    let poison: Vec<u64> = results
        .iter()
        .filter(|taken| taken.result.seen.outcome == Outcome::Indeterminate(IndeterminateReason::Poison))
        .map(|taken| taken.result.id.service.get())
        .collect();
    assert_eq!(results.len(), 53, "where the id is known there is a result");
    assert_eq!(poison.len(), 3);
    assert!(poison.iter().all(|service| (77..=79).contains(service)), "{poison:?}");
    ack(&queue, "recorder", &results).await;
    let depth = queue.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight, depth.results), (0, 0, 0), "and the count is right again");
}

#[tokio::test]
async fn a_region_without_workers_gets_results_that_say_so() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let queue = connect_in(&options, &["local"], QueueLimits::default()).await;
    let mut batch = probes(1..=20, now());
    for (place, probe) in batch.iter_mut().enumerate() {
        probe.id.region = region("nowhere");
        if place % 2 == 0 {
            probe.start_by = now().after(Duration::from_millis(100));
        }
    }
    queue.enqueue(batch.clone()).await.unwrap();
    let mut results = Vec::new();
    until("they come back as results", async || {
        results.extend(pull_results(&queue, "recorder").await);
        (results.len() >= 10).then_some(())
    })
    .await;
    for taken in &results {
        assert_eq!(taken.result.seen.outcome, Outcome::Indeterminate(IndeterminateReason::Expired));
        assert_eq!(taken.result.id.region, region("nowhere"));
    }
    // The others wait for a worker still, whatever lay before them.
    let worker = connect_in(&options, &["nowhere"], QueueLimits::default()).await;
    let taken = pull(&worker).await;
    let left: Vec<_> = batch.iter().skip(1).step_by(2).map(|probe| probe.id.clone()).collect();
    assert_eq!(ids(&taken), left);
    assert!(taken.iter().all(|delivery| delivery.delivery == 1), "nobody had them");
}

#[tokio::test]
async fn memory_is_bounded_by_what_is_not_done() {
    let server = PrivateRedis::start().unwrap();
    let options = at(&server.url(0));
    let clock = Arc::new(ManualClock::starting_at(now()));
    let limits = QueueLimits { lease_margin: Duration::from_millis(200), ..QueueLimits::default() };
    let queue = RedisProbeQueue::connect(
        options.clone(),
        vec![region("local")],
        ShardCount::default(),
        limits,
        Arc::clone(&clock) as Arc<dyn Clock>,
    );
    let queue = queue.await.unwrap();
    let entries = |pattern: &str| -> u64 {
        let lua = format!(
            "\"local n = 0 for _, k in ipairs(redis.call('KEYS', '*{pattern}*')) do n = n + redis.call('XLEN', k) end return n\""
        );
        say(&server, &format!("EVAL {lua} 0")).trim().trim_start_matches(':').parse().expect("a number")
    };
    let used = || -> u64 {
        let info = say(&server, "INFO memory");
        info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
    };
    let round = async |number: u64| {
        let mut batch = probes(1..=500, clock.now());
        batch.iter_mut().filter(|probe| probe.id.service.get() % 50 == 0).for_each(|probe| {
            probe.id.kind = Kind::Edge;
        });
        assert_eq!(queue.enqueue(batch).await.unwrap().accepted, 500, "round {number}");
        let taken = pull(&queue).await;
        queue.complete(passed(&taken)).await.unwrap();
        let results = pull_results(&queue, "recorder").await;
        ack(&queue, "recorder", &results).await;
        clock.advance(Duration::from_secs(20));
    };
    for number in 0..6 {
        round(number).await;
    }
    let early = used();
    for number in 6..60 {
        round(number).await;
    }
    assert_eq!(entries(":r:"), 0, "results that are recorded are gone");
    clock.advance(Duration::from_secs(120));
    until("probes that are done are forgotten", async || (entries(":s:local") == 0).then_some(())).await;
    // For a minute their names are known. Here sixty rounds, of which each has names of its own, are
    // within that minute.
    let late = used();
    let names = 54 * 500 * 100;
    assert!(late < early * 2 + names, "{early} B after six rounds, {late} B after sixty");
    let known = say(
        &server,
        "EVAL \"local n = 0 for _, k in ipairs(redis.call('KEYS', '*:seen:*')) do \
         local ttl = redis.call('TTL', k) if ttl < 1 or ttl > 65 then return k end n = n + 1 end return n\" 0",
    );
    let known: u32 = known.trim().trim_start_matches(':').parse().unwrap_or_else(|_| panic!("{known} stays for ever"));
    assert!(known > 0);
}

#[tokio::test]
async fn a_password_is_in_no_word_of_ours() {
    let server = PrivateRedis::start().unwrap();
    say(&server, "CONFIG SET requirepass hunter2-secret");
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}/0", server.port());
    let queue = connect(&at(&url("hunter2-secret"))).await;
    goes_all_the_way(&queue, 1..=10).await;
    let connect = async |options: RedisOptions| {
        let queue = RedisProbeQueue::connect(
            options,
            vec![region("local")],
            ShardCount::default(),
            QueueLimits::default(),
            crate::support::clock(),
        );
        queue.await.map(drop).expect_err("it is the wrong password")
    };
    let wrong = at(&url("guess-of-mine"));
    assert!(!format!("{wrong:?}").contains("guess"), "{wrong:?}");
    let error = connect(wrong).await;
    assert!(!format!("{error} {error:?}").contains("guess"), "{error:?}");
    let error = RedisOptions::new("redis://:hunter2-secret@nowhere:port").expect_err("no URL");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}
