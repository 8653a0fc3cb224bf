use std::{collections::BTreeSet, time::Duration};

use super::{SchedulerFixture, SchedulerSetup, edges, scheduled, slots};
use crate::{
    conformance::samples::{ALL, each, id, interval, many, regions, thresholds, touchy},
    ports::Change,
    probe::Kind,
    service::ServiceSettings,
};

const SECOND: Duration = Duration::from_secs(1);

/// A new service is probed at once, out of turn: once from each of its regions.
pub async fn a_new_service_gets_one_edge_probe_at_once(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let start = fixture.now().await;
    fixture.due(start, ALL).await;
    let settings = ServiceSettings { regions: regions(&["a", "b"]), ..touchy("one") };
    let service = fixture.register(1, settings).await;
    let at = fixture.now().await.max(start);
    let (soon, _) = fixture.walk(at, at.after(SECOND), SECOND / 10).await;
    assert_eq!(edges(&soon, &service).len(), 2, "one from each region, within a second");
    let from: BTreeSet<_> = soon.iter().map(|probe| probe.id.region.clone()).collect();
    assert_eq!(from.len(), 2);
    let (later, _) = fixture.walk(at.after(SECOND), at.after(SECOND * 90), SECOND).await;
    assert_eq!(edges(&later, &service), [], "and no more of them");
}

/// Edge probes of a crowd of new services are spread over time, and each comes once.
pub async fn a_crowd_of_new_services_is_spread(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    const CROWD: u64 = 1_500;
    let fixture = make(SchedulerSetup::default()).await;
    for number in 1..=CROWD {
        fixture.register(number, touchy(&format!("service-{number}"))).await;
    }
    let (start, mut told, mut most) = (fixture.now().await, Vec::new(), 0);
    for step in 0..200 {
        let due = fixture.due(start.after(SECOND / 10 * step), ALL).await;
        let at_once = due.probes.iter().filter(|probe| probe.id.kind == Kind::Edge);
        let before = told.len();
        told.extend(at_once.map(|probe| probe.id.service));
        most = most.max(told.len() - before);
    }
    assert_eq!(told.len() as u64, CROWD, "each has one");
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>().len() as u64, CROWD);
    assert!(most as u64 <= CROWD / 2, "{most} of {CROWD} came in one tenth of a second");
}

/// A service that is resumed, or whose schedule is another, is probed at once, out of turn, once.
pub async fn a_resumed_or_rescheduled_service_gets_one_edge_probe(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    let service = fixture.register(1, touchy("one")).await;
    let mut at = fixture.now().await;
    fixture.walk(at, at.after(SECOND), SECOND / 10).await;
    let slower = ServiceSettings { interval: interval(Duration::from_mins(2)), ..touchy("one") };
    let moved = ServiceSettings { url: touchy("two").url, ..slower.clone() };
    let steps = [vec![Change::Pause, Change::Resume], vec![set(slower)], vec![set(moved)]];
    for changes in steps {
        let mut probes = Vec::new();
        for change in changes {
            fixture.time.pass(Duration::from_millis(20)).await;
            fixture.change(service.id, change).await;
            at = at.after(SECOND * 2);
            probes.extend(fixture.walk(at, at.after(SECOND), SECOND / 10).await.0);
        }
        assert_eq!(edges(&probes, &service).len(), 1, "within a second of the change");
    }
}

fn set(settings: ServiceSettings) -> Change {
    Change::Settings(Box::new(settings))
}

/// A change that leaves schedule and target alone asks for no probe.
pub async fn a_renamed_service_gets_no_edge_probe(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let service = fixture.register(1, touchy("one")).await;
    let at = fixture.now().await;
    fixture.walk(at, at.after(SECOND), SECOND / 10).await;
    fixture.time.pass(Duration::from_millis(20)).await;
    fixture.change(service.id, set(ServiceSettings { name: touchy("new").name, ..touchy("one") })).await;
    let (probes, _) = fixture.walk(at.after(SECOND), at.after(SECOND * 5), SECOND / 10).await;
    assert_eq!(edges(&probes, &service), []);
}

/// However often a service is stopped and started within moments, it has one edge probe to come.
pub async fn a_service_paused_and_resumed_in_a_moment_gets_one_edge_probe(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    // A crowd ahead of it, so that its edge probes wait their turn.
    for number in 1..=200 {
        fixture.register(number, touchy(&format!("service-{number}"))).await;
    }
    let service = fixture.register(500, touchy("last")).await;
    let at = fixture.now().await;
    let mut probes = fixture.due(at, ALL).await.probes;
    for step in 1..=3 {
        for change in [Change::Pause, Change::Resume] {
            fixture.time.pass(Duration::from_millis(1)).await;
            fixture.change(service.id, change).await;
            probes.extend(fixture.due(at.after(Duration::from_millis(step)), ALL).await.probes);
        }
    }
    probes.extend(fixture.walk(at.after(Duration::from_millis(3)), at.after(SECOND * 15), SECOND / 10).await.0);
    assert_eq!(edges(&probes, &service).len(), 1);
}

