use std::{collections::BTreeSet, num::NonZeroUsize};

use super::{StoreFixture, StoreSetup, all_results, changed, recorded, registered, series};
use crate::{
    conformance::samples::{ALL, FAIL, NOTHING, id, many, region, result, tags, touchy},
    id::ServiceId,
    ports::{Change, ResultKey, ResultQuery, ResultStore, ServiceFilter, StoredResult},
    probe::{FailReason, Kind, Outcome, ProbeResult},
    service::{Label, ServiceSettings},
    status::Status,
};

async fn page(
    store: &dyn ResultStore,
    id: ServiceId,
    before: Option<ResultKey>,
    limit: NonZeroUsize,
) -> Vec<StoredResult> {
    store.results(id, &ResultQuery { before, ..ResultQuery::default() }, limit).await.expect("a page")
}

fn keys(results: &[StoredResult]) -> Vec<ResultKey> {
    results.iter().map(|stored| ResultKey::of(&stored.result.id)).collect()
}

/// Results come newest first, no more than asked for, and none of another service.
pub async fn results_come_newest_first(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let (a, b) = (registered(store, 1, touchy("a")).await, registered(store, 2, touchy("b")).await);
    let mut results = series(&fixture, &a, 0, &[Outcome::Pass; 20]).await;
    let others = series(&fixture, &b, 0, &[FAIL; 20]).await;
    recorded(store, others).await;
    recorded(store, results.clone()).await;
    results.reverse();
    let read: Vec<ProbeResult> =
        page(&*fixture.other, a.id, None, many(7)).await.into_iter().map(|s| s.result).collect();
    assert_eq!(read, results[..7]);
    assert_eq!(all_results(store, a.id).await.len(), 20);
    assert_eq!(page(store, id(3), None, ALL).await, [], "of an unknown service there are none");
}

/// Reading page by page neither repeats nor hides a row that was there all along, while newer and
/// older rows are added.
pub async fn results_pages_are_stable_while_rows_are_added(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let there: Vec<ProbeResult> = series(&fixture, &service, 100, &[Outcome::Pass; 30]).await;
    recorded(store, there.clone()).await;
    let (mut paged, mut before, mut round) = (Vec::new(), None, 0_u64);
    loop {
        let found = page(store, service.id, before, many(4)).await;
        let Some(last) = found.last() else { break };
        before = Some(ResultKey::of(&last.result.id));
        paged.extend(found);
        // Newer ones before the first page, and older ones that straggled in behind the last.
        let newer = result(&service, fixture.slot(200 + round).await, Outcome::Pass);
        let older = result(&service, fixture.slot(99 - round.min(20)).await, Outcome::Pass);
        recorded(store, vec![newer, older]).await;
        round += 1;
    }
    let seen: Vec<ResultKey> = keys(&paged);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "no row twice, and in order");
    let seen: BTreeSet<ResultKey> = seen.into_iter().collect();
    for result in &there {
        assert!(seen.contains(&ResultKey::of(&result.id)), "{} was there all along", result.id);
    }
}

/// Several results of one slot, of different regions and kinds, are paged one by one.
pub async fn results_of_one_slot_are_paged_without_gap_or_repeat(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let mut results = Vec::new();
    // In an order in which the numbers that a store may give to regions are not their names' order.
    for name in ["west", "east", "local", "a", "z-9", "north"] {
        for kind in [Kind::Manual, Kind::Scheduled, Kind::Edge] {
            for number in 0..2 {
                let mut one = result(&service, fixture.slot(number).await, Outcome::Pass);
                (one.id.region, one.id.kind) = (region(name), kind);
                results.push(one);
            }
        }
    }
    recorded(store, results.clone()).await;
    let mut expected: Vec<ResultKey> = results.iter().map(|result| ResultKey::of(&result.id)).collect();
    expected.sort_by(|a, b| b.cmp(a));
    for size in [1, 5] {
        let (mut paged, mut before) = (Vec::new(), None);
        loop {
            let found = page(store, service.id, before, many(size)).await;
            let Some(last) = found.last() else { break };
            before = Some(ResultKey::of(&last.result.id));
            paged.extend(found);
        }
        assert_eq!(keys(&paged), expected);
    }
}

