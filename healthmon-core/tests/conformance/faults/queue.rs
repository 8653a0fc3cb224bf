use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    conformance::queue::{QueueFixture, QueueSetup},
    ports::{Completion, ConsumerId, Delivery, Enqueued, ProbeQueue, QueueDepth, QueueError, Receipt, ResultDelivery},
    probe::{IndeterminateReason, Outcome, Probe},
};

use crate::memory_queue;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    LosesWhatADroppedPullTook,
    AcksBeforeStoring,
    ServesTwoConsumers,
    DropsExpired,
    DropsPoison,
    TakesWhatFits,
    RefusesResults,
    GivesMoreThanFits,
    AcksResultsAtHandOut,
    NewestResultFirst,
    ForgetsTheCode,
    TakesStaleClaims,
}

/// The queue in memory, with one fault.
struct Faulty {
    inner: Arc<dyn ProbeQueue>,
    fault: Fault,
    capacity: usize,
}

async fn with(fault: Fault, setup: QueueSetup) -> QueueFixture {
    // What it does not lose at once it must not make up for later.
    let lease_margin = match fault {
        Fault::LosesWhatADroppedPullTook => Duration::from_hours(24),
        _ => setup.lease_margin,
    };
    let honest = memory_queue(QueueSetup { lease_margin, ..setup }).await;
    let faulty = Faulty { inner: honest.queue, fault, capacity: setup.capacity };
    QueueFixture::in_process(Arc::new(faulty), honest.time)
}

async fn never_redelivers(setup: QueueSetup) -> QueueFixture {
    memory_queue(QueueSetup { lease_margin: Duration::from_hours(24), ..setup }).await
}

async fn never_gives_up_a_consumer(setup: QueueSetup) -> QueueFixture {
    memory_queue(QueueSetup { drain_lease: Duration::from_hours(24), ..setup }).await
}

async fn knows_no_bound(setup: QueueSetup) -> QueueFixture {
    memory_queue(QueueSetup { capacity: usize::MAX / 2, ..setup }).await
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn dropped(&self, result: &ResultDelivery) -> bool {
        match result.result.seen.outcome {
            Outcome::Indeterminate(IndeterminateReason::Expired) => self.is(Fault::DropsExpired),
            Outcome::Indeterminate(IndeterminateReason::Poison) => self.is(Fault::DropsPoison),
            _ => false,
        }
    }
}

#[async_trait]
impl ProbeQueue for Faulty {
    async fn enqueue(&self, probes: Vec<Probe>) -> Result<Enqueued, QueueError> {
        if self.is(Fault::TakesStaleClaims) {
            return self.inner.enqueue(probes.into_iter().map(|probe| Probe { claim: None, ..probe }).collect()).await;
        }
        if !self.is(Fault::TakesWhatFits) {
            return self.inner.enqueue(probes).await;
        }
        let mut whole = Enqueued::default();
        for probe in probes {
            let one = self.inner.enqueue(vec![probe]).await?;
            whole.accepted += one.accepted;
            whole.repeated += one.repeated;
        }
        Ok(whole)
    }

    async fn pull(&self, max: NonZeroUsize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let max = if self.is(Fault::GivesMoreThanFits) { max.saturating_add(1) } else { max };
        let taken = self.inner.pull(max, wait).await;
        if self.is(Fault::LosesWhatADroppedPullTook) {
            tokio::task::yield_now().await;
        }
        taken
    }

    async fn complete(&self, mut completions: Vec<Completion>) -> Result<(), QueueError> {
        match self.fault {
            Fault::AcksBeforeStoring => {
                self.inner.complete(completions.clone()).await?;
                // The probes are done with; their results are put in again behind the next await.
                let own = ConsumerId("faulty".into());
                let results = self.inner.pull_results(&own, NonZeroUsize::MAX, Duration::ZERO).await?;
                let receipts: Vec<Receipt> = results.iter().map(|result| result.receipt).collect();
                self.inner.ack_results(&own, &receipts).await?;
                self.inner.release(&own).await?;
                tokio::task::yield_now().await;
            }
            Fault::RefusesResults if self.inner.depth().await?.in_flight >= self.capacity => {
                return Err(QueueError::Full { retry_after: Duration::from_millis(10) });
            }
            Fault::ForgetsTheCode => completions.iter_mut().for_each(|c| c.result.seen.code = None),
            _ => {}
        }
        self.inner.complete(completions).await
    }

