//! What a probe costs beside the barest client of the same library.
//!
//! `cargo bench --bench probes [-- KIND…] [--seconds N]`
//!
//! For each kind of probe: CPU and rate of the server's prober, through [`Prober::probe`] with the
//! server's own settings, and of a client that does with the same library what the probe must and
//! nothing else; by turns, in one process, on one thread, 64 at a time. The target is a process of
//! its own. Then the memory of a probe that waits for an answer, of both: what the resident memory
//! of a fresh process grows by when 2,000 of them do. A kind is named by its beginning, so that
//! `https` is also `https-resumed`, and `grpc` also `grpcs`.
//!
//! `cargo bench --bench probes -- in-flight [N]`: the monitor with N probes (10,000) in flight against
//! targets that never answer, one host with more of them than it has places, and 1,000 services that
//! are well: memory, deadlines, and how late the probes of those are. See `in_flight.rs`.
//!
//! CPU figures hold better than rates, for which the target's share of the machine counts too.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "../load/answer.rs"]
mod answer;
mod bare;
#[path = "../load/get.rs"]
mod get;
mod in_flight;
mod kinds;
#[expect(dead_code, reason = "the bench of the whole monitor needs more of it")]
#[path = "../load/process.rs"]
mod process;
mod target;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_adapters::{
    dns::{DnsProber, DnsProberConfig},
    grpc::{GrpcProber, GrpcProberConfig},
    heartbeat::HeartbeatProber,
    http::{HttpProber, HttpProberConfig},
    icmp::IcmpProber,
    net::{AddressPolicy, Dialer, Loopback, tls::TlsClient},
    secrets::Secrets,
    sqlite::{SqliteOptions, SqliteResultStore},
    tcp::TcpProber,
    tls::TlsProber,
    websocket::WebSocketProber,
};
use healthmon_core::{
    heartbeat::{KeyDigest, Report as Word, Sign},
    ports::{Clock, Heartbeats, Prober, ResultStore},
    probe::{Outcome, Probe},
    runtime::{Probers, clock::SystemClock},
    service::Service,
};
use kinds::Kind;
use process::{Child, Report, Usage};
use target::{Places, Ports};

/// As in the server. The bare clients run with it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Probes under way at once when CPU is measured.
const AT_ONCE: usize = 64;
/// How often the two take turns.
const TURNS: usize = 5;
/// Probes that wait at once when memory is measured, and before that, so that all is loaded.
const WAITING: usize = 2_000;
const WARM_UP: usize = 64;
/// How long they may take to come as far as they can.
const SETTLED: Duration = Duration::from_secs(3);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["role-target"] => target::run(),
        ["role-rival", kind, seconds, places] => rival(named(kind), seconds.parse().expect("seconds"), &read(places)),
        ["role-wait", kind, side, places] => wait(named(kind), side, &read(places)),
        ["role-in-flight", args @ ..] => in_flight::role(args),
        ["in-flight", rest @ ..] => in_flight::run(rest),
        words => compare(words),
    }
}

fn named(name: &str) -> Kind {
    Kind::ALL.into_iter().find(|kind| kind.name() == name).expect("a kind of those in kinds.rs")
}

fn read(places: &str) -> Places {
    serde_json::from_str(places).expect("what the target said")
}

fn compare(words: &[&str]) {
    let seconds = words
        .iter()
        .position(|word| *word == "--seconds")
        .map_or(2.0, |at| words.get(at + 1).and_then(|seconds| seconds.parse().ok()).expect("--seconds and a number"));
    let wanted: Vec<&&str> = words.iter().take_while(|word| **word != "--seconds").collect();
    let kinds = Kind::ALL
        .into_iter()
        .filter(|kind| wanted.is_empty() || wanted.iter().any(|wanted| kind.name().starts_with(**wanted)));
    let target = Child::start("role-target", &[]);
    let places = target.line();
    println!(
        "{:16} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6} {:>9} {:>9}",
        "", "CPU µs", "", "", "probes/s", "", "", "B waiting", ""
    );
    println!(
        "{:16} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6} {:>9} {:>9}",
        "kind", "bare", "healthmon", "ratio", "bare", "healthmon", "ratio", "bare", "healthmon"
    );
    for kind in kinds {
        if kind == Kind::Icmp
            && let Err(error) = bare::ping_socket()
        {
            println!("{:16} left out: the system gives this process no socket for pings ({error})", kind.name());
            continue;
        }
        let args = [kind.name().to_owned(), seconds.to_string(), places.clone()];
        let child = Child::start("role-rival", &args);
        let [bare, ours] = [Report::of(&child.line()), Report::of(&child.line())];
        let [bare_bytes, own_bytes] = ["bare", "healthmon"].map(|side| {
            let args = [kind.name().to_owned(), side.to_owned(), places.clone()];
            match kind {
                kind if !kind.can_wait() => "-".to_owned(),
                Kind::Icmp => in_silence(&args),
                _ => Child::start("role-wait", &args).line(),
            }
        });
        println!(
            "{:16} {:>9.1} {:>9.1} {:>6.2} {:>9.0} {:>9.0} {:>6.2} {:>9} {:>9}",
            kind.name(),
            bare.cpu_us_per_probe(),
            ours.cpu_us_per_probe(),
            ours.cpu_us_per_probe() / bare.cpu_us_per_probe(),
            bare.per_second(),
            ours.per_second(),
            ours.per_second() / bare.per_second(),
            bare_bytes,
            own_bytes,
        );
    }
}

