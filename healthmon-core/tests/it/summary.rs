//! Sums of results: merging, quantiles, what was expected, incidents.

use std::{collections::BTreeMap, time::Duration};

use healthmon_core::{
    id::{Applied, Epoch, Region, Revision, Seq, ServiceId},
    probe::{FailReason, IndeterminateReason, Kind, Observation, Outcome, ProbeId, ProbeResult, Reason},
    schedule::slot_at,
    service::{Activity, Regions, Service, ServiceSettings},
    status::{Cause, Edge, LogEntry, LogEvent, Overlay, ServiceLabel, Status, Transition},
    summary::{Counts, Histogram, HistogramError, Pause, Summary, Summed, Uptime, expected_slots, incidents, pauses},
    time::{Slot, Timestamp},
};
use proptest::{collection::vec, prelude::*};

fn region(name: &str) -> Region {
    Region::new(name).expect("a region")
}

fn service(interval: &str) -> Service {
    let settings = serde_json::json!({"name": "one", "url": "http://one.test/", "interval": interval, "timeout": "1s"});
    let settings = ServiceSettings::from_json(settings.as_object().cloned().expect("an object")).expect("settings");
    let id = ServiceId::new(77).expect("an id");
    Service::registered(id, settings, Revision(1), Epoch(1), Timestamp::from_millis(0))
}

fn result(place: &str, slot: i64, outcome: Outcome, latency_us: u32) -> ProbeResult {
    let id = ProbeId {
        service: ServiceId::new(77).expect("an id"),
        slot: Slot::from_millis(slot),
        region: region(place),
        kind: Kind::Scheduled,
    };
    let seen = Observation { latency_us, ..Observation::new(outcome, Duration::ZERO) };
    ProbeResult { started: id.slot.time(), id, epoch: Epoch(1), seen }
}

fn results() -> impl Strategy<Value = Vec<ProbeResult>> {
    let outcome = prop_oneof![
        Just(Outcome::Pass),
        Just(Outcome::Slow),
        Just(Outcome::Fail(FailReason::Timeout)),
        Just(Outcome::Fatal(FailReason::Tls)),
        Just(Outcome::Indeterminate(IndeterminateReason::Stalled)),
    ];
    let one = (prop_oneof![Just("a"), Just("b"), Just("c")], 0..100_000i64, outcome, latencies());
    vec(one.prop_map(|(place, slot, outcome, latency)| result(place, slot, outcome, latency)), 0..60)
}

/// Of every size, not only large ones.
fn latencies() -> impl Strategy<Value = u32> {
    (any::<u32>(), 0..32u32).prop_map(|(number, shift)| number >> shift)
}

fn merged(parts: &[&Summary]) -> Summary {
    let mut sum = Summary::default();
    parts.iter().for_each(|part| sum.merge(part));
    sum
}

