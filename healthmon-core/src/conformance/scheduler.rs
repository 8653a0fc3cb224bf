//! The contract of [`Scheduler`], clause by clause.

mod changes;
mod shared;
mod slots;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

pub use changes::*;
pub use shared::*;
pub use slots::*;

use super::{
    TestTime,
    samples::{ALL, id},
};
use crate::{
    id::ServiceId,
    ports::{Change, Due, ResultStore, Scheduler, SchedulerError},
    probe::{Kind, Probe},
    service::{Service, ServiceSettings},
    time::{Slot, Timestamp},
};

/// What a clause needs of the scheduler that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerSetup {
    /// How long a node that shares its claims may be silent before another takes over.
    pub lease: Duration,
}

impl Default for SchedulerSetup {
    fn default() -> Self {
        Self { lease: Duration::from_secs(3) }
    }
}

/// A scheduler of an empty store.
pub struct SchedulerFixture {
    /// One node's scheduler.
    pub scheduler: Arc<dyn Scheduler>,
    /// Another node's scheduler of the same services. Only clauses of shared claims ask for it.
    pub rival: Option<Arc<dyn Scheduler>>,
    /// Where the services are.
    pub store: Arc<dyn ResultStore>,
    /// How time passes for the store, and for the claims where they are shared.
    pub time: TestTime,
    /// What must live as long as the test.
    _guard: Box<dyn Send>,
}

impl SchedulerFixture {
    /// A scheduler that shares nothing: its claim is its process.
    pub fn alone(
        scheduler: Arc<dyn Scheduler>,
        store: Arc<dyn ResultStore>,
        time: TestTime,
        guard: impl Send + 'static,
    ) -> Self {
        Self { scheduler, rival: None, store, time, _guard: Box::new(guard) }
    }

    /// This node's scheduler and another node's.
    #[must_use]
    pub fn with_rival(self, rival: Arc<dyn Scheduler>) -> Self {
        Self { rival: Some(rival), ..self }
    }

    async fn register(&self, number: u64, settings: ServiceSettings) -> Service {
        let service = self.store.register(id(number), settings).await.expect("registered");
        self.scheduler.services_changed();
        service
    }

    async fn change(&self, id: ServiceId, change: Change) -> Service {
        let changed = self.store.change(id, None, change).await.expect("changed");
        self.scheduler.services_changed();
        changed.service
    }

    async fn now(&self) -> Timestamp {
        self.store.now().await.expect("the store's time")
    }

    async fn due(&self, at: Timestamp, max: NonZeroUsize) -> Due {
        let ask = async || match self.scheduler.due(at, max).await {
            Ok(due) => Some(due),
            // A machine that is busy with something else: its store takes long to answer.
            Err(SchedulerError::Transient { .. }) => None,
            Err(error) => panic!("what is due: {error}"),
        };
        let due = self.time.until(PATIENCE, "what is due", ask).await;
        assert!(due.probes.len() <= max.get(), "{} probes, and {max} were asked for", due.probes.len());
        for probe in &due.probes {
            assert!(probe.id.slot.time() <= at, "{} comes ahead of its slot, at {at}", probe.id);
        }
        assert!(due.probes.is_sorted_by_key(|probe| probe.id.slot), "in order of slot: {:?}", ids(&due.probes));
        due
    }

    /// Asks a few times more at a time that does not move on, for one probe at the most: a scheduler may look
    /// for changes in the background, which takes its time on a busy machine.
    async fn settle(&self, at: Timestamp) {
        for _ in 0..4 {
            self.due(at, NonZeroUsize::MIN).await;
        }
    }

    /// Asks from `from` to `to`, each `step`, and returns all probes and how many were missed.
    async fn walk(&self, from: Timestamp, to: Timestamp, step: Duration) -> (Vec<Probe>, u64) {
        let (mut probes, mut missed, mut at) = (Vec::new(), 0, from);
        loop {
            let due = self.due(at, ALL).await;
            probes.extend(due.probes);
            missed += due.missed;
            if at >= to {
                return (probes, missed);
            }
            at = at.after(step).min(to);
        }
    }
}

