use std::time::Duration;

use super::{
    StoreFixture, StoreSetup, all_inputs, all_results, assert_replays, changed, last_revision, recorded, registered,
    series, state, status, whole_log,
};
use crate::{
    conformance::samples::{ALL, FAIL, each, id, many, regions, result, tags, thresholds, touchy, usual},
    engine::{Damping, LatchRule, Thresholds},
    id::{Epoch, Revision},
    ports::{Change, ResultStore, StoreError},
    probe::Outcome,
    service::{Activity, Label, Options, Service, ServiceSettings},
    status::{Cause, Edge, LogEntry, LogEvent, Overlay, Status, Transition},
};

const fn turn(from: Status, to: Status, cause: Cause) -> LogEvent {
    LogEvent::Transition(Transition { from, to, cause })
}

const fn overlay(overlay: Overlay, edge: Edge) -> LogEvent {
    LogEvent::Overlay { overlay, edge }
}

fn events(entries: &[LogEntry]) -> Vec<LogEvent> {
    entries.iter().map(|entry| entry.event.clone()).collect()
}

/// Registering makes a service that is active, unknown, and under epoch 1.
pub async fn a_registered_service_is_there_at_once(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let service = registered(&*fixture.store, 1, touchy("one")).await;
    assert_eq!((service.id, service.revision, service.epoch), (id(1), Revision(1), Epoch(1)));
    assert_eq!((&service.settings, service.activity), (&touchy("one"), Activity::Active));
    assert_eq!((service.updated_at, service.scheduled_since), (service.created_at, service.created_at));
    let view = fixture.other.service(service.id).await.expect("a view").expect("a service");
    assert_eq!((view.status, view.since), (Status::Unknown, service.created_at));
    assert_eq!((view.overlays, view.maintenance_until, view.last), (vec![], None, None));
    assert_eq!(view.service, service);
    assert_eq!(all_inputs(&*fixture.store, service.id).await.len(), 1);
    assert_eq!(fixture.store.service(id(2)).await.expect("a view"), None);
    assert_eq!(fixture.store.state(id(2)).await.expect("a state"), None);
}

/// The same id with the same settings is the same registration: it may be repeated.
pub async fn registering_again_returns_the_service_that_is_there(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let first = registered(&*fixture.store, 1, touchy("one")).await;
    let results = series(&fixture, &first, 0, &[FAIL]).await;
    recorded(&*fixture.store, results).await;
    assert_eq!(registered(&*fixture.other, 1, touchy("one")).await, first);
    assert_eq!(status(&*fixture.store, first.id).await, Status::Down, "what is known of it stays");
    assert_eq!(last_revision(&*fixture.store).await, first.revision);
}

/// An id that stands for another service, or for a deleted one, is taken.
pub async fn an_id_taken_by_something_else_is_a_conflict(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let taken = store.register(id(1), touchy("two")).await;
    assert!(matches!(taken, Err(StoreError::Conflict(revision)) if revision == service.revision), "{taken:?}");
    let deleted = changed(store, service.id, Change::Delete).await.service;
    let taken = store.register(id(1), touchy("one")).await;
    assert!(matches!(taken, Err(StoreError::Conflict(revision)) if revision == deleted.revision), "{taken:?}");
}

/// Settings come back as they were given: every field of them.
pub async fn every_setting_is_kept(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let options = serde_json::json!({"http": {"method": "HEAD", "headers": {"x-🩺": "a'b\"c"}}, "expect": {"status": [200, 204]}});
    let settings = ServiceSettings {
        name: Label::new("größer; DROP TABLE 'services' --").expect("a name"),
        url: "https://example.test:8443/health?a=1&b=%20#x".parse().expect("a target"),
        group: Some(Label::new("gruppe 2 / 😀").expect("a group")),
        tags: tags(&[("team", "checkout"), ("empty", ""), ("quoted", "\"'%_\\")]),
        policy: Thresholds {
            down: LatchRule::new(3, 7, 2).expect("a rule"),
            degraded: Some(LatchRule::new(2, 5, 4).expect("a rule")),
            damping: Some(Damping::new(8, 20).expect("damping")),
            quorum: std::num::NonZeroU8::new(2).expect("two"),
            blind_after: std::num::NonZeroU8::new(9).expect("nine"),
        },
        regions: regions(&["a", "b-1", "z"]),
        options: Options::new(options.as_object().cloned().expect("an object")),
        ..each("x", Duration::from_millis(12_345))
    };
    let service = registered(&*fixture.store, 1, settings.clone()).await;
    assert_eq!(service.settings, settings);
    let view = fixture.other.service(id(1)).await.expect("a view").expect("a service");
    assert_eq!(view.service, service);
    assert_eq!(fixture.other.changes(Revision(0), ALL).await.expect("the feed"), [service]);
    assert_eq!(state(&*fixture.store, id(1)).await.policy(), &settings.policy);
}

