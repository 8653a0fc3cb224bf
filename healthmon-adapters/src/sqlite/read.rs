//! Queries, answered by the readers, which never wait for the writer.

use std::collections::{BTreeMap, HashMap};

use healthmon_core::{
    engine::{Control, Input, Sighting, State, Thresholds},
    id::{Applied, Revision, Seq, ServiceId},
    ports::{AppliedInput, LastResult, ResultQuery, ServiceFilter, ServiceView, StoreError, StoredResult},
    probe::ProbeId,
    service::Service,
    status::LogEntry,
};
use sqlx::{AssertSqlSafe, Row, sqlite::SqliteRow};

use super::{
    SqliteResultStore,
    error::{bad_row, from_sqlx, unless_bad},
    rows::{self, RESULT_COLUMNS, SERVICE_COLUMNS, VIEW_COLUMNS},
};

type Result<T> = std::result::Result<T, StoreError>;

/// How many services are looked through at a time for those that meet a filter.
const FILTER_PAGE: usize = 1_000;

impl SqliteResultStore {
    pub(super) async fn read_service(&self, id: ServiceId) -> Result<Option<ServiceView>> {
        let sql = format!(
            "SELECT {SERVICE_COLUMNS}, {VIEW_COLUMNS} FROM services s JOIN states t ON t.service_id = s.id \
             WHERE s.id = ? AND s.activity <> 'deleted'"
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(id.as_i64()).fetch_optional(&self.readers).await;
        let Some(row) = row.map_err(from_sqlx)? else { return Ok(None) };
        let mut views = vec![rows::view(&row)?];
        self.add_newest(&mut views).await?;
        Ok(views.pop())
    }

    pub(super) async fn read_services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: usize,
    ) -> Result<Vec<ServiceView>> {
        let sql = format!(
            "SELECT {SERVICE_COLUMNS}, {VIEW_COLUMNS} FROM services s JOIN states t ON t.service_id = s.id \
             WHERE s.id > ?1 AND s.activity <> 'deleted' AND (?2 IS NULL OR t.announced = ?2) \
             AND (?3 IS NULL OR s.group_name = ?3) ORDER BY s.id LIMIT ?4"
        );
        // Tags and text are looked at row by row; the rest SQLite finds by itself.
        let by_row = !filter.tags.is_empty() || filter.text.is_some();
        let page = if by_row { FILTER_PAGE } else { limit };
        let (mut found, mut after) = (Vec::new(), after.map_or(0, ServiceId::as_i64));
        loop {
            let read = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(after)
                .bind(filter.status.map(|status| status.as_str()))
                .bind(filter.group.as_deref())
                .bind(rows::number(page as u64))
                .fetch_all(&self.readers)
                .await
                .map_err(from_sqlx)?;
            for row in &read {
                after = row.try_get(0).map_err(from_sqlx)?;
                let Some(view) = unless_bad(rows::view(row))? else { continue };
                if found.len() < limit && filter.admits(&view.service, view.status) {
                    found.push(view);
                }
            }
            if read.len() < page || found.len() == limit {
                self.add_newest(&mut found).await?;
                return Ok(found);
            }
        }
    }

    /// Adds to each view the newest result of its service.
    async fn add_newest(&self, views: &mut [ServiceView]) -> Result<()> {
        let sql = format!(
            "SELECT {RESULT_COLUMNS} FROM json_each(?) j CROSS JOIN states t ON t.service_id = j.value \
             CROSS JOIN results r USING (service_id) WHERE r.slot = t.stored_through"
        );
        let read = sqlx::query(AssertSqlSafe(sql))
            .bind(rows::id_list(views.iter().map(|view| &view.service.id)))
            .fetch_all(&self.readers)
            .await
            .map_err(from_sqlx)?;
        let mut newest = HashMap::new();
        for row in &read {
            let result = rows::result(row, &self.regions)?.result;
            newest.insert(result.id.service, LastResult::of(&result));
        }
        for view in views {
            view.last = newest.remove(&view.service.id);
        }
        Ok(())
    }

    pub(super) async fn read_changes(&self, after: Revision, limit: usize) -> Result<Vec<Service>> {
        let sql = format!("SELECT {SERVICE_COLUMNS} FROM services s WHERE s.revision > ? ORDER BY s.revision LIMIT ?");
        let read = sqlx::query(AssertSqlSafe(sql))
            .bind(rows::number(after.0))
            .bind(rows::number(limit as u64))
            .fetch_all(&self.readers)
            .await
            .map_err(from_sqlx)?;
        // One damaged row must not keep the others from being scheduled.
        let services = read.iter().map(|row| unless_bad(rows::service(row)));
        services.filter_map(Result::transpose).collect()
    }

    pub(super) async fn read_results(
        &self,
        id: ServiceId,
        query: &ResultQuery,
        limit: usize,
    ) -> Result<Vec<StoredResult>> {
        // A region's number does not sort as its name does, so a page's rows are cut by slot, and
        // those of the slot where it begins are looked at one by one.
        let codes: &[i64] = match query.outcome {
            None => &[0, 1, 2, 3, 4],
            Some("pass") => &[0],
            Some("slow") => &[1],
            Some("fail") => &[2, 3],
            Some(_) => &[4],
        };
        let list = codes.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let reason = query.reason.map(|reason| format!("AND reason = {}", reason.code())).unwrap_or_default();
        let sql = format!(
            "SELECT {RESULT_COLUMNS} FROM results JOIN regions ON regions.id = region_id \
             WHERE service_id = ?1 AND slot >= ?2 AND slot < ?3 AND outcome IN ({list}) {reason} \
             AND (?4 IS NULL OR slot <= ?4) AND (?4 IS NULL OR (slot, name, kind) < (?4, ?5, ?6)) \
             ORDER BY slot DESC, name DESC, kind DESC LIMIT ?7"
        );
        let before = query.before.as_ref();
        let read = sqlx::query(AssertSqlSafe(sql))
            .bind(id.as_i64())
            .bind(query.from.map_or(i64::MIN, |slot| slot.as_millis()))
            .bind(query.to.map_or(i64::MAX, |slot| slot.as_millis()))
            .bind(before.map(|key| key.slot.as_millis()))
            .bind(before.map(|key| key.region.as_str().to_owned()))
            .bind(before.map(|key| i64::from(key.kind.code())))
            .bind(rows::number(limit as u64))
            .fetch_all(&self.readers)
            .await
            .map_err(from_sqlx)?;
        self.stored_results(&read).await
    }

