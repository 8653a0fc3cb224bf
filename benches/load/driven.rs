//! The monitor as the server assembles it: SQLite on the disk, queue in memory, HTTP prober.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
    sqlite::{Durability, SqliteOptions, SqliteResultStore},
};
use healthmon_core::{
    id::ServiceId,
    ports::{Clock, ResultQuery, ResultStore},
    probe::{Kind, Outcome},
    runtime::{Monitor, clock::SystemClock},
    schedule::slots_between,
    service::{Interval, Label, ServiceSettings, Timeout},
    time::Timestamp,
};

use crate::process::{Report, Usage};

/// How long it runs before it is measured: one interval, in which every service's state is read
/// once, but no longer than this.
const WARM_UP: Duration = Duration::from_secs(12);

/// `ports services interval-ms seconds`.
#[tokio::main]
pub(crate) async fn run(args: &[&str]) {
    let ports: Vec<&str> = args[0].split(',').collect();
    let number = |at: usize| args[at].parse::<u64>().expect("a number");
    let (services, interval, seconds) = (number(1), Duration::from_millis(number(2)), Duration::from_secs(number(3)));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("load.db");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    register(&path, &clock, &ports, services, interval).await;
    // Only now does what is measured begin: a process that finds its services in the database.
    let began = Instant::now();
    let store = SqliteResultStore::open(SqliteOptions::new(&path), Arc::clone(&clock)).await.expect("the database");
    let store = Arc::new(store);
    let dialer = Arc::new(Dialer::new(AddressPolicy::new(Loopback::Allowed)));
    let prober = HttpProber::new(HttpProberConfig { dialer, ..HttpProberConfig::default() }).expect("a prober");
    let monitor = Monitor::builder()
        .store(Arc::clone(&store) as Arc<dyn ResultStore>)
        .prober(Arc::new(prober))
        .clock(Arc::clone(&clock))
        .build()
        .expect("a monitor");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(monitor.run(async { drop(stopped.await) }));
    tokio::time::sleep(WARM_UP.min(interval + Duration::from_secs(2))).await;
    let (from, before, wall) = (clock.now(), Usage::now(), Instant::now());
    tokio::time::sleep(seconds).await;
    let (to, after, wall_us) = (clock.now(), Usage::now(), wall.elapsed().as_micros() as u64);
    // The last slots of the window are probed and recorded before the end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.send(()).expect("a monitor that runs");
    running.await.expect("no panic").expect("a clean end");
    let mut report = Report { wall_us, usage: after.since(before), ..Report::default() };
    read(&store, &mut report, (from, to), began, &clock).await;
    report.send();
}

async fn register(path: &std::path::Path, clock: &Arc<dyn Clock>, ports: &[&str], services: u64, interval: Duration) {
    let options = SqliteOptions { durability: Durability::Crash, ..SqliteOptions::new(path) };
    let store = SqliteResultStore::open(options, Arc::new(Past(Arc::clone(clock)))).await.expect("the database");
    for n in 0..services {
        let url = format!("http://127.0.0.1:{}/", ports[n as usize % ports.len()]);
        let settings = ServiceSettings {
            timeout: Timeout::new(interval.min(Duration::from_secs(5))).expect("a timeout"),
            ..ServiceSettings::new(
                Label::new(&format!("service {n}")).expect("a name"),
                url.parse().expect("a target"),
                Interval::new(interval).expect("an interval"),
            )
        };
        // Spread as snowflakes made a second apart would be.
        let id = ServiceId::new((n + 1) << 22).expect("an id");
        store.register(id, settings).await.expect("a registration");
    }
    store.close().await;
}

/// An hour ago: services that have been there for long get no edge probe at the start.
struct Past(Arc<dyn Clock>);

impl Clock for Past {
    fn now(&self) -> Timestamp {
        self.0.now().before(Duration::from_secs(3_600))
    }
}

/// Reads back what was recorded: the database is the witness.
async fn read(
    store: &SqliteResultStore,
    report: &mut Report,
    (from, to): (Timestamp, Timestamp),
    began: Instant,
    clock: &Arc<dyn Clock>,
) {
    let page = NonZeroUsize::new(1_000).expect("more than none");
    let (mut after, mut lateness, mut first) = (None, Vec::new(), i64::MAX);
    loop {
        let views = store.services(&Default::default(), after, page).await.expect("services");
        for view in &views {
            let (id, interval) = (view.service.id, view.service.settings.interval);
            let results = store.results(id, &ResultQuery::default(), page).await.expect("results");
            report.unseen += u64::from(results.is_empty());
            for stored in &results {
                first = first.min(stored.result.started.as_micros());
                // A probe that expired for want of a worker is no answer: the slot counts as not done.
                let passed = stored.outcome() == Outcome::Pass;
                let slot = stored.result.id.slot.time();
                if passed && slot > from && slot <= to && stored.result.id.kind == Kind::Scheduled {
                    lateness.push(stored.result.started.as_micros() - slot.as_micros());
                }
            }
            report.due += slots_between(id, interval, from, to);
        }
        after = views.last().map(|view| view.service.id);
        if views.len() < page.get() {
            break;
        }
    }
    lateness.sort_unstable();
    let at = |share: f64| lateness.get(((lateness.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(0);
    report.lateness_us = [at(0.5), at(0.99), at(1.0)];
    report.recorded = lateness.len() as u64;
    report.probes = report.recorded;
    // From the opening of the database to the first probe.
    let began_at = clock.now().before(began.elapsed()).as_micros();
    report.first_probe_ms = u64::try_from((first - began_at) / 1_000).unwrap_or(0);
}
