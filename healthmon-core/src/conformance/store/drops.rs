use std::time::Duration;

use super::{
    StoreFixture, StoreSetup, all_results, assert_replays, last_revision, recorded, registered, series, whole_log,
};
use crate::{
    conformance::{
        poll_times,
        samples::{ALL, FAIL, id, many, touchy},
    },
    id::{Applied, Revision, Seq},
    ports::{Change, ResultQuery, ServiceFilter, StoreError},
    probe::Outcome,
    status::Overlay,
};

/// More awaits than any call should have.
const MOST: usize = 400;

/// A write that gives way to one that was dropped a moment ago and is still being undone.
async fn settled<T>(fixture: &StoreFixture, mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let mut look = async || match call().await {
        Ok(done) => Some(done),
        Err(StoreError::Transient { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    fixture.time.until(Duration::from_secs(20), "the store is free again after a call was dropped", &mut look).await
}

/// A recording that is dropped, wherever it was, has happened whole or not at all; repeating it
/// leads to what one undisturbed recording would have.
pub async fn a_dropped_record_is_done_or_not_done(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    for (number, polls) in (1..).zip(1..MOST) {
        let a = registered(store, number * 2, touchy("a")).await;
        let b = registered(store, number * 2 + 1, touchy("b")).await;
        let mut batch = series(&fixture, &a, 0, &[Outcome::Pass, FAIL, Outcome::Pass]).await;
        batch.extend(series(&fixture, &b, 0, &[FAIL, Outcome::Pass]).await);
        let ended = poll_times(store.record(batch.clone()), polls).await.is_some();
        let done = settled(&fixture, async || store.record(batch.clone()).await).await;
        assert!(matches!((done.inserted, done.repeated), (5, 0) | (0, 5)), "half done after {polls} polls: {done:?}");
        assert_eq!(done.entries.len(), 5, "whichever it was, it is told what it led to");
        assert_eq!((all_results(store, a.id).await.len(), all_results(store, b.id).await.len()), (3, 2));
        assert_replays(store, a.id).await;
        assert_replays(store, b.id).await;
        if ended {
            super::assert_gapless(&whole_log(store).await, Seq(1));
            return;
        }
    }
    panic!("a recording has not ended after {MOST} polls");
}

/// A change that is dropped has happened whole or not at all.
pub async fn a_dropped_change_is_done_or_not_done(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    for polls in 1..MOST {
        let before = last_revision(store).await;
        let ended = poll_times(store.change(service.id, None, Change::Pause), polls).await.is_some();
        let paused = settled(&fixture, async || store.change(service.id, None, Change::Pause).await).await.service;
        assert_eq!(paused.revision, before.next(), "once, after {polls} polls");
        let view = store.service(service.id).await.expect("a view").expect("a service");
        assert_eq!(view.overlays, [Overlay::Paused]);
        let resumed = settled(&fixture, async || store.change(service.id, None, Change::Resume).await).await;
        assert_eq!(resumed.service.revision, paused.revision.next());
        if ended {
            assert_replays(store, service.id).await;
            super::assert_gapless(&whole_log(store).await, Seq(1));
            return;
        }
    }
    panic!("a change has not ended after {MOST} polls");
}

/// A registration that is dropped has happened whole or not at all, and may be repeated.
pub async fn a_dropped_registration_is_done_or_not_done(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    for (number, polls) in (1..).zip(1..MOST) {
        let ended = poll_times(store.register(id(number), touchy("one")), polls).await.is_some();
        let service = settled(&fixture, async || store.register(id(number), touchy("one")).await).await;
        assert_eq!(service.revision, Revision(number), "one revision each, after {polls} polls");
        assert_replays(store, service.id).await;
        if ended {
            return;
        }
    }
    panic!("a registration has not ended after {MOST} polls");
}

/// A sweep that is dropped has happened whole or not at all.
pub async fn a_dropped_sweep_is_done_or_not_done(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    for polls in 1..MOST {
        let before = whole_log(store).await.len();
        let until = store.now().await.expect("the time").after(Duration::from_millis(1));
        settled(&fixture, async || store.change(service.id, None, Change::BeginMaintenance { until }).await).await;
        fixture.time.pass(Duration::from_millis(5)).await;
        let ended = poll_times(store.sweep(None, ALL), polls).await.is_some();
        settled(&fixture, async || store.sweep(None, ALL).await).await;
        assert_eq!(whole_log(store).await.len(), before + 2, "begun once and ended once, after {polls} polls");
        if ended {
            assert_replays(store, service.id).await;
            return;
        }
    }
    panic!("a sweep has not ended after {MOST} polls");
}

/// Reads that are dropped leave nothing behind: reading and recording go on at once.
pub async fn dropped_reads_hold_up_nobody(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    for polls in 1..60 {
        let all = many(1_000);
        poll_times(store.services(&ServiceFilter::default(), None, all), polls).await;
        poll_times(store.results(service.id, &ResultQuery::default(), all), polls).await;
        poll_times(store.inputs(service.id, Applied(0), all), polls).await;
        poll_times(store.log(Seq(0), all), polls).await;
        let batch = series(&fixture, &service, polls as u64, &[[Outcome::Pass, FAIL][polls % 2]]).await;
        assert_eq!(recorded(store, batch).await.inserted, 1);
    }
    assert_eq!(whole_log(store).await.len(), 59);
    assert_eq!(all_results(store, service.id).await.len(), 59);
    assert_replays(store, service.id).await;
}
