//! Writing rows of `results`, many at a time.

use healthmon_core::{id::Applied, probe::ProbeResult, time::Timestamp};
use sqlx::{PgConnection, Postgres, postgres::PgArguments, query::Query};

use super::rows;

/// The columns of `results` apart, for `UNNEST`.
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
    /// Copied rather than inserted: the server then fills pages instead of placing rows, and logs them
    /// so, at half the cost.
    pub(super) async fn insert(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        const COPY: &str = "COPY results (service_id, slot, delay, applied, certificate, latency, epoch, dns, connect, \
             tls, first_byte, region_id, kind, outcome, reason, code, detail) FROM STDIN WITH (FORMAT binary)";
        if self.service.is_empty() {
            return Ok(());
        }
        let rows = self.binary();
        let mut copy = tx.copy_in_raw(COPY).await?;
        if let Err(error) = copy.send(rows).await {
            copy.abort("it cannot be sent").await.ok();
            return Err(error);
        }
        copy.finish().await.map(drop)
    }

    /// The rows as COPY reads them: <https://www.postgresql.org/docs/current/sql-copy.html>, Binary Format.
    fn binary(&self) -> Vec<u8> {
        const COLUMNS: i16 = 17;
        let mut out = Vec::with_capacity(32 + self.service.len() * 160);
        out.extend_from_slice(b"PGCOPY\n\xff\r\n\0");
        // No flags, and no more header.
        out.extend_from_slice(&[0; 8]);
        for row in 0..self.service.len() {
            out.extend_from_slice(&COLUMNS.to_be_bytes());
            for value in [Some(self.service[row]), Some(self.slot[row]), Some(self.delay[row])] {
                field(&mut out, value.map(i64::to_be_bytes));
            }
            for value in [self.applied[row], self.certificate[row]] {
                field(&mut out, value.map(i64::to_be_bytes));
            }
            for value in [Some(self.latency[row]), Some(self.epoch[row]), self.dns[row], self.connect[row]] {
                field(&mut out, value.map(i32::to_be_bytes));
            }
            for value in [self.tls[row], self.first_byte[row]] {
                field(&mut out, value.map(i32::to_be_bytes));
            }
            for value in [Some(self.region[row]), Some(self.kind[row]), Some(self.outcome[row])] {
                field(&mut out, value.map(i16::to_be_bytes));
            }
            for value in [self.reason[row], self.code[row]] {
                field(&mut out, value.map(i16::to_be_bytes));
            }
            field(&mut out, self.detail[row].as_deref());
        }
        out.extend_from_slice(&(-1_i16).to_be_bytes());
        out
    }
}

/// A column: its length and its bytes; the length -1 is NULL.
fn field(out: &mut Vec<u8>, value: Option<impl AsRef<[u8]>>) {
    match value {
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Some(value) => {
            let value = value.as_ref();
            out.extend_from_slice(&i32::try_from(value.len()).unwrap_or(i32::MAX).to_be_bytes());
            out.extend_from_slice(value);
        }
    }
}