    async fn pull_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        wait: Duration,
    ) -> Result<Vec<ResultDelivery>, QueueError> {
        let anybody = ConsumerId("anybody".into());
        let consumer = if self.is(Fault::ServesTwoConsumers) { &anybody } else { consumer };
        let mut taken = self.inner.pull_results(consumer, max, wait).await?;
        let gone: Vec<Receipt> =
            taken.iter().filter(|result| self.dropped(result)).map(|result| result.receipt).collect();
        self.inner.ack_results(consumer, &gone).await?;
        taken.retain(|result| !gone.contains(&result.receipt));
        if self.is(Fault::AcksResultsAtHandOut) {
            let all: Vec<Receipt> = taken.iter().map(|result| result.receipt).collect();
            self.inner.ack_results(consumer, &all).await?;
        }
        if self.is(Fault::NewestResultFirst) {
            taken.reverse();
        }
        Ok(taken)
    }

    async fn ack_results(&self, consumer: &ConsumerId, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.inner.ack_results(consumer, receipts).await
    }

    async fn release(&self, consumer: &ConsumerId) -> Result<(), QueueError> {
        self.inner.release(consumer).await
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        self.inner.depth().await
    }
}

macro_rules! faulty {
    ($fault:ident) => {
        async |setup| with(Fault::$fault, setup).await
    };
}

super::faults! { queue {
    a_queue_that_loses_a_probe_when_a_pull_is_dropped: "queue that loses what a dropped pull had taken" =>
        a_dropped_pull_loses_no_probe, faulty!(LosesWhatADroppedPullTook), memory_queue;
    a_queue_that_never_redelivers: "queue that never hands a probe out again" =>
        a_probe_whose_worker_vanished_comes_back_after_its_lease, never_redelivers, memory_queue;
    a_queue_that_acks_before_storing: "queue that acknowledges a probe before it stores the result" =>
        a_dropped_complete_loses_neither_result_nor_probe, faulty!(AcksBeforeStoring), memory_queue;
    a_queue_that_serves_two_consumers: "queue that hands results to two consumers" =>
        results_are_drained_by_one_consumer_at_a_time, faulty!(ServesTwoConsumers), memory_queue;
    a_queue_that_never_gives_up_a_consumer: "queue that waits for a vanished consumer for ever" =>
        after_a_leases_silence_another_has_the_right, never_gives_up_a_consumer, memory_queue;
    a_queue_that_ignores_its_capacity: "queue without a bound" =>
        a_full_queue_refuses_the_whole_batch, knows_no_bound, memory_queue;
    a_queue_that_takes_half_a_batch: "queue that takes what fits of a batch and refuses the rest" =>
        a_full_queue_refuses_the_whole_batch, faulty!(TakesWhatFits), memory_queue;
    a_queue_that_refuses_results: "queue that refuses results when it is full" =>
        results_are_taken_when_the_queue_is_full, faulty!(RefusesResults), memory_queue;
    a_queue_that_drops_expired_probes: "queue that drops expired probes in silence" =>
        a_probe_not_begun_by_its_start_by_comes_back_as_expired, faulty!(DropsExpired), memory_queue;
    a_queue_that_drops_poison: "queue that drops poison probes in silence" =>
        a_probe_handed_out_too_often_comes_back_as_poison, faulty!(DropsPoison), memory_queue;
    a_queue_that_gives_more_than_fits: "queue that gives a worker more than it has room for" =>
        pull_takes_only_what_fits, faulty!(GivesMoreThanFits), memory_queue;
    a_queue_that_forgets_unacknowledged_results: "queue that takes a result for recorded when it hands it out" =>
        after_release_another_has_the_unacknowledged_ones_first, faulty!(AcksResultsAtHandOut), memory_queue;
    a_queue_that_gives_the_newest_result_first: "queue that gives the newest result first" =>
        results_come_in_the_order_they_were_completed, faulty!(NewestResultFirst), memory_queue;
    a_queue_without_a_fence: "queue that takes probes of a stale claim" =>
        probes_of_a_stale_claim_are_dropped_and_counted, faulty!(TakesStaleClaims), memory_queue;
    a_queue_that_loses_a_field: "queue that loses a field of a result" =>
        results_come_back_as_they_were_seen, faulty!(ForgetsTheCode), memory_queue;
} }