/// Every change gives the service the next revision, and the caller the service as it is now.
pub async fn a_change_gives_the_next_revision(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let one = registered(store, 1, touchy("one")).await;
    let two = registered(store, 2, touchy("two")).await;
    assert_eq!((one.revision, two.revision), (Revision(1), Revision(2)));
    let renamed = ServiceSettings { name: touchy("new").name, ..touchy("one") };
    let change = Change::Settings(Box::new(renamed.clone()));
    let after = store.change(one.id, Some(one.revision), change).await.expect("changed").service;
    assert_eq!((after.revision, &after.settings), (Revision(3), &renamed));
    assert_eq!((after.created_at, after.scheduled_since), (one.created_at, one.scheduled_since));
    assert_eq!(store.service(one.id).await.expect("a view").map(|view| view.service), Some(after));
    let paused = changed(store, two.id, Change::Pause).await.service;
    assert_eq!((paused.revision, paused.activity), (Revision(4), Activity::Paused));
}

/// Whoever names a revision that is no longer the service's is told the present one; nothing changes.
pub async fn a_change_of_a_stale_revision_is_a_conflict_and_changes_nothing(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let first = registered(store, 1, touchy("one")).await;
    let second = changed(store, first.id, Change::Pause).await.service;
    for change in [Change::Resume, Change::Delete, Change::Settings(Box::new(touchy("two")))] {
        let refused = store.change(first.id, Some(first.revision), change).await;
        assert!(matches!(refused, Err(StoreError::Conflict(now)) if now == second.revision), "{refused:?}");
    }
    assert_eq!(store.service(first.id).await.expect("a view").map(|view| view.service), Some(second));
    assert_eq!(whole_log(store).await.len(), 1, "the pause alone");
}

/// A change to what already is gives no revision, no input and no entry.
pub async fn a_change_to_what_is_gives_no_revision(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let until = fixture.time.now().after(Duration::from_hours(1));
    let steps = [
        vec![Change::Settings(Box::new(touchy("one"))), Change::Resume, Change::EndMaintenance],
        vec![Change::Pause, Change::Pause],
        vec![Change::BeginMaintenance { until }, Change::BeginMaintenance { until }],
    ];
    for (step, moved) in steps.into_iter().zip([0, 1, 1]) {
        let before = (last_revision(store).await, state(store, service.id).await.applied());
        for change in step {
            changed(store, service.id, change).await;
        }
        let after = (last_revision(store).await, state(store, service.id).await.applied());
        assert_eq!((after.0.0 - before.0.0, after.1.0 - before.1.0), (moved, moved));
    }
    assert_eq!(whole_log(store).await.len(), 2);
}

/// What was never registered, or is deleted, cannot be changed.
pub async fn a_change_of_what_is_not_there_is_not_found(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    changed(store, service.id, Change::Delete).await;
    for number in [1, 2] {
        for change in [Change::Pause, Change::Delete] {
            let refused = store.change(id(number), None, change).await;
            assert!(matches!(refused, Err(StoreError::NotFound(who)) if who == id(number)), "{refused:?}");
        }
    }
}

async fn reset(store: &dyn ResultStore, service: &Service, settings: ServiceSettings) -> Service {
    changed(store, service.id, Change::Settings(Box::new(settings))).await.service
}

