//! Between rows and nouns.

use healthmon_core::{
    id::{Epoch, Revision, ServiceId},
    ports::StoreError,
    service::{Activity, Service},
    time::Timestamp,
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
