mod query;

use std::{num::NonZeroUsize, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Input, State, Thresholds},
    id::{Applied, LogId, Revision, Seq, ServiceId},
    probe::{Outcome, ProbeId, ProbeResult},
    service::{Service, ServiceSettings},
    status::{LogEntry, Overlay, Status},
    summary::Summed,
    time::{Slot, Timestamp},
};

pub use query::{ResultKey, ResultQuery, ServiceFilter};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such service, or no longer.
    #[error("there is no service {0}")]
    NotFound(ServiceId),
    /// The service was changed since it was read; read it again. Holds its present revision.
    #[error("the service was changed meanwhile; it is at revision {0} now")]
    Conflict(Revision),
    /// The store is away, busy or full for now; the same call may be repeated after this long.
    #[error("the store is away: {source}")]
    Transient {
        /// How long to wait.
        retry_after: Duration,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refuses this very data; without it the call would do. A batch is to be halved
    /// until the offender is found.
    #[error("the store refuses this: {0}")]
    Refused(Box<dyn std::error::Error + Send + Sync>),
    /// Repeating the call will not help: the database is damaged or not ours.
    #[error("the store cannot do this: {0}")]
    Permanent(Box<dyn std::error::Error + Send + Sync>),
}

/// What is done to a registered service.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Its settings become these.
    Settings(Box<ServiceSettings>),
    /// Its probing is suspended.
    Pause,
    /// Its probing goes on.
    Resume,
    /// Its announced status is frozen until then.
    BeginMaintenance {
        /// When the sweep ends it.
        until: Timestamp,
    },
    /// Its announced status is frozen no longer.
    EndMaintenance,
    /// It is deleted; its history stays as a tombstone.
    Delete,
}

/// What a change led to.
#[derive(Debug, Clone, PartialEq)]
pub struct Changed {
    /// The service as it is now.
    pub service: Service,
    /// What was added to the log.
    pub entries: Vec<LogEntry>,
}

/// The newest result of a service, as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastResult {
    /// Its slot.
    pub slot: Slot,
    /// When it began.
    pub started: Timestamp,
    /// What was seen: `pass`, `slow`, `fail` or `indeterminate`.
    pub outcome: String,
    /// Why, if it was no pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<crate::probe::Reason>,
    /// The whole time, in microseconds.
    pub latency_us: u32,
    /// What was expected and what was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<str>>,
    /// When the certificate it saw expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<Timestamp>,
}

impl LastResult {
    /// As lists show `result`.
    pub fn of(result: &ProbeResult) -> Self {
        Self {
            slot: result.id.slot,
            started: result.started,
            outcome: result.seen.outcome.as_str().to_owned(),
            reason: result.seen.outcome.reason(),
            latency_us: result.seen.latency_us,
            detail: result.seen.detail.clone(),
            certificate_expires: result.seen.certificate_expires,
        }
    }
}

/// A service and how it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    /// The service.
    pub service: Service,
    /// The announced status.
    pub status: Status,
    /// Since when it is announced.
    pub since: Timestamp,
    /// What lies over it.
    pub overlays: Vec<Overlay>,
    /// When maintenance is to end, if it is in maintenance.
    pub maintenance_until: Option<Timestamp>,
    /// Its newest result.
    pub last: Option<LastResult>,
}

/// A recorded result.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredResult {
    /// The result.
    pub result: ProbeResult,
    /// Its number among the inputs that moved the service; none if it did not vote.
    pub applied: Option<Applied>,
}

/// An input that moved a service, for replaying it.
#[derive(Debug, Clone, PartialEq)]
pub struct AppliedInput {
    /// Its number.
    pub applied: Applied,
    /// The input. Registration is the `Configure` with number 1.
    pub input: Input<Thresholds>,
}

/// Why a result was not recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SetAside {
    /// Its service is unknown or deleted.
    NoService,
    /// Its slot is older than results are kept for.
    TooOld,
    /// Its slot is more than 5 s ahead of the store's time.
    Ahead,
    /// The database refused it, and it alone.
    Refused,
}

impl SetAside {
    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoService => "no_service",
            Self::TooOld => "too_old",
            Self::Ahead => "ahead",
            Self::Refused => "refused",
        }
    }
}

/// What became of a batch of results.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recorded {
    /// How many were new.
    pub inserted: usize,
    /// How many were recorded already.
    pub repeated: usize,
    /// Those that cannot be recorded, and why; they need no repeating.
    pub set_aside: Vec<(ProbeId, SetAside)>,
    /// The log entries that these results led to, in order of `seq`; of repeated ones, those that
    /// were there.
    pub entries: Vec<LogEntry>,
    /// New results that asked for an earlier probe.
    pub sooner: Vec<ServiceId>,
}

