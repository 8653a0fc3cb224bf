use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{SchedulerFixture, SchedulerSetup, slots};
use crate::{
    conformance::samples::{ALL, each},
    ports::{Scheduler, SchedulerError},
    probe::{Kind, Probe, ProbeId},
    service::Service,
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

/// Asks `nodes` in turn for `span`, and returns what they emitted.
async fn tick(fixture: &SchedulerFixture, nodes: &[&Arc<dyn Scheduler>], span: Duration) -> Vec<Probe> {
    let (end, mut probes) = (fixture.time.now().after(span), Vec::new());
    while fixture.time.now() < end {
        for node in nodes {
            match node.due(fixture.time.now(), ALL).await {
                Ok(due) => probes.extend(due.probes),
                // Told so, it claims anew with the next call.
                Err(SchedulerError::Fenced) => {}
                Err(error) => panic!("{error}"),
            }
        }
        fixture.time.pass(STEP).await;
    }
    probes
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
    tick(&fixture, &nodes, setup.lease * 3).await;
    let settled = fixture.time.now();
    let counts = counted(&tick(&fixture, &nodes, Duration::from_secs(3)).await);
    assert!(counts.values().all(|count| *count == 1), "each at most once: {counts:?}");
    for service in &services {
        for slot in slots(service, settled.after(STEP), fixture.time.now().before(INTERVAL)) {
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
    assert_eq!(counted(&while_held).len(), 0, "another has the claims");
    fixture.scheduler.release().await.expect("released");
    let after = tick(&fixture, &[&rival], Duration::from_secs(3)).await;
    for service in &services {
        let own = after.iter().filter(|probe| probe.id.service == service.id && probe.id.kind == Kind::Scheduled);
        assert!(own.count() >= 3, "service {} goes on with the other node", service.id);
    }
}

/// A node that was silent for a lease, and whose shards another has taken, is told so instead of
/// emitting.
pub async fn a_stale_claim_is_told_so(make: impl AsyncFn(SchedulerSetup) -> SchedulerFixture) {
    let setup = SchedulerSetup::default();
    let fixture = make(setup).await;
    let (_, rival) = (several(&fixture).await, rival(&fixture));
    tick(&fixture, &[&fixture.scheduler], Duration::from_secs(1)).await;
    let taken_over = tick(&fixture, &[&rival], setup.lease * 3).await;
    assert!(!counted(&taken_over).is_empty(), "another takes over from one that is silent");
    let stale = fixture.scheduler.due(fixture.time.now(), ALL).await;
    assert!(matches!(stale, Err(SchedulerError::Fenced)), "{stale:?}");
}