proptest! {
    #[test]
    fn however_results_are_cut_and_merged_the_sum_is_the_same(a in results(), b in results(), c in results()) {
        let whole: Summary = a.iter().chain(&b).chain(&c).collect();
        let [a, b, c] = [&a, &b, &c].map(|part| part.iter().collect::<Summary>());
        prop_assert_eq!(&merged(&[&a, &b, &c]), &whole);
        prop_assert_eq!(&merged(&[&c, &a, &b]), &whole, "it commutes");
        prop_assert_eq!(&merged(&[&a, &merged(&[&b, &c])]), &merged(&[&merged(&[&a, &b]), &c]), "it associates");
        prop_assert_eq!(&merged(&[&a, &Summary::default()]), &a, "nothing adds nothing");
    }

    #[test]
    fn a_sum_counts_what_a_plain_count_does(results in results()) {
        let summary: Summary = results.iter().collect();
        let mut plain: BTreeMap<(Region, &str), u64> = BTreeMap::new();
        for result in &results {
            *plain.entry((result.id.region.clone(), result.seen.outcome.as_str())).or_default() += 1;
        }
        for (place, part) in summary.regions() {
            let of = |name: &'static str| plain.get(&(place.clone(), name)).copied().unwrap_or(0);
            let counts = Counts { pass: of("pass"), slow: of("slow"), fail: of("fail"), indeterminate: of("indeterminate") };
            prop_assert_eq!(part.counts, counts);
            prop_assert_eq!(part.newest, results.iter().filter(|r| r.id.region == *place).map(|r| r.id.slot).max());
        }
        prop_assert_eq!(summary.total().counts.all(), results.len() as u64);
    }

    #[test]
    fn a_quantile_is_within_a_thirty_second_of_the_exact_one(
        mut latencies in vec(latencies(), 1..200),
        per_mille in 0..=1_000u16,
    ) {
        let mut histogram = Histogram::default();
        latencies.iter().for_each(|latency| histogram.add(*latency));
        latencies.sort_unstable();
        let rank = (latencies.len() * usize::from(per_mille)).div_ceil(1_000).max(1);
        let (exact, found) = (latencies[rank - 1], histogram.quantile_us(per_mille).expect("some"));
        prop_assert!(exact.abs_diff(found) <= exact / 32, "{found} for {exact}");
    }

    #[test]
    fn a_histogram_is_what_its_bytes_hold(
        counts in vec((0..Histogram::BUCKETS, prop_oneof![1..200u64, any::<u64>().prop_map(|n| n >> 24)]), 0..40),
    ) {
        let mut histogram = Histogram::default();
        counts.iter().for_each(|(bucket, count)| histogram.add_to_bucket(*bucket, *count));
        let bytes = histogram.encode();
        prop_assert_eq!(Histogram::decode(&bytes), Ok(histogram));
    }

    #[test]
    fn no_bytes_make_a_histogram_panic(bytes in vec(any::<u8>(), 0..40)) {
        if let Ok(histogram) = Histogram::decode(&bytes) {
            prop_assert!(histogram.quantile_us(990).is_some() == (histogram.count() > 0));
        }
    }

    #[test]
    fn what_is_expected_is_what_a_walk_over_the_slots_finds(
        created in 0..60_000i64,
        turns in vec(0..120_000i64, 0..8),
        end in prop_oneof![Just(None), (0..120_000i64).prop_map(Some)],
        from in 0..130_000i64,
        to in 0..130_000i64,
    ) {
        let mut service = service("1s");
        service.created_at = Timestamp::from_millis(created);
        let mut turns = turns;
        turns.sort_unstable();
        turns.retain(|turn| *turn >= created);
        let at = |turn: i64| Some(Timestamp::from_millis(turn));
        let known: Vec<Pause> =
            turns.chunks(2).map(|pair| Pause { from: at(pair[0]), to: pair.get(1).copied().and_then(at) }).collect();
        let last = turns.last().copied().unwrap_or(created);
        match end {
            Some(end) if end >= last => {
                service.activity = Activity::Deleted;
                service.updated_at = Timestamp::from_millis(end);
            }
            _ if turns.len() % 2 == 1 => service.activity = Activity::Paused,
            _ => {}
        }
        let is_expected = |slot: i64| {
            let paused = turns.chunks(2).any(|pair| slot > pair[0] && pair.get(1).is_none_or(|end| slot <= *end));
            let deleted = service.activity == Activity::Deleted && slot > service.updated_at.as_millis();
            slot > created && !paused && !deleted
        };
        let is_slot = |at: i64| {
            slot_at(service.id, service.settings.interval, Timestamp::from_millis(at)).as_millis() == at
        };
        let walked = (from..to).filter(|at| is_slot(*at) && is_expected(*at)).count() as u64;
        prop_assert_eq!(expected_slots(&service, &known, Slot::from_millis(from), Slot::from_millis(to)), walked);
    }
}

