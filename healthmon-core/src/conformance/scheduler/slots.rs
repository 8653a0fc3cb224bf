use std::time::Duration;

use super::{SchedulerFixture, SchedulerSetup, edges, scheduled, slots};
use crate::{
    conformance::{
        poll_times,
        samples::{ALL, Numbers, each, many, regions, touchy},
    },
    probe::{Kind, Probe},
    service::{Service, ServiceSettings},
};

const SECOND: Duration = Duration::from_secs(1);

async fn several(fixture: &SchedulerFixture) -> Vec<Service> {
    let mut services = Vec::new();
    for (number, millis) in (1..).zip([1_000, 1_000, 1_500, 3_000, 7_000]) {
        let settings = each(&format!("service-{number}"), Duration::from_millis(millis));
        services.push(fixture.register(number, settings).await);
    }
    services
}

/// Every slot comes, each once and none ahead of its time, however irregularly one asks.
pub async fn every_slot_comes_once(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let (services, start) = (several(&fixture).await, fixture.now().await);
    let (mut probes, mut missed, mut at, mut numbers) = (Vec::new(), 0, start, Numbers(3));
    while at < start.after(SECOND * 40) {
        let due = fixture.due(at, ALL).await;
        probes.extend(due.probes);
        missed += due.missed;
        at = at.after(Duration::from_millis(1 + numbers.below(900) as u64));
    }
    let due = fixture.due(at, ALL).await;
    probes.extend(due.probes);
    assert_eq!(missed + due.missed, 0);
    for service in &services {
        assert_eq!(scheduled(&probes, service), slots(service, start, at), "service {}", service.id);
    }
}

/// A wall clock may step back: what was told is not told again.
pub async fn a_slot_does_not_come_again_when_the_clock_steps_back(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    let (services, start) = (several(&fixture).await, fixture.now().await);
    fixture.due(start, ALL).await;
    let mut probes = Vec::new();
    for millis in [500_u64, 900, 300, 950, 0, 1_400, 600, 1_500] {
        probes.extend(fixture.due(start.after(Duration::from_millis(millis)), ALL).await.probes);
    }
    for service in &services {
        assert_eq!(scheduled(&probes, service), slots(service, start, start.after(SECOND * 3 / 2)));
    }
}

/// A probe carries the service as the store has it, and a start-by of slot + min(interval, 60 s).
pub async fn a_probe_carries_its_services_settings_and_its_start_by(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    let quick = fixture.register(1, each("quick", SECOND)).await;
    let slow = fixture.register(2, each("slow", Duration::from_mins(10))).await;
    let start = fixture.now().await;
    let (mut probes, _) = fixture.walk(start, start.after(SECOND * 2), SECOND / 4).await;
    let later = slots(&slow, start, start.after(Duration::from_mins(10)))[0].time();
    probes.extend(fixture.due(later, ALL).await.probes);
    for (service, patience) in [(&quick, SECOND), (&slow, Duration::from_mins(1))] {
        let own: Vec<&Probe> = probes.iter().filter(|probe| probe.id.service == service.id).collect();
        assert!(own.iter().any(|probe| probe.id.kind == Kind::Scheduled));
        for probe in own {
            assert_eq!(*probe.service, *service);
            assert_eq!(probe.start_by, probe.id.slot.time().after(patience));
        }
    }
}

/// A service in several regions has a probe for each of them in every slot.
pub async fn every_region_gets_its_probe(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let settings = ServiceSettings { regions: regions(&["a", "b", "c"]), ..each("one", SECOND) };
    let service = fixture.register(1, settings).await;
    let start = fixture.now().await;
    let (probes, _) = fixture.walk(start, start.after(SECOND * 5), SECOND / 5).await;
    for slot in slots(&service, start, start.after(SECOND * 5)) {
        let in_slot = probes.iter().filter(|probe| probe.id.slot == slot && probe.id.kind == Kind::Scheduled);
        let mut from: Vec<&str> = in_slot.map(|probe| probe.id.region.as_str()).collect();
        from.sort_unstable();
        assert_eq!(from, ["a", "b", "c"]);
    }
}

/// No call gives more than it was asked for, regions counted; the rest comes with the next call, at once.
pub async fn no_more_comes_than_asked_for_and_the_rest_at_once(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let mut services = Vec::new();
    for number in 1..=6 {
        let settings = ServiceSettings {
            regions: regions(&["a", "b", "c"]),
            ..each(&format!("service-{number}"), Duration::from_secs(10))
        };
        services.push(fixture.register(number, settings).await);
    }
    let start = fixture.now().await;
    fixture.walk(start, start.after(SECOND), SECOND / 10).await;
    let at = start.after(SECOND * 9);
    for max in [1, 4] {
        let at = if max == 1 { at } else { at.after(SECOND * 9) };
        let mut probes = Vec::new();
        loop {
            let due = fixture.due(at, many(max)).await;
            let more = due.probes.len() == max;
            probes.extend(due.probes);
            if due.next > at {
                break;
            }
            assert!(more, "there is more, and yet a call gave less than it was asked for");
        }
        let newest: usize = services
            .iter()
            .filter(|s| !slots(s, at.before(SECOND * if max == 1 { 8 } else { 9 }), at).is_empty())
            .count();
        let told: std::collections::BTreeSet<_> = probes.iter().map(|probe| probe.id.clone()).collect();
        assert_eq!((probes.len(), told.len()), (newest * 3, newest * 3), "each once, with {max} at a time");
    }
}

