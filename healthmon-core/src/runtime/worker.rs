//! Takes probes off the queue and performs them, many at a time and each within its deadline.

use std::{num::NonZeroUsize, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Canary, Probers, Vitals, canary::Lookout};
use crate::{
    ports::{Clock, Completion, Delivery, ProbeQueue, QueueError},
    probe::{FailReason, IndeterminateReason, Observation, Outcome, Probe, ProbeResult},
};

/// A prober that has not returned this long after the deadline is dropped.
const BACKSTOP: Duration = Duration::from_millis(100);
/// A probe that took this much longer than its timeout was held up by our own machine.
const STALL: Duration = Duration::from_secs(1);
/// How many results are handed to the queue at a time.
const COMPLETIONS: usize = 512;

/// What the loop works with.
pub struct Worker {
    /// Hands out probes.
    pub queue: Arc<dyn ProbeQueue>,
    /// Perform them.
    pub probers: Probers,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Notes how late probes begin.
    pub vitals: Arc<Vitals>,
    /// By what it knows that its own network is there, if at all.
    pub canary: Option<Canary>,
    /// How many probes may be under way at once.
    pub concurrency: NonZeroUsize,
    /// How long the queue is waited for at a time.
    pub wait: Duration,
    /// How long probes under way may go on after `stop`.
    pub drain: Duration,
}

impl Worker {
    /// Runs until `stop`, then lets the probes under way come to their end within the drain time.
    pub async fn run(self, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.concurrency.get()));
        let (done, completions) = mpsc::channel(self.concurrency.get().clamp(COMPLETIONS, 16_384));
        let completer = tokio::spawn(complete(Arc::clone(&self.queue), completions));
        let (probers, clock) = (Arc::new(self.probers), Arc::clone(&self.clock));
        let lookout = self
            .canary
            .map(|canary| Lookout::new(canary, Arc::clone(&probers), Arc::clone(&clock), Arc::clone(&self.vitals)));
        let lookout = Arc::new(lookout);
        let under_way = TaskTracker::new();
        while let Some(deliveries) = pull(&*self.queue, &permits, self.wait, &stop).await {
            for delivery in deliveries {
                let (probers, clock, done) = (Arc::clone(&probers), Arc::clone(&clock), done.clone());
                let (vitals, lookout) = (Arc::clone(&self.vitals), Arc::clone(&lookout));
                // `pull` asked for no more than there are permits, and nobody else takes them.
                let permit = Arc::clone(&permits).try_acquire_owned();
                under_way.spawn(async move {
                    let begun = Instant::now();
                    let mut result = perform(&probers, &*clock, &delivery.probe).await;
                    if let Some(lookout) = &*lookout {
                        result = lookout.judge(begun, result).await;
                    }
                    vitals.probed(&result);
                    note(&delivery, &result);
                    let completion = Completion { receipt: delivery.receipt, result };
                    if done.send(completion).await.is_err() {
                        tracing::error!("the worker's results have nowhere to go");
                    }
                    drop(permit);
                });
            }
        }
        under_way.close();
        drop(done);
        if tokio::time::timeout(self.drain, under_way.wait()).await.is_err() {
            tracing::warn!(probes = under_way.len(), "probes are still under way at the end of the drain time");
        }
        // Those still under way hold a sender; what they find will be probed again elsewhere.
        if tokio::time::timeout(self.drain, completer).await.is_err() {
            tracing::warn!("results could not be handed over within the drain time");
        }
    }
}

/// Waits for room, then takes what fits. `None` when told to stop.
async fn pull(
    queue: &dyn ProbeQueue,
    permits: &Semaphore,
    wait: Duration,
    stop: &CancellationToken,
) -> Option<Vec<Delivery>> {
    loop {
        let pulled = async {
            // Held for a moment only: it says that there is room for at least one.
            drop(permits.acquire().await);
            let room = NonZeroUsize::new(permits.available_permits()).unwrap_or(NonZeroUsize::MIN);
            queue.pull(room, wait).await
        };
        let pulled = tokio::select! {
            () = stop.cancelled() => return None,
            pulled = pulled => pulled,
        };
        match pulled {
            Ok(deliveries) if deliveries.is_empty() => {}
            Ok(deliveries) => return Some(deliveries),
            Err(error) => {
                let pause = retry_after(&error);
                tracing::warn!(%error, "cannot take probes for now");
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

fn retry_after(error: &QueueError) -> Duration {
    match error {
        QueueError::Full { retry_after } | QueueError::Transient { retry_after, .. } => {
            (*retry_after).max(Duration::from_millis(1))
        }
        QueueError::Permanent(_) => Duration::from_secs(1),
    }
}

/// Hands results over in batches until every sender is gone.
async fn complete(queue: Arc<dyn ProbeQueue>, mut completions: mpsc::Receiver<Completion>) {
    let mut batch = Vec::with_capacity(COMPLETIONS);
    while completions.recv_many(&mut batch, COMPLETIONS).await > 0 {
        while let Err(error) = queue.complete(batch.clone()).await {
            tracing::warn!(%error, results = batch.len(), "cannot hand over results for now");
            tokio::time::sleep(retry_after(&error)).await;
        }
        batch.clear();
    }
}

/// Performs one probe. Whatever happens, there is a result, and by the deadline.
pub async fn perform(probers: &Probers, clock: &dyn Clock, probe: &Probe) -> ProbeResult {
    let started = clock.now();
    if started > probe.start_by {
        let detail = "it reached a worker after its start-by";
        return probe.indeterminate(IndeterminateReason::Expired, started, detail);
    }
    let (begin, timeout) = (Instant::now(), probe.service.settings.timeout.get());
    let caught = AssertUnwindSafe(probers.probe(probe)).catch_unwind();
    let seen = match tokio::time::timeout(timeout + BACKSTOP, caught).await {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => Observation::indeterminate(IndeterminateReason::Internal, "the prober panicked"),
        Err(_) => Observation::new(Outcome::Fail(FailReason::Timeout), timeout)
            .with_detail("the prober did not return by the deadline"),
    };
    let stalled = begin.elapsed().max(clock.now().since(started)) > timeout + STALL;
    if stalled && !matches!(seen.outcome, Outcome::Pass | Outcome::Slow) {
        let detail = "the worker stalled in the middle of the probe";
        return probe.indeterminate(IndeterminateReason::Stalled, started, detail);
    }
    probe.result(started, seen)
}

/// One event a probe: at debug level, or a warning when it did not pass.
fn note(delivery: &Delivery, result: &ProbeResult) {
    let (service, seen) = (&delivery.probe.service, &result.seen);
    macro_rules! probed {
        ($level:ident) => {
            tracing::$level!(
                service = %service.settings.name,
                id = %service.id,
                kind = result.id.kind.as_str(),
                slot = %result.id.slot,
                delivery = delivery.delivery,
                outcome = seen.outcome.as_str(),
                reason = seen.outcome.reason().map(|reason| reason.as_str()),
                latency_us = seen.latency_us,
                detail = seen.detail.as_deref(),
                "probed"
            )
        };
    }
    match seen.outcome {
        Outcome::Pass => probed!(debug),
        Outcome::Slow | Outcome::Fail(_) | Outcome::Fatal(_) | Outcome::Indeterminate(_) => probed!(warn),
    }
}
