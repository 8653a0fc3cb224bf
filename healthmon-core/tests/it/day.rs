//! A day of schedule in simulated time: what is announced, how soon, and what the laws allow.
//!
//! Twelve services are down once an hour, for 20 s, 2 min or 10 min; at noon the prober's own network
//! is away for 10 minutes; from 15:00 to 16:00 everybody is slow. What came of it is compared with
//! the bounds, and as a table with `day.txt`.

use std::{fmt::Write, sync::Arc, time::Duration};

use healthmon_core::{
    ports::{ResultQuery, ResultStore},
    probe::{FailReason, IndeterminateReason, Kind, Outcome},
    runtime::Canary,
    service::Service,
    status::{LogEvent, Overlay, Status},
    time::span,
};
use serde_json::json;

use crate::support::{ALL, START, Seen, Truth, Walk, World, settings};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const TIMEOUT: Duration = Duration::from_secs(4);
/// A pass waits up to 250 ms for company before it is recorded; the rest is the loops' own.
const SLACK: Duration = Duration::from_millis(500);
const LENGTHS: [Duration; 3] = [Duration::from_secs(20), Duration::from_mins(2), Duration::from_mins(10)];
const BLACKOUT: (Duration, Duration) = (Duration::from_hours(12), Duration::from_mins(12 * 60 + 10));
const SLOW: (Duration, Duration) = (Duration::from_hours(15), Duration::from_hours(16));

/// k, n and s; interval, edge interval; whether the target refuses or hangs while it is down.
type Row = ([u8; 3], u64, Option<u64>, Manner);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Refuses,
    Hangs,
}

const ROWS: [Row; 12] = [
    ([1, 1, 1], 60, None, Manner::Refuses),
    ([3, 3, 2], 10, None, Manner::Refuses),
    ([3, 3, 2], 30, None, Manner::Refuses),
    ([3, 3, 2], 30, Some(5), Manner::Refuses),
    ([3, 3, 2], 30, Some(1), Manner::Refuses),
    ([3, 3, 2], 60, None, Manner::Refuses),
    ([3, 3, 2], 60, Some(5), Manner::Refuses),
    ([3, 3, 2], 60, None, Manner::Hangs),
    ([3, 3, 2], 60, Some(5), Manner::Hangs),
    ([3, 3, 2], 60, Some(1), Manner::Hangs),
    ([3, 5, 2], 30, Some(5), Manner::Refuses),
    ([5, 5, 3], 30, Some(5), Manner::Refuses),
];

/// The outage of a service in an hour of the day: its begin and its length.
fn outage(row: usize, hour: u64) -> Option<(Duration, Duration)> {
    let mut walk = Walk(row as u64 * 31 + hour * 7 + 1);
    let begin =
        HOUR * u32::try_from(hour).unwrap() + Duration::from_mins(20) + Duration::from_millis(walk.below(120_000));
    // Not in the slow hour: one thing at a time. The first hour is for them to be UP.
    ((1..24).contains(&hour) && hour != 15).then_some((begin, LENGTHS[usize::try_from(hour % 3).unwrap()]))
}

fn truth(host: &str, at: Duration) -> Seen {
    let quick = Duration::from_millis(5);
    if (BLACKOUT.0..BLACKOUT.1).contains(&at) {
        return (Outcome::Fail(FailReason::Connect), quick);
    }
    let Some(row) = host.strip_prefix("row").and_then(|row| row.parse::<usize>().ok()) else {
        return (Outcome::Pass, quick);
    };
    let down = outage(row, at.as_secs() / 3_600).is_some_and(|(begin, length)| (begin..begin + length).contains(&at));
    match ROWS[row].3 {
        Manner::Refuses if down => (Outcome::Fail(FailReason::Connect), quick),
        Manner::Hangs if down => (Outcome::Pass, HOUR),
        _ if (SLOW.0..SLOW.1).contains(&at) => (Outcome::Slow, quick),
        _ => (Outcome::Pass, quick),
    }
}

/// The longest that `count` outcomes in a row may take to be seen and recorded, from the instant at
/// which the target changed: its next slot, and the others a step apart, each as long as a probe.
fn bound((_, interval, edge, _): Row, count: u32, took: Duration) -> Duration {
    let (interval, edge) = (SECOND * u32::try_from(interval).unwrap(), edge.map(Duration::from_secs));
    let step = edge.map_or(interval, |edge| edge.max(took).min(interval));
    interval + step * (count - 1) + took + SLACK
}

fn down_bound(row: Row) -> Duration {
    let took = if row.3 == Manner::Hangs { TIMEOUT } else { Duration::ZERO };
    bound(row, row.0[0].into(), took)
}

