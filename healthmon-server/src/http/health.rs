//! Our own process's condition.

use std::time::Duration;

use axum::{extract::State, response::IntoResponse};
use http::{StatusCode, header};
use serde_json::json;

use super::Api;

/// How long the store may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);
/// A result that has waited so long to be recorded shows that recording does not go on.
const RECORDED_WITHIN: Duration = Duration::from_secs(15);

/// The process answers.
pub(super) async fn live() -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], "ok\n")
}

/// The process can do its work: the store answers, and results are recorded as they come.
pub(super) async fn ready(State(api): State<Api>) -> impl IntoResponse {
    let store = match tokio::time::timeout(PATIENCE, api.handle.store().head()).await {
        Ok(Ok(_)) => "ok".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the store does not answer".to_owned(),
    };
    let recorder = match api.handle.queue().depth().await {
        Ok(depth) if depth.oldest_result <= RECORDED_WITHIN => "ok".to_owned(),
        Ok(depth) => {
            let waited = depth.oldest_result.as_secs();
            format!("{} results wait to be recorded, the oldest for {waited} s", depth.results)
        }
        Err(error) => error.to_string(),
    };
    let ready = store == "ok" && recorder == "ok";
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"ready": ready, "checks": {"store": store, "recorder": recorder}});
    (status, [(header::CACHE_CONTROL, "no-store"), (header::CONTENT_TYPE, "application/json")], body.to_string())
}