/// The server's probers, but that this machine may be probed, and that the target's certificate is
/// trusted as public ones are.
fn probers(kind: Kind, places: &Places, heartbeats: Arc<dyn Heartbeats>) -> Probers {
    let dialer = Arc::new(Dialer::new(AddressPolicy::new(Loopback::Allowed)));
    let extra_roots = if kind == Kind::HttpsOwnRoot { Vec::new() } else { places.ca.clone().into_bytes() };
    let tls = TlsClient::new(&extra_roots).expect("TLS");
    let grpc = GrpcProberConfig {
        dialer: Arc::clone(&dialer),
        extra_roots: extra_roots.clone(),
        ..GrpcProberConfig::default()
    };
    let http = HttpProberConfig { dialer: Arc::clone(&dialer), extra_roots, ..HttpProberConfig::default() };
    let dns = DnsProberConfig { dialer: Arc::clone(&dialer), ..DnsProberConfig::default() };
    let secrets = Secrets::default;
    let all: [Arc<dyn Prober>; 8] = [
        Arc::new(HttpProber::new(http).expect("a prober")),
        Arc::new(GrpcProber::new(grpc).expect("a prober")),
        Arc::new(TcpProber::new(Arc::clone(&dialer), tls.clone(), secrets())),
        Arc::new(TlsProber::new(Arc::clone(&dialer), tls.clone(), secrets())),
        Arc::new(WebSocketProber::new(Arc::clone(&dialer), tls, secrets())),
        Arc::new(DnsProber::new(dns).expect("a prober")),
        Arc::new(IcmpProber::new(dialer)),
        Arc::new(HeartbeatProber::new(heartbeats)),
    ];
    let mut probers = Probers::default();
    for prober in all {
        probers.add(prober).expect("a scheme has one prober");
    }
    probers
}

/// Both rivals, ready to go.
struct Rivals {
    probers: Arc<Probers>,
    shared: bare::Shared,
    probes: Vec<Arc<Probe>>,
    kind: Kind,
    ports: Ports,
    _database: tempfile::TempDir,
}

impl Rivals {
    async fn new(kind: Kind, count: usize, ports: Ports, places: &Places) -> Self {
        rlimit::increase_nofile_limit(u64::MAX).expect("more files");
        let database = tempfile::tempdir().expect("a folder");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let options = SqliteOptions::new(database.path().join("probes.db"));
        let store = Arc::new(SqliteResultStore::open(options, clock).await.expect("the database"));
        let heartbeats = Arc::clone(&store) as Arc<dyn Heartbeats>;
        let mut probes: Vec<Probe> = (0..count).map(|n| kind.probe(n, &ports, places)).collect();
        if kind == Kind::Heartbeat {
            for probe in &mut probes {
                probe.service = Arc::new(reported_in(&store, &probe.service).await);
            }
        }
        let probers = probers(kind, places, Arc::clone(&heartbeats));
        for probe in &probes {
            probers.check(&probe.service.settings).expect("right settings");
        }
        let shared = bare::Shared { tls: bare::tls(kind, places), heartbeats };
        let probes = probes.into_iter().map(Arc::new).collect();
        Self { probers: Arc::new(probers), shared, probes, kind, ports, _database: database }
    }

    fn client(&self, n: usize) -> bare::Client {
        bare::Client::new(self.kind, n, self.ports, self.shared.clone(), self.probes[n].service.id)
    }

    /// Bare clients, each asking again and again until the end.
    fn ask(&self, clients: &mut Vec<bare::Client>, end: Instant) -> Vec<tokio::task::JoinHandle<(u64, bare::Client)>> {
        let each = clients.drain(..).map(|mut client| {
            tokio::spawn(async move {
                let mut done = 0;
                while Instant::now() < end {
                    client.ask().await;
                    done += 1;
                }
                (done, client)
            })
        });
        each.collect()
    }

