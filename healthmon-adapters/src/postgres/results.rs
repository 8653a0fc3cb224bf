//! Writing rows of `results`, many at a time.

use healthmon_core::{id::Applied, probe::ProbeResult, time::Timestamp};
use sqlx::{PgConnection, Postgres, postgres::PgArguments, query::Query};

use super::{connect::sql, rows};

/// The columns of `results` apart, for `unnest`.
#[derive(Default)]
pub(super) struct ResultColumns {
    service: Vec<i64>,
    slot: Vec<i64>,
    delay: Vec<i64>,
    applied: Vec<Option<i64>>,
    certificate: Vec<Option<i64>>,
    latency: Vec<i32>,
    epoch: Vec<i32>,
    dns: Vec<Option<i32>>,
    connect: Vec<Option<i32>>,
    tls: Vec<Option<i32>>,
    first_byte: Vec<Option<i32>>,
    region: Vec<i16>,
    kind: Vec<i16>,
    outcome: Vec<i16>,
    reason: Vec<Option<i16>>,
    code: Vec<Option<i16>>,
    detail: Vec<Option<String>>,
}

impl ResultColumns {
    pub(super) fn push(&mut self, result: &ProbeResult, region: i16, applied: Option<Applied>) {
        let (id, seen) = (&result.id, &result.seen);
        self.service.push(id.service.as_i64());
        self.slot.push(id.slot.as_millis());
        self.delay.push(result.started.as_micros().saturating_sub(id.slot.time().as_micros()));
        self.applied.push(applied.map(|applied| rows::number(applied.0)));
        self.certificate.push(seen.certificate_expires.map(Timestamp::as_micros));
        self.latency.push(seen.latency_us.cast_signed());
        self.epoch.push(result.epoch.0.cast_signed());
        self.dns.push(seen.phases.dns_us.map(u32::cast_signed));
        self.connect.push(seen.phases.connect_us.map(u32::cast_signed));
        self.tls.push(seen.phases.tls_us.map(u32::cast_signed));
        self.first_byte.push(seen.phases.first_byte_us.map(u32::cast_signed));
        self.region.push(region);
        self.kind.push(id.kind.code());
        self.outcome.push(seen.outcome.code());
        self.reason.push(seen.outcome.reason().map(|reason| reason.code()));
        self.code.push(seen.code.map(u16::cast_signed));
        self.detail.push(seen.detail.as_deref().map(ToOwned::to_owned));
    }

    /// The services, and the slots in milliseconds.
    pub(super) fn places(&self) -> impl Iterator<Item = (i64, i64)> {
        self.service.iter().copied().zip(self.slot.iter().copied())
    }

    /// Binds them as the parameters 1 to 17, in the order of the fields.
    pub(super) fn bind_to(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        query
            .bind(self.service)
            .bind(self.slot)
            .bind(self.delay)
            .bind(self.applied)
            .bind(self.certificate)
            .bind(self.latency)
            .bind(self.epoch)
            .bind(self.dns)
            .bind(self.connect)
            .bind(self.tls)
            .bind(self.first_byte)
            .bind(self.region)
            .bind(self.kind)
            .bind(self.outcome)
            .bind(self.reason)
            .bind(self.code)
            .bind(self.detail)
    }

    /// Inserts these rows, none of which is there: their services' states are locked, and it was looked.
    ///
    /// COPY would be cheaper, and must not be used while anything is locked: a server that waits for its
    /// rows is not idle, and minds no limit on its statements either, so that a process suspended there
    /// would keep its locks for as long as its connection lives.
    pub(super) async fn insert(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        if self.service.is_empty() {
            return Ok(());
        }
        // In `FROM` each column would be written to a store of its own and read from there first.
        let insert = sql(
            "INSERT INTO results (service_id, slot, delay, applied, certificate, latency, epoch, dns, connect, tls, \
             first_byte, region_id, kind, outcome, reason, code, detail) SELECT unnest($1::bigint[]), \
             unnest($2::bigint[]), unnest($3::bigint[]), unnest($4::bigint[]), unnest($5::bigint[]), \
             unnest($6::integer[]), unnest($7::integer[]), unnest($8::integer[]), unnest($9::integer[]), \
             unnest($10::integer[]), unnest($11::integer[]), unnest($12::smallint[]), unnest($13::smallint[]), \
             unnest($14::smallint[]), unnest($15::smallint[]), unnest($16::smallint[]), unnest($17::text[])",
        );
        self.bind_to(insert).execute(tx).await?;
        Ok(())
    }
}
