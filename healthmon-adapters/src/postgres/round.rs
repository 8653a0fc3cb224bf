//! What a scheduler asks of the database now and then, beside its emitting: leases and changes.

use std::{collections::BTreeSet, time::Duration};

use futures_util::TryStreamExt;
use healthmon_core::{
    id::Revision, ports::StoreError, probe::Probe, schedule::Emitter, service::Service, shard::Shard, time::Timestamp,
};
use sqlx::{AssertSqlSafe, Row, postgres::PgRow};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    Postgres,
    claims::{Claims, Standing},
    connect::sql,
    error::{from_sqlx, unless_bad},
    rows::{self, SERVICE_COLUMNS},
    scheduler::Held,
};

/// How many changes are read at a time.
const PAGE: usize = 5_000;
/// How many shards are claimed at a time by a scheduler that has some.
const CLAIMED_AT_ONCE: usize = 8;

/// What a round is to do.
pub(super) struct Ask {
    /// Leases to renew, when it is time for that.
    pub(super) renew: Option<Vec<Standing>>,
    /// Leases to give back.
    pub(super) release: Vec<Standing>,
    /// How many shards are held now.
    pub(super) held: usize,
    /// After which revision each shard's services are to be read.
    pub(super) feed: Vec<(Shard, Revision)>,
    pub(super) now: Timestamp,
    /// Longer than dealing with leases takes: beyond it the database counts as away.
    pub(super) patience: Duration,
}

/// What a round found.
pub(super) struct Answer {
    /// When the attempt began.
    pub(super) began: Instant,
    pub(super) renewal: Option<Renewal>,
    /// How many shards are this scheduler's fair share.
    pub(super) share: usize,
    pub(super) claimed: Vec<Held>,
    pub(super) released: Vec<Standing>,
    pub(super) changed: Vec<Service>,
}

/// Which leases were to be renewed, and which of them are held still.
pub(super) struct Renewal {
    pub(super) asked: BTreeSet<Shard>,
    pub(super) held: BTreeSet<Shard>,
}

/// A round under way, which goes on whether or not anybody waits for it, and ends with its handle.
pub(super) struct Round {
    job: JoinHandle<Result<Answer, StoreError>>,
    /// Whether it was begun because somebody said that services have changed.
    pub(super) told: bool,
}

impl Round {
    /// The longest that a round may take: one that loads a million services takes seconds.
    pub(super) const LIMIT: Duration = Duration::from_mins(2);

    pub(super) fn begin(postgres: Postgres, claims: Claims, ask: Ask, told: bool) -> Self {
        Self { job: tokio::spawn(run(postgres, claims, ask)), told }
    }

    /// What it found. Safe to drop while it waits; to be asked until it has answered once.
    pub(super) async fn answer(&mut self) -> Result<Answer, StoreError> {
        (&mut self.job).await.unwrap_or_else(|error| Err(away(format!("the round broke off: {error}"))))
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.job.abort();
    }
}

fn away(why: String) -> StoreError {
    StoreError::Transient { retry_after: Duration::from_millis(200), source: why.into() }
}

/// Bounds what should take moments.
async fn soon<T>(patience: Duration, step: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(patience, step).await.unwrap_or_else(|_| Err(away("the database does not answer".to_owned())))
}

async fn run(postgres: Postgres, claims: Claims, ask: Ask) -> Result<Answer, StoreError> {
    let (began, shards) = (Instant::now(), postgres.shards());
    let leases = async {
        let mut tx = postgres.begin().await?;
        let renewal = match &ask.renew {
            Some(standings) => {
                let asked = standings.iter().map(|standing| standing.claim.shard).collect();
                Some(Renewal { asked, held: claims.renew(&mut tx, standings).await? })
            }
            None => None,
        };
        if !ask.release.is_empty() {
            claims.release(&mut tx, &ask.release).await?;
        }
        let share = usize::from(shards.get()).div_ceil(claims.live(&mut tx).await?);
        let held = renewal.as_ref().map_or(ask.held, |renewal| renewal.held.len());
        let wanted = share.saturating_sub(held);
        // Loading their services holds up the next renewal: with leases to lose, a few at a time.
        let claimed = match if held == 0 { wanted } else { wanted.min(CLAIMED_AT_ONCE) } {
            0 => Vec::new(),
            some => claims.claim(&mut tx, shards, some).await?,
        };
        tx.commit().await.map_err(from_sqlx)?;
        Ok((renewal, share, claimed))
    };
    let (renewal, share, claimed) = soon(ask.patience, leases).await?;
    let loaded = soon(Round::LIMIT, load(&postgres, claimed.clone(), ask.now)).await;
    let claimed = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            give_back(&postgres, &claims, &claimed, ask.patience).await;
            return Err(error);
        }
    };
    let changed = changes(&postgres, ask.feed, ask.patience).await?;
    Ok(Answer { began, renewal, share, claimed, released: ask.release, changed })
}

