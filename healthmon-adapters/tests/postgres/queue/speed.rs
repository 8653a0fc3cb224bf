//! How fast the queue is, on a server that syncs to this machine's disk. Figures depend on the
//! machine, so this runs when asked for:
//! `cargo test --release --features postgres,servers --test postgres -- --ignored --nocapture queue::speed`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_adapters::servers::PrivatePostgres;
use healthmon_core::{memory::QueueLimits, ports::ProbeQueue, time::Slot};

use super::{ack, consumer, open, passed, probes, real};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
async fn speed_of_whole_probes() {
    let server = PrivatePostgres::start_with(&[("shared_buffers", "512MB"), ("max_wal_size", "4GB")]).expect("started");
    let queue = open(&server.url("postgres"), &["local"], QueueLimits::shared()).await;
    let other = open(&server.url("postgres"), &["local"], QueueLimits::shared()).await;
    let services = probes(1, 20_000);
    for size in [20, 200, 1_000, 2_000] {
        let (rounds, began, one) = (if size < 100 { 200 } else { 40 }, Instant::now(), consumer("one"));
        let mut spent = [Duration::ZERO; 5];
        for round in 0..rounds {
            let batch = batch(&services, round, size);
            let mut clock = Instant::now();
            let mut lap = |step: usize| {
                spent[step] += clock.elapsed();
                clock = Instant::now();
            };
            queue.enqueue(batch).await.expect("enqueued");
            lap(0);
            let taken = queue.pull(size.try_into().expect("some"), Duration::from_secs(1)).await.expect("pulled");
            lap(1);
            assert_eq!(taken.len(), size);
            queue.complete(passed(&taken)).await.expect("completed");
            lap(2);
            let results = queue.pull_results(&one, size.try_into().expect("some"), Duration::from_secs(1)).await;
            let results = results.expect("pulled");
            lap(3);
            assert_eq!(results.len(), size);
            ack(&*queue, &one, &results).await;
            lap(4);
        }
        let total = (rounds * size) as f64;
        println!(
            "one after the other, batches of {size}: {:.0} whole probes/s; µs a probe: enqueue {:.1} pull {:.1} complete \
             {:.1} results {:.1} ack {:.1}",
            total / began.elapsed().as_secs_f64(),
            spent[0].as_secs_f64() * 1e6 / total,
            spent[1].as_secs_f64() * 1e6 / total,
            spent[2].as_secs_f64() * 1e6 / total,
            spent[3].as_secs_f64() * 1e6 / total,
            spent[4].as_secs_f64() * 1e6 / total,
        );
        queue.release(&one).await.expect("released");
    }
    all_at_once(&queue, &other, &services).await;
}

fn batch(services: &[healthmon_core::probe::Probe], round: usize, size: usize) -> Vec<healthmon_core::probe::Probe> {
    let slot = Slot::at(real().now());
    let from = round * size % (services.len() - size);
    let mut batch = services[from..from + size].to_vec();
    for probe in &mut batch {
        probe.id.slot = slot;
        probe.start_by = slot.time().after(Duration::from_secs(60));
    }
    batch
}

/// A scheduler, two nodes' workers and a recorder, each as fast as it can.
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
async fn all_at_once(
    queue: &Arc<dyn ProbeQueue>,
    other: &Arc<dyn ProbeQueue>,
    services: &[healthmon_core::probe::Probe],
) {
    const PROBES: usize = 100_000;
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for queue in [queue, other, queue, other] {
        let queue = Arc::clone(queue);
        workers.spawn(async move {
            loop {
                let most = 500.try_into().expect("some");
                let taken = queue.pull(most, Duration::from_secs(1)).await.expect("pulled");
                queue.complete(passed(&taken)).await.expect("completed");
            }
        });
    }
    let scheduling = async {
        for round in 0..PROBES / 1_000 {
            queue.enqueue(batch(services, round, 1_000)).await.expect("enqueued");
        }
    };
    let recording = async {
        let (one, mut recorded, most) = (consumer("two"), 0, 2_000.try_into().expect("some"));
        while recorded < PROBES {
            let results = other.pull_results(&one, most, Duration::from_secs(1)).await.expect("pulled");
            ack(&**other, &one, &results).await;
            recorded += results.len();
        }
    };
    tokio::join!(scheduling, recording);
    let depth = queue.depth().await.expect("the depth");
    println!("all at once: {:.0} whole probes/s; left {depth:?}", PROBES as f64 / began.elapsed().as_secs_f64());
}
