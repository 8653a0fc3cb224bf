//! The whole deployment: every slot scheduled, probed, judged and recorded.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    Options,
    accounts::{Books, Spent},
    control,
    database::{self, Crowd, Recorded},
    metrics::Metrics,
    note_load,
    stack::{ROLES, SERVERS, Stack, the_binary},
    wait,
};
use crate::process::Report;

/// How long it runs before it is measured: each service is probed once, but no longer than this.
const WARM_UP: Duration = Duration::from_secs(25);
/// How long the window's last results may take to be recorded.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// How often the progress of a long run is shown.
const PROGRESS: Duration = Duration::from_secs(30);
/// How long the bare client is measured, before and after.
const CONTROL_SECONDS: u64 = 20;

/// What a run came to.
struct Outcome {
    due: u64,
    recorded: Recorded,
    spent: Spent,
    /// Slots that the scheduler says it skipped.
    skipped: f64,
    /// p50 and p99 of the time from a probe's start to its being recorded.
    lag_ms: [f64; 2],
}

impl Outcome {
    fn missed(&self) -> i64 {
        self.due.cast_signed() - self.recorded.passed.cast_signed()
    }

    fn print(&self) {
        let Recorded { passed, other, lateness_us: [p50, p99, p999, most] } = self.recorded;
        let millis = |us: i64| us as f64 / 1e3;
        println!(
            "slots: {} due, {passed} recorded as passed, {other} otherwise, {} missed; skipped by the scheduler: {}",
            self.due,
            self.missed(),
            self.skipped
        );
        println!(
            "lateness of the start: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, most {:.1} ms",
            millis(p50),
            millis(p99),
            millis(p999),
            millis(most)
        );
        println!("from start to recorded: p50 {:.0} ms, p99 {:.0} ms", self.lag_ms[0], self.lag_ms[1]);
        self.spent.print("probe", passed);
    }

    fn each(&self, names: &[&str]) -> f64 {
        self.spent.sum(names) as f64 / self.recorded.passed.max(1) as f64
    }

    fn ratios(&self, bare: f64) {
        println!(
            "healthmon's processes: {:.1} us a probe, {:.2} x the bare client of this run (aim 1.5, at most 2.2)",
            self.each(&ROLES),
            self.each(&ROLES) / bare
        );
        println!("PostgreSQL and Redis: {:.1} us a probe (aim 20, at most 40)", self.each(&SERVERS));
    }
}

fn show(what: &str, report: &Report) {
    println!("{what}: {:.0} GETs/s, {:.1} us CPU each", report.per_second(), report.cpu_us_per_probe());
}

/// 100,000 services every 20 s, unless told otherwise.
pub(crate) fn steady(options: &Options<'_>) {
    let crowd = Crowd {
        services: options.number("--services").unwrap_or(100_000),
        interval: options.span("--interval").unwrap_or(Duration::from_secs(20)),
    };
    let seconds = options.number("--seconds").unwrap_or(300);
    println!("\n== cluster: {} services every {:?}, {seconds} s ==", crowd.services, crowd.interval);
    let binary = the_binary();
    note_load();
    let mut stack = Stack::start(&binary, options.has("--statements"));
    let rate = (crowd.services as f64 / crowd.interval.as_secs_f64()).ceil() as u64;
    let before = control(&stack.ports, rate, seconds.min(CONTROL_SECONDS));
    show("bare client at this rate, before", &before);
    let outcome = run(&mut stack, crowd, Duration::from_secs(seconds));
    if stack.statements {
        wait(database::print_statements(&stack.database(), outcome.recorded.passed));
    }
    stack.nodes.clear();
    let after = control(&stack.ports, rate, seconds.min(CONTROL_SECONDS));
    show("bare client at this rate, after", &after);
    outcome.print();
    outcome.ratios((before.cpu_us_per_probe() + after.cpu_us_per_probe()) / 2.0);
    println!("aims: no slot missed; p99 of the lateness below 100 ms");
}

