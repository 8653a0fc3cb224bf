use std::{fmt, num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::probe::{Probe, ProbeResult};

/// A probe handed out more often than this and never completed is poison.
pub const MAX_DELIVERIES: u32 = 3;

/// The queue's own name for one thing it handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    /// Which of the queue's streams it came from.
    pub stream: u32,
    /// Its place there.
    pub id: (u64, u64),
}

/// Who drains results. Unique per process start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(pub Arc<str>);

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A probe, handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The probe.
    pub probe: Probe,
    /// The how-manieth hand-out of it this is; 1 is the first.
    pub delivery: u32,
    /// With what to complete it.
    pub receipt: Receipt,
}

/// A result for a probe that was handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The delivery's receipt.
    pub receipt: Receipt,
    /// What was seen.
    pub result: ProbeResult,
}

/// A result, handed to a recorder.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultDelivery {
    /// The result.
    pub result: ProbeResult,
    /// With what to acknowledge it.
    pub receipt: Receipt,
}

/// What became of probes that were enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enqueued {
    /// How many are in the queue because of this call.
    pub accepted: usize,
    /// How many were there already, or had been.
    pub repeated: usize,
    /// How many were dropped because their claim is stale: another scheduler has taken over.
    pub fenced: usize,
}

/// How full the queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Probes that wait for a worker.
    pub waiting: usize,
    /// Probes that a worker has.
    pub in_flight: usize,
    /// Results that are not acknowledged.
    pub results: usize,
    /// How long the oldest waiting probe has waited beyond its slot.
    pub oldest: Duration,
    /// How long the oldest result that is not acknowledged has been there.
    pub oldest_result: Duration,
}

/// Why the queue could not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// It is full. Nothing of the call was taken; try again after this long.
    #[error("the queue is full")]
    Full {
        /// How long to wait.
        retry_after: Duration,
    },
    /// It is away for now; the same call may be repeated after this long.
    #[error("the queue is away: {source}")]
    Transient {
        /// How long to wait.
        retry_after: Duration,
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Repeating the call will not help.
    #[error("the queue cannot do this: {0}")]
    Permanent(Box<dyn std::error::Error + Send + Sync>),
}

/// Hands out probes and carries results back.
///
/// # Contract
///
/// - At least once: a probe is handed out again until it is completed or its start-by has passed;
///   one taken by a worker that vanished comes back after the lease (timeout plus a margin).
/// - Enqueuing the same id again is harmless.
/// - A probe whose claim is of an older epoch than the queue has seen for that shard is dropped and
///   counted; others of the same call are taken. A probe without a claim is never dropped.
/// - Probes come in no promised order. `pull` takes only what fits.
/// - Dropping any call loses nothing but time.
/// - `complete` stores the results, as durably as the queue declares, before the probes are
///   acknowledged. Completing twice is harmless.
/// - Results: they are drained by one consumer at a time, its predecessor's unacknowledged ones
///   first, so that a service's results come in the order they were completed. A consumer keeps
///   its right by pulling; after [`release`](Self::release) or a lease's silence another has it.
/// - A probe not begun by its start-by, or handed out more than [`MAX_DELIVERIES`] times, comes
///   back as a result (`expired`, `poison`), not in silence.
/// - Bounded: when full, `enqueue` refuses the whole batch with [`QueueError::Full`]. Results
///   count too: while they pile up no new probes are taken in, but results always are.
#[async_trait]
pub trait ProbeQueue: Send + Sync {
    /// Puts probes on the queue: all of them, or none on an error.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn enqueue(&self, probes: Vec<Probe>) -> Result<Enqueued, QueueError>;

    /// Takes at most `max` probes, waiting at most `wait` for the first.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn pull(&self, max: NonZeroUsize, wait: Duration) -> Result<Vec<Delivery>, QueueError>;

    /// Stores results, then acknowledges their probes. May be repeated.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn complete(&self, completions: Vec<Completion>) -> Result<(), QueueError>;

    /// Takes at most `max` results, waiting at most `wait` for the first. Nothing while another
    /// consumer has the right.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn pull_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        wait: Duration,
    ) -> Result<Vec<ResultDelivery>, QueueError>;

    /// Acknowledges results: they are recorded and will not come again. May be repeated.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn ack_results(&self, consumer: &ConsumerId, receipts: &[Receipt]) -> Result<(), QueueError>;

    /// Gives up the right to drain results, so that another consumer has it at once.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn release(&self, consumer: &ConsumerId) -> Result<(), QueueError>;

    /// How full it is.
    ///
    /// # Errors
    /// See [`QueueError`].
    async fn depth(&self) -> Result<QueueDepth, QueueError>;
}
