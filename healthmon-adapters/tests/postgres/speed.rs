//! How fast the store is, on a server that syncs to this machine's disk. Figures depend on the
//! machine, so these run when asked for:
//! `cargo test --release --features postgres,servers --test postgres -- --ignored --nocapture speed`

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use healthmon_adapters::{
    postgres::{PostgresOptions, PostgresResultStore},
    servers::PrivatePostgres,
};
use healthmon_core::{
    id::{Epoch, Region, ServiceId},
    ports::{ResultQuery, ResultStore},
    probe::{FailReason, Kind, Observation, Outcome, ProbeId, ProbeResult},
    service::ServiceSettings,
    time::Slot,
};
use sqlx::{Connection, PgConnection};

use crate::support::execute;

const SERVICES: i64 = 20_000;

fn id(number: i64) -> ServiceId {
    ServiceId::try_from(number << 22).expect("an id")
}

/// A store of many services, all like the first.
async fn crowded(server: &PrivatePostgres) -> PostgresResultStore {
    let options = PostgresOptions { max_connections: 4, ..PostgresOptions::new(server.url("postgres")) };
    let store = PostgresResultStore::connect(options).await.expect("connected");
    let settings = serde_json::json!({
        "name": "one of many", "url": "https://one-of-many.example.test/health", "interval": "10s", "group": "crowd",
    });
    let settings = ServiceSettings::from_json(settings.as_object().cloned().expect("an object")).expect("settings");
    store.register(id(1), settings).await.expect("registered");
    let copy = format!(
        "INSERT INTO services SELECT (n::bigint << 22), 0, settings, group_name, activity, n, epoch, created_at, \
         updated_at, scheduled_since FROM services, generate_series(2, {SERVICES}) n; \
         INSERT INTO states SELECT (n::bigint << 22), since, maintenance_until, stored_through, patience, look_at, overlays, \
         announced, snapshot FROM states, generate_series(2, {SERVICES}) n; UPDATE head SET revision = {SERVICES}; \
         VACUUM ANALYZE"
    );
    for statement in copy.split("; ") {
        execute(&server.url("postgres"), statement).await;
    }
    store
}

fn result(service: ServiceId, slot: Slot, outcome: Outcome) -> ProbeResult {
    let mut seen = Observation::new(outcome, Duration::from_micros(12_345));
    seen.phases.connect_us = Some(1_234);
    seen.phases.first_byte_us = Some(10_000);
    seen.code = Some(200);
    let id = ProbeId { service, slot, region: Region::default(), kind: Kind::Scheduled };
    ProbeResult { id, epoch: Epoch(1), started: slot.time().after(Duration::from_micros(1_500)), seen }
}

/// The processor time that this process, and the server's sessions, have taken so far: figures that
/// hold when others use the machine too.
fn processor_time(server: &PrivatePostgres) -> (Duration, Duration) {
    let (own, main) = (std::process::id(), server.process().expect("it runs"));
    let (mut here, mut there) = (0, 0);
    for process in std::fs::read_dir("/proc").expect("a list").flatten() {
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        // Behind the name in brackets: state, parent …; the 12th and 13th are ticks of a hundredth of a second.
        let Some((number, rest)) = stat.split_once(" (").and_then(|(n, rest)| Some((n, rest.rsplit_once(')')?.1)))
        else {
            continue;
        };
        let fields: Vec<u64> = rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let ticks = fields[10] + fields[11];
        if number.parse() == Ok(own) {
            here += ticks;
        } else if fields[0] == u64::from(main) {
            there += ticks;
        }
    }
    (Duration::from_millis(here * 10), Duration::from_millis(there * 10))
}

#[tokio::test]
#[ignore = "measures"]
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
async fn speed_of_recording_and_reading() {
    let server = PrivatePostgres::start_with(&[("shared_buffers", "512MB"), ("max_wal_size", "4GB")]).expect("started");
    let store = crowded(&server).await;
    let now = store.now().await.expect("the time");
    let (begin, old) = (Slot::at(now.before(Duration::from_mins(6))), Slot::at(now.before(Duration::from_hours(20))));
    let mut round = 0u64;
    for (label, begin, size, each) in [
        ("a result a service", begin, 2_000, 1),
        ("a result a service", begin, 1_000, 1),
        ("ten results a service", begin, 2_000, 10),
        ("late, a result a service", old, 2_000, 1),
        ("late, ten results a service", old, 2_000, 10),
    ] {
        let mut took = Vec::new();
        let before = processor_time(&server);
        for _ in 0..60 {
            let batch: Vec<ProbeResult> = (0..size)
                .map(|n| {
                    let service = (round as i64 * size / each + n / each) % SERVICES + 1;
                    let slot = begin.after(Duration::from_millis(round * 1_000 + (n % each) as u64 * 100));
                    result(id(service), slot, Outcome::Pass)
                })
                .collect();
            let begun = Instant::now();
            let recorded = store.record(batch).await.expect("recorded");
            took.push(begun.elapsed());
            assert_eq!(recorded.inserted, usize::try_from(size).expect("a size"));
            round += 1;
        }
        let after = processor_time(&server);
        let each_took = |from: Duration, to: Duration| (to - from).as_secs_f64() * 1e6 / (size * 60) as f64;
        println!(
            "  processor time: {:.1} µs of a result here, {:.1} µs in PostgreSQL",
            each_took(before.0, after.0),
            each_took(before.1, after.1)
        );
        took.sort_unstable();
        let median = took[took.len() / 2];
        let rate = size as f64 / median.as_secs_f64();
        println!(
            "record, batches of {size}, {label}: {rate:.0}/s, median {median:?}, worst {:?}",
            took[took.len() - 1]
        );
    }
    let outage: Vec<ProbeResult> = (1..=2_000)
        .flat_map(|n| (0..3).map(move |k| (n, k)))
        .map(|(n, k)| {
            let slot = begin.after(Duration::from_millis((round + 10) * 1_000 + k * 100));
            result(id(n), slot, Outcome::Fail(FailReason::Timeout))
        })
        .collect();
    let begun = Instant::now();
    let recorded = store.record(outage).await.expect("recorded");
    println!("record, 6,000 results with {} transitions: {:?}", recorded.entries.len(), begun.elapsed());
    let thousand = NonZeroUsize::new(1_000).expect("many");
    for _ in 0..3 {
        let begun = Instant::now();
        let listed = store.services(&Default::default(), None, thousand).await.expect("a list");
        println!(
            "list of {} services, {} with a result: {:?}",
            listed.len(),
            listed.iter().filter(|view| view.last.is_some()).count(),
            begun.elapsed()
        );
    }
    let page = NonZeroUsize::new(100).expect("many");
    for query in
        [ResultQuery::default(), ResultQuery { from: Some(begin), to: Some(Slot::at(now)), ..Default::default() }]
    {
        store.results(id(1), &query, page).await.expect("a page");
        let begun = Instant::now();
        let found = store.results(id(1), &query, page).await.expect("a page").len();
        println!("page of {found} results: {:?}", begun.elapsed());
    }
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("connected");
    execute(&server.url("postgres"), "VACUUM ANALYZE").await;
    let (bytes, rows): (i64, i64) = sqlx::query_as(
        "SELECT sum(pg_total_relation_size(c.oid))::bigint, sum(greatest(c.reltuples, 0))::bigint FROM pg_class c \
         WHERE c.relname ~ '^results_[0-9]+$'",
    )
    .fetch_one(&mut connection)
    .await
    .expect("sizes");
    println!("{rows} results, {} B each with the index", bytes / rows.max(1));
}
