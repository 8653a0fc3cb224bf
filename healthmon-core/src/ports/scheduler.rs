use std::{num::NonZeroUsize, time::Duration};

use async_trait::async_trait;

use crate::{probe::Probe, time::Timestamp};

/// What fell due, and what the tick loop needs to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    /// The probes that fell due, in order of slot.
    pub probes: Vec<Probe>,
    /// How many slots were skipped because their start-by had passed, or a newer one had come.
    pub missed: u64,
    /// When to ask again at the latest. At or before the time asked about when there is more now.
    pub next: Timestamp,
}

/// Why a scheduler could not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchedulerError {
    /// Another node has this node's shards now. Stop emitting; asking again claims anew.
    #[error("another node has taken over this node's shards")]
    Fenced,
    /// Something is away for now. Ask again after this long; nothing was lost.
    #[error("the scheduler's store is away: {source}")]
    Transient {
        /// How long to wait.
        retry_after: Duration,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Asking again will not help.
    #[error("the scheduler cannot go on: {0}")]
    Permanent(Box<dyn std::error::Error + Send + Sync>),
}

/// Says which probes fell due, claimed for this node.
///
/// # Contract
///
/// - Every slot of a claimed shard comes at most once in an epoch of that claim.
/// - Missed slots are skipped and counted: of a service's slots that went by, only the newest
///   whose start-by has not passed is emitted. There is no burst after a standstill.
/// - Nothing comes ahead of its slot.
/// - A stale claim is told so ([`SchedulerError::Fenced`]); `release` hands over at once.
/// - A new, resumed or rescheduled service gets one edge probe at once; a crowd of them is spread
///   over seconds.
/// - A paused or deleted service yields nothing from the moment the scheduler has seen the change.
/// - Dropping the call loses nothing but time.
#[async_trait]
pub trait Scheduler: Send + Sync {
    /// What fell due up to `now` and was not yet told; at most `max` probes.
    ///
    /// # Errors
    /// See [`SchedulerError`].
    async fn due(&self, now: Timestamp, max: NonZeroUsize) -> Result<Due, SchedulerError>;

    /// Tells it that the queue has taken all probes of the last answer, or that they are given up.
    /// Without this, `release` leaves those probes to whoever goes on.
    fn dealt_with(&self) {}

    /// Tells it that services have changed: the next call of [`due`](Self::due) looks at once.
    /// Without this it looks each second.
    fn services_changed(&self);

    /// Gives every claim back, so that another node can go on at once.
    ///
    /// # Errors
    /// See [`SchedulerError`].
    async fn release(&self) -> Result<(), SchedulerError>;
}
