//! Every state and every log entry follow from the stored rows alone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use healthmon_core::{
    engine::{Control, Input, State, oracle::Oracle},
    id::{Applied, Seq, ServiceId},
    ports::{Change, ResultQuery, ResultStore},
    runtime::Handle,
    status::{Edge, LogEvent, Overlay, Transition},
};
use serde_json::json;

use crate::support::{ALL, Scripted, Walk, World};

const HOUR: Duration = Duration::from_secs(3_600);

/// An hour of what operators and a bad network do, in a random order that a seed repeats.
async fn operate(handle: Handle, world: Arc<World>, mut walk: Walk, ids: Arc<Mutex<Vec<ServiceId>>>) {
    let mut done: BTreeMap<&str, u32> = BTreeMap::new();
    let end = tokio::time::Instant::now() + HOUR;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(walk.below(3_000))).await;
        let known = ids.lock().unwrap().clone();
        if known.len() < 20 || (known.len() < 40 && walk.below(20) == 0) {
            let seconds = [3, 5, 10, 20, 30][walk.below(5) as usize];
            let service = handle
                .register(
                    serde_json::from_value(json!({
                        "name": format!("service {}", known.len()), "url": "test://target", "interval": seconds,
                        "policy": {"failure_threshold": 1 + walk.below(3), "success_threshold": 1 + walk.below(2),
                            "degraded": {"threshold": 2, "window": 4}, "damping": {"cap": 8, "quiet": 20}},
                    }))
                    .unwrap(),
                )
                .await
                .unwrap();
            ids.lock().unwrap().push(service.id);
            *done.entry("register").or_default() += 1;
            continue;
        }
        let id = known[walk.below(known.len() as u64) as usize];
        let (what, change) = match walk.below(10) {
            0 => ("pause", Change::Pause),
            1 | 2 => ("resume", Change::Resume),
            3 => (
                "begin maintenance",
                Change::BeginMaintenance { until: handle.now().after(Duration::from_secs(walk.below(300))) },
            ),
            4 => ("end maintenance", Change::EndMaintenance),
            5 if walk.below(6) == 0 => ("delete", Change::Delete),
            6 | 7 => {
                let Some(view) = handle.service(id).await.unwrap() else { continue };
                let mut json = view.service.settings.to_json();
                match walk.below(3) {
                    0 => json.insert("policy".into(), json!({"failure_threshold": 1 + walk.below(4)})),
                    1 => json.insert("interval".into(), json!(3 + walk.below(20))),
                    _ => json.insert("url".into(), json!(format!("test://target-{}", walk.below(5)))),
                };
                json.shift_remove("timeout");
                let settings = healthmon_core::service::ServiceSettings::from_json(json).unwrap();
                ("change settings", Change::Settings(Box::new(settings)))
            }
            _ => {
                // Some of the service's results again, and one that comes long after newer ones.
                let stored = world.store.results(id, &ResultQuery::default(), ALL).await.unwrap();
                let mut again: Vec<_> = stored.iter().take(5).map(|stored| stored.result.clone()).collect();
                again.extend(stored.get(3).map(|stored| {
                    let mut late = stored.result.clone();
                    late.id.slot = healthmon_core::time::Slot::from_millis(late.id.slot.as_millis() + 1);
                    late
                }));
                world.store.record(again).await.unwrap();
                *done.entry("late and repeated results").or_default() += 1;
                continue;
            }
        };
        if handle.change(id, None, change).await.is_ok() {
            *done.entry(what).or_default() += 1;
        }
    }
    println!("{done:?}");
}

#[derive(Debug, PartialEq, Default)]
struct Made {
    transition: Option<Transition>,
    overlays: Vec<(Overlay, Edge)>,
}

#[tokio::test(start_paused = true)]
async fn the_naive_oracle_over_the_stored_rows_makes_every_state_and_log_entry_of_a_random_hour() {
    // Panics of the scripted prober are part of the script.
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("a prober with a bug") {
            eprintln!("{info}");
        }
    }));
    for seed in [1, 2] {
        let world = Arc::new(World::new());
        let monitor = world.monitor(Arc::new(Scripted(Arc::clone(&world.clock)))).build().unwrap();
        let (handle, ids) = (monitor.handle(), Arc::default());
        let hour = operate(handle.clone(), Arc::clone(&world), Walk(seed), Arc::clone(&ids));
        monitor.run(hour).await.unwrap();
        let ids: Vec<ServiceId> = ids.lock().unwrap().clone();
        verify(&world, &ids).await;
    }
}

async fn verify(world: &World, ids: &[ServiceId]) {
    let log = world.store.log(Seq(0), ALL).await.unwrap();
    assert!(log.iter().zip(1..).all(|(entry, seq)| entry.seq == Seq(seq)), "seq is gapless from 1");
    let mut logged: BTreeMap<(ServiceId, Applied), Made> = BTreeMap::new();
    for entry in &log {
        let made = logged.entry((entry.service.id, entry.applied)).or_default();
        match &entry.event {
            LogEvent::Transition(transition) => assert_eq!(made.transition.replace(*transition), None),
            LogEvent::Overlay { overlay, edge } => made.overlays.push((*overlay, *edge)),
        }
    }
    let (mut expected, mut folded) = (BTreeMap::new(), 0);
    for id in ids {
        let inputs = world.store.inputs(*id, Applied(0), ALL).await.unwrap();
        assert!(inputs.iter().zip(1..).all(|(input, applied)| input.applied == Applied(applied)), "{id}");
        let Some(Input::Control(Control::Configure { policy, regions, .. })) = inputs.first().map(|i| &i.input) else {
            panic!("the first input of {id} is no registration");
        };
        let (mut oracle, mut state) = (Oracle::registered(*policy, regions), State::registered(*policy, regions));
        for input in &inputs[1..] {
            let effects = oracle.apply(&input.input);
            assert_eq!(effects, state.apply(&input.input), "{input:?}");
            let made = Made { transition: effects.transition, overlays: effects.overlays };
            if made != Made::default() {
                expected.insert((*id, input.applied), made);
            }
        }
        folded += inputs.len();
        let stored = world.store.state(*id).await.unwrap().unwrap();
        assert_eq!(stored, state, "{id}");
        assert_eq!(stored.announced(), oracle.status());
    }
    assert_eq!(logged, expected);
    println!("{} services, {folded} inputs, {} log entries", ids.len(), log.len());
    assert!(folded > 5_000 && log.len() > 500, "the hour was not random enough");
}