/// Makes one test of every clause of [`Scheduler`]'s contract, in a module of its own.
///
/// `$fixture` is an async function from [`SchedulerSetup`](crate::conformance::scheduler::SchedulerSetup)
/// to [`SchedulerFixture`](crate::conformance::scheduler::SchedulerFixture). A scheduler whose claims
/// are shared between nodes adds `shared`, and its fixture has a rival; one whose claim is its own
/// process adds `alone`. See [`conformance`](crate::conformance).
#[macro_export]
macro_rules! scheduler_conformance {
    ($(#[$meta:meta])* mod $name:ident, $fixture:expr, alone $(,)?) => {
        $crate::scheduler_conformance! { @tests {} $(#[$meta])* $name $fixture }
    };
    ($(#[$meta:meta])* mod $name:ident, $fixture:expr, shared $(,)?) => {
        $crate::scheduler_conformance! { @tests {
            two_nodes_emit_each_slot_once
            a_release_hands_over_at_once
            a_stale_claim_is_told_so
        } $(#[$meta])* $name $fixture }
    };
    (@$mode:ident { $($shared:ident)* } $($rest:tt)*) => {
        $crate::__conformance! { $mode scheduler {
            every_slot_comes_once
            a_slot_does_not_come_again_when_the_clock_steps_back
            a_probe_carries_its_services_settings_and_its_start_by
            every_region_gets_its_probe
            no_more_comes_than_asked_for_and_the_rest_at_once
            after_a_standstill_only_the_newest_slot_of_a_service_comes
            a_slot_whose_start_by_has_passed_is_counted_not_emitted
            asking_when_told_to_misses_nothing_and_is_in_time
            a_dropped_call_loses_no_slot
            a_new_service_gets_one_edge_probe_at_once
            a_crowd_of_new_services_is_spread
            a_resumed_or_rescheduled_service_gets_one_edge_probe
            a_renamed_service_gets_no_edge_probe
            a_service_paused_and_resumed_in_a_moment_gets_one_edge_probe
            a_paused_or_deleted_service_yields_nothing
            what_waits_to_be_emitted_goes_when_its_service_is_paused
            new_settings_are_in_the_next_probe
            a_new_interval_moves_the_slots
            changes_are_seen_within_a_second_or_two_without_a_word
            $($shared)*
        } $($rest)* }
    };
}

/// The names of this suite's clauses, those of shared claims among them.
pub const CLAUSES: &[&str] = crate::scheduler_conformance!(@names {
    two_nodes_emit_each_slot_once
    a_release_hands_over_at_once
    a_stale_claim_is_told_so
});

/// Longer than any lease of these suites.
const PATIENCE: Duration = Duration::from_secs(30);

fn ids(probes: &[Probe]) -> Vec<String> {
    probes.iter().map(|probe| probe.id.to_string()).collect()
}

fn of(probes: &[Probe], service: &Service, kind: Kind) -> Vec<Slot> {
    let own = probes.iter().filter(|probe| probe.id.service == service.id && probe.id.kind == kind);
    own.map(|probe| probe.id.slot).collect()
}

fn scheduled(probes: &[Probe], service: &Service) -> Vec<Slot> {
    of(probes, service, Kind::Scheduled)
}

fn edges(probes: &[Probe], service: &Service) -> Vec<Slot> {
    of(probes, service, Kind::Edge)
}

/// The slots of a service in `(after, until]`, by the plain definition.
fn slots(service: &Service, after: Timestamp, until: Timestamp) -> Vec<Slot> {
    let interval = service.settings.interval;
    let mut slot = crate::schedule::slot_at(service.id, interval, until);
    let mut slots = Vec::new();
    while slot.time() > after {
        slots.push(slot);
        slot = Slot::from_millis(slot.as_millis() - interval.as_millis());
    }
    slots.reverse();
    slots
}