/// After a standstill there is no burst: of each service the newest slot comes, the others are counted.
pub async fn after_a_standstill_only_the_newest_slot_of_a_service_comes(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    let (services, start) = (several(&fixture).await, fixture.now().await);
    let settled = start.after(SECOND);
    fixture.walk(start, settled, SECOND / 20).await;
    let at = settled.after(Duration::from_secs(45));
    let due = fixture.due(at, ALL).await;
    let mut went_by = 0;
    for service in &services {
        let all = slots(service, settled, at);
        went_by += all.len();
        assert_eq!(scheduled(&due.probes, service), all[all.len() - 1..]);
    }
    let emitted = due.probes.iter().filter(|probe| probe.id.kind == Kind::Scheduled).count();
    assert_eq!(due.missed, (went_by - emitted) as u64, "every slot was emitted or is counted");
    let (after, _) = fixture.walk(at, at.after(SECOND / 2), SECOND / 20).await;
    for service in &services {
        assert_eq!(scheduled(&after, service), slots(service, at, at.after(SECOND / 2)), "and then as ever");
    }
}

/// A slot that nobody can begin in time is counted as missed, not emitted.
pub async fn a_slot_whose_start_by_has_passed_is_counted_not_emitted(
    make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture,
) {
    let fixture = make(SchedulerSetup::default()).await;
    let service = fixture.register(1, each("one", Duration::from_mins(10))).await;
    let start = fixture.now().await;
    fixture.walk(start, start.after(SECOND), SECOND / 10).await;
    let all = slots(&service, start.after(SECOND), start.after(Duration::from_mins(30)));
    fixture.due(all[0].time().before(SECOND), ALL).await;
    let late = fixture.due(all[0].time().after(Duration::from_secs(61)), ALL).await;
    assert_eq!((late.probes, late.missed), (vec![], 1));
    let in_time = fixture.due(all[1].time().after(Duration::from_secs(59)), ALL).await;
    assert_eq!((scheduled(&in_time.probes, &service), in_time.missed), (vec![all[1]], 0));
}

/// Who asks when `next` says misses no slot, gets each within moments, and does not ask without end.
pub async fn asking_when_told_to_misses_nothing_and_is_in_time(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let (services, start) = (several(&fixture).await, fixture.now().await);
    let (end, mut at, mut calls, mut probes) = (start.after(SECOND * 20), start, 0, Vec::new());
    while at <= end {
        let due = fixture.due(at, ALL).await;
        for probe in &due.probes {
            let late = at.since(probe.id.slot.time());
            assert!(late <= Duration::from_millis(50), "{} comes {late:?} late", probe.id);
        }
        probes.extend(due.probes);
        assert!(due.next.since(at) <= Duration::from_secs(5), "it looks for changes now and then");
        at = at.max(due.next);
        calls += 1;
        assert!(calls < 5_000, "{calls} calls for {} probes", probes.len());
    }
    for service in &services {
        let expected = slots(service, start, end);
        assert!(scheduled(&probes, service).starts_with(&expected[..expected.len() - 1]));
    }
}

/// A call that is dropped, wherever it was, loses nothing but time: its slots come with the next.
pub async fn a_dropped_call_loses_no_slot(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    const MOST: usize = 200;
    let fixture = make(SchedulerSetup::default()).await;
    let (services, start) = (several(&fixture).await, fixture.now().await);
    fixture.due(start, ALL).await;
    let (mut probes, mut at) = (Vec::new(), start);
    for polls in 1..MOST {
        at = at.after(SECOND / 2);
        // Something to read for the call that is dropped.
        let fresh = fixture.register(1_000 + polls as u64, touchy("fresh")).await;
        let told = poll_times(fixture.scheduler.due(at, ALL), polls).await;
        let ended = told.is_some();
        probes.extend(told.map(|due| due.expect("what is due").probes).into_iter().flatten());
        probes.extend(fixture.due(at, ALL).await.probes);
        let (later, _) = fixture.walk(at, at.after(SECOND / 2), SECOND / 8).await;
        at = at.after(SECOND / 2);
        probes.extend(later);
        if ended {
            let (later, _) = fixture.walk(at, at.after(SECOND * 4), SECOND / 8).await;
            probes.extend(later);
            for service in &services {
                assert_eq!(scheduled(&probes, service), slots(service, start, at.after(SECOND * 4)));
            }
            assert_eq!(edges(&probes, &fresh).len(), 1);
            return;
        }
    }
    panic!("a call has not ended after {MOST} polls");
}
