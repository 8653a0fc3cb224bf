//! Thousands of probes in flight against targets that never answer.
//!
//! The monitor as the server assembles it (SQLite on the disk, the queue in memory, the server's HTTP
//! prober), in a process of its own; only `concurrency` (4,096) is raised, so that so many may be in
//! flight, and `per_host` is set, so that one host has more probes than places. What hangs has an
//! interval of 10 s and a timeout of 9.8 s, so that nearly all are in flight at any time; what is well
//! is probed each second. First with those that are well alone, then with all.
//!
//! Told each 10 s: the probes in flight, the memory, by how much probes ended after their deadline,
//! how late the probes began of the services that are well, and how many of their slots were probed.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
    sqlite::{Durability, SqliteOptions, SqliteResultStore},
};
use healthmon_core::{
    id::ServiceId,
    ports::{Clock, Prober, ResultQuery, ResultStore},
    probe::{FailReason, IndeterminateReason, Kind, Observation, Outcome, Probe},
    runtime::{Monitor, Tuning, clock::SystemClock},
    schedule::slots_between,
    service::{FieldErrors, Interval, Label, ServiceSettings, Timeout},
    time::Timestamp,
};

use crate::{
    process::{Child, Usage},
    target::Places,
};

const ROUND: Duration = Duration::from_secs(10);
const ROUNDS: usize = 6;
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_millis(9_800);
/// Services of a host that hangs.
const TO_A_HOST: u64 = 50;
/// Services of the one host that has more of them than places.
const CROWD: u64 = 1_000;
const PLACES: usize = 250;
/// Services that are well, and how often they are probed.
const WELL: u64 = 1_000;
const WELL_INTERVAL: Duration = Duration::from_secs(1);

/// `[N]`
pub(crate) fn run(args: &[&str]) {
    let count: u64 = args.first().map_or(10_000, |count| count.parse().expect("a number of probes"));
    let files = rlimit::increase_nofile_limit(u64::MAX).expect("more files");
    let needed = count + CROWD + WELL + 500;
    if files < needed {
        println!(
            "{count} probes in flight need {needed} open files, and the system's hard limit is {files} (ulimit -Hn)"
        );
        std::process::exit(1);
    }
    let target = Child::start("role-target", &[]);
    let places = target.line();
    for hanging in [0, count] {
        println!("\n== {hanging} probes in flight that nobody answers, beside {WELL} services that are well ==");
        let child = Child::start("role-in-flight", &[places.clone(), hanging.to_string()]);
        loop {
            match child.line() {
                line if line.is_empty() => break,
                line => println!("{line}"),
            }
        }
    }
}