/// A change by which results are judged otherwise begins an epoch; a new name does not. A new interval
/// begins the schedule anew.
pub async fn what_is_judged_otherwise_has_a_new_epoch_and_what_is_not_has_not(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    fixture.time.pass(Duration::from_millis(20)).await;
    let renamed = ServiceSettings { name: touchy("new").name, ..service.settings.clone() };
    let renamed = reset(store, &service, renamed).await;
    assert_eq!((renamed.epoch, renamed.scheduled_since), (service.epoch, service.scheduled_since));
    let stricter = ServiceSettings { policy: thresholds(2, 2), ..renamed.settings.clone() };
    let stricter = reset(store, &service, stricter).await;
    assert_eq!(stricter.epoch, service.epoch.next());
    assert_eq!(state(store, service.id).await.epoch(), stricter.epoch);
    let slower = ServiceSettings { interval: each("x", Duration::from_mins(3)).interval, ..stricter.settings.clone() };
    let slower = reset(store, &service, slower).await;
    assert!(slower.scheduled_since > service.scheduled_since, "rescheduled");
    let current = result(&slower, fixture.slot(0).await, FAIL);
    recorded(store, vec![current.clone()]).await;
    let stored = store.result(&current.id).await.expect("a look").expect("it is stored");
    assert!(stored.applied.is_some(), "a result of the epoch in force votes");
}

/// Another target is another thing: what was known of the old one is forgotten, with one transition.
pub async fn a_new_target_begins_again_at_unknown(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[FAIL]).await;
    recorded(store, results).await;
    let elsewhere = ServiceSettings { url: touchy("two").url, ..touchy("one") };
    let moved = changed(store, service.id, Change::Settings(Box::new(elsewhere))).await;
    assert_eq!(events(&moved.entries), [turn(Status::Down, Status::Unknown, Cause::Configuration)]);
    assert_eq!(status(store, service.id).await, Status::Unknown);
    assert_replays(store, service.id).await;
}

/// A pause shows, freezes what is announced, and ends with a new schedule.
pub async fn a_paused_service_is_frozen_and_resumes(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[FAIL]).await;
    recorded(store, results).await;
    let paused = changed(store, service.id, Change::Pause).await;
    assert_eq!(events(&paused.entries), [overlay(Overlay::Paused, Edge::Began)]);
    let view = store.service(service.id).await.expect("a view").expect("a service");
    assert_eq!((view.status, view.overlays), (Status::Down, vec![Overlay::Paused]));
    fixture.time.pass(Duration::from_millis(20)).await;
    let resumed = changed(store, service.id, Change::Resume).await;
    assert_eq!(events(&resumed.entries), [overlay(Overlay::Paused, Edge::Ended)]);
    assert_eq!(resumed.service.activity, Activity::Active);
    assert!(resumed.service.scheduled_since > service.scheduled_since);
    assert!(resumed.service.epoch > service.epoch, "what was found before the pause does not vote after it");
    assert_replays(store, service.id).await;
}

/// Maintenance freezes what is announced, and tells at its end what became of the service meanwhile.
pub async fn maintenance_freezes_what_is_announced_until_it_ends(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[Outcome::Pass]).await;
    recorded(store, results).await;
    let until = fixture.time.now().after(Duration::from_hours(1));
    changed(store, service.id, Change::BeginMaintenance { until }).await;
    let fails = series(&fixture, &service, 1, &[FAIL]).await;
    assert_eq!(recorded(store, fails).await.entries, []);
    let view = store.service(service.id).await.expect("a view").expect("a service");
    assert_eq!((view.status, view.overlays), (Status::Up, vec![Overlay::Maintenance]));
    assert_eq!(view.maintenance_until, Some(until));
    let ended = changed(store, service.id, Change::EndMaintenance).await;
    let expected =
        [overlay(Overlay::Maintenance, Edge::Ended), turn(Status::Up, Status::Down, Cause::MaintenanceEnded)];
    assert_eq!(events(&ended.entries), expected);
    let view = store.service(service.id).await.expect("a view").expect("a service");
    assert_eq!((view.status, view.maintenance_until), (Status::Down, None));
    assert_eq!(view.since, ended.entries[1].at, "announced since then");
    assert_replays(store, service.id).await;
}

/// A deleted service is gone from views and lists, and comes as a tombstone in the feed.
pub async fn a_deleted_service_leaves_a_tombstone(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let deleted = changed(store, service.id, Change::Delete).await.service;
    assert_eq!((deleted.activity, deleted.revision), (Activity::Deleted, Revision(2)));
    assert_eq!(store.service(service.id).await.expect("a view"), None);
    assert_eq!(store.services(&crate::ports::ServiceFilter::default(), None, ALL).await.expect("services"), []);
    assert_eq!(store.changes(service.revision, ALL).await.expect("the feed"), [deleted]);
    assert_eq!(state(store, service.id).await.activity(), Activity::Deleted);
}

