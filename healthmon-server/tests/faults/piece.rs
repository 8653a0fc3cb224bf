//! One piece: start, break, settle, check.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_core::ports::Clock;
use serde_json::json;

use crate::{
    arguments::Arguments,
    checker::{self, Case},
    client::Client,
    fault::Fault,
    numbers::Numbers,
    stack::Stack,
    target::Targets,
    window::{Excuses, Window},
    witness::Witness,
};

/// How long after the last fault everything that was true must have been told.
pub(crate) const BOUND: Duration = Duration::from_secs(30);
/// How long it runs before the first fault.
const CALM: Duration = Duration::from_secs(5);

/// Piece after piece, until there were as many faults as are asked for.
pub(crate) async fn run(arguments: &Arguments) -> Result<(), Vec<String>> {
    let (mut left, mut broken, mut pieces) = (arguments.faults(), Vec::new(), 0);
    for seed in arguments.seed().. {
        let faults = left.min(arguments.piece);
        let kept = one(arguments, seed, faults).await;
        pieces += 1;
        for breach in kept.err().into_iter().flatten() {
            println!("      NOT KEPT: {breach}");
            broken.push(format!("seed {seed}, {faults} faults: {breach}"));
        }
        left -= faults;
        if left == 0 {
            break;
        }
    }
    println!("{} faults in {pieces} pieces, {} promises broken", arguments.faults(), broken.len());
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}

async fn one(arguments: &Arguments, seed: u64, faults: u32) -> Result<(), Vec<String>> {
    let began = Instant::now();
    let mut numbers = Numbers(seed);
    println!("seed {seed}: {faults} faults, {} services", arguments.services);
    let targets = Targets::start(arguments.services).await;
    let witness = Witness::start(Arc::clone(&targets.clock));
    let roles = [("scheduler", 2), ("worker", 3), ("recorder", 2), ("api", 2)];
    let begun = targets.clock.now();
    let mut stack = Stack::start(arguments, &roles, &["--linger", "50ms"]).await;
    let mut ids = Vec::new();
    for number in 0..arguments.services {
        let settings = json!({
            "name": format!("service {number}"), "url": format!("http://{}/{number}", targets.address),
            "interval": "1s", "timeout": "900ms", "policy": {"failure_threshold": 3, "success_threshold": 2},
        });
        ids.push(stack.register(&settings).await);
    }
    let client = Client::follow(stack.addresses("api"));
    let started = targets.clock.now();
    targets.play(&numbers);
    tokio::time::sleep(CALM).await;
    let mut windows = vec![Window::of_the_start(begun, started)];
    for number in 1..=faults {
        let fault = Fault::choose(&mut numbers, arguments.only.as_deref());
        let struck = fault.strike(&mut stack, &mut numbers, &targets.clock).await;
        let mut window = struck.map_err(|why| vec![format!("{fault:?} did not come about: {why}")])?;
        if matches!(fault, Fault::FlushAll | Fault::RedisLoss) {
            // What Redis loses, it may lose of results that waited for PostgreSQL, or a recorder, until just now.
            window.from = windows
                .iter()
                .filter(|earlier| earlier.late_until > window.from)
                .map(|earlier| earlier.from)
                .fold(window.from.before(Duration::from_secs(2)), std::cmp::min);
        }
        println!(
            "{:>4}. {:>6.1} s  {}  (from {})",
            number,
            began.elapsed().as_secs_f64(),
            window.what,
            window.from.as_millis()
        );
        windows.push(window);
        for node in &mut stack.nodes {
            if !node.is_running() {
                let log = node.log();
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                return Err(vec![format!("{} has ended by itself:\n{}", node.name, tail.join("\n"))]);
            }
        }
        tokio::time::sleep(numbers.millis(500, 6_000)).await;
    }
    targets.freeze();
    let frozen = targets.clock.now();
    let settled = checker::settle(&stack, &targets, &ids, &client, BOUND).await;
    let doubled = checker::calm(&stack).await;
    let ended = targets.clock.now();
    println!("      settled {:.1} s after the last fault", ended.since(frozen).as_secs_f64());
    let (heard, account) = (client.heard(), witness.end());
    let excuses = Excuses { faults: windows, still: account.windows() };
    let case = Case { stack: &stack, targets: &targets, ids: &ids, heard: &heard, excuses: &excuses, started, ended };
    let mut broken: Vec<String> = settled.err().into_iter().collect();
    broken.extend(doubled);
    broken.extend(checker::check(&case).await);
    println!("      {account}");
    broken.extend(account.too_busy());
    for (name, log) in stack.logs() {
        broken.extend(log.lines().filter(|line| line.contains("panicked")).map(|line| format!("{name}: {line}")));
    }
    if let Some(folder) = &arguments.logs {
        stack.keep_logs(&folder.join(seed.to_string()));
    }
    println!("      {:.0} s in all", began.elapsed().as_secs_f64());
    if broken.is_empty() { Ok(()) } else { Err(broken) }
}
