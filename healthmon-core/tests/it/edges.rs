//! Edge intervals: probed sooner while a change is undecided, and by nothing else.

use std::{sync::Arc, time::Duration};

use healthmon_core::{
    ports::{Change, ResultQuery, ResultStore},
    probe::{FailReason, Kind, Outcome},
    runtime::Handle,
    service::{FieldErrors, Service, ServiceSettings},
    status::{LogEvent, Status},
    time::Timestamp,
};
use serde_json::{Value, json};

use crate::support::{ALL, START, Seen, Truth, World, settings};

const SECOND: Duration = Duration::from_secs(1);
const REFUSED: Outcome = Outcome::Fail(FailReason::Connect);

/// A monitor with one service, run for `span` while `meanwhile` does something.
async fn watched<F>(
    more: Value,
    span: Duration,
    tell: F,
    meanwhile: impl AsyncFnOnce(Handle, Service),
) -> (World, Service)
where
    F: Fn(&str, Duration) -> Seen + Send + Sync + 'static,
{
    let world = World::new();
    let monitor = world.monitor(Arc::new(Truth { clock: Arc::clone(&world.clock), tell })).build().unwrap();
    let handle = monitor.handle();
    let service = handle.register(settings("shop", &more)).await.unwrap();
    let running = tokio::spawn(monitor.run(tokio::time::sleep(span)));
    meanwhile(handle, service.clone()).await;
    running.await.unwrap().unwrap();
    (world, service)
}

async fn edges(world: &World, service: &Service) -> Vec<Timestamp> {
    let results = world.store.results(service.id, &ResultQuery::default(), ALL).await.unwrap();
    let edges = results.iter().rev().map(|stored| &stored.result).filter(|result| result.id.kind == Kind::Edge);
    edges.map(|result| result.id.slot.time()).collect()
}

async fn transitions(world: &World) -> Vec<(Status, Duration)> {
    let log = world.store.log(Default::default(), ALL).await.unwrap();
    let told = log.into_iter().filter_map(|entry| match entry.event {
        LogEvent::Transition(transition) => Some((transition.to, entry.at.since(START))),
        LogEvent::Overlay { .. } => None,
    });
    told.collect()
}

