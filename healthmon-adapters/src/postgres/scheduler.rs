//! The scheduler whose shards are shared between nodes by leases.
//!
//! ```text
//!            claim (epoch + 1)                   renewed in time
//!   free ───────────────────────▶ held, trusted ◀──────────────┐
//!    ▲                              │        │                  │
//!    │ release: cursor written      │        │ attempt start + lease − margin has passed
//!    ├──────────────────────────────┘        ▼
//!    │                              held, not trusted: asks before it emits
//!    │                                │ still mine ─────────────┘
//!    │                                │ another's: dropped, Fenced
//!    │                                │ the database is away: goes on for `outage_grace`
//!    └── lease ran out ◀──────────────┘
//! ```
//!
//! Trust is counted from the *start* of the attempt that renewed, by a monotonic clock, and so ends
//! before the lease does by the database's clock. While the database is away nobody else can claim
//! either, and the queue drops what comes under an older epoch than it has seen.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    id::Revision,
    ports::{Due, Scheduler, SchedulerError, StoreError},
    schedule::Emitter,
    shard::{Claim, Shard},
    time::Timestamp,
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Postgres,
    claims::{Claims, Standing},
    error::from_sqlx,
    round::{Answer, Ask, Round},
};

/// How often it looks for free shards and changed services when nobody says that there are some.
const ROUND_PERIOD: Duration = Duration::from_millis(250);
/// The same while it has less than its share: another is about to give some up.
const HUNGRY_PERIOD: Duration = Duration::from_millis(100);
/// How often it asks to be called at the most: what falls due meanwhile goes to the queue together,
/// which costs the queue, and those who wait on it, no more than a single probe does.
const QUANTUM: Duration = Duration::from_millis(10);
/// How long a call may wait for changes that it was told of.
const PATIENCE_WHEN_TOLD: Duration = Duration::from_millis(250);
/// How long a call may wait for leases without which it must not emit.
const PATIENCE_FOR_TRUST: Duration = Duration::from_secs(2);

/// How long dealing with leases may take at most; with short leases less.
const LEASES_WITHIN: Duration = Duration::from_secs(3);

/// How a [`PostgresScheduler`] shares shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Who it is, for people; made unique per process start.
    pub node: String,
    /// How long a silent scheduler's shards are left to it; 10 s by default, at least 100 ms.
    pub lease: Duration,
    /// For how long it goes on without hearing from the database; 15 minutes by default.
    pub outage_grace: Duration,
}

impl SchedulerOptions {
    /// The usual spans.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), lease: Duration::from_secs(10), outage_grace: Duration::from_mins(15) }
    }
}

/// Schedules the services of the shards that it holds a lease on; see the module's picture.
///
/// A slot that fell due between two owners is emitted by the second: a lease carries how far its
/// last owner had come.
pub struct PostgresScheduler {
    postgres: Postgres,
    claims: Claims,
    options: SchedulerOptions,
    told: AtomicBool,
    /// Whether the queue has all that was emitted.
    dealt_with: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    held: BTreeMap<Shard, Held>,
    /// Given up to even out the shares; the next round writes it down.
    leaving: Vec<Standing>,
    /// Told of changes that no round has looked for yet.
    told: bool,
    round: Option<Round>,
    /// When the last round began.
    began: Option<Instant>,
    /// When the last attempt began that renewed the leases.
    renewed: Option<Instant>,
    /// Whether the last round failed.
    away: bool,
    /// Whether it has fewer shards than its share.
    hungry: bool,
    /// Where the next call begins to emit, so that no shard waits behind another for ever.
    turn: Shard,
}

/// A shard whose lease this scheduler holds, or believes to hold.
pub(super) struct Held {
    pub(super) claim: Claim,
    /// Its services are known up to this revision.
    pub(super) seen: Revision,
    pub(super) emitter: Emitter,
    /// Up to where the queue has what was emitted: a successor goes on there.
    pub(super) handed_over: Option<Timestamp>,
    /// When there is something to emit, at the earliest; none when it must be asked.
    pub(super) next: Option<Timestamp>,
}

