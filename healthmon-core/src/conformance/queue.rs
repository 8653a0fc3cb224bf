//! The contract of [`ProbeQueue`], clause by clause.

mod bounds;
mod delivery;
mod drops;
mod results;

use std::{collections::BTreeMap, num::NonZeroUsize, sync::Arc, time::Duration};

pub use bounds::*;
pub use delivery::*;
pub use drops::*;
pub use results::*;

use super::{
    TestTime,
    samples::{ALL, TIMEOUT, probes},
};
use crate::{
    ports::{Completion, ConsumerId, Delivery, ProbeQueue, QueueDepth, ResultDelivery},
    probe::{Observation, Outcome, Probe, ProbeId, ProbeResult},
};

/// What a clause needs of the queue that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSetup {
    /// How many probes and unacknowledged results together it may hold.
    pub capacity: usize,
    /// How long beyond its timeout a probe may be with a worker before it is handed out again.
    pub lease_margin: Duration,
    /// How long a consumer of results may be silent before another has its right.
    pub drain_lease: Duration,
}

impl QueueSetup {
    /// How long a probe of these suites may be with a worker.
    const fn lease(&self) -> Duration {
        TIMEOUT.saturating_add(self.lease_margin)
    }
}

impl Default for QueueSetup {
    fn default() -> Self {
        Self { capacity: 1_000, lease_margin: Duration::from_millis(500), drain_lease: Duration::from_millis(800) }
    }
}

/// An empty queue, and what a clause does with it.
pub struct QueueFixture {
    /// One node's handle.
    pub queue: Arc<dyn ProbeQueue>,
    /// Another node's handle on the same backend.
    pub other: Arc<dyn ProbeQueue>,
    /// How time passes for the queue.
    pub time: TestTime,
    /// What must live as long as the test.
    _guard: Box<dyn Send>,
}

impl QueueFixture {
    /// Two nodes' handles on one empty backend. `guard` is kept as long as the test lasts.
    pub fn new(
        queue: Arc<dyn ProbeQueue>,
        other: Arc<dyn ProbeQueue>,
        time: TestTime,
        guard: impl Send + 'static,
    ) -> Self {
        Self { queue, other, time, _guard: Box::new(guard) }
    }

    /// A queue that lives in one process: both nodes have the same handle.
    pub fn in_process(queue: Arc<dyn ProbeQueue>, time: TestTime) -> Self {
        Self::new(Arc::clone(&queue), queue, time, ())
    }

    /// Puts `count` probes of as many services on the queue, and returns them.
    async fn filled(&self, count: u64) -> Vec<Probe> {
        let probes = probes(1, count, self.time.now());
        self.queue.enqueue(probes.clone()).await.expect("enqueued");
        probes
    }

    /// Takes probes, `max` at a time, until there are `count`.
    async fn take(&self, count: usize, max: NonZeroUsize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        self.time
            .until(PATIENCE, "the probes are handed out", async || {
                while taken.len() < count {
                    let some = pull(&*self.queue, max).await;
                    if some.is_empty() {
                        return None;
                    }
                    taken.extend(some);
                }
                Some(())
            })
            .await;
        assert_eq!(taken.len(), count, "no more than there are");
        taken
    }

    /// Takes results as `consumer` until there are `count`.
    async fn take_results(&self, consumer: &ConsumerId, count: usize) -> Vec<ResultDelivery> {
        let mut taken = Vec::new();
        self.time
            .until(PATIENCE, "the results are handed out", async || {
                taken.extend(pull_results(&*self.queue, consumer).await);
                (taken.len() >= count).then_some(())
            })
            .await;
        taken
    }

    async fn depth(&self) -> QueueDepth {
        self.other.depth().await.expect("the depth")
    }
}

