//! The control: a bare hyper client, a fresh connection per GET.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    get::get,
    process::{Report, Usage},
};

/// Requests under way at once when it goes as fast as it can.
const AT_ONCE: usize = 64;

/// `ports rate seconds`; rate 0 means as fast as it can.
#[tokio::main]
pub(crate) async fn run(args: &[&str]) {
    let ports: Vec<u16> = args[0].split(',').map(|port| port.parse().expect("a port")).collect();
    let (rate, seconds): (u64, u64) = (args[1].parse().expect("a rate"), args[2].parse().expect("seconds"));
    let done = Arc::new(AtomicU64::new(0));
    let (begin, before) = (Instant::now(), Usage::now());
    let end = begin + Duration::from_secs(seconds);
    if rate == 0 {
        let each = (0..AT_ONCE).map(|n| {
            let (done, port) = (Arc::clone(&done), ports[n % ports.len()]);
            tokio::spawn(async move {
                while Instant::now() < end {
                    get(("127.0.0.1", port)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        for task in each.collect::<Vec<_>>() {
            task.await.expect("no panic");
        }
    } else {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        let mut started = 0;
        while Instant::now() < end {
            tick.tick().await;
            let wanted = begin.elapsed().as_micros() as u64 * rate / 1_000_000;
            for n in started..wanted {
                let (done, port) = (Arc::clone(&done), ports[n as usize % ports.len()]);
                tokio::spawn(async move {
                    get(("127.0.0.1", port)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            started = wanted;
        }
    }
    let after = Usage::now();
    Report {
        probes: done.load(Ordering::Relaxed),
        wall_us: begin.elapsed().as_micros() as u64,
        usage: after.since(before),
        ..Report::default()
    }
    .send();
}
