//! The record transaction alone, on one connection.

use std::time::{Duration, Instant};

use healthmon_adapters::postgres::{PostgresOptions, PostgresResultStore};
use healthmon_core::{
    id::{Epoch, Region},
    ports::ResultStore,
    probe::{Kind, Observation, Outcome, ProbeId, ProbeResult},
    time::Slot,
};
use sqlx::{Connection, PgConnection};

use super::{
    Options,
    accounts::{Account, Books},
    database::Crowd,
    note_load, stack, wait,
};
use crate::process::{Child, Report, Usage};

const SERVICES: u64 = 100_000;
const INTERVAL: Duration = Duration::from_secs(20);

/// Batches as the recorder makes them, and smaller and larger ones, beside bare inserts.
pub(crate) fn postgres(options: &Options<'_>) {
    let seconds = options.number("--seconds").unwrap_or(15);
    let services = options.number("--services").unwrap_or(SERVICES);
    println!(
        "\n== record-postgres: the record transaction on one connection, {services} services, {seconds} s each =="
    );
    note_load();
    let server = stack::postgres();
    wait(Crowd { services, interval: INTERVAL }.register(&server.url("postgres"), "9"));
    let account = Account { name: "postgres", process: server.process().expect("PostgreSQL runs") };
    let run = |what: &str, role: &str, batch: u64| {
        let (url, number) = (server.url("postgres"), |number: u64| number.to_string());
        let child =
            Child::start("role-record", &[role.to_owned(), url, number(services), number(batch), number(seconds)]);
        child.line();
        let books = Books::read(std::slice::from_ref(&account));
        // It stays until the books are closed: what a connection used is hard to find once it has ended.
        let report = Report::of(&child.line());
        let spent = books.until(&Books::read(std::slice::from_ref(&account)));
        drop(child);
        println!(
            "{what}, {batch} at a time: {:.0} results/s; CPU a result: own {:.2} us, PostgreSQL {:.2} us",
            report.per_second(),
            report.cpu_us_per_probe(),
            spent.of("postgres") as f64 / report.probes.max(1) as f64
        );
        report.per_second()
    };
    let bare = run("bare insert, UNNEST and ON CONFLICT", "bare", 1_000);
    for batch in [500, 1_000, 2_000, 5_000] {
        let rate = run("record", "store", batch);
        println!("  {:.2} x the bare insert's rate (aim 60,000 results/s)", rate / bare);
    }
    run("bare insert again", "bare", 1_000);
}

/// `bare|store url services batch seconds`.
#[tokio::main]
pub(crate) async fn run(args: &[&str]) {
    let number = |at: usize| args[at].parse::<u64>().expect("a number");
    let (services, batch, seconds) = (number(2), number(3), Duration::from_secs(number(4)));
    let options = PostgresOptions { max_connections: 1, ..PostgresOptions::new(args[1]) };
    let store = PostgresResultStore::connect(options).await.expect("a store");
    let mut connection = PgConnection::connect(args[1]).await.expect("connected");
    prepare(&mut connection).await;
    let now = store.now().await.expect("the time");
    // So little of the past that nothing is late, and any number of rounds fits before now.
    let first = Slot::at(now.before(Duration::from_secs(30)));
    println!("ready");
    let (begin, before, mut done, mut round) = (Instant::now(), Usage::now(), 0, 0);
    while begin.elapsed() < seconds {
        let of = |n: u64| {
            let number = round * batch + n;
            // All have a result before any has its next.
            let slot = first.after(Duration::from_millis(number / services * 10));
            (number % services, slot)
        };
        if args[0] == "bare" {
            bare(&mut connection, (0..batch).map(of), now.as_micros()).await;
        } else {
            let results: Vec<ProbeResult> = (0..batch).map(|n| result(of(n))).collect();
            let recorded = store.record(results).await.expect("recorded");
            done += recorded.inserted as u64 + recorded.repeated as u64;
            round += 1;
            continue;
        }
        done += batch;
        round += 1;
    }
    let usage = Usage::now().since(before);
    Report { probes: done, wall_us: begin.elapsed().as_micros() as u64, usage, ..Report::default() }.send();
    std::future::pending::<()>().await;
}

fn result((service, slot): (u64, Slot)) -> ProbeResult {
    let mut seen = Observation::new(Outcome::Pass, Duration::from_micros(12_345));
    seen.phases.connect_us = Some(1_234);
    seen.phases.first_byte_us = Some(10_000);
    seen.code = Some(200);
    let id = ProbeId { service: Crowd::id(service), slot, region: Region::default(), kind: Kind::Scheduled };
    ProbeResult { id, epoch: Epoch(1), started: slot.time().after(Duration::from_micros(1_500)), seen }
}

async fn prepare(connection: &mut PgConnection) {
    let table = "CREATE TABLE IF NOT EXISTS bare (service bigint, slot bigint, started bigint, latency integer, \
         outcome smallint, PRIMARY KEY (service, slot)); TRUNCATE bare";
    sqlx::raw_sql(table).execute(connection).await.expect("a table");
}

/// What can be had of PostgreSQL at best: rows in, and nothing asked.
async fn bare(connection: &mut PgConnection, rows: impl Iterator<Item = (u64, Slot)>, started: i64) {
    let (services, slots): (Vec<i64>, Vec<i64>) =
        rows.map(|(service, slot)| (Crowd::id(service).as_i64(), slot.as_millis())).unzip();
    let count = services.len();
    sqlx::query(
        "INSERT INTO bare SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[], $5::smallint[]) \
         ON CONFLICT DO NOTHING",
    )
    .bind(services)
    .bind(slots)
    .bind(vec![started; count])
    .bind(vec![12_345_i32; count])
    .bind(vec![0_i16; count])
    .execute(connection)
    .await
    .expect("inserted");
}
