//! The scheduler's contract on a real server, and what several of them do to each other.

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

use healthmon_adapters::postgres::{
    Postgres, PostgresNodes, PostgresOptions, PostgresResultStore, PostgresScheduler, SchedulerOptions,
};
use healthmon_core::{
    conformance::{
        TestTime,
        scheduler::{SchedulerFixture, SchedulerSetup},
    },
    id::ServiceId,
    ports::{Clock, ResultStore, Scheduler, SchedulerError},
    probe::{Kind, ProbeId},
    runtime::clock::SystemClock,
    service::ServiceSettings,
    shard::{Claim, ShardCount},
};
use serde_json::json;

use crate::support::{Database, PgBouncer, execute};

const ALL: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

async fn connect(url: &str) -> Postgres {
    let shards = Some(ShardCount::new(16).expect("a count"));
    let options = PostgresOptions { max_connections: 4, shards, ..PostgresOptions::new(url) };
    Postgres::connect(options).await.expect("connected")
}

async fn scheduler(url: &str, node: &str, lease: Duration) -> Arc<PostgresScheduler> {
    let options = SchedulerOptions { lease, ..SchedulerOptions::new(node) };
    Arc::new(PostgresScheduler::new(connect(url).await, options).await.expect("a scheduler"))
}

async fn fixture(url: &str, setup: SchedulerSetup, guard: impl Send + 'static) -> SchedulerFixture {
    let store = Arc::new(PostgresResultStore::new(connect(url).await).await.expect("a store"));
    let one = scheduler(url, "one", setup.lease).await;
    let two = scheduler(url, "two", setup.lease).await;
    // The server is on this machine, and has its time.
    let time = TestTime::Real(Arc::new(SystemClock::new()));
    SchedulerFixture::alone(one, store, time, guard).with_rival(two)
}

/// A database of its own for each clause; two nodes are two pools.
async fn direct(setup: SchedulerSetup) -> SchedulerFixture {
    let database = Database::new().await;
    let url = database.url.clone();
    fixture(&url, setup, database).await
}

healthmon_core::scheduler_conformance!(mod conformance, direct, shared);

/// The same through PgBouncer in transaction mode.
async fn pooled(setup: SchedulerSetup) -> SchedulerFixture {
    let database = Database::new().await;
    let bouncer = PgBouncer::before(&database.url);
    let url = bouncer.url(database.name());
    fixture(&url, setup, (bouncer, database)).await
}

healthmon_core::scheduler_conformance!(mod conformance_through_a_pooler, pooled, shared);

async fn registered(url: &str, count: u64, interval: &str) {
    let store = PostgresResultStore::new(connect(url).await).await.expect("a store");
    for number in 1..=count {
        let settings: ServiceSettings = serde_json::from_value(json!({
            "name": format!("service-{number}"), "url": "http://target.test/", "interval": interval, "timeout": "100ms",
        }))
        .expect("settings");
        store.register(ServiceId::new(number << 22).expect("an id"), settings).await.expect("registered");
    }
}

/// What one node emitted.
#[derive(Default)]
struct Told(BTreeMap<ProbeId, Vec<Claim>>);