/// What one step of the sweep did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Swept {
    /// How many slots were noted as missed.
    pub missed: u64,
    /// What was added to the log.
    pub entries: Vec<LogEntry>,
    /// Where to go on; none when all services have been looked at.
    pub next: Option<ServiceId>,
}

/// Where the log stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    /// Which log it is.
    pub log: LogId,
    /// The newest entry's place.
    pub head: Seq,
    /// The place before the oldest entry that is still there.
    pub tail: Seq,
}

/// Keeps services, states, results and transitions.
///
/// # Contract
///
/// - `record` is all-or-nothing and idempotent, and safe to repeat when the commit's outcome is
///   unknown: a repeat returns the entries that are there. Only newly inserted results are folded,
///   each service's in slot order, with the state read under the service's lock.
/// - What cannot be recorded is set aside and named; it holds up nobody.
/// - `seq` is gapless from 1 and in commit order: who sees an entry sees every earlier one.
/// - Every input that moved a state is a row with its number, so that
///   [`inputs`](Self::inputs) replays to exactly [`state`](Self::state).
/// - Revisions are gapless and in commit order.
/// - Pages are keyset-stable: what is added or removed meanwhile neither repeats nor hides a row
///   that was there all along.
/// - Dropping a call leaves it done or not done, never half.
#[async_trait]
pub trait ResultStore: Send + Sync {
    /// The store's own time, by which slots ahead of it are refused.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn now(&self) -> Result<Timestamp, StoreError>;

    /// Registers a service under an id that the caller made. Repeating it with the same id and
    /// settings returns the service that is there.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id is taken by something else.
    async fn register(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service, StoreError>;

    /// Changes a service, if it is still at revision `expected` (when one is given). A change to
    /// what already is changes nothing, and gives no new revision.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    async fn change(&self, id: ServiceId, expected: Option<Revision>, change: Change) -> Result<Changed, StoreError>;

    /// One service, unless it is deleted.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn service(&self, id: ServiceId) -> Result<Option<ServiceView>, StoreError>;

    /// Services by id, those after `after`, without deleted ones.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<ServiceView>, StoreError>;

    /// Services that changed after `after`, by revision, deleted ones too. A service that changed
    /// several times comes once, with its last revision.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn changes(&self, after: Revision, limit: NonZeroUsize) -> Result<Vec<Service>, StoreError>;

    /// Records results. See the contract.
    ///
    /// # Errors
    /// [`StoreError::Transient`]: nothing, or all, of it happened; repeat it.
    async fn record(&self, results: Vec<ProbeResult>) -> Result<Recorded, StoreError>;

    /// Looks at up to `limit` services after `after` and applies what [`sweep`](crate::record::sweep) finds
    /// due: missed slots, maintenance at its end. Also lets go of results past their retention.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn sweep(&self, after: Option<ServiceId>, limit: NonZeroUsize) -> Result<Swept, StoreError>;

    /// Results of a service, newest first. Deleted services have them too.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn results(
        &self,
        id: ServiceId,
        query: &ResultQuery,
        limit: NonZeroUsize,
    ) -> Result<Vec<StoredResult>, StoreError>;

    /// The result of one probe, if it is recorded.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn result(&self, id: &ProbeId) -> Result<Option<StoredResult>, StoreError>;

    /// What the scheduled results of a service with slots in `[from, to)` come to, and the service
    /// as it is now, deleted ones too. Every result that is recorded is in it, whenever it came. It
    /// may go back further than results are kept, by sums of whole hours; it says then which span it
    /// is the sum of, less than an hour shorter at either end.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn summary(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>, StoreError>;

    /// The log after `after`, oldest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn log(&self, after: Seq, limit: NonZeroUsize) -> Result<Vec<LogEntry>, StoreError>;

    /// The log of one service before `before`, newest first.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn service_log(
        &self,
        id: ServiceId,
        before: Option<Seq>,
        limit: NonZeroUsize,
    ) -> Result<Vec<LogEntry>, StoreError>;

    /// Where the log stands.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn head(&self) -> Result<LogHead, StoreError>;

    /// The inputs that moved a service after number `after`, in order: results and controls.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn inputs(&self, id: ServiceId, after: Applied, limit: NonZeroUsize)
    -> Result<Vec<AppliedInput>, StoreError>;

    /// The state of a service, deleted ones too.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn state(&self, id: ServiceId) -> Result<Option<State<Thresholds>>, StoreError>;
}

impl StoredResult {
    /// What was seen.
    pub const fn outcome(&self) -> Outcome {
        self.result.seen.outcome
    }
}
