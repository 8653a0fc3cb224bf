//! How long it takes until another scheduler goes on with the shards of one that is gone.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use healthmon_core::{
    id::ServiceId,
    ports::{Clock, ResultQuery, ResultStore},
    probe::{IndeterminateReason, Outcome},
    schedule::slot_at,
    service::Interval,
    shard::{Shard, ShardCount},
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    arguments::Arguments,
    checker::sums,
    stack::{Stack, request},
    target::Targets,
};

/// Within which all of a scheduler's services are probed again.
const AFTER_KILL: Duration = Duration::from_secs(12);
const AFTER_TERM: Duration = Duration::from_secs(1);
/// By how much a slot may be answered before its time: schedulers follow the database's clock, and the
/// target here has its own. The slot before is a second earlier.
const AHEAD: Duration = Duration::from_millis(50);
/// What takes longer than this does not happen any more.
const PATIENCE: Duration = Duration::from_secs(60);
const ALL: NonZeroUsize = NonZeroUsize::new(10_000_000).unwrap();

pub(crate) async fn run(arguments: &Arguments, repetitions: u32) -> Result<(), Vec<String>> {
    let targets = Targets::start(arguments.services * 4).await;
    let roles = [("scheduler", 2), ("worker", 1), ("recorder", 1), ("api", 1)];
    let mut stack = Stack::start(arguments, &roles, &[]).await;
    let mut services = Vec::new();
    for number in 0..arguments.services * 4 {
        let url = format!("http://{}/{number}", targets.address);
        let settings = json!({"name": format!("s{number}"), "url": url, "interval": "1s", "timeout": "500ms"});
        services.push(stack.register(&settings).await.parse::<ServiceId>().expect("an id"));
    }
    let mut broken = Vec::new();
    for (signal, limit) in [("TERM", AFTER_TERM), ("KILL", AFTER_KILL)] {
        let mut silences = Vec::new();
        for repetition in 0..repetitions {
            let victim = usize::try_from(repetition % 2).expect("small");
            let own = settled_shards(&stack, &stack.nodes[victim].name).await.map_err(|why| vec![why])?;
            let hers: Vec<usize> =
                (0..services.len()).filter(|at| own.contains(&ShardCount::default().shard_of(services[*at]))).collect();
            let gone = targets.clock.now();
            stack.nodes[victim].signal(signal);
            silences.push(until_all_go_on(&targets, &services, &hers, gone).await.map_err(|why| vec![why])?);
            match signal {
                "KILL" => stack.nodes[victim].kill(),
                _ => drop(stack.nodes[victim].terminate().await),
            }
            stack.nodes[victim].start();
        }
        silences.sort_unstable();
        let at = |share: f64| silences[((silences.len() - 1) as f64 * share) as usize].as_secs_f64();
        println!(
            "SIG{signal}, {repetitions} times: how long the services of the scheduler that is gone had to wait for a \
             probe that was due: least {:.2} s, median {:.2} s, p90 {:.2} s, most {:.2} s (limit {} s)",
            at(0.0),
            at(0.5),
            at(0.9),
            at(1.0),
            limit.as_secs(),
        );
        println!("  all: {}", silences.iter().map(|s| format!("{:.2}", s.as_secs_f64())).collect::<Vec<_>>().join(" "));
        broken.extend(
            silences.iter().filter(|silence| **silence > limit).map(|silence| format!("SIG{signal}: {silence:?}")),
        );
    }
    broken.extend(emitted_twice(&mut stack, &targets, &services).await);
    if let Some(folder) = &arguments.logs {
        stack.keep_logs(folder);
    }
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

/// The shards of a scheduler once every shard has an owner and both have their share.
async fn settled_shards(stack: &Stack, name: &str) -> Result<BTreeSet<Shard>, String> {
    let api = stack.addresses("api")[0];
    let until = Instant::now() + PATIENCE;
    loop {
        if let Ok((200, cluster)) = request(api, "GET", "/api/v1/cluster", None).await {
            let shards = cluster["shards"].as_array().cloned().unwrap_or_default();
            let of = |name: &str| {
                let own = |shard: &&Value| {
                    shard["owner"].as_str().is_some_and(|owner| owner.starts_with(&format!("{name}/")))
                        && !shard["lease_left_ms"].is_null()
                };
                shards.iter().filter(own).filter_map(|shard| shard["shard"].as_u64()).collect::<Vec<_>>()
            };
            let (one, two) = (of("scheduler-1"), of("scheduler-2"));
            if one.len() == 32 && two.len() == 32 {
                let own = of(name).into_iter();
                return Ok(own.map(|shard| Shard(u16::try_from(shard).expect("a shard"))).collect());
            }
        }
        if Instant::now() >= until {
            return Err(format!("within {PATIENCE:?} the schedulers did not come to have half of the shards each"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long beyond its first slot after `gone` the last of these services had to wait for a probe.
async fn until_all_go_on(
    targets: &Targets,
    services: &[ServiceId],
    hers: &[usize],
    gone: Timestamp,
) -> Result<Duration, String> {
    let interval = Interval::new(Duration::from_secs(1)).expect("an interval");
    let first = |at: usize| slot_at(services[at], interval, gone.after(interval.get())).time();
    let mut waiting: Vec<(usize, Timestamp)> = hers.iter().map(|at| (*at, first(*at))).collect();
    let mut longest = Duration::ZERO;
    let until = Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        waiting.retain(|(at, slot)| {
            let answered = targets.answered(*at);
            let waits = answered.after(AHEAD) < *slot;
            if !waits {
                longest = longest.max(answered.since(*slot));
            }
            waits
        });
        if Instant::now() >= until {
            return Err(format!(
                "{} services of {} are not probed again after {PATIENCE:?}",
                waiting.len(),
                hers.len()
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(longest)
}

/// Whether a slot that both schedulers emitted had any effect twice. Workers and recorders ran all the
/// time, so each probe that a target served must be a result of its own, and each result recorded at
/// its first try: a slot that was probed twice is one probe more than there are results, and one
/// result that was recorded already. What the queue refused had no effect.
async fn emitted_twice(stack: &mut Stack, targets: &Targets, services: &[ServiceId]) -> Vec<String> {
    for at in stack.of("scheduler") {
        stack.nodes[at].terminate().await;
    }
    if let Err(why) = drained(stack, targets).await {
        return vec![why];
    }
    let store = stack.store().await;
    let (mut probed, mut performed, mut broken) = (0, 0, Vec::new());
    for (number, id) in services.iter().enumerate() {
        let results = store.results(*id, &ResultQuery::default(), ALL).await.expect("results");
        let expired = Outcome::Indeterminate(IndeterminateReason::Expired);
        let results = results.iter().filter(|stored| stored.outcome() != expired).count() as u64;
        if targets.served_by(number) != results {
            let served = targets.served_by(number);
            broken.push(format!("service {number} served {served} probes, and {results} results say that it did"));
        }
        probed += targets.served_by(number);
        performed += results;
    }
    let sums = sums(stack).await;
    let of = |name: &str| sums.get(name).copied().unwrap_or(0.0);
    let repeated = of("healthmon_results_repeated_total");
    println!("{probed} probes served, {performed} results of them recorded, {repeated} of those more than once");
    if repeated > 0.0 {
        broken.push(format!("{repeated} results were recorded already"));
    }
    broken
}

/// Waits until nothing is on its way any more.
async fn drained(stack: &Stack, targets: &Targets) -> Result<(), String> {
    let (api, until) = (stack.addresses("api")[0], Instant::now() + PATIENCE);
    loop {
        let served = targets.served();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let answer = request(api, "GET", "/api/v1/cluster", None).await;
        let empty = answer.as_ref().is_ok_and(|(_, cluster)| {
            ["waiting", "in_flight", "results"].iter().all(|what| cluster["queue"][what] == 0)
        });
        if empty && targets.served() == served {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(format!("without schedulers the queue is not empty after {PATIENCE:?}: {answer:?}"));
        }
    }
}
