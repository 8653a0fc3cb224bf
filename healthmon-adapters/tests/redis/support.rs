//! The server, and what tests put on the queue.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, LazyLock,
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
    ports::{Clock, Completion, ConsumerId, Delivery, ProbeQueue, ResultDelivery},
    probe::{Kind, Observation, Outcome, Probe, ProbeId},
    runtime::clock::SystemClock,
    service::{Interval, Label, Service, ServiceSettings},
    shard::ShardCount,
    time::{Slot, Timestamp},
};

/// One server for all tests that do it no harm; it goes with this process.
static SHARED: LazyLock<PrivateRedis> = LazyLock::new(|| PrivateRedis::start().expect("Redis starts"));
static PREFIXES: AtomicU64 = AtomicU64::new(0);

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long a call may take while Redis is away.
pub(crate) const COMMAND: Duration = Duration::from_secs(2);
pub(crate) const ALL: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// A prefix that no other test has, nor one of an earlier run on the same server.
fn prefix() -> String {
    format!("test-{}-{}", std::process::id(), PREFIXES.fetch_add(1, Ordering::Relaxed))
}

/// Where the server is that is asked for, or one of our own.
pub(crate) fn options() -> RedisOptions {
    let url = std::env::var("HEALTHMON_TEST_REDIS_URL").unwrap_or_else(|_| SHARED.url(0));
    at(&url)
}

/// A place of one's own on this server.
pub(crate) fn at(url: &str) -> RedisOptions {
    let mut options = RedisOptions::new(url).expect("a URL of Redis");
    options.prefix = prefix();
    options.command_timeout = COMMAND;
    options
}

/// A clock that can be asked for anything that has a time.
pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

pub(crate) fn now() -> Timestamp {
    clock().now()
}

pub(crate) fn region(name: &str) -> Region {
    Region::new(name).expect("a region")
}

/// A queue whose workers stand in these regions.
pub(crate) async fn connect_in(options: &RedisOptions, regions: &[&str], limits: QueueLimits) -> RedisProbeQueue {
    let regions = regions.iter().map(|name| region(name)).collect();
    let queue = RedisProbeQueue::connect(options.clone(), regions, ShardCount::default(), limits, clock());
    queue.await.expect("the queue connects")
}

pub(crate) async fn connect(options: &RedisOptions) -> RedisProbeQueue {
    connect_in(options, &["local"], QueueLimits::default()).await
}

pub(crate) fn service(number: u64) -> Arc<Service> {
    let id = ServiceId::new(number).expect("an id");
    let name = Label::new(&format!("service-{number}")).expect("a name");
    let url = format!("https://service-{number}.example/health").parse().expect("a target");
    let interval = Interval::new(Duration::from_mins(1)).expect("an interval");
    let settings = ServiceSettings::new(name, url, interval);
    Arc::new(Service::registered(id, settings, Revision(1), Epoch(1), Timestamp::from_millis(1)))
}

pub(crate) fn probe(number: u64, slot: Timestamp) -> Probe {
    Probe::new(service(number), Region::default(), Slot::at(slot), Kind::Scheduled)
}

pub(crate) fn probes(numbers: std::ops::RangeInclusive<u64>, slot: Timestamp) -> Vec<Probe> {
    numbers.map(|number| probe(number, slot)).collect()
}

pub(crate) fn ids(deliveries: &[Delivery]) -> Vec<ProbeId> {
    let mut ids: Vec<_> = deliveries.iter().map(|delivery| delivery.probe.id.clone()).collect();
    ids.sort_unstable();
    ids
}

pub(crate) fn ids_of(probes: &[Probe]) -> Vec<ProbeId> {
    probes.iter().map(|probe| probe.id.clone()).collect()
}

pub(crate) fn passed(deliveries: &[Delivery]) -> Vec<Completion> {
    let completion = |Delivery { probe, receipt, .. }: &Delivery| {
        let seen = Observation::new(Outcome::Pass, Duration::from_millis(7));
        Completion { receipt: *receipt, result: probe.result(probe.id.slot.time(), seen) }
    };
    deliveries.iter().map(completion).collect()
}

pub(crate) fn consumer(name: &str) -> ConsumerId {
    ConsumerId(name.into())
}

/// What there is now.
pub(crate) async fn pull(queue: &RedisProbeQueue) -> Vec<Delivery> {
    queue.pull(ALL, Duration::ZERO).await.expect("pulled")
}

pub(crate) async fn pull_results(queue: &RedisProbeQueue, name: &str) -> Vec<ResultDelivery> {
    queue.pull_results(&consumer(name), ALL, Duration::ZERO).await.expect("pulled")
}

pub(crate) async fn ack(queue: &RedisProbeQueue, name: &str, taken: &[ResultDelivery]) {
    let receipts: Vec<_> = taken.iter().map(|taken| taken.receipt).collect();
    queue.ack_results(&consumer(name), &receipts).await.expect("acknowledged");
}

/// Looks until there is something.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A command by hand, on the server of `options`; what it answers, in words.
pub(crate) fn say(server: &PrivateRedis, command: &str) -> String {
    server.say(command).expect("Redis answers")
}
