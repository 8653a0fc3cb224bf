//! Targets that never answer hold up nobody but their own host.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use healthmon_core::{
    ports::{Prober, ResultQuery, ResultStore},
    probe::{FailReason, IndeterminateReason, Observation, Outcome, Probe, ProbeResult},
    runtime::Tuning,
    service::{FieldErrors, ServiceSettings, Target},
};
use serde_json::json;

use crate::support::{ALL, World, settings};

const SECOND: Duration = Duration::from_secs(1);

/// `dead` hosts never answer, others do at once; counts who is under way at the dead ones.
#[derive(Default)]
struct Dead {
    under_way: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Prober for Dead {
    fn schemes(&self) -> &[&'static str] {
        &["test", "within"]
    }

    fn check(&self, _: &ServiceSettings) -> Result<(), FieldErrors> {
        Ok(())
    }

    fn host<'t>(&self, target: &'t Target) -> Option<&'t str> {
        (target.scheme() != "within").then(|| target.place())
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        let url = probe.service.settings.url.url();
        if url.host_str().is_none_or(|host| !host.starts_with("dead")) {
            return Observation::new(Outcome::Pass, Duration::ZERO);
        }
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(under_way, Ordering::SeqCst);
        let timeout = probe.service.settings.timeout.get();
        tokio::time::sleep(timeout).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        Observation::new(Outcome::Fail(FailReason::Timeout), timeout)
    }
}

fn tuning(concurrency: usize, per_host: usize) -> Tuning {
    let concurrency = NonZeroUsize::new(concurrency).unwrap();
    Tuning { concurrency, per_host: NonZeroUsize::new(per_host), ..Tuning::default() }
}

/// What became of `dead` services on one dead host or many, and of ten living ones.
async fn ran(
    tuning: Tuning,
    timeout: Duration,
    dead: impl Iterator<Item = String>,
    span: Duration,
) -> (Arc<Dead>, Vec<ProbeResult>, Vec<ProbeResult>) {
    let (world, prober) = (World::new(), Arc::new(Dead::default()));
    let monitor = world.monitor(Arc::clone(&prober) as Arc<dyn Prober>).tuning(tuning).build().unwrap();
    let handle = monitor.handle();
    let (mut of_dead, mut of_living) = (Vec::new(), Vec::new());
    for (n, url) in dead.enumerate() {
        let more = json!({"name": format!("dead {n}"), "url": url, "interval": "30s", "timeout": timeout.as_secs()});
        of_dead.push(handle.register(settings("x", &more)).await.unwrap().id);
    }
    for n in 0..10 {
        of_living.push(handle.register(settings(&format!("living{n}"), &json!({"interval": "1s"}))).await.unwrap().id);
    }
    monitor.run(tokio::time::sleep(span)).await.unwrap();
    let mut all = [Vec::new(), Vec::new()];
    for (ids, results) in [of_dead, of_living].iter().zip(&mut all) {
        for id in ids {
            let stored = world.store.results(*id, &ResultQuery::default(), ALL).await.unwrap();
            results.extend(stored.into_iter().map(|stored| stored.result));
        }
    }
    let [dead, living] = all;
    (prober, dead, living)
}

fn latest(results: &[ProbeResult]) -> Duration {
    results.iter().map(|result| result.started.since(result.id.slot.time())).max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_never_answers_has_its_share_and_others_are_on_time() {
    let dead = (0..2_000).map(|n| format!("test://dead:443/{n}"));
    let (prober, dead, living) = ran(tuning(400, 100), SECOND * 10, dead, SECOND * 90).await;
    let most = prober.most.load(Ordering::SeqCst);
    assert!((90..=100).contains(&most), "{most} at once");
    assert!(latest(&living) < Duration::from_millis(10), "{:?} late", latest(&living));
    assert!(living.iter().all(|result| result.seen.outcome == Outcome::Pass));
    let count = |outcome| dead.iter().filter(|result| result.seen.outcome == outcome).count();
    let tried = count(Outcome::Fail(FailReason::Timeout));
    let crowded = count(Outcome::Indeterminate(IndeterminateReason::Crowded));
    assert!(tried >= 700 && crowded > tried, "{tried} were tried, {crowded} found it crowded");
    assert_eq!(tried + crowded, dead.len(), "and each of them has a result");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_probes_in_flight_keep_their_deadlines_and_hold_up_nobody() {
    let dead = (0..10_500).map(|n| format!("test://dead{}:443/{n}", n % 40));
    let (prober, dead, living) = ran(tuning(16_000, 1_000), SECOND * 30, dead, SECOND * 70).await;
    let most = prober.most.load(Ordering::SeqCst);
    assert!(most >= 10_000, "{most} at once");
    assert!(latest(&living) < Duration::from_millis(10), "{:?} late", latest(&living));
    assert!(dead.iter().all(|result| result.seen.latency_us <= 30_050_000));
}

#[tokio::test(start_paused = true)]
async fn who_waits_its_turn_is_probed_first_come_first_served_and_soon_enough() {
    // Ten places of 10 s each, and eleven at a time: one waits, and finds a place or leaves in 2 s.
    let dead = (0..30).map(|n| format!("test://dead:443/{n}"));
    let (_, dead, _) = ran(tuning(64, 10), SECOND * 10, dead, SECOND * 120).await;
    let waited = dead.iter().filter(|result| result.seen.outcome == Outcome::Fail(FailReason::Timeout));
    let waited: Vec<_> = waited.filter(|result| result.started.since(result.id.slot.time()) > SECOND / 10).collect();
    assert!(!waited.is_empty(), "some waited for their turn");
    assert!(waited.iter().all(|result| result.started.since(result.id.slot.time()) <= SECOND * 2));
}

#[tokio::test(start_paused = true)]
async fn a_probe_leaves_at_its_start_by_as_expired() {
    let (world, prober) = (World::new(), Arc::new(Dead::default()));
    let monitor = world.monitor(prober).tuning(tuning(64, 1)).build().unwrap();
    let handle = monitor.handle();
    let long = json!({"url": "test://dead:1", "interval": "60s", "timeout": "60s"});
    handle.register(settings("long", &long)).await.unwrap();
    let short = json!({"url": "test://dead:1", "interval": "1s", "timeout": "1s"});
    let short = handle.register(settings("short", &short)).await.unwrap().id;
    monitor.run(tokio::time::sleep(SECOND * 20)).await.unwrap();
    let results = world.store.results(short, &ResultQuery::default(), ALL).await.unwrap();
    let expired = results
        .iter()
        .map(|stored| &stored.result)
        .filter(|result| result.seen.outcome == Outcome::Indeterminate(IndeterminateReason::Expired));
    let waited: Vec<_> = expired.map(|result| result.started.since(result.id.slot.time())).collect();
    assert!(!waited.is_empty() && waited.iter().all(|waited| *waited <= Duration::from_millis(1_010)), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_prober_that_waits_on_nobody_is_bound_by_no_host() {
    let dead = (0..50).map(|n| format!("within://dead/{n}"));
    let (prober, dead, _) = ran(tuning(64, 1), SECOND * 10, dead, SECOND * 45).await;
    assert!(prober.most.load(Ordering::SeqCst) > 1);
    assert!(dead.iter().all(|result| result.seen.outcome == Outcome::Fail(FailReason::Timeout)));
}
