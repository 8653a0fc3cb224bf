use super::{
    StoreFixture, StoreSetup, all_results, assert_replays, changed, recorded, registered, series, state, status,
    whole_log,
};
use crate::{
    conformance::samples::{FAIL, Numbers, id, region, regions, result, thresholds, touchy, usual},
    id::Applied,
    ports::{Change, Recorded},
    probe::{Kind, Outcome, ProbeResult, Reason},
    service::{ServiceSettings, Tags},
    status::{Cause, LogEntry, LogEvent, Status, Transition},
};

/// Each service's new results are folded in order of slot, in whatever order the batch has them.
pub async fn a_batch_is_folded_in_order_of_slot_whatever_its_own_order(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[Outcome::Pass, FAIL, Outcome::Pass, FAIL, Outcome::Pass]).await;
    let batch = [3, 0, 4, 2, 1].map(|place: usize| results[place].clone()).to_vec();
    let done = recorded(store, batch).await;
    let slots: Vec<_> = done.entries.iter().filter_map(|entry| entry.slot).collect();
    assert_eq!(slots, results.iter().map(|result| result.id.slot).collect::<Vec<_>>(), "every one of them votes");
    let applied: Vec<_> = all_results(store, service.id).await.iter().rev().map(|stored| stored.applied).collect();
    assert_eq!(applied, (2..=6).map(|number| Some(Applied(number))).collect::<Vec<_>>());
}

/// What a log of entries says, apart from whose and when.
fn story(entries: &[LogEntry], number: u64) -> Vec<(Applied, LogEvent, Option<crate::time::Slot>)> {
    let own = entries.iter().filter(|entry| entry.service.id == id(number));
    own.map(|entry| (entry.applied, entry.event.clone(), entry.slot)).collect()
}

async fn random_stream(fixture: &StoreFixture, number: u64, seed: u64) -> Vec<ProbeResult> {
    let service = registered(&*fixture.store, number, usual(&format!("service-{number}"))).await;
    let mut numbers = Numbers(seed);
    let outcomes: Vec<Outcome> = (0..80).map(|_| numbers.outcome()).collect();
    series(fixture, &service, 0, &outcomes).await
}

/// Any cut of a stream into batches leads to the same state and the same log (law 3).
pub async fn any_cut_into_batches_leads_to_the_same_state_and_log(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let whole = random_stream(&fixture, 1, 7).await;
    recorded(store, whole).await;
    for (number, seed) in [(2, 11), (3, 13)] {
        let (mut rest, mut cuts) = (random_stream(&fixture, number, 7).await, Numbers(seed));
        while !rest.is_empty() {
            let later = rest.split_off((1 + cuts.below(9)).min(rest.len()));
            recorded(store, std::mem::replace(&mut rest, later)).await;
        }
        assert_eq!(state(store, id(number)).await, state(store, id(1)).await);
        let log = whole_log(store).await;
        assert_eq!(story(&log, number), story(&log, 1));
    }
    assert!(!story(&whole_log(store).await, 1).is_empty(), "the stream has something to tell");
}

/// A stream in which results come again, within a batch and later, leads to what the stream
/// without them does (law 6).
pub async fn a_stream_with_repeats_leads_to_what_one_without_does(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let plain = random_stream(&fixture, 1, 23).await;
    recorded(store, plain).await;
    let (stream, mut numbers) = (random_stream(&fixture, 2, 23).await, Numbers(29));
    let mut from = 0;
    let mut inserted = 0;
    while from < stream.len() {
        let to = (from + 1 + numbers.below(6)).min(stream.len());
        let mut batch = stream[from..to].to_vec();
        for _ in 0..numbers.below(8) {
            batch.insert(numbers.below(batch.len()), stream[numbers.below(to)].clone());
        }
        inserted += recorded(store, batch).await.inserted;
        from = to;
    }
    assert_eq!(inserted, stream.len());
    assert_eq!(state(store, id(2)).await, state(store, id(1)).await);
    let log = whole_log(store).await;
    assert_eq!(story(&log, 2), story(&log, 1));
}

