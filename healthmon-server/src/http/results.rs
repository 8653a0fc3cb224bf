//! A service's history: `/services/{id}/results`.

use axum::extract::{Path, Query, State};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use healthmon_core::{
    id::{Applied, Epoch, Region},
    ports::{ResultKey, ResultQuery, StoredResult},
    probe::{Kind, Phases, Reason},
    time::{Slot, Timestamp},
};
use serde::{Deserialize, Serialize};

use super::{
    Api, Problem, reasons,
    services::{Json, existing, id, limit},
};

/// A recorded result, as the API shows it.
#[derive(Debug, Serialize)]
pub(super) struct ResultView {
    slot: Slot,
    region: Region,
    kind: Kind,
    epoch: Epoch,
    started: Timestamp,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    latency_us: u32,
    phases: Phases,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_expires: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Box<str>>,
    /// Its number among the service's inputs; null if it did not vote.
    applied: Option<Applied>,
}

impl From<StoredResult> for ResultView {
    fn from(StoredResult { result, applied }: StoredResult) -> Self {
        let seen = result.seen;
        Self {
            slot: result.id.slot,
            region: result.id.region,
            kind: result.id.kind,
            epoch: result.epoch,
            started: result.started,
            outcome: seen.outcome.as_str(),
            reason: seen.outcome.reason(),
            latency_us: seen.latency_us,
            phases: seen.phases,
            code: seen.code,
            certificate_expires: seen.certificate_expires,
            detail: seen.detail,
            applied,
        }
    }
}

/// What is asked of the history.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    from: Option<String>,
    to: Option<String>,
    outcome: Option<String>,
    reason: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// A page of the history, newest first.
#[derive(Debug, Serialize)]
pub(super) struct HistoryPage {
    results: Vec<ResultView>,
    /// For the page before this one in time; null at the end.
    next: Option<String>,
}

pub(super) async fn list(
    State(api): State<Api>,
    Path(text): Path<String>,
    query: Result<Query<HistoryQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<HistoryPage>, Problem> {
    let Query(query) = query.map_err(|error| Problem::field("query", error.body_text()))?;
    let id = id(&text)?;
    existing(&api, id).await?;
    let limit = limit(query.limit)?;
    let wanted = ResultQuery {
        from: time("from", query.from)?,
        to: time("to", query.to)?,
        outcome: query.outcome.as_deref().map(outcome).transpose()?,
        reason: query.reason.as_deref().map(reasons::read).transpose()?,
        before: query.cursor.as_deref().map(read_cursor).transpose()?,
    };
    let found = api.handle.store().results(id, &wanted, limit).await?;
    let next = found.last().filter(|_| found.len() == limit.get()).map(|last| cursor(&ResultKey::of(&last.result.id)));
    Ok(Json(HistoryPage { results: found.into_iter().map(ResultView::from).collect(), next }))
}

fn time(field: &str, text: Option<String>) -> Result<Option<Slot>, Problem> {
    let parse = |text: String| text.parse::<Timestamp>().map(Slot::at).map_err(|error| Problem::field(field, error));
    text.map(parse).transpose()
}

fn outcome(name: &str) -> Result<&'static str, Problem> {
    let names = ["pass", "slow", "fail", "indeterminate"];
    let wrong = || Problem::field("outcome", format_args!("must be one of {}", names.join(", ")));
    names.into_iter().find(|known| *known == name).ok_or_else(wrong)
}

fn cursor(key: &ResultKey) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}/{}/{}", key.slot.as_millis(), key.kind.code(), key.region))
}

fn read_cursor(text: &str) -> Result<ResultKey, Problem> {
    let read = || {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let mut parts = text.splitn(3, '/');
        let slot = Slot::from_millis(parts.next()?.parse().ok()?);
        let kind = Kind::from_code(parts.next()?.parse().ok()?)?;
        Some(ResultKey { slot, kind, region: Region::new(parts.next()?).ok()? })
    };
    read().ok_or_else(|| Problem::field("cursor", "must be the `next` of an earlier page"))
}
