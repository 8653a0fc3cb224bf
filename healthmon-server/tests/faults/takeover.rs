//! How long it takes until another scheduler goes on with the shards of one that is gone.

use std::{collections::BTreeSet, time::Duration};

use healthmon_core::{
    id::ServiceId,
    ports::Clock,
    schedule::slot_at,
    service::Interval,
    shard::{Shard, ShardCount},
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::{
    arguments::Arguments,
    stack::{Stack, request},
    target::Targets,
};

/// Within which all of a scheduler's services are probed again.
const AFTER_KILL: Duration = Duration::from_secs(12);
const AFTER_TERM: Duration = Duration::from_secs(1);

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
            let own = settled_shards(&stack, &stack.nodes[victim].name).await;
            let hers: Vec<usize> =
                (0..services.len()).filter(|at| own.contains(&ShardCount::default().shard_of(services[*at]))).collect();
            let gone = targets.clock.now();
            stack.nodes[victim].signal(signal);
            silences.push(until_all_go_on(&targets, &services, &hers, gone).await);
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
    if let Some(folder) = &arguments.logs {
        stack.keep_logs(folder);
    }
    let twice = recorded_twice(&stack).await;
    println!("slots recorded twice: {twice}");
    if twice > 0 {
        broken.push(format!("{twice} slots were recorded twice"));
    }
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

/// The shards of a scheduler once every shard has an owner and both have their share.
async fn settled_shards(stack: &Stack, name: &str) -> BTreeSet<Shard> {
    let api = stack.addresses("api")[0];
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
                return own.map(|shard| Shard(u16::try_from(shard).expect("a shard"))).collect();
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long beyond its first slot after `gone` the last of these services had to wait for a probe.
async fn until_all_go_on(targets: &Targets, services: &[ServiceId], hers: &[usize], gone: Timestamp) -> Duration {
    let interval = Interval::new(Duration::from_secs(1)).expect("an interval");
    let first = |at: usize| slot_at(services[at], interval, gone.after(interval.get())).time();
    let mut waiting: Vec<(usize, Timestamp)> = hers.iter().map(|at| (*at, first(*at))).collect();
    let mut longest = Duration::ZERO;
    while !waiting.is_empty() {
        waiting.retain(|(at, slot)| {
            let answered = targets.answered(*at);
            if answered >= *slot {
                longest = longest.max(answered.since(*slot));
            }
            answered < *slot
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    longest
}

/// How many results there are beyond one for each service and slot.
async fn recorded_twice(stack: &Stack) -> i64 {
    use sqlx::Connection as _;
    let mut database = sqlx::PgConnection::connect(&stack.postgres_url()).await.expect("connected");
    let sql = "SELECT count(*) - count(DISTINCT (service_id, slot, region_id, kind)) FROM results";
    sqlx::query_scalar(sql).fetch_one(&mut database).await.expect("counted")
}
