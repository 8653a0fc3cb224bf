//! The prober of services that report in, over a store in memory.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_adapters::heartbeat::HeartbeatProber;
use healthmon_core::{
    conformance::ManualClock,
    heartbeat::{Heard, KeyDigest, Noted, Report, Sign},
    id::{Region, ServiceId},
    memory::{MemoryResultStore, StoreLimits},
    ports::{Heartbeats, Prober, ResultStore, StoreError},
    probe::{FailReason, IndeterminateReason, Kind, Observation, Outcome, Probe},
    service::{Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use serde_json::{Value, json};

/// When services of these tests are registered.
const BEGIN: Timestamp = Timestamp::from_millis(1_795_168_800_000);

fn at(second: u64) -> Timestamp {
    BEGIN.after(Duration::from_secs(second))
}

fn settings(heartbeat: Value) -> ServiceSettings {
    let settings = json!({"name": "backup", "url": "heartbeat://backup", "interval": "100s", "heartbeat": heartbeat});
    serde_json::from_value(settings).unwrap()
}

/// A registered service, and who reports and looks.
struct Story {
    store: Arc<MemoryResultStore>,
    prober: HeartbeatProber,
    service: Arc<Service>,
}

impl Story {
    async fn of(heartbeat: Value) -> Self {
        let clock = Arc::new(ManualClock::starting_at(BEGIN));
        let store = Arc::new(MemoryResultStore::new(clock, StoreLimits::default()));
        let service = store.register(ServiceId::new(7).unwrap(), settings(heartbeat)).await.unwrap();
        store.set_key(service.id, KeyDigest([0; 32])).await.unwrap();
        let prober = HeartbeatProber::new(Arc::clone(&store) as Arc<dyn Heartbeats>);
        Self { store, prober, service: Arc::new(service) }
    }

    async fn says(&self, second: u64, report: Report) {
        self.says_of(Sign::new(self.service.id, at(second), report)).await;
    }

    async fn says_of(&self, sign: Sign) {
        self.store.note(vec![sign]).await.unwrap();
    }

    /// Somebody takes signs from one second to another.
    async fn takes_signs(&self, seconds: RangeInclusive<u64>) {
        for second in seconds.step_by(5) {
            self.store.listening(at(second)).await.unwrap();
        }
    }

    fn slot(&self, second: u64) -> Probe {
        Probe::new(Arc::clone(&self.service), Region::default(), Slot::at(at(second)), Kind::Scheduled)
    }

    async fn seen(&self, second: u64) -> Observation {
        self.prober.probe(&self.slot(second)).await
    }

    async fn outcome(&self, second: u64) -> Outcome {
        self.seen(second).await.outcome
    }
}

const SILENCE: Outcome = Outcome::Fail(FailReason::Silence);
const REPORTED: Outcome = Outcome::Fail(FailReason::Reported);
const TIMEOUT: Outcome = Outcome::Fail(FailReason::Timeout);
const AWAITED: Outcome = Outcome::Indeterminate(IndeterminateReason::Awaited);

#[tokio::test]
async fn each_story_comes_to_its_outcome() {
    use Report::{Failure, Start, Success};
    const FAILED: Report = Failure(None);
    // Every 100 s, 10 s of grace, 50 s to run.
    type Told<'a> = (&'a str, &'a [(u64, Report)], &'a [(u64, Outcome)]);
    let stories: &[Told<'_>] = &[
        ("it never says anything", &[], &[(0, AWAITED), (110, AWAITED), (111, SILENCE), (999, SILENCE)]),
        ("it succeeds once", &[(60, Success)], &[(60, Outcome::Pass), (170, Outcome::Pass), (171, SILENCE)]),
        ("it fails", &[(60, FAILED)], &[(61, REPORTED), (170, REPORTED), (171, SILENCE)]),
        ("it fails and succeeds", &[(60, FAILED), (70, Success)], &[(71, Outcome::Pass)]),
        ("it succeeds and fails", &[(60, Success), (70, FAILED)], &[(71, REPORTED)]),
        ("a run is under way", &[(60, Success), (160, Start)], &[(170, Outcome::Pass), (210, Outcome::Pass)]),
        ("a run does not end", &[(60, Success), (160, Start)], &[(211, TIMEOUT), (999, TIMEOUT)]),
        ("a run begins too late", &[(60, Success), (190, Start)], &[(189, SILENCE), (191, SILENCE), (241, TIMEOUT)]),
        ("the first run is under way", &[(100, Start)], &[(120, AWAITED), (150, AWAITED), (151, TIMEOUT)]),
        (
            "it dies and is begun anew, again and again",
            &[(60, Success), (100, Start), (120, Start), (140, Start)],
            &[(150, Outcome::Pass), (151, TIMEOUT)],
        ),
        ("a run after a failure", &[(60, FAILED), (100, Start)], &[(120, REPORTED)]),
        ("the run after it ends well", &[(60, FAILED), (100, Start), (130, Success)], &[(131, Outcome::Pass)]),
        ("a sign comes between slot and probe", &[(500, Success)], &[(490, Outcome::Pass)]),
    ];
    for (what, signs, expected) in stories {
        let story = Story::of(json!({"grace": "10s", "max_runtime": "50s"})).await;
        for (second, report) in *signs {
            story.says(*second, *report).await;
        }
        for (second, outcome) in *expected {
            assert_eq!(story.outcome(*second).await, *outcome, "{what}, at {second} s");
        }
    }
}

#[tokio::test]
async fn a_start_alone_excuses_nothing_where_runs_have_no_limit() {
    let story = Story::of(json!({"grace": "10s"})).await;
    story.says(60, Report::Success).await;
    story.says(160, Report::Start).await;
    assert_eq!(story.outcome(170).await, Outcome::Pass);
    assert_eq!(story.outcome(171).await, SILENCE);
}

#[tokio::test]
async fn it_may_be_looked_at_oftener_than_it_reports_in() {
    let story = Story::of(json!({"every": "24h", "grace": "30m"})).await;
    story.says(0, Report::Success).await;
    assert_eq!(story.outcome(24 * 3_600 + 1_800).await, Outcome::Pass);
    assert_eq!(story.outcome(24 * 3_600 + 1_801).await, SILENCE);
}

#[tokio::test]
async fn a_service_that_is_probed_again_has_its_time_anew() {
    let mut story = Story::of(json!({"grace": "10s"})).await;
    story.says(0, Report::Success).await;
    let resumed = Service { scheduled_since: at(1_000), ..(*story.service).clone() };
    story.service = Arc::new(resumed);
    assert_eq!(story.outcome(1_001).await, AWAITED);
    assert_eq!(story.outcome(1_110).await, AWAITED);
    assert_eq!(story.outcome(1_111).await, SILENCE);
}

#[tokio::test]
async fn silence_that_may_be_our_own_is_not_held_against_the_service() {
    // Every 100 s, 10 s of grace; a word at 0 s; signs were taken until `from` and again from `to`.
    for (from, to, expected) in [
        (60, 90, &[(110, Outcome::Pass), (111, AWAITED), (200, AWAITED), (201, SILENCE)][..]),
        (90, 501, &[(111, AWAITED), (600, AWAITED), (611, AWAITED), (612, SILENCE)]),
        (10, 45, &[(110, Outcome::Pass), (111, SILENCE)]),
        (115, 400, &[(111, SILENCE), (401, SILENCE)]),
    ] {
        let story = Story::of(json!({"grace": "10s"})).await;
        story.says(0, Report::Success).await;
        let mut heard = 0;
        for (second, outcome) in expected {
            for listening in (heard..=*second).step_by(5).filter(|at| !(from + 1..to).contains(at)) {
                story.store.listening(at(listening)).await.unwrap();
            }
            heard = *second;
            assert_eq!(story.outcome(*second).await, *outcome, "deaf from {from} to {to} s, at {second} s");
        }
    }
    let story = Story::of(json!({"grace": "10s"})).await;
    story.says(0, Report::Success).await;
    story.store.listening(at(90)).await.unwrap();
    assert_eq!(story.outcome(110).await, Outcome::Pass);
    assert_eq!(story.outcome(111).await, AWAITED, "nobody listens still");
    story.store.listening(at(109)).await.unwrap();
    assert_eq!(story.outcome(111).await, SILENCE);
    let story = Story::of(json!({"grace": "10s", "max_runtime": "50s"})).await;
    story.says(10, Report::Start).await;
    story.takes_signs(20..=20).await;
    story.takes_signs(60..=170).await;
    assert_eq!(story.outcome(61).await, AWAITED, "it may have ended meanwhile");
    assert_eq!(story.outcome(171).await, TIMEOUT, "but not have run again without a word");
}

#[tokio::test]
async fn a_later_restart_takes_no_excuse_away() {
    const HOUR: u64 = 3_600;
    // A nightly job, with an hour of grace: after a word at 0 h the next one is due by 25 h.
    let story = Story::of(json!({"every": "24h"})).await;
    story.says(0, Report::Success).await;
    story.takes_signs(22 * HOUR..=23 * HOUR).await;
    story.takes_signs(26 * HOUR..=27 * HOUR).await;
    assert_eq!(story.outcome(27 * HOUR).await, AWAITED);
    story.takes_signs(27 * HOUR + 30..=51 * HOUR).await;
    assert_eq!(story.outcome(27 * HOUR + 30).await, AWAITED, "after a restart of 30 s");
    assert_eq!(story.outcome(51 * HOUR).await, AWAITED, "until another word is due");
    assert_eq!(story.outcome(51 * HOUR + 1).await, SILENCE);
    let detail = "a word from it may have come while nobody took signs, until 2026-11-21T12:00:00.000000Z";
    assert!(story.seen(51 * HOUR).await.detail.unwrap().starts_with(detail), "the one that excuses is told");
    // Nor from a run that may have ended within its hour.
    let story = Story::of(json!({"every": "24h", "max_runtime": "1h"})).await;
    story.says(0, Report::Start).await;
    story.takes_signs(0..=1_800).await;
    story.takes_signs(3_000..=2 * HOUR).await;
    assert_eq!(story.outcome(2 * HOUR).await, AWAITED);
    story.takes_signs(2 * HOUR + 30..=2 * HOUR + 60).await;
    assert_eq!(story.outcome(2 * HOUR + 60).await, AWAITED, "after a restart of 30 s");
}

#[tokio::test]
async fn who_looks_closely_is_told_when_nobody_took_signs() {
    let story = Story::of(json!({"grace": "10s"})).await;
    for from in [0, 60, 120] {
        story.takes_signs(from..=from + 10).await;
    }
    let looked = story.prober.inspect(&story.slot(131)).await;
    let deaf = looked.facts.iter().filter(|fact| &*fact.what == "nobody took signs").map(|fact| &*fact.value);
    assert_eq!(
        deaf.collect::<Vec<_>>(),
        [
            "from 2026-11-20T10:00:10.000000Z to 2026-11-20T10:01:00.000000Z",
            "from 2026-11-20T10:01:10.000000Z to 2026-11-20T10:02:00.000000Z",
        ]
    );
}

#[tokio::test]
async fn details_say_what_was_said_and_what_was_expected() {
    let story = Story::of(json!({"grace": "10s", "max_runtime": "50s"})).await;
    let detail = async |second| story.seen(second).await.detail.unwrap();
    assert_eq!(&*detail(1).await, "no word from it yet; expected every 1m 40s with a grace of 10s");
    assert_eq!(&*detail(111).await, "it never reported in; expected every 1m 40s with a grace of 10s");
    story.says(200, Report::Failure(None)).await;
    assert_eq!(&*detail(201).await, "it reported a failure");
    let failed = Sign::new(story.service.id, at(210), Report::of_exit(3)).with_message("disk\u{1b}[2J full");
    story.says_of(failed).await;
    let seen = story.seen(211).await;
    assert_eq!((seen.detail.as_deref(), seen.code), (Some("exit status 3: disk\\u{1b}[2J full"), Some(3)));
    assert_eq!(&*detail(400).await, "no word from it for 3m 10s; expected every 1m 40s with a grace of 10s");
    story.says(500, Report::Start).await;
    assert_eq!(&*detail(551).await, "a run began at 2026-11-20T10:08:20.000000Z and has not ended within 50s");
}

#[tokio::test]
async fn a_service_without_a_token_is_told_of() {
    let story = Story::of(json!({})).await;
    let other = story.store.register(ServiceId::new(8).unwrap(), settings(json!({}))).await.unwrap();
    let probe = Probe::new(Arc::new(other), Region::default(), Slot::at(at(1)), Kind::Edge);
    let detail = story.prober.probe(&probe).await.detail.unwrap();
    assert!(detail.ends_with("; it has no token to report in with, ask for one"), "{detail}");
}

#[tokio::test]
async fn a_closer_look_tells_the_last_words() {
    let story = Story::of(json!({"grace": "10s"})).await;
    story.says(10, Report::Success).await;
    story.says_of(Sign::new(story.service.id, at(20), Report::of_exit(3)).with_message("why")).await;
    story.says(30, Report::Start).await;
    let looked = story.prober.inspect(&story.slot(40)).await;
    assert_eq!(looked.seen.outcome, REPORTED);
    let facts: Vec<(&str, &str)> = looked.facts.iter().map(|fact| (&*fact.what, &*fact.value)).collect();
    assert_eq!(
        facts,
        [
            ("last success", "2026-11-20T10:00:10.000000Z"),
            ("last failure", "2026-11-20T10:00:20.000000Z, exit status 3: why"),
            ("last start", "2026-11-20T10:00:30.000000Z"),
            ("run under way since", "2026-11-20T10:00:30.000000Z"),
            ("expected by", "2026-11-20T10:02:10.000000Z"),
        ]
    );
}

#[test]
fn wrong_settings_are_named_with_what_would_be_right() {
    let store = MemoryResultStore::new(Arc::new(ManualClock::starting_at(BEGIN)), StoreLimits::default());
    let prober = HeartbeatProber::new(Arc::new(store));
    let with = |more: Value| {
        let mut settings = json!({"name": "a", "url": "heartbeat://a", "interval": "1m"});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let errors = prober.check(&serde_json::from_value(settings).unwrap()).err();
        errors.iter().flatten().map(|error| format!("{}: {}", error.field, error.problem)).collect::<Vec<_>>()
    };
    assert!(with(json!({"heartbeat": {"grace": 0, "every": "31days", "max_runtime": "2h"}})).is_empty());
    let url = "url: must be heartbeat:// and a label, such as heartbeat://nightly-backup";
    for wrong in ["heartbeat://a:80", "heartbeat://a/b", "heartbeat://a?b", "heartbeat://a#b"] {
        assert_eq!(with(json!({"url": wrong})), [url], "{wrong}");
    }
    assert_eq!(
        with(json!({"heartbeat": {"grace": "500days", "every": "1ms", "max_runtime": "0s", "more": 1}})),
        [
            "heartbeat.every: must be from 1s to 400days",
            "heartbeat.grace: must be from 0s to 400days",
            "heartbeat.max_runtime: must be from 1s to 400days",
            "heartbeat.more: is not a known field",
        ]
    );
    assert_eq!(with(json!({"expect": {}})).len(), 1, "sections of other probers are refused");
}

/// A store that is away, or that does not answer.
enum Broken {
    Away,
    Silent,
}

#[async_trait]
impl Heartbeats for Broken {
    async fn set_key(&self, service: ServiceId, _: KeyDigest) -> Result<(), StoreError> {
        Err(StoreError::NotFound(service))
    }

    async fn keys(&self, _: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>, StoreError> {
        Ok(Vec::new())
    }

    async fn note(&self, _: Vec<Sign>) -> Result<Vec<Noted>, StoreError> {
        Ok(Vec::new())
    }

    async fn listening(&self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    async fn heard(&self, _: ServiceId) -> Result<Option<Heard>, StoreError> {
        match self {
            Self::Away => Err(StoreError::Transient { retry_after: Duration::from_secs(1), source: "gone".into() }),
            Self::Silent => std::future::pending().await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_or_silent_is_no_word_on_the_service() {
    let story = Story::of(json!({})).await;
    for (broken, expected) in [
        (Broken::Away, "what it said last could not be read: the store is away: gone"),
        (Broken::Silent, "what it said last could not be read within 10000 ms"),
    ] {
        let begun = tokio::time::Instant::now();
        let seen = HeartbeatProber::new(Arc::new(broken)).probe(&story.slot(999)).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Internal));
        assert_eq!(seen.detail.as_deref(), Some(expected));
        assert!(begun.elapsed() <= Duration::from_secs(10));
    }
}
