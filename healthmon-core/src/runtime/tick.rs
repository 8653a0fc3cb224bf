//! Asks the scheduler what fell due and puts it on the queue. Never waits for a probe.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::Vitals;
use crate::{
    ports::{Broadcaster, Clock, Hint, ProbeQueue, QueueError, Scheduler, SchedulerError},
    probe::Probe,
};

/// What the loop works with.
pub struct Tick {
    /// Says what fell due.
    pub scheduler: Arc<dyn Scheduler>,
    /// Takes it.
    pub queue: Arc<dyn ProbeQueue>,
    /// Tells of changed services.
    pub broadcaster: Arc<dyn Broadcaster>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Notes how late it is.
    pub vitals: Arc<Vitals>,
    /// How many probes are asked for at a time.
    pub batch: NonZeroUsize,
}

/// What is left of probes that were to be put on the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InHand {
    Nothing,
    /// Some that it has not taken.
    Probes,
}

impl Tick {
    /// Runs until `stop`, then gives the claims back.
    pub async fn run(self, stop: CancellationToken) {
        let mut hints = self.broadcaster.subscribe();
        let mut hinting = true;
        while !stop.is_cancelled() {
            let pause = self.step(&stop).await;
            if pause.is_zero() {
                // Let others of this thread run when there is always something due.
                tokio::task::yield_now().await;
                continue;
            }
            let wake = tokio::time::Instant::now() + pause;
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep_until(wake) => break,
                    hint = hints.next(), if hinting => match hint {
                        Some(Hint::Services(_) | Hint::Lost) => {
                            self.scheduler.services_changed();
                            break;
                        }
                        Some(Hint::Log(_)) => {}
                        None => hinting = false,
                    },
                }
            }
        }
        if let Err(error) = self.scheduler.release().await {
            tracing::warn!(%error, "could not give the claims back; they will run out");
        }
    }

    /// One round. Returns how long to pause.
    async fn step(&self, stop: &CancellationToken) -> Duration {
        let now = self.clock.now();
        match self.scheduler.due(now, self.batch).await {
            Ok(due) => {
                self.vitals.scheduled(now);
                self.vitals.missed(due.missed);
                if due.missed > 0 {
                    tracing::warn!(slots = due.missed, "slots were missed and are skipped");
                }
                if due.probes.is_empty() || self.enqueue(due.probes, stop).await == InHand::Nothing {
                    self.scheduler.dealt_with();
                }
                due.next.since(self.clock.now())
            }
            Err(SchedulerError::Fenced) => {
                tracing::warn!("another node has taken over this node's shards");
                Duration::from_secs(1)
            }
            Err(error @ SchedulerError::Transient { retry_after, .. }) => {
                tracing::warn!(%error, "cannot schedule for now");
                retry_after.max(Duration::from_millis(10))
            }
            Err(error) => {
                tracing::error!(%error, "cannot schedule");
                Duration::from_secs(5)
            }
        }
    }

    /// Offers the probes until the queue takes them, it says that they are not wanted, or they are
    /// too old to be begun.
    async fn enqueue(&self, mut probes: Vec<Probe>, stop: &CancellationToken) -> InHand {
        let mut piece = probes.len();
        loop {
            piece = piece.clamp(1, probes.len());
            let pause = match self.queue.enqueue(probes[..piece].to_vec()).await {
                Ok(enqueued) => {
                    if enqueued.fenced > 0 {
                        tracing::warn!(probes = enqueued.fenced, "the queue dropped probes of a stale claim");
                    }
                    self.vitals.enqueued(self.clock.now(), &probes[..piece], enqueued);
                    probes.drain(..piece);
                    if probes.is_empty() {
                        return InHand::Nothing;
                    }
                    continue;
                }
                // Perhaps there is room for some of them.
                Err(QueueError::Full { .. }) if piece > 1 => {
                    piece /= 2;
                    continue;
                }
                Err(QueueError::Full { retry_after }) => retry_after,
                Err(error @ QueueError::Transient { retry_after, .. }) => {
                    tracing::warn!(%error, "cannot enqueue for now");
                    retry_after
                }
                Err(error) => {
                    tracing::error!(%error, "cannot enqueue");
                    Duration::from_secs(1)
                }
            };
            let now = self.clock.now();
            let before = probes.len();
            probes.retain(|probe| probe.start_by >= now);
            if probes.len() < before {
                self.vitals.missed((before - probes.len()) as u64);
                tracing::warn!(slots = before - probes.len(), "slots were missed while the queue took nothing");
            }
            if probes.is_empty() {
                return InHand::Nothing;
            }
            tokio::select! {
                () = stop.cancelled() => return InHand::Probes,
                () = tokio::time::sleep(pause.max(Duration::from_millis(1))) => {}
            }
        }
    }
}
