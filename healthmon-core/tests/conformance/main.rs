//! The conformance suites over the adapters in memory.

use std::sync::Arc;

use healthmon_core::{
    conformance::{
        TestTime,
        store::{StoreFixture, StoreSetup},
    },
    memory::{MemoryResultStore, StoreLimits},
};

async fn memory_store(setup: StoreSetup) -> StoreFixture {
    let time = TestTime::paused();
    let limits = StoreLimits { retention: setup.retention, ..StoreLimits::default() };
    StoreFixture::in_process(Arc::new(MemoryResultStore::new(time.clock(), limits)), time)
}

healthmon_core::store_conformance!(mod store, memory_store);