#[test]
fn buckets_meet_without_gap_or_overlap() {
    for bucket in 0..Histogram::BUCKETS {
        let shortest = Histogram::shortest_us(bucket);
        assert_eq!(Histogram::bucket(shortest), bucket);
        let before = shortest.checked_sub(1).map(Histogram::bucket);
        assert_eq!(before, bucket.checked_sub(1), "the microsecond before it is in the bucket before it");
    }
    assert_eq!(Histogram::bucket(u32::MAX), Histogram::BUCKETS - 1);
}

#[test]
fn a_histogram_says_what_is_wrong_with_its_bytes() {
    assert_eq!(Histogram::default().encode(), [1]);
    for damaged in [&[][..], &[0], &[1, 2], &[1, 0, 3], &[1, 0, 3, 0, 0, 0, 0], &[1, 3, 0xd0]] {
        assert_eq!(Histogram::decode(damaged), Err(HistogramError::Damaged), "{damaged:?}");
    }
    assert_eq!(Histogram::decode(&[2, 2, 3]), Err(HistogramError::Newer(2)));
}

fn entry(seq: u64, second: i64, event: LogEvent) -> LogEntry {
    let label =
        ServiceLabel { id: ServiceId::new(77).expect("an id"), name: "one".into(), group: None, tags: BTreeMap::new() };
    LogEntry {
        seq: Seq(seq),
        applied: Applied(seq),
        service: label,
        event,
        at: Timestamp::from_millis(second * 1_000),
        slot: None,
        region: None,
        reason: Some(Reason::Fail(FailReason::Connect)),
        detail: None,
    }
}

fn log(turns: &[(i64, Status)]) -> Vec<LogEntry> {
    let mut from = Status::Unknown;
    let turn = |(seq, (second, to)): (u64, &(i64, Status))| {
        let transition = Transition { from: std::mem::replace(&mut from, *to), to: *to, cause: Cause::Result };
        entry(seq, *second, LogEvent::Transition(transition))
    };
    (1..).zip(turns).map(turn).collect()
}

/// The incidents within `[from, to)`: where they begin in the log, and their seconds; `-` behind an open one.
fn told(log: &[LogEntry], from: i64, to: i64) -> Vec<String> {
    let found = incidents(log, Timestamp::from_millis(from * 1_000), Timestamp::from_millis(to * 1_000));
    let seconds = |at: Timestamp| at.as_millis() / 1_000;
    let tell = |incident: &healthmon_core::summary::Incident| {
        let seq = incident.seq.map_or("?".to_owned(), |seq| seq.to_string());
        let open = if incident.is_open { "-" } else { "" };
        format!("{seq}: {}..{}{open}", seconds(incident.from), seconds(incident.to))
    };
    found.iter().map(tell).collect()
}

#[test]
fn an_incident_is_from_down_to_the_next_up_cut_to_the_span() {
    use Status::{Degraded, Down, Unknown, Up};
    let log = log(&[
        (10, Up),
        (20, Down),
        (30, Up),
        (40, Down),
        (50, Degraded),
        (60, Down),
        (70, Up),
        (80, Down),
        (90, Unknown),
    ]);
    assert_eq!(told(&log, 0, 100), ["2: 20..30", "4: 40..70", "8: 80..90"], "degraded is no end, unknown is");
    assert_eq!(told(&log, 25, 45), ["2: 25..30", "4: 40..45-"], "open at the end of the span");
    assert_eq!(told(&log, 30, 40), [""; 0], "what ends where the span begins is not in it");
    assert_eq!(told(&log[..4], 0, 100), ["2: 20..30", "4: 40..100-"], "open still");
    assert_eq!(told(&log[6..], 55, 100), ["?: 55..70", "8: 80..90"], "the entry that it began with is gone");
    assert_eq!(told(&[], 0, 100), [""; 0]);
}

