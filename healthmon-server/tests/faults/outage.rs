//! PostgreSQL away for minutes: probing goes on, memory stays bounded, nothing is lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_adapters::servers::StopMode;
use healthmon_core::ports::Clock;
use serde_json::json;

use crate::{
    arguments::Arguments,
    checker::{self, Case},
    client::Client,
    numbers::Numbers,
    stack::{Stack, request},
    target::Targets,
    window::{Excuses, Window},
    witness::Witness,
};

/// What memory may grow by for each second of spooled results and each process, and in all.
const SPARE_KB: u64 = 64 * 1024;

pub(crate) async fn run(arguments: &Arguments, minutes: u32, rate: u32) -> Result<(), Vec<String>> {
    let span = Duration::from_secs(u64::from(minutes) * 60);
    let count = usize::try_from(rate).expect("small");
    let targets = Targets::start(count).await;
    let witness = Witness::start(Arc::clone(&targets.clock));
    let roles = [("scheduler", 2), ("worker", 3), ("recorder", 2), ("api", 2)];
    let begun = targets.clock.now();
    let stack = Stack::start(arguments, &roles, &[]).await;
    let mut ids = Vec::new();
    for number in 0..count {
        let url = format!("http://{}/{number}", targets.address);
        let settings = json!({"name": format!("service {number}"), "url": url, "interval": "1s", "timeout": "900ms"});
        ids.push(stack.register(&settings).await);
    }
    let client = Client::follow(stack.addresses("api"));
    let started = targets.clock.now();
    tokio::time::sleep(Duration::from_secs(15)).await;
    let before: Vec<u64> = stack.nodes.iter().map(|node| node.rss_kb().unwrap_or(0)).collect();
    println!("seed {}: {count} services each second; PostgreSQL goes away for {minutes} min", arguments.seed());
    let (gone, served) = (Instant::now(), targets.served());
    stack.postgres.stop(StopMode::Fast).expect("stopped");
    // What is true changes while nobody can record it.
    targets.play(&Numbers(arguments.seed()));
    let mut broken = Vec::new();
    while gone.elapsed() < span {
        tokio::time::sleep(Duration::from_secs(30).min(span.saturating_sub(gone.elapsed()))).await;
        let probed = targets.served() - served;
        let (status, body) = request(stack.addresses("api")[0], "GET", "/readyz", None).await.unwrap_or_default();
        let rss: u64 = stack.nodes.iter().filter_map(|node| node.rss_kb()).sum();
        println!(
            "{:>5.0} s: {probed} probes served, {:.0}/s; readyz {status} {}; processes {} MiB, Redis {}",
            gone.elapsed().as_secs_f64(),
            probed as f64 / gone.elapsed().as_secs_f64(),
            body["checks"]["store"].as_str().unwrap_or_default().chars().take(60).collect::<String>(),
            rss / 1024,
            redis_memory(&stack),
        );
        if status != 503 {
            broken.push(format!("/readyz says {status} while PostgreSQL is away"));
        }
    }
    let share = (targets.served() - served) as f64 / (gone.elapsed().as_secs_f64() * f64::from(rate));
    if share < 0.98 {
        broken.push(format!("only {:.1} % of the probes went on", share * 100.0));
    }
    for (node, before) in stack.nodes.iter().zip(before) {
        let now = node.rss_kb().unwrap_or(0);
        println!("      {}: {} MiB before, {} MiB after", node.name, before / 1024, now / 1024);
        if now > before + SPARE_KB {
            broken.push(format!("{} has grown from {before} kB to {now} kB", node.name));
        }
    }
    stack.postgres.resume().expect("started");
    targets.freeze();
    let back = Instant::now();
    let settled = checker::settle(&stack, &targets, &ids, &client, Duration::from_secs(180)).await;
    println!("      settled {:.1} s after its return", back.elapsed().as_secs_f64());
    broken.extend(settled.err());
    let (heard, ended) = (client.heard(), targets.clock.now());
    let account = witness.end();
    // The outage excuses nothing: no gap, no late result.
    let excuses = Excuses { faults: vec![Window::of_the_start(begun, started)], still: account.windows() };
    let case = Case { stack: &stack, targets: &targets, ids: &ids, heard: &heard, excuses: &excuses, started, ended };
    broken.extend(checker::check(&case).await);
    println!("      {account}");
    broken.extend(account.too_busy());
    if let Some(folder) = &arguments.logs {
        stack.keep_logs(folder);
    }
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

fn redis_memory(stack: &Stack) -> String {
    let info = stack.redis.say("INFO memory").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory_human:"));
    line.unwrap_or("?").trim().to_owned()
}
