//! Sums of results over any span: of whole hours that are summed already, and of the rest result by
//! result.

use healthmon_core::{
    id::ServiceId,
    ports::StoreError,
    probe::Kind,
    summary::{Counts, Histogram, RegionSummary, Summed},
    time::{Slot, Timestamp},
};
use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow};

use super::{
    PostgresResultStore,
    connect::sql,
    error::{bad_row, from_sqlx},
    rollups::{HOUR_MS, groups, hour_of, number},
    rows::{self, SERVICE_COLUMNS},
};
use crate::sums::{Group, Sums};

type Result<T> = std::result::Result<T, StoreError>;

/// Which parts of a span are read from where.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    /// The span, in milliseconds.
    span: (i64, i64),
    /// From this hour to before that one by the hours' sums, but for those whose sums are to be made again.
    hours: (i64, i64),
    /// Hours in between that are added up result by result.
    late: Vec<i64>,
}

impl Parts {
    /// `done`: hours before this one are summed. `kept`: from this millisecond on single results are there.
    fn of(asked: (i64, i64), done: i64, kept: i64) -> Self {
        let (mut from, mut to) = asked;
        // What is not there any more cannot be cut within an hour.
        let begin = hour_of(from.saturating_add(HOUR_MS - 1));
        if from < kept && begin <= done {
            from = begin.saturating_mul(HOUR_MS);
        }
        if to < kept && hour_of(to) < done {
            to = hour_of(to) * HOUR_MS;
        }
        if (from, to) != asked {
            to = to.max(from);
        }
        let end = hour_of(to).min(done);
        Self { span: (from, to), hours: (begin, end.max(begin)), late: Vec::new() }
    }

    /// The spans that are added up result by result.
    fn raw(&self) -> Vec<(i64, i64)> {
        let ((from, to), (begin, end)) = (self.span, self.hours);
        let spans = if begin < end { vec![(from, begin * HOUR_MS), (end * HOUR_MS, to)] } else { vec![(from, to)] };
        let late = self.late.iter().map(|hour| (hour * HOUR_MS, (hour + 1) * HOUR_MS));
        spans.into_iter().chain(late).filter(|(from, to)| from < to).collect()
    }
}