impl Held {
    fn standing(&self) -> Standing {
        Standing { claim: self.claim, emitted_through: self.handed_over }
    }
}

/// What a call of `due` waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Trust,
    Changes,
    Nothing,
}

impl PostgresScheduler {
    /// A scheduler over `postgres`. It claims its first shards when it is first asked what is due.
    ///
    /// # Errors
    /// [`StoreError::Transient`] when the database is away.
    pub async fn new(postgres: Postgres, options: SchedulerOptions) -> Result<Self, StoreError> {
        let options = SchedulerOptions { lease: options.lease.max(Duration::from_millis(100)), ..options };
        let start = RandomState::new().build_hasher().finish();
        let name = format!("{}/{start:016x}", options.node);
        metrics::describe_counter!("healthmon_lease_changes_total", "Leases on shards claimed, released and lost");
        metrics::describe_gauge!("healthmon_shards_held", "Shards that this process schedules");
        let claims = Claims::new(name, options.lease);
        let mut tx = postgres.begin().await?;
        claims.prepare(&mut tx, postgres.shards()).await?;
        tx.commit().await.map_err(from_sqlx)?;
        let (told, dealt_with, inner) = (AtomicBool::new(true), AtomicBool::new(true), Mutex::default());
        Ok(Self { postgres, claims, options, told, dealt_with, inner })
    }

    async fn due_now(&self, now: Timestamp, max: usize) -> Result<Due, SchedulerError> {
        let mut inner = self.inner.lock().await;
        // Whoever asks again has dealt with what was answered before.
        inner.hand_over();
        self.dealt_with.store(false, Ordering::Release);
        let lost = self.keep_up(&mut inner, now).await?;
        if lost > 0 {
            tracing::warn!(shards = lost, "another scheduler has taken over shards");
            if inner.held.is_empty() {
                return Err(SchedulerError::Fenced);
            }
        }
        Ok(inner.emit(now, max))
    }

    /// Brings leases and services up to date as far as that is due, and waits for it as long as it
    /// must. Returns how many shards another has taken.
    async fn keep_up(&self, inner: &mut Inner, now: Timestamp) -> Result<usize, SchedulerError> {
        let (called, mut lost) = (Instant::now(), 0);
        inner.told |= self.told.swap(false, Ordering::AcqRel);
        loop {
            let need = self.need(inner);
            if inner.round.is_none() {
                let period = if inner.hungry { HUNGRY_PERIOD } else { ROUND_PERIOD };
                let rested = inner.began.is_none_or(|began| began.elapsed() >= period);
                if need == Need::Nothing && !rested {
                    return Ok(lost);
                }
                self.begin(inner, now);
            }
            let patience = match need {
                Need::Nothing => Duration::ZERO,
                Need::Changes => PATIENCE_WHEN_TOLD,
                // The first round loads every service of the shards it claims.
                Need::Trust if inner.renewed.is_none() => Round::LIMIT,
                Need::Trust => PATIENCE_FOR_TRUST,
            };
            let Some(round) = &mut inner.round else { return Ok(lost) };
            let Ok(answer) = timeout_at(called + patience, round.answer()).await else {
                return if need == Need::Trust { Err(no_leases("the database does not answer")) } else { Ok(lost) };
            };
            lost += self.learn(inner, answer, now)?;
        }
    }

    fn need(&self, inner: &Inner) -> Need {
        let goes_on_alone = inner.away && inner.renewed.is_some_and(|at| at.elapsed() < self.options.outage_grace);
        if !self.trusts(inner) && !goes_on_alone {
            Need::Trust
        } else if inner.told || inner.round.as_ref().is_some_and(|round| round.told) {
            // While the database is away a call that waits would only be late.
            if inner.away { Need::Nothing } else { Need::Changes }
        } else {
            Need::Nothing
        }
    }

