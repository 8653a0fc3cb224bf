//! The whole monitor under load, beside its target and its control, on this machine's cores.
//!
//! `cargo bench --bench load -- steady|peak|many|all [--seconds N]`
//!
//! - `steady`: 10,000 services every 10 s. Every slot recorded? How late? CPU per probe, beside a
//!   bare hyper client that does as many fresh-connection GETs at the same rate in the same run.
//! - `peak`: the highest rate that is sustained with every slot recorded, beside the bare client's.
//! - `many`: 100,000 services every 60 s: memory per service, start-up, all probed in one interval.
//!
//! Monitor, control and target are processes of their own, so that CPU and memory are told apart.
//!
//! The deployment of many processes has modes of its own. PostgreSQL (which syncs to the disk at
//! each commit), Redis (which appends to a file), the target and one node of each role, each a process
//! of the release binary, share this machine; CPU is told for each. The bench builds the binary, and
//! starts the servers itself; Debian's postgresql, redis-server and redis-tools must be installed.
//! They keep their data in the folder for temporary files: `TMPDIR` says where.
//!
//! - `cluster [--services N] [--interval SPAN] [--seconds N] [--statements]`: 100,000 services every
//!   20 s, for 5 minutes. Every slot recorded? How late? CPU per probe by process, beside the bare
//!   client's; with `--statements` also where PostgreSQL's time went.
//! - `cluster-peak [--from N] [--step N] [--seconds N]`: ever more services every 10 s, until two
//!   rates in a row are not kept up.
//! - `schedule-redis [--services N] [--interval SPAN] [--seconds N]`: scheduling alone, into a Redis
//!   that is emptied as fast; beside Redis's own benchmark.
//! - `record-postgres [--services N] [--seconds N]`: the record transaction on one connection, beside
//!   bare inserts.
//! - `million [--services N] [--interval SPAN] [--seconds N]`: 1,000,000 services every 60 s, not
//!   probed: start-up, memory and lateness of the scheduler.
//! - `peer [--seconds N]`: Prometheus' blackbox exporter (Debian's prometheus-blackbox-exporter) on
//!   the same target, beside the bare client.
//!
//! Each says how busy the machine was before, and how much CPU others took meanwhile: figures of a
//! run that was disturbed are worth little, and those of different runs compare by their ratios to
//! the control in each.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

mod answer;
mod cluster;
mod control;
mod driven;
mod get;
mod process;
mod target;

use process::{Child, Report, Usage};

/// As in the server. The control runs with it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let seconds = words.iter().position(|word| *word == "--seconds").and_then(|at| words.get(at + 1)?.parse().ok());
    match words.first().copied() {
        Some("role-target") => target::run(),
        Some("role-control") => control::run(&words[1..]),
        Some("role-record") => cluster::role_record(&words[1..]),
        Some("role-monitor") => driven::run(&words[1..]),
        Some("steady") => steady(seconds.unwrap_or(60)),
        Some("peak") => peak(seconds.unwrap_or(15)),
        Some("many") => many(seconds.unwrap_or(75)),
        None | Some("all" | "--seconds") => {
            steady(seconds.unwrap_or(60));
            peak(seconds.unwrap_or(15));
            many(seconds.unwrap_or(75));
        }
        Some(_) if cluster::run(&words) => {}
        Some(other) => panic!("{other}: must be one of the modes at the top of benches/load/main.rs"),
    }
}

