//! The contract of [`Heartbeats`], clause by clause.

use std::{collections::BTreeMap, future::Future, num::NonZeroU8, pin::Pin, sync::Arc, time::Duration};

use super::{
    TestTime, poll_times,
    samples::{Numbers, id, result, touchy},
};
use crate::{
    heartbeat::{Deafness, End, KeyDigest, Noted, Novelty, Pulse, Report, Said, Sign},
    id::ServiceId,
    ports::{Change, Heartbeats, ResultStore, StoreError},
    probe::Outcome,
    service::Service,
    status::Status,
    time::{Slot, Timestamp},
};

/// What a clause needs of the store that it is given: nothing so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeartbeatsSetup;

/// Opens the backend anew.
pub type ReopenHeartbeats = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Arc<dyn Heartbeats>> + Send>> + Send + Sync>;

/// An empty store, and what a clause does with it.
pub struct HeartbeatsFixture {
    /// Whose services they are.
    pub store: Arc<dyn ResultStore>,
    /// One node's handle.
    pub heartbeats: Arc<dyn Heartbeats>,
    /// Another node's handle on the same backend.
    pub other: Arc<dyn Heartbeats>,
    /// How time passes for the store.
    pub time: TestTime,
    /// Opens the same backend anew, as after a restart.
    pub reopen: ReopenHeartbeats,
    /// What must live as long as the test.
    _guard: Box<dyn Send>,
}

impl HeartbeatsFixture {
    /// Two nodes' handles on one empty backend. `guard` is kept as long as the test lasts.
    pub fn new<S: ResultStore + Heartbeats + 'static>(
        store: Arc<S>,
        other: Arc<dyn Heartbeats>,
        time: TestTime,
        reopen: ReopenHeartbeats,
        guard: impl Send + 'static,
    ) -> Self {
        let heartbeats = Arc::clone(&store) as Arc<dyn Heartbeats>;
        Self { store, heartbeats, other, time, reopen, _guard: Box::new(guard) }
    }

    /// A store that lives in one process: both nodes and every restart have the same handle.
    pub fn in_process<S: ResultStore + Heartbeats + 'static>(store: Arc<S>, time: TestTime) -> Self {
        let heartbeats = Arc::clone(&store) as Arc<dyn Heartbeats>;
        Self::beside(store, heartbeats, time)
    }

    /// The same, where services and heartbeats have a handle each.
    pub fn beside(store: Arc<dyn ResultStore>, heartbeats: Arc<dyn Heartbeats>, time: TestTime) -> Self {
        let again = Arc::clone(&heartbeats);
        let reopen: ReopenHeartbeats = Box::new(move || {
            let again = Arc::clone(&again);
            Box::pin(async { again })
        });
        let other = Arc::clone(&heartbeats);
        Self { store, heartbeats, other, time, reopen, _guard: Box::new(()) }
    }

    /// Registers a service.
    async fn service(&self, number: u64) -> Service {
        self.store.register(id(number), touchy(&format!("service-{number}"))).await.expect("registered")
    }

    /// Registers a service that reports in.
    async fn with_key(&self, number: u64) -> Service {
        let service = self.service(number).await;
        self.heartbeats.set_key(service.id, key(number)).await.expect("a key");
        service
    }

    async fn pulse(&self, service: ServiceId) -> Pulse {
        self.heartbeats.heard(service).await.expect("read").expect("a pulse").pulse
    }

    async fn note(&self, signs: &[Sign]) -> Vec<Noted> {
        self.heartbeats.note(signs.to_vec()).await.expect("noted")
    }
}