/// Records one result and asserts that it is stored, has no number and moves nothing.
async fn assert_no_vote(fixture: &StoreFixture, result: ProbeResult) {
    let store = &*fixture.store;
    let id = result.id.service;
    let (before, log) = (state(store, id).await, whole_log(store).await);
    let done = recorded(store, vec![result.clone()]).await;
    assert_eq!(done, Recorded { inserted: 1, ..Recorded::default() });
    let stored = store.result(&result.id).await.expect("a look").expect("it is stored");
    assert_eq!((stored.result, stored.applied), (result, None));
    assert_eq!(state(store, id).await, before, "the state is as it was");
    assert_eq!(whole_log(store).await, log, "the log is as it was");
}

/// A result at or below its region's watermark is stored, and does not vote.
pub async fn a_late_result_is_stored_and_does_not_vote(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[FAIL, Outcome::Pass]).await;
    recorded(&*fixture.store, vec![results[1].clone()]).await;
    assert_no_vote(&fixture, results[0].clone()).await;
    let mut same_slot = result(&service, results[1].id.slot, FAIL);
    same_slot.id.kind = Kind::Edge;
    assert_no_vote(&fixture, same_slot).await;
}

/// A result found under settings that hold no longer is stored, and does not vote.
pub async fn a_result_of_older_settings_is_stored_and_does_not_vote(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let passes = series(&fixture, &service, 0, &[Outcome::Pass]).await;
    recorded(store, passes).await;
    let settings = ServiceSettings { policy: thresholds(1, 2), ..touchy("one") };
    changed(store, service.id, Change::Settings(Box::new(settings))).await;
    assert_no_vote(&fixture, result(&service, fixture.slot(1).await, FAIL)).await;
}

/// A result that comes while the service is paused is stored, and does not vote.
pub async fn a_result_of_a_paused_service_is_stored_and_does_not_vote(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    changed(&*fixture.store, service.id, Change::Pause).await;
    assert_no_vote(&fixture, result(&service, fixture.slot(0).await, FAIL)).await;
}

/// The result of a probe that a person asked for is stored, and does not vote.
pub async fn a_manual_result_is_stored_and_does_not_vote(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let mut manual = result(&service, fixture.slot(0).await, FAIL);
    manual.id.kind = Kind::Manual;
    assert_no_vote(&fixture, manual).await;
}

/// A result from a region that the service is not probed from is stored, and does not vote.
pub async fn a_result_from_a_region_not_asked_is_stored_and_does_not_vote(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let mut stray = result(&service, fixture.slot(0).await, FAIL);
    stray.id.region = region("elsewhere");
    assert_no_vote(&fixture, stray).await;
}

/// An edge probe's result votes as a scheduled one's does.
pub async fn an_edge_result_votes(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let mut edge = result(&service, fixture.slot(0).await, FAIL);
    edge.id.kind = Kind::Edge;
    let done = recorded(&*fixture.store, vec![edge.clone()]).await;
    assert_eq!(done.entries.len(), 1);
    let stored = fixture.store.result(&edge.id).await.expect("a look").expect("it is stored");
    assert_eq!(stored.applied, Some(Applied(2)));
    assert_eq!(status(&*fixture.store, service.id).await, Status::Down);
}

/// A region's results are late by that region's own watermark, not by another's.
pub async fn each_region_has_a_watermark_of_its_own(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, ServiceSettings { regions: regions(&["east", "west"]), ..touchy("one") }).await;
    let mut east = result(&service, fixture.slot(9).await, Outcome::Pass);
    east.id.region = region("east");
    let mut west = result(&service, fixture.slot(1).await, FAIL);
    west.id.region = region("west");
    recorded(store, vec![east.clone()]).await;
    recorded(store, vec![west.clone()]).await;
    let stored = store.result(&west.id).await.expect("a look").expect("it is stored");
    assert_eq!(stored.applied, Some(Applied(3)), "it is older than the other region's, and votes");
    assert_eq!(status(store, service.id).await, Status::Down, "a quorum of one region");
    west.id.slot = fixture.slot(0).await;
    assert_no_vote(&fixture, west).await;
}