/// Makes one test of every clause of [`ProbeQueue`]'s contract, in a module of its own.
///
/// `$fixture` is an async function from [`QueueSetup`](crate::conformance::queue::QueueSetup) to
/// [`QueueFixture`](crate::conformance::queue::QueueFixture). See [`conformance`](crate::conformance).
#[macro_export]
macro_rules! queue_conformance {
    ($(#[$meta:meta])* mod $name:ident, $fixture:expr $(,)?) => {
        $crate::queue_conformance! { @tests $(#[$meta])* $name $fixture }
    };
    (@$mode:ident $($rest:tt)*) => {
        $crate::__conformance! { $mode queue {
            every_probe_is_handed_out_as_it_was_put_in
            enqueuing_the_same_id_again_is_harmless
            enqueuing_a_probe_that_a_worker_has_is_harmless
            enqueuing_a_probe_that_is_done_is_harmless
            pull_takes_only_what_fits
            pull_returns_with_nothing_when_nothing_comes
            a_waiting_pull_is_woken_by_a_probe
            every_waiting_pull_gets_its_probe
            two_workers_never_have_the_same_probe
            a_probe_whose_worker_vanished_comes_back_after_its_lease
            a_completed_probe_does_not_come_back
            a_result_that_comes_after_the_lease_is_taken_and_settles_the_probe
            no_probe_is_lost_whatever_its_workers_do
            results_come_back_as_they_were_seen
            results_come_in_the_order_they_were_completed
            completing_twice_is_harmless
            a_waiting_consumer_is_woken_by_a_result
            results_are_drained_by_one_consumer_at_a_time
            after_release_another_has_the_unacknowledged_ones_first
            after_a_leases_silence_another_has_the_right
            a_consumer_keeps_its_right_by_pulling
            acknowledged_results_do_not_come_again
            acknowledging_twice_is_harmless
            releasing_without_the_right_changes_nothing
            a_probe_not_begun_by_its_start_by_comes_back_as_expired
            a_probe_whose_worker_vanished_and_whose_start_by_passed_comes_back_as_a_result
            a_probe_handed_out_too_often_comes_back_as_poison
            probes_of_a_stale_claim_are_dropped_and_counted
            a_full_queue_refuses_the_whole_batch
            results_count_towards_the_capacity
            results_are_taken_when_the_queue_is_full
            the_depth_says_what_there_is
            a_dropped_enqueue_takes_all_or_nothing
            a_dropped_pull_loses_no_probe
            a_dropped_waiting_pull_wakes_another
            a_dropped_complete_loses_neither_result_nor_probe
            a_dropped_pull_of_results_loses_no_result
            a_dropped_acknowledgement_may_be_repeated
        } $($rest)* }
    };
}

/// The names of this suite's clauses.
pub const CLAUSES: &[&str] = crate::queue_conformance!(@names);

/// Longer than any lease of these suites.
const PATIENCE: Duration = Duration::from_secs(10);

fn consumer(name: &str) -> ConsumerId {
    ConsumerId(name.into())
}

async fn pull(queue: &dyn ProbeQueue, max: NonZeroUsize) -> Vec<Delivery> {
    queue.pull(max, Duration::ZERO).await.expect("pulled")
}

async fn pull_results(queue: &dyn ProbeQueue, consumer: &ConsumerId) -> Vec<ResultDelivery> {
    queue.pull_results(consumer, ALL, Duration::ZERO).await.expect("pulled")
}

/// Completes deliveries as passed.
fn passed(deliveries: &[Delivery]) -> Vec<Completion> {
    let completion = |Delivery { probe, receipt, .. }: &Delivery| {
        let seen = Observation::new(Outcome::Pass, Duration::from_millis(7));
        Completion { receipt: *receipt, result: probe.result(probe.id.slot.time(), seen) }
    };
    deliveries.iter().map(completion).collect()
}

/// Acknowledges what was taken.
async fn ack(queue: &dyn ProbeQueue, consumer: &ConsumerId, taken: &[ResultDelivery]) {
    let receipts: Vec<_> = taken.iter().map(|taken| taken.receipt).collect();
    queue.ack_results(consumer, &receipts).await.expect("acknowledged");
}

fn ids(deliveries: &[Delivery]) -> Vec<ProbeId> {
    let mut ids: Vec<ProbeId> = deliveries.iter().map(|delivery| delivery.probe.id.clone()).collect();
    ids.sort_unstable();
    ids
}

fn ids_of(probes: &[Probe]) -> Vec<ProbeId> {
    probes.iter().map(|probe| probe.id.clone()).collect()
}

/// The results by probe; a repeat must say the same.
fn by_probe(taken: Vec<ResultDelivery>) -> BTreeMap<ProbeId, ProbeResult> {
    taken.into_iter().map(|taken| (taken.result.id.clone(), taken.result)).collect()
}
