//! The conformance suites over the adapters in memory, and over adapters with planted faults.

mod claims;
mod faults;
mod listed;
mod prober;

use std::sync::Arc;

use healthmon_core::{
    conformance::{
        TestTime,
        broadcaster::{BroadcasterFixture, BroadcasterSetup},
        heartbeats::{HeartbeatsFixture, HeartbeatsSetup},
        queue::{QueueFixture, QueueSetup},
        scheduler::{SchedulerFixture, SchedulerSetup},
        store::{StoreFixture, StoreSetup},
    },
    memory::{LocalScheduler, MemoryBroadcaster, MemoryProbeQueue, MemoryResultStore, QueueLimits, StoreLimits},
    ports::ResultStore,
};

async fn memory_store(setup: StoreSetup) -> StoreFixture {
    let time = TestTime::paused();
    let limits = StoreLimits { retention: setup.retention, ..StoreLimits::default() };
    StoreFixture::in_process(Arc::new(MemoryResultStore::new(time.clock(), limits)), time)
}

healthmon_core::store_conformance!(mod store, memory_store);

async fn memory_heartbeats(_: HeartbeatsSetup) -> HeartbeatsFixture {
    let time = TestTime::paused();
    let store = MemoryResultStore::new(time.clock(), StoreLimits::default());
    HeartbeatsFixture::in_process(Arc::new(store), time)
}

healthmon_core::heartbeats_conformance!(mod heartbeats, memory_heartbeats);

async fn memory_queue(setup: QueueSetup) -> QueueFixture {
    let time = TestTime::paused();
    let QueueSetup { capacity, lease_margin, drain_lease } = setup;
    let limits = QueueLimits { capacity, lease_margin, drain_lease };
    QueueFixture::in_process(Arc::new(MemoryProbeQueue::new(time.clock(), limits)), time)
}

healthmon_core::queue_conformance!(mod queue, memory_queue);

async fn memory_broadcaster(_: BroadcasterSetup) -> BroadcasterFixture {
    BroadcasterFixture::in_process(Arc::new(MemoryBroadcaster::default()), TestTime::paused())
}

healthmon_core::broadcaster_conformance!(mod broadcaster, memory_broadcaster);

async fn local_scheduler(_: SchedulerSetup) -> SchedulerFixture {
    let time = TestTime::paused();
    let store: Arc<dyn ResultStore> = Arc::new(MemoryResultStore::new(time.clock(), StoreLimits::default()));
    let scheduler = Arc::new(LocalScheduler::new(Arc::clone(&store)));
    SchedulerFixture::alone(scheduler, store, time, ())
}

healthmon_core::scheduler_conformance!(mod scheduler, local_scheduler, alone);