/// Deletion closes whatever was announced and lay over it, with cause `deleted`.
pub async fn deleting_closes_what_was_announced_with_cause_deleted(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[FAIL]).await;
    recorded(store, results).await;
    changed(store, service.id, Change::Pause).await;
    let deleted = changed(store, service.id, Change::Delete).await;
    let expected = [overlay(Overlay::Paused, Edge::Ended), turn(Status::Down, Status::Unknown, Cause::Deleted)];
    assert_eq!(events(&deleted.entries), expected);
    assert_eq!(deleted.entries, whole_log(store).await[2..]);
    assert_replays(store, service.id).await;
}

/// Results, log, inputs and state of a deleted service stay readable.
pub async fn the_history_of_a_deleted_service_stays_readable(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let results = series(&fixture, &service, 0, &[FAIL, Outcome::Pass]).await;
    recorded(store, results.clone()).await;
    changed(store, service.id, Change::Delete).await;
    let stored: Vec<_> = all_results(store, service.id).await.into_iter().rev().map(|stored| stored.result).collect();
    assert_eq!(stored, results);
    assert!(store.result(&results[0].id).await.expect("a look").is_some());
    assert_eq!(store.service_log(service.id, None, ALL).await.expect("its log").len(), 3);
    assert_eq!(all_inputs(store, service.id).await.len(), 4);
}

/// A service that changed several times comes once in the feed, with its last revision; none is left out.
pub async fn the_feed_gives_each_changed_service_once_with_its_last_revision(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    for number in 1..=4 {
        registered(store, number, touchy(&format!("service-{number}"))).await;
    }
    changed(store, id(2), Change::Pause).await;
    changed(store, id(1), Change::Pause).await;
    changed(store, id(2), Change::Resume).await;
    changed(store, id(3), Change::Delete).await;
    let feed = store.changes(Revision(0), ALL).await.expect("the feed");
    let seen: Vec<_> = feed.iter().map(|service| (service.id.get(), service.revision.0)).collect();
    assert_eq!(seen, [(4, 4), (1, 6), (2, 7), (3, 8)]);
    let results = series(&fixture, &feed[1], 0, &[FAIL]).await;
    recorded(store, results).await;
    assert_eq!(store.changes(Revision(8), ALL).await.expect("the feed"), [], "a result changes no service");
}

/// The feed comes by revision, no more than asked for, and whole when read page by page.
pub async fn the_feed_comes_in_pages(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    for number in 1..=10 {
        registered(store, number, touchy(&format!("service-{number}"))).await;
    }
    changed(store, id(4), Change::Pause).await;
    let (whole, mut paged, mut after) =
        (store.changes(Revision(0), ALL).await.expect("the feed"), Vec::new(), Revision(0));
    loop {
        let page = fixture.other.changes(after, many(3)).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = last.revision;
        paged.extend(page);
    }
    assert_eq!(whole.len(), 10);
    assert_eq!(paged, whole);
}

/// A view shows the result with the newest slot, in whatever order they came, and since when the
/// status is announced.
pub async fn a_service_shows_its_newest_result(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, usual("one")).await;
    let mut results = series(&fixture, &service, 0, &[Outcome::Pass, FAIL, Outcome::Slow]).await;
    results[1].seen = results[1].seen.clone().with_detail("no answer");
    let first = recorded(store, vec![results[0].clone()]).await;
    let newest = async || store.service(service.id).await.expect("a view").expect("a service");
    assert_eq!(newest().await.last, Some(crate::ports::LastResult::of(&results[0])));
    assert_eq!(newest().await.since, first.entries[0].at);
    fixture.time.pass(Duration::from_millis(20)).await;
    recorded(store, vec![results[2].clone(), results[1].clone()]).await;
    assert_eq!(newest().await.last, Some(crate::ports::LastResult::of(&results[2])));
    let earlier = result(&service, fixture.slot(0).await.after(Duration::from_millis(5)), FAIL);
    recorded(store, vec![earlier]).await;
    assert_eq!(newest().await.last, Some(crate::ports::LastResult::of(&results[2])), "an older one does not cover it");
    assert_eq!(newest().await.since, first.entries[0].at, "and the status is as old as it was");
}
