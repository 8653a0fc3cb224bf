//! The queue over Redis without probing: how fast probes go in, and how fast they go all the way
//! (enqueued, pulled, completed, results pulled and acknowledged), and what each costs this process
//! and the server.
//!
//! `cargo bench --bench queue`. It starts a Redis of its own, which appends to a file as ours do.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use healthmon_adapters::{
    redis::{RedisOptions, RedisProbeQueue},
    servers::PrivateRedis,
};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    memory::QueueLimits,
    ports::{Clock, Completion, ConsumerId, Delivery, ProbeQueue, QueueError},
    probe::{Kind, Observation, Outcome, Probe},
    runtime::clock::SystemClock,
    service::{Interval, Label, Service, ServiceSettings},
    shard::ShardCount,
    time::Slot,
};

const SERVICES: u64 = 20_000;
const PROBES: u64 = 400_000;
const WAIT: Duration = Duration::from_secs(1);

fn many(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("more than none")
}

/// Services such as people have: an id by a snowflake, a name, an address of usual length.
fn services() -> Vec<Arc<Service>> {
    let now = SystemClock::new().now();
    let service = |number: u64| {
        let id = ServiceId::new((1 << 50) + (number << 12)).expect("an id");
        let name = Label::new(&format!("checkout-{number}")).expect("a name");
        let url = format!("https://checkout-{number}.shop.example/health/ready").parse().expect("a target");
        let settings = ServiceSettings::new(name, url, Interval::new(Duration::from_mins(1)).expect("an interval"));
        Arc::new(Service::registered(id, settings, Revision(number), Epoch(1), now))
    };
    (0..SERVICES).map(service).collect()
}

/// Nanoseconds that a process has been on a CPU.
fn cpu_ns(process: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let read = |task: std::path::PathBuf| std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    let ns = |text: String| text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    tasks.map(|task| ns(read(task.expect("a thread").path()))).sum()
}

struct Figures {
    began: Instant,
    own: u64,
    redis: u64,
    server: String,
}

impl Figures {
    fn begin(server: &PrivateRedis) -> Self {
        let server = server.process().expect("Redis runs").to_string();
        Self { began: Instant::now(), own: cpu_ns("self"), redis: cpu_ns(&server), server }
    }

    #[expect(clippy::print_stdout, reason = "it is what a bench is for")]
    fn end(self, what: &str, probes: u64) {
        let each = |ns: u64| ns as f64 / 1_000.0 / probes as f64;
        let rate = probes as f64 / self.began.elapsed().as_secs_f64();
        let (own, redis) = (each(cpu_ns("self") - self.own), each(cpu_ns(&self.server) - self.redis));
        println!("{what:44} {rate:>9.0} probes/s   own CPU {own:>5.2} µs   Redis CPU {redis:>5.2} µs");
    }
}

async fn connect(server: &PrivateRedis, prefix: &str) -> Arc<RedisProbeQueue> {
    let mut options = RedisOptions::new(&server.url(0)).expect("a URL");
    options.prefix = prefix.into();
    let limits = QueueLimits { capacity: 2_000_000, ..QueueLimits::default() };
    let queue = RedisProbeQueue::connect(
        options,
        vec![Region::default()],
        ShardCount::default(),
        limits,
        Arc::new(SystemClock::new()),
    );
    Arc::new(queue.await.expect("the queue connects"))
}

/// Enqueues `PROBES`, `batch` at a time, as a scheduler does: in order of slots.
async fn enqueue(queue: &RedisProbeQueue, services: &[Arc<Service>], batch: usize, done: &AtomicU64) {
    let first = Slot::at(SystemClock::new().now());
    let mut due: Vec<Probe> = Vec::with_capacity(batch);
    for number in 0..PROBES {
        let slot = first.after(Duration::from_millis(number / SERVICES));
        let service = &services[usize::try_from(number % SERVICES).expect("small")];
        due.push(Probe::new(Arc::clone(service), Region::default(), slot, Kind::Scheduled));
        if due.len() < batch && number + 1 < PROBES {
            continue;
        }
        // No further ahead than a busy queue is.
        while number > done.load(Ordering::Relaxed) + 100_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match queue.enqueue(std::mem::take(&mut due)).await {
            Ok(enqueued) => assert_eq!(enqueued.repeated, 0),
            Err(error @ QueueError::Full { .. }) => panic!("{error}"),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn work(queue: Arc<RedisProbeQueue>, batch: usize) {
    loop {
        let pulled = queue.pull(many(batch), WAIT).await.expect("pulled");
        let completion = |Delivery { probe, receipt, .. }: Delivery| {
            let seen = Observation::new(Outcome::Pass, Duration::from_millis(7));
            Completion { receipt, result: probe.result(probe.id.slot.time(), seen) }
        };
        queue.complete(pulled.into_iter().map(completion).collect()).await.expect("completed");
    }
}

async fn record(queue: Arc<RedisProbeQueue>, batch: usize, done: Arc<AtomicU64>) {
    let consumer = ConsumerId("recorder".into());
    while done.load(Ordering::Relaxed) < PROBES {
        let taken = queue.pull_results(&consumer, many(batch), WAIT).await.expect("pulled");
        let receipts: Vec<_> = taken.iter().map(|taken| taken.receipt).collect();
        queue.ack_results(&consumer, &receipts).await.expect("acknowledged");
        done.fetch_add(receipts.len() as u64, Ordering::Relaxed);
    }
}

async fn whole(server: &PrivateRedis, services: &Arc<Vec<Arc<Service>>>, batch: usize) {
    // Roles on connections of their own, as nodes are.
    let prefix = format!("whole-{batch}");
    let (scheduler, worker, recorder) =
        (connect(server, &prefix).await, connect(server, &prefix).await, connect(server, &prefix).await);
    let figures = Figures::begin(server);
    let done = Arc::new(AtomicU64::new(0));
    let (due, seen) = (Arc::clone(services), Arc::clone(&done));
    let scheduling = tokio::spawn(async move { enqueue(&scheduler, &due, batch, &seen).await });
    let working = [tokio::spawn(work(Arc::clone(&worker), batch)), tokio::spawn(work(worker, batch))];
    record(recorder, 2_000, done).await;
    figures.end(&format!("whole, {batch} at a time"), PROBES);
    scheduling.await.expect("no panic");
    working.iter().for_each(tokio::task::JoinHandle::abort);
}

fn main() {
    let server = PrivateRedis::start().expect("Redis starts");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let services = Arc::new(services());
        for batch in [100, 1_000] {
            let queue = connect(&server, &format!("enqueue-{batch}")).await;
            let figures = Figures::begin(&server);
            enqueue(&queue, &services, batch, &AtomicU64::new(PROBES)).await;
            figures.end(&format!("enqueue, {batch} at a time"), PROBES);
            server.say("FLUSHALL").expect("Redis answers");
        }
        for batch in [10, 100, 512] {
            whole(&server, &services, batch).await;
            server.say("FLUSHALL").expect("Redis answers");
        }
    });
}
