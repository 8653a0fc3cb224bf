//! A bound that degrades brings its policy with it, and DEGRADED says why.

use std::{sync::Arc, time::Duration};

use healthmon_core::{
    engine::LatchRule,
    ports::ResultStore,
    probe::Outcome,
    service::ServiceSettings,
    status::{LogEvent, Status},
};
use serde_json::{Value, json};

use crate::support::{ALL, Truth, Up, World, settings};

fn expecting(expect: Value, policy: Value) -> ServiceSettings {
    settings("shop", &json!({"interval": "10s", "expect": expect, "policy": policy}))
}

#[tokio::test(start_paused = true)]
async fn a_bound_that_degrades_degrades_by_the_thresholds_of_down_unless_the_policy_says_otherwise() {
    let rule = |k, n, s| LatchRule::new(k, n, s).ok();
    let bounds = [json!({"latency": {"degraded": "500ms"}}), json!({"certificate": {"days": 7, "degraded_days": 21}})];
    let plain = [json!({}), json!({"latency": {"fail": "2s", "degraded": null}}), json!({"body": "degraded"})];
    let handle = World::new().monitor(Arc::new(Up)).build().unwrap().handle();
    for (expects, own, degraded) in [
        (&bounds[..], json!({}), rule(3, 3, 2)),
        (&bounds[..], json!({"failure_threshold": 2, "window": 4, "success_threshold": 1}), rule(2, 4, 1)),
        (&bounds[..], json!({"degraded": {"threshold": 5}}), rule(5, 5, 2)),
        (&plain[..], json!({}), None),
        (&plain[..], json!({"degraded": {"threshold": 5}}), rule(5, 5, 2)),
    ] {
        for expect in expects {
            let new = handle.register(expecting(expect.clone(), own.clone())).await.unwrap();
            assert_eq!(new.settings.policy.degraded, degraded, "{expect} {own}");
            let old = handle.register(expecting(json!({}), json!({}))).await.unwrap();
            let changed = handle.reconfigure(old.id, expecting(expect.clone(), own.clone())).await.unwrap();
            assert_eq!(changed.settings.policy.degraded, degraded, "{expect} {own}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_became_slow_is_degraded_and_its_log_says_by_what() {
    let world = World::new();
    let tell = |_: &str, at: Duration| {
        let outcome = if (100..200).contains(&at.as_secs()) { Outcome::Slow } else { Outcome::Pass };
        (outcome, Duration::from_millis(5))
    };
    let monitor = world.monitor(Arc::new(Truth { clock: Arc::clone(&world.clock), tell })).build().unwrap();
    let expect = json!({"latency": {"degraded": "500ms"}});
    monitor.handle().register(expecting(expect, json!({}))).await.unwrap();
    monitor.run(tokio::time::sleep(Duration::from_secs(300))).await.unwrap();
    let log = world.store.log(Default::default(), ALL).await.unwrap();
    let told: Vec<_> = log
        .into_iter()
        .filter_map(|entry| match entry.event {
            LogEvent::Transition(transition) => Some((transition.to, entry.reason, entry.detail)),
            LogEvent::Overlay { .. } => None,
        })
        .collect();
    let words = Some("latency: expected at most 500ms, got 812.0 ms".into());
    assert_eq!(told, [(Status::Up, None, None), (Status::Degraded, None, words), (Status::Up, None, None)]);
}
