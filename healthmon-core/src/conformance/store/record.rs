use std::time::Duration;

use super::{StoreFixture, StoreSetup, all_results, changed, recorded, registered, series, state, status, whole_log};
use crate::{
    conformance::samples::{FAIL, NOTHING, id, many, region, result, touchy, unregistered},
    ports::{Change, Recorded, ResultKey, SetAside, StoredResult},
    probe::{Kind, Outcome, Phases, ProbeResult, Reason},
    status::Status,
};

/// Whatever a prober may see is stored, every field of it.
pub async fn a_recorded_result_is_read_back_as_it_was(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let reasons = Reason::all().flat_map(|reason| match reason {
        Reason::Fail(reason) => vec![Outcome::Fail(reason), Outcome::Fatal(reason)],
        Reason::Indeterminate(reason) => vec![Outcome::Indeterminate(reason)],
    });
    let outcomes: Vec<Outcome> = [Outcome::Pass, Outcome::Slow].into_iter().chain(reasons).collect();
    let mut results = series(&fixture, &service, 0, &outcomes).await;
    for (number, result) in (0..).zip(&mut results) {
        result.started = result.id.slot.time().before(Duration::from_micros(7)).after(Duration::from_micros(number));
        result.seen.phases =
            Phases { dns_us: Some(0), connect_us: Some(number as u32), tls_us: None, first_byte_us: Some(u32::MAX) };
        result.seen.code = Some(503);
        result.seen.certificate_expires = Some(result.started.after(Duration::from_hours(48)));
        result.seen = result.seen.clone().with_detail("expected 200 … saw \"503\" 🩺 'quoted'; --");
    }
    results[0].seen.detail = None;
    results[0].seen.phases = Phases::default();
    let done = recorded(&*fixture.store, results.clone()).await;
    assert_eq!(done.inserted, results.len());
    for result in &results {
        let stored = fixture.other.result(&result.id).await.expect("a result");
        assert_eq!(stored.map(|stored| stored.result).as_ref(), Some(result));
    }
    let read: Vec<ProbeResult> =
        all_results(&*fixture.store, service.id).await.into_iter().rev().map(|s| s.result).collect();
    assert_eq!(read, results);
}

/// An empty batch is no error and leaves everything as it is.
pub async fn an_empty_batch_records_nothing(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    assert_eq!(recorded(&*fixture.store, Vec::new()).await, Recorded::default());
    assert_eq!(whole_log(&*fixture.store).await, []);
}

/// `record` is idempotent: a repeat returns the entries that are there, and nothing happens twice.
pub async fn a_repeated_batch_returns_the_same_entries_and_nothing_happens_twice(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let (store, other) = (&*fixture.store, &*fixture.other);
    let (a, b) = (registered(store, 1, touchy("a")).await, registered(store, 2, touchy("b")).await);
    let mut batch = series(&fixture, &a, 0, &[Outcome::Pass, FAIL, Outcome::Pass]).await;
    batch.extend(series(&fixture, &b, 0, &[FAIL, NOTHING, FAIL, Outcome::Slow]).await);
    let first = recorded(store, batch.clone()).await;
    assert_eq!((first.inserted, first.repeated, first.entries.len()), (7, 0, 5));
    let before =
        (whole_log(store).await, state(store, a.id).await, state(store, b.id).await, all_results(store, a.id).await);
    for node in [store, other, store] {
        let again = recorded(node, batch.clone()).await;
        assert_eq!((again.inserted, again.repeated), (0, 7));
        assert_eq!(again.entries, first.entries, "a repeat returns the entries that are there");
        assert_eq!(again.sooner, [], "only new results ask for an earlier probe");
    }
    let after =
        (whole_log(store).await, state(store, a.id).await, state(store, b.id).await, all_results(store, a.id).await);
    assert_eq!(after, before);
}

