//! The transition log by REST: `/transitions` and `/services/{id}/transitions`.

use std::num::NonZeroUsize;

use axum::extract::{Path, RawQuery, State};
use healthmon_core::{
    id::{Seq, ServiceId},
    ports::StoreError,
    probe::Reason,
    status::LogEntry,
};
use serde::Serialize;

use super::{
    Api, Problem,
    query::Parameters,
    reasons,
    services::{Json, LONGEST_PAGE, existing, id, limit},
};

/// How many pieces of the log are looked through for one page of entries with a certain reason: stores
/// keep no index of those, and what is asked for may be nowhere.
const PIECES: usize = 20;

/// A piece of the log.
#[derive(Debug, Serialize)]
pub(super) struct LogPage {
    log: String,
    head: Seq,
    entries: Vec<LogEntry>,
    /// The `after` (or `before`) of the page that follows; null at the end. A page may have fewer
    /// entries than it could, or none, and yet not be the last.
    next: Option<Seq>,
}

/// Whose log.
enum Whose {
    /// Everybody's, oldest first.
    All,
    /// That of one service, newest first.
    One(ServiceId),
}

impl Whose {
    async fn read(&self, api: &Api, place: Option<Seq>, limit: NonZeroUsize) -> Result<Vec<LogEntry>, StoreError> {
        match *self {
            Self::All => api.handle.store().log(place.unwrap_or(Seq(0)), limit).await,
            Self::One(id) => api.handle.store().service_log(id, place, limit).await,
        }
    }

    /// A page from `place` on, of entries with the wanted reason if one is wanted.
    async fn page(
        self,
        api: &Api,
        mut place: Option<Seq>,
        wanted: Option<Reason>,
        limit: NonZeroUsize,
    ) -> Result<LogPage, Problem> {
        let head = api.handle.store().head().await?;
        let piece = if wanted.is_some() { LONGEST_PAGE } else { limit };
        let page = |entries, next| Ok(LogPage { log: head.log.to_string(), head: head.head, entries, next });
        let mut entries = Vec::new();
        for _ in 0..PIECES {
            let found = self.read(api, place, piece).await?;
            let is_last = found.len() < piece.get();
            for entry in found {
                place = Some(entry.seq);
                if wanted.is_none_or(|wanted| entry.reason == Some(wanted)) {
                    entries.push(entry);
                }
                if entries.len() == limit.get() {
                    return page(entries, place);
                }
            }
            if is_last {
                return page(entries, None);
            }
        }
        page(entries, place)
    }
}

pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<LogPage>, Problem> {
    let mut query = Parameters::read(query.as_deref(), &["after", "reason", "limit"], &[])?;
    let (after, reason) = (seq(&mut query, "after")?, query.with("reason", reasons::read)?);
    Whose::All.page(&api, after, reason, limit(&mut query)?).await.map(Json)
}

pub(super) async fn of_service(
    State(api): State<Api>,
    Path(text): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<LogPage>, Problem> {
    let mut query = Parameters::read(query.as_deref(), &["before", "reason", "limit"], &[])?;
    let (before, reason) = (seq(&mut query, "before")?, query.with("reason", reasons::read)?);
    let (id, limit) = (id(&text)?, limit(&mut query)?);
    existing(&api, id).await?;
    Whose::One(id).page(&api, before, reason, limit).await.map(Json)
}

fn seq(query: &mut Parameters, name: &str) -> Result<Option<Seq>, Problem> {
    Ok(query.parsed(name, "the seq of an entry of the log")?.map(Seq))
}
