//! The contract of [`Broadcaster`], clause by clause.

use std::{sync::Arc, time::Duration};

use super::{
    TestTime, poll_times,
    samples::{touchy, unregistered},
};
use crate::{
    id::{Applied, Region, Revision, Seq},
    ports::{Broadcaster, Hint, Hints},
    probe::{FailReason, Reason},
    status::{Cause, Edge, LogEntry, LogEvent, Overlay, Status, Transition},
    time::{Slot, Timestamp},
};

/// What a clause needs of the broadcaster that it is given: nothing so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BroadcasterSetup;

/// A broadcaster without subscribers.
pub struct BroadcasterFixture {
    /// One node's handle.
    pub broadcaster: Arc<dyn Broadcaster>,
    /// Another node's handle on the same backend.
    pub other: Arc<dyn Broadcaster>,
    /// How time passes.
    pub time: TestTime,
    /// What must live as long as the test.
    guard: Box<dyn Send>,
}

impl BroadcasterFixture {
    /// Two nodes' handles on one backend. `guard` is kept as long as the test lasts.
    pub fn new(
        broadcaster: Arc<dyn Broadcaster>,
        other: Arc<dyn Broadcaster>,
        time: TestTime,
        guard: impl Send + 'static,
    ) -> Self {
        Self { broadcaster, other, time, guard: Box::new(guard) }
    }

    /// A broadcaster within one process: both nodes have the same handle.
    pub fn in_process(broadcaster: Arc<dyn Broadcaster>, time: TestTime) -> Self {
        Self::new(Arc::clone(&broadcaster), broadcaster, time, ())
    }

    /// Publishes numbers from `first` on until the subscriber hears one of them: a connection may
    /// still be on its way. Returns the number after the last that was published.
    async fn connect(&self, hints: &mut Hints, first: u64) -> u64 {
        let mut next = first;
        self.time
            .until(PATIENCE, "the subscriber hears something", async || {
                self.broadcaster.publish(number(next));
                next += 1;
                tokio::time::timeout(Duration::from_millis(50), hints.next()).await.ok()
            })
            .await;
        next
    }
}

