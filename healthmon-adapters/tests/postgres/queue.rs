//! The queue's contract on a real server, directly and through a pooler; and what is this queue's own.

mod churn;
mod order;
mod speed;
mod trouble;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use healthmon_adapters::postgres::{Postgres, PostgresOptions, PostgresProbeQueue};
use healthmon_core::{
    conformance::{
        TestTime,
        queue::{QueueFixture, QueueSetup},
    },
    id::{Epoch, Region, Revision, ServiceId},
    memory::QueueLimits,
    ports::{Completion, ConsumerId, Delivery, ProbeQueue, QueueError, ResultDelivery},
    probe::{Kind, Observation, Outcome, Probe, ProbeId},
    runtime::clock::SystemClock,
    service::{Service, ServiceSettings},
    time::{Slot, Timestamp},
};

use crate::support::{Database, PgBouncer};

fn region(name: &str) -> Region {
    Region::new(name).expect("a region")
}

async fn open(url: &str, regions: &[&str], limits: QueueLimits) -> Arc<dyn ProbeQueue> {
    let options = PostgresOptions { max_connections: 4, ..PostgresOptions::new(url) };
    let postgres = Postgres::connect(options).await.expect("connected");
    let regions = regions.iter().map(|name| region(name)).collect();
    Arc::new(PostgresProbeQueue::new(postgres, regions, limits).await.expect("a queue"))
}

async fn fixture(url: &str, setup: QueueSetup, guard: impl Send + 'static) -> QueueFixture {
    let QueueSetup { capacity, lease_margin, drain_lease } = setup;
    let limits = QueueLimits { capacity, lease_margin, drain_lease };
    let regions = ["local", "far-away"];
    let (queue, other) = (open(url, &regions, limits).await, open(url, &regions, limits).await);
    // The server is on this machine, and has its time.
    QueueFixture::new(queue, other, TestTime::Real(Arc::new(SystemClock::new())), guard)
}

/// A database of its own for each clause; two nodes are two pools.
async fn direct(setup: QueueSetup) -> QueueFixture {
    let database = Database::new().await;
    let url = database.url.clone();
    fixture(&url, setup, database).await
}

healthmon_core::queue_conformance!(mod conformance, direct);

/// The same through PgBouncer in transaction mode.
async fn pooled(setup: QueueSetup) -> QueueFixture {
    let database = Database::new().await;
    let bouncer = PgBouncer::before(&database.url);
    let url = bouncer.url(database.name());
    fixture(&url, setup, (bouncer, database)).await
}

healthmon_core::queue_conformance!(mod conformance_through_a_pooler, pooled);

const ALL: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
const PATIENCE: Duration = Duration::from_secs(30);

fn real() -> TestTime {
    TestTime::Real(Arc::new(SystemClock::new()))
}

fn consumer(name: &str) -> ConsumerId {
    ConsumerId(name.into())
}

fn service(number: u64, now: Timestamp) -> Arc<Service> {
    let settings = serde_json::json!({
        "name": format!("service-{number}"), "url": format!("https://service-{number}.example.test/health"),
        "interval": "60s", "group": "queue",
    });
    let settings = ServiceSettings::from_json(settings.as_object().cloned().expect("an object")).expect("settings");
    let id = ServiceId::new(number).expect("an id");
    Arc::new(Service::registered(id, settings, Revision(number), Epoch(1), now))
}

/// `count` probes of as many services, due now.
fn probes(from: u64, count: u64) -> Vec<Probe> {
    let now = real().now();
    let probe = |number| Probe::new(service(number, now), Region::default(), Slot::at(now), Kind::Scheduled);
    (from..from + count).map(probe).collect()
}

fn passed(deliveries: &[Delivery]) -> Vec<Completion> {
    let completion = |Delivery { probe, receipt, .. }: &Delivery| {
        let seen = Observation::new(Outcome::Pass, Duration::from_millis(7));
        Completion { receipt: *receipt, result: probe.result(probe.id.slot.time(), seen) }
    };
    deliveries.iter().map(completion).collect()
}

fn ids<'a>(of: impl IntoIterator<Item = &'a Probe>) -> Vec<ProbeId> {
    let mut ids: Vec<ProbeId> = of.into_iter().map(|probe| probe.id.clone()).collect();
    ids.sort_unstable();
    ids
}

/// Takes what there is, in as many pieces as it comes.
async fn pull_all(queue: &dyn ProbeQueue) -> Vec<Delivery> {
    let mut all = Vec::new();
    loop {
        let some = patiently(async || queue.pull(ALL, Duration::ZERO).await).await;
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

async fn pull_results(queue: &dyn ProbeQueue, consumer: &ConsumerId) -> Vec<ResultDelivery> {
    patiently(async || queue.pull_results(consumer, ALL, Duration::ZERO).await).await
}

async fn ack(queue: &dyn ProbeQueue, consumer: &ConsumerId, taken: &[ResultDelivery]) {
    let receipts: Vec<_> = taken.iter().map(|taken| taken.receipt).collect();
    patiently(async || queue.ack_results(consumer, &receipts).await).await;
}

/// Repeats a call for as long as the queue is away.
async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, QueueError>) -> T {
    let answer = async || match call().await {
        Ok(done) => Some(done),
        Err(QueueError::Transient { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    real().until(PATIENCE, "the queue is there", answer).await
}
