//! How fast sums are. Figures depend on the machine, so this runs when asked for:
//! `cargo test --release -p healthmon-adapters --test sqlite -- --ignored --nocapture speed`

use std::time::{Duration, Instant};

use healthmon_core::{
    conformance::{TestTime, store::StoreSetup},
    id::{Epoch, Region, ServiceId},
    ports::ResultStore,
    probe::{Kind, Observation, Outcome, ProbeId, ProbeResult},
    service::ServiceSettings,
    time::Slot,
};

use crate::open;

const EACH: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_hours(24);
const SLOTS: u32 = 30 * 8_640;

#[tokio::test]
#[ignore = "measures"]
#[expect(clippy::print_stdout, reason = "figures are what it is for")]
async fn speed_of_summing() {
    let (folder, time) = (tempfile::tempdir().expect("a temporary folder"), TestTime::manual());
    let store = open(folder.path(), StoreSetup { retention: DAY * 31 }, time.clock()).await;
    let settings = serde_json::json!({"name": "one", "url": "http://one.test/", "interval": "10s"});
    let settings = ServiceSettings::from_json(settings.as_object().cloned().expect("an object")).expect("settings");
    let (id, now) = (ServiceId::new(1).expect("an id"), Slot::at(time.now()));
    store.register(id, settings).await.expect("registered");
    let begin = Slot::at(now.time().before(EACH * SLOTS));
    let one = |n: u32| {
        let slot = begin.after(EACH * n);
        let probe = ProbeId { service: id, slot, region: Region::default(), kind: Kind::Scheduled };
        let seen = Observation::new(Outcome::Pass, Duration::from_micros(u64::from(8_000 + n * 7_919 % 30_000)));
        ProbeResult { id: probe, epoch: Epoch(1), started: slot.time(), seen }
    };
    for first in (0..SLOTS).step_by(2_000) {
        let batch: Vec<ProbeResult> = (first..(first + 2_000).min(SLOTS)).map(one).collect();
        store.record(batch).await.expect("recorded");
    }
    for days in [1, 7, 30] {
        let from = Slot::at(now.time().before(DAY * days));
        let mut took: Vec<Duration> = Vec::new();
        let mut count = 0;
        for _ in 0..20 {
            let begun = Instant::now();
            let summed = store.summary(id, from, now).await.expect("a summary").expect("a service");
            took.push(begun.elapsed());
            count = summed.summary.total().counts.all();
        }
        took.sort_unstable();
        println!("sum of {days} days, {count} results: median {:?}, worst {:?}", took[10], took[19]);
    }
}
