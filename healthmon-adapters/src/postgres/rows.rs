//! Between rows and nouns.

use healthmon_core::{
    engine::{State, Thresholds},
    id::{Applied, Epoch, Region, Revision, Seq, ServiceId},
    ports::{LastResult, ServiceView, StoreError, StoredResult},
    probe::{Kind, Observation, Outcome, Phases, ProbeId, ProbeResult, Reason},
    service::{Activity, Service},
    status::{LogEntry, Overlay, Status},
    time::{Slot, Timestamp},
};
use sqlx::{Row, postgres::PgRow};

use super::error::{bad_row, from_sqlx};

type Result<T> = std::result::Result<T, StoreError>;

pub(super) fn service_id(id: i64) -> Result<ServiceId> {
    ServiceId::try_from(id).map_err(bad_row)
}

/// A counter as PostgreSQL keeps it: they start at 0 and never reach 2^63.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn counter(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The columns of `services s` in the order that [`service`] reads them.
pub(super) const SERVICE_COLUMNS: &str =
    "s.id, s.settings, s.activity, s.revision, s.epoch, s.created_at, s.updated_at, s.scheduled_since";

/// The service that a row's first columns hold.
pub(super) fn service(row: &PgRow) -> Result<Service> {
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
        epoch: Epoch(row.try_get::<i32, _>(4).map_err(from_sqlx)?.cast_unsigned()),
        created_at: Timestamp::from_micros(get(5)?),
        updated_at: Timestamp::from_micros(get(6)?),
        scheduled_since: Timestamp::from_micros(get(7)?),
    })
}

/// What `snapshot` holds for a service.
pub(super) fn state(snapshot: &[u8]) -> Result<State<Thresholds>> {
    State::from_snapshot(snapshot).map_err(bad_row)
}

pub(super) fn activity_name(activity: Activity) -> &'static str {
    match activity {
        Activity::Active => "active",
        Activity::Paused => "paused",
        Activity::Deleted => "deleted",
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(bad_row)
}

const OVERLAYS: [(Overlay, i16); 3] = [(Overlay::Blind, 1), (Overlay::Paused, 2), (Overlay::Maintenance, 4)];

pub(super) fn overlay_bits(state: &State<Thresholds>) -> i16 {
    OVERLAYS.iter().filter(|(overlay, _)| state.has(*overlay)).map(|(_, bit)| bit).sum()
}

/// The columns of `states t` and of the newest result `r` that [`view`] reads behind those of the service.
pub(super) const VIEW_COLUMNS: &str = "t.announced, t.overlays, t.since, t.maintenance_until, \
     r.slot, r.delay, r.latency, r.outcome, r.reason, r.certificate, r.detail";

/// The newest result of each row of `states t`, for [`VIEW_COLUMNS`].
pub(super) const NEWEST: &str = "LEFT JOIN LATERAL (SELECT * FROM results n \
     WHERE n.service_id = t.service_id AND n.slot = t.stored_through \
     ORDER BY n.region_id DESC, n.kind DESC LIMIT 1) r ON true";

pub(super) fn view(row: &PgRow) -> Result<ServiceView> {
    let announced: &str = row.try_get(8).map_err(from_sqlx)?;
    let bits: i16 = row.try_get(9).map_err(from_sqlx)?;
    let until: Option<i64> = row.try_get(11).map_err(from_sqlx)?;
    Ok(ServiceView {
        service: service(row)?,
        status: Status::from_name(announced).ok_or_else(|| bad_row(format_args!("status {announced:?}")))?,
        since: Timestamp::from_micros(row.try_get(10).map_err(from_sqlx)?),
        overlays: OVERLAYS.iter().filter(|(_, bit)| bits & bit != 0).map(|(overlay, _)| *overlay).collect(),
        maintenance_until: until.map(Timestamp::from_micros),
        last: last(row)?,
    })
}

