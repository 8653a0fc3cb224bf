use async_trait::async_trait;

use super::{MemoryResultStore, Row, Tables};
use crate::{
    heartbeat::{Heard, KeyDigest, Noted, Novelty, Sign},
    id::ServiceId,
    ports::{Heartbeats, StoreError},
    service::Activity,
    time::Timestamp,
};

impl Tables {
    fn living(&mut self, id: ServiceId) -> Option<&mut Row> {
        self.rows.get_mut(&id).filter(|row| row.service.activity != Activity::Deleted)
    }

    fn note(&mut self, sign: &Sign) -> Noted {
        let Some(row) = self.living(sign.service) else { return Noted::Nobody };
        let Some((_, pulse)) = &mut row.heartbeat else { return Noted::Nobody };
        let before = pulse.end().map(|(end, _)| end);
        match pulse.note(sign) {
            Novelty::News => Noted::News { before, status: row.state.announced() },
            Novelty::Known => Noted::Known,
        }
    }
}

#[async_trait]
impl Heartbeats for MemoryResultStore {
    async fn set_key(&self, service: ServiceId, key: KeyDigest) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let row = tables.living(service).ok_or(StoreError::NotFound(service))?;
        let pulse = row.heartbeat.take().map(|(_, pulse)| pulse);
        row.heartbeat = Some((key, pulse.unwrap_or_default()));
        Ok(())
    }

    async fn keys(&self, services: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>, StoreError> {
        let mut tables = self.tables();
        let mut key = |id: &ServiceId| tables.living(*id)?.heartbeat.as_ref().map(|(key, _)| (*id, *key));
        Ok(services.iter().filter_map(&mut key).collect())
    }

    async fn note(&self, signs: Vec<Sign>) -> Result<Vec<Noted>, StoreError> {
        let mut tables = self.tables();
        Ok(signs.iter().map(|sign| tables.note(sign)).collect())
    }

    async fn heard(&self, service: ServiceId) -> Result<Option<Heard>, StoreError> {
        let mut tables = self.tables();
        let listening = tables.listening.clone();
        let heartbeat = tables.living(service).and_then(|row| row.heartbeat.as_ref());
        Ok(heartbeat.map(|(_, pulse)| Heard { pulse: pulse.clone(), listening }))
    }

    async fn listening(&self, now: Timestamp) -> Result<(), StoreError> {
        self.tables().listening.note(now);
        Ok(())
    }
}