/// Results are found from an instant on, before an instant, by outcome, by reason, and by all of these
/// together.
pub async fn results_are_found_by_time_and_outcome(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let service = registered(store, 1, touchy("one")).await;
    let fatal = Outcome::Fatal(FailReason::Tls);
    let outcomes = [Outcome::Pass, Outcome::Slow, FAIL, fatal, NOTHING];
    let results = series(&fixture, &service, 0, &outcomes.repeat(4)).await;
    recorded(store, results.clone()).await;
    let (from, to) = (Some(fixture.slot(5).await), Some(fixture.slot(15).await));
    let by_name = |name| move |result: &ProbeResult| result.seen.outcome.as_str() == name;
    for (from, to) in [(None, None), (from, None), (None, to), (from, to)] {
        for outcome in [None, Some("pass"), Some("slow"), Some("fail"), Some("indeterminate")] {
            let mut expected: Vec<ProbeResult> = results.clone();
            expected.retain(|r| from.is_none_or(|from| r.id.slot >= from) && to.is_none_or(|to| r.id.slot < to));
            expected.retain(|result| outcome.is_none_or(|name| by_name(name)(result)));
            expected.reverse();
            let query = ResultQuery { from, to, outcome, ..ResultQuery::default() };
            let found = store.results(service.id, &query, ALL).await.expect("results");
            let found: Vec<ProbeResult> = found.into_iter().map(|stored| stored.result).collect();
            assert_eq!(found, expected, "{query:?}");
            if let Some(second) = expected.get(1) {
                let query = ResultQuery { before: Some(ResultKey::of(&expected[0].id)), ..query };
                let page = store.results(service.id, &query, many(1)).await.expect("a page");
                assert_eq!(page.first().map(|stored| &stored.result), Some(second), "{query:?}");
            }
        }
        for (outcome, seen) in [(None, fatal), (Some("fail"), fatal), (Some("fail"), FAIL), (None, NOTHING)] {
            let query = ResultQuery { from, to, outcome, reason: seen.reason(), before: None };
            let found = store.results(service.id, &query, ALL).await.expect("results");
            let mut expected: Vec<ProbeResult> = results.iter().filter(|r| r.seen.outcome == seen).cloned().collect();
            expected.retain(|r| from.is_none_or(|from| r.id.slot >= from) && to.is_none_or(|to| r.id.slot < to));
            expected.reverse();
            assert_eq!(found.into_iter().map(|stored| stored.result).collect::<Vec<_>>(), expected, "{query:?}");
            let query = ResultQuery { outcome: Some("pass"), ..query };
            assert!(store.results(service.id, &query, ALL).await.expect("results").is_empty(), "{query:?}");
        }
    }
}

async fn found(store: &dyn ResultStore, filter: ServiceFilter) -> Vec<u64> {
    let views = store.services(&filter, None, ALL).await.expect("services");
    views.iter().map(|view| view.service.id.get()).collect()
}

/// Services come by id; reading page by page neither repeats nor hides one that was there all along.
pub async fn services_pages_are_stable_while_services_come_and_go(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    for number in (10..=100).step_by(10) {
        registered(store, number, touchy(&format!("service-{number}"))).await;
    }
    let (mut paged, mut after, mut fresh) = (Vec::new(), None, 5);
    loop {
        let page = store.services(&ServiceFilter::default(), after, many(3)).await.expect("a page");
        assert!(page.len() <= 3);
        let Some(last) = page.last() else { break };
        after = Some(last.service.id);
        paged.extend(page.iter().map(|view| view.service.id.get()));
        if fresh == 5 {
            // One that was shown goes, one that is still to be shown goes, and others come.
            changed(store, id(20), Change::Delete).await;
            changed(store, id(70), Change::Delete).await;
        }
        registered(store, fresh, touchy("fresh")).await;
        fresh += 40;
    }
    assert!(paged.windows(2).all(|pair| pair[0] < pair[1]), "no service twice, and in order: {paged:?}");
    for number in [10, 30, 40, 50, 60, 80, 90, 100] {
        assert!(paged.contains(&number), "{number} was there all along: {paged:?}");
    }
    assert!(!paged.contains(&70), "70 was deleted before its page came: {paged:?}");
}

