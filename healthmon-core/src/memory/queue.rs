use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};

use crate::{
    id::ClaimEpoch,
    ports::{
        Clock, Completion, ConsumerId, Delivery, Enqueued, MAX_DELIVERIES, ProbeQueue, QueueDepth, QueueError, Receipt,
        ResultDelivery,
    },
    probe::{IndeterminateReason, Probe, ProbeId, ProbeResult},
    shard::{Claim, Shard},
    time::Timestamp,
};

/// The bounds of a [`MemoryProbeQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Probes and unacknowledged results together; beyond it `enqueue` refuses.
    pub capacity: usize,
    /// How long beyond its timeout a probe may be with a worker before it is handed out again.
    pub lease_margin: Duration,
    /// How long a consumer of results may be silent before another has its right.
    pub drain_lease: Duration,
}

impl QueueLimits {
    /// The bounds for a queue that nodes share: room for a million, so that results of an hour's
    /// outage of the store find a place; a margin of 5 s and a lease of 10 s.
    pub const fn shared() -> Self {
        Self { capacity: 1_000_000, lease_margin: Duration::from_secs(5), drain_lease: Duration::from_secs(10) }
    }
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { capacity: 100_000, lease_margin: Duration::from_secs(5), drain_lease: Duration::from_secs(10) }
    }
}

/// A queue in memory: leased, bounded, with deadlines; durable as long as the process.
pub struct MemoryProbeQueue {
    clock: Arc<dyn Clock>,
    limits: QueueLimits,
    inner: Mutex<Inner>,
    probes_came: Notify,
    results_came: Notify,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// Waiting probes, first come first served.
    waiting: BTreeMap<u64, Waiting>,
    /// The same by start-by, to find those that expire.
    by_start: BTreeSet<(Timestamp, u64)>,
    in_flight: HashMap<u64, InFlight>,
    /// The same by the end of their lease.
    by_lease: BTreeSet<(Instant, u64)>,
    /// Every id that waits or is in flight.
    known: HashMap<ProbeId, u64>,
    results: BTreeMap<u64, (Instant, ProbeResult)>,
    drain: Option<Drain>,
    /// The newest epoch seen of each shard's claims.
    epochs: HashMap<Shard, ClaimEpoch>,
}

struct Waiting {
    probe: Probe,
    deliveries: u32,
}

struct InFlight {
    probe: Probe,
    deliveries: u32,
    lease_end: Instant,
}

struct Drain {
    consumer: ConsumerId,
    lease_end: Instant,
    /// The newest result it was given.
    handed: Option<u64>,
}

