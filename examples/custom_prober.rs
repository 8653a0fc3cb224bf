//! A prober of one's own: the file that a `fresh://` target names must be younger than the interval.
//!
//! Good for a nightly job that touches a file when it is done. `cargo run --example custom_prober`

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Observation, Outcome, Probe},
    runtime::Monitor,
    service::{FieldErrors, ServiceSettings},
};

struct FreshFile;

#[async_trait]
impl Prober for FreshFile {
    fn schemes(&self) -> &[&'static str] {
        &["fresh"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        match settings.options.to_map().keys().next() {
            Some(unknown) => Err(FieldErrors::one(unknown, "is not a known section")),
            None => Ok(()),
        }
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        let begun = Instant::now();
        let settings = &probe.service.settings;
        let path = settings.url.url().path().to_owned();
        let (outcome, detail) = match tokio::fs::metadata(&path).await.and_then(|file| file.modified()) {
            Ok(modified) => {
                let age = modified.elapsed().unwrap_or_default();
                if age <= settings.interval.get() {
                    (Outcome::Pass, None)
                } else {
                    (Outcome::Fail(FailReason::Assertion), Some(format!("the file is {} s old", age.as_secs())))
                }
            }
            Err(error) => (Outcome::Fail(FailReason::Connect), Some(error.to_string())),
        };
        let seen = Observation::new(outcome, begun.elapsed());
        match detail {
            Some(detail) => seen.with_detail(&detail),
            None => seen,
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = tempfile::NamedTempFile::new()?;
    let monitor = Monitor::builder().prober(Arc::new(FreshFile)).build()?;
    let handle = monitor.handle();
    let settings = serde_json::json!({
        "name": "nightly job", "url": format!("fresh://localhost{}", file.path().display()), "interval": "1s",
        "policy": {"failure_threshold": 2},
    });
    handle.register(serde_json::from_value(settings)?).await?;
    let mut log = handle.log(Default::default());
    let watching = async {
        for _ in 0..2 {
            if let Ok(entry) = log.next().await {
                #[expect(clippy::print_stdout, reason = "an example shows what happens")]
                {
                    println!("{:?} {}", entry.event, entry.detail.unwrap_or_default());
                }
            }
        }
    };
    let shutdown = async { drop(tokio::time::timeout(Duration::from_secs(20), watching).await) };
    monitor.run(shutdown).await?;
    Ok(())
}
