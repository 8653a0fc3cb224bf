use std::{num::NonZeroUsize, time::Duration};

use super::{
    StoreFixture, StoreSetup, all_results, assert_replays, changed, recorded, registered, series, status, whole_log,
};
use crate::{
    conformance::samples::{ALL, FAIL, each, id, many, result, touchy},
    ports::{Change, ResultQuery, ResultStore, Swept},
    probe::Outcome,
    schedule::slot_at,
    service::Service,
    status::{Cause, Edge, LogEvent, Overlay, Status, Transition},
    time::Slot,
};

/// Short enough for a real clock: a slot of such a service counts as missed some 5 s after it.
const SHORT: Duration = Duration::from_millis(500);
/// By then three slots of such a service, and more, have been missed.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// Enough for a machine that is busy with something else, where the clock is a real one.
const PATIENCE: Duration = Duration::from_secs(30);

/// One whole pass of the sweep, `limit` services at a time.
pub(super) async fn pass(store: &dyn ResultStore, limit: NonZeroUsize) -> Swept {
    let mut whole = Swept::default();
    let mut after = None;
    loop {
        let swept = store.sweep(after, limit).await.expect("swept");
        assert!(swept.next.is_none() || swept.next > after, "it goes on, not back");
        whole.missed += swept.missed;
        whole.entries.extend(swept.entries);
        after = swept.next;
        if after.is_none() {
            return whole;
        }
    }
}

/// Sweeps until `service` shows as blind; returns how many slots were noted and what was told.
async fn go_blind(fixture: &StoreFixture, service: &Service) -> (u64, Vec<LogEvent>) {
    let (mut missed, mut events) = (0, Vec::new());
    fixture
        .time
        .until(PATIENCE, "the service is shown as blind", async || {
            let swept = pass(&*fixture.store, ALL).await;
            missed += swept.missed;
            events.extend(swept.entries.iter().map(|entry| entry.event.clone()));
            let view = fixture.store.service(service.id).await.expect("a view").expect("a service");
            view.overlays.contains(&Overlay::Blind).then_some(())
        })
        .await;
    (missed, events)
}

/// Slots that went by without a result are noted once, and show as the overlay `blind`; the status stays.
pub async fn silence_is_noted_once_and_shows_as_blind(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, each("one", SHORT)).await;
    let first = result(&service, Slot::at(store.now().await.expect("the time")), Outcome::Pass);
    recorded(store, vec![first]).await;
    let (noted, events) = go_blind(&fixture, &service).await;
    assert_eq!(events, [LogEvent::Overlay { overlay: Overlay::Blind, edge: Edge::Began }]);
    assert_eq!(status(store, service.id).await, Status::Up, "the status stays");
    assert!(noted >= 3, "three slots without a word make a service blind, and {noted} were noted");
    // However often it is looked for, a slot is noted once: never more of them than went by.
    let mut all = noted;
    for _ in 0..3 {
        all += pass(store, ALL).await.missed;
    }
    let went_by = store.now().await.expect("the time").since(service.created_at).as_millis() / SHORT.as_millis();
    assert!(u128::from(all) <= went_by, "{all} slots were noted as missed, and {went_by} went by");
    assert_replays(store, service.id).await;
}

/// A service whose results come is not noted as silent.
pub async fn a_service_that_is_heard_of_is_not_missed(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let heard = registered(store, 1, each("heard", SHORT)).await;
    let silent = registered(store, 2, each("silent", SHORT)).await;
    fixture
        .time
        .until(PATIENCE, "the other service is noted as silent", async || {
            let now = store.now().await.expect("the time");
            let newest = result(&heard, slot_at(heard.id, heard.settings.interval, now), Outcome::Pass);
            recorded(store, vec![newest]).await;
            let swept = pass(store, ALL).await;
            (swept.missed > 0).then_some(())
        })
        .await;
    let missed = |state: crate::engine::State<_>| state.regions()[0].missed_through();
    assert_eq!(missed(super::state(store, heard.id).await), None);
    assert!(missed(super::state(store, silent.id).await).is_some());
}

/// While a service is paused nothing of it is missed.
pub async fn a_paused_service_is_not_missed(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let paused = registered(store, 1, each("paused", SHORT)).await;
    changed(store, paused.id, Change::Pause).await;
    let deleted = registered(store, 2, each("deleted", SHORT)).await;
    changed(store, deleted.id, Change::Delete).await;
    let before = (super::state(store, paused.id).await, super::state(store, deleted.id).await);
    let silent = registered(store, 3, each("silent", SHORT)).await;
    go_blind(&fixture, &silent).await;
    assert_eq!((super::state(store, paused.id).await, super::state(store, deleted.id).await), before);
}

