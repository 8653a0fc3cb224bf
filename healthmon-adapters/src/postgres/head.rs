//! The head of the log: where its places come from, and which log it is.
//!
//! # Which log it is
//!
//! A client knows a place in a log by the log's id and a `seq`. As long as the id is the same, every
//! entry that anybody ever saw is there, at its place. That breaks when a server takes over that
//! lacks the newest entries and gives their places to others; then the id must change.
//!
//! PostgreSQL tells of every takeover: each promotion, and each restore to a point in time, begins a
//! timeline. The row `head` keeps the lineage (cluster and timeline) that `seq` was last given on, and
//! whether commits were synchronously replicated then. Whoever first finds the server on another
//! lineage decides, under the row's lock:
//!
//! - Replicated, and the same cluster: whoever saw an entry saw it after a standby had it, and one of
//!   those standbys was promoted. Nothing is lost, and the log goes on.
//! - Otherwise something may be lost: the log gets another id, and its clients begin anew, once. After
//!   a promotion that in truth lost nothing this costs each of them a snapshot.
//!
//! One thing can deceive this: promoting a standby that was none of the synchronous ones, or a disk
//! that went back in time without PostgreSQL's knowledge. So each node also remembers the newest
//! place that it has seen, and changes the id when the log turns out to have begun its lineage before
//! that place, or to end before it. Who reverts a disk while no node runs must change `head.log_id` by hand.

use std::sync::{Mutex, PoisonError};

use healthmon_core::{
    id::{LogId, Revision, Seq},
    ports::{LogHead, StoreError},
    status::LogEntry,
};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{
    connect::{Postgres, sql},
    error::from_sqlx,
    rows,
};

/// What this node knows of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    log: String,
    lineage: String,
    /// The newest place that was seen.
    seen: i64,
}

/// Whether the server is on the lineage that was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lineage {
    Same,
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Head(Mutex<Option<Known>>);

/// The row `head`, without the revision.
struct HeadRow {
    log: String,
    seq: i64,
    lineage: String,
    came_from: String,
    forked_at: i64,
    replicated: bool,
    /// The lineage that the server is on.
    present: String,
}

const COLUMNS: &str = "log_id, seq, lineage, came_from, forked_at, replicated, lineage()";

fn head_row(row: &PgRow) -> Result<HeadRow, StoreError> {
    let read = || {
        Ok(HeadRow {
            log: row.try_get(0)?,
            seq: row.try_get(1)?,
            lineage: row.try_get(2)?,
            came_from: row.try_get(3)?,
            forked_at: row.try_get(4)?,
            replicated: row.try_get(5)?,
            present: row.try_get(6)?,
        })
    };
    read().map_err(from_sqlx)
}

impl HeadRow {
    /// Takes note that the server is on another lineage than it was. Says whether the log goes on.
    fn moves_on(&mut self) -> bool {
        if self.lineage == self.present {
            return true;
        }
        let cluster = |lineage: &str| lineage.split('/').next().unwrap_or_default().to_owned();
        let goes_on = self.replicated && cluster(&self.lineage) == cluster(&self.present);
        self.came_from = std::mem::replace(&mut self.lineage, self.present.clone());
        self.forked_at = self.seq;
        goes_on
    }

    /// Whether all that a node has seen of this log is in it.
    fn has_all(&self, known: &Known) -> bool {
        if known.log != self.log {
            return true;
        }
        let through = if known.lineage == self.lineage {
            self.seq
        } else if known.lineage == self.came_from {
            self.forked_at
        } else {
            // It was on lineages that this node knows nothing of.
            -1
        };
        known.seen <= through
    }
}