/// Services are found by announced status, group, tags with and without a value, and text in name
/// or target whatever its case.
pub async fn services_are_found_by_status_group_tags_and_text(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    let group = |name| Some(Label::new(name).expect("a group"));
    let settings = [
        ServiceSettings { group: group("web"), tags: tags(&[("team", "checkout"), ("tier", "1")]), ..touchy("shop") },
        ServiceSettings { group: group("web"), tags: tags(&[("team", "search")]), ..touchy("index") },
        ServiceSettings { group: group("Web"), ..touchy("other") },
        ServiceSettings { name: Label::new("Straße 100%").expect("a name"), ..touchy("plain") },
    ];
    for (number, settings) in (1..).zip(settings) {
        let service = registered(store, number, settings).await;
        let outcome = [Outcome::Pass, FAIL][usize::from(number == 2)];
        let results = series(&fixture, &service, 0, &[outcome]).await;
        if number < 4 {
            recorded(store, results).await;
        }
    }
    let none = ServiceFilter::default;
    let tag = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
    let text = |text: &str| ServiceFilter { text: Some(text.to_owned()), ..ServiceFilter::default() };
    let cases = [
        (none(), vec![1, 2, 3, 4]),
        (ServiceFilter { status: Some(Status::Up), ..none() }, vec![1, 3]),
        (ServiceFilter { status: Some(Status::Down), ..none() }, vec![2]),
        (ServiceFilter { status: Some(Status::Unknown), ..none() }, vec![4]),
        (ServiceFilter { status: Some(Status::Degraded), ..none() }, vec![]),
        (ServiceFilter { group: Some("web".into()), ..none() }, vec![1, 2]),
        (ServiceFilter { tags: vec![tag("team", None)], ..none() }, vec![1, 2]),
        (ServiceFilter { tags: vec![tag("team", Some("search"))], ..none() }, vec![2]),
        (ServiceFilter { tags: vec![tag("team", None), tag("tier", Some("1"))], ..none() }, vec![1]),
        (ServiceFilter { tags: vec![tag("team", Some("nobody"))], ..none() }, vec![]),
        (text("SHOP"), vec![1]),
        (text("CONFORMANCE.test"), vec![1, 2, 3, 4]),
        (text("STRASSE"), vec![]),
        (text("straße"), vec![4]),
        (text("%"), vec![4]),
        (text("_"), vec![]),
        (ServiceFilter { status: Some(Status::Up), group: Some("web".into()), ..text("shop") }, vec![1]),
    ];
    for (filter, expected) in cases {
        assert_eq!(found(store, filter.clone()).await, expected, "{filter:?}");
    }
}

/// A page holds what meets the filter: services that do not meet it take no place in it.
pub async fn a_filter_and_a_page_go_together(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let store = &*fixture.store;
    for number in 1..=30 {
        let odd = if number % 2 == 1 { "odd" } else { "even" };
        let settings = ServiceSettings { tags: tags(&[("parity", odd)]), ..touchy(&format!("service-{number}")) };
        registered(store, number, settings).await;
    }
    let filter = ServiceFilter { tags: vec![("parity".into(), Some("odd".into()))], ..ServiceFilter::default() };
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.services(&filter, after, many(4)).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(page.len() == 4 || paged.len() + page.len() == 15, "a page is full while there are more");
        after = Some(last.service.id);
        paged.extend(page.iter().map(|view| view.service.id.get()));
    }
    assert_eq!(paged, (1..=30).step_by(2).collect::<Vec<_>>());
}