/// By law 13: max(s, n − k + 1) passes.
fn up_bound(row: Row) -> Duration {
    let [k, n, s] = row.0;
    bound(row, s.max(n - k + 1).into(), Duration::ZERO)
}

/// How a line of each table begins, which tells a row from all others.
fn beginning([policy, target, interval, edge]: [&str; 4]) -> String {
    format!("{policy:<12} {target:<8} {interval:>8} {edge:>5}")
}

fn beginning_of(([k, window, s], interval, edge, manner): Row) -> String {
    beginning([
        &format!("{k} of {window}, {s}"),
        if manner == Manner::Hangs { "hangs" } else { "refuses" },
        &span::format(Duration::from_secs(interval)),
        &edge.map_or("–".to_owned(), |edge| format!("{edge}s")),
    ])
}

fn shown(span: Option<Duration>) -> String {
    span.map_or("–".to_owned(), |span| format!("{:.1} s", span.as_secs_f64()))
}

/// What was announced of a service: status, when, and in which words.
type Told = Vec<(Status, Duration, Option<Box<str>>)>;

/// When a status was first announced between two instants.
fn first(told: &Told, status: Status, from: Duration, to: Duration) -> Option<Duration> {
    told.iter().find(|(to_status, at, _)| *to_status == status && (from..to).contains(at)).map(|(_, at, _)| *at)
}

struct Day {
    world: World,
    services: Vec<Service>,
}

impl Day {
    async fn pass() -> Self {
        let world = World::new();
        let canary = Canary::new(["test://one", "test://two"].map(|url| url.parse().unwrap()).to_vec()).unwrap();
        let prober = Arc::new(Truth { clock: Arc::clone(&world.clock), tell: truth });
        let monitor = world.monitor(prober).canary(canary).build().unwrap();
        let mut services = Vec::new();
        for (n, ([k, window, s], interval, edge, _)) in ROWS.into_iter().enumerate() {
            let more = json!({
                "interval": interval, "edge_interval": edge, "timeout": TIMEOUT.as_secs(),
                "policy": {"failure_threshold": k, "window": window, "success_threshold": s},
                "expect": {"latency": {"degraded": "500ms"}},
            });
            services.push(monitor.handle().register(settings(&format!("row{n}"), &more)).await.unwrap());
        }
        monitor.run(tokio::time::sleep(HOUR * 24)).await.unwrap();
        Self { world, services }
    }

    async fn told(&self, service: &Service) -> Told {
        let mut log = self.world.store.service_log(service.id, None, ALL).await.unwrap();
        log.reverse();
        let told = log.into_iter().filter_map(|entry| match entry.event {
            LogEvent::Transition(transition) => Some((transition.to, entry.at.since(START), entry.detail)),
            LogEvent::Overlay { .. } => None,
        });
        told.collect()
    }

    async fn blind(&self, service: &Service) -> Vec<Duration> {
        let mut log = self.world.store.service_log(service.id, None, ALL).await.unwrap();
        log.reverse();
        let blind = log.iter().filter(|entry| matches!(entry.event, LogEvent::Overlay { overlay: Overlay::Blind, .. }));
        blind.map(|entry| entry.at.since(START)).collect()
    }

