//! The regions' numbers in this database: there are few, and they never change.

use std::{
    collections::{HashMap, HashSet},
    sync::{PoisonError, RwLock},
};

use healthmon_core::{
    id::Region,
    ports::{ResultKey, StoreError},
};
use sqlx::Row;

use super::{
    connect::{Postgres, sql},
    error::{bad_row, from_sqlx},
};

/// Regions and their numbers.
pub(super) type Numbers = HashMap<Region, i16>;

#[derive(Debug, Default)]
pub(super) struct Regions(RwLock<Numbers>);

impl Regions {
    fn known(&self, region: &Region) -> Option<i16> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(region).copied()
    }

    /// The numbers of all these regions as they are now, or nothing when one is not known.
    pub(super) fn of<'a>(&self, keys: impl Iterator<Item = &'a ResultKey>) -> Option<Numbers> {
        let mut numbers = Numbers::new();
        for key in keys {
            if !numbers.contains_key(&key.region) {
                numbers.insert(key.region.clone(), self.known(&key.region)?);
            }
        }
        Some(numbers)
    }

    /// Forgets all numbers: those given last may be gone with a server that failed.
    pub(super) fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Gives numbers to the regions that have none. In a transaction of its own: numbers are for ever.
    pub(super) async fn number<'a>(
        &self,
        postgres: &Postgres,
        keys: impl Iterator<Item = &'a ResultKey>,
    ) -> Result<(), StoreError> {
        let unknown: HashSet<&str> =
            keys.map(|key| &key.region).filter(|region| self.known(region).is_none()).map(Region::as_str).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = unknown.into_iter().collect();
        let mut tx = postgres.begin().await?;
        // One after the other, so that no number is used up by an attempt that failed.
        sqlx::raw_sql("LOCK TABLE regions IN SHARE ROW EXCLUSIVE MODE").execute(&mut *tx).await.map_err(from_sqlx)?;
        sql("INSERT INTO regions (id, name) SELECT (SELECT coalesce(max(id), 0) FROM regions) + row_number() OVER (), n \
             FROM UNNEST($1::text[]) n WHERE NOT EXISTS (SELECT FROM regions WHERE name = n)")
        .bind(names)
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        let read = sql("SELECT id, name FROM regions").fetch_all(&mut *tx).await.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for row in read {
            let name: &str = row.try_get(1).map_err(from_sqlx)?;
            known.insert(Region::new(name).map_err(bad_row)?, row.try_get(0).map_err(from_sqlx)?);
        }
        Ok(())
    }
}
