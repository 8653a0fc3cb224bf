//! What finding the due slots costs: `cargo bench --bench schedule`.
//!
//! Services at mixed intervals of 10 to 60 s; each measurement is the next hundred windows of 10 ms,
//! asked for one after another. Elements are emissions: the mean number of slots in that second.

#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use healthmon_core::{
    id::ServiceId,
    memory::{LocalScheduler, MemoryResultStore, StoreLimits},
    ports::{Clock, ResultStore, Scheduler},
    schedule::Rings,
    service::{Interval, Label, ServiceSettings},
    time::Timestamp,
};

/// As in the server: emissions allocate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START: Timestamp = Timestamp::from_millis(1_795_168_800_000);
const WINDOW: Duration = Duration::from_millis(10);
const INTERVALS_S: [u64; 5] = [10, 15, 20, 30, 60];

/// Windows in one measured round. Short ones are not told from the clock's own cost.
const WINDOWS: u32 = 100;

fn service(n: u64) -> (ServiceId, Interval) {
    let seconds = INTERVALS_S[n as usize % INTERVALS_S.len()];
    // Spread as snowflakes made a second apart would be.
    let id = ServiceId::new((n + 1) << 22).expect("an id");
    (id, Interval::new(Duration::from_secs(seconds)).expect("an interval"))
}

/// How many slots of `services` services fall due in a round, in the long run.
fn per_round(services: u64) -> u64 {
    let per_minute: u64 = (0..services).map(|n| 60 / INTERVALS_S[n as usize % INTERVALS_S.len()]).sum();
    per_minute * u64::from(WINDOWS) * WINDOW.as_millis() as u64 / 60_000
}

fn rings(c: &mut Criterion) {
    let mut group = c.benchmark_group("rings, 10 ms windows");
    for services in [10_000, 100_000, 1_000_000] {
        let mut rings = Rings::new();
        for (id, interval) in (0..services).map(service) {
            rings.insert(id, interval);
        }
        let (mut now, mut slots) = (START, Vec::new());
        group.throughput(Throughput::Elements(per_round(services)));
        group.bench_function(BenchmarkId::from_parameter(services), |b| {
            b.iter(|| {
                for _ in 0..WINDOWS {
                    slots.clear();
                    let later = now.after(WINDOW);
                    assert_eq!(rings.due(now, later, &mut slots), 0, "nothing is skipped");
                    now = later;
                }
                slots.len()
            });
        });
    }
    group.finish();
}

/// Services were registered an hour before, so that no edge probes are among what is measured.
struct Past;

impl Clock for Past {
    fn now(&self) -> Timestamp {
        START.before(Duration::from_hours(1))
    }
}

async fn populated(services: u64) -> LocalScheduler {
    let store = MemoryResultStore::new(Arc::new(Past), StoreLimits::default());
    for (n, (id, interval)) in (0..services).map(service).enumerate() {
        let name = Label::new(&format!("service {n}")).expect("a name");
        let url = format!("http://127.0.0.1:8080/{n}").parse().expect("a target");
        store.register(id, ServiceSettings::new(name, url, interval)).await.expect("a registration");
    }
    LocalScheduler::new(Arc::new(store))
}

/// With the probes built, and every hundredth window the look at the store's feed.
fn local_scheduler(c: &mut Criterion) {
    const SERVICES: u64 = 100_000;
    let max = NonZeroUsize::new(100_000).expect("more than none");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut now = START;
    let scheduler = runtime.block_on(async {
        let scheduler = populated(SERVICES).await;
        let first = scheduler.due(now, max).await.expect("the first look");
        assert!(first.probes.is_empty(), "neither edge probes nor slots of before");
        scheduler
    });
    let mut group = c.benchmark_group("LocalScheduler::due, 10 ms windows");
    group.throughput(Throughput::Elements(per_round(SERVICES)));
    group.bench_function(BenchmarkId::from_parameter(SERVICES), |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut emitted = 0;
                for _ in 0..WINDOWS {
                    now = now.after(WINDOW);
                    let due = scheduler.due(now, max).await.expect("what is due");
                    assert_eq!(due.missed, 0);
                    emitted += due.probes.len();
                }
                emitted
            })
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = rings, local_scheduler
}
criterion_main!(benches);