#[test]
fn pauses_are_read_off_the_log() {
    let pause = |edge| LogEvent::Overlay { overlay: Overlay::Paused, edge };
    let blind = LogEvent::Overlay { overlay: Overlay::Blind, edge: Edge::Began };
    let log = [
        entry(1, 10, pause(Edge::Ended)),
        entry(2, 20, blind),
        entry(3, 30, pause(Edge::Began)),
        entry(4, 40, pause(Edge::Ended)),
        entry(5, 50, pause(Edge::Began)),
    ];
    let at = |second: i64| Some(Timestamp::from_millis(second * 1_000));
    let expected =
        [Pause { from: None, to: at(10) }, Pause { from: at(30), to: at(40) }, Pause { from: at(50), to: None }];
    assert_eq!(pauses(&log), expected);
}

/// The second slot after the beginning of time, and so on.
fn slot(service: &Service, number: i64) -> i64 {
    let first = slot_at(service.id, service.settings.interval, Timestamp::from_millis(999)).as_millis();
    first + number * 1_000
}

fn uptime(service: &Service, results: &[ProbeResult], to: i64, now: i64) -> Uptime {
    let (from, to) = (Slot::from_millis(0), Slot::from_millis(to));
    let summed = Summed { service: service.clone(), from, to, summary: results.iter().collect() };
    Uptime::of(&summed, &[], Timestamp::from_millis(now))
}

#[test]
fn silence_lowers_the_coverage_and_not_the_uptime() {
    let service = service("1s");
    let seen = [(0, Outcome::Pass), (1, Outcome::Slow), (2, Outcome::Fail(FailReason::Dns)), (9, Outcome::Pass)];
    let mut results: Vec<_> =
        seen.iter().map(|(n, outcome)| result("local", slot(&service, *n), *outcome, 100)).collect();
    let stalled = Outcome::Indeterminate(IndeterminateReason::Stalled);
    results.push(result("local", slot(&service, 3), stalled, 0));
    let found = uptime(&service, &results, 10_000, 60_000).total;
    assert_eq!((found.uptime(), found.coverage(), found.expected), (Some(0.75), Some(0.4), 10));
    let silent = uptime(&service, &[], 10_000, 60_000).total;
    assert_eq!((silent.uptime(), silent.coverage()), (None, Some(0.0)), "silence is neither UP nor DOWN");
    let unborn = Service { created_at: Timestamp::from_millis(60_000), ..service };
    let unborn = uptime(&unborn, &[], 10_000, 60_000).total;
    assert_eq!((unborn.uptime(), unborn.coverage()), (None, None), "nothing was expected");
}

#[test]
fn what_is_under_way_is_no_gap_yet() {
    let service = service("1s");
    let results: Vec<_> = (0..5).map(|n| result("local", slot(&service, n), Outcome::Pass, 100)).collect();
    // Start-by, timeout and patience: a slot is missed seven seconds after it.
    let found = uptime(&service, &results, 8_000, 8_000).total;
    assert_eq!((found.expected, found.coverage()), (5, Some(1.0)));
    let found = uptime(&service, &results, 20_000, 20_000).total;
    assert_eq!((found.expected, found.counts.all()), (13, 5), "what should have come by now is one");
}

#[test]
fn each_region_is_expected_to_report_each_slot() {
    let mut service = service("1s");
    service.settings.regions = Regions::new(vec![region("east"), region("west")]).expect("regions");
    let mut results: Vec<_> = (0..10).map(|n| result("east", slot(&service, n), Outcome::Pass, 100)).collect();
    results.push(result("moon", slot(&service, 1), Outcome::Fail(FailReason::Connect), 100));
    let found = uptime(&service, &results, 10_000, 60_000);
    let told: Vec<_> =
        found.regions.iter().map(|(region, f)| (region.as_str(), f.expected, f.coverage(), f.uptime())).collect();
    let expected =
        [("east", 10, Some(1.0), Some(1.0)), ("moon", 1, Some(1.0), Some(0.0)), ("west", 10, Some(0.0), None)];
    assert_eq!(told, expected, "of a region that is probed no more, what came is what was expected");
    assert_eq!((found.total.expected, found.total.counts.seen()), (21, 11));
}