impl Head {
    fn known(&self) -> Option<Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the server is on the lineage that this node takes it to be on.
    pub(super) fn stands_on(&self, lineage: &str) -> Lineage {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| known.lineage == lineage) { Lineage::Same } else { Lineage::Other }
    }

    /// Takes note of the newest of these entries, which are committed.
    pub(super) fn saw(&self, entries: &[LogEntry]) {
        let newest = entries.iter().map(|entry| rows::number(entry.seq.0)).max();
        if let (Some(known), Some(newest)) = (&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), newest) {
            known.seen = known.seen.max(newest);
        }
    }

    /// Finds out which log it is, and gives it another id if it is not the continuation of what it was.
    pub(super) async fn settle(&self, postgres: &Postgres) -> Result<(), StoreError> {
        let known = self.known();
        let mut tx = postgres.begin().await?;
        let row = sql(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM head FOR UPDATE"))).fetch_one(&mut *tx).await;
        let mut head = head_row(&row.map_err(from_sqlx)?)?;
        let moved = head.lineage != head.present;
        let continues = head.moves_on() && known.as_ref().is_none_or(|known| head.has_all(known));
        if moved || !continues {
            let row =
                sql("UPDATE head SET lineage = $1, came_from = $2, forked_at = $3, log_id = CASE WHEN $4 THEN log_id \
                 ELSE replace(gen_random_uuid()::text, '-', '') END RETURNING log_id")
                .bind(&head.lineage)
                .bind(&head.came_from)
                .bind(head.forked_at)
                .bind(continues)
                .fetch_one(&mut *tx)
                .await
                .map_err(from_sqlx)?;
            head.log = row.try_get(0).map_err(from_sqlx)?;
            tracing::warn!(log = head.log, lineage = head.lineage, continues, "PostgreSQL is on another timeline");
        }
        tx.commit().await.map_err(from_sqlx)?;
        let seen = known.filter(|known| known.log == head.log).map_or(head.seq, |known| known.seen.max(head.seq));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Known { log: head.log, lineage: head.lineage, seen });
        Ok(())
    }

    /// Where the log stands, or nothing when it is first to be settled which log it is.
    pub(super) async fn read(&self, postgres: &Postgres) -> Result<Option<LogHead>, StoreError> {
        // What was seen before the question was asked must be in the answer; what is seen meanwhile need not.
        let Some(before) = self.known() else { return Ok(None) };
        let mut tx = postgres.begin_reading().await?;
        let read = format!("SELECT {COLUMNS}, (SELECT min(seq) FROM log) FROM head");
        let row = sql(sqlx::AssertSqlSafe(read)).fetch_one(&mut *tx).await.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        let head = head_row(&row)?;
        let oldest: Option<i64> = row.try_get(7).map_err(from_sqlx)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = known.as_mut() else { return Ok(None) };
        if head.present != known.lineage || head.lineage != known.lineage || !head.has_all(&before) {
            return Ok(None);
        }
        if known.log == head.log {
            known.seen = known.seen.max(head.seq);
        } else {
            // Another node has found that something was lost.
            *known = Known { log: head.log.clone(), lineage: head.lineage, seen: head.seq };
        }
        let tail = oldest.map_or(head.seq, |oldest| oldest - 1);
        let log = LogId(head.log.into());
        Ok(Some(LogHead { log, head: Seq(rows::counter(head.seq)), tail: Seq(rows::counter(tail)) }))
    }
}

/// Gives entries their places in the log and writes them there. From here on the transaction holds
/// the head, so that places are given in the order of commits.
pub(super) async fn append(connection: &mut PgConnection, entries: &mut [LogEntry]) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let count = rows::number(entries.len() as u64);
    let (mut services, mut applied, mut at, mut json) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for entry in &*entries {
        services.push(entry.service.id.as_i64());
        applied.push(rows::number(entry.applied.0));
        at.push(entry.at.as_micros());
        json.push(rows::json(entry)?);
    }
    let row = sql("WITH h AS (UPDATE head SET seq = seq + $1, replicated = replicated() RETURNING seq), \
         l AS (INSERT INTO log (seq, service_id, applied, at, entry) \
             SELECT h.seq - $1 + e.place, e.service_id, e.applied, e.at, e.entry FROM h, \
             UNNEST($2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) WITH ORDINALITY \
             AS e (service_id, applied, at, entry, place)) \
         SELECT seq FROM h")
    .bind(count)
    .bind(services)
    .bind(applied)
    .bind(at)
    .bind(json)
    .fetch_one(connection)
    .await
    .map_err(from_sqlx)?;
    let last = rows::counter(row.try_get(0).map_err(from_sqlx)?);
    for (seq, entry) in (last - entries.len() as u64 + 1..).zip(entries) {
        entry.seq = Seq(seq);
    }
    Ok(())
}

/// The next place in the feed of changes. Holds the head as [`append`] does.
pub(super) async fn next_revision(connection: &mut PgConnection) -> Result<Revision, StoreError> {
    let row = sql("UPDATE head SET revision = revision + 1 RETURNING revision").fetch_one(connection).await;
    row.and_then(|row| row.try_get(0)).map(|revision| Revision(rows::counter(revision))).map_err(from_sqlx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(replicated: bool, present: &str) -> HeadRow {
        let (lineage, came_from) = ("7/2".to_owned(), "7/1".to_owned());
        HeadRow { log: "a".into(), seq: 90, lineage, came_from, forked_at: 50, replicated, present: present.into() }
    }

    fn known(lineage: &str, seen: i64) -> Known {
        Known { log: "a".into(), lineage: lineage.into(), seen }
    }

    #[test]
    fn a_log_goes_on_where_it_was_replicated_within_its_cluster() {
        assert!(head(false, "7/2").moves_on(), "nobody took over");
        assert!(head(true, "7/3").moves_on(), "a synchronous standby was promoted");
        assert!(!head(false, "7/3").moves_on(), "one that may be behind was");
        assert!(!head(true, "8/3").moves_on(), "a copy elsewhere is no standby");
    }

    #[test]
    fn what_a_node_has_seen_must_be_there() {
        assert!(head(true, "7/2").has_all(&known("7/2", 90)));
        assert!(!head(true, "7/2").has_all(&known("7/2", 91)), "the disk went back in time");
        assert!(head(true, "7/2").has_all(&known("7/1", 50)), "this lineage began after all that");
        assert!(!head(true, "7/2").has_all(&known("7/1", 51)), "the standby was no synchronous one");
        let mut taken_over = head(true, "7/3");
        assert!(taken_over.moves_on());
        assert!(taken_over.has_all(&known("7/2", 90)) && !taken_over.has_all(&known("7/2", 91)));
        assert!(!taken_over.has_all(&known("7/1", 1)), "nothing is known of the time between");
    }
}