/// Registers the crowd, starts the nodes, and measures once they run.
fn run(stack: &mut Stack, crowd: Crowd, window: Duration) -> Outcome {
    let begun = Instant::now();
    wait(crowd.register(&stack.database(), &stack.ports));
    println!("registered {} services in {:.1} s", crowd.services, begun.elapsed().as_secs_f64());
    stack.play(&["api", "recorder", "worker", "scheduler"]);
    stack.ready();
    sleep(WARM_UP.min(crowd.interval + Duration::from_secs(2)));
    let accounts = stack.accounts();
    if stack.statements {
        wait(database::forget_statements(&stack.database()));
    }
    let before = stack.node("recorder").metrics();
    let (from, books) = (database::now(), Books::read(&accounts));
    watch(stack, window, &before);
    let (to, spent) = (database::now(), books.until(&Books::read(&accounts)));
    sleep(AFTERWARDS);
    let recorder = stack.node("recorder").metrics();
    let lag = |share| recorder.quantile(&before, "healthmon_record_lag_seconds", share) * 1e3;
    let lag_ms = [lag(0.5), lag(0.99)];
    let skipped = stack.node("scheduler").metrics().value("healthmon_slots_missed_total");
    stack.complaints();
    let recorded = wait(database::recorded(&stack.database(), from, to));
    Outcome { due: crowd.due(from, to), recorded, spent, skipped, lag_ms }
}

/// Lets the window pass and says now and then how it goes.
fn watch(stack: &Stack, window: Duration, before: &Metrics) {
    let begin = Instant::now();
    let recorded = |metrics: &Metrics| metrics.value("healthmon_results_recorded_total");
    loop {
        let left = window.saturating_sub(begin.elapsed());
        sleep(left.min(PROGRESS));
        if left <= PROGRESS {
            return;
        }
        let now = stack.node("recorder").metrics();
        println!(
            "  after {:.0} s: {:.0} results recorded, {:.0} probes wait, {:.0} results wait",
            begin.elapsed().as_secs_f64(),
            recorded(&now) - recorded(before),
            now.value("healthmon_queue_waiting"),
            now.value("healthmon_queue_results")
        );
    }
}

/// Ever more services every 10 s, until two rates in a row are not kept up.
pub(crate) fn peak(options: &Options<'_>) {
    const INTERVAL: Duration = Duration::from_secs(10);
    let seconds = options.number("--seconds").unwrap_or(30);
    let (first, step) = (options.number("--from").unwrap_or(5_000), options.number("--step").unwrap_or(1_000));
    println!("\n== cluster-peak: the highest rate with every slot recorded, {seconds} s each ==");
    let binary = the_binary();
    note_load();
    let (mut rate, mut failures, mut best) = (first, 0, None);
    let mut bare = 0.0;
    while failures < 2 {
        println!("-- {rate} probes/s");
        let (outcome, most) = at_rate(&binary, Crowd { services: rate * 10, interval: INTERVAL }, seconds);
        outcome.print();
        show("bare client as fast as it can", &most);
        outcome.ratios(most.cpu_us_per_probe());
        let kept_up = outcome.missed() == 0 && outcome.recorded.lateness_us[1] < 1_000_000;
        println!("{}", if kept_up { "kept up" } else { "did not keep up" });
        if kept_up {
            (best, failures, bare) = (Some(rate), 0, most.per_second());
        } else {
            failures += 1;
        }
        rate += step;
    }
    match best {
        Some(rate) => println!("sustained: {rate} probes/s, {:.2} x the bare client's rate", rate as f64 / bare),
        None => println!("sustained: less than {first} probes/s"),
    }
}

fn at_rate(binary: &Path, crowd: Crowd, seconds: u64) -> (Outcome, Report) {
    let mut stack = Stack::start(binary, false);
    let outcome = run(&mut stack, crowd, Duration::from_secs(seconds));
    stack.nodes.clear();
    let most = control(&stack.ports, 0, seconds.min(10));
    (outcome, most)
}
