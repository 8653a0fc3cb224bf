//! What recording costs, in steady state: `cargo bench --bench record`.
//!
//! 10,000 services with their states in the cache; each measurement records one batch of 1,000
//! results of as many services, in slots that are new, one result a service, all of them passes.
//! SQLite is a file on this machine's disk with the default durability, so its figures are the
//! disk's too.

#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use healthmon_adapters::sqlite::{Durability, SqliteOptions, SqliteResultStore};
use healthmon_core::{
    id::{Epoch, Region, ServiceId},
    memory::{MemoryResultStore, StoreLimits},
    ports::{Clock, ResultStore},
    probe::{Kind, Observation, Outcome, ProbeId, ProbeResult},
    service::{Interval, Label, ServiceSettings},
    time::{Slot, Timestamp},
};
use tokio::runtime::Runtime;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVICES: u64 = 10_000;
const BATCH: u64 = 1_000;
const INTERVAL: Duration = Duration::from_secs(10);

/// A clock that stands where the slots are.
struct BenchClock(AtomicI64);

impl Clock for BenchClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn id(n: u64) -> ServiceId {
    // Spread as snowflakes made a second apart would be.
    ServiceId::new((n + 1) << 22).expect("an id")
}

/// Batch after batch, round and round over the services.
struct Batches {
    clock: Arc<BenchClock>,
    next: u64,
}

impl Batches {
    fn new() -> Self {
        Self { clock: Arc::new(BenchClock(AtomicI64::new(1_795_168_800_000))), next: 0 }
    }

    fn next(&mut self) -> Vec<ProbeResult> {
        let first = self.next;
        self.next += BATCH;
        // A tenth of the services every tenth of the interval.
        let step = INTERVAL.as_millis() as i64 * BATCH as i64 / SERVICES as i64;
        let slot = Slot::from_millis(self.clock.0.fetch_add(step, Ordering::Relaxed) + step);
        (first..first + BATCH).map(|n| passed(id(n % SERVICES), slot)).collect()
    }
}

fn passed(service: ServiceId, slot: Slot) -> ProbeResult {
    let mut seen = Observation::new(Outcome::Pass, Duration::from_micros(12_345));
    seen.phases.connect_us = Some(1_234);
    seen.phases.first_byte_us = Some(10_000);
    seen.code = Some(200);
    let id = ProbeId { service, slot, region: Region::default(), kind: Kind::Scheduled };
    ProbeResult { id, epoch: Epoch(1), started: slot.time().after(Duration::from_micros(1_500)), seen }
}

async fn register(store: &dyn ResultStore) {
    for n in 0..SERVICES {
        let settings = ServiceSettings::new(
            Label::new(&format!("service {n}")).expect("a name"),
            format!("http://127.0.0.1:8080/{n}").parse().expect("a target"),
            Interval::new(INTERVAL).expect("an interval"),
        );
        store.register(id(n), settings).await.expect("a registration");
    }
}

/// Measures `record` alone; batches are made outside of it.
fn bench_store(c: &mut Criterion, name: &str, runtime: &Runtime, store: &dyn ResultStore, mut batches: Batches) {
    let record = |batch: Vec<ProbeResult>| {
        let begun = Instant::now();
        let recorded = runtime.block_on(store.record(batch)).expect("a batch is recorded");
        let took = begun.elapsed();
        assert_eq!((recorded.inserted as u64, recorded.repeated, recorded.set_aside.len()), (BATCH, 0, 0));
        took
    };
    // Every service twice: announced as up, and cached.
    for _ in 0..2 * SERVICES / BATCH {
        record(batches.next());
    }
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function(name, |b| b.iter_custom(|rounds| (0..rounds).map(|_| record(batches.next())).sum()));
    group.finish();
}

fn memory(c: &mut Criterion) {
    let runtime = runtime();
    let batches = Batches::new();
    // Few results a service, so that the oldest go all the time, as they do in a long run.
    let limits = StoreLimits { results_per_service: 100, ..StoreLimits::default() };
    let store = MemoryResultStore::new(Arc::clone(&batches.clock) as Arc<dyn Clock>, limits);
    runtime.block_on(register(&store));
    bench_store(c, "MemoryResultStore", &runtime, &store, batches);
}

fn sqlite(c: &mut Criterion) {
    let runtime = runtime();
    let batches = Batches::new();
    let folder = tempfile::tempdir().expect("a folder");
    let options = SqliteOptions::new(folder.path().join("record.db"));
    let clock = Arc::clone(&batches.clock) as Arc<dyn Clock>;
    let store = runtime.block_on(async {
        // Registering is not measured, so it need not wait for the disk 10,000 times.
        let quick = SqliteOptions { durability: Durability::Crash, ..options.clone() };
        let store = SqliteResultStore::open(quick, Arc::clone(&clock)).await.expect("the database");
        register(&store).await;
        store.close().await;
        SqliteResultStore::open(options, clock).await.expect("the database")
    });
    bench_store(c, "SqliteResultStore, survives a power cut", &runtime, &store, batches);
    runtime.block_on(store.close());
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5));
    targets = memory, sqlite
}
criterion_main!(benches);
