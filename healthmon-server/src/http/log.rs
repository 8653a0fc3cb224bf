//! The transition log by REST: `/transitions` and `/services/{id}/transitions`.

use axum::extract::{Path, Query, State};
use healthmon_core::{id::Seq, status::LogEntry};
use serde::{Deserialize, Serialize};

use super::{
    Api, Problem,
    services::{Json, existing, id, limit},
};

/// What is asked of the whole log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    after: Option<u64>,
    limit: Option<usize>,
}

/// What is asked of a service's log.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceLogQuery {
    before: Option<u64>,
    limit: Option<usize>,
}

/// A piece of the log.
#[derive(Debug, Serialize)]
pub(super) struct LogPage {
    log: String,
    head: Seq,
    entries: Vec<LogEntry>,
}

pub(super) async fn list(
    State(api): State<Api>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<LogPage>, Problem> {
    let Query(query) = query.map_err(|error| Problem::field("query", error.body_text()))?;
    let after = Seq(query.after.unwrap_or(0));
    let head = api.handle.store().head().await?;
    let entries = api.handle.store().log(after, limit(query.limit)?).await?;
    Ok(Json(LogPage { log: head.log.to_string(), head: head.head, entries }))
}

pub(super) async fn of_service(
    State(api): State<Api>,
    Path(text): Path<String>,
    query: Result<Query<ServiceLogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<LogPage>, Problem> {
    let Query(query) = query.map_err(|error| Problem::field("query", error.body_text()))?;
    let id = id(&text)?;
    existing(&api, id).await?;
    let head = api.handle.store().head().await?;
    let entries = api.handle.store().service_log(id, query.before.map(Seq), limit(query.limit)?).await?;
    Ok(Json(LogPage { log: head.log.to_string(), head: head.head, entries }))
}