/// Makes one test of every clause of [`Heartbeats`]' contract, in a module of its own.
///
/// `$fixture` is an async function from
/// [`HeartbeatsSetup`](crate::conformance::heartbeats::HeartbeatsSetup) to
/// [`HeartbeatsFixture`](crate::conformance::heartbeats::HeartbeatsFixture). See
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! heartbeats_conformance {
    ($(#[$meta:meta])* mod $name:ident, $fixture:expr $(,)?) => {
        $crate::heartbeats_conformance! { @tests $(#[$meta])* $name $fixture }
    };
    (@$mode:ident $($rest:tt)*) => {
        $crate::__conformance! { $mode heartbeats {
            signs_are_read_back_as_they_were
            a_service_without_a_key_takes_no_sign
            a_new_key_takes_the_place_of_the_old_one_and_signs_stay
            a_deleted_service_has_no_key_and_takes_no_sign
            only_services_that_there_are_get_a_key
            a_repeated_batch_changes_nothing
            a_sign_that_comes_late_does_not_hide_a_newer_one
            a_sign_of_a_known_run_changes_nothing
            a_batch_is_taken_in_by_its_order_and_answered_in_it
            many_services_in_one_batch_do_not_mix
            what_came_before_and_what_is_announced_are_told
            any_signs_leave_what_the_pulse_says
            signs_noted_at_once_by_two_nodes_are_all_taken_in
            a_dropped_note_is_done_or_not_done
            a_time_in_which_nobody_listened_is_told_to_all
            signs_and_keys_outlive_a_restart
        } $($rest)* }
    };
}

/// The names of this suite's clauses.
pub const CLAUSES: &[&str] = crate::heartbeats_conformance!(@names);

/// A key like no other's.
fn key(number: u64) -> KeyDigest {
    let mut bytes = [0xa5; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    KeyDigest(bytes)
}

const fn second(second: i64) -> Timestamp {
    Timestamp::from_micros(1_795_168_800_123_456 + second * 1_000_000)
}

const FAILED: Report = Report::Failure(None);

fn sign(service: &Service, at: i64, report: Report) -> Sign {
    Sign::new(service.id, second(at), report)
}

fn of_run(run: &str, sign: Sign) -> Sign {
    Sign { run: Some(run.parse().expect("a run")), ..sign }
}

fn is_news(noted: &Noted) -> bool {
    matches!(noted, Noted::News { .. })
}

/// Each sort's newest sign, with all that was said.
pub async fn signs_are_read_back_as_they_were(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    assert_eq!(fixture.pulse(service.id).await, Pulse::default(), "it has a key, and never reported in");
    let failed = of_run("r/1", sign(&service, 2, Report::of_exit(255))).with_message("\"disk\" 'full' \\ 🩺 \u{0}");
    let signs = [sign(&service, 1, Report::Start), failed, sign(&service, 3, Report::Success).with_message("fine")];
    assert!(fixture.note(&signs).await.iter().all(is_news));
    let pulse = fixture.pulse(service.id).await;
    let said = |at, message: Option<&str>| Said {
        at: second(at),
        exit_status: None,
        run: None,
        message: message.map(Into::into),
    };
    assert_eq!((pulse.start, pulse.success), (Some(said(1, None)), Some(said(3, Some("fine")))));
    let failure = Said {
        exit_status: NonZeroU8::new(255),
        run: "r/1".parse().ok(),
        ..said(2, Some("\"disk\" 'full' \\ 🩺 \\u{0}"))
    };
    assert_eq!((pulse.failure, pulse.open_since), (Some(failure), None));
}

/// A key is what makes a service one that reports in.
pub async fn a_service_without_a_key_takes_no_sign(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let without = fixture.service(1).await;
    let with = fixture.with_key(2).await;
    let unknown = Sign::new(id(999), second(1), FAILED);
    let signs = [sign(&without, 1, FAILED), unknown, sign(&with, 1, FAILED)];
    let noted = fixture.note(&signs).await;
    assert_eq!(noted[..2], [Noted::Nobody, Noted::Nobody]);
    assert!(is_news(&noted[2]), "others of the batch are taken in");
    assert_eq!(fixture.heartbeats.heard(without.id).await.expect("read"), None);
    assert_eq!(fixture.heartbeats.heard(id(999)).await.expect("read"), None);
    let keys = fixture.heartbeats.keys(&[id(999), without.id, with.id]).await.expect("keys");
    assert_eq!(keys, [(with.id, key(2))]);
    assert_eq!(fixture.heartbeats.keys(&[]).await.expect("keys"), []);
    assert_eq!(fixture.note(&[]).await, []);
}

/// The old key is gone at once, on the other node too; what was said stays.
pub async fn a_new_key_takes_the_place_of_the_old_one_and_signs_stay(
    make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture,
) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    assert_eq!(fixture.other.keys(&[service.id]).await.expect("keys"), [(service.id, key(1))]);
    fixture.note(&[sign(&service, 1, Report::Success)]).await;
    let before = fixture.pulse(service.id).await;
    fixture.heartbeats.set_key(service.id, key(77)).await.expect("another key");
    assert_eq!(fixture.other.keys(&[service.id]).await.expect("keys"), [(service.id, key(77))]);
    assert_eq!(fixture.pulse(service.id).await, before);
}

/// What is deleted is nobody's any more.
pub async fn a_deleted_service_has_no_key_and_takes_no_sign(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    fixture.note(&[sign(&service, 1, Report::Success)]).await;
    fixture.store.change(service.id, None, Change::Delete).await.expect("deleted");
    assert_eq!(fixture.heartbeats.keys(&[service.id]).await.expect("keys"), []);
    assert_eq!(fixture.note(&[sign(&service, 2, Report::Success)]).await, [Noted::Nobody]);
    assert_eq!(fixture.heartbeats.heard(service.id).await.expect("read"), None);
}

/// A key for nobody is refused.
pub async fn only_services_that_there_are_get_a_key(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let deleted = fixture.with_key(1).await;
    fixture.store.change(deleted.id, None, Change::Delete).await.expect("deleted");
    for nobody in [deleted.id, id(999)] {
        let refused = fixture.heartbeats.set_key(nobody, key(3)).await;
        assert!(matches!(refused, Err(StoreError::NotFound(id)) if id == nobody), "{refused:?}");
        assert_eq!(fixture.heartbeats.keys(&[nobody]).await.expect("keys"), []);
    }
}

/// As after a commit of which nobody knows whether it was.
pub async fn a_repeated_batch_changes_nothing(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    let signs = [
        of_run("a", sign(&service, 1, Report::Start)),
        of_run("a", sign(&service, 2, Report::of_exit(9))).with_message("no"),
        sign(&service, 3, Report::Success),
        sign(&service, 4, Report::Start),
    ];
    fixture.note(&signs).await;
    let before = fixture.pulse(service.id).await;
    let again = fixture.other.note(signs.to_vec()).await.expect("noted again");
    assert_eq!(again, [Noted::Known; 4]);
    assert_eq!(fixture.pulse(service.id).await, before);
}

/// Nodes may be overtaken by each other.
pub async fn a_sign_that_comes_late_does_not_hide_a_newer_one(
    make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture,
) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    fixture.note(&[sign(&service, 10, Report::Success)]).await;
    assert_eq!(fixture.note(&[sign(&service, 9, Report::Success)]).await, [Noted::Known]);
    assert!(is_news(&fixture.note(&[sign(&service, 8, FAILED)]).await[0]), "the newest failure there is");
    let pulse = fixture.pulse(service.id).await;
    assert_eq!(pulse.end(), Some((End::Well, second(10))));
    assert_eq!(pulse.failure.map(|said| said.at), Some(second(8)));
}

/// A client that heard no answer sends its sign again, whenever that may be.
pub async fn a_sign_of_a_known_run_changes_nothing(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    fixture.note(&[of_run("a", sign(&service, 1, Report::Success)), of_run("b", sign(&service, 2, FAILED))]).await;
    let before = fixture.pulse(service.id).await;
    let again = [of_run("a", sign(&service, 50, Report::Success)), of_run("b", sign(&service, 60, FAILED))];
    assert_eq!(fixture.other.note(again.to_vec()).await.expect("noted"), [Noted::Known; 2]);
    assert_eq!(fixture.pulse(service.id).await, before, "nothing seems younger than it is");
    assert!(
        is_news(&fixture.note(&[of_run("a", sign(&service, 70, FAILED))]).await[0]),
        "it ended otherwise after all"
    );
}

/// Several signs of a service in one batch follow each other.
pub async fn a_batch_is_taken_in_by_its_order_and_answered_in_it(
    make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture,
) {
    let fixture = make(HeartbeatsSetup).await;
    let (one, two) = (fixture.with_key(1).await, fixture.with_key(2).await);
    let signs = [
        sign(&one, 1, FAILED),
        sign(&two, 1, Report::Success),
        sign(&one, 2, Report::Success),
        Sign::new(id(999), second(2), FAILED),
        sign(&one, 3, Report::Success),
        sign(&one, 3, Report::Success),
    ];
    let news = |before| Noted::News { before, status: Status::Unknown };
    let expected = [news(None), news(None), news(Some(End::Badly)), Noted::Nobody, news(Some(End::Well)), Noted::Known];
    assert_eq!(fixture.note(&signs).await, expected);
}

/// A thousand services, unordered, each its own.
pub async fn many_services_in_one_batch_do_not_mix(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    const MANY: u64 = 300;
    let fixture = make(HeartbeatsSetup).await;
    let mut services = Vec::new();
    for number in 1..=MANY {
        services.push(fixture.with_key(number).await);
    }
    let at = |service: &Service| i64::try_from(service.id.get()).expect("small") % 97;
    let signs: Vec<Sign> = services.iter().rev().map(|service| sign(service, at(service), Report::Success)).collect();
    assert!(fixture.note(&signs).await.iter().all(is_news));
    let ids: Vec<ServiceId> = services.iter().map(|service| service.id).collect();
    let keys: BTreeMap<_, _> =
        fixture.other.keys(&ids).await.expect("keys").into_iter().map(|(id, key)| (id, key.0)).collect();
    for service in &services {
        let pulse = fixture.pulse(service.id).await;
        assert_eq!(pulse.end(), Some((End::Well, second(at(service)))));
        assert_eq!(keys.get(&service.id), Some(&key(service.id.get()).0));
    }
}

/// What makes a sign one to act on.
pub async fn what_came_before_and_what_is_announced_are_told(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    let now = fixture.store.now().await.expect("the store's time");
    let (outcomes, mut before) = ([Outcome::Pass, super::samples::FAIL, Outcome::Pass], None);
    for ((number, outcome), status) in (0..).zip(outcomes).zip([Status::Up, Status::Down, Status::Up]) {
        let slot = Slot::at(now.before(Duration::from_secs(60 - number)));
        fixture.store.record(vec![result(&service, slot, outcome)]).await.expect("recorded");
        let at = i64::try_from(number).expect("small");
        let (report, end) = if outcome == Outcome::Pass { (Report::Success, End::Well) } else { (FAILED, End::Badly) };
        assert_eq!(fixture.note(&[sign(&service, at, report)]).await, [Noted::News { before, status }]);
        before = Some(end);
    }
}

/// The pulse is the fold of the signs, by the core's own rule.
pub async fn any_signs_leave_what_the_pulse_says(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let mut services = Vec::new();
    for number in 1..=3 {
        services.push(fixture.with_key(number).await);
    }
    let (mut numbers, mut expected) = (Numbers(4), vec![Pulse::default(); services.len()]);
    for batch in 0..30 {
        let (mut signs, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..=numbers.below(5) {
            let which = numbers.below(services.len());
            let report = [Report::Start, Report::Success, FAILED, Report::of_exit(3)][numbers.below(4)];
            let at = batch * 10 + i64::try_from(numbers.below(40)).expect("small");
            let mut sign = sign(&services[which], at, report);
            if numbers.below(2) == 0 {
                sign = of_run(&format!("run-{}", numbers.below(12)), sign);
            }
            answers.push(expected[which].note(&sign));
            signs.push(sign);
        }
        let node = if numbers.below(2) == 0 { &fixture.heartbeats } else { &fixture.other };
        let noted = node.note(signs).await.expect("noted");
        let as_told: Vec<Novelty> =
            noted.iter().map(|noted| if is_news(noted) { Novelty::News } else { Novelty::Known }).collect();
        assert_eq!(as_told, answers);
    }
    for (service, expected) in services.iter().zip(expected) {
        assert_eq!(fixture.pulse(service.id).await, expected);
    }
}

/// Each of two nodes notes what the other does not know of.
pub async fn signs_noted_at_once_by_two_nodes_are_all_taken_in(
    make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture,
) {
    let fixture = make(HeartbeatsSetup).await;
    let (one, two) = (fixture.with_key(1).await, fixture.with_key(2).await);
    for round in 0..10 {
        // In opposite orders: whoever locks rows as they come stands in the other's way for ever.
        let here = vec![sign(&one, round, Report::Success), sign(&two, round, Report::Success)];
        let there = vec![sign(&two, round, FAILED), sign(&one, round, FAILED)];
        let patiently = async |node: &Arc<dyn Heartbeats>, signs: Vec<Sign>| loop {
            match node.note(signs.clone()).await {
                Ok(noted) => return noted,
                Err(StoreError::Transient { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        futures_util::join!(patiently(&fixture.heartbeats, here), patiently(&fixture.other, there));
        for service in [&one, &two] {
            let pulse = fixture.pulse(service.id).await;
            let newest = [&pulse.success, &pulse.failure].map(|said| said.as_ref().map(|said| said.at));
            assert_eq!(newest, [Some(second(round)); 2], "round {round}");
        }
    }
}

/// A call that is dropped in the middle leaves no part of its batch.
pub async fn a_dropped_note_is_done_or_not_done(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let (one, two) = (fixture.with_key(1).await, fixture.with_key(2).await);
    for times in 1..20 {
        let at = i64::try_from(times).expect("small");
        let signs = vec![sign(&one, at, Report::Success), sign(&two, at, Report::Success)];
        let ended = poll_times(fixture.heartbeats.note(signs), times).await;
        // The backend may be done with it only after the drop; half of it must not stay.
        let both = async || {
            let (first, second) = (fixture.pulse(one.id).await, fixture.pulse(two.id).await);
            (first == second).then_some(first)
        };
        let pulse = fixture.time.until(Duration::from_secs(5), "both or neither", both).await;
        if ended.is_some() {
            assert_eq!(pulse.end(), Some((End::Well, second(at))));
        }
    }
}

/// Silence in such a time is not the service's.
pub async fn a_time_in_which_nobody_listened_is_told_to_all(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    let deaf =
        async |node: &Arc<dyn Heartbeats>| node.heard(service.id).await.expect("read").expect("a pulse").listening.deaf;
    for (at, expected) in [(0, None), (5, None), (95, Some((5, 95))), (100, Some((5, 95))), (200, Some((100, 200)))] {
        // Two nodes that take signs say so one after the other.
        let (node, other) =
            if at % 2 == 0 { (&fixture.heartbeats, &fixture.other) } else { (&fixture.other, &fixture.heartbeats) };
        node.listening(second(at)).await.expect("noted");
        node.listening(second(at)).await.expect("noted again");
        let expected = expected.map(|(from, to)| Deafness { from: second(from), to: second(to) });
        assert_eq!((deaf(node).await, deaf(other).await), (expected, expected), "at {at} s");
    }
    let again = (fixture.reopen)().await;
    assert_eq!(deaf(&again).await, Some(Deafness { from: second(100), to: second(200) }));
}

/// What was noted is there for the next process.
pub async fn signs_and_keys_outlive_a_restart(make: impl AsyncFn(HeartbeatsSetup) -> HeartbeatsFixture) {
    let fixture = make(HeartbeatsSetup).await;
    let service = fixture.with_key(1).await;
    fixture
        .note(&[of_run("a", sign(&service, 1, Report::of_exit(2))).with_message("why"), sign(&service, 5, FAILED)])
        .await;
    let before = fixture.pulse(service.id).await;
    let again = (fixture.reopen)().await;
    let heard = again.heard(service.id).await.expect("read").expect("a pulse");
    assert_eq!(heard.pulse, before);
    assert_eq!(again.keys(&[service.id]).await.expect("keys"), [(service.id, key(1))]);
    let repeated = of_run("a", sign(&service, 9, Report::of_exit(2)));
    assert_eq!(again.note(vec![repeated]).await.expect("noted"), [Noted::Known], "runs are known still");
}
