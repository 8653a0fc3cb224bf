//! What a prober notices between two probes has the service probed at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    ports::{Prober, ResultQuery, ResultStore},
    probe::{FailReason, Kind, Observation, Outcome, Probe, ProbeResult},
    runtime::Handle,
    service::{FieldErrors, Service, ServiceSettings},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{ALL, World};

const SECOND: Duration = Duration::from_secs(1);

/// A target that can be told to be down, and tells so by a stream of which every end is counted.
#[derive(Default)]
struct Live {
    down: AtomicBool,
    change: Notify,
    begun: AtomicUsize,
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Live {
    fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn turn(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
        self.change.notify_waiters();
    }
}

#[async_trait]
impl Prober for Live {
    fn schemes(&self) -> &[&'static str] {
        &["live", "still"]
    }

    fn check(&self, _: &ServiceSettings) -> Result<(), FieldErrors> {
        Ok(())
    }

    async fn probe(&self, _: &Probe) -> Observation {
        let down = self.down.load(Ordering::SeqCst);
        Observation::new(if down { Outcome::Fail(FailReason::NotServing) } else { Outcome::Pass }, Duration::ZERO)
    }

    fn watches(&self, settings: &ServiceSettings) -> bool {
        settings.url.scheme() == "live"
    }

    async fn watch(&self, _: &Service, changed: &(dyn Fn() + Send + Sync)) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        let _open = Open(Arc::clone(&self.open));
        loop {
            self.change.notified().await;
            changed();
        }
    }
}

fn settings(scheme: &str, name: &str) -> ServiceSettings {
    let json = json!({"name": name, "url": format!("{scheme}://{name}"), "interval": "60s", "timeout": "5s"});
    serde_json::from_value(json).expect("settings")
}

/// Runs a monitor while `story` is told.
async fn during<F: Future<Output = ()>>(live: &Arc<Live>, story: impl FnOnce(Handle, World) -> F) {
    let world = World::new();
    let monitor = world.monitor(Arc::clone(live) as Arc<dyn Prober>).build().expect("a monitor");
    let handle = monitor.handle();
    monitor.run(story(handle, world)).await.expect("it runs");
}

async fn results(world: &World, service: &Service) -> Vec<ProbeResult> {
    let stored = world.store.results(service.id, &ResultQuery::default(), ALL).await.expect("results");
    stored.into_iter().rev().map(|stored| stored.result).collect()
}

fn edges(results: &[ProbeResult]) -> usize {
    results.iter().filter(|result| result.id.kind == Kind::Edge).count()
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_noticed_is_probed_at_once_and_judged_like_any_other() {
    let live = Arc::new(Live::default());
    during(&live, async |handle, world| {
        let service = handle.register(settings("live", "shop")).await.expect("registered");
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!((live.open(), edges(&results(&world, &service).await)), (1, 1), "the first probe, and no other");
        live.turn(true);
        tokio::time::sleep(SECOND).await;
        let seen = results(&world, &service).await;
        let last = seen.last().expect("a result");
        assert_eq!((last.id.kind, last.seen.outcome), (Kind::Edge, Outcome::Fail(FailReason::NotServing)));
        assert_eq!(edges(&seen), 2);
    })
    .await;
    assert_eq!(live.open(), 0, "the monitor has ended, and every stream with it");
}

#[tokio::test(start_paused = true)]
async fn however_often_something_is_noticed_it_is_probed_ten_times_an_interval_at_most() {
    let live = Arc::new(Live::default());
    during(&live, async |handle, world| {
        let service = handle.register(settings("live", "shop")).await.expect("registered");
        tokio::time::sleep(SECOND * 5).await;
        for _ in 0..6_000 {
            live.turn(true);
            tokio::time::sleep(SECOND / 100).await;
        }
        let probed = edges(&results(&world, &service).await);
        assert!((9..=12).contains(&probed), "{probed} in 60 s");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_paused_changed_or_deleted_is_not_watched_on() {
    let live = Arc::new(Live::default());
    during(&live, async |handle, _| {
        let service = handle.register(settings("live", "shop")).await.expect("registered");
        handle.register(settings("live", "other")).await.expect("registered");
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!(live.open(), 2);
        handle.pause(service.id).await.expect("paused");
        tokio::time::sleep(SECOND * 3).await;
        assert_eq!(live.open(), 1, "paused");
        handle.resume(service.id).await.expect("resumed");
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!((live.open(), live.begun.load(Ordering::SeqCst)), (2, 3), "resumed");
        handle.reconfigure(service.id, settings("live", "moved")).await.expect("changed");
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!((live.open(), live.begun.load(Ordering::SeqCst)), (2, 4), "watched as it is now");
        handle.reconfigure(service.id, settings("still", "moved")).await.expect("changed");
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!(live.open(), 1, "not to be watched any more");
        handle.reconfigure(service.id, settings("live", "moved")).await.expect("changed");
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!(live.open(), 2);
        handle.delete(service.id).await.expect("deleted");
        tokio::time::sleep(SECOND * 3).await;
        assert_eq!(live.open(), 1, "deleted");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_person_probes_once_is_not_watched_and_what_cannot_be_is_never_asked() {
    let live = Arc::new(Live::default());
    during(&live, async |handle, _| {
        handle.register(settings("still", "shop")).await.expect("registered");
        let paused = handle.register(settings("live", "other")).await.expect("registered");
        handle.pause(paused.id).await.expect("paused");
        tokio::time::sleep(SECOND * 5).await;
        let begun = live.begun.load(Ordering::SeqCst);
        handle.probe(paused.id).await.expect("a result");
        tokio::time::sleep(SECOND * 5).await;
        assert_eq!((live.begun.load(Ordering::SeqCst), live.open()), (begun, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_thousand_services_are_watched() {
    let live = Arc::new(Live::default());
    during(&live, async |handle, _| {
        for n in 0..1_100 {
            handle.register(settings("live", &format!("shop{n}"))).await.expect("registered");
        }
        tokio::time::sleep(SECOND * 90).await;
        assert_eq!(live.open(), 1_000);
    })
    .await;
}
