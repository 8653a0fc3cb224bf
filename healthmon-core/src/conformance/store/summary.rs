use std::time::Duration;

use super::{StoreFixture, StoreSetup, all_results, changed, recorded, registered, series, sweep::pass};
use crate::{
    conformance::samples::{ALL, FAIL, NOTHING, Numbers, id, region, regions, result, touchy},
    id::ServiceId,
    ports::{Change, ResultStore},
    probe::{Kind, Outcome, ProbeResult},
    service::{Activity, Service, ServiceSettings},
    summary::Summary,
    time::Slot,
};

const HOUR: Duration = Duration::from_hours(1);
const MILLI: Duration = Duration::from_millis(1);

async fn sum(store: &dyn ResultStore, id: ServiceId, from: Slot, to: Slot) -> Summary {
    let summed = store.summary(id, from, to).await.expect("a summary").expect("a service");
    assert_eq!(summed.service.id, id);
    assert_eq!((summed.from, summed.to), (from, to), "what is asked for is kept result by result");
    summed.summary
}

/// The sum of what the store has stored, result by result.
async fn naive_sum(store: &dyn ResultStore, id: ServiceId, from: Slot, to: Slot) -> Summary {
    let stored = all_results(store, id).await;
    stored.iter().map(|stored| &stored.result).filter(|result| (from..to).contains(&result.id.slot)).collect()
}

/// `hours` whole hours and a bit before the fixture's first slot.
async fn ago(fixture: &StoreFixture, hours: u32) -> Slot {
    let hour = Slot::at(fixture.slot(0).await.time().before(HOUR * hours));
    Slot::from_millis(hour.as_millis() / 3_600_000 * 3_600_000)
}

/// Results of all kinds and outcomes from two regions, a minute apart over some hours.
fn motley(service: &Service, begin: Slot, minutes: u32) -> Vec<ProbeResult> {
    let mut numbers = Numbers(7);
    let mut results = Vec::new();
    for minute in 0..minutes {
        for name in ["local", "east"] {
            let slot = begin.after(Duration::from_mins(1) * minute);
            let mut one = result(service, slot, numbers.outcome());
            one.id.region = region(name);
            one.id.kind = [Kind::Scheduled, Kind::Scheduled, Kind::Edge, Kind::Manual][numbers.below(4)];
            one.seen.latency_us = 1 << numbers.below(29);
            results.push(one);
        }
    }
    results
}