    /// The outcomes of the results of each kind.
    async fn outcomes(&self, service: &Service) -> Vec<(Kind, Duration, Outcome)> {
        let results = self.world.store.results(service.id, &ResultQuery::default(), ALL).await.unwrap();
        let seen = results.iter().map(|stored| &stored.result);
        seen.map(|result| (result.id.kind, result.id.slot.time().since(START), result.seen.outcome)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_is_announced_as_soon_as_the_laws_allow() {
    let day = Day::pass().await;
    let mut table = String::new();
    let mut line = |begins: &str, cells: [&str; 6]| {
        let [outage, announced, detected, most, recovered, most_too] = cells;
        writeln!(table, "{begins} {outage:>7} {announced:>9} {detected:>14} {most:>8} {recovered:>15} {most_too:>8}")
            .unwrap();
    };
    line(
        &beginning(["policy", "target", "interval", "edge"]),
        ["outage", "announced", "detected after", "at most", "recovered after", "at most"],
    );
    for (n, (row, service)) in ROWS.into_iter().zip(&day.services).enumerate() {
        let told = day.told(service).await;
        let ([k, window, s], interval, edge, _) = row;
        for length in LENGTHS {
            let of_length = (0..24).filter_map(|hour| outage(n, hour)).filter(|(_, this)| *this == length);
            let (mut announced, mut count) = (0, 0);
            let (mut detected, mut recovered): (Option<Duration>, Option<Duration>) = (None, None);
            for (begin, length) in of_length {
                count += 1;
                let until = begin + HOUR / 2;
                if let Some(down) = first(&told, Status::Down, begin, until) {
                    announced += 1;
                    detected = detected.max(Some(down - begin));
                    let up = first(&told, Status::Up, down, until).expect("it recovers");
                    // What is announced late in an outage is over as late.
                    recovered = recovered.max(Some(up - (begin + length)));
                }
            }
            assert!(detected.is_none_or(|detected| detected <= down_bound(row)), "row {n}: {detected:?}");
            assert!(recovered.is_none_or(|recovered| recovered <= up_bound(row)), "row {n}: {recovered:?}");
            assert!(length < down_bound(row) || announced == count, "row {n}: {length:?} is long enough");
            let least = edge.unwrap_or(interval).min(interval) * u64::from(k - 1);
            assert!(length.as_secs() >= least || announced == 0, "row {n}: {length:?} is too short");
            let cells = [
                span::format(length),
                format!("{announced} of {count}"),
                shown(detected),
                shown(Some(down_bound(row))),
                shown(recovered),
                shown(Some(up_bound(row))),
            ];
            line(&beginning_of(row), cells.each_ref().map(String::as_str));
        }
        let edges = day.outcomes(service).await.iter().filter(|(kind, ..)| *kind == Kind::Edge).count();
        let most = if edge.is_some() { 1 + 23 * 2 * usize::from(window.max(s)) } else { 1 };
        assert!(edges <= most, "row {n}: {edges} edge probes");
    }
    writeln!(
        table,
        "\n{} {:>14} {:>8} {:>11} {:>8}",
        beginning(["slow hour", "target", "interval", "edge"]),
        "degraded after",
        "at most",
        "UP after",
        "at most"
    )
    .unwrap();
    for (n, (row, service)) in ROWS.into_iter().zip(&day.services).enumerate() {
        let ([k, ..], interval, ..) = row;
        let told = day.told(service).await;
        let plain = (row.0, interval, None, row.3);
        let degraded = first(&told, Status::Degraded, SLOW.0, SLOW.1).expect("it is slow");
        let up = first(&told, Status::Up, degraded, SLOW.1 + HOUR / 4).expect("it is quick again");
        assert!(degraded - SLOW.0 <= bound(plain, k.into(), Duration::ZERO), "row {n}");
        assert!(up - SLOW.1 <= up_bound(plain), "row {n}");
        assert!(first(&told, Status::Down, SLOW.0, SLOW.1 + HOUR / 4).is_none(), "row {n}: slow is not down");
        let words = told.iter().find(|(_, at, _)| *at == degraded).and_then(|(.., words)| words.clone());
        assert_eq!(words.as_deref(), Some("latency: expected at most 500ms, got 812.0 ms"), "it is told why");
        writeln!(
            table,
            "{} {:>14} {:>8} {:>11} {:>8}",
            beginning_of(row),
            shown(Some(degraded - SLOW.0)),
            shown(Some(bound(plain, k.into(), Duration::ZERO))),
            shown(Some(up - SLOW.1)),
            shown(Some(up_bound(plain))),
        )
        .unwrap();
    }
    writeln!(
        table,
        "\n{} {:>9} {:>9} {:>11} {:>12}",
        beginning(["blackout", "target", "interval", "edge"]),
        "announced",
        "offline",
        "blind after",
        "seeing after"
    )
    .unwrap();
    for (n, (row, service)) in ROWS.into_iter().zip(&day.services).enumerate() {
        let (told, blind) = (day.told(service).await, day.blind(service).await);
        let announced = told.iter().filter(|(_, at, _)| (BLACKOUT.0..BLACKOUT.1 + SECOND * 300).contains(at)).count();
        let offline = Outcome::Indeterminate(IndeterminateReason::Offline);
        let outcomes = day.outcomes(service).await;
        let mut within = outcomes.iter().filter(|(_, at, _)| (BLACKOUT.0..BLACKOUT.1).contains(at));
        assert!(within.all(|(.., outcome)| *outcome == offline), "row {n}");
        let offline = outcomes.iter().filter(|(.., outcome)| *outcome == offline).count();
        assert_eq!(announced, 0, "row {n}: nothing is said of it");
        let [began, ended] = blind[..] else { panic!("row {n}: blind once, not {blind:?}") };
        assert!(began - BLACKOUT.0 <= SECOND * u32::try_from(row.1).unwrap() * 3 + SLACK, "row {n}");
        writeln!(
            table,
            "{} {announced:>9} {offline:>9} {:>11} {:>12}",
            beginning_of(row),
            shown(Some(began - BLACKOUT.0)),
            shown(Some(ended - BLACKOUT.1)),
        )
        .unwrap();
    }
    println!("{table}");
    assert_eq!(table, include_str!("day.txt"), "the table has changed; see what the test printed");
}