/// From the moment the change is seen, a paused or deleted service yields nothing.
pub async fn a_paused_or_deleted_service_yields_nothing(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let paused = fixture.register(1, each("paused", SECOND)).await;
    let deleted = fixture.register(2, each("deleted", SECOND)).await;
    let stopped_early = fixture.register(3, each("never", SECOND)).await;
    let kept = fixture.register(4, each("kept", SECOND)).await;
    fixture.change(stopped_early.id, Change::Pause).await;
    let start = fixture.now().await;
    let (probes, _) = fixture.walk(start, start.after(SECOND * 3), SECOND / 10).await;
    assert!(!scheduled(&probes, &paused).is_empty());
    assert!(probes.iter().all(|probe| probe.id.service != stopped_early.id), "it was paused before it was seen");
    fixture.change(paused.id, Change::Pause).await;
    fixture.change(deleted.id, Change::Delete).await;
    let from = start.after(SECOND * 3);
    fixture.settle(from).await;
    let (probes, _) = fixture.walk(from, from.after(SECOND * 5), SECOND / 10).await;
    assert!(probes.iter().all(|probe| probe.id.service == kept.id), "{:?}", super::ids(&probes));
    assert_eq!(scheduled(&probes, &kept), slots(&kept, from, from.after(SECOND * 5)));
}

/// Slots that fell due and wait for their turn go with their service.
pub async fn what_waits_to_be_emitted_goes_when_its_service_is_paused(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    let settings = |number| ServiceSettings {
        regions: regions(&["a", "b", "c"]),
        ..each(&format!("service-{number}"), Duration::from_secs(10))
    };
    for number in 1..=6 {
        fixture.register(number, settings(number)).await;
    }
    let start = fixture.now().await;
    fixture.walk(start, start.after(SECOND), SECOND / 10).await;
    let at = start.after(SECOND * 9);
    let first = fixture.due(at, many(1)).await;
    assert!(first.next <= at, "there is more");
    for number in 1..=6 {
        fixture.change(id(number), Change::Pause).await;
    }
    // More waits than this takes.
    fixture.settle(at).await;
    let (rest, _) = fixture.walk(at, at.after(SECOND), SECOND / 10).await;
    assert_eq!(super::ids(&rest), Vec::<String>::new());
}

/// The next probe after a change is one of the new settings.
pub async fn new_settings_are_in_the_next_probe(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let service = fixture.register(1, each("one", SECOND)).await;
    let start = fixture.now().await;
    fixture.walk(start, start.after(SECOND * 2), SECOND / 10).await;
    let stricter = ServiceSettings { policy: thresholds(2, 2), ..each("one", SECOND) };
    let changed = fixture.change(service.id, set(stricter)).await;
    let from = start.after(SECOND * 2);
    fixture.settle(from).await;
    let (probes, _) = fixture.walk(from, from.after(SECOND * 2), SECOND / 10).await;
    assert!(!probes.is_empty());
    for probe in probes {
        assert_eq!(*probe.service, changed);
    }
}

/// With another interval a service has other slots, and none of the old ones.
pub async fn a_new_interval_moves_the_slots(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let service = fixture.register(1, each("one", SECOND)).await;
    let start = fixture.now().await;
    fixture.walk(start, start.after(SECOND * 2), SECOND / 10).await;
    let changed = fixture.change(service.id, set(each("one", Duration::from_millis(1_700)))).await;
    let from = start.after(SECOND * 2);
    fixture.settle(from).await;
    let (probes, missed) = fixture.walk(from, from.after(SECOND * 20), SECOND / 10).await;
    assert_eq!((scheduled(&probes, &changed), missed), (slots(&changed, from, from.after(SECOND * 20)), 0));
}

/// A scheduler that nobody tells sees changes all the same, within moments.
pub async fn changes_are_seen_within_a_second_or_two_without_a_word(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    let start = fixture.now().await;
    fixture.walk(start, start.after(SECOND / 2), SECOND / 10).await;
    let service = fixture.store.register(id(1), touchy("one")).await.expect("registered");
    let mut probes = Vec::new();
    for step in 1..=20 {
        // A scheduler may look in the background, which takes time that really passes.
        fixture.time.pass(SECOND / 10).await;
        probes.extend(fixture.due(start.after(SECOND / 2 + SECOND / 10 * step), ALL).await.probes);
    }
    assert_eq!(edges(&probes, &service).len(), 1);
}