/// A probe that comes twice in a batch is recorded, and judged, once.
pub async fn a_repeat_within_a_batch_is_recorded_once(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let policy = crate::conformance::samples::thresholds(2, 1);
    let service = registered(store, 1, crate::service::ServiceSettings { policy, ..touchy("one") }).await;
    let passes = series(&fixture, &service, 0, &[Outcome::Pass]).await;
    recorded(store, passes).await;
    let fail = series(&fixture, &service, 1, &[FAIL]).await.remove(0);
    let done = recorded(store, vec![fail.clone(), fail.clone(), fail]).await;
    assert_eq!((done.inserted, done.repeated), (1, 2));
    assert_eq!(status(store, service.id).await, Status::Up, "one failure told thrice is one failure");
    assert_eq!(all_results(store, service.id).await.len(), 2);
}

/// A probe has one result: the first that was recorded. Another one for the same probe changes nothing.
pub async fn the_first_result_of_a_probe_stays(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let slot = fixture.slot(0).await;
    let first = result(&service, slot, Outcome::Pass);
    recorded(store, vec![first.clone()]).await;
    let done = recorded(store, vec![result(&service, slot, FAIL)]).await;
    assert_eq!((done.inserted, done.repeated), (0, 1));
    assert_eq!(status(store, service.id).await, Status::Up);
    let stored: Vec<_> = all_results(store, service.id).await.into_iter().map(|stored| stored.result).collect();
    assert_eq!(stored, [first]);
}

/// Of a batch in which some are recorded already the others are recorded.
pub async fn a_batch_of_old_and_new_results_records_the_new_ones(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[Outcome::Pass, FAIL, Outcome::Pass, FAIL]).await;
    let first = recorded(store, results[..3].to_vec()).await;
    let second = recorded(store, results[1..].to_vec()).await;
    assert_eq!((second.inserted, second.repeated), (1, 2));
    let log = whole_log(store).await;
    assert_eq!(log.len(), 4);
    assert_eq!(first.entries, log[..3]);
    assert_eq!(second.entries, log[1..], "entries of repeated and of new results, in order");
}

/// What makes a result's identity is service, slot, region and kind, all four.
pub async fn results_that_differ_in_region_or_kind_are_different_results(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let other = registered(store, 2, touchy("two")).await;
    let plain = result(&service, fixture.slot(0).await, Outcome::Pass);
    let mut results = vec![plain.clone(), plain.clone(), plain.clone(), plain.clone(), plain];
    results[1].id.kind = Kind::Edge;
    results[2].id.kind = Kind::Manual;
    results[3].id.region = region("far-away");
    results[4].id.service = other.id;
    let done = recorded(store, results.clone()).await;
    assert_eq!((done.inserted, done.repeated), (5, 0));
    for result in &results {
        assert!(store.result(&result.id).await.expect("a result").is_some(), "{}", result.id);
    }
    let keys: Vec<ResultKey> =
        all_results(store, service.id).await.iter().map(|s| ResultKey::of(&s.result.id)).collect();
    assert_eq!(keys.len(), 4);
}

/// A batch is recorded whole however large, over however many services.
pub async fn a_batch_of_thousands_is_recorded_whole(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let mut batch = Vec::new();
    for number in 1..=41 {
        let service = registered(store, number, touchy(&format!("service-{number}"))).await;
        batch.extend(series(&fixture, &service, 0, &[Outcome::Pass, FAIL].repeat(30)).await);
    }
    let done = recorded(store, batch.clone()).await;
    assert_eq!((done.inserted, done.entries.len()), (41 * 60, 41 * 60));
    super::assert_gapless(&whole_log(store).await, crate::id::Seq(1));
    for number in 1..=41 {
        assert_eq!(all_results(store, id(number)).await.len(), 60);
    }
    let again = recorded(store, batch).await;
    assert_eq!((again.inserted, again.repeated), (0, 41 * 60));
    assert_eq!(again.entries, done.entries);
}

