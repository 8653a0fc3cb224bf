use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    StoreFixture, StoreSetup, all_inputs, assert_gapless, assert_replays, changed, recorded, registered, series,
    sweep::SILENCE, whole_log,
};
use crate::{
    conformance::samples::{ALL, FAIL, each, id, many, touchy, usual},
    id::{Revision, Seq, ServiceId},
    ports::{Change, Recorded, ResultStore, StoreError},
    probe::{Outcome, ProbeResult},
    service::Activity,
    status::LogEntry,
};

/// How many write at once.
const WRITERS: usize = 4;

/// Runs `work` on a thread of its own, so that calls truly run at the same time.
fn aside<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    let runtime = tokio::runtime::Handle::current();
    let task = tokio::task::spawn_blocking(move || runtime.block_on(work()));
    async { task.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) }
}

/// Repeats a call that the store is too busy for.
async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    for _ in 0..1_000 {
        match call().await {
            Ok(done) => return done,
            Err(StoreError::Transient { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the store is busy for ever");
}

fn nodes(fixture: &StoreFixture) -> impl Iterator<Item = Arc<dyn ResultStore>> {
    [Arc::clone(&fixture.store), Arc::clone(&fixture.other)].into_iter().cycle()
}

/// Two recorders that have the same batch, because the queue handed it out twice, record it once,
/// and both are told what it led to.
pub async fn two_recorders_of_one_batch_record_it_once(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let (a, b) = (registered(&*fixture.store, 1, touchy("a")).await, registered(&*fixture.store, 2, touchy("b")).await);
    for round in 0..10 {
        let mut batch = series(&fixture, &a, round * 6, &[Outcome::Pass, FAIL].repeat(3)).await;
        let mut others = series(&fixture, &b, round * 6, &[FAIL, Outcome::Pass].repeat(3)).await;
        // Each recorder has them in another order: no order of locking is given from without.
        let forth: Vec<ProbeResult> = batch.iter().chain(&others).cloned().collect();
        others.append(&mut batch);
        let run = |store: Arc<dyn ResultStore>, batch: Vec<ProbeResult>| {
            aside(async move || patiently(async || store.record(batch.clone()).await).await)
        };
        let (one, two): (Recorded, Recorded) =
            tokio::join!(run(Arc::clone(&fixture.store), forth), run(Arc::clone(&fixture.other), others));
        assert_eq!((one.inserted + two.inserted, one.repeated + two.repeated), (12, 12));
        assert_eq!(one.entries, two.entries, "both are told the same");
    }
    assert_gapless(&whole_log(&*fixture.store).await, Seq(1));
    assert_replays(&*fixture.store, a.id).await;
    assert_replays(&*fixture.store, b.id).await;
}

/// Writers that record results and change services at once, each its own services and one that all share.
async fn storm(fixture: &StoreFixture, rounds: u64) -> Vec<ServiceId> {
    let store = &*fixture.store;
    registered(store, 1_000, usual("shared")).await;
    let mut tasks = Vec::new();
    for (writer, node) in (0..WRITERS as u64).zip(nodes(fixture)) {
        let service = registered(store, 1 + writer, touchy(&format!("service-{writer}"))).await;
        let shared = store.service(id(1_000)).await.expect("a view").expect("a service").service;
        let (mut batches, first) = (Vec::new(), fixture.slot(0).await);
        for round in 0..rounds {
            let mut batch = series(fixture, &service, round * 4, &[Outcome::Pass, FAIL, Outcome::Pass, FAIL]).await;
            let mut common = series(fixture, &shared, round * 4, &[FAIL, Outcome::Pass, FAIL]).await;
            // Results of the epochs that the changes will bring, too.
            batch.iter_mut().chain(&mut common).for_each(|result| result.epoch = crate::id::Epoch(1_000));
            common.iter_mut().for_each(|r| r.id.slot = r.id.slot.after(Duration::from_millis(writer)));
            batch.extend(common);
            batches.push(batch);
        }
        assert!(batches.iter().flatten().all(|result| result.id.slot >= first));
        tasks.push(aside(async move || {
            for batch in batches {
                patiently(async || node.record(batch.clone()).await).await;
                for change in [Change::Pause, Change::Resume] {
                    patiently(async || node.change(id(1 + writer), None, change.clone()).await).await;
                    patiently(async || node.change(id(1_000), None, change.clone()).await).await;
                }
            }
        }));
    }
    for task in tasks {
        task.await;
    }
    (1..=WRITERS as u64).chain([1_000]).map(id).collect()
}

/// Follows the log as a client does, and asserts that who sees an entry has seen every earlier one.
async fn follow(store: &dyn ResultStore, seen: &mut Vec<LogEntry>) {
    let after = seen.last().map_or(Seq(0), |entry| entry.seq);
    let page = store.log(after, many(17)).await.expect("the log");
    assert_gapless(&page, after.next());
    seen.extend(page);
}

/// Places in the log are given in the order of commit: whoever follows it while many write sees
/// neither a gap nor an entry that comes late into one.
pub async fn seq_is_in_commit_order_under_concurrent_recorders_and_changes(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let (mut seen, mut writing) = (Vec::new(), Box::pin(storm(&fixture, 8)));
    loop {
        tokio::select! {
            _ = &mut writing => break,
            () = async { follow(&*fixture.other, &mut seen).await; tokio::task::yield_now().await } => {}
        }
    }
    while seen.len() < whole_log(&*fixture.store).await.len() {
        follow(&*fixture.other, &mut seen).await;
    }
    assert_eq!(seen, whole_log(&*fixture.store).await, "what was seen is what there is");
    assert_eq!(fixture.store.head().await.expect("the head").head, seen.last().map_or(Seq(0), |entry| entry.seq));
    assert!(seen.len() > 100, "there was much to tell: {}", seen.len());
}

/// Whatever recorders and changes did at once, each service's inputs replay to exactly its state.
pub async fn inputs_replay_after_concurrent_recorders_and_changes(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    for service in storm(&fixture, 6).await {
        assert_replays(&*fixture.store, service).await;
        assert!(all_inputs(&*fixture.store, service).await.len() > 12);
    }
}

/// Revisions are given without gap and in the order of commit: who follows the feed while many
/// change services misses none.
pub async fn revisions_are_gapless_and_in_commit_order_under_concurrent_changes(
    make: impl AsyncFn(StoreSetup) -> StoreFixture,
) {
    let fixture = make(StoreSetup::default()).await;
    let mut tasks = Vec::new();
    for (writer, node) in (0..WRITERS as u64).zip(nodes(&fixture)) {
        tasks.push(aside(async move || {
            let mut revisions = Vec::new();
            for number in 1..=10 {
                let id = id(writer * 100 + number);
                let service = patiently(async || node.register(id, touchy("one")).await).await;
                revisions.push(service.revision);
                let change = [Change::Pause, Change::Delete][usize::from(number % 3 == 0)].clone();
                let done = patiently(async || node.change(id, None, change.clone()).await).await;
                revisions.push(done.service.revision);
            }
            revisions
        }));
    }
    let mut writing = Box::pin(async {
        let mut given = Vec::new();
        for task in tasks {
            given.extend(task.await);
        }
        given
    });
    let (mut known, mut after) = (BTreeMap::new(), Revision(0));
    let mut given: Vec<Revision> = loop {
        tokio::select! {
            given = &mut writing => break given,
            page = fixture.other.changes(after, many(3)) => {
                for service in page.expect("the feed") {
                    assert!(service.revision > after, "the feed goes on, not back");
                    after = service.revision;
                    known.insert(service.id, (service.revision, service.activity));
                }
                tokio::task::yield_now().await;
            }
        }
    };
    for service in fixture.other.changes(after, ALL).await.expect("the feed") {
        known.insert(service.id, (service.revision, service.activity));
    }
    given.sort_unstable();
    assert_eq!(given, (1..=given.len() as u64).map(Revision).collect::<Vec<_>>(), "no revision twice, none left out");
    let there = fixture.store.changes(Revision(0), ALL).await.expect("the feed");
    let there: BTreeMap<_, _> = there.into_iter().map(|s| (s.id, (s.revision, s.activity))).collect();
    assert_eq!(known, there, "who followed the feed knows what there is");
    assert!(known.values().any(|(_, activity)| *activity == Activity::Deleted));
}

/// Of many who change one revision of a service at once, one does, and the others are told so.
pub async fn of_concurrent_changes_of_one_revision_one_is_made(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let mut service = registered(&*fixture.store, 1, touchy("one")).await;
    for round in 0..5 {
        let mut tasks = Vec::new();
        for (writer, node) in (0..WRITERS).zip(nodes(&fixture)) {
            let (id, expected) = (service.id, Some(service.revision));
            let change = Change::Settings(Box::new(touchy(&format!("name-{round}-{writer}"))));
            tasks.push(aside(async move || {
                loop {
                    match node.change(id, expected, change.clone()).await {
                        Err(StoreError::Transient { .. }) => tokio::task::yield_now().await,
                        done => return done,
                    }
                }
            }));
        }
        let mut made = Vec::new();
        for task in tasks {
            match task.await {
                Ok(changed) => made.push(changed.service),
                Err(StoreError::Conflict(now)) => assert!(now > service.revision),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(made.len(), 1, "one change of revision {} is made", service.revision);
        service = made.remove(0);
        let there = fixture.store.service(service.id).await.expect("a view").map(|view| view.service);
        assert_eq!(there, Some(service.clone()));
    }
}

/// Two sweeps at once note the same silence once, and end maintenance once.
pub async fn two_sweeps_at_once_note_silence_once(make: impl AsyncFn(StoreSetup) -> StoreFixture) {
    let fixture = make(StoreSetup::default()).await;
    let until = fixture.store.now().await.expect("the time").after(Duration::from_millis(300));
    for number in 1..=5 {
        registered(&*fixture.store, number, each(&format!("service-{number}"), Duration::from_millis(500))).await;
        changed(&*fixture.store, id(number), Change::BeginMaintenance { until }).await;
    }
    fixture.time.pass(SILENCE).await;
    let sweep =
        |store: Arc<dyn ResultStore>| aside(async move || patiently(async || store.sweep(None, ALL).await).await);
    let (one, two) = tokio::join!(sweep(Arc::clone(&fixture.store)), sweep(Arc::clone(&fixture.other)));
    assert!(one.missed + two.missed > 0);
    let told: Vec<LogEntry> = one.entries.into_iter().chain(two.entries).collect();
    let mut places: Vec<Seq> = told.iter().map(|entry| entry.seq).collect();
    places.sort_unstable();
    assert_eq!(places, (6..=15).map(Seq).collect::<Vec<_>>(), "each service: its maintenance's end and its blindness");
    assert_eq!(whole_log(&*fixture.store).await.len(), 15);
    for number in 1..=5 {
        assert_replays(&*fixture.store, id(number)).await;
    }
    let nothing = recorded(&*fixture.store, Vec::new()).await;
    assert_eq!(nothing, Recorded::default());
}
