//! Metrics in Prometheus' text format: `/metrics`.

use std::{sync::OnceLock, time::Duration};

use axum::{extract::State, response::IntoResponse};
use http::{StatusCode, header};
use metrics::{describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use super::Api;

/// Bounds of histograms in seconds: from half a millisecond to two minutes, each about double.
const BUCKETS: [f64; 18] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0];
/// How often what was noted is folded into buckets: between two it takes memory.
const UPKEEP: Duration = Duration::from_secs(2);
/// How long the queue may take to say how full it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// This process's metrics. Installed with the first call: what was noted before is not counted.
pub(crate) fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || -> Result<PrometheusHandle, BuildError> {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)?;
        let handle = builder.install_recorder()?;
        describe_gauge!("healthmon_queue_waiting", "Probes that wait for a worker");
        describe_gauge!("healthmon_queue_in_flight", "Probes that a worker has");
        describe_gauge!("healthmon_queue_results", "Results that wait to be recorded");
        describe_gauge!("healthmon_queue_age_seconds", "How long the oldest waiting probe has waited beyond its slot");
        describe_gauge!("healthmon_recorder_lag_seconds", "How long the oldest result has waited to be recorded");
        describe_gauge!("healthmon_queue_up", "Whether the queue answers");
        Ok(handle)
    };
    let installed = RECORDER.get_or_init(|| match install() {
        Ok(handle) => Some(handle),
        Err(error) => {
            tracing::error!(%error, "there will be no metrics");
            None
        }
    });
    installed.as_ref()
}

/// Folds what was noted, until closing.
pub(crate) async fn upkeep(closing: CancellationToken) {
    let Some(recorder) = recorder() else { return };
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(UPKEEP) => recorder.run_upkeep(),
        }
    }
}

pub(super) async fn read(State(api): State<Api>) -> impl IntoResponse {
    let Some(recorder) = recorder() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "text/plain")], String::new());
    };
    let depth = tokio::time::timeout(PATIENCE, api.handle.queue().depth()).await;
    let up = matches!(depth, Ok(Ok(_)));
    gauge!("healthmon_queue_up").set(f64::from(u8::from(up)));
    if let Ok(Ok(depth)) = depth {
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        gauge!("healthmon_queue_waiting").set(count(depth.waiting));
        gauge!("healthmon_queue_in_flight").set(count(depth.in_flight));
        gauge!("healthmon_queue_results").set(count(depth.results));
        gauge!("healthmon_queue_age_seconds").set(depth.oldest.as_secs_f64());
        gauge!("healthmon_recorder_lag_seconds").set(depth.oldest_result.as_secs_f64());
    }
    (StatusCode::OK, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], recorder.render())
}
