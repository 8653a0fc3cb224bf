//! Our own process's condition.

use std::time::Duration;

use axum::{extract::State, response::IntoResponse};
use healthmon_core::ports::QueueDepth;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::Api;
use crate::config::ServerRole;

/// How long store and queue may take to answer before they count as away.
const PATIENCE: Duration = Duration::from_secs(2);
/// A result that has waited so long to be recorded shows that recording does not go on.
const RECORDED_WITHIN: Duration = Duration::from_secs(15);
/// A scheduler that has not said for so long what is due cannot.
const SCHEDULED_WITHIN: Duration = Duration::from_secs(5);

/// The process answers.
pub(super) async fn live() -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], "ok\n")
}

/// The process can do its work, each of its roles: what it needs answers, and the work goes on.
pub(super) async fn ready(State(api): State<Api>) -> impl IntoResponse {
    let (store, queue) = tokio::join!(store(&api), queue(&api));
    let mut checks = Map::new();
    let mut check = |name: &str, found: Result<(), String>| {
        checks.insert(name.to_owned(), Value::from(found.err().unwrap_or_else(|| "ok".to_owned())));
    };
    let plays = |role| api.roles.contains(&role);
    if plays(ServerRole::Scheduler) || plays(ServerRole::Recorder) || plays(ServerRole::Api) {
        check("store", store);
    }
    if plays(ServerRole::Scheduler) {
        check("scheduler", scheduler(&api));
    }
    if plays(ServerRole::Recorder) {
        check("recorder", queue.as_ref().map_err(Clone::clone).and_then(recorder));
    }
    check("queue", queue.map(|_| ()));
    let ready = checks.values().all(|check| check == "ok");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": ready, "checks": checks});
    (status, [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, "application/json")], body.to_string())
}

async fn store(api: &Api) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, api.handle.store().head()).await {
        Ok(head) => head.map(|_| ()).map_err(|error| error.to_string()),
        Err(_) => Err("the store does not answer".to_owned()),
    }
}

async fn queue(api: &Api) -> Result<QueueDepth, String> {
    match tokio::time::timeout(PATIENCE, api.handle.queue().depth()).await {
        Ok(depth) => depth.map_err(|error| error.to_string()),
        Err(_) => Err("the queue does not answer".to_owned()),
    }
}

fn scheduler(api: &Api) -> Result<(), String> {
    match api.handle.signs().scheduled_at.map(|at| api.handle.now().since(at)) {
        Some(ago) if ago <= SCHEDULED_WITHIN => Ok(()),
        Some(ago) => Err(format!("nothing was scheduled for {} s", ago.as_secs())),
        None => Err("nothing was scheduled yet".to_owned()),
    }
}

fn recorder(depth: &QueueDepth) -> Result<(), String> {
    if depth.oldest_result <= RECORDED_WITHIN {
        return Ok(());
    }
    Err(format!("{} results wait to be recorded, the oldest for {} s", depth.results, depth.oldest_result.as_secs()))
}