/// Makes one test of every clause of [`Broadcaster`]'s contract, in a module of its own.
///
/// `$fixture` is an async function from
/// [`BroadcasterSetup`](crate::conformance::broadcaster::BroadcasterSetup) to
/// [`BroadcasterFixture`](crate::conformance::broadcaster::BroadcasterFixture). See
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! broadcaster_conformance {
    ($(#[$meta:meta])* mod $name:ident, $fixture:expr $(,)?) => {
        $crate::broadcaster_conformance! { @tests $(#[$meta])* $name $fixture }
    };
    (@$mode:ident $($rest:tt)*) => {
        $crate::__conformance! { $mode broadcaster {
            a_subscriber_hears_what_is_published_on_whichever_node
            every_hint_arrives_as_it_was_published
            hints_come_in_the_order_they_were_published_and_at_most_once
            every_subscriber_hears_for_itself
            publishing_without_subscribers_is_harmless
            publishing_never_waits_for_a_subscriber_that_does_not_read
            a_subscriber_that_does_not_read_is_told_that_hints_were_lost
            a_subscriber_that_does_not_read_holds_up_nobody
            dropping_a_wait_loses_no_hint
            the_end_of_the_broadcaster_ends_the_hints
        } $($rest)* }
    };
}

/// The names of this suite's clauses.
pub const CLAUSES: &[&str] = crate::broadcaster_conformance!(@names);

const PATIENCE: Duration = Duration::from_secs(10);
/// More hints than anybody keeps for one who does not read.
const FLOOD: u64 = 50_000;

const fn number(number: u64) -> Hint {
    Hint::Services(Revision(number))
}

/// The next hint; `None` when none comes.
async fn next(hints: &mut Hints) -> Option<Hint> {
    tokio::time::timeout(PATIENCE, hints.next()).await.ok().flatten()
}

/// The numbers that are there to be read, up to `last`; losses as `None`.
async fn heard(hints: &mut Hints, last: u64) -> Vec<Option<u64>> {
    let mut heard = Vec::new();
    loop {
        match next(hints).await {
            Some(Hint::Services(Revision(number))) => heard.push(Some(number)),
            Some(Hint::Lost) => heard.push(None),
            Some(Hint::Log(_)) => {}
            None => return heard,
        }
        if heard.last() == Some(&Some(last)) {
            return heard;
        }
    }
}

fn entries() -> Arc<[LogEntry]> {
    let label = unregistered(7, Timestamp::from_millis(1_000)).label();
    let down = Transition { from: Status::Up, to: Status::Down, cause: Cause::Result };
    let transition = LogEntry {
        seq: Seq(41),
        applied: Applied(9),
        service: label,
        event: LogEvent::Transition(down),
        at: Timestamp::from_micros(1_795_168_800_123_456),
        slot: Some(Slot::from_millis(1_795_168_800_000)),
        region: Some(Region::default()),
        reason: Some(Reason::Fail(FailReason::Tls)),
        detail: Some(format!("expected 🩺, saw {}", touchy("one").name).into()),
    };
    let blind = LogEvent::Overlay { overlay: Overlay::Blind, edge: Edge::Began };
    let overlay = LogEntry { seq: Seq(42), event: blind, slot: None, region: None, reason: None, ..transition.clone() };
    [transition, overlay].into()
}

/// What one node publishes reaches those who have subscribed on any node.
pub async fn a_subscriber_hears_what_is_published_on_whichever_node(
    make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture,
) {
    let fixture = make(BroadcasterSetup).await;
    let (mut here, mut there) = (fixture.broadcaster.subscribe(), fixture.other.subscribe());
    let next = fixture.connect(&mut here, 1).await;
    fixture.connect(&mut there, next).await;
}

/// Entries and revisions arrive whole.
pub async fn every_hint_arrives_as_it_was_published(make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture) {
    let fixture = make(BroadcasterSetup).await;
    let mut hints = fixture.other.subscribe();
    let first = fixture.connect(&mut hints, 1).await;
    fixture.broadcaster.publish(Hint::Log(entries()));
    fixture.broadcaster.publish(number(first + 1_000));
    let mut found = Vec::new();
    loop {
        match next(&mut hints).await.expect("the hints arrive") {
            Hint::Services(Revision(number)) if number < first => {}
            hint => found.push(hint),
        }
        if found.len() == 2 {
            break;
        }
    }
    assert_eq!(found, [Hint::Log(entries()), number(first + 1_000)]);
}

/// Hints of one node come in the order in which it published them, and none twice.
pub async fn hints_come_in_the_order_they_were_published_and_at_most_once(
    make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture,
) {
    let fixture = make(BroadcasterSetup).await;
    let mut hints = fixture.other.subscribe();
    let first = fixture.connect(&mut hints, 1).await;
    let last = first + 200;
    for number in first..=last {
        fixture.broadcaster.publish(self::number(number));
    }
    let numbers: Vec<u64> = heard(&mut hints, last).await.into_iter().flatten().collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order and at most once: {numbers:?}");
    assert!(!numbers.is_empty());
}

/// What one subscriber reads is not taken from another.
pub async fn every_subscriber_hears_for_itself(make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture) {
    let fixture = make(BroadcasterSetup).await;
    let mut all: Vec<Hints> = (0..5).map(|_| fixture.broadcaster.subscribe()).collect();
    let mut first = 1;
    for hints in &mut all {
        first = fixture.connect(hints, first).await;
    }
    let last = first + 10;
    for number in first..=last {
        fixture.broadcaster.publish(self::number(number));
    }
    for hints in &mut all {
        let numbers: Vec<u64> = heard(hints, last).await.into_iter().flatten().filter(|n| *n >= first).collect();
        assert_eq!(numbers, (first..=last).collect::<Vec<_>>());
    }
}

/// Publishes a flood from a thread of its own; fails when that takes long.
async fn flood(broadcaster: Arc<dyn Broadcaster>, numbers: std::ops::Range<u64>) {
    let (done, ended) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Handle::current();
    // Not a task of the runtime: one that blocks for ever would keep the test from ending.
    std::thread::spawn(move || {
        let _runtime = runtime.enter();
        numbers.for_each(|number| broadcaster.publish(self::number(number)));
        done.send(()).ok();
    });
    // Looked at now and then, so that whatever the adapter runs beside goes on meanwhile.
    let begun = std::time::Instant::now();
    while ended.try_recv().is_err() {
        assert!(begun.elapsed() < PATIENCE, "publishing waits for somebody");
        tokio::task::yield_now().await;
    }
}

/// Hints are for those who listen; that nobody does is no failure.
pub async fn publishing_without_subscribers_is_harmless(make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture) {
    let fixture = make(BroadcasterSetup).await;
    flood(Arc::clone(&fixture.broadcaster), 1..FLOOD).await;
    drop(fixture.broadcaster.subscribe());
    let mut hints = fixture.broadcaster.subscribe();
    fixture.connect(&mut hints, FLOOD).await;
}

/// `publish` returns at once, whoever does not read.
pub async fn publishing_never_waits_for_a_subscriber_that_does_not_read(
    make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture,
) {
    let fixture = make(BroadcasterSetup).await;
    let _silent = [fixture.broadcaster.subscribe(), fixture.other.subscribe()];
    flood(Arc::clone(&fixture.broadcaster), 1..FLOOD).await;
}

/// Who does not read loses hints, and is told so where they are missing.
pub async fn a_subscriber_that_does_not_read_is_told_that_hints_were_lost(
    make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture,
) {
    let fixture = make(BroadcasterSetup).await;
    let mut hints = fixture.broadcaster.subscribe();
    let first = fixture.connect(&mut hints, 1).await;
    flood(Arc::clone(&fixture.broadcaster), first..first + FLOOD).await;
    // A last word, until it is heard: whatever lies before it has been read then.
    let last = first + FLOOD;
    let (mut told, mut expected) = (Vec::new(), None);
    fixture
        .time
        .until(PATIENCE, "the newest hint arrives", async || {
            fixture.broadcaster.publish(number(last));
            while let Ok(Some(hint)) = tokio::time::timeout(Duration::from_millis(50), hints.next()).await {
                told.push(hint);
            }
            told.contains(&number(last)).then_some(())
        })
        .await;
    for hint in told {
        match hint {
            Hint::Services(Revision(number)) if number < last => {
                let gap = expected.is_some_and(|expected| number != expected);
                assert!(!gap, "{number} came where {expected:?} was to come, and no word of a loss");
                expected = Some(number + 1);
            }
            Hint::Services(_) => assert!(expected.is_none_or(|expected| expected == last), "lost without a word"),
            Hint::Lost => expected = None,
            Hint::Log(_) => {}
        }
        if expected == Some(last) {
            break;
        }
    }
}

/// Who reads hears, though another does not read.
pub async fn a_subscriber_that_does_not_read_holds_up_nobody(
    make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture,
) {
    let fixture = make(BroadcasterSetup).await;
    let _silent = fixture.broadcaster.subscribe();
    let mut hints = fixture.broadcaster.subscribe();
    let first = fixture.connect(&mut hints, 1).await;
    flood(Arc::clone(&fixture.broadcaster), first..first + FLOOD).await;
    fixture.connect(&mut hints, first + FLOOD).await;
    let last = first + 2 * FLOOD;
    fixture
        .time
        .until(PATIENCE, "who reads hears the newest", async || {
            fixture.broadcaster.publish(number(last));
            let hint = tokio::time::timeout(Duration::from_millis(50), async {
                while hints.next().await.is_some_and(|hint| hint != number(last)) {}
            });
            hint.await.ok()
        })
        .await;
}

/// A wait for a hint may be dropped at any time: the hint comes to the next one.
pub async fn dropping_a_wait_loses_no_hint(make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture) {
    let fixture = make(BroadcasterSetup).await;
    let mut hints = fixture.broadcaster.subscribe();
    let first = fixture.connect(&mut hints, 1).await;
    let mut numbers = Vec::new();
    for number in first..first + 20 {
        let early = poll_times(hints.next(), 1).await;
        fixture.broadcaster.publish(self::number(number));
        numbers.extend(early.flatten());
        numbers.extend(next(&mut hints).await);
    }
    while numbers.last() != Some(&number(first + 19)) {
        numbers.push(next(&mut hints).await.expect("the last one comes"));
    }
    let expected: Vec<Hint> = (first..first + 20).map(number).collect();
    assert!(numbers.ends_with(&expected), "{numbers:?}");
}

/// Once the broadcaster is gone, and what it had to say is read, there are no more hints.
pub async fn the_end_of_the_broadcaster_ends_the_hints(make: impl AsyncFn(BroadcasterSetup) -> BroadcasterFixture) {
    let fixture = make(BroadcasterSetup).await;
    let mut hints = fixture.broadcaster.subscribe();
    fixture.connect(&mut hints, 1).await;
    let BroadcasterFixture { broadcaster, other, guard, .. } = fixture;
    drop((broadcaster, other));
    let ended = async { while hints.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the hints end");
    drop(guard);
}
