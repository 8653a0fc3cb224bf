//! The states of services between two transactions, so that recording reads nothing.
//!
//! There is one writer connection, and whoever holds its transaction is alone with the cache.
//! Another program that writes to the file is noticed by SQLite's `data_version`, and everything
//! is read anew.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use healthmon_core::{id::ServiceId, ports::StoreError};
use sqlx::SqliteConnection;

use super::{error::from_sqlx, record::StateRow};

#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    /// The `data_version` that the rows are of.
    version: i64,
    rows: HashMap<ServiceId, StateRow>,
}

impl Cache {
    fn cached(&self) -> MutexGuard<'_, Cached> {
        // At worst rows are missing, and missing rows are read.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a service that a transaction is about to change by other means.
    pub(super) fn forget(&self, id: ServiceId) {
        self.cached().rows.remove(&id);
    }

    /// The cache for the length of a transaction that holds the lock.
    pub(super) async fn within(&self, tx: &mut SqliteConnection) -> Result<Session<'_>, StoreError> {
        let version: i64 = sqlx::query_scalar("PRAGMA data_version").fetch_one(tx).await.map_err(from_sqlx)?;
        let mut cached = self.cached();
        if cached.version != version {
            cached.version = version;
            cached.rows = HashMap::new();
        }
        drop(cached);
        Ok(Session { cache: Some(self) })
    }
}

/// Empties the cache when dropped, unless it is to be kept: a transaction that failed, or whose
/// end nobody waited for, leaves nothing behind that may not be in the database.
pub(super) struct Session<'a> {
    cache: Option<&'a Cache>,
}

impl Session<'_> {
    /// Takes out what is cached of these services.
    pub(super) fn take<'i>(&self, ids: impl Iterator<Item = &'i ServiceId>) -> HashMap<ServiceId, StateRow> {
        let Some(cache) = self.cache else { return HashMap::new() };
        let mut cached = cache.cached();
        ids.filter_map(|id| cached.rows.remove(id).map(|row| (*id, row))).collect()
    }

    /// Puts in what is about to be committed.
    pub(super) fn put(&self, rows: impl Iterator<Item = (ServiceId, StateRow)>) {
        if let Some(cache) = self.cache {
            cache.cached().rows.extend(rows);
        }
    }

    /// The commit succeeded.
    pub(super) fn keep(mut self) {
        self.cache = None;
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Some(cache) = self.cache {
            *cache.cached() = Cached::default();
        }
    }
}
