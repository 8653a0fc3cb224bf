//! Pages of history, uptime and the list of services over PostgreSQL, with many results in it.
//!
//! `cargo bench --bench history -- 50000000`: so many results (this many if no number is given) of 2,000
//! services, one each 30 s, in the order in which recorders would have written them, on a PostgreSQL of its
//! own. 50 million take 10 GB in the folder for temporary files, and some minutes. The whole hours
//! are summed by the sweep, as in operation; then each query is asked 500 times, at random places, one
//! after the other, over one connection that takes its time to prepare each query anew, as through a
//! pooler. A run after the server has been restarted and the machine's cache dropped (as root) tells
//! what the disk makes of it.

#![allow(clippy::print_stdout, reason = "it is what a bench is for")]

use std::{
    num::NonZeroUsize,
    process::Command,
    time::{Duration, Instant},
};

use healthmon_adapters::{
    postgres::{PostgresOptions, PostgresResultStore},
    servers::{PrivatePostgres, StopMode},
};
use healthmon_core::{
    id::{Epoch, Region, ServiceId},
    ports::{ResultKey, ResultQuery, ResultStore, ServiceFilter},
    probe::{Kind, Observation, Outcome, ProbeId, ProbeResult},
    schedule::{offset, slot_at},
    service::{Interval, ServiceSettings},
    time::{Slot, Timestamp},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVICES: i64 = 2_000;
const EACH: Duration = Duration::from_secs(30);
const QUERIES: u64 = 500;
/// What a result takes with its indexes, about, and what is written to the log of writes meanwhile.
const BYTES: u64 = 200;
/// How many slots of every service are written at a time.
const CHUNK: i64 = 250;

fn id(number: i64) -> ServiceId {
    ServiceId::try_from(number << 22).expect("an id")
}

fn interval() -> Interval {
    Interval::new(EACH).expect("an interval")
}

/// Numbers that look random and are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.cast_unsigned()).cast_signed()
    }
}

struct Bench {
    server: PrivatePostgres,
    store: PostgresResultStore,
    /// How many slots of each service there are, the last one a moment ago.
    slots: i64,
    now: Timestamp,
}

async fn execute(server: &PrivatePostgres, statement: &str) {
    let mut connection = PgConnection::connect(&server.url("postgres")).await.expect("connected");
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.expect(statement);
}

async fn connect(server: &PrivatePostgres) -> PostgresResultStore {
    let options = PostgresOptions { max_connections: 2, ..PostgresOptions::new(server.url("postgres")) };
    PostgresResultStore::connect(options).await.expect("connected")
}

