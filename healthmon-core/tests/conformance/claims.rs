//! Schedulers that share one claim, as small as can be, which shows that the clauses about shared
//! claims can be passed, and that they are not passed by whoever ignores the claim.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    conformance::scheduler::{SchedulerFixture, SchedulerSetup},
    memory::LocalScheduler,
    ports::{Clock, Due, ResultStore, Scheduler, SchedulerError},
    time::Timestamp,
};

use crate::local_scheduler;

/// Who has the claim on all services, and until when.
#[derive(Default)]
struct Claim {
    holder: Option<(u32, Timestamp)>,
}

/// A scheduler of all services while it holds the claim.
struct Claimed {
    node: u32,
    lease: Duration,
    clock: Arc<dyn Clock>,
    claim: Arc<Mutex<Claim>>,
    store: Arc<dyn ResultStore>,
    /// There while this node believes that it holds the claim.
    local: Mutex<Option<Arc<LocalScheduler>>>,
}

enum Standing {
    Held(Arc<LocalScheduler>),
    Lost,
    Another,
}

impl Claimed {
    fn local(&self) -> MutexGuard<'_, Option<Arc<LocalScheduler>>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the claim, takes it if it is free, or gives up believing in it.
    fn stand(&self) -> Standing {
        let now = self.clock.now();
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let mut local = self.local();
        let others = claim.holder.is_some_and(|(node, until)| node != self.node && until > now);
        let mine = claim.holder.is_some_and(|(node, _)| node == self.node);
        if others || (local.is_some() && !mine) {
            return if local.take().is_some() { Standing::Lost } else { Standing::Another };
        }
        claim.holder = Some((self.node, now.after(self.lease)));
        let scheduler = local.get_or_insert_with(|| Arc::new(LocalScheduler::new(Arc::clone(&self.store))));
        Standing::Held(Arc::clone(scheduler))
    }
}

#[async_trait]
impl Scheduler for Claimed {
    async fn due(&self, now: Timestamp, max: NonZeroUsize) -> Result<Due, SchedulerError> {
        match self.stand() {
            Standing::Held(scheduler) => scheduler.due(now, max).await,
            Standing::Lost => Err(SchedulerError::Fenced),
            Standing::Another => Ok(Due { probes: Vec::new(), missed: 0, next: now.after(Duration::from_millis(100)) }),
        }
    }

    fn services_changed(&self) {
        if let Some(scheduler) = self.local().as_ref() {
            scheduler.services_changed();
        }
    }

    async fn release(&self) -> Result<(), SchedulerError> {
        if self.local().take().is_some() {
            self.claim.lock().unwrap_or_else(PoisonError::into_inner).holder = None;
        }
        Ok(())
    }
}

async fn two_nodes(setup: SchedulerSetup) -> SchedulerFixture {
    let SchedulerFixture { store, time, .. } = local_scheduler(setup).await;
    let claim = Arc::new(Mutex::default());
    let node = |node| Claimed {
        node,
        lease: setup.lease,
        clock: time.clock(),
        claim: Arc::clone(&claim),
        store: Arc::clone(&store),
        local: Mutex::default(),
    };
    let (one, two) = (Arc::new(node(1)), Arc::new(node(2)));
    SchedulerFixture::alone(one, store, time, ()).with_rival(two)
}

/// Two nodes that know nothing of each other.
async fn strangers(setup: SchedulerSetup) -> SchedulerFixture {
    let fixture = local_scheduler(setup).await;
    let rival = Arc::new(LocalScheduler::new(Arc::clone(&fixture.store)));
    fixture.with_rival(rival)
}

async fn never_releases(setup: SchedulerSetup) -> SchedulerFixture {
    struct Keeps(Arc<dyn Scheduler>);

    #[async_trait]
    impl Scheduler for Keeps {
        async fn due(&self, now: Timestamp, max: NonZeroUsize) -> Result<Due, SchedulerError> {
            self.0.due(now, max).await
        }

        fn services_changed(&self) {
            self.0.services_changed();
        }

        async fn release(&self) -> Result<(), SchedulerError> {
            Ok(())
        }
    }

    let fixture = two_nodes(setup).await;
    let rival = fixture.rival.clone().expect("two nodes");
    let keeps = Arc::new(Keeps(Arc::clone(&fixture.scheduler)));
    SchedulerFixture::alone(keeps, Arc::clone(&fixture.store), fixture.time.clone(), ()).with_rival(rival)
}

healthmon_core::scheduler_conformance!(mod suite, two_nodes, shared);

crate::faults::faults! { scheduler {
    schedulers_that_know_nothing_of_each_other: "pair of schedulers that both emit every slot" =>
        two_nodes_emit_each_slot_once, strangers, two_nodes;
    a_scheduler_that_is_never_fenced: "scheduler that goes on under a stale claim" =>
        a_stale_claim_is_told_so, strangers, two_nodes;
    a_scheduler_that_keeps_its_claim: "scheduler whose release gives nothing back" =>
        a_release_hands_over_at_once, never_releases, two_nodes;
} }
