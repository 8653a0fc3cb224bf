//! Queries. Each is one read-only transaction, so that a pooler keeps it on one connection.

use std::collections::BTreeMap;

use healthmon_core::{
    engine::{Control, Input, Sighting, State, Thresholds},
    id::{Applied, Revision, Seq, ServiceId},
    ports::{AppliedInput, ResultQuery, ServiceFilter, ServiceView, StoreError, StoredResult},
    probe::{ProbeId, Reason},
    service::Service,
    status::LogEntry,
};
use sqlx::{
    AssertSqlSafe, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::{
    PostgresResultStore,
    connect::sql,
    error::{bad_row, from_sqlx, unless_bad},
    rows::{self, NEWEST, RESULT_COLUMNS, SERVICE_COLUMNS, VIEW_COLUMNS},
};

type Result<T> = std::result::Result<T, StoreError>;

/// How many services are looked through at a time for those that meet a filter.
const FILTER_PAGE: usize = 1_000;

impl PostgresResultStore {
    /// Runs one query in a transaction of its own.
    async fn all(&self, query: Query<'_, sqlx::Postgres, PgArguments>) -> Result<Vec<PgRow>> {
        let mut tx = self.postgres.begin_reading().await?;
        let read = query.fetch_all(&mut *tx).await.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        Ok(read)
    }

    pub(super) async fn read_service(&self, id: ServiceId) -> Result<Option<ServiceView>> {
        let query = format!(
            "SELECT {SERVICE_COLUMNS}, {VIEW_COLUMNS} FROM services s JOIN states t ON t.service_id = s.id {NEWEST} \
             WHERE s.id = $1 AND s.activity <> 'deleted'"
        );
        let read = self.all(sql(AssertSqlSafe(query)).bind(id.as_i64())).await?;
        read.first().map(rows::view).transpose()
    }

    pub(super) async fn read_services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: usize,
    ) -> Result<Vec<ServiceView>> {
        let query = format!(
            "SELECT {SERVICE_COLUMNS}, {VIEW_COLUMNS} FROM services s JOIN states t ON t.service_id = s.id {NEWEST} \
             WHERE s.id > $1 AND s.activity <> 'deleted' AND ($2::text IS NULL OR t.announced = $2) \
             AND ($3::text IS NULL OR s.group_name = $3) ORDER BY s.id LIMIT $4"
        );
        // Tags and text are looked at row by row; the rest PostgreSQL finds by itself.
        let by_row = !filter.tags.is_empty() || filter.text.is_some();
        let page = if by_row { FILTER_PAGE } else { limit };
        let (mut found, mut after) = (Vec::new(), after.map_or(0, ServiceId::as_i64));
        loop {
            let page_of = sql(AssertSqlSafe(query.clone()))
                .bind(after)
                .bind(filter.status.map(|status| status.as_str()))
                .bind(filter.group.as_deref())
                .bind(rows::number(page as u64));
            let read = self.all(page_of).await?;
            for row in &read {
                after = row.try_get(0).map_err(from_sqlx)?;
                let Some(view) = unless_bad(rows::view(row))? else { continue };
                if found.len() < limit && filter.admits(&view.service, view.status) {
                    found.push(view);
                }
            }
            if read.len() < page || found.len() == limit {
                return Ok(found);
            }
        }
    }

    pub(super) async fn read_changes(&self, after: Revision, limit: usize) -> Result<Vec<Service>> {
        let query =
            format!("SELECT {SERVICE_COLUMNS} FROM services s WHERE s.revision > $1 ORDER BY s.revision LIMIT $2");
        let page = sql(AssertSqlSafe(query)).bind(rows::number(after.0)).bind(rows::number(limit as u64));
        // One damaged row must not keep the others from being scheduled.
        self.all(page).await?.iter().filter_map(|row| unless_bad(rows::service(row)).transpose()).collect()
    }

    pub(super) async fn read_results(
        &self,
        id: ServiceId,
        query: &ResultQuery,
        limit: usize,
    ) -> Result<Vec<StoredResult>> {
        let before = query.before.as_ref();
        let to = query.to.map_or(i64::MAX, |slot| slot.as_millis());
        let page = sql(AssertSqlSafe(page_of_results(query.outcome, query.reason)))
            .bind(id.as_i64())
            .bind(query.from.map_or(i64::MIN, |slot| slot.as_millis()))
            .bind(before.map_or(to, |key| to.min(key.slot.as_millis())))
            .bind(before.map_or(to, |key| to.min(key.slot.as_millis().saturating_add(1))))
            .bind(before.is_none())
            .bind(before.map_or(0, |key| key.slot.as_millis()))
            .bind(before.map_or("", |key| key.region.as_str()))
            .bind(before.map_or(0, |key| key.kind.code()))
            .bind(rows::number(limit as u64));
        self.all(page).await?.iter().map(rows::result).collect()
    }

    pub(super) async fn read_result(&self, id: &ProbeId) -> Result<Option<StoredResult>> {
        let query = format!(
            "SELECT {RESULT_COLUMNS} FROM results r JOIN regions g ON g.id = r.region_id \
             WHERE r.service_id = $1 AND r.slot = $2 AND g.name = $3 AND r.kind = $4"
        );
        let one = sql(AssertSqlSafe(query))
            .bind(id.service.as_i64())
            .bind(id.slot.as_millis())
            .bind(id.region.as_str())
            .bind(id.kind.code());
        self.all(one).await?.first().map(rows::result).transpose()
    }

    pub(super) async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LogEntry>> {
        let page = sql("SELECT seq, entry FROM log WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(rows::number(after.0))
            .bind(rows::number(limit as u64));
        let entries: Vec<LogEntry> = self.all(page).await?.iter().map(rows::entry).collect::<Result<_>>()?;
        self.head.saw(&entries);
        Ok(entries)
    }

    pub(super) async fn read_service_log(
        &self,
        id: ServiceId,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<LogEntry>> {
        let page = sql("SELECT seq, entry FROM log WHERE service_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3")
            .bind(id.as_i64())
            .bind(before.map_or(i64::MAX, |seq| rows::number(seq.0)))
            .bind(rows::number(limit as u64));
        self.all(page).await?.iter().map(rows::entry).collect()
    }

    pub(super) async fn read_inputs(&self, id: ServiceId, after: Applied, limit: usize) -> Result<Vec<AppliedInput>> {
        let (service, after, most) = (id.as_i64(), rows::number(after.0), rows::number(limit as u64));
        // One snapshot for both tables.
        let mut tx = self.postgres.begin_reading().await?;
        let controls = sql("SELECT applied, control FROM controls WHERE service_id = $1 AND applied > $2 \
             ORDER BY applied LIMIT $3")
        .bind(service)
        .bind(after)
        .bind(most)
        .fetch_all(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        let query = format!(
            "SELECT {RESULT_COLUMNS} FROM results r JOIN regions g ON g.id = r.region_id \
             WHERE r.service_id = $1 AND r.applied > $2 ORDER BY r.applied LIMIT $3"
        );
        let results = sql(AssertSqlSafe(query)).bind(service).bind(after).bind(most).fetch_all(&mut *tx).await;
        let results = results.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let mut inputs: BTreeMap<Applied, Input<Thresholds>> = BTreeMap::new();
        for row in &controls {
            let control: Control<Thresholds> =
                serde_json::from_str(row.try_get(1).map_err(from_sqlx)?).map_err(bad_row)?;
            let applied: i64 = row.try_get(0).map_err(from_sqlx)?;
            inputs.insert(Applied(rows::counter(applied)), Input::Control(control));
        }
        for row in &results {
            let StoredResult { result, applied } = rows::result(row)?;
            if let Some(applied) = applied {
                inputs.insert(applied, Input::Result(Sighting::of(&result)));
            }
        }
        Ok(inputs.into_iter().take(limit).map(|(applied, input)| AppliedInput { applied, input }).collect())
    }

    pub(super) async fn read_state(&self, id: ServiceId) -> Result<Option<State<Thresholds>>> {
        let read = self.all(sql("SELECT snapshot FROM states WHERE service_id = $1").bind(id.as_i64())).await?;
        let Some(row) = read.first() else { return Ok(None) };
        rows::state(row.try_get(0).map_err(from_sqlx)?).map(Some)
    }
}

/// A page of a service's results, newest first: $1 the service, $2 to $4 the slots, $5 whether it is the
/// first page, $6 to $8 the place it goes on from, $9 how many.
///
/// A region's number does not sort as its name does. So the index gives the slots first, newest
/// first, from one partition after the other until there are enough; what is sorted by name is no more
/// than they hold. The planner has no other way to do it, however little it knows of the tables.
///
/// Outcomes are written out: it is from them that the planner knows when the index of what did not
/// pass will do. Whatever has a reason did not.
fn page_of_results(outcome: Option<&str>, reason: Option<Reason>) -> String {
    let outcomes = match outcome {
        None => "",
        Some("pass") => "AND outcome = 0",
        Some("slow") => "AND outcome = 1",
        Some("fail") => "AND outcome IN (2, 3)",
        Some(_) => "AND outcome = 4",
    };
    let reasons = reason.map(|reason| format!("AND outcome <> 0 AND reason = {}", reason.code())).unwrap_or_default();
    let outcomes = format!("{outcomes} {reasons}");
    format!(
        "WITH newest AS (SELECT slot FROM results WHERE service_id = $1 AND slot >= $2 AND slot < $3 {outcomes} \
             ORDER BY slot DESC LIMIT $9) \
         SELECT {RESULT_COLUMNS} FROM results r JOIN regions g ON g.id = r.region_id \
         WHERE r.service_id = $1 AND r.slot < $4 {outcomes} \
         AND r.slot >= coalesce((SELECT min(slot) FROM newest HAVING count(*) >= $9), $2) \
         AND ($5 OR (r.slot, g.name, r.kind) < ($6, $7, $8)) \
         ORDER BY r.slot DESC, g.name DESC, r.kind DESC LIMIT $9"
    )
}