fn free_bytes() -> u64 {
    let folder = std::env::temp_dir();
    let told = Command::new("df").args(["--output=avail", "-B1"]).arg(folder).output().expect("df runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    told.lines().nth(1).and_then(|line| line.trim().parse().ok()).expect("a number")
}

fn result(number: i64, slot: Slot) -> ProbeResult {
    let probe = ProbeId { service: id(number), slot, region: Region::default(), kind: Kind::Scheduled };
    let mut seen = Observation::new(Outcome::Pass, Duration::from_micros(12_345));
    seen.code = Some(200);
    ProbeResult { id: probe, epoch: Epoch(1), started: slot.time(), seen }
}

impl Bench {
    async fn load(results: i64) -> Self {
        let settings = [("fsync", "off"), ("shared_buffers", "2GB"), ("max_wal_size", "2GB"), ("work_mem", "64MB")];
        let server = PrivatePostgres::start_with(&settings).expect("PostgreSQL starts");
        let store = connect(&server).await;
        let (now, slots) = (store.now().await.expect("the time"), results / SERVICES);
        let settings = serde_json::json!({
            "name": "one of many", "url": "https://one-of-many.example.test/health", "interval": "30s", "group": "crowd",
        });
        let settings = ServiceSettings::from_json(settings.as_object().cloned().expect("an object")).expect("settings");
        store.register(id(1), settings).await.expect("registered");
        let copies = [
            format!(
                "INSERT INTO services SELECT (n::bigint << 22), n % 64, settings, group_name, activity, n, epoch, \
                 created_at, updated_at, scheduled_since FROM services, generate_series(2, {SERVICES}) n"
            ),
            format!(
                "INSERT INTO states SELECT (n::bigint << 22), since, maintenance_until, stored_through, patience, \
                 look_at, overlays, announced, snapshot FROM states, generate_series(2, {SERVICES}) n"
            ),
            format!("UPDATE head SET revision = {SERVICES}"),
            // Their slots, in the order in which they come.
            "CREATE TABLE bench_offsets (id bigint, behind bigint)".to_owned(),
        ];
        for statement in copies {
            execute(&server, &statement).await;
        }
        let behind: Vec<String> =
            (1..=SERVICES).map(|n| format!("({}, {})", id(n), offset(id(n), interval()))).collect();
        execute(&server, &format!("INSERT INTO bench_offsets VALUES {}", behind.join(","))).await;
        let bench = Self { server, store, slots, now };
        // The store makes the partitions: by a result of each day, between two slots.
        let days = slots * bench.each() / 86_400_000 + 1;
        for day in 0..=days {
            let slot = Slot::at(now.before(Duration::from_hours(24) * u32::try_from(day).expect("days")));
            let between = slot_at(id(1), interval(), slot.time()).after(Duration::from_millis(777));
            bench.store.record(vec![result(1, between)]).await.expect("recorded");
        }
        bench.fill().await;
        bench
    }

    fn each(&self) -> i64 {
        interval().as_millis()
    }

    /// The last slot but `back` of a service.
    fn slot(&self, number: i64, back: i64) -> Slot {
        let last = slot_at(id(number), interval(), self.now.before(EACH));
        Slot::from_millis(last.as_millis() - back * self.each())
    }

    async fn fill(&self) {
        let begun = Instant::now();
        let last = (self.now.as_millis() - self.each()) / self.each();
        let mut connection = PgConnection::connect(&self.server.url("postgres")).await.expect("connected");
        let mut from = last - self.slots;
        while from < last {
            let to = (from + CHUNK).min(last);
            let fill = format!(
                "INSERT INTO results (service_id, slot, delay, applied, certificate, latency, epoch, dns, connect, tls, \
                 first_byte, region_id, kind, outcome, reason, code, detail) \
                 SELECT id, k::bigint * {each} + behind, 1500, k - {base}, 1800000000000000, l, 1, 300, 1200, 4000, l - 100, 1, 0, \
                 o, CASE o WHEN 2 THEN 6 WHEN 4 THEN 104 END, CASE o WHEN 2 THEN 503 WHEN 4 THEN NULL ELSE 200 END, \
                 CASE o WHEN 2 THEN 'expected a status of 200-299, found 503' END \
                 FROM (SELECT k, id, behind, (8000 * exp(2 * random() * random()))::integer AS l, \
                 (ARRAY[0, 1, 2, 4])[1 + width_bucket(random(), ARRAY[0.98, 0.99, 0.998])]::smallint AS o \
                 FROM generate_series({from}, {to} - 1) k CROSS JOIN bench_offsets ORDER BY k, behind) rows",
                each = self.each(),
                base = last - self.slots - 2,
            );
            sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut connection).await.expect("filled");
            from = to;
        }
        // The last ones as recorders write them, with the services' states.
        for numbers in [1..=SERVICES / 2, SERVICES / 2 + 1..=SERVICES] {
            let newest = numbers.map(|number| result(number, Slot::at(self.now).after(Duration::from_millis(1))));
            self.store.record(newest.collect()).await.expect("recorded");
        }
        println!("{} results written in {:.0?}", self.slots * SERVICES, begun.elapsed());
        let begun = Instant::now();
        execute(&self.server, "VACUUM ANALYZE").await;
        println!("vacuumed and analysed in {:.0?}, as autovacuum does while they are written", begun.elapsed());
        self.sum_hours(&mut connection).await;
        for (what, query) in [
            (
                "B a result with its indexes",
                "SELECT (sum(pg_total_relation_size(oid)) / sum(reltuples))::bigint \
             FROM pg_class WHERE relname ~ '^results_[0-9]+$'",
            ),
            ("partitions of results", "SELECT count(*) FROM pg_class WHERE relname ~ '^results_[0-9]+$'"),
            ("sums of hours", "SELECT count(*) FROM rollups"),
            (
                "B each with the index",
                "SELECT (SELECT sum(pg_total_relation_size(oid)) FROM pg_class \
             WHERE relname ~ '^rollups_[0-9]+$')::bigint / greatest(1, (SELECT count(*) FROM rollups))",
            ),
        ] {
            let number: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a number");
            println!("{number} {what}");
        }
    }

    /// Sums all hours, by new nodes: each looks at once.
    async fn sum_hours(&self, connection: &mut PgConnection) {
        const LEFT: &str = "SELECT (SELECT count(*) FROM rollup_late) + coalesce((SELECT \
             floor((extract(epoch FROM clock_timestamp()) - 900) / 3600)::bigint - hour FROM rollup_progress), 1)";
        let begun = Instant::now();
        loop {
            let node = connect(&self.server).await;
            for _ in 0..10 {
                node.sweep(None, NonZeroUsize::MIN).await.expect("swept");
            }
            node.close().await;
            let left: i64 = sqlx::query_scalar(LEFT).fetch_one(&mut *connection).await.expect("a number");
            if left <= 0 {
                break;
            }
        }
        let took = begun.elapsed();
        let each = took.as_secs_f64() * 1e6 / (self.slots * SERVICES) as f64;
        println!("all hours summed in {took:.0?}: {each:.2} µs a result");
        execute(&self.server, "VACUUM ANALYZE rollups").await;
    }

    /// Asks a question at random places; tells how long the answers took.
    async fn ask<T>(&self, what: &str, mut question: impl AsyncFnMut(&mut Numbers) -> Vec<T>) {
        let (mut numbers, mut took, mut rows) = (Numbers(42), Vec::new(), 0);
        for _ in 0..QUERIES {
            let begun = Instant::now();
            rows += question(&mut numbers).await.len();
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        let at = |per_mille: usize| took[(took.len() * per_mille / 1_000).min(took.len() - 1)].as_secs_f64() * 1e3;
        println!(
            "{what:52} p50 {:7.2} ms   p99 {:7.2} ms   max {:7.2} ms   {:6.1} rows",
            at(500),
            at(990),
            at(1_000),
            rows as f64 / QUERIES as f64
        );
    }

    async fn page(&self, number: i64, query: ResultQuery) -> Vec<ResultKey> {
        const PAGE: NonZeroUsize = NonZeroUsize::new(100).unwrap();
        let found = self.store.results(id(number), &query, PAGE).await.expect("a page");
        found.iter().map(|stored| ResultKey::of(&stored.result.id)).collect()
    }

    /// A page that goes on from a random place in a service's past.
    fn deep(&self, number: i64, numbers: &mut Numbers) -> ResultQuery {
        let slot = self.slot(number, numbers.below(self.slots - 200));
        let before = Some(ResultKey { slot, region: Region::default(), kind: Kind::Scheduled });
        ResultQuery { before, ..ResultQuery::default() }
    }

    async fn measure(&self) {
        let newest = ResultQuery::default;
        self.ask("page of 100, the newest", async |numbers| self.page(1 + numbers.below(SERVICES), newest()).await)
            .await;
        self.ask("page of 100, somewhere in the past", async |numbers| {
            let number = 1 + numbers.below(SERVICES);
            let query = self.deep(number, numbers);
            self.page(number, query).await
        })
        .await;
        self.ask("page of 100, within an hour, by from and to", async |numbers| {
            let number = 1 + numbers.below(SERVICES);
            let from = self.slot(number, 200 + numbers.below(self.slots - 400));
            let to = Some(from.after(Duration::from_hours(1)));
            self.page(number, ResultQuery { from: Some(from), to, ..newest() }).await
        })
        .await;
        for outcome in ["fail", "slow", "indeterminate", "pass"] {
            self.ask(&format!("page of 100, the newest with outcome {outcome}"), async |numbers| {
                self.page(1 + numbers.below(SERVICES), ResultQuery { outcome: Some(outcome), ..newest() }).await
            })
            .await;
        }
        for (what, window) in [("24 hours", 24), ("7 days", 7 * 24), ("30 days", 30 * 24)] {
            self.ask(&format!("sums of {what}"), async |numbers| {
                let (to, window) = (Slot::at(self.now), Duration::from_hours(window));
                let from = Slot::at(self.now.before(window));
                let found = self.store.summary(id(1 + numbers.below(SERVICES)), from, to).await;
                vec![found.expect("a summary").expect("a service")]
            })
            .await;
        }
        self.ask("list of 1,000 services with state and newest result", async |numbers| {
            let after = Some(id(1 + numbers.below(SERVICES - 1_000)));
            let thousand = NonZeroUsize::new(1_000).expect("many");
            let found = self.store.services(&ServiceFilter::default(), after, thousand).await.expect("a list");
            assert!(found.iter().all(|view| view.last.is_some()), "each has a newest result");
            found
        })
        .await;
    }

    /// Restarts the server and has the machine forget what it read.
    async fn cool(&mut self) -> bool {
        self.store.close().await;
        self.server.stop(StopMode::Fast).expect("stopped");
        let synced = Command::new("sync").status().is_ok_and(|status| status.success());
        let cold = synced && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
        self.server.resume().expect("started");
        self.store = connect(&self.server).await;
        cold
    }

    /// Prints how the server comes to pages.
    async fn explain(&mut self) {
        for setting in [
            "session_preload_libraries = 'auto_explain'",
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_analyze = on",
            "auto_explain.log_buffers = on",
        ] {
            execute(&self.server, &format!("ALTER ROLE healthmon SET {setting}")).await;
        }
        self.store = connect(&self.server).await;
        let failed = ResultQuery { outcome: Some("fail"), ..ResultQuery::default() };
        for (what, query) in [("a page in the past", self.deep(7, &mut Numbers(1))), ("the newest failures", failed)] {
            self.page(7, query).await;
            let log = self.server.log().expect("the log");
            let plan = log.rsplit_once("plan:").map_or("", |(_, plan)| plan);
            println!("\n{what}:{plan}");
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if !words.iter().any(|word| word == "--bench") {
        return println!("cargo bench --bench history -- 50000000");
    }
    let results: i64 = words.iter().find_map(|word| word.parse().ok()).unwrap_or(50_000_000);
    let (needed, free) = (results.cast_unsigned() * BYTES * 3 / 2, free_bytes());
    assert!(needed < free, "{needed} B are needed in {}, and {free} are free", std::env::temp_dir().display());
    let mut bench = Bench::load(results).await;
    println!("\nas the results were written, sums made:");
    bench.measure().await;
    if bench.cool().await {
        println!("\nafter a restart, with nothing in memory:");
        bench.measure().await;
    }
    bench.explain().await;
}
