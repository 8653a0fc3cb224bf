//! Between rows and nouns.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use healthmon_core::{
    engine::{State, Thresholds},
    id::{Applied, Epoch, Region, Revision, Seq, ServiceId},
    ports::{ServiceView, StoreError, StoredResult},
    probe::{Kind, Observation, Outcome, Phases, ProbeId, ProbeResult, Reason},
    service::{Activity, Service},
    status::{LogEntry, Overlay, Status},
    time::{Slot, Timestamp},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::error::{bad_row, from_sqlx};

type Result<T> = std::result::Result<T, StoreError>;

/// What `snapshot` holds for a service.
pub(super) fn state(snapshot: &[u8]) -> Result<State<Thresholds>> {
    State::from_snapshot(snapshot).map_err(bad_row)
}

pub(super) fn service_id(id: i64) -> Result<ServiceId> {
    ServiceId::try_from(id).map_err(bad_row)
}

/// Ids as a JSON list, for `json_each`: one parameter however many there are.
pub(super) fn id_list<'a>(ids: impl Iterator<Item = &'a ServiceId>) -> String {
    let numbers: Vec<String> = ids.map(ServiceId::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// A counter as SQLite keeps it: they start at 0 and never reach 2^63.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn counter(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) const OVERLAYS: [(Overlay, i64); 3] = [(Overlay::Blind, 1), (Overlay::Paused, 2), (Overlay::Maintenance, 4)];

pub(super) fn overlay_bits(state: &State<Thresholds>) -> i64 {
    OVERLAYS.iter().filter(|(overlay, _)| state.has(*overlay)).map(|(_, bit)| bit).sum()
}

pub(super) fn activity_name(activity: Activity) -> &'static str {
    match activity {
        Activity::Active => "active",
        Activity::Paused => "paused",
        Activity::Deleted => "deleted",
    }
}

/// The columns of `services` in the order that [`service`] reads them.
pub(super) const SERVICE_COLUMNS: &str =
    "s.id, s.settings, s.activity, s.revision, s.epoch, s.created_at, s.updated_at, s.scheduled_since";

pub(super) fn service(row: &SqliteRow) -> Result<Service> {
    let get = |i: usize| row.try_get::<i64, _>(i).map_err(from_sqlx);
    let settings: &str = row.try_get(1).map_err(from_sqlx)?;
    let activity = match row.try_get::<&str, _>(2).map_err(from_sqlx)? {
        "active" => Activity::Active,
        "paused" => Activity::Paused,
        "deleted" => Activity::Deleted,
        other => return Err(bad_row(format_args!("activity {other:?}"))),
    };
    Ok(Service {
        id: service_id(get(0)?)?,
        settings: serde_json::from_str(settings).map_err(bad_row)?,
        activity,
        revision: Revision(counter(get(3)?)),
        epoch: Epoch(u32::try_from(get(4)?).map_err(bad_row)?),
        created_at: Timestamp::from_micros(get(5)?),
        updated_at: Timestamp::from_micros(get(6)?),
        scheduled_since: Timestamp::from_micros(get(7)?),
    })
}

/// The columns that [`view`] reads behind those of the service.
pub(super) const VIEW_COLUMNS: &str = "t.announced, t.overlays, t.since, t.maintenance_until";

/// All but the newest result, which stands in another table.
pub(super) fn view(row: &SqliteRow) -> Result<ServiceView> {
    let announced: &str = row.try_get(8).map_err(from_sqlx)?;
    let bits: i64 = row.try_get(9).map_err(from_sqlx)?;
    let until: Option<i64> = row.try_get(11).map_err(from_sqlx)?;
    Ok(ServiceView {
        service: service(row)?,
        status: Status::from_name(announced).ok_or_else(|| bad_row(format_args!("status {announced:?}")))?,
        since: Timestamp::from_micros(row.try_get(10).map_err(from_sqlx)?),
        overlays: OVERLAYS.iter().filter(|(_, bit)| bits & bit != 0).map(|(overlay, _)| *overlay).collect(),
        maintenance_until: until.map(Timestamp::from_micros),
        last: None,
    })
}

pub(super) fn entry(row: &SqliteRow) -> Result<LogEntry> {
    let mut entry: LogEntry = serde_json::from_str(row.try_get(1).map_err(from_sqlx)?).map_err(bad_row)?;
    entry.seq = Seq(counter(row.try_get(0).map_err(from_sqlx)?));
    Ok(entry)
}

/// The columns of `results` in the order that [`result`] reads them.
pub(super) const RESULT_COLUMNS: &str = "service_id, slot, region_id, kind, epoch, delay, latency, outcome, reason, \
     dns, connect, tls, first_byte, code, certificate, detail, applied";

/// Where among them the region's number is.
const REGION_COLUMN: usize = 2;

pub(super) fn result(row: &SqliteRow, regions: &Regions) -> Result<StoredResult> {
    let get = |i: usize| row.try_get::<i64, _>(i).map_err(from_sqlx);
    let opt = |i: usize| row.try_get::<Option<i64>, _>(i).map_err(from_sqlx);
    let micros = |i: usize| Ok::<_, StoreError>(opt(i)?.map(|us| u32::try_from(us).unwrap_or(u32::MAX)));
    let slot = Slot::from_millis(get(1)?);
    let reason = opt(8)?.and_then(Reason::from_code);
    let kind = get(3)?;
    let detail: Option<&str> = row.try_get(15).map_err(from_sqlx)?;
    let result = ProbeResult {
        id: ProbeId {
            service: service_id(get(0)?)?,
            slot,
            region: regions.name(get(REGION_COLUMN)?)?,
            kind: Kind::from_code(kind).ok_or_else(|| bad_row(format_args!("kind {kind}")))?,
        },
        epoch: Epoch(u32::try_from(get(4)?).map_err(bad_row)?),
        started: Timestamp::from_micros(slot.time().as_micros().saturating_add(get(5)?)),
        seen: Observation {
            outcome: Outcome::from_code(get(7)?, reason).ok_or_else(|| bad_row("an outcome"))?,
            latency_us: micros(6)?.unwrap_or(0),
            phases: Phases {
                dns_us: micros(9)?,
                connect_us: micros(10)?,
                tls_us: micros(11)?,
                first_byte_us: micros(12)?,
            },
            code: opt(13)?.and_then(|code| u16::try_from(code).ok()),
            certificate_expires: opt(14)?.map(Timestamp::from_micros),
            detail: detail.map(Into::into),
        },
    };
    Ok(StoredResult { result, applied: opt(16)?.map(|applied| Applied(counter(applied))) })
}

/// The regions' numbers in this file; there are few, and they never change.
#[derive(Debug, Default)]
pub(super) struct Regions(RwLock<Known>);

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<Region, i64>,
    names: HashMap<i64, Region>,
}