fn up_but(down: std::ops::Range<u64>) -> impl Fn(&str, Duration) -> Seen + Send + Sync + 'static {
    move |_, at| {
        let outcome = if down.contains(&at.as_secs()) { REFUSED } else { Outcome::Pass };
        (outcome, Duration::from_millis(5))
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_found_and_its_end_too_by_probes_an_edge_interval_apart() {
    let settings = json!({"interval": "60s", "edge_interval": "5s"});
    let (world, service) = watched(settings, SECOND * 900, up_but(200..500), async |_, _| {}).await;
    let told = transitions(&world).await;
    let [(Status::Up, _), (Status::Down, down), (Status::Up, up)] = told[..] else { panic!("{told:?}") };
    assert!(down < SECOND * (200 + 60 + 2 * 5 + 1), "found at {down:?}");
    assert!(up < SECOND * (500 + 60 + 5 + 1), "over at {up:?}");
    let edges = edges(&world, &service).await;
    assert_eq!(edges.len(), 1 + 2 + 1, "one at the beginning, two to be DOWN, one to be UP: {edges:?}");
    assert_eq!(edges[2].since(edges[1]), SECOND * 5);
}

#[tokio::test(start_paused = true)]
async fn without_an_edge_interval_nothing_is_probed_out_of_turn() {
    let (world, service) = watched(json!({"interval": "60s"}), SECOND * 900, up_but(200..500), async |_, _| {}).await;
    assert_eq!(edges(&world, &service).await.len(), 1, "the one that every service begins with");
    assert_eq!(transitions(&world).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_blip_costs_one_edge_probe() {
    let settings = json!({"interval": "60s", "edge_interval": "5s"});
    // Once, however its slots lie: one of them is in any minute.
    let tell = |_: &str, at: Duration| {
        let down = (300..360).contains(&at.as_secs());
        static SEEN: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let first = down && !SEEN.swap(true, std::sync::atomic::Ordering::SeqCst);
        (if first { REFUSED } else { Outcome::Pass }, Duration::from_millis(5))
    };
    let (world, service) = watched(settings, SECOND * 900, tell, async |_, _| {}).await;
    assert_eq!(edges(&world, &service).await.len(), 2);
    assert_eq!(transitions(&world).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_flaps_all_day_is_not_probed_much_more() {
    let settings = json!({"interval": "60s", "edge_interval": "5s", "policy": {"failure_threshold": 3}});
    let tell = |_: &str, at: Duration| {
        let outcome = if (at.as_secs() / 60).is_multiple_of(2) { REFUSED } else { Outcome::Pass };
        (outcome, Duration::from_millis(5))
    };
    let (world, service) = watched(settings, SECOND * 86_400, tell, async |_, _| {}).await;
    let (told, edges) = (transitions(&world).await.len(), edges(&world, &service).await.len());
    assert!(edges <= 1 + 3 * (told + 1), "{edges} edge probes for {told} transitions");
}

#[tokio::test(start_paused = true)]
async fn none_goes_to_a_service_that_was_paused_deleted_or_changed_meanwhile() {
    let changes = [
        Change::Pause,
        Change::Delete,
        Change::Settings(Box::new(settings("other", &json!({"interval": "60s", "edge_interval": "20s"})))),
        Change::Settings(Box::new(settings("shop", &json!({"interval": "60s"})))),
    ];
    for change in changes {
        let settings = json!({"interval": "60s", "edge_interval": "20s"});
        let mut changed_at = Timestamp::default();
        let (world, service) = watched(settings, SECOND * 300, up_but(100..300), async |handle, service| {
            // The first failure is there, and its edge probe is to come.
            loop {
                tokio::time::sleep(SECOND).await;
                let newest = handle.results(service.id, std::num::NonZeroUsize::MIN).await.unwrap();
                if newest.first().is_some_and(|stored| stored.outcome() == REFUSED) {
                    break;
                }
            }
            handle.change(service.id, None, change.clone()).await.unwrap();
            changed_at = handle.now();
        })
        .await;
        let after: Vec<_> = edges(&world, &service).await.into_iter().filter(|edge| *edge > changed_at).collect();
        // A service with another target is as good as new, and gets the edge probe of a new one.
        let few =
            if matches!(&change, Change::Settings(changed) if changed.url != service.settings.url) { 1 } else { 0 };
        let soon = after.iter().filter(|edge| edge.since(changed_at) < SECOND * 21).count();
        assert!(soon <= few, "{change:?}: {after:?} after {changed_at}");
    }
}

#[test]
fn an_edge_interval_is_from_100_ms_to_the_interval_and_is_written_as_it_is_read() {
    let read = |edge: Value| -> Result<ServiceSettings, FieldErrors> {
        let json = json!({"name": "shop", "url": "test://shop", "interval": "30s", "edge_interval": edge});
        ServiceSettings::from_json(json.as_object().cloned().unwrap())
    };
    for right in [json!("100ms"), json!("5s"), json!(30)] {
        let settings = read(right).unwrap();
        assert!(settings.edge_interval.is_some());
        assert_eq!(ServiceSettings::from_json(settings.to_json()).unwrap(), settings);
    }
    let none = read(Value::Null).unwrap();
    assert!(none.edge_interval.is_none() && !none.to_json().contains_key("edge_interval"));
    for (wrong, says) in
        [(json!("31s"), "at most the interval (30s)"), (json!("99ms"), "from 100ms"), (json!(true), "")]
    {
        let errors = read(wrong).unwrap_err();
        let errors: Vec<_> = errors.iter().collect();
        assert_eq!((errors.len(), errors[0].field.as_str()), (1, "edge_interval"));
        assert!(errors[0].problem.contains(says), "{}", errors[0].problem);
    }
}
