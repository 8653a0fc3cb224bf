//! When our own network is down, nothing is said of anybody else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use healthmon_core::{
    ports::{ResultQuery, ResultStore},
    probe::{FailReason, IndeterminateReason, Outcome, ProbeResult},
    runtime::{BuildError, Canary},
    service::Target,
    status::{LogEvent, Overlay, Status},
};
use serde_json::json;

use crate::support::{ALL, Seen, Truth, World, settings};

const SECOND: Duration = Duration::from_secs(1);
const QUICK: Duration = Duration::from_millis(5);
const OFFLINE: Outcome = Outcome::Indeterminate(IndeterminateReason::Offline);

fn fails(reason: FailReason) -> Seen {
    (Outcome::Fail(reason), QUICK)
}

fn targets(urls: &[&str]) -> Vec<Target> {
    urls.iter().map(|url| url.parse().unwrap()).collect()
}

fn canary() -> Canary {
    Canary::new(targets(&["test://one", "test://two"])).unwrap()
}

/// Every result of `services` services, each at a host of its own, after `span`.
async fn results<F>(services: usize, span: Duration, tell: F) -> (World, Vec<ProbeResult>)
where
    F: Fn(&str, Duration) -> Seen + Send + Sync + 'static,
{
    let world = World::new();
    let prober = Arc::new(Truth { clock: Arc::clone(&world.clock), tell });
    let monitor = world.monitor(prober).canary(canary()).build().unwrap();
    let mut ids = Vec::new();
    for n in 0..services {
        ids.push(monitor.handle().register(settings(&format!("shop{n}"), &json!({}))).await.unwrap().id);
    }
    monitor.run(tokio::time::sleep(span)).await.unwrap();
    let mut results = Vec::new();
    for id in ids {
        let stored = world.store.results(id, &ResultQuery::default(), ALL).await.unwrap();
        results.extend(stored.into_iter().map(|stored| stored.result));
    }
    (world, results)
}

#[tokio::test(start_paused = true)]
async fn while_no_canary_is_reached_failures_say_nothing_and_services_show_as_blind() {
    let dark = |at: Duration| (100..400).contains(&at.as_secs());
    let tell = move |_: &str, at| if dark(at) { fails(FailReason::Dns) } else { (Outcome::Pass, QUICK) };
    let (world, results) = results(20, SECOND * 600, tell).await;
    assert!(results.iter().all(|result| matches!(result.seen.outcome, Outcome::Pass | OFFLINE)));
    let offline = results.iter().find(|result| result.seen.outcome == OFFLINE).unwrap();
    let detail = offline.seen.detail.as_deref().unwrap();
    assert!(detail.starts_with("none of 2 canaries could be reached") && detail.ends_with("dns: Connection refused"));
    let log = world.store.log(Default::default(), ALL).await.unwrap();
    let (mut ups, mut blind) = (0, 0);
    for entry in log {
        match entry.event {
            LogEvent::Transition(transition) if transition.to == Status::Up => ups += 1,
            LogEvent::Overlay { overlay: Overlay::Blind, .. } => blind += 1,
            other => panic!("{other:?} was announced"),
        }
    }
    assert_eq!((ups, blind), (20, 40), "UP when they were new; blind, and no longer");
}

#[tokio::test(start_paused = true)]
async fn while_canaries_hang_no_failure_counts_also_not_of_a_probe_that_began_during_the_question() {
    // What never returns is ended by the deadline, and the answer then is as old as what is remembered.
    let tell = |host: &str, _| match host {
        "one" | "two" => (Outcome::Pass, SECOND * 3_600),
        _ => fails(FailReason::Connect),
    };
    let (_, results) = results(50, SECOND * 120, tell).await;
    assert!(results.len() > 150, "{}", results.len());
    let counted = results.iter().filter(|result| result.seen.outcome != OFFLINE).count();
    assert_eq!(counted, 0, "of {}", results.len());
}