fn steady(seconds: u64) {
    const SERVICES: u64 = 10_000;
    println!("\n== steady: {SERVICES} services every 10 s, {seconds} s ==");
    let target = Child::start("role-target", &[]);
    let ports = target.line();
    let run = |role: &str, args: &[String]| Child::start(role, args).report();
    let rate = SERVICES / 10;
    let control = run("role-control", &[ports.clone(), rate.to_string(), seconds.to_string()]);
    let monitor = run("role-monitor", &[ports.clone(), SERVICES.to_string(), "10000".to_string(), seconds.to_string()]);
    let again = run("role-control", &[ports, rate.to_string(), seconds.to_string()]);
    let bare = (control.cpu_us_per_probe() + again.cpu_us_per_probe()) / 2.0;
    print(&control, "bare client, before");
    print(&monitor, "healthmon");
    print(&again, "bare client, after");
    println!("slots: {} recorded of {} due", monitor.recorded, monitor.due);
    println!(
        "lateness: p50 {} us, p99 {} us, max {} us",
        monitor.lateness_us[0], monitor.lateness_us[1], monitor.lateness_us[2]
    );
    println!("CPU per probe: {:.2} x the bare client (aim 1.25, at most 1.6)", monitor.cpu_us_per_probe() / bare);
}

fn peak(seconds: u64) {
    println!("\n== peak: the highest rate with every slot recorded, {seconds} s each ==");
    let target = Child::start("role-target", &[]);
    let ports = target.line();
    let control = Child::start("role-control", &[ports.clone(), "0".to_string(), seconds.to_string()]).report();
    print(&control, "bare client, as fast as it can");
    let most = control.per_second();
    let mut best: Option<(u64, Report)> = None;
    // From four tenths of the bare client's rate upwards, until it no longer keeps up twice.
    let mut share = 0.40;
    let mut failures = 0;
    while failures < 2 && share < 1.01 {
        let services = (most * share) as u64;
        let report = Child::start(
            "role-monitor",
            &[ports.clone(), services.to_string(), "1000".to_string(), seconds.to_string()],
        )
        .report();
        let kept_up = report.recorded == report.due && report.lateness_us[1] < 1_000_000;
        print(
            &report,
            &format!("healthmon, {services} services every 1 s{}", if kept_up { "" } else { " (did not keep up)" }),
        );
        println!("    {} of {} recorded, lateness p99 {} us", report.recorded, report.due, report.lateness_us[1]);
        if kept_up {
            best = Some((services, report));
            failures = 0;
        } else {
            failures += 1;
        }
        share += 0.05;
    }
    match best {
        Some((rate, _)) => {
            println!("sustained: {rate} probes/s, {:.2} x the bare client (aim 0.75, at least 0.4)", rate as f64 / most)
        }
        None => println!("sustained: less than 0.4 x the bare client"),
    }
}

fn many(seconds: u64) {
    const SERVICES: u64 = 100_000;
    println!("\n== many: {SERVICES} services every 60 s, {seconds} s ==");
    let target = Child::start("role-target", &[]);
    let ports = target.line();
    let run = |services: u64| {
        let args = [ports.clone(), services.to_string(), "60000".to_string(), seconds.to_string()];
        Child::start("role-monitor", &args).report()
    };
    let base = run(10);
    let full = run(SERVICES);
    print(&full, "healthmon");
    println!("first probe {} ms after the start", full.first_probe_ms);
    println!("slots: {} recorded of {} due; services without a result: {}", full.recorded, full.due, full.unseen);
    let per_service = |peak: u64, base: u64| peak.saturating_sub(base) as f64 * 1024.0 / SERVICES as f64;
    println!(
        "memory: {} kB with 10 services, {} kB with {SERVICES}: {:.0} B per service (aim 512, at most 1024)",
        base.usage.rss_kb,
        full.usage.rss_kb,
        per_service(full.usage.rss_kb, base.usage.rss_kb)
    );
}

fn print(report: &Report, what: &str) {
    let Usage { cpu_us, sqlite_us, rss_kb } = report.usage;
    println!(
        "{what}: {} probes, {:.0}/s, {:.1} us CPU each ({:.1} of it SQLite's threads), {:.1} % of a core, {rss_kb} kB",
        report.probes,
        report.per_second(),
        report.cpu_us_per_probe(),
        sqlite_us as f64 / report.probes.max(1) as f64,
        cpu_us as f64 / report.wall_us as f64 * 100.0,
    );
}
