//! Scheduling without probing: PostgreSQL, Redis and one scheduler. What it puts on the queue is
//! thrown away at once, so that Redis stays as small as it is where workers keep up.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use super::{
    Options,
    accounts::{Books, Spent, memory_kb, most_memory_kb},
    database::Crowd,
    note_load,
    stack::{Stack, the_binary},
    wait,
};

const EMISSION: &str = "healthmon_emission_lateness_seconds";
/// How long shards are waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// Throws away what waits on the queue, several times a second.
struct Drain {
    over: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Drain {
    fn start(port: u16) -> Self {
        // Redis frees the memory in a thread of its own.
        const THROW: &str = "EVAL \"redis.call('UNLINK', '{healthmon}:s:local') \
            redis.call('HSET', '{healthmon}:count', 'probes', 0)\" 0\r\n";
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let task = thread::spawn(move || {
            let mut redis = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("Redis is there");
            let mut answer = [0; 64];
            while !seen.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(200));
                redis.write_all(THROW.as_bytes()).expect("Redis is there");
                let length = redis.read(&mut answer).expect("Redis answers");
                assert!(answer.starts_with(b"$-1"), "{}", String::from_utf8_lossy(&answer[..length]));
            }
        });
        Self { over, task: Some(task) }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.task.take().map(JoinHandle::join);
    }
}

/// What scheduling alone came to.
struct Outcome {
    emitted: f64,
    skipped: f64,
    lateness_ms: [f64; 3],
    spent: Spent,
    /// From the start of the process until it held every shard, and until it put the first probe on the queue.
    started: [Duration; 2],
    memory_kb: u64,
    most_memory_kb: u64,
}

fn run(binary: &Path, crowd: Crowd, window: Duration) -> (Outcome, Stack) {
    let mut stack = Stack::start(binary, false);
    let begun = Instant::now();
    wait(crowd.register(&stack.database(), "9"));
    println!("registered {} services in {:.1} s", crowd.services, begun.elapsed().as_secs_f64());
    let drain = Drain::start(stack.redis.port());
    let begun = Instant::now();
    stack.play(&["scheduler"]);
    let held = until(&stack, begun, "healthmon_shards_held", 64.0);
    let first = until(&stack, begun, "healthmon_probes_emitted_total", 1.0);
    stack.ready();
    sleep(Duration::from_secs(5));
    let accounts = stack.accounts();
    let (before, books) = (stack.node("scheduler").metrics(), Books::read(&accounts));
    sleep(window);
    let (after, spent) = (stack.node("scheduler").metrics(), books.until(&Books::read(&accounts)));
    let value = |name| after.value(name) - before.value(name);
    let late = |share| after.quantile(&before, EMISSION, share) * 1e3;
    let scheduler = stack.node("scheduler").account().process;
    let outcome = Outcome {
        emitted: value("healthmon_probes_emitted_total"),
        skipped: value("healthmon_slots_missed_total"),
        lateness_ms: [late(0.5), late(0.99), late(1.0)],
        spent,
        started: [held, first],
        memory_kb: memory_kb(scheduler),
        most_memory_kb: most_memory_kb(scheduler),
    };
    drop(drain);
    stack.complaints();
    (outcome, stack)
}

/// How long after `begun` a metric of the scheduler's had come this far.
fn until(stack: &Stack, begun: Instant, name: &str, enough: f64) -> Duration {
    while stack.node("scheduler").metrics().value(name) < enough {
        assert!(begun.elapsed() < PATIENCE, "{name} is not {enough}: {}", stack.node("scheduler").log());
        sleep(Duration::from_millis(50));
    }
    begun.elapsed()
}

impl Outcome {
    fn rate(&self) -> f64 {
        self.emitted / self.spent.wall_us as f64 * 1e6
    }

    fn print(&self) {
        let [p50, p99, most] = self.lateness_ms;
        println!("emitted: {:.0} probes/s; skipped slots: {}", self.rate(), self.skipped);
        println!("lateness of emission: p50 {p50:.1} ms, p99 {p99:.1} ms, most {most:.0} ms (from buckets' bounds)");
        self.spent.print("probe", self.emitted as u64);
    }
}

/// 50,000 probes a second, then 100,000; or what is asked for.
pub(crate) fn redis(options: &Options<'_>) {
    let seconds = options.number("--seconds").unwrap_or(20);
    println!("\n== schedule-redis: scheduling into Redis without probing, {seconds} s each ==");
    let binary = the_binary();
    note_load();
    let services = options.number("--services").unwrap_or(500_000);
    let intervals = match options.span("--interval") {
        Some(interval) => vec![interval],
        None => vec![Duration::from_secs(10), Duration::from_secs(5)],
    };
    for interval in intervals {
        let crowd = Crowd { services, interval };
        println!(
            "-- {services} services every {interval:?}: {:.0} probes/s due",
            services as f64 / interval.as_secs_f64()
        );
        let (outcome, stack) = run(&binary, crowd, Duration::from_secs(seconds));
        outcome.print();
        bare(&stack);
    }
    println!("aims: 100,000 probes/s, at least 50,000");
}

/// The control: Redis's own benchmark adds entries of about the same size, many to a call.
fn bare(stack: &Stack) {
    const ENTRIES: u64 = 1_000_000;
    let (accounts, port, count) = (stack.accounts(), stack.redis.port().to_string(), ENTRIES.to_string());
    let books = Books::read(&accounts);
    let output = Command::new("redis-benchmark")
        .args(["-p", &port, "-n", &count, "-P", "100", "-c", "4", "-q", "XADD", "bare", "*", "p", &"x".repeat(430)])
        .output()
        .expect("redis-benchmark runs; install Debian's redis-tools");
    let spent = books.until(&Books::read(&accounts));
    println!(
        "bare XADD, 100 to a call (redis-benchmark): {:.0}/s, Redis {:.2} us each",
        ENTRIES as f64 / spent.wall_us as f64 * 1e6,
        spent.of("redis") as f64 / ENTRIES as f64
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A million services every 60 s: start-up, memory, lateness.
pub(crate) fn million(options: &Options<'_>) {
    let crowd = Crowd {
        services: options.number("--services").unwrap_or(1_000_000),
        interval: options.span("--interval").unwrap_or(Duration::from_secs(60)),
    };
    let seconds = options.number("--seconds").unwrap_or(120);
    println!("\n== million: {} services every {:?}, not probed, {seconds} s ==", crowd.services, crowd.interval);
    let binary = the_binary();
    note_load();
    let (base, stack) = run(&binary, Crowd { services: 10, interval: Duration::from_secs(1) }, Duration::from_secs(5));
    drop(stack);
    let (outcome, _stack) = run(&binary, crowd, Duration::from_secs(seconds));
    let [held, first] = outcome.started.map(|span| span.as_secs_f64());
    println!(
        "start-up: every shard held {held:.1} s after the process began, the first probe emitted after {first:.1} s"
    );
    let grown = outcome.memory_kb.saturating_sub(base.memory_kb) as f64 * 1024.0;
    println!(
        "memory of the scheduler: {} kB with 10 services, {} kB with {} (at most {} kB): {:.0} B a service",
        base.memory_kb,
        outcome.memory_kb,
        crowd.services,
        outcome.most_memory_kb,
        grown / crowd.services as f64
    );
    outcome.print();
}
