//! What the bench itself asks of PostgreSQL: many services at once, and what was recorded.

use std::time::Duration;

use healthmon_adapters::postgres::{Postgres, PostgresOptions, PostgresResultStore};
use healthmon_core::{
    id::ServiceId,
    ports::{Clock, ResultStore},
    probe::{Kind, Outcome},
    runtime::clock::SystemClock,
    schedule::slots_between,
    service::{Interval, Label, ServiceSettings, Timeout},
    shard::ShardCount,
    time::Timestamp,
};
use sqlx::{Connection, PgConnection};

/// Services that differ in nothing but their number.
#[derive(Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) services: u64,
    pub(crate) interval: Duration,
}

impl Crowd {
    fn interval(self) -> Interval {
        Interval::new(self.interval).expect("an interval")
    }

    /// Spread as snowflakes made a second apart would be.
    pub(crate) fn id(number: u64) -> ServiceId {
        ServiceId::new((number + 1) << 22).expect("an id")
    }

    fn settings(self, number: u64, ports: &[&str]) -> ServiceSettings {
        let url = format!("http://127.0.0.1:{}/", ports[number as usize % ports.len()]);
        ServiceSettings {
            timeout: Timeout::new(self.interval.min(Duration::from_secs(5))).expect("a timeout"),
            ..ServiceSettings::new(
                Label::new(&format!("service {number}")).expect("a name"),
                url.parse().expect("a target"),
                self.interval(),
            )
        }
    }

    /// Slots that fall due in `(from, to]`.
    pub(crate) fn due(self, from: Timestamp, to: Timestamp) -> u64 {
        (0..self.services).map(|number| slots_between(Self::id(number), self.interval(), from, to)).sum()
    }

    /// Registers them: the first of each port as any service is, the others as its copies in bulk.
    ///
    /// They have been there for an hour, so that none gets an edge probe; but the sweep, which would
    /// find that nothing was heard of them in that hour, leaves them alone until their first result.
    pub(crate) async fn register(self, database: &str, ports: &str) {
        let ports: Vec<&str> = ports.split(',').collect();
        let postgres = Postgres::connect(PostgresOptions::new(database)).await.expect("connected");
        let store = PostgresResultStore::new(postgres.clone()).await.expect("a store");
        let models = self.services.min(ports.len() as u64);
        for number in 0..models {
            store.register(Self::id(number), self.settings(number, &ports)).await.expect("registered");
        }
        let mut connection = PgConnection::connect(database).await.expect("connected");
        self.copy(&mut connection, models, postgres.shards()).await;
        if self.services > models {
            let last = self.services - 1;
            let copy = store.service(Self::id(last)).await.expect("read").expect("it is there").service;
            assert_eq!(copy.settings, self.settings(last, &ports), "a copy is what registering it would have made");
            assert_eq!(copy.revision.0, self.services);
        }
        store.close().await;
        run(&mut connection, "VACUUM ANALYZE").await;
        run(&mut connection, "CHECKPOINT").await;
    }

    async fn copy(self, connection: &mut PgConnection, models: u64, shards: ShardCount) {
        const PIECE: u64 = 100_000;
        for begin in (models..self.services).step_by(PIECE as usize) {
            let numbers: Vec<u64> = (begin..self.services.min(begin + PIECE)).collect();
            let column = |of: &dyn Fn(u64) -> i64| numbers.iter().map(|number| of(*number)).collect::<Vec<i64>>();
            let (ids, of) = (column(&|n| Self::id(n).as_i64()), column(&|n| Self::id(n % models).as_i64()));
            let in_shards = column(&|n| i64::from(shards.shard_of(Self::id(n)).0));
            let names = column(&|n| i64::try_from(n).expect("a number"));
            sqlx::query(
                "INSERT INTO services SELECT u.id, u.shard, regexp_replace(s.settings, '\"name\":\"[^\"]*\"', \
                 '\"name\":\"service ' || u.number || '\"'), s.group_name, s.activity, u.number + 1, s.epoch, \
                 s.created_at, s.updated_at, s.scheduled_since FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], \
                 $4::bigint[]) u (id, of, shard, number) JOIN services s ON s.id = u.of",
            )
            .bind(&ids)
            .bind(&of)
            .bind(&in_shards)
            .bind(&names)
            .execute(&mut *connection)
            .await
            .expect("copied services");
            sqlx::query(
                "INSERT INTO states SELECT u.id, since, maintenance_until, stored_through, patience, look_at, overlays, \
                 announced, snapshot FROM UNNEST($1::bigint[], $2::bigint[]) u (id, of) \
                 JOIN states s ON s.service_id = u.of",
            )
            .bind(&ids)
            .bind(&of)
            .execute(&mut *connection)
            .await
            .expect("copied states");
        }
        for statement in [
            format!("UPDATE head SET revision = {}", self.services),
            "UPDATE services SET created_at = created_at - 3600000000, updated_at = updated_at - 3600000000, \
             scheduled_since = scheduled_since - 3600000000"
                .to_owned(),
            "UPDATE states SET since = since - 3600000000, look_at = look_at + 3600000".to_owned(),
        ] {
            run(connection, statement).await;
        }
    }
}

