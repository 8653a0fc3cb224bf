//! What services say of themselves.

use std::collections::BTreeMap;

use async_trait::async_trait;
use healthmon_core::{
    heartbeat::{Heard, KeyDigest, Listening, Noted, Sign},
    id::ServiceId,
    ports::{Heartbeats, StoreError},
    time::Timestamp,
};
use sqlx::Row;

use super::{
    PostgresResultStore,
    connect::{bounded, sql},
    error::{bad_row, from_sqlx},
    rows,
};
use crate::pulses::{Kept, Pulses, heard};

type Result<T> = std::result::Result<T, StoreError>;

impl PostgresResultStore {
    async fn set_key_now(&self, service: ServiceId, key: KeyDigest) -> Result<()> {
        let mut tx = self.postgres.begin().await?;
        let done = sql("INSERT INTO heartbeats (service_id, key, pulse) \
             SELECT id, $2, '{}' FROM services WHERE id = $1 AND activity <> 'deleted' \
             ON CONFLICT (service_id) DO UPDATE SET key = excluded.key")
        .bind(service.as_i64())
        .bind(key.0.as_slice())
        .execute(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        if done.rows_affected() == 0 { Err(StoreError::NotFound(service)) } else { Ok(()) }
    }

    async fn read_keys(&self, services: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>> {
        let ids: Vec<i64> = services.iter().copied().map(ServiceId::as_i64).collect();
        let mut tx = self.postgres.begin_reading().await?;
        let read = sql("SELECT h.service_id, h.key FROM heartbeats h \
             JOIN services s ON s.id = h.service_id AND s.activity <> 'deleted' WHERE h.service_id = ANY($1)")
        .bind(ids)
        .fetch_all(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let digest = |row: &sqlx::postgres::PgRow| {
            let key: &[u8] = row.try_get(1).map_err(from_sqlx)?;
            let id = rows::service_id(row.try_get(0).map_err(from_sqlx)?)?;
            Ok((id, KeyDigest(key.try_into().map_err(bad_row)?)))
        };
        read.iter().map(digest).collect()
    }

    async fn note_now(&self, signs: &[Sign]) -> Result<Vec<Noted>> {
        let ids: Vec<i64> = Pulses::services(signs).into_iter().map(ServiceId::as_i64).collect();
        let mut tx = self.postgres.begin().await?;
        let read = sql("SELECT h.service_id, h.pulse, t.announced FROM heartbeats h \
             JOIN states t ON t.service_id = h.service_id \
             JOIN services s ON s.id = h.service_id AND s.activity <> 'deleted' \
             WHERE h.service_id = ANY($1) ORDER BY h.service_id FOR UPDATE OF h")
        .bind(ids)
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
            sql("UPDATE heartbeats h SET pulse = n.pulse \
                 FROM UNNEST($1::bigint[], $2::text[]) AS n (service_id, pulse) WHERE h.service_id = n.service_id")
            .bind(ids)
            .bind(changed)
            .execute(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        }
        tx.commit().await.map_err(from_sqlx)?;
        Ok(noted)
    }

    async fn read_heard(&self, service: ServiceId) -> Result<Option<Heard>> {
        let mut tx = self.postgres.begin_reading().await?;
        let read = sql("SELECT h.pulse, l.times FROM heartbeats h \
             JOIN services s ON s.id = h.service_id AND s.activity <> 'deleted' CROSS JOIN listening l \
             WHERE h.service_id = $1")
        .bind(service.as_i64())
        .fetch_optional(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let Some(row) = read else { return Ok(None) };
        let (pulse, times): (&str, &str) = (row.try_get(0).map_err(from_sqlx)?, row.try_get(1).map_err(from_sqlx)?);
        heard(pulse, times).map(Some).map_err(bad_row)
    }

    async fn listening_now(&self, now: Timestamp) -> Result<()> {
        let mut tx = self.postgres.begin().await?;
        let row = sql("SELECT times FROM listening FOR UPDATE").fetch_one(&mut *tx).await.map_err(from_sqlx)?;
        let mut listening: Listening = serde_json::from_str(row.try_get(0).map_err(from_sqlx)?).map_err(bad_row)?;
        listening.note(now);
        let times = serde_json::to_string(&listening).map_err(bad_row)?;
        sql("UPDATE listening SET times = $1").bind(times).execute(&mut *tx).await.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)
    }
}

#[async_trait]
impl Heartbeats for PostgresResultStore {
    async fn set_key(&self, service: ServiceId, key: KeyDigest) -> Result<()> {
        bounded(self.set_key_now(service, key)).await
    }

    async fn keys(&self, services: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>> {
        bounded(self.read_keys(services)).await
    }

    async fn note(&self, signs: Vec<Sign>) -> Result<Vec<Noted>> {
        bounded(self.note_now(&signs)).await
    }

    async fn heard(&self, service: ServiceId) -> Result<Option<Heard>> {
        bounded(self.read_heard(service)).await
    }

    async fn listening(&self, now: Timestamp) -> Result<()> {
        bounded(self.listening_now(now)).await
    }
}