async fn assert_set_aside(fixture: &StoreFixture, result: ProbeResult, why: SetAside) {
    let log = whole_log(&*fixture.store).await;
    let done = recorded(&*fixture.store, vec![result.clone()]).await;
    assert_eq!(done, Recorded { set_aside: vec![(result.id.clone(), why)], ..Recorded::default() });
    assert_eq!(fixture.store.result(&result.id).await.expect("a look"), None, "what is set aside is not stored");
    assert_eq!(whole_log(&*fixture.store).await, log, "and moves nothing");
}

/// A result of a service that nobody registered is set aside and named.
pub async fn a_result_of_an_unknown_service_is_set_aside(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let stranger = unregistered(99, fixture.time.now());
    let result = result(&stranger, fixture.slot(0).await, FAIL);
    assert_set_aside(&fixture, result, SetAside::NoService).await;
}

/// A result of a deleted service is set aside and named.
pub async fn a_result_of_a_deleted_service_is_set_aside(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    changed(&*fixture.store, service.id, Change::Delete).await;
    let result = result(&service, fixture.slot(0).await, FAIL);
    assert_set_aside(&fixture, result, SetAside::NoService).await;
}

/// A result whose slot is older than results are kept for is set aside and named.
pub async fn a_result_older_than_the_retention_is_set_aside(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let setup = StoreSetup::default();
    let fixture = make(setup).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let now = fixture.store.now().await.expect("the store's time");
    let slot = crate::time::Slot::at(now.before(setup.retention + Duration::from_mins(1)));
    assert_set_aside(&fixture, result(&service, slot, FAIL), SetAside::TooOld).await;
}

/// A result whose slot is further ahead than [`ResultKey::AHEAD`] is set aside and named: it would
/// silence its service until then.
pub async fn a_result_ahead_of_the_stores_time_is_set_aside(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let now = fixture.store.now().await.expect("the store's time");
    let far = crate::time::Slot::at(now).after(Duration::from_mins(10));
    assert_set_aside(&fixture, result(&service, far, FAIL), SetAside::Ahead).await;
    let near = crate::time::Slot::at(now).after(ResultKey::AHEAD / 2);
    assert_eq!(recorded(&*fixture.store, vec![result(&service, near, FAIL)]).await.inserted, 1, "a little is well");
}

/// What cannot be recorded is named; everything else of its batch is recorded.
pub async fn what_is_set_aside_holds_up_nobody_in_its_batch(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let setup = StoreSetup::default();
    let fixture = make(setup).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let deleted = registered(store, 2, touchy("two")).await;
    changed(store, deleted.id, Change::Delete).await;
    let good = series(&fixture, &service, 0, &[Outcome::Pass, FAIL]).await;
    let (slot, now) = (fixture.slot(0).await, store.now().await.expect("the store's time"));
    let bad = [
        (result(&unregistered(99, now), slot, FAIL), SetAside::NoService),
        (result(&deleted, slot, FAIL), SetAside::NoService),
        (result(&service, crate::time::Slot::at(now.before(setup.retention * 2)), FAIL), SetAside::TooOld),
        (result(&service, crate::time::Slot::at(now).after(Duration::from_hours(1)), FAIL), SetAside::Ahead),
    ];
    let batch =
        vec![bad[0].0.clone(), good[0].clone(), bad[1].0.clone(), bad[2].0.clone(), good[1].clone(), bad[3].0.clone()];
    let done = recorded(store, batch).await;
    assert_eq!((done.inserted, done.entries.len()), (2, 2));
    let mut named = done.set_aside;
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let mut expected: Vec<_> = bad.iter().map(|(result, why)| (result.id.clone(), *why)).collect();
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(named, expected);
    let page = store.results(service.id, &crate::ports::ResultQuery::default(), many(10)).await.expect("results");
    let stored: Vec<&ProbeResult> = page.iter().rev().map(|StoredResult { result, .. }| result).collect();
    assert_eq!(stored, good.iter().collect::<Vec<_>>());
}
