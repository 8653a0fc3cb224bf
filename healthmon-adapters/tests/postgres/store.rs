//! The contracts of the store, and of what services say of themselves, on a real server: directly
//! and through a pooler.

use std::sync::Arc;

use healthmon_adapters::postgres::{PostgresOptions, PostgresResultStore};
use healthmon_core::{
    conformance::{
        TestTime,
        heartbeats::{HeartbeatsFixture, HeartbeatsSetup},
        store::{StoreFixture, StoreSetup},
    },
    ports::{Heartbeats, ResultStore},
    runtime::clock::SystemClock,
};

use crate::support::{Database, PgBouncer};

async fn open(options: PostgresOptions) -> Arc<PostgresResultStore> {
    Arc::new(PostgresResultStore::connect(options).await.expect("connected"))
}

async fn fixture(options: PostgresOptions, setup: StoreSetup, guard: impl Send + 'static) -> StoreFixture {
    let options = PostgresOptions { retention: setup.retention, max_connections: 4, ..options };
    let (store, other) = (open(options.clone()).await, open(options.clone()).await);
    let reopen = Box::new(move || {
        let options = options.clone();
        Box::pin(async { open(options).await as Arc<dyn ResultStore> }) as _
    });
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

async fn heartbeats(options: PostgresOptions, guard: impl Send + 'static) -> HeartbeatsFixture {
    let options = PostgresOptions { max_connections: 4, ..options };
    let (store, other) = (open(options.clone()).await, open(options.clone()).await);
    let reopen = Box::new(move || {
        let options = options.clone();
        Box::pin(async { open(options).await as Arc<dyn Heartbeats> }) as _
    });
    HeartbeatsFixture::new(store, other, TestTime::Real(Arc::new(SystemClock::new())), reopen, guard)
}

async fn heartbeats_direct(_: HeartbeatsSetup) -> HeartbeatsFixture {
    let database = Database::new().await;
    heartbeats(PostgresOptions::new(&database.url), database).await
}

healthmon_core::heartbeats_conformance!(mod heartbeats_conformance, heartbeats_direct);

async fn heartbeats_pooled(_: HeartbeatsSetup) -> HeartbeatsFixture {
    let database = Database::new().await;
    let bouncer = PgBouncer::before(&database.url);
    let url = bouncer.url(database.name());
    heartbeats(PostgresOptions::new(url), (bouncer, database)).await
}

healthmon_core::heartbeats_conformance!(mod heartbeats_conformance_through_a_pooler, heartbeats_pooled);
