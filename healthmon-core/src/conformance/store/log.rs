use super::{
    StoreFixture, StoreSetup, all_inputs, all_results, assert_gapless, assert_replays, changed, recorded, registered,
    replay, series, state, whole_log,
};
use crate::{
    conformance::samples::{ALL, FAIL, NOTHING, Numbers, many, thresholds, touchy, usual},
    engine::Input,
    id::{Applied, Seq, ServiceId},
    ports::{Change, ResultStore},
    probe::Outcome,
    service::ServiceSettings,
};

/// The log begins with 1, and has neither gap nor repeat.
pub async fn seq_is_gapless_from_one(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    assert_eq!(store.head().await.expect("the head").head, Seq(0), "an empty log stands before its first entry");
    let service = registered(store, 1, touchy("one")).await;
    let mut told = Vec::new();
    for round in 0..4 {
        let batch = series(&fixture, &service, round * 3, &[Outcome::Pass, FAIL, Outcome::Pass]).await;
        let batch = batch.into_iter().map(|result| crate::probe::ProbeResult { epoch: crate::id::Epoch(99), ..result });
        told.extend(recorded(store, batch.collect()).await.entries);
        told.extend(changed(store, service.id, Change::Pause).await.entries);
        told.extend(changed(store, service.id, Change::Resume).await.entries);
    }
    assert_gapless(&told, Seq(1));
    assert_eq!(whole_log(store).await, told);
    assert_eq!(told.len(), 4 * 2 + 9, "three transitions in the first round, two in the others, and the overlays");
}

/// A life of one service: results of every sort, late and manual ones, and every control.
async fn live(fixture: &StoreFixture, service: ServiceId, seed: u64) {
    let (store, mut numbers) = (&*fixture.store, Numbers(seed));
    let until = fixture.time.now().after(std::time::Duration::from_hours(5));
    for round in 0..24 {
        let change = match numbers.below(9) {
            0 => Some(Change::Pause),
            1 | 2 => Some(Change::Resume),
            3 => Some(Change::BeginMaintenance { until }),
            4 | 5 => Some(Change::EndMaintenance),
            6 => Some(Change::Settings(Box::new(ServiceSettings {
                policy: thresholds(1 + numbers.below(3) as u8, 1 + numbers.below(2) as u8),
                ..touchy("living")
            }))),
            _ => None,
        };
        if let Some(change) = change {
            changed(store, service, change).await;
        }
        let view = store.service(service).await.expect("a view").expect("a service");
        let outcomes: Vec<Outcome> = (0..numbers.below(7)).map(|_| numbers.outcome()).collect();
        let first = (round * 5_u64).saturating_sub(numbers.below(4) as u64);
        let mut batch = series(fixture, &view.service, first, &outcomes).await;
        if let Some(result) = batch.first_mut() {
            result.id.kind = [crate::probe::Kind::Scheduled, crate::probe::Kind::Manual][numbers.below(2)];
        }
        recorded(store, batch).await;
    }
}

/// The log of a service is the engine folded over its inputs, in their order (G2).
pub async fn the_log_is_what_the_inputs_make_of_the_engine(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    for number in 1..=5 {
        let service = registered(&*fixture.store, number, usual("living")).await;
        live(&fixture, service.id, number).await;
        assert_replays(&*fixture.store, service.id).await;
    }
    let log = whole_log(&*fixture.store).await;
    assert_gapless(&log, Seq(1));
    assert!(log.len() > 20, "there was something to tell");
}

async fn told(fixture: &StoreFixture, transitions: usize) -> ServiceId {
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    let outcomes: Vec<Outcome> = [Outcome::Pass, FAIL].into_iter().cycle().take(transitions).collect();
    let results = series(fixture, &service, 0, &outcomes).await;
    recorded(&*fixture.store, results).await;
    service.id
}

/// The log after a place comes oldest first, no more than asked for, and whole when read page by page.
pub async fn the_log_comes_in_pages_oldest_first(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    told(&fixture, 10).await;
    let (whole, mut paged, mut after) = (whole_log(&*fixture.store).await, Vec::new(), Seq(0));
    loop {
        let page = fixture.other.log(after, many(3)).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = last.seq;
        paged.extend(page);
    }
    assert_eq!(whole.len(), 10);
    assert_eq!(paged, whole);
    assert_eq!(fixture.store.log(Seq(1_000), ALL).await.expect("a page"), [], "beyond the head there is nothing");
}

