//! Clocks that do not agree.

use std::{sync::Arc, time::Duration};

use healthmon_core::{
    memory::{MemoryProbeQueue, MemoryResultStore, QueueLimits, StoreLimits},
    ports::{Clock, ProbeQueue, ResultQuery, ResultStore},
    probe::Kind,
    runtime::{Monitor, clock::TimerClock},
};
use serde_json::json;

use crate::support::{ALL, START, Up};

#[tokio::test(start_paused = true)]
async fn a_store_whose_clock_is_half_a_minute_behind_loses_no_result() {
    let behind: Arc<dyn Clock> = Arc::new(TimerClock::starting_at(START.before(Duration::from_secs(30))));
    let clock: Arc<dyn Clock> = Arc::new(TimerClock::starting_at(START));
    let store = Arc::new(MemoryResultStore::new(behind, StoreLimits::default()));
    let queue: Arc<dyn ProbeQueue> = Arc::new(MemoryProbeQueue::new(Arc::clone(&clock), QueueLimits::default()));
    let monitor = Monitor::builder()
        .clock(clock)
        .store(Arc::clone(&store) as Arc<dyn ResultStore>)
        .queue(queue)
        .prober(Arc::new(Up))
        .build()
        .unwrap();
    let settings = json!({"name": "one", "url": "test://x", "interval": "10s"});
    let id = monitor.handle().register(serde_json::from_value(settings).unwrap()).await.unwrap().id;
    monitor.run(tokio::time::sleep(Duration::from_mins(10))).await.unwrap();
    let results = store.results(id, &ResultQuery::default(), ALL).await.unwrap();
    let slots = results.iter().map(|stored| &stored.result.id).filter(|id| id.kind == Kind::Scheduled);
    let slots: Vec<i64> = slots.map(|id| id.slot.as_millis()).collect();
    assert!(slots.len() >= 56, "{} of about 60, less those of the last half minute", slots.len());
    assert!(slots.windows(2).all(|pair| pair[0] - pair[1] == 10_000), "{slots:?}");
}