/// Gives back shards whose services could not be read: another may have more luck.
async fn give_back(postgres: &Postgres, claims: &Claims, claimed: &[Standing], patience: Duration) {
    let released = soon(patience, async {
        let mut tx = postgres.begin().await?;
        claims.release(&mut tx, claimed).await?;
        tx.commit().await.map_err(from_sqlx)
    });
    if let Err(error) = released.await {
        tracing::warn!(%error, shards = claimed.len(), "could not give shards back; their leases will run out");
    }
}

/// The active services of newly claimed shards, ready to be emitted from where the last owner stopped.
async fn load(postgres: &Postgres, standings: Vec<Standing>, now: Timestamp) -> Result<Vec<Held>, StoreError> {
    // What fell due before then can no longer be begun.
    let oldest = now.before(Probe::START_BY_LIMIT);
    let held = |standing: Standing| {
        let mut emitter = Emitter::of_a_shard(postgres.shards());
        if let Some(through) = standing.emitted_through {
            emitter.go_on_after(through.max(oldest));
        }
        let handed_over = standing.emitted_through;
        Held { claim: standing.claim, seen: Revision(0), emitter, handed_over, next: None }
    };
    let mut claimed: Vec<Held> = standings.into_iter().map(held).collect();
    claimed.sort_by_key(|held| held.claim.shard);
    if claimed.is_empty() {
        return Ok(claimed);
    }
    let numbers: Vec<i16> = claimed.iter().map(|held| held.claim.shard.0.cast_signed()).collect();
    let text = format!("SELECT {SERVICE_COLUMNS} FROM services s WHERE s.shard = ANY($1) AND s.activity = 'active'");
    let mut tx = postgres.begin_loading().await?;
    let mut read = sql(AssertSqlSafe(text)).bind(numbers).fetch(&mut *tx);
    while let Some(row) = read.try_next().await.map_err(from_sqlx)? {
        let Some(service) = unless_bad(rows::service(&row))? else { continue };
        let shard = postgres.shards().shard_of(service.id);
        if let Ok(at) = claimed.binary_search_by_key(&shard, |held| held.claim.shard) {
            let held = &mut claimed[at];
            held.seen = held.seen.max(service.revision);
            held.emitter.take_in(service, now);
        }
    }
    drop(read);
    tx.commit().await.map_err(from_sqlx)?;
    Ok(claimed)
}

/// What changed in these shards, by revision.
async fn changes(
    postgres: &Postgres,
    mut feed: Vec<(Shard, Revision)>,
    patience: Duration,
) -> Result<Vec<Service>, StoreError> {
    let mut changed = Vec::new();
    while !feed.is_empty() {
        let page = soon(patience, page(postgres, &feed)).await?;
        let full = page.len() == PAGE;
        for (revision, service) in page {
            // Revisions grow with the page, for all shards alike.
            feed.iter_mut().for_each(|(_, seen)| *seen = revision.max(*seen));
            changed.extend(service);
        }
        if !full {
            break;
        }
    }
    Ok(changed)
}

/// The next changes; a row that cannot be understood has its revision only. One look into the index
/// for each shard: asked for all of them at once, the planner goes through every service there is, by
/// revision, to find that there is nothing new.
async fn page(postgres: &Postgres, feed: &[(Shard, Revision)]) -> Result<Vec<(Revision, Option<Service>)>, StoreError> {
    let text = format!(
        "SELECT {SERVICE_COLUMNS} FROM unnest($1::smallint[], $2::bigint[]) u (shard, seen) CROSS JOIN LATERAL \
         (SELECT * FROM services n WHERE n.shard = u.shard AND n.revision > u.seen ORDER BY n.revision LIMIT {PAGE}) s \
         ORDER BY s.revision LIMIT {PAGE}"
    );
    let numbers: Vec<i16> = feed.iter().map(|(shard, _)| shard.0.cast_signed()).collect();
    let seen: Vec<i64> = feed.iter().map(|(_, seen)| rows::number(seen.0)).collect();
    let mut tx = postgres.begin_reading().await?;
    let read = sql(AssertSqlSafe(text)).bind(numbers).bind(seen).fetch_all(&mut *tx).await.map_err(from_sqlx)?;
    tx.commit().await.map_err(from_sqlx)?;
    let change = |row: &PgRow| {
        let revision = row.try_get("revision").map_err(from_sqlx)?;
        Ok((Revision(rows::counter(revision)), unless_bad(rows::service(row))?))
    };
    read.iter().map(change).collect()
}