/// A service's own log comes newest first, and no other service's entries with it.
pub async fn a_services_log_comes_in_pages_newest_first(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let one = told(&fixture, 7).await;
    let two = registered(store, 2, touchy("two")).await;
    let results = series(&fixture, &two, 0, &[FAIL, Outcome::Pass]).await;
    recorded(store, results).await;
    changed(store, one, Change::Pause).await;
    let mut expected: Vec<_> = whole_log(store).await.into_iter().filter(|entry| entry.service.id == one).collect();
    expected.reverse();
    let (mut paged, mut before) = (Vec::new(), None);
    loop {
        let page = store.service_log(one, before, many(3)).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        before = Some(last.seq);
        paged.extend(page);
    }
    assert_eq!(expected.len(), 8);
    assert_eq!(paged, expected);
}

/// The head is the newest entry's place, the tail the place before the oldest.
pub async fn the_head_is_the_newest_entry_and_the_tail_before_the_oldest(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let empty = fixture.store.head().await.expect("the head");
    assert_eq!((empty.head, empty.tail), (Seq(0), Seq(0)));
    told(&fixture, 5).await;
    let full = fixture.other.head().await.expect("the head");
    assert_eq!((full.head, full.tail), (Seq(5), Seq(0)));
}

/// The log's identity is the same for every node, and after a restart that lost nothing.
pub async fn the_log_keeps_its_identity_for_every_node_and_over_a_restart(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let log = fixture.store.head().await.expect("the head").log;
    assert!(!log.0.is_empty());
    assert_eq!(fixture.other.head().await.expect("the head").log, log);
    told(&fixture, 1).await;
    assert_eq!((fixture.reopen)().await.head().await.expect("the head").log, log);
}

/// Every input that moved a state is a row, and their fold is exactly the state: after results, late
/// ones, controls, and the deletion at the end.
pub async fn inputs_replay_to_exactly_the_state(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    for (number, seed) in [(1, 101), (2, 202), (3, 303)] {
        let service = registered(store, number, usual("living")).await;
        assert_replays(store, service.id).await;
        live(&fixture, service.id, seed).await;
        assert_replays(store, service.id).await;
        changed(store, service.id, Change::Delete).await;
        assert_replays(store, service.id).await;
    }
}

/// A service's inputs are numbered from 1 without gap, and a voting result carries its number.
pub async fn applied_numbers_are_gapless_and_name_results_and_controls(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, usual("one")).await;
    let batch = series(&fixture, &service, 0, &[Outcome::Pass, FAIL, NOTHING]).await;
    recorded(store, batch).await;
    changed(store, service.id, Change::Pause).await;
    let ignored = series(&fixture, &service, 3, &[FAIL]).await;
    recorded(store, ignored).await;
    changed(store, service.id, Change::Resume).await;
    let inputs = all_inputs(store, service.id).await;
    let numbers: Vec<_> = inputs.iter().map(|input| input.applied).collect();
    assert_eq!(numbers, (1..=6).map(Applied).collect::<Vec<_>>());
    let controls: Vec<bool> = inputs.iter().map(|input| matches!(input.input, Input::Control(_))).collect();
    assert_eq!(controls, [true, false, false, false, true, true]);
    let of_results: Vec<_> = all_results(store, service.id).await.iter().rev().map(|stored| stored.applied).collect();
    assert_eq!(of_results, [Some(Applied(2)), Some(Applied(3)), Some(Applied(4)), None]);
    assert_eq!(state(store, service.id).await.applied(), Applied(6));
}

/// Inputs after a number come in order, no more than asked for, and whole when read page by page.
pub async fn inputs_come_in_pages(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, usual("living")).await;
    live(&fixture, service.id, 77).await;
    let (whole, mut paged, mut after) = (all_inputs(store, service.id).await, Vec::new(), Applied(0));
    loop {
        let page = store.inputs(service.id, after, many(7)).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 7);
        after = last.applied;
        paged.extend(page);
    }
    assert!(whole.len() > 14);
    assert_eq!(paged, whole);
    assert_eq!(replay(&paged).0, state(store, service.id).await);
}

async fn everything(store: &dyn ResultStore, id: ServiceId) -> impl PartialEq + std::fmt::Debug + use<> {
    let view = store.service(id).await.expect("a view");
    let feed = store.changes(crate::id::Revision(0), ALL).await.expect("the feed");
    let (results, inputs) = (all_results(store, id).await, all_inputs(store, id).await);
    (view, feed, results, inputs, state(store, id).await, whole_log(store).await)
}

/// What a call has answered for is there after a restart: services, results, states, inputs and log.
pub async fn what_was_recorded_is_there_after_a_restart(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, usual("living")).await;
    live(&fixture, service.id, 5).await;
    let before = everything(&*fixture.store, service.id).await;
    let reopened = (fixture.reopen)().await;
    assert_eq!(everything(&*reopened, service.id).await, before);
    let view = reopened.service(service.id).await.expect("a view").expect("a service");
    let more = series(&fixture, &view.service, 500, &[FAIL]).await;
    assert_eq!(recorded(&*reopened, more).await.inserted, 1, "and it goes on");
    assert_replays(&*reopened, service.id).await;
}