    /// What these rows say. The names of regions that another program has numbered are read first.
    async fn stored_results(&self, read: &[SqliteRow]) -> Result<Vec<StoredResult>> {
        if !self.regions.know(read)? {
            self.refresh_regions().await?;
        }
        read.iter().map(|row| rows::result(row, &self.regions)).collect()
    }

    async fn refresh_regions(&self) -> Result<()> {
        let mut reader = self.readers.acquire().await.map_err(from_sqlx)?;
        self.regions.refresh(&mut reader).await
    }

    pub(super) async fn read_result(&self, id: &ProbeId) -> Result<Option<StoredResult>> {
        if self.regions.known_number(&id.region).is_none() {
            self.refresh_regions().await?;
        }
        let Some(region) = self.regions.known_number(&id.region) else { return Ok(None) };
        let sql = format!(
            "SELECT {RESULT_COLUMNS} FROM results WHERE service_id = ? AND slot = ? AND region_id = ? AND kind = ?"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(id.service.as_i64())
            .bind(id.slot.as_millis())
            .bind(region)
            .bind(i64::from(id.kind.code()))
            .fetch_optional(&self.readers)
            .await
            .map_err(from_sqlx)?;
        row.as_ref().map(|row| rows::result(row, &self.regions)).transpose()
    }

    pub(super) async fn read_log(&self, after: Seq, limit: usize) -> Result<Vec<LogEntry>> {
        let read = sqlx::query("SELECT seq, entry FROM log WHERE seq > ? ORDER BY seq LIMIT ?")
            .bind(rows::number(after.0))
            .bind(rows::number(limit as u64))
            .fetch_all(&self.readers)
            .await
            .map_err(from_sqlx)?;
        read.iter().map(rows::entry).collect()
    }

    pub(super) async fn read_service_log(
        &self,
        id: ServiceId,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<Vec<LogEntry>> {
        let read = sqlx::query("SELECT seq, entry FROM log WHERE service_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?")
            .bind(id.as_i64())
            .bind(before.map_or(i64::MAX, |seq| rows::number(seq.0)))
            .bind(rows::number(limit as u64))
            .fetch_all(&self.readers)
            .await
            .map_err(from_sqlx)?;
        read.iter().map(rows::entry).collect()
    }

    pub(super) async fn read_head(&self) -> Result<(Seq, Seq)> {
        let row = sqlx::query("SELECT h.seq, (SELECT min(seq) FROM log) FROM head h")
            .fetch_one(&self.readers)
            .await
            .map_err(from_sqlx)?;
        let head: i64 = row.try_get(0).map_err(from_sqlx)?;
        let oldest: Option<i64> = row.try_get(1).map_err(from_sqlx)?;
        let tail = oldest.map_or(head, |oldest| oldest - 1);
        Ok((Seq(rows::counter(head)), Seq(rows::counter(tail))))
    }

    pub(super) async fn read_inputs(&self, id: ServiceId, after: Applied, limit: usize) -> Result<Vec<AppliedInput>> {
        let (id, after, limit) = (id.as_i64(), rows::number(after.0), rows::number(limit as u64));
        // One snapshot for both tables.
        let mut tx = self.readers.begin().await.map_err(from_sqlx)?;
        let controls = sqlx::query(
            "SELECT applied, control FROM controls WHERE service_id = ? AND applied > ? ORDER BY applied LIMIT ?",
        )
        .bind(id)
        .bind(after)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(from_sqlx)?;
        let sql = format!(
            "SELECT {RESULT_COLUMNS} FROM results WHERE service_id = ? AND applied > ? ORDER BY applied LIMIT ?"
        );
        let results = sqlx::query(AssertSqlSafe(sql))
            .bind(id)
            .bind(after)
            .bind(limit)
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let mut inputs: BTreeMap<Applied, Input<Thresholds>> = BTreeMap::new();
        for row in &controls {
            let control: Control<Thresholds> =
                serde_json::from_str(row.try_get(1).map_err(from_sqlx)?).map_err(bad_row)?;
            let applied: i64 = row.try_get(0).map_err(from_sqlx)?;
            inputs.insert(Applied(rows::counter(applied)), Input::Control(control));
        }
        for StoredResult { result, applied } in self.stored_results(&results).await? {
            if let Some(applied) = applied {
                inputs.insert(applied, Input::Result(Sighting::of(&result)));
            }
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(inputs.into_iter().take(limit).map(|(applied, input)| AppliedInput { applied, input }).collect())
    }

    pub(super) async fn read_state(&self, id: ServiceId) -> Result<Option<State<Thresholds>>> {
        let snapshot: Option<Vec<u8>> = sqlx::query_scalar("SELECT snapshot FROM states WHERE service_id = ?")
            .bind(id.as_i64())
            .fetch_optional(&self.readers)
            .await
            .map_err(from_sqlx)?;
        snapshot.as_deref().map(rows::state).transpose()
    }
}