/// `places count`
#[tokio::main]
pub(crate) async fn role(args: &[&str]) {
    rlimit::increase_nofile_limit(u64::MAX).expect("more files");
    let (places, count) = (crate::read(args[0]), args[1].parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("in-flight.db");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let groups = register(&path, &clock, &places, count).await;
    let store = SqliteResultStore::open(SqliteOptions::new(&path), Arc::clone(&clock)).await.expect("the database");
    let store = Arc::new(store);
    let dialer = Arc::new(Dialer::new(AddressPolicy::new(Loopback::Allowed)));
    let prober = HttpProber::new(HttpProberConfig { dialer, ..HttpProberConfig::default() }).expect("a prober");
    let watched = Arc::new(Watched { prober, clock: Arc::clone(&clock), seen: Arc::default() });
    let tuning = Tuning {
        concurrency: NonZeroUsize::new(count as usize * 3 / 2 + 4_096).expect("more than none"),
        per_host: NonZeroUsize::new(PLACES),
        ..Tuning::default()
    };
    let monitor = Monitor::builder()
        .store(Arc::clone(&store) as Arc<dyn ResultStore>)
        .prober(Arc::clone(&watched) as Arc<dyn Prober>)
        .clock(Arc::clone(&clock))
        .tuning(tuning)
        .build()
        .expect("a monitor");
    let before = Usage::now();
    println!("before anything is probed: {} kB", before.rss_kb);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(monitor.run(async { drop(stopped.await) }));
    // All are in flight after one interval, and the first have come to their deadline.
    tokio::time::sleep(INTERVAL + ROUND / 5).await;
    watched.seen.take();
    let from = clock.now();
    let (mut all, mut begin, mut used) = (Taken::default(), Instant::now(), Usage::now());
    for round in 1..=if count == 0 { 2 } else { ROUNDS } {
        tokio::time::sleep(ROUND).await;
        let (taken, now) = (watched.seen.take(), Usage::now());
        let cpu = now.since(used).cpu_us as f64 / begin.elapsed().as_micros() as f64 * 100.0;
        (begin, used) = (Instant::now(), now);
        let under_way = watched.seen.under_way.load(Ordering::Relaxed);
        println!(
            "{:>3} s: {under_way:>6} in flight, {:>7} kB, {cpu:>3.0} % of a core; {taken}",
            round as u64 * ROUND.as_secs(),
            now.rss_kb
        );
        all.add(taken);
    }
    let to = clock.now();
    println!("in all: {all}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    groups.tell(&store, from, to).await;
    stop.send(()).expect("a monitor that runs");
    running.await.expect("no panic").expect("a clean end");
}

/// The services, by what is wrong with them.
struct Groups {
    hanging: Vec<ServiceId>,
    crowd: Vec<ServiceId>,
    well: Vec<ServiceId>,
}

async fn register(path: &std::path::Path, clock: &Arc<dyn Clock>, places: &Places, count: u64) -> Groups {
    let options = SqliteOptions { durability: Durability::Crash, ..SqliteOptions::new(path) };
    let store = SqliteResultStore::open(options, Arc::new(Past(Arc::clone(clock)))).await.expect("the database");
    let mut number = 0;
    let mut ids = Vec::new();
    // A few more than are to be in flight: a timeout is a little shorter than the interval.
    let hanging = count * 103 / 100;
    let crowd = if count == 0 { 0 } else { CROWD };
    let silent = places.silent.http;
    let hosts = |n: u64, net: u8| format!("127.{net}.{}.{}", n / 250, n % 250 + 1);
    let groups = [
        (hanging, INTERVAL, TIMEOUT, silent, 1, TO_A_HOST),
        (crowd, INTERVAL, TIMEOUT, silent, 2, CROWD),
        (WELL, WELL_INTERVAL, WELL_INTERVAL, places.answering.http, 3, TO_A_HOST),
    ];
    for (count, interval, timeout, port, net, to_a_host) in groups {
        let mut of_group = Vec::new();
        for n in 0..count {
            number += 1;
            let url = format!("http://{}:{port}/", hosts(n / to_a_host, net));
            let settings = ServiceSettings {
                timeout: Timeout::new(timeout).expect("a timeout"),
                ..ServiceSettings::new(
                    Label::new(&format!("service {number}")).expect("a name"),
                    url.parse().expect("a target"),
                    Interval::new(interval).expect("an interval"),
                )
            };
            // Spread as snowflakes made a second apart would be.
            let id = ServiceId::new(number << 22).expect("an id");
            store.register(id, settings).await.expect("a registration");
            of_group.push(id);
        }
        ids.push(of_group);
    }
    store.close().await;
    let [hanging, crowd, well] = ids.try_into().expect("three groups");
    Groups { hanging, crowd, well }
}

/// An hour ago: services that have been there for long get no edge probe at the start.
struct Past(Arc<dyn Clock>);

impl Clock for Past {
    fn now(&self) -> Timestamp {
        self.0.now().before(Duration::from_secs(3_600))
    }
}

impl Groups {
    /// What stands in the database of the slots in this time.
    async fn tell(&self, store: &SqliteResultStore, from: Timestamp, to: Timestamp) {
        let page = NonZeroUsize::new(1_000).expect("more than none");
        for (what, ids, interval) in [
            ("hanging", &self.hanging, INTERVAL),
            ("crowded", &self.crowd, INTERVAL),
            ("well", &self.well, WELL_INTERVAL),
        ] {
            if ids.is_empty() {
                continue;
            }
            let interval = Interval::new(interval).expect("an interval");
            let (mut due, mut passed, mut timed_out, mut crowded, mut others) = (0, 0, 0, 0, 0);
            for id in ids {
                // Those whose deadline has come.
                let until = to.before(if what == "well" { Duration::ZERO } else { TIMEOUT });
                due += slots_between(*id, interval, from, until);
                for stored in store.results(*id, &ResultQuery::default(), page).await.expect("results") {
                    let slot = stored.result.id.slot.time();
                    if slot <= from || slot > until || stored.result.id.kind != Kind::Scheduled {
                        continue;
                    }
                    *match stored.outcome() {
                        Outcome::Pass => &mut passed,
                        Outcome::Fail(FailReason::Timeout) => &mut timed_out,
                        Outcome::Indeterminate(IndeterminateReason::Crowded) => &mut crowded,
                        _ => &mut others,
                    } += 1;
                }
            }
            println!(
                "{what}: of {due} slots {passed} passed, {timed_out} timed out, {crowded} found their host crowded, \
                 {others} something else"
            );
        }
    }
}

/// The server's prober, and when its probes began and ended.
struct Watched {
    prober: HttpProber,
    clock: Arc<dyn Clock>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    under_way: AtomicUsize,
    taken: Mutex<Taken>,
}

/// In microseconds.
#[derive(Default)]
struct Taken {
    /// From the deadline to the end of probes that timed out; negative where it came sooner.
    overdue: Vec<i64>,
    /// From the slot to the beginning of probes of services that are well.
    late: Vec<i64>,
}

impl Seen {
    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Taken {
        // As large as it can become, so that it is not what makes the memory grow.
        let (overdue, late) = (Vec::with_capacity(32_768), Vec::with_capacity(32_768));
        std::mem::replace(&mut *self.taken(), Taken { overdue, late })
    }
}

impl Taken {
    fn add(&mut self, more: Self) {
        self.overdue.extend(more.overdue);
        self.late.extend(more.late);
    }
}

impl std::fmt::Display for Taken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, spans) in [("ended after the deadline by", &self.overdue), ("well ones late by", &self.late)] {
            let mut sorted: Vec<i64> = spans.iter().map(|span| span.abs()).collect();
            sorted.sort_unstable();
            let at = |share: f64| sorted.get(((sorted.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(0);
            let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| at(share) as f64 / 1e3);
            write!(f, "{what} p50 {p50:.1} p99 {p99:.1} max {most:.1} ms ({}); ", sorted.len())?;
        }
        Ok(())
    }
}

#[async_trait]
impl Prober for Watched {
    fn schemes(&self) -> &[&'static str] {
        self.prober.schemes()
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        self.prober.check(settings)
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        let (started, begun) = (self.clock.now(), Instant::now());
        self.seen.under_way.fetch_add(1, Ordering::Relaxed);
        let seen = self.prober.probe(probe).await;
        self.seen.under_way.fetch_sub(1, Ordering::Relaxed);
        let timeout = probe.service.settings.timeout.get();
        if seen.outcome == Outcome::Fail(FailReason::Timeout) {
            let overdue = begun.elapsed().as_micros() as i64 - timeout.as_micros() as i64;
            self.seen.taken().overdue.push(overdue);
        }
        if timeout == WELL_INTERVAL {
            let late = started.as_micros() - probe.id.slot.time().as_micros();
            self.seen.taken().late.push(late);
        }
        seen
    }
}
