//! Takes probes off the queue and performs them, many at a time and each within its deadline.

use std::{num::NonZeroUsize, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Canary, Probers, Vitals,
    canary::Lookout,
    lanes::{Admission, Lanes, Place},
};
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
/// How often results are handed over at the most, unless there are that many: what ends meanwhile
/// goes together. One that comes after a quiet while goes at once.
const HAND_OVER: Duration = Duration::from_millis(10);

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
    /// How many of them may wait on the same host.
    pub per_host: NonZeroUsize,
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
        let lanes = Lanes::new(self.concurrency, self.per_host);
        let (probers, clock, vitals) = (Arc::new(self.probers), self.clock, self.vitals);
        let lookout = self
            .canary
            .map(|canary| Lookout::new(canary, Arc::clone(&probers), Arc::clone(&clock), Arc::clone(&vitals)));
        let crew = Arc::new(Crew { probers, clock, vitals, lookout, done });
        let closed = CancellationToken::new();
        let _closing = closed.clone().drop_guard();
        tokio::spawn(Arc::clone(&crew).see_off(Arc::clone(&lanes), closed.clone()));
        let under_way = TaskTracker::new();
        while let Some(deliveries) = pull(&*self.queue, &permits, self.wait, &stop).await {
            for delivery in deliveries {
                // `pull` asked for no more than there are permits, and nobody else takes them.
                let permit = Arc::clone(&permits).try_acquire_owned();
                let left = delivery.probe.start_by.since(crew.clock.now());
                let service = Arc::clone(&delivery.probe.service);
                let host = crew.probers.host(&service.settings.url);
                let crew = Arc::clone(&crew);
                match lanes.admit(host, delivery, left) {
                    Admission::Begins(delivery, place) => {
                        under_way.spawn(async move {
                            crew.work(delivery, place).await;
                            drop(permit);
                        });
                    }
                    // It has its turn when another of its host ends, with the permit of that one.
                    Admission::Waits => drop(permit),
                    Admission::Crowded(delivery) => {
                        under_way.spawn(async move {
                            crew.turn_away(delivery, IndeterminateReason::Crowded).await;
                            drop(permit);
                        });
                    }
                }
            }
        }
        under_way.close();
        if tokio::time::timeout(self.drain, under_way.wait()).await.is_err() {
            tracing::warn!(probes = under_way.len(), "probes are still under way at the end of the drain time");
        }
        closed.cancel();
        drop(crew);
        // Those still under way hold a sender; what they find will be probed again elsewhere.
        if tokio::time::timeout(self.drain, completer).await.is_err() {
            tracing::warn!("results could not be handed over within the drain time");
        }
    }
}

/// What the tasks of a worker share.
struct Crew {
    probers: Arc<Probers>,
    clock: Arc<dyn Clock>,
    vitals: Arc<Vitals>,
    lookout: Option<Lookout>,
    done: mpsc::Sender<Completion>,
}

impl Crew {
    /// Performs a probe, and after it those that waited for its place.
    async fn work(&self, mut delivery: Delivery, mut place: Place) {
        loop {
            let begun = Instant::now();
            let mut result = perform(&self.probers, &*self.clock, &delivery.probe).await;
            if let Some(lookout) = &self.lookout {
                result = lookout.judge(begun, result).await;
            }
            self.hand_over(delivery, result).await;
            match place.hand_on() {
                Some(next) => (delivery, place) = next,
                None => return,
            }
        }
    }

    /// Sees those off that waited for their turn too long.
    async fn see_off(self: Arc<Self>, lanes: Arc<Lanes>, closed: CancellationToken) {
        let seeing_off = async {
            loop {
                for (delivery, reason) in lanes.late().await {
                    self.turn_away(delivery, reason).await;
                }
            }
        };
        tokio::select! {
            () = closed.cancelled() => {}
            () = seeing_off => {}
        }
    }

    /// The end of a probe that had no turn.
    async fn turn_away(&self, delivery: Delivery, reason: IndeterminateReason) {
        let detail = match reason {
            IndeterminateReason::Expired => "its start-by came while it waited behind others of its host",
            _ => "too many probes of its host were under way",
        };
        let result = delivery.probe.indeterminate(reason, self.clock.now(), detail);
        self.hand_over(delivery, result).await;
    }

    async fn hand_over(&self, delivery: Delivery, result: ProbeResult) {
        self.vitals.probed(&result);
        note(&delivery, &result);
        let completion = Completion { receipt: delivery.receipt, result };
        if self.done.send(completion).await.is_err() {
            tracing::error!("the worker's results have nowhere to go");
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
    let mut next = Instant::now();
    while completions.recv_many(&mut batch, COMPLETIONS).await > 0 {
        let room = COMPLETIONS - batch.len();
        if room > 0 && Instant::now() < next {
            tokio::time::sleep_until(next).await;
            let more = completions.len().min(room);
            if more > 0 {
                completions.recv_many(&mut batch, more).await;
            }
        }
        next = Instant::now() + HAND_OVER;
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