impl MemoryProbeQueue {
    /// An empty queue.
    pub fn new(clock: Arc<dyn Clock>, limits: QueueLimits) -> Self {
        Self { clock, limits, inner: Mutex::default(), probes_came: Notify::new(), results_came: Notify::new() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No invariant is broken between two statements that can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings back what workers dropped and turns what came too late into results. Returns the
    /// time at which there is more of that to do.
    fn upkeep(&self, inner: &mut Inner) -> Option<Duration> {
        let (now, instant) = (self.clock.now(), Instant::now());
        let before = inner.results.len();
        while let Some(&(end, number)) = inner.by_lease.first().filter(|(end, _)| *end <= instant) {
            inner.by_lease.remove(&(end, number));
            let Some(InFlight { probe, deliveries, .. }) = inner.in_flight.remove(&number) else { continue };
            inner.known.remove(&probe.id);
            if deliveries >= MAX_DELIVERIES {
                let detail = format!("handed out {deliveries} times and never completed");
                inner.give_up(&probe, IndeterminateReason::Poison, now, &detail);
            } else {
                inner.wait(probe, deliveries);
                self.probes_came.notify_one();
            }
        }
        while let Some(&(start_by, number)) = inner.by_start.first().filter(|(start_by, _)| *start_by < now) {
            inner.by_start.remove(&(start_by, number));
            let Some(Waiting { probe, .. }) = inner.waiting.remove(&number) else { continue };
            inner.known.remove(&probe.id);
            inner.give_up(&probe, IndeterminateReason::Expired, now, "no worker began it by its start-by");
        }
        if inner.results.len() > before {
            self.results_came.notify_waiters();
        }
        let lease = inner.by_lease.first().map(|(end, _)| end.saturating_duration_since(instant));
        let start = inner.by_start.first().map(|(start_by, _)| start_by.since(now) + Duration::from_millis(1));
        [lease, start].into_iter().flatten().min()
    }

    /// Tries `take` until it has something, at most for `wait`. Woken by `came`, and when upkeep is due.
    async fn until<T>(&self, wait: Duration, came: &Notify, mut take: impl FnMut(&mut Inner) -> Vec<T>) -> Vec<T> {
        let end = Instant::now() + wait;
        loop {
            let notified = came.notified();
            tokio::pin!(notified);
            // Registered before looking, so that what comes in between is not slept through.
            notified.as_mut().enable();
            let upkeep = {
                let mut inner = self.inner();
                let upkeep = self.upkeep(&mut inner);
                let taken = take(&mut inner);
                if !taken.is_empty() || Instant::now() >= end {
                    return taken;
                }
                upkeep
            };
            let wake = upkeep.map_or(end, |upkeep| end.min(Instant::now() + upkeep));
            // Either way it is time to look again.
            tokio::time::timeout_at(wake, notified).await.ok();
        }
    }
}

impl Inner {
    /// Whether a newer claim on the same shard has been seen.
    fn is_stale(&mut self, claim: Claim) -> bool {
        let newest = self.epochs.entry(claim.shard).or_default();
        *newest = claim.epoch.max(*newest);
        claim.epoch < *newest
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn wait(&mut self, probe: Probe, deliveries: u32) {
        let number = self.number();
        self.known.insert(probe.id.clone(), number);
        self.by_start.insert((probe.start_by, number));
        self.waiting.insert(number, Waiting { probe, deliveries });
    }

    fn give_up(&mut self, probe: &Probe, reason: IndeterminateReason, now: Timestamp, detail: &str) {
        let number = self.number();
        self.results.insert(number, (Instant::now(), probe.indeterminate(reason, now, detail)));
    }

    fn hand_out(&mut self, max: usize, margin: Duration) -> Vec<Delivery> {
        let now = Instant::now();
        let mut deliveries = Vec::with_capacity(max.min(self.waiting.len()));
        while deliveries.len() < max
            && let Some((number, Waiting { probe, deliveries: before })) = self.waiting.pop_first()
        {
            self.by_start.remove(&(probe.start_by, number));
            let lease_end = now + probe.service.settings.timeout.get() + margin;
            let delivery = before + 1;
            self.by_lease.insert((lease_end, number));
            let receipt = Receipt { stream: 0, id: (0, number) };
            deliveries.push(Delivery { probe: probe.clone(), delivery, receipt });
            self.in_flight.insert(number, InFlight { probe, deliveries: delivery, lease_end });
        }
        deliveries
    }

    /// Drops a probe for which there is a result now, wherever it is.
    fn settle(&mut self, receipt: Receipt, id: &ProbeId) {
        let number = self.known.remove(id).unwrap_or(receipt.id.1);
        if let Some(InFlight { lease_end, .. }) = self.in_flight.remove(&number) {
            self.by_lease.remove(&(lease_end, number));
        }
        if let Some(Waiting { probe, .. }) = self.waiting.remove(&number) {
            self.by_start.remove(&(probe.start_by, number));
        }
    }

    /// The right to drain: renewed for who has it, given to `consumer` if nobody does.
    fn drain(&mut self, consumer: &ConsumerId, lease: Duration) -> Option<&mut Drain> {
        let now = Instant::now();
        let held = self.drain.as_ref().is_some_and(|drain| drain.lease_end > now);
        let mine = self.drain.as_ref().is_some_and(|drain| drain.consumer == *consumer);
        match &mut self.drain {
            Some(drain) if mine => drain.lease_end = now + lease,
            _ if held => return None,
            drain => *drain = Some(Drain { consumer: consumer.clone(), lease_end: now + lease, handed: None }),
        }
        self.drain.as_mut()
    }
}

#[async_trait]
impl ProbeQueue for MemoryProbeQueue {
    async fn enqueue(&self, probes: Vec<Probe>) -> Result<Enqueued, QueueError> {
        let mut inner = self.inner();
        self.upkeep(&mut inner);
        let held = inner.known.len() + inner.results.len();
        if held + probes.len() > self.limits.capacity {
            return Err(QueueError::Full { retry_after: Duration::from_millis(10) });
        }
        let mut enqueued = Enqueued::default();
        for probe in probes {
            if probe.claim.is_some_and(|claim| inner.is_stale(claim)) {
                enqueued.fenced += 1;
            } else if inner.known.contains_key(&probe.id) {
                enqueued.repeated += 1;
            } else {
                inner.wait(probe, 0);
                enqueued.accepted += 1;
            }
        }
        drop(inner);
        if enqueued.accepted > 0 {
            // One waiter takes what fits; what it leaves it leaves to the next it wakes.
            self.probes_came.notify_one();
        }
        Ok(enqueued)
    }

    async fn pull(&self, max: NonZeroUsize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let margin = self.limits.lease_margin;
        let taken = self.until(wait, &self.probes_came, |inner| {
            let taken = inner.hand_out(max.get(), margin);
            if !inner.waiting.is_empty() {
                self.probes_came.notify_one();
            }
            taken
        });
        Ok(taken.await)
    }

    async fn complete(&self, completions: Vec<Completion>) -> Result<(), QueueError> {
        {
            let mut inner = self.inner();
            for Completion { receipt, result } in completions {
                inner.settle(receipt, &result.id);
                let number = inner.number();
                inner.results.insert(number, (Instant::now(), result));
            }
        }
        self.results_came.notify_waiters();
        Ok(())
    }

    async fn pull_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        wait: Duration,
    ) -> Result<Vec<ResultDelivery>, QueueError> {
        let lease = self.limits.drain_lease;
        // Short naps: another consumer's lease may run out without a sound.
        let taken = self.until(wait.min(lease), &self.results_came, |inner| {
            let Some(handed) = inner.drain(consumer, lease).map(|drain| drain.handed) else { return Vec::new() };
            let from = handed.map_or(0, |handed| handed + 1);
            let taken: Vec<_> = inner
                .results
                .range(from..)
                .take(max.get())
                .map(|(number, (_, result))| ResultDelivery {
                    result: result.clone(),
                    receipt: Receipt { stream: 0, id: (0, *number) },
                })
                .collect();
            if let (Some(last), Some(drain)) = (taken.last(), &mut inner.drain) {
                drain.handed = Some(last.receipt.id.1);
            }
            taken
        });
        Ok(taken.await)
    }

    async fn ack_results(&self, _consumer: &ConsumerId, receipts: &[Receipt]) -> Result<(), QueueError> {
        let mut inner = self.inner();
        for receipt in receipts {
            inner.results.remove(&receipt.id.1);
        }
        Ok(())
    }

    async fn release(&self, consumer: &ConsumerId) -> Result<(), QueueError> {
        let mut inner = self.inner();
        if inner.drain.as_ref().is_some_and(|drain| drain.consumer == *consumer) {
            inner.drain = None;
        }
        drop(inner);
        self.results_came.notify_waiters();
        Ok(())
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        let inner = self.inner();
        // Neither first come nor first to expire is the oldest, and nobody asks often.
        let oldest = inner.waiting.values().map(|waiting| waiting.probe.id.slot.time()).min();
        Ok(QueueDepth {
            waiting: inner.waiting.len(),
            in_flight: inner.in_flight.len(),
            results: inner.results.len(),
            oldest_result: inner.results.values().next().map_or(Duration::ZERO, |(came, _)| came.elapsed()),
            oldest: oldest.map_or(Duration::ZERO, |slot| self.clock.now().since(slot)),
        })
    }
}