impl Told {
    /// Asks until `enough`, at most for half a minute.
    async fn ask(&mut self, nodes: &[&Arc<PostgresScheduler>], mut enough: impl FnMut(&Self) -> bool) {
        let clock = SystemClock::new();
        let end = clock.now().after(Duration::from_secs(30));
        while !enough(self) {
            assert!(clock.now() < end, "not within half a minute");
            for node in nodes {
                match node.due(clock.now(), ALL).await {
                    Ok(due) => self.take(due.probes),
                    Err(SchedulerError::Fenced | SchedulerError::Transient { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn take(&mut self, probes: Vec<healthmon_core::probe::Probe>) {
        for probe in probes.into_iter().filter(|probe| probe.id.kind == Kind::Scheduled) {
            self.0.entry(probe.id).or_default().push(probe.claim.expect("emitted under a claim"));
        }
    }

    fn services(&self) -> usize {
        let mut services: Vec<_> = self.0.keys().map(|id| id.service).collect();
        services.dedup();
        services.len()
    }
}

#[tokio::test]
async fn a_newcomer_gets_its_share_and_no_slot_is_lost_or_emitted_twice_by_that() {
    let database = Database::new().await;
    registered(&database.url, 64, "2s").await;
    let lease = Duration::from_secs(2);
    let one = scheduler(&database.url, "one", lease).await;
    let mut told = Told::default();
    told.ask(&[&one], |told| told.services() == 64).await;
    let two = scheduler(&database.url, "two", lease).await;
    let mut of_two = Told::default();
    of_two.ask(&[&two], |_| true).await;
    let shared = async {
        loop {
            let clock = SystemClock::new();
            told.take(one.due(clock.now(), ALL).await.expect("due").probes);
            of_two.take(two.due(clock.now(), ALL).await.expect("due").probes);
            if of_two.services() >= 16 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), shared).await.expect("the newcomer has a share");
    assert!(told.0.keys().all(|id| !of_two.0.contains_key(id)), "no slot is emitted by both");
    // Slots of one service follow each other without a gap, whoever emitted them.
    let mut all: Vec<&ProbeId> = told.0.keys().chain(of_two.0.keys()).collect();
    all.sort_by_key(|id| (id.service, id.slot));
    for pair in all.windows(2).filter(|pair| pair[0].service == pair[1].service) {
        assert_eq!(pair[1].slot.as_millis() - pair[0].slot.as_millis(), 2_000, "{} and {}", pair[0], pair[1]);
    }
}

#[tokio::test]
async fn whoever_takes_over_emits_what_fell_due_meanwhile_under_a_higher_epoch() {
    let database = Database::new().await;
    // An interval longer than the takeover: no slot of it may be skipped.
    registered(&database.url, 40, "5s").await;
    let lease = Duration::from_secs(1);
    let one = scheduler(&database.url, "one", lease).await;
    let mut before = Told::default();
    before.ask(&[&one], |told| told.services() >= 20).await;
    // From here on it is silent: as good as killed.
    let two = scheduler(&database.url, "two", lease).await;
    let mut after = Told::default();
    after.ask(&[&two], |told| told.services() == 40).await;
    let epochs = |told: &Told| {
        let claims = told.0.values().flatten();
        claims.map(|claim| (claim.shard, claim.epoch)).collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (epochs(&before), epochs(&after));
    assert!(new.iter().all(|(shard, epoch)| old.get(shard).is_none_or(|old| old < epoch)), "{old:?} {new:?}");
    for service in before.0.keys().map(|id| id.service) {
        let slots = |told: &Told| {
            let own = told.0.keys().filter(|id| id.service == service);
            own.map(|id| id.slot.as_millis()).collect::<Vec<_>>()
        };
        let (last, next) = (*slots(&before).last().expect("a slot"), *slots(&after).first().expect("a slot"));
        assert!(next - last <= 5_000, "service {service} goes on at the next slot: {last}, {next}");
    }
}

#[tokio::test]
async fn scheduling_goes_on_while_the_database_is_away() {
    let server = healthmon_adapters::servers::PrivatePostgres::start().expect("PostgreSQL starts");
    let url = server.url("postgres");
    registered(&url, 8, "200ms").await;
    let one = scheduler(&url, "one", Duration::from_secs(1)).await;
    let mut told = Told::default();
    told.ask(&[&one], |told| told.services() == 8).await;
    server.stop(healthmon_adapters::servers::StopMode::Immediate).expect("stopped");
    let clock = SystemClock::new();
    let (gone, mut worst) = (clock.now(), Duration::ZERO);
    let mut told = Told::default();
    // Longer than the lease.
    while clock.now().since(gone) < Duration::from_secs(4) {
        let asked = clock.now();
        let due = one.due(asked, ALL).await.expect("it goes on");
        worst = worst.max(clock.now().since(asked));
        told.take(due.probes);
        tokio::task::yield_now().await;
    }
    assert!(told.0.len() >= 8 * 15, "{} probes of 8 services in 4 s, each 200 ms", told.0.len());
    assert!(worst < Duration::from_secs(3), "no call waits for the database for long: {worst:?}");
    server.resume().expect("started again");
    let two = scheduler(&url, "two", Duration::from_secs(1)).await;
    // Until it hears of the other, its probes come under an epoch that the queue refuses.
    let settled = clock.now().after(Duration::from_secs(3));
    Told::default().ask(&[&one, &two], |_| clock.now() > settled).await;
    let mut told = Told::default();
    told.ask(&[&one, &two], |told| told.services() == 8).await;
    assert!(told.0.values().all(|claims| claims.len() == 1), "and shares with another when it is back");
}

#[tokio::test]
async fn a_scheduler_whose_clock_is_ahead_does_not_silence_its_successor() {
    let database = Database::new().await;
    registered(&database.url, 8, "300ms").await;
    let one = scheduler(&database.url, "one", Duration::from_secs(3)).await;
    let clock = SystemClock::new();
    for _ in 0..200 {
        one.due(clock.now().after(Duration::from_hours(1)), ALL).await.expect("due");
        tokio::task::yield_now().await;
    }
    one.release().await.expect("released");
    let two = scheduler(&database.url, "two", Duration::from_secs(3)).await;
    Told::default().ask(&[&two], |told| told.services() == 8).await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_keep_the_others_from_being_scheduled() {
    let database = Database::new().await;
    registered(&database.url, 8, "300ms").await;
    execute(&database.url, "UPDATE services SET settings = '{' WHERE id = (SELECT min(id) FROM services)").await;
    let one = scheduler(&database.url, "one", Duration::from_secs(1)).await;
    Told::default().ask(&[&one], |told| told.services() == 7).await;
}

#[tokio::test]
async fn processes_have_numbers_of_their_own_and_take_those_of_the_dead() {
    let database = Database::new().await;
    let postgres = connect(&database.url).await;
    let (long, short) = (Duration::from_mins(1), Duration::from_secs(2));
    let report = json!({"version": "1"});
    let join = |name: &'static str, lease| PostgresNodes::join(postgres.clone(), name, lease, &report);
    let (a, b, c) = tokio::join!(join("a", long), join("b", long), join("c", short));
    let (a, b, c) = (a.expect("joined"), b.expect("joined"), c.expect("joined"));
    let mut numbers = [a.number().await, b.number().await, c.number().await];
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
    let gone = c.number().await;
    let d = loop {
        let d = join("d", long).await.expect("joined");
        if d.number().await == gone {
            break d;
        }
        d.leave().await.expect("left");
    };
    c.report(&json!({"version": "2"})).await.expect("it comes back under another number");
    assert!(c.number().await > 2, "its number is another's now");
    let mut names: Vec<String> = d.nodes().await.expect("listed").into_iter().map(|node| node.name).collect();
    names.retain(|name| name != "c");
    assert_eq!(names, ["a", "b", "d"]);
}