    fn trusts(&self, inner: &Inner) -> bool {
        let span = self.options.lease * 9 / 10;
        inner.renewed.is_some_and(|renewed| renewed.elapsed() < span)
    }

    fn begin(&self, inner: &mut Inner, now: Timestamp) {
        let due = inner.renewed.is_none_or(|renewed| renewed.elapsed() >= self.options.lease * 3 / 10);
        let standings = || inner.held.values().map(Held::standing).collect();
        let ask = Ask {
            renew: due.then(standings),
            release: inner.leaving.clone(),
            held: inner.held.len(),
            feed: inner.held.iter().map(|(shard, held)| (*shard, held.seen)).collect(),
            now,
            patience: (self.options.lease / 3).min(LEASES_WITHIN),
        };
        inner.began = Some(Instant::now());
        inner.round = Some(Round::begin(self.postgres.clone(), self.claims.clone(), ask, inner.told));
        inner.told = false;
    }

    /// Takes in what a round found. Returns how many shards another has taken.
    fn learn(
        &self,
        inner: &mut Inner,
        answer: Result<Answer, StoreError>,
        now: Timestamp,
    ) -> Result<usize, SchedulerError> {
        let told = inner.round.take().is_some_and(|round| round.told);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                inner.told |= told;
                if !inner.away {
                    tracing::warn!(%error, shards = inner.held.len(), "cannot renew leases or look for changes");
                }
                inner.away = true;
                if self.need(inner) == Need::Trust {
                    inner.held.clear();
                    return Err(unusable(error));
                }
                return Ok(0);
            }
        };
        if std::mem::take(&mut inner.away) {
            tracing::info!("leases are renewed again");
        }
        inner.leaving.retain(|left| !answer.released.contains(left));
        let lost = self.learn_leases(inner, &answer);
        inner.hungry = inner.held.len() + answer.claimed.len() < answer.share;
        if inner.hungry && !answer.claimed.is_empty() {
            // There may be more of those: a few at a time, and the next at once, so that nobody waits
            // for what another has given up.
            inner.began = None;
        }
        if !answer.claimed.is_empty() || !answer.released.is_empty() {
            let (claimed, released) = (answer.claimed.len(), answer.released.len());
            tracing::info!(
                claimed,
                released,
                held = inner.held.len() + claimed,
                share = answer.share,
                "shards change hands"
            );
        }
        changes("claimed", answer.claimed.len());
        changes("released", answer.released.len());
        changes("lost", lost);
        for held in answer.claimed {
            inner.held.insert(held.claim.shard, held);
        }
        for service in answer.changed {
            let shard = self.postgres.shards().shard_of(service.id);
            if let Some(held) = inner.held.get_mut(&shard).filter(|held| held.seen < service.revision) {
                held.seen = service.revision;
                held.next = None;
                held.emitter.take_in(service, now);
            }
        }
        metrics::gauge!("healthmon_shards_held").set(u32::try_from(inner.held.len()).unwrap_or(u32::MAX));
        Ok(lost)
    }

    fn learn_leases(&self, inner: &mut Inner, answer: &Answer) -> usize {
        let Some(renewal) = &answer.renewal else { return 0 };
        let before = inner.held.len();
        inner.held.retain(|shard, _| renewal.held.contains(shard) || !renewal.asked.contains(shard));
        let lost = before - inner.held.len();
        inner.renewed = Some(answer.began);
        // A newcomer gets its share from those who have more than theirs, and at once: until it has
        // claimed them nobody emits their slots.
        while inner.held.len() > answer.share {
            if let Some((_, held)) = inner.held.pop_last() {
                inner.leaving.push(held.standing());
                inner.began = None;
            }
        }
        lost
    }

    async fn release_now(&self) -> Result<(), SchedulerError> {
        let mut inner = self.inner.lock().await;
        if self.dealt_with.load(Ordering::Acquire) {
            inner.hand_over();
        }
        if let Some(round) = &mut inner.round {
            // What it is claiming is to be released too.
            let answer = timeout(PATIENCE_FOR_TRUST, round.answer()).await.unwrap_or_else(|_| Err(silent()));
            if let Err(error) = self.learn(&mut inner, answer, Timestamp::default()) {
                tracing::debug!(%error, "the last round told nothing");
            }
        }
        tracing::info!(shards = inner.held.len(), "gives its shards back");
        let standings: Vec<Standing> = inner.held.values().map(Held::standing).chain(inner.leaving.clone()).collect();
        *inner = Inner::default();
        let released = async {
            let mut tx = self.postgres.begin().await?;
            self.claims.release(&mut tx, &standings).await?;
            self.claims.release_rest(&mut tx).await?;
            self.claims.leave(&mut tx).await?;
            tx.commit().await.map_err(from_sqlx)
        };
        timeout(PATIENCE_FOR_TRUST, released).await.unwrap_or_else(|_| Err(silent())).map_err(unusable)
    }
}