/// That a slot was noted as missed does not take its vote: a result that our own trouble held up
/// still counts, and ends the blindness.
pub async fn a_result_that_comes_after_its_slot_was_missed_still_votes(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, each("one", SHORT)).await;
    go_blind(&fixture, &service).await;
    let slot = Slot::at(service.scheduled_since).after(SHORT);
    let done = recorded(store, vec![result(&service, slot, FAIL)]).await;
    let events: Vec<_> = done.entries.iter().map(|entry| entry.event.clone()).collect();
    let down = Transition { from: Status::Unknown, to: Status::Down, cause: Cause::Result };
    let sees = LogEvent::Overlay { overlay: Overlay::Blind, edge: Edge::Ended };
    assert_eq!(events, [sees, LogEvent::Transition(down)]);
    assert_replays(store, service.id).await;
}

/// Maintenance whose end has come is ended, once, with the transition that it held back.
pub async fn maintenance_ends_once_by_the_sweep(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let until = store.now().await.expect("the time").after(Duration::from_millis(300));
    changed(store, service.id, Change::BeginMaintenance { until }).await;
    let results = series(&fixture, &service, 0, &[FAIL]).await;
    recorded(store, results).await;
    let ended = fixture.time.until(Duration::from_secs(5), "maintenance ends", async || {
        let swept = pass(store, ALL).await;
        assert!(swept.entries.is_empty() || store.now().await.expect("the time") >= until, "not before its end");
        (!swept.entries.is_empty()).then_some(swept.entries)
    });
    let events: Vec<_> = ended.await.iter().map(|entry| entry.event.clone()).collect();
    let down = Transition { from: Status::Unknown, to: Status::Down, cause: Cause::MaintenanceEnded };
    let over = LogEvent::Overlay { overlay: Overlay::Maintenance, edge: Edge::Ended };
    assert_eq!(events, [over, LogEvent::Transition(down)]);
    assert_eq!(pass(store, ALL).await.entries, [], "once");
    let view = store.service(service.id).await.expect("a view").expect("a service");
    assert_eq!((view.overlays, view.maintenance_until), (vec![], None));
    assert_replays(store, service.id).await;
}

/// Looking at a few services at a time comes to the same as looking at all at once.
pub async fn the_sweep_goes_on_where_it_stopped(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let until = store.now().await.expect("the time").after(Duration::from_millis(300));
    for number in 1..=7 {
        registered(store, number, touchy(&format!("service-{number}"))).await;
        changed(store, id(number), Change::BeginMaintenance { until }).await;
    }
    fixture.time.pass(Duration::from_millis(400)).await;
    let swept = pass(store, many(2)).await;
    let mut ended: Vec<u64> = swept.entries.iter().map(|entry| entry.service.id.get()).collect();
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 3, 4, 5, 6, 7], "each of them once, in one pass");
    assert_eq!(whole_log(store).await.len(), 14);
}

/// Results past their retention go by the sweep, and are set aside when they come again.
pub async fn results_past_their_retention_go(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let setup = StoreSetup { retention: Duration::from_secs(10) };
    let fixture = make(setup).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let old = result(&service, Slot::at(store.now().await.expect("the time")), Outcome::Pass);
    recorded(store, vec![old.clone()]).await;
    pass(store, ALL).await;
    assert_eq!(all_results(store, service.id).await.len(), 1, "it is kept as long as it is to be kept");
    fixture
        .time
        .until(PATIENCE * 2, "the old result is let go of", async || {
            pass(store, ALL).await;
            let query = ResultQuery { to: Some(old.id.slot.after(Duration::from_millis(1))), ..ResultQuery::default() };
            store.results(service.id, &query, ALL).await.expect("results").is_empty().then_some(())
        })
        .await;
    let kept = store.now().await.expect("the time").since(old.id.slot.time());
    assert!(kept >= setup.retention, "it was let go of after {kept:?}");
    let again = recorded(store, vec![old]).await;
    assert_eq!((again.inserted, again.set_aside.len()), (0, 1));
    assert_eq!(status(store, service.id).await, Status::Up, "what it led to stays");
}