#[tokio::test(start_paused = true)]
async fn one_canary_that_answers_is_enough_for_failures_to_count() {
    let answers: [Seen; 3] = [(Outcome::Pass, QUICK), fails(FailReason::Status), fails(FailReason::Certificate)];
    for answer in answers {
        let tell = move |host: &str, _| if host == "two" { answer } else { fails(FailReason::Connect) };
        let (_, results) = results(1, SECOND * 60, tell).await;
        assert!(results.iter().all(|result| result.seen.outcome == Outcome::Fail(FailReason::Connect)), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn canaries_are_asked_only_about_failures_that_a_dead_network_can_cause() {
    let seen = [
        (Outcome::Pass, 0),
        (Outcome::Slow, 0),
        (Outcome::Fail(FailReason::Status), 0),
        (Outcome::Fail(FailReason::Assertion), 0),
        (Outcome::Fail(FailReason::Certificate), 0),
        (Outcome::Indeterminate(IndeterminateReason::Blocked), 0),
        (Outcome::Fail(FailReason::Dns), 1),
        (Outcome::Fail(FailReason::Connect), 1),
        (Outcome::Fail(FailReason::Timeout), 1),
        (Outcome::Fail(FailReason::Tls), 1),
        (Outcome::Fail(FailReason::Proxy), 1),
        (Outcome::Fatal(FailReason::Connect), 1),
    ];
    for (outcome, questions) in seen {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let tell = move |host: &str, _| match host {
            "one" => {
                count.fetch_add(1, Ordering::SeqCst);
                (Outcome::Pass, QUICK)
            }
            "two" => (Outcome::Pass, SECOND),
            _ => (outcome, QUICK),
        };
        // One probe at once, and one slot at most.
        results(1, SECOND * 4, tell).await;
        assert!((questions..=questions * 2).contains(&asked.load(Ordering::SeqCst)), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_question_serves_all_that_fail_and_nobody_waits_beyond_its_deadline() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let tell = move |host: &str, _| match host {
        "one" | "two" => {
            count.fetch_add(1, Ordering::SeqCst);
            // Never: only the deadline ends it.
            (Outcome::Pass, SECOND * 3_600)
        }
        _ => fails(FailReason::Connect),
    };
    let world = World::new();
    let prober = Arc::new(Truth { clock: Arc::clone(&world.clock), tell });
    let monitor = world.monitor(prober).canary(canary().remembered(SECOND * 5)).build().unwrap();
    let handle = monitor.handle();
    let mut ids = Vec::new();
    for n in 0..500 {
        ids.push(handle.register(settings(&format!("shop{n}"), &json!({}))).await.unwrap().id);
    }
    monitor.run(tokio::time::sleep(SECOND * 60)).await.unwrap();
    // Each question takes its 2 s, and its answer holds for 3 s more.
    let asked = asked.load(Ordering::SeqCst) / 2;
    assert!((10..=14).contains(&asked), "{asked} questions for 3,500 failures");
    let lag = handle.signs().record_lag.longest_us;
    assert!(lag < 2_500_000, "a result was recorded {lag} µs after its probe began");
    for id in ids {
        let results = world.store.results(id, &ResultQuery::default(), ALL).await.unwrap();
        assert!(results.iter().all(|stored| stored.outcome() == OFFLINE));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_hung_while_the_network_was_away_says_nothing_though_it_is_back() {
    // The network goes 2 s after the services' slots, and is back before their timeouts end.
    let tell = |host: &str, at: Duration| match (host, at.as_secs()) {
        ("one" | "two", 50..57) => fails(FailReason::Connect),
        ("one" | "two", _) => (Outcome::Pass, QUICK),
        // Something keeps failing, so that the canaries are asked in those seconds.
        ("shop0", _) => fails(FailReason::Connect),
        (_, 40..57) => (Outcome::Pass, SECOND * 60),
        _ => (Outcome::Pass, QUICK),
    };
    let (_, results) = results(30, SECOND * 120, tell).await;
    let hung: Vec<_> = results.iter().filter(|result| result.seen.latency_us == 10_000_000).collect();
    let over = |result: &ProbeResult| result.started.after(SECOND * 10).since(crate::support::START).as_secs();
    let offline = hung.iter().filter(|result| result.seen.outcome == OFFLINE).count();
    assert!(offline > 0, "{} hung", hung.len());
    assert!(hung.iter().any(|result| result.seen.outcome == OFFLINE && over(result) > 58));
}

#[tokio::test(start_paused = true)]
async fn canaries_that_cannot_tell_excuse_nothing() {
    let blocked = (Outcome::Indeterminate(IndeterminateReason::Blocked), QUICK);
    let tell = move |host: &str, _| match host {
        "one" => blocked,
        "two" => (Outcome::Pass, SECOND * 3_600),
        _ => fails(FailReason::Timeout),
    };
    let (_, results) = results(2, SECOND * 30, tell).await;
    assert!(results.iter().all(|result| result.seen.outcome == Outcome::Fail(FailReason::Timeout)));
}

#[test]
fn a_canary_needs_two_hosts_and_probers_that_take_them() {
    assert!(Canary::new(targets(&["test://one"])).is_err());
    assert!(Canary::new(targets(&["test://one/a", "test://one/b"])).is_err(), "one host");
    assert!(Canary::new((0..9).map(|n| format!("test://h{n}").parse().unwrap()).collect()).is_err());
    let foreign = Canary::new(targets(&["test://one", "smoke://two"])).unwrap();
    let built = World::new().monitor(Arc::new(crate::support::Up)).canary(foreign).build();
    let Err(BuildError::Canary(errors)) = built else { panic!("it was built") };
    assert_eq!(errors.to_string(), "canary.1.url: must have one of the schemes test");
}
