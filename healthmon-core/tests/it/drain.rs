//! The end of a run: what is under way comes to its end, and is recorded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    ports::{Prober, ResultQuery, ResultStore},
    probe::{Observation, Outcome, Probe},
    runtime::{BuildError, Monitor},
    service::{FieldErrors, ServiceSettings},
    status::Status,
};
use serde_json::json;

use crate::support::{ALL, Up, World};

/// Takes three seconds; counts those that began and those that came to their end.
#[derive(Default)]
struct Long {
    begun: AtomicU32,
    ended: AtomicU32,
}

#[async_trait]
impl Prober for Long {
    fn schemes(&self) -> &[&'static str] {
        &["test"]
    }

    fn check(&self, _: &ServiceSettings) -> Result<(), FieldErrors> {
        Ok(())
    }

    async fn probe(&self, _: &Probe) -> Observation {
        self.begun.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.ended.fetch_add(1, Ordering::SeqCst);
        Observation::new(Outcome::Pass, Duration::from_secs(3))
    }
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_probes_under_way_end_and_are_recorded() {
    let (world, prober) = (World::new(), Arc::new(Long::default()));
    let monitor = world.monitor(Arc::clone(&prober) as Arc<dyn Prober>).build().unwrap();
    let handle = monitor.handle();
    let mut ids = Vec::new();
    for n in 0..20 {
        let settings = json!({"name": format!("service {n}"), "url": "test://x", "interval": "1h"});
        ids.push(handle.register(serde_json::from_value(settings).unwrap()).await.unwrap().id);
    }
    monitor.run(tokio::time::sleep(Duration::from_secs(1))).await.unwrap();
    assert_eq!((prober.begun.load(Ordering::SeqCst), prober.ended.load(Ordering::SeqCst)), (20, 20));
    for id in ids {
        assert_eq!(world.store.results(id, &ResultQuery::default(), ALL).await.unwrap().len(), 1);
        assert_eq!(handle.service(id).await.unwrap().unwrap().status, Status::Up);
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_of_a_hundred_services_passes_in_moments_and_every_slot_is_recorded() {
    let world = World::new();
    let monitor = world.monitor(Arc::new(Up)).build().unwrap();
    let handle = monitor.handle();
    let mut ids = Vec::new();
    for n in 0..100 {
        let settings = json!({"name": format!("service {n}"), "url": "test://x", "interval": "10m"});
        ids.push(handle.register(serde_json::from_value(settings).unwrap()).await.unwrap().id);
    }
    monitor.run(tokio::time::sleep(Duration::from_hours(24))).await.unwrap();
    for id in ids {
        let results = world.store.results(id, &ResultQuery::default(), ALL).await.unwrap();
        // 144 slots of the day, and the edge probe that each began with.
        assert!((144..=146).contains(&results.len()), "{}", results.len());
        let slots: Vec<_> = results.iter().map(|stored| stored.result.id.slot).collect();
        assert!(slots.windows(2).all(|pair| pair[0] > pair[1]));
    }
}

#[test]
fn a_monitor_without_a_prober_or_with_two_for_a_scheme_is_refused() {
    assert!(matches!(Monitor::builder().build(), Err(BuildError::NoProber)));
    let twice = Monitor::builder().prober(Arc::new(Long::default())).prober(Arc::new(Long::default())).build();
    assert!(matches!(twice, Err(BuildError::AmbiguousScheme(_))));
}