fn last(row: &PgRow) -> Result<Option<LastResult>> {
    let Some(slot) = row.try_get::<Option<i64>, _>(12).map_err(from_sqlx)? else { return Ok(None) };
    let slot = Slot::from_millis(slot);
    let outcome = outcome(row, 15, 16)?;
    let certificate: Option<i64> = row.try_get(17).map_err(from_sqlx)?;
    Ok(Some(LastResult {
        slot,
        started: started(slot, row.try_get(13).map_err(from_sqlx)?),
        outcome: outcome.as_str().to_owned(),
        reason: outcome.reason(),
        latency_us: row.try_get::<i32, _>(14).map_err(from_sqlx)?.cast_unsigned(),
        detail: row.try_get::<Option<&str>, _>(18).map_err(from_sqlx)?.map(Into::into),
        certificate_expires: certificate.map(Timestamp::from_micros),
    }))
}

fn started(slot: Slot, delay: i64) -> Timestamp {
    Timestamp::from_micros(slot.time().as_micros().saturating_add(delay))
}

fn outcome(row: &PgRow, code: usize, reason: usize) -> Result<Outcome> {
    let reason: Option<i16> = row.try_get(reason).map_err(from_sqlx)?;
    let code: i16 = row.try_get(code).map_err(from_sqlx)?;
    let reason = reason.and_then(|reason| Reason::from_code(reason.into()));
    Outcome::from_code(code.into(), reason).ok_or_else(|| bad_row(format_args!("outcome {code}")))
}

pub(super) fn entry(row: &PgRow) -> Result<LogEntry> {
    let mut entry: LogEntry = serde_json::from_str(row.try_get(1).map_err(from_sqlx)?).map_err(bad_row)?;
    entry.seq = Seq(counter(row.try_get(0).map_err(from_sqlx)?));
    Ok(entry)
}

/// The columns of `results r` and `regions g` in the order that [`result`] reads them.
pub(super) const RESULT_COLUMNS: &str = "r.service_id, r.slot, r.delay, r.applied, r.certificate, r.latency, r.epoch, \
     r.dns, r.connect, r.tls, r.first_byte, g.name, r.kind, r.outcome, r.reason, r.code, r.detail";

pub(super) fn result(row: &PgRow) -> Result<StoredResult> {
    let long = |i: usize| row.try_get::<i64, _>(i).map_err(from_sqlx);
    let maybe = |i: usize| row.try_get::<Option<i64>, _>(i).map_err(from_sqlx);
    let int = |i: usize| row.try_get::<Option<i32>, _>(i).map(|n| n.map(i32::cast_unsigned)).map_err(from_sqlx);
    let kind: i16 = row.try_get(12).map_err(from_sqlx)?;
    let slot = Slot::from_millis(long(1)?);
    let result = ProbeResult {
        id: ProbeId {
            service: service_id(long(0)?)?,
            slot,
            region: region(row.try_get(11).map_err(from_sqlx)?)?,
            kind: Kind::from_code(kind.into()).ok_or_else(|| bad_row(format_args!("kind {kind}")))?,
        },
        epoch: Epoch(int(6)?.unwrap_or_default()),
        started: started(slot, long(2)?),
        seen: Observation {
            outcome: outcome(row, 13, 14)?,
            latency_us: int(5)?.unwrap_or_default(),
            phases: Phases { dns_us: int(7)?, connect_us: int(8)?, tls_us: int(9)?, first_byte_us: int(10)? },
            code: row.try_get::<Option<i16>, _>(15).map_err(from_sqlx)?.map(i16::cast_unsigned),
            certificate_expires: maybe(4)?.map(Timestamp::from_micros),
            detail: row.try_get::<Option<&str>, _>(16).map_err(from_sqlx)?.map(Into::into),
        },
    };
    Ok(StoredResult { result, applied: maybe(3)?.map(|applied| Applied(counter(applied))) })
}

/// One name for `local` however many rows are read.
fn region(name: &str) -> Result<Region> {
    if name == Region::default().as_str() { Ok(Region::default()) } else { Region::new(name).map_err(bad_row) }
}