/// A service whose change is undecided is named once in a batch, when its last result of some region
/// leaves it so: that another region passes decides nothing.
pub async fn an_undecided_change_asks_for_an_earlier_probe(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let (a, b) = (registered(store, 1, usual("a")).await, registered(store, 2, usual("b")).await);
    let mut batch = series(&fixture, &a, 0, &[Outcome::Pass, FAIL, FAIL]).await;
    batch.extend(series(&fixture, &b, 0, &[Outcome::Pass, FAIL, Outcome::Pass]).await);
    assert_eq!(recorded(store, batch).await.sooner, [a.id]);
    let last = series(&fixture, &a, 3, &[FAIL]).await;
    assert_eq!(recorded(store, last).await.sooner, [], "now it is decided");
    let c = registered(store, 3, ServiceSettings { regions: regions(&["east", "west"]), ..usual("c") }).await;
    let mut batch = Vec::new();
    for (name, outcomes) in [("east", [Outcome::Pass, FAIL]), ("west", [Outcome::Pass, Outcome::Pass])] {
        let mut seen = series(&fixture, &c, 0, &outcomes).await;
        seen.iter_mut().for_each(|result| result.id.region = region(name));
        batch.extend(seen);
    }
    assert_eq!(recorded(store, batch).await.sooner, [c.id]);
}

/// An entry carries the service's names of then, and the slot, region, reason and words of the result.
pub async fn an_entry_names_what_caused_it(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let tags: Tags = crate::conformance::samples::tags(&[("team", "checkout")]);
    let group = Some(crate::service::Label::new("web").expect("a group"));
    let service = registered(store, 1, ServiceSettings { tags, group, ..touchy("one") }).await;
    let mut fail = result(&service, fixture.slot(0).await, FAIL);
    fail.seen = fail.seen.with_detail("no answer");
    let made = recorded(store, vec![fail.clone()]).await.entries.remove(0);
    let transition = Transition { from: Status::Unknown, to: Status::Down, cause: Cause::Result };
    assert_eq!(made.event, LogEvent::Transition(transition));
    assert_eq!(made.applied, Applied(2));
    assert_eq!(made.service, service.label());
    assert_eq!((made.slot, made.region.as_ref()), (Some(fail.id.slot), Some(&fail.id.region)));
    assert_eq!((made.reason, made.detail.as_deref()), (fail.seen.outcome.reason(), Some("no answer")));
    assert!(matches!(made.reason, Some(Reason::Fail(_))));
    let renamed = ServiceSettings { name: touchy("other").name, ..service.settings.clone() };
    changed(store, service.id, Change::Settings(Box::new(renamed))).await;
    let paused = changed(store, service.id, Change::Pause).await.entries.remove(0);
    assert_eq!((&*paused.service.name, paused.slot, paused.reason), ("other", None, None));
    assert_eq!(whole_log(store).await, [made, paused], "as it was told, so it is kept");
}

/// Services are independent: a result moves its own service and no other (law 25).
pub async fn a_result_moves_no_other_service(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let (a, b) = (registered(store, 1, touchy("a")).await, registered(store, 2, touchy("b")).await);
    let before = (state(store, b.id).await, store.service(b.id).await.expect("a view"));
    let results = series(&fixture, &a, 0, &[FAIL, Outcome::Pass, FAIL]).await;
    recorded(store, results).await;
    assert_eq!((state(store, b.id).await, store.service(b.id).await.expect("a view")), before);
    assert_eq!(all_results(store, b.id).await, []);
    assert_replays(store, a.id).await;
}
