//! The store's contract on a real server, directly and through a pooler.

use std::sync::Arc;

use healthmon_adapters::postgres::{PostgresOptions, PostgresResultStore};
use healthmon_core::{
    conformance::{
        TestTime,
        store::{StoreFixture, StoreSetup},
    },
    ports::ResultStore,
    runtime::clock::SystemClock,
};

use crate::support::{Database, PgBouncer};

async fn open(options: PostgresOptions) -> Arc<dyn ResultStore> {
    Arc::new(PostgresResultStore::connect(options).await.expect("connected"))
}

async fn fixture(options: PostgresOptions, setup: StoreSetup, guard: impl Send + 'static) -> StoreFixture {
    let options = PostgresOptions { retention: setup.retention, max_connections: 4, ..options };
    let (store, other) = (open(options.clone()).await, open(options.clone()).await);
    let reopen = Box::new(move || Box::pin(open(options.clone())) as _);
    // The server is on this machine, and has its time.
    StoreFixture::new(store, other, TestTime::Real(Arc::new(SystemClock::new())), reopen, guard)
}

/// A database of its own for each clause; two nodes are two pools.
async fn direct(setup: StoreSetup) -> StoreFixture {
    let database = Database::new().await;
    fixture(PostgresOptions::new(&database.url), setup, database).await
}

healthmon_core::store_conformance!(mod conformance, direct);

/// The same through PgBouncer in transaction mode.
async fn pooled(setup: StoreSetup) -> StoreFixture {
    let database = Database::new().await;
    let bouncer = PgBouncer::before(&database.url);
    let url = bouncer.url(database.name());
    fixture(PostgresOptions::new(url), setup, (bouncer, database)).await
}

healthmon_core::store_conformance!(mod conformance_through_a_pooler, pooled);
