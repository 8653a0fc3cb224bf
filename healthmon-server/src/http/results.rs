//! A service's history: `/services/{id}/results`.

use axum::extract::{Path, RawQuery, State};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use healthmon_core::{
    id::{Applied, Epoch, Region},
    ports::{ResultKey, ResultQuery, StoredResult},
    probe::{Kind, Phases, Reason},
    time::{Slot, Timestamp},
};
use serde::Serialize;

use super::{
    Api, Problem,
    query::Parameters,
    reasons,
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
    RawQuery(query): RawQuery,
) -> Result<Json<HistoryPage>, Problem> {
    let known = ["from", "to", "outcome", "reason", "cursor", "limit"];
    let mut query = Parameters::read(query.as_deref(), &known, &[])?;
    let time = |text: &str| text.parse::<Timestamp>().map(Slot::at);
    let wanted = ResultQuery {
        from: query.with("from", time)?,
        to: query.with("to", time)?,
        outcome: query.with("outcome", outcome)?,
        reason: query.with("reason", reasons::read)?,
        before: query.with("cursor", read_cursor)?,
    };
    let (id, limit) = (id(&text)?, limit(&mut query)?);
    existing(&api, id).await?;
    let found = api.handle.store().results(id, &wanted, limit).await?;
    let next = found.last().filter(|_| found.len() == limit.get()).map(|last| cursor(&ResultKey::of(&last.result.id)));
    Ok(Json(HistoryPage { results: found.into_iter().map(ResultView::from).collect(), next }))
}

fn outcome(name: &str) -> Result<&'static str, String> {
    let names = ["pass", "slow", "fail", "indeterminate"];
    names.into_iter().find(|known| *known == name).ok_or_else(|| format!("must be one of {}", names.join(", ")))
}

fn cursor(key: &ResultKey) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}/{}/{}", key.slot.as_millis(), key.kind.code(), key.region))
}

fn read_cursor(text: &str) -> Result<ResultKey, &'static str> {
    let read = || {
        let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let mut parts = text.splitn(3, '/');
        let slot = Slot::from_millis(parts.next()?.parse().ok()?);
        let kind = Kind::from_code(parts.next()?.parse().ok()?)?;
        Some(ResultKey { slot, kind, region: Region::new(parts.next()?).ok()? })
    };
    read().ok_or("must be the `next` of an earlier page")
}
