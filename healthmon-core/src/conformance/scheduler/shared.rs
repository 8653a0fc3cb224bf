use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{PATIENCE, SchedulerFixture, SchedulerSetup, slots};
use crate::{
    conformance::samples::{ALL, each},
    ports::{Scheduler, SchedulerError},
    probe::{Kind, Probe, ProbeId},
    service::Service,
    time::{Slot, Timestamp},
};

const INTERVAL: Duration = Duration::from_millis(200);
const STEP: Duration = Duration::from_millis(20);

fn rival(fixture: &SchedulerFixture) -> Arc<dyn Scheduler> {
    Arc::clone(fixture.rival.as_ref().expect("a scheduler that shares its claims is tested with a rival"))
}

async fn several(fixture: &SchedulerFixture) -> Vec<Service> {
    let mut services = Vec::new();
    for number in 1..=8 {
        services.push(fixture.register(number, each(&format!("service-{number}"), INTERVAL)).await);
    }
    services
}

/// What nodes emitted that were asked in turn.
struct Told {
    probes: Vec<Probe>,
    /// For each node the times at which it answered.
    asked: Vec<Vec<Timestamp>>,
}

impl Told {
    /// Whether each node was asked while this slot was its service's newest: then whoever has it owes it. On a
    /// machine so busy that nobody asked in time the next one takes its place.
    fn is_owed(&self, slot: Slot) -> bool {
        let newest = slot.time()..slot.time().after(INTERVAL);
        self.asked.iter().all(|times| times.iter().any(|at| newest.contains(at)))
    }
}

/// Asks `nodes` in turn for `span`.
async fn tick(fixture: &SchedulerFixture, nodes: &[&Arc<dyn Scheduler>], span: Duration) -> Told {
    let end = fixture.time.now().after(span);
    let mut told = Told { probes: Vec::new(), asked: vec![Vec::new(); nodes.len()] };
    while fixture.time.now() < end {
        for (node, asked) in nodes.iter().zip(&mut told.asked) {
            let at = fixture.time.now();
            match node.due(at, ALL).await {
                Ok(due) => {
                    told.probes.extend(due.probes);
                    asked.push(at);
                }
                // Told so, it claims anew with the next call.
                Err(SchedulerError::Fenced | SchedulerError::Transient { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        fixture.time.pass(STEP).await;
    }
    told
}

fn counted(probes: &[Probe]) -> BTreeMap<ProbeId, usize> {
    let mut counts = BTreeMap::new();
    for probe in probes.iter().filter(|probe| probe.id.kind == Kind::Scheduled) {
        *counts.entry(probe.id.clone()).or_default() += 1;
    }
    counts
}

/// Two nodes that both ask all the time emit each slot once between them, once they have settled
/// who has what.
pub async fn two_nodes_emit_each_slot_once(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let setup = SchedulerSetup::default();
    let fixture = make(setup).await;
    let (services, rival) = (several(&fixture).await, rival(&fixture));
    let nodes = [&fixture.scheduler, &rival];
    tick(&fixture, &nodes, setup.lease * 3 / 2).await;
    let settled = fixture.time.now();
    let told = tick(&fixture, &nodes, Duration::from_secs(3)).await;
    let counts = counted(&told.probes);
    assert!(!counts.is_empty() && counts.values().all(|count| *count == 1), "each at most once: {counts:?}");
    for service in &services {
        let all = slots(service, settled.after(STEP), fixture.time.now().before(INTERVAL));
        for slot in all.into_iter().filter(|slot| told.is_owed(*slot)) {
            assert!(counts.keys().any(|id| id.service == service.id && id.slot == slot), "{slot} of {}", service.id);
        }
    }
}

/// Who gives its claims back is followed at once, not after a lease.
pub async fn a_release_hands_over_at_once(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let setup = SchedulerSetup { lease: Duration::from_mins(1) };
    let fixture = make(setup).await;
    let (services, rival) = (several(&fixture).await, rival(&fixture));
    tick(&fixture, &[&fixture.scheduler], Duration::from_secs(1)).await;
    let while_held = tick(&fixture, &[&rival], Duration::from_millis(400)).await;
    assert_eq!(counted(&while_held.probes).len(), 0, "another has the claims");
    fixture.scheduler.release().await.expect("released");
    let after = tick(&fixture, &[&rival], Duration::from_secs(3)).await.probes;
    for service in &services {
        let own = after.iter().filter(|probe| probe.id.service == service.id && probe.id.kind == Kind::Scheduled);
        assert!(own.count() >= 3, "service {} goes on with the other node", service.id);
    }
}

/// A node that was silent for a lease, and whose shards another has taken, is told so instead of
/// emitting.
pub async fn a_stale_claim_is_told_so(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let fixture = make(SchedulerSetup::default()).await;
    let (_, rival) = (several(&fixture).await, rival(&fixture));
    tick(&fixture, &[&fixture.scheduler], Duration::from_secs(1)).await;
    let take_over = async || {
        let told = tick(&fixture, &[&rival], INTERVAL).await;
        (!counted(&told.probes).is_empty()).then_some(())
    };
    fixture.time.until(PATIENCE, "another takes over from one that is silent", take_over).await;
    // It may take a few shards at a time.
    tick(&fixture, &[&rival], Duration::from_millis(1_500)).await;
    let mut is_away = false;
    let ask = async || match fixture.scheduler.due(fixture.time.now(), ALL).await {
        Err(SchedulerError::Fenced) => Some(()),
        // Its store took too long to answer: it has given up its claims unasked.
        Err(SchedulerError::Transient { .. }) => {
            is_away = true;
            None
        }
        Ok(due) if is_away && due.probes.is_empty() => Some(()),
        told => panic!("it goes on under a stale claim: {told:?}"),
    };
    fixture.time.until(PATIENCE, "it is told so", ask).await;
}