impl Regions {
    pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Self> {
        let regions = Self::default();
        regions.refresh(connection).await?;
        Ok(regions)
    }

    /// Learns what other programs that have the file open have numbered meanwhile.
    pub(super) async fn refresh(&self, connection: &mut SqliteConnection) -> Result<()> {
        let rows = sqlx::query("SELECT id, name FROM regions").fetch_all(connection).await.map_err(from_sqlx)?;
        for row in rows {
            let name: &str = row.try_get(1).map_err(from_sqlx)?;
            self.learn(Region::new(name).map_err(bad_row)?, row.try_get(0).map_err(from_sqlx)?);
        }
        Ok(())
    }

    fn learn(&self, region: Region, number: i64) {
        // One name for `local` however many rows are read.
        let region = if region == Region::default() { Region::default() } else { region };
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.names.insert(number, region.clone());
        known.numbers.insert(region, number);
    }

    pub(super) fn name(&self, number: i64) -> Result<Region> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.names.get(&number).cloned().ok_or_else(|| bad_row(format_args!("region {number}")))
    }

    /// Whether every one of these rows is of a region whose name is known.
    pub(super) fn know(&self, rows: &[SqliteRow]) -> Result<bool> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            if !known.names.contains_key(&row.try_get(REGION_COLUMN).map_err(from_sqlx)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn known_number(&self, region: &Region) -> Option<i64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).numbers.get(region).copied()
    }

    /// Gives a number to a region that has none. Outside any transaction: numbers are for ever.
    pub(super) async fn give_number(&self, region: &Region, connection: &mut SqliteConnection) -> Result<()> {
        let row = sqlx::query(
            "INSERT INTO regions (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
        )
        .bind(region.as_str())
        .fetch_one(connection)
        .await
        .map_err(from_sqlx)?;
        self.learn(region.clone(), row.try_get(0).map_err(from_sqlx)?);
        Ok(())
    }
}
