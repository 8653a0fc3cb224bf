use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    conformance::scheduler::{SchedulerFixture, SchedulerSetup},
    memory::LocalScheduler,
    ports::{Due, Scheduler, SchedulerError},
    probe::Kind,
    time::Timestamp,
};

use crate::local_scheduler;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    EmitsTwice,
    CatchesUp,
    IsAhead,
    KnowsNoEdge,
    LosesWhatADroppedCallTook,
    IgnoresMax,
    AsksTooSeldom,
    CountsNothing,
}

/// The local scheduler, with one fault.
struct Faulty {
    inner: Arc<dyn Scheduler>,
    fault: Fault,
    asked: Mutex<Option<Timestamp>>,
}

async fn with(fault: Fault, setup: SchedulerSetup) -> SchedulerFixture {
    let honest = local_scheduler(setup).await;
    let faulty = Faulty { inner: honest.scheduler, fault, asked: Mutex::default() };
    SchedulerFixture::alone(Arc::new(faulty), honest.store, honest.time, ())
}

async fn deaf_to_pauses(setup: SchedulerSetup) -> SchedulerFixture {
    let honest = local_scheduler(setup).await;
    let store = super::store::deaf_to_pauses(honest.store);
    let scheduler = Arc::new(LocalScheduler::new(Arc::clone(&store)));
    SchedulerFixture::alone(scheduler, store, honest.time, ())
}

impl Faulty {
    /// Goes from where it last was in small steps, so that nothing counts as missed.
    async fn catch_up(&self, now: Timestamp, max: NonZeroUsize) -> Result<Due, SchedulerError> {
        let last = self.asked.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        let (mut probes, mut at) = (Vec::new(), last.unwrap_or(now));
        loop {
            let due = self.inner.due(at, max).await?;
            probes.extend(due.probes);
            if at >= now {
                probes.sort_by_key(|probe| probe.id.slot);
                return Ok(Due { probes, ..due });
            }
            at = at.after(Duration::from_millis(500)).min(now);
        }
    }
}

#[async_trait]
impl Scheduler for Faulty {
    async fn due(&self, now: Timestamp, max: NonZeroUsize) -> Result<Due, SchedulerError> {
        let mut due = match self.fault {
            Fault::CatchesUp => return self.catch_up(now, max).await,
            Fault::IsAhead => self.inner.due(now.after(Duration::from_secs(5)), max).await?,
            Fault::IgnoresMax => self.inner.due(now, NonZeroUsize::MAX).await?,
            _ => self.inner.due(now, max).await?,
        };
        match self.fault {
            Fault::EmitsTwice => due.probes = due.probes.into_iter().flat_map(|probe| [probe.clone(), probe]).collect(),
            Fault::KnowsNoEdge => due.probes.retain(|probe| probe.id.kind != Kind::Edge),
            Fault::LosesWhatADroppedCallTook => tokio::task::yield_now().await,
            Fault::AsksTooSeldom => due.next = due.next.after(Duration::from_secs(2)),
            Fault::CountsNothing => due.missed = 0,
            _ => {}
        }
        Ok(due)
    }

    fn services_changed(&self) {
        self.inner.services_changed();
    }

    async fn release(&self) -> Result<(), SchedulerError> {
        self.inner.release().await
    }
}

macro_rules! faulty {
    ($fault:ident) => {
        async |setup| with(Fault::$fault, setup).await
    };
}

super::faults! { scheduler {
    a_scheduler_that_emits_twice: "scheduler that emits a slot twice" =>
        every_slot_comes_once, faulty!(EmitsTwice), local_scheduler;
    a_scheduler_that_bursts_after_a_standstill: "scheduler that makes up for a standstill with a burst" =>
        after_a_standstill_only_the_newest_slot_of_a_service_comes, faulty!(CatchesUp), local_scheduler;
    a_scheduler_that_counts_no_missed_slots: "scheduler that does not count the slots it skipped" =>
        after_a_standstill_only_the_newest_slot_of_a_service_comes, faulty!(CountsNothing), local_scheduler;
    a_scheduler_that_emits_paused_services: "scheduler that emits paused services" =>
        a_paused_or_deleted_service_yields_nothing, deaf_to_pauses, local_scheduler;
    a_scheduler_that_is_ahead: "scheduler that emits slots ahead of their time" =>
        every_slot_comes_once, faulty!(IsAhead), local_scheduler;
    a_scheduler_without_edge_probes: "scheduler that lets a new service wait for its slot" =>
        a_new_service_gets_one_edge_probe_at_once, faulty!(KnowsNoEdge), local_scheduler;
    a_scheduler_that_loses_what_a_dropped_call_took: "scheduler that loses slots when a call is dropped" =>
        a_dropped_call_loses_no_slot, faulty!(LosesWhatADroppedCallTook), local_scheduler;
    a_scheduler_that_ignores_max: "scheduler that gives more than it was asked for" =>
        no_more_comes_than_asked_for_and_the_rest_at_once, faulty!(IgnoresMax), local_scheduler;
    a_scheduler_that_asks_too_seldom: "scheduler that says to ask again too late" =>
        asking_when_told_to_misses_nothing_and_is_in_time, faulty!(AsksTooSeldom), local_scheduler;
} }