async fn run(connection: &mut PgConnection, statement: impl Into<String>) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement.into())).execute(connection).await.expect("a statement");
}

/// What is recorded of the slots of a window.
pub(crate) struct Recorded {
    /// Scheduled probes that passed.
    pub(crate) passed: u64,
    /// Scheduled probes that did not.
    pub(crate) other: u64,
    /// p50, p99, p999 and the most, from slot to start, of those that passed.
    pub(crate) lateness_us: [i64; 4],
}

pub(crate) async fn recorded(database: &str, from: Timestamp, to: Timestamp) -> Recorded {
    let mut connection = PgConnection::connect(database).await.expect("connected");
    let (passed, other, lateness): (i64, i64, Option<Vec<i64>>) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE outcome = $1), count(*) FILTER (WHERE outcome <> $1), \
         percentile_disc(ARRAY[0.5, 0.99, 0.999, 1]) WITHIN GROUP (ORDER BY delay) FILTER (WHERE outcome = $1) \
         FROM results WHERE kind = $2 AND slot > $3 AND slot <= $4",
    )
    .bind(Outcome::Pass.code())
    .bind(Kind::Scheduled.code())
    .bind(from.as_millis())
    .bind(to.as_millis())
    .fetch_one(&mut connection)
    .await
    .expect("what is recorded");
    Recorded {
        passed: passed.cast_unsigned(),
        other: other.cast_unsigned(),
        lateness_us: lateness.and_then(|all| all.try_into().ok()).unwrap_or_default(),
    }
}

/// Begins PostgreSQL's account of its statements anew.
pub(crate) async fn forget_statements(database: &str) {
    let mut connection = PgConnection::connect(database).await.expect("connected");
    run(&mut connection, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
    run(&mut connection, "SELECT pg_stat_statements_reset()").await;
}

/// Prints the statements that took the most time since then, as microseconds a probe.
pub(crate) async fn print_statements(database: &str, probes: u64) {
    let mut connection = PgConnection::connect(database).await.expect("connected");
    let read: Vec<(String, i64, i64, f64, f64, i64)> = sqlx::query_as(
        "SELECT regexp_replace(query, '\\s+', ' ', 'g'), calls, rows, total_exec_time, total_plan_time, \
         wal_bytes::bigint FROM pg_stat_statements ORDER BY total_exec_time + total_plan_time DESC LIMIT 16",
    )
    .fetch_all(&mut connection)
    .await
    .expect("the statements");
    println!("statements: us a probe in executing, in planning; calls; rows a call; WAL bytes a probe");
    for (text, calls, rows, executing, planning, wal) in read {
        let each = |ms: f64| ms * 1e3 / probes.max(1) as f64;
        println!(
            "  {:6.2} {:6.2} {calls:7} {:8.1} {:7.1}  {}",
            each(executing),
            each(planning),
            rows as f64 / calls.max(1) as f64,
            wal as f64 / probes.max(1) as f64,
            text.chars().take(110).collect::<String>()
        );
    }
}

/// Now, at a whole millisecond, as slots are.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(SystemClock::new().now().as_millis())
}
