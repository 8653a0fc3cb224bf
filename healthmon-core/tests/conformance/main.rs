//! The conformance suites over the adapters in memory.

use std::sync::Arc;

use healthmon_core::{
    conformance::{
        TestTime,
        queue::{QueueFixture, QueueSetup},
        store::{StoreFixture, StoreSetup},
    },
    memory::{MemoryProbeQueue, MemoryResultStore, QueueLimits, StoreLimits},
};

async fn memory_store(setup: StoreSetup) -> StoreFixture {
    let time = TestTime::paused();
    let limits = StoreLimits { retention: setup.retention, ..StoreLimits::default() };
    StoreFixture::in_process(Arc::new(MemoryResultStore::new(time.clock(), limits)), time)
}

healthmon_core::store_conformance!(mod store, memory_store);

async fn memory_queue(setup: QueueSetup) -> QueueFixture {
    let time = TestTime::paused();
    let QueueSetup { capacity, lease_margin, drain_lease } = setup;
    let limits = QueueLimits { capacity, lease_margin, drain_lease };
    QueueFixture::in_process(Arc::new(MemoryProbeQueue::new(time.clock(), limits)), time)
}

healthmon_core::queue_conformance!(mod queue, memory_queue);