fn changes(change: &'static str, count: usize) {
    metrics::counter!("healthmon_lease_changes_total", "change" => change).increment(count as u64);
}

fn silent() -> StoreError {
    StoreError::Transient { retry_after: Duration::from_millis(200), source: "the database does not answer".into() }
}

fn no_leases(why: &'static str) -> SchedulerError {
    SchedulerError::Transient { retry_after: Duration::from_millis(100), source: why.into() }
}

fn unusable(error: StoreError) -> SchedulerError {
    match error {
        StoreError::Transient { retry_after, .. } => SchedulerError::Transient { retry_after, source: Box::new(error) },
        other => SchedulerError::Permanent(Box::new(other)),
    }
}

impl Inner {
    fn hand_over(&mut self) {
        for held in self.held.values_mut() {
            held.handed_over = held.emitter.emitted_through();
        }
    }

    fn emit(&mut self, now: Timestamp, max: usize) -> Due {
        let (mut probes, mut missed, mut next) = (Vec::new(), 0, now.after(HUNGRY_PERIOD));
        let (turn, mut shards_that_gave) = (self.turn, 0);
        let (before, after): (Vec<_>, Vec<_>) = self.held.iter_mut().partition(|(shard, _)| **shard < turn);
        for (shard, held) in after.into_iter().chain(before) {
            if let Some(later) = held.next.filter(|next| *next > now) {
                next = next.min(later);
                continue;
            }
            if probes.len() >= max {
                // The rest at once, beginning with those who got nothing now.
                (self.turn, next) = (*shard, now);
                break;
            }
            let from = probes.len();
            missed += held.emitter.emit(now, max, &mut probes);
            for probe in &mut probes[from..] {
                probe.claim = Some(held.claim);
            }
            shards_that_gave += usize::from(probes.len() > from);
            let wanted = held.emitter.next(now);
            held.next = Some(wanted);
            next = next.min(wanted);
        }
        if shards_that_gave > 1 {
            probes.sort_by_key(|probe| probe.id.slot);
        }
        // Each shard wants its turn at a moment of its own; all of them are served together.
        let next = if next > now { next.max(now.after(QUANTUM)) } else { next };
        Due { probes, missed, next }
    }
}

#[async_trait]
impl Scheduler for PostgresScheduler {
    async fn due(&self, now: Timestamp, max: NonZeroUsize) -> Result<Due, SchedulerError> {
        self.due_now(now, max.get()).await
    }

    fn dealt_with(&self) {
        self.dealt_with.store(true, Ordering::Release);
    }

    fn services_changed(&self) {
        self.told.store(true, Ordering::Release);
    }

    async fn release(&self) -> Result<(), SchedulerError> {
        self.release_now().await
    }
}