/// A sum is that of the scheduled results in its span: of all outcomes, by region, the latencies of
/// those that passed; neither of edge nor of manual ones. That holds for any span.
pub async fn a_summary_is_the_sum_of_the_scheduled_results(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let settings = ServiceSettings { regions: regions(&["local", "east"]), ..touchy("one") };
    let service = registered(store, 1, settings).await;
    let begin = ago(&fixture, 6).await;
    recorded(store, motley(&service, begin, 300)).await;
    let all = sum(store, service.id, begin, begin.after(HOUR * 6)).await;
    assert_eq!(all, naive_sum(store, service.id, begin, begin.after(HOUR * 6)).await);
    assert_eq!(all.regions().count(), 2);
    let counts = all.total().counts;
    assert!([counts.pass, counts.slow, counts.fail, counts.indeterminate].iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(all.total().latency.count(), counts.pass + counts.slow);
    for round in 0..2 {
        let mut numbers = Numbers(11);
        for _ in 0..30 {
            let mut place = async || begin.after(Duration::from_millis(numbers.below(5 * 3_600_000) as u64));
            let (a, b) = (place().await, place().await);
            let (from, to) = (a.min(b), a.max(b));
            let naive = naive_sum(store, service.id, from, to).await;
            assert_eq!(sum(store, service.id, from, to).await, naive, "from {from} to {to}");
        }
        // However the store keeps sums beside the results, the sweep is when it would make them.
        if round == 0 {
            pass(store, ALL).await;
        }
    }
}

/// A span holds the slot that it begins with, and not the one that it ends with, to the millisecond.
pub async fn a_summary_holds_its_first_slot_and_not_its_end(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    // One at the beginning of an hour, one in the middle.
    let slots = [ago(&fixture, 3).await, ago(&fixture, 2).await.after(Duration::from_millis(1_234_567))];
    recorded(store, slots.iter().map(|slot| result(&service, *slot, Outcome::Pass)).collect()).await;
    for swept in 0..2 {
        for slot in slots {
            let earlier = Slot::from_millis(slot.as_millis() - 1);
            for (from, to, expected) in [
                (slot, slot.after(MILLI), 1),
                (earlier, slot, 0),
                (slot.after(MILLI), slot.after(HOUR), 0),
                (slot, slot, 0),
                (slot.after(MILLI), slot, 0),
            ] {
                let found = sum(store, service.id, from, to).await.total().counts.pass;
                assert_eq!(found, expected, "{slot} in [{from}, {to}), swept {swept} times");
            }
        }
        pass(store, ALL).await;
    }
}

/// A result that comes late is in the next sum, however old its slot; a repeat changes none.
pub async fn late_results_are_in_the_summary_and_repeats_are_not(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let begin = ago(&fixture, 6).await;
    let results: Vec<ProbeResult> = motley(&service, begin, 240);
    let (mut late, timely): (Vec<_>, Vec<_>) = results.into_iter().enumerate().partition(|(number, _)| number % 3 == 0);
    recorded(store, timely.into_iter().map(|(_, result)| result).collect()).await;
    let span = (begin, begin.after(HOUR * 5));
    while !late.is_empty() {
        sum(store, service.id, span.0, span.1).await;
        pass(store, ALL).await;
        let rest = late.split_off(late.len().div_ceil(2));
        let batch: Vec<ProbeResult> = late.into_iter().map(|(_, result)| result).collect();
        late = if rest.len() < 10 { Vec::new() } else { rest };
        recorded(store, batch.clone()).await;
        let naive = naive_sum(store, service.id, span.0, span.1).await;
        assert_eq!(sum(store, service.id, span.0, span.1).await, naive, "late results are in it at once");
        assert_eq!(recorded(store, batch).await.inserted, 0);
        assert_eq!(sum(store, service.id, span.0, span.1).await, naive, "a repeat is not");
        pass(&*fixture.other, ALL).await;
        assert_eq!(sum(&*fixture.other, service.id, span.0, span.1).await, naive, "nor does a sweep change it");
    }
}

/// A sum is of one service: what others' results are makes no difference, and of a service that never was
/// there is none.
pub async fn a_summary_is_of_one_service(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let (a, b) = (registered(store, 1, touchy("a")).await, registered(store, 2, touchy("b")).await);
    let begin = ago(&fixture, 4).await;
    recorded(store, motley(&b, begin, 120)).await;
    for _ in 0..2 {
        let found = sum(store, a.id, begin, begin.after(HOUR * 4)).await;
        assert_eq!(found, Summary::default(), "silence is not summed");
        assert_eq!(store.summary(id(3), begin, begin.after(HOUR)).await.expect("a look"), None);
        pass(store, ALL).await;
    }
    let results = series(&fixture, &a, 0, &[Outcome::Pass, Outcome::Slow, FAIL, NOTHING]).await;
    recorded(store, results.clone()).await;
    let found = sum(store, a.id, begin, fixture.slot(60).await).await;
    assert_eq!(found, results.iter().collect::<Summary>());
}

/// The sum of a deleted service's results stays, with the service as it was when it was deleted.
pub async fn the_summary_of_a_deleted_service_stays_readable(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let begin = ago(&fixture, 4).await;
    let results = motley(&service, begin, 120);
    recorded(store, results.clone()).await;
    let deleted = changed(store, service.id, Change::Delete).await.service;
    for _ in 0..2 {
        let summed = store.summary(service.id, begin, begin.after(HOUR * 4)).await.expect("a sum").expect("a service");
        assert_eq!((summed.service.activity, &summed.service), (Activity::Deleted, &deleted));
        assert_eq!(summed.summary, results.iter().collect::<Summary>());
        pass(store, ALL).await;
    }
}