impl PostgresResultStore {
    pub(super) async fn read_summary(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>> {
        // One snapshot for all of it.
        let mut tx = self.postgres.begin_reading().await?;
        let service = format!(
            "SELECT {SERVICE_COLUMNS}, (SELECT hour FROM rollup_progress), \
             (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM services s WHERE s.id = $1"
        );
        let row = sql(AssertSqlSafe(service)).bind(id.as_i64()).fetch_optional(&mut *tx).await.map_err(from_sqlx)?;
        let Some(row) = row else { return Ok(None) };
        let done: Option<i32> = row.try_get(8).map_err(from_sqlx)?;
        let now = Timestamp::from_micros(row.try_get(9).map_err(from_sqlx)?);
        let kept = now.before(self.postgres.options().retention).as_millis();
        let mut parts = Parts::of((from.as_millis(), to.as_millis()), done.map_or(i64::MIN, i64::from), kept);
        let mut sums = Sums::default();
        if parts.hours.0 < parts.hours.1 {
            add_hours(&mut tx, id, &mut parts, kept, &mut sums).await?;
        }
        add_results(&mut tx, id, &parts.raw(), &mut sums).await?;
        tx.commit().await.map_err(from_sqlx)?;
        let (from, to) = (Slot::from_millis(parts.span.0), Slot::from_millis(parts.span.1));
        Ok(Some(Summed { service: rows::service(&row)?, from, to, summary: sums.summary().map_err(bad_row)? }))
    }
}

/// Adds the sums of whole hours, but for those that are to be made again, and finds out which those are.
async fn add_hours(tx: &mut PgConnection, id: ServiceId, parts: &mut Parts, kept: i64, sums: &mut Sums) -> Result<()> {
    let (begin, end) = (number(parts.hours.0), number(parts.hours.1));
    // An hour whose results are going is not made again.
    let late = "SELECT hour FROM rollup_late WHERE service_id = $1 AND hour >= $2 AND hour < $3 AND hour >= $4";
    let whole = number(hour_of(kept.saturating_add(HOUR_MS - 1)));
    let query = format!(
        "SELECT u.hour, u.newest, u.pass, u.slow, u.fail, u.indeterminate, g.name, u.latency FROM rollups u \
         JOIN regions g ON g.id = u.region_id WHERE u.service_id = $1 AND u.hour >= $2 AND u.hour < $3 \
         AND u.hour NOT IN ({late}) UNION ALL SELECT hour, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM ({late}) l"
    );
    let read = sql(AssertSqlSafe(query)).bind(id.as_i64()).bind(begin).bind(end).bind(whole).fetch_all(tx).await;
    for row in &read.map_err(from_sqlx)? {
        let hour = i64::from(row.try_get::<i32, _>(0).map_err(from_sqlx)?);
        match row.try_get::<Option<&str>, _>(6).map_err(from_sqlx)? {
            None => parts.late.push(hour),
            Some(region) => sums.of(region).merge(&hour_sum(row, hour)?),
        }
    }
    Ok(())
}

fn hour_sum(row: &PgRow, hour: i64) -> Result<RegionSummary> {
    let get = |i: usize| row.try_get::<i32, _>(i).map(i64::from).map_err(from_sqlx);
    let count = |i: usize| get(i).map(rows::counter);
    Ok(RegionSummary {
        counts: Counts { pass: count(2)?, slow: count(3)?, fail: count(4)?, indeterminate: count(5)? },
        latency: Histogram::decode(row.try_get(7).map_err(from_sqlx)?).map_err(bad_row)?,
        newest: Some(Slot::from_millis(hour * HOUR_MS + get(1)?)),
    })
}

/// Adds up the results of these spans, one by one.
async fn add_results(tx: &mut PgConnection, id: ServiceId, spans: &[(i64, i64)], sums: &mut Sums) -> Result<()> {
    let (from, to): (Vec<i64>, Vec<i64>) = spans.iter().copied().unzip();
    let (Some(first), Some(last)) = (from.iter().min().copied(), to.iter().max().copied()) else { return Ok(()) };
    // The outer bounds let the planner leave partitions out; the inner ones are each span's.
    let query = format!(
        "SELECT g.name, s.outcome, s.bucket, s.count, s.newest FROM UNNEST($2::bigint[], $3::bigint[]) AS w (f, t) \
         CROSS JOIN LATERAL ({} WHERE service_id = $1 AND kind = {} AND slot >= w.f AND slot < w.t \
         AND slot >= $4 AND slot < $5 GROUP BY 1, 2, 3) s JOIN regions g ON g.id = s.region_id",
        groups(),
        Kind::Scheduled.code(),
    );
    let read = sql(AssertSqlSafe(query)).bind(id.as_i64()).bind(&from).bind(&to).bind(first).bind(last);
    for row in &read.fetch_all(tx).await.map_err(from_sqlx)? {
        let get = |i: usize| row.try_get::<i64, _>(i).map_err(from_sqlx);
        let (outcome, bucket): (i16, i32) = (row.try_get(1).map_err(from_sqlx)?, row.try_get(2).map_err(from_sqlx)?);
        let region = row.try_get(0).map_err(from_sqlx)?;
        let (outcome, bucket, count) = (outcome.into(), bucket.into(), rows::counter(get(3)?));
        sums.add(&Group { region, outcome, bucket, count, newest: get(4)? }).map_err(bad_row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: i64 = HOUR_MS;

    #[test]
    fn a_span_is_cut_into_whole_hours_and_what_is_left_over() {
        let parts = |from, to, done, kept| {
            let parts = Parts::of((from, to), done, kept);
            (parts.span, parts.hours, parts.raw())
        };
        let both_ends = ((H + 1, 4 * H + 2), (2, 4), vec![(H + 1, 2 * H), (4 * H, 4 * H + 2)]);
        assert_eq!(parts(H + 1, 4 * H + 2, 10, 0), both_ends);
        assert_eq!(parts(H, 4 * H, 10, 0), ((H, 4 * H), (1, 4), vec![]), "whole hours alone");
        assert_eq!(parts(H, 4 * H, 2, 0).2, [(2 * H, 4 * H)], "what is not summed yet");
        assert_eq!(parts(H, 4 * H, i64::MIN, 0).2, [(H, 4 * H)], "nothing is");
        assert_eq!(parts(H + 1, H + 2, 10, 0).2, [(H + 1, H + 2)], "within an hour");
        assert_eq!(parts(H + 2, H + 1, 10, 0).2, [], "nothing at all");
        let gone = ((2 * H, 4 * H), (2, 4), vec![]);
        assert_eq!(parts(H + 1, 4 * H + 2, 10, 5 * H), gone, "single results are gone at both ends");
        assert_eq!(parts(H + 1, 4 * H + 2, 10, 4 * H).0, (2 * H, 4 * H + 2), "at one");
        assert_eq!(parts(H + 1, H + 2, 10, 5 * H).2, [], "and of so short a span there is nothing");
        let late = Parts { late: vec![3], ..Parts::of((H + 1, 5 * H), 10, 0) };
        assert_eq!(late.raw(), [(H + 1, 2 * H), (3 * H, 4 * H)], "sums to be made again");
    }
}
