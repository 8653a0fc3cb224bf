//! Sums of results. They stand together by service and slot here, so that they are added up when
//! asked for: nothing is kept beside them that could differ.

use healthmon_core::{id::ServiceId, ports::StoreError, probe::Kind, summary::Summed, time::Slot};
use sqlx::{AssertSqlSafe, Row};

use super::{
    SqliteResultStore,
    error::{bad_row, from_sqlx},
    rows::{self, SERVICE_COLUMNS},
};
use crate::sums::{Group, Sums, bucket_sql};

type Result<T> = std::result::Result<T, StoreError>;

impl SqliteResultStore {
    pub(super) async fn read_summary(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>> {
        // One snapshot for both tables.
        let mut tx = self.readers.begin().await.map_err(from_sqlx)?;
        let service = format!("SELECT {SERVICE_COLUMNS} FROM services s WHERE s.id = ?");
        let service = sqlx::query(AssertSqlSafe(service)).bind(id.as_i64()).fetch_optional(&mut *tx).await;
        let Some(service) = service.map_err(from_sqlx)? else { return Ok(None) };
        // Failures have no bucket: how long they took is not summed.
        let sums = format!(
            "SELECT g.name, r.outcome, r.bucket, r.count, r.newest FROM (\
                 SELECT region_id, outcome, CASE WHEN outcome <= 1 THEN {} ELSE 0 END AS bucket, count(*) AS count, \
                 max(slot) AS newest FROM results WHERE service_id = ? AND slot >= ? AND slot < ? AND kind = ? \
                 GROUP BY 1, 2, 3) r JOIN regions g ON g.id = r.region_id",
            bucket_sql("latency")
        );
        let read = sqlx::query(AssertSqlSafe(sums))
            .bind(id.as_i64())
            .bind(from.as_millis())
            .bind(to.as_millis())
            .bind(i64::from(Kind::Scheduled.code()))
            .fetch_all(&mut *tx)
            .await
            .map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let mut sums = Sums::default();
        for row in &read {
            let get = |i: usize| row.try_get::<i64, _>(i).map_err(from_sqlx);
            let region = row.try_get(0).map_err(from_sqlx)?;
            let count = rows::counter(get(3)?);
            let group = Group { region, outcome: get(1)?, bucket: get(2)?, count, newest: get(4)? };
            sums.add(&group).map_err(bad_row)?;
        }
        let summary = sums.summary().map_err(bad_row)?;
        Ok(Some(Summed { service: rows::service(&service)?, from, to, summary }))
    }
}

#[cfg(test)]
mod tests {
    use healthmon_core::summary::Histogram;
    use sqlx::{Connection, SqliteConnection};

    use super::*;
    use crate::sums::edges;

    #[tokio::test]
    async fn the_database_puts_latencies_into_the_same_buckets() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.expect("a database");
        let list = edges().iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let sql = format!("SELECT value, {} FROM json_each('[{list}]')", bucket_sql("value"));
        let read: Vec<(i64, i64)> =
            sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection).await.expect("buckets");
        assert_eq!(read.len(), edges().len());
        for (latency, bucket) in read {
            let latency = u32::try_from(latency).expect("a latency");
            assert_eq!(i64::from(Histogram::bucket(latency)), bucket, "{latency} µs");
        }
    }
}
