//! Registering, changing and sweeping services: what moves them besides results.

use std::num::NonZeroUsize;

use healthmon_core::{
    engine::{Control, State, TargetChange, Thresholds},
    id::{Applied, Revision, ServiceId},
    ports::{Change, Changed, StoreError, Swept},
    record::{self, sweep},
    service::{Activity, Service, ServiceSettings},
    status::{LogEntry, LogEvent},
    time::Timestamp,
};
use sqlx::{PgConnection, Row};

use super::{
    PostgresResultStore,
    connect::sql,
    error::from_sqlx,
    head::{append, next_revision},
    rows,
    states::{Held, Kept, StateColumns, held},
};

type Result<T> = std::result::Result<T, StoreError>;

impl PostgresResultStore {
    pub(super) async fn register_now(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service> {
        loop {
            let mut locked = self.lock(&[id.as_i64()]).await?;
            if !locked.states.is_empty() {
                let held = held(&mut locked).await?.pop();
                let service = held.ok_or_else(|| super::error::bad_row(format_args!("service {id}")))?.service;
                let same = service.settings == settings && service.activity != Activity::Deleted;
                return if same { Ok(service) } else { Err(StoreError::Conflict(service.revision)) };
            }
            let (now, tx) = (locked.now, &mut locked.tx);
            let state = State::registered(settings.policy, &settings.regions);
            let mut held = Held {
                service: Service::registered(id, settings.clone(), Revision(0), state.epoch(), now),
                state,
                kept: Kept::new(now),
            };
            held.reconsider();
            if StateColumns::of([&held]).insert(tx).await? == 0 {
                // Somebody else registered it meanwhile.
                continue;
            }
            let registration = Control::Configure {
                policy: settings.policy,
                regions: settings.regions.clone(),
                target: TargetChange::Changed,
            };
            let mut moves = Moves::default();
            moves.controls.push(id, held.state.applied(), now, &registration)?;
            moves.write(tx).await?;
            held.service.revision = next_revision(tx).await?;
            self.insert_service(tx, &held.service).await?;
            locked.tx.commit().await.map_err(from_sqlx)?;
            return Ok(held.service);
        }
    }

    pub(super) async fn change_now(
        &self,
        id: ServiceId,
        expected: Option<Revision>,
        change: Change,
    ) -> Result<Changed> {
        let mut locked = self.lock(&[id.as_i64()]).await?;
        let found = held(&mut locked).await?.pop().filter(|held| held.service.activity != Activity::Deleted);
        let mut held = found.ok_or(StoreError::NotFound(id))?;
        if expected.is_some_and(|expected| expected != held.service.revision) {
            return Err(StoreError::Conflict(held.service.revision));
        }
        let now = locked.now;
        let Some(plan) = record::plan(&held.service, &held.state, held.kept.maintenance_until, change, now) else {
            return Ok(Changed { service: held.service, entries: Vec::new() });
        };
        let (tx, mut moves) = (&mut locked.tx, Moves::default());
        if let Some(control) = plan.control {
            moves.apply(&mut held, now, control)?;
        }
        held.service = Service { epoch: held.state.epoch(), ..plan.service };
        held.kept.maintenance_until = plan.maintenance_until;
        held.reconsider();
        StateColumns::of([&held]).update(tx).await?;
        let entries = moves.write(tx).await?;
        held.service.revision = next_revision(tx).await?;
        update_service(tx, &held.service).await?;
        locked.tx.commit().await.map_err(from_sqlx)?;
        self.head.saw(&entries);
        Ok(Changed { service: held.service, entries })
    }

    pub(super) async fn sweep_now(&self, after: Option<ServiceId>, limit: NonZeroUsize) -> Result<Swept> {
        let now = self.postgres.now().await?;
        if after.is_none() {
            self.retain(now).await?;
            self.roll_up(now).await;
        }
        // Looked for without the lock, looked at again under it.
        let mut tx = self.postgres.begin_reading().await?;
        let ids =
            sql("SELECT service_id FROM states WHERE service_id > $1 AND look_at <= $2 ORDER BY service_id LIMIT $3")
                .bind(after.map_or(0, ServiceId::as_i64))
                .bind(now.as_millis())
                .bind(rows::number(limit.get() as u64))
                .fetch_all(&mut *tx)
                .await
                .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let ids: Vec<i64> = ids.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>().map_err(from_sqlx)?;
        let next = ids.last().filter(|_| ids.len() == limit.get()).map(|id| rows::service_id(*id)).transpose()?;
        let mut swept = Swept { next, ..Swept::default() };
        if ids.is_empty() {
            return Ok(swept);
        }
        let mut locked = self.lock(&ids).await?;
        let (now, mut services, mut moves) = (locked.now, held(&mut locked).await?, Moves::default());
        for held in &mut services {
            for control in sweep::due(&held.service, &held.state, held.kept.maintenance_until, now) {
                swept.missed += sweep::slots_missed(&control);
                if control == Control::EndMaintenance {
                    held.kept.maintenance_until = None;
                }
                moves.apply(held, now, control)?;
            }
            held.reconsider();
        }
        StateColumns::of(&services).update(&mut locked.tx).await?;
        swept.entries = moves.write(&mut locked.tx).await?;
        locked.tx.commit().await.map_err(from_sqlx)?;
        self.head.saw(&swept.entries);
        Ok(swept)
    }

    async fn insert_service(&self, tx: &mut PgConnection, service: &Service) -> Result<()> {
        sql(
            "INSERT INTO services (id, shard, settings, group_name, activity, revision, epoch, created_at, updated_at, \
             scheduled_since) VALUES ($1, $2, $3, $4, 'active', $5, $6, $7, $7, $7)",
        )
        .bind(service.id.as_i64())
        .bind(self.postgres.shards().shard_of(service.id).0.cast_signed())
        .bind(rows::json(&service.settings)?)
        .bind(service.settings.group.as_ref().map(|group| group.as_str()))
        .bind(rows::number(service.revision.0))
        .bind(service.epoch.0.cast_signed())
        .bind(service.created_at.as_micros())
        .execute(tx)
        .await
        .map_err(from_sqlx)?;
        Ok(())
    }
}

async fn update_service(tx: &mut PgConnection, service: &Service) -> Result<()> {
    sql("UPDATE services SET settings = $2, group_name = $3, activity = $4, revision = $5, epoch = $6, \
         updated_at = $7, scheduled_since = $8 WHERE id = $1")
    .bind(service.id.as_i64())
    .bind(rows::json(&service.settings)?)
    .bind(service.settings.group.as_ref().map(|group| group.as_str()))
    .bind(rows::activity_name(service.activity))
    .bind(rows::number(service.revision.0))
    .bind(service.epoch.0.cast_signed())
    .bind(service.updated_at.as_micros())
    .bind(service.scheduled_since.as_micros())
    .execute(tx)
    .await
    .map_err(from_sqlx)?;
    Ok(())
}

/// Control inputs that were applied, and the entries that they led to.
#[derive(Default)]
struct Moves {
    controls: ControlColumns,
    entries: Vec<LogEntry>,
}

impl Moves {
    /// Applies an input to a service that is held.
    fn apply(&mut self, held: &mut Held, now: Timestamp, control: Control<Thresholds>) -> Result<()> {
        let folded = record::fold_control(&mut held.state, &held.service.label(), now, control.clone());
        let Some((applied, mut entries)) = folded else { return Ok(()) };
        self.controls.push(held.service.id, applied, now, &control)?;
        if entries.iter().any(|entry| matches!(entry.event, LogEvent::Transition(_))) {
            held.kept.since = now;
        }
        self.entries.append(&mut entries);
        Ok(())
    }

    async fn write(mut self, tx: &mut PgConnection) -> Result<Vec<LogEntry>> {
        self.controls.insert(tx).await?;
        append(tx, &mut self.entries).await?;
        Ok(self.entries)
    }
}

/// The columns of `controls` apart, for `UNNEST`.
#[derive(Default)]
struct ControlColumns {
    service: Vec<i64>,
    applied: Vec<i64>,
    at: Vec<i64>,
    control: Vec<String>,
}

impl ControlColumns {
    fn push(&mut self, id: ServiceId, applied: Applied, at: Timestamp, control: &Control<Thresholds>) -> Result<()> {
        self.service.push(id.as_i64());
        self.applied.push(rows::number(applied.0));
        self.at.push(at.as_micros());
        self.control.push(rows::json(control)?);
        Ok(())
    }

    async fn insert(self, tx: &mut PgConnection) -> Result<()> {
        if self.service.is_empty() {
            return Ok(());
        }
        sql("INSERT INTO controls (service_id, applied, at, control) \
             SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::text[])")
        .bind(self.service)
        .bind(self.applied)
        .bind(self.at)
        .bind(self.control)
        .execute(tx)
        .await
        .map_err(from_sqlx)?;
        Ok(())
    }
}