    fn probe(&self, end: Instant) -> Vec<tokio::task::JoinHandle<u64>> {
        let each = self.probes.iter().map(|probe| {
            let (probers, probe) = (Arc::clone(&self.probers), Arc::clone(probe));
            tokio::spawn(async move {
                let mut done = 0;
                while Instant::now() < end {
                    let seen = probers.probe(&probe).await;
                    assert_eq!(seen.outcome, Outcome::Pass, "{:?}", seen.detail);
                    done += 1;
                }
                done
            })
        });
        each.collect()
    }
}

async fn reported_in(store: &SqliteResultStore, service: &Service) -> Service {
    let registered = store.register(service.id, service.settings.clone()).await.expect("a registration");
    store.set_key(service.id, KeyDigest([7; 32])).await.expect("a key");
    let sign = Sign::new(service.id, service.created_at, Word::Success);
    store.note(vec![sign]).await.expect("a sign");
    registered
}

fn on_one_thread<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// The two by turns; told is the median of their turns by CPU.
fn rival(kind: Kind, seconds: f64, places: &Places) {
    on_one_thread(async {
        let rivals = Rivals::new(kind, AT_ONCE, places.answering, places).await;
        let mut clients: Vec<_> = (0..AT_ONCE).map(|n| rivals.client(n)).collect();
        let span = Duration::from_secs_f64(seconds / TURNS as f64);
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        // The first turn of each is not counted.
        for turn in 0..=TURNS {
            let (begin, before) = (Instant::now(), Usage::now());
            let mut probes = 0;
            for task in rivals.ask(&mut clients, begin + span) {
                let (done, client) = task.await.expect("no panic");
                probes += done;
                clients.push(client);
            }
            let between = (Instant::now(), Usage::now());
            if turn > 0 {
                bare.push(report(probes, begin, between, before));
            }
            let (begin, before) = between;
            let mut probes = 0;
            for task in rivals.probe(begin + span) {
                probes += task.await.expect("no panic");
            }
            if turn > 0 {
                ours.push(report(probes, begin, (Instant::now(), Usage::now()), before));
            }
        }
        for mut reports in [bare, ours] {
            reports.sort_by(|a, b| a.cpu_us_per_probe().total_cmp(&b.cpu_us_per_probe()));
            reports[TURNS / 2].send();
        }
    });
}

fn report(probes: u64, begin: Instant, (end, after): (Instant, Usage), before: Usage) -> Report {
    let wall_us = end.duration_since(begin).as_micros() as u64;
    Report { probes, wall_us, usage: after.since(before), ..Report::default() }
}

/// What `role-wait` says in a network in which no ping is answered, which takes root.
fn in_silence(args: &[String]) -> String {
    let setup = "ip link set lo up && echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all && exec \"$@\"";
    let me = std::env::current_exe().expect("this program");
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--net", "sh", "-c", setup, "sh"]).arg(me).arg("role-wait").args(args);
    let said = unshare.output().ok().filter(|output| output.status.success());
    said.map_or_else(|| "-".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Many of one rival wait for a target that stays silent; told is the memory of each.
fn wait(kind: Kind, side: &str, places: &Places) {
    on_one_thread(async {
        let rivals = Rivals::new(kind, WARM_UP + WAITING, places.silent, places).await;
        let begin = |n: usize| -> tokio::task::JoinHandle<()> {
            // Over a connection that is kept the first question is answered, and the next is not.
            let most = if kind.is_kept() { 16 } else { 1 };
            if side == "bare" {
                let mut client = rivals.client(n);
                return tokio::spawn(async move {
                    for _ in 0..most {
                        client.ask().await;
                    }
                });
            }
            let (probers, probe) = (Arc::clone(&rivals.probers), Arc::clone(&rivals.probes[n]));
            tokio::spawn(async move {
                for _ in 0..most {
                    probers.probe(&probe).await;
                }
            })
        };
        let mut waiting: Vec<_> = (0..WARM_UP).map(begin).collect();
        waiting.reserve_exact(WAITING);
        tokio::time::sleep(SETTLED / 3).await;
        let before = Usage::now().rss_kb;
        waiting.extend((WARM_UP..WARM_UP + WAITING).map(begin));
        tokio::time::sleep(SETTLED).await;
        let after = Usage::now().rss_kb;
        assert!(waiting.iter().all(|task| !task.is_finished()), "all of them are to wait");
        println!("{}", after.saturating_sub(before) * 1024 / WAITING as u64);
    });
}
