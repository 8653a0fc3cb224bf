//! The SQLite store on real files.

mod full_disk;
mod speed;
mod trouble;

use std::{path::Path, sync::Arc};

use healthmon_adapters::sqlite::{SqliteOptions, SqliteResultStore};
use healthmon_core::{
    conformance::{
        TestTime,
        heartbeats::{HeartbeatsFixture, HeartbeatsSetup},
        store::{StoreFixture, StoreSetup},
    },
    ports::{Clock, Heartbeats, ResultStore},
};

async fn open(folder: &Path, setup: StoreSetup, clock: Arc<dyn Clock>) -> Arc<SqliteResultStore> {
    let options = SqliteOptions { retention: setup.retention, ..SqliteOptions::new(folder.join("healthmon.db")) };
    Arc::new(SqliteResultStore::open(options, clock).await.expect("the database opens"))
}

/// A file of its own for each clause; two nodes are two stores on that file, as two programs would
/// have it open.
async fn temporary_file(setup: StoreSetup) -> StoreFixture {
    let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
    let time = TestTime::manual();
    let store = open(folder.path(), setup, time.clock()).await;
    let other = open(folder.path(), setup, time.clock()).await;
    let again = (Arc::clone(&folder), time.clock());
    let reopen = Box::new(move || {
        let (folder, clock) = again.clone();
        Box::pin(async move { open(folder.path(), setup, clock).await as Arc<dyn ResultStore> }) as _
    });
    StoreFixture::new(store, other, time, reopen, folder)
}

healthmon_core::store_conformance!(mod store, temporary_file);

/// The same for what services say of themselves.
async fn heartbeats_in_a_file(_: HeartbeatsSetup) -> HeartbeatsFixture {
    let (folder, setup) = (Arc::new(tempfile::tempdir().expect("a temporary folder")), StoreSetup::default());
    let time = TestTime::manual();
    let store = open(folder.path(), setup, time.clock()).await;
    let other = open(folder.path(), setup, time.clock()).await;
    let again = (Arc::clone(&folder), time.clock());
    let reopen = Box::new(move || {
        let (folder, clock) = again.clone();
        Box::pin(async move { open(folder.path(), setup, clock).await as Arc<dyn Heartbeats> }) as _
    });
    HeartbeatsFixture::new(store, other, time, reopen, folder)
}

healthmon_core::heartbeats_conformance!(mod heartbeats, heartbeats_in_a_file);
