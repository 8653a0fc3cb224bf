//! What services say of themselves.

use std::collections::BTreeMap;

use async_trait::async_trait;
use healthmon_core::{
    heartbeat::{Heard, KeyDigest, Listening, Noted, Sign},
    id::ServiceId,
    ports::{Heartbeats, StoreError},
    time::Timestamp,
};
use sqlx::{Row, sqlite::SqliteRow};

use super::{
    SqliteResultStore,
    error::{bad_row, from_sqlx},
    rows,
    store::json,
};
use crate::pulses::{Kept, Pulses, heard};

type Result<T> = std::result::Result<T, StoreError>;

/// Ids as the JSON array that `json_each` takes apart.
fn array(ids: impl Iterator<Item = ServiceId>) -> Result<String> {
    json(&ids.map(ServiceId::as_i64).collect::<Vec<_>>())
}

fn digest(row: &SqliteRow) -> Result<(ServiceId, KeyDigest)> {
    let id = rows::service_id(row.try_get(0).map_err(from_sqlx)?)?;
    let key: &[u8] = row.try_get(1).map_err(from_sqlx)?;
    Ok((id, KeyDigest(key.try_into().map_err(bad_row)?)))
}

impl SqliteResultStore {
    async fn set_key_now(&self, service: ServiceId, key: KeyDigest) -> Result<()> {
        let done = sqlx::query(
            "INSERT INTO heartbeats (service_id, key, pulse) \
             SELECT id, ?2, '{}' FROM services WHERE id = ?1 AND activity <> 'deleted' \
             ON CONFLICT (service_id) DO UPDATE SET key = excluded.key",
        )
        .bind(service.as_i64())
        .bind(key.0.as_slice())
        .execute(&self.writer)
        .await
        .map_err(from_sqlx)?;
        if done.rows_affected() == 0 { Err(StoreError::NotFound(service)) } else { Ok(()) }
    }

    async fn read_keys(&self, services: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>> {
        let read = sqlx::query(
            "SELECT h.service_id, h.key FROM json_each(?) j JOIN heartbeats h ON h.service_id = j.value \
             JOIN services s ON s.id = h.service_id AND s.activity <> 'deleted'",
        )
        .bind(array(services.iter().copied())?)
        .fetch_all(&self.readers)
        .await;
        read.map_err(from_sqlx)?.iter().map(digest).collect()
    }

    async fn note_now(&self, signs: &[Sign]) -> Result<Vec<Noted>> {
        let mut tx = self.begin().await?;
        let read = sqlx::query(
            "SELECT h.service_id, h.pulse, t.announced FROM json_each(?) j \
             JOIN heartbeats h ON h.service_id = j.value JOIN states t ON t.service_id = h.service_id \
             JOIN services s ON s.id = h.service_id AND s.activity <> 'deleted'",
        )
        .bind(array(Pulses::services(signs).into_iter())?)
        .fetch_all(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        let mut kept = BTreeMap::new();
        for row in &read {
            let id = rows::service_id(row.try_get(0).map_err(from_sqlx)?)?;
            let (pulse, announced): (&str, &str) =
                (row.try_get(1).map_err(from_sqlx)?, row.try_get(2).map_err(from_sqlx)?);
            kept.insert(id, Kept::read(pulse, announced).map_err(bad_row)?);
        }
        let mut pulses = Pulses::new(kept);
        let noted = pulses.note(signs);
        let (ids, changed) = pulses.changed().map_err(bad_row)?;
        if !ids.is_empty() {
            let pairs: Vec<(i64, String)> = ids.into_iter().zip(changed).collect();
            sqlx::query(
                "UPDATE heartbeats SET pulse = n.pulse FROM (SELECT value ->> 0 AS id, value ->> 1 AS pulse \
                 FROM json_each(?)) n WHERE heartbeats.service_id = n.id",
            )
            .bind(json(&pairs)?)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        }
        tx.commit().await.map_err(from_sqlx)?;
        Ok(noted)
    }

    async fn read_heard(&self, service: ServiceId) -> Result<Option<Heard>> {
        let read: Option<(String, String)> = sqlx::query_as(
            "SELECT h.pulse, l.times FROM heartbeats h JOIN services s ON s.id = h.service_id \
             AND s.activity <> 'deleted' CROSS JOIN listening l WHERE h.service_id = ?",
        )
        .bind(service.as_i64())
        .fetch_optional(&self.readers)
        .await
        .map_err(from_sqlx)?;
        read.map(|(pulse, times)| heard(&pulse, &times).map_err(bad_row)).transpose()
    }

    async fn listening_now(&self, now: Timestamp) -> Result<()> {
        let mut tx = self.begin().await?;
        let times: String =
            sqlx::query_scalar("SELECT times FROM listening").fetch_one(&mut *tx).await.map_err(from_sqlx)?;
        let mut listening: Listening = serde_json::from_str(&times).map_err(bad_row)?;
        listening.note(now);
        let written = sqlx::query("UPDATE listening SET times = ?").bind(json(&listening)?).execute(&mut *tx).await;
        written.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)
    }
}

#[async_trait]
impl Heartbeats for SqliteResultStore {
    async fn set_key(&self, service: ServiceId, key: KeyDigest) -> Result<()> {
        self.set_key_now(service, key).await
    }

    async fn keys(&self, services: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>> {
        self.read_keys(services).await
    }

    async fn note(&self, signs: Vec<Sign>) -> Result<Vec<Noted>> {
        self.note_now(&signs).await
    }

    async fn heard(&self, service: ServiceId) -> Result<Option<Heard>> {
        self.read_heard(service).await
    }

    async fn listening(&self, now: Timestamp) -> Result<()> {
        self.listening_now(now).await
    }
}
