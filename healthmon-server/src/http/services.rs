//! Services: register, list, read, change, delete, pause, resume, probe.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, Path, RawQuery, Request, State},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use healthmon_core::{
    id::{Revision, ServiceId},
    ports::{Change, LastResult, ServiceFilter, ServiceView, StoreError},
    runtime::{Handle, HandleError},
    service::{Service, ServiceSettings, Timeout},
    status::{Overlay, Status},
    time::Timestamp,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Api, Problem,
    heartbeats::once,
    query::Parameters,
    results::ResultView,
    secrets::{self, Patched},
};
use crate::heartbeats::{HeartbeatToken, SCHEME};

/// The shortest interval that the server takes; embedders may go below.
const SHORTEST: Duration = Duration::from_secs(1);
const PAGE: NonZeroUsize = NonZeroUsize::new(100).unwrap();
/// The most rows that a page has.
pub(super) const LONGEST_PAGE: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// A JSON answer.
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// A request's body: a JSON object.
pub(super) struct Body(Map<String, Value>);

impl FromRequest<Api> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if kind != "application/json" && kind != "application/merge-patch+json" {
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"));
        }
        let bytes = Bytes::from_request(request, api).await.map_err(|error| {
            let status = error.into_response().status();
            Problem::new(status, "the body must be at most 256 KiB long, and complete")
        })?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body must be a JSON object: {error}")))
    }
}

/// A service, as the API shows it: without its secrets.
struct Shown {
    handle: Handle,
    service: Service,
    standing: Standing,
    token: Shows,
}

/// What is shown of a service's token.
#[derive(Debug)]
enum Shows {
    /// Nothing.
    Nothing,
    /// The token of a service that reports in and is new, this once.
    New(HeartbeatToken),
    /// That it has none yet: its owner is to ask for one.
    Missing,
}

impl Serialize for Shown {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = |value: serde_json::Result<Value>| match value {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(serde::ser::Error::custom("a service is an object")),
            Err(error) => Err(serde::ser::Error::custom(error)),
        };
        let mut map = object(serde_json::to_value(&self.service))?;
        secrets::hide(&self.handle, &self.service.settings, &mut map);
        map.extend(object(serde_json::to_value(&self.standing))?);
        match &self.token {
            Shows::Nothing => {}
            Shows::New(token) => drop(map.insert("heartbeat_token".to_owned(), token.expose().into())),
            Shows::Missing => drop(map.insert("heartbeat_token".to_owned(), Value::Null)),
        }
        map.serialize(serializer)
    }
}

/// How a service stands.
#[derive(Debug, Serialize)]
struct Standing {
    status: Status,
    since: Timestamp,
    overlays: Vec<Overlay>,
    maintenance_until: Option<Timestamp>,
    last: Option<LastResult>,
}

impl Shown {
    fn new(api: &Api, view: ServiceView) -> Self {
        let ServiceView { service, status, since, overlays, maintenance_until, last } = view;
        let standing = Standing { status, since, overlays, maintenance_until, last };
        Self { handle: api.handle.clone(), service, standing, token: Shows::Nothing }
    }
}

impl IntoResponse for Shown {
    fn into_response(self) -> Response {
        let tag = format!("\"{}\"", self.service.revision);
        let mut response = Json(self).into_response();
        if let Ok(tag) = HeaderValue::try_from(tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

pub(super) fn id(text: &str) -> Result<ServiceId, Problem> {
    text.parse().map_err(|_| Problem::not_found(format_args!("service {text:?}")))
}

/// How many rows a page has, by the parameter `limit`.
pub(super) fn limit(query: &mut Parameters) -> Result<NonZeroUsize, Problem> {
    let read = |text: &str| {
        let fits = text.parse().ok().filter(|wanted| *wanted <= LONGEST_PAGE);
        fits.ok_or_else(|| format!("must be from 1 to {LONGEST_PAGE}"))
    };
    Ok(query.with("limit", read)?.unwrap_or(PAGE))
}

/// The service, or a 404. Deleted services' history stays readable.
pub(super) async fn existing(api: &Api, id: ServiceId) -> Result<(), Problem> {
    let there = api.handle.store().state(id).await?;
    there.map(|_| ()).ok_or_else(|| Problem::not_found(format_args!("service {id}")))
}

async fn shown(api: &Api, id: ServiceId) -> Result<Shown, Problem> {
    let view = api.handle.service(id).await?;
    view.map(|view| Shown::new(api, view)).ok_or_else(|| Problem::not_found(format_args!("service {id}")))
}

fn checked(settings: ServiceSettings) -> Result<ServiceSettings, Problem> {
    if settings.interval.get() < SHORTEST {
        return Err(Problem::field("interval", "must be at least 1s"));
    }
    if settings.edge_interval.is_some_and(|edge| edge.get() < SHORTEST) {
        return Err(Problem::field("edge_interval", "must be at least 1s"));
    }
    Ok(settings)
}

pub(super) async fn register(State(api): State<Api>, Body(body): Body) -> Result<Response, Problem> {
    let settings = checked(readable(&api, body)?)?;
    secrets::refuse_foreign(&api.handle, &settings)?;
    let service = api.handle.register(sealed(&api, settings)?).await?;
    let location = format!("/api/v1/services/{}", service.id);
    let mut shown = shown(&api, service.id).await?;
    if service.settings.url.scheme() == SCHEME {
        // The service is there, whatever comes: without a token, its owner asks for another.
        shown.token = match api.heartbeats.issue(service.id).await {
            Ok(token) => Shows::New(token),
            Err(error) => {
                tracing::warn!(%error, id = %service.id, "no token was issued");
                Shows::Missing
            }
        };
    }
    let mut response = once(shown.into_response());
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// What is asked of the list.
#[derive(Debug)]
struct ListQuery {
    filter: ServiceFilter,
    after: Option<ServiceId>,
    limit: NonZeroUsize,
}

impl ListQuery {
    fn read(query: Option<&str>) -> Result<Self, Problem> {
        let mut query = Parameters::read(query, &["status", "group", "q", "cursor", "limit"], &["tag"])?;
        let status = |name: &str| {
            Status::from_name(&name.to_ascii_uppercase()).ok_or("must be one of UP, DEGRADED, UNKNOWN, DOWN")
        };
        let filter = ServiceFilter {
            status: query.with("status", status)?,
            group: query.text("group"),
            tags: query.all("tag").iter().map(|text| tag(text)).collect(),
            text: query.text("q"),
        };
        Ok(Self { filter, after: query.with("cursor", read_cursor)?, limit: limit(&mut query)? })
    }
}

/// A tag condition: `key`, or `key:value`.
pub(super) fn tag(text: &str) -> (String, Option<String>) {
    match text.split_once(':') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    }
}

fn read_cursor(text: &str) -> Result<ServiceId, &'static str> {
    let read = || String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?.parse().ok();
    read().ok_or("must be the `next` of an earlier page")
}

pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let read = ListQuery::read(query.as_deref())?;
    let found = api.handle.services(&read.filter, read.after, read.limit).await?;
    let last = found.last().filter(|_| found.len() == read.limit.get());
    let next = last.map(|view| BASE64_URL_SAFE_NO_PAD.encode(view.service.id.to_string()));
    let link = next.as_ref().map(|next| {
        let others = url::form_urlencoded::parse(query.as_deref().unwrap_or("").as_bytes());
        let others = others.filter(|(key, _)| key != "cursor");
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(others)
            .append_pair("cursor", next)
            .finish();
        format!("</api/v1/services?{query}>; rel=\"next\"")
    });
    let services: Vec<Shown> = found.into_iter().map(|view| Shown::new(&api, view)).collect();
    let page = BTreeMap::from([("services", serde_json::json!(services)), ("next", serde_json::json!(next))]);
    let mut response = Json(page).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

pub(super) async fn read(State(api): State<Api>, Path(text): Path<String>) -> Result<Response, Problem> {
    Ok(shown(&api, id(&text)?).await?.into_response())
}

/// The revision that `If-Match` names, if it names one.
fn expected(headers: &HeaderMap) -> Result<Option<Revision>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or("").trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).and_then(|text| text.parse().ok());
    let wrong = || Problem::new(StatusCode::PRECONDITION_FAILED, "If-Match is not an ETag of this service");
    number.map(|number| Some(Revision(number))).ok_or_else(wrong)
}

/// RFC 7396: null removes, an object is merged, anything else replaces.
fn merge(into: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => drop(into.shift_remove(&key)),
            Value::Object(patch) => match into.get_mut(&key) {
                Some(Value::Object(inner)) => merge(inner, patch),
                _ => {
                    let mut fresh = Map::new();
                    merge(&mut fresh, patch);
                    into.insert(key, Value::Object(fresh));
                }
            },
            value => drop(into.insert(key, value)),
        }
    }
}

/// How often a patch without a precondition is merged anew when somebody else was quicker.
const MERGES: usize = 8;

pub(super) async fn patch(
    State(api): State<Api>,
    Path(text): Path<String>,
    headers: HeaderMap,
    Body(patch): Body,
) -> Result<Response, Problem> {
    let id = id(&text)?;
    let asked = expected(&headers)?;
    let mut tries = MERGES;
    loop {
        let before = shown(&api, id).await?.service;
        if asked.is_some_and(|asked| asked != before.revision) {
            return Err(StoreError::Conflict(before.revision).into());
        }
        let settings = sealed(&api, checked(merged(&api, &before.settings, patch.clone())?)?)?;
        tries -= 1;
        // The merge was made on this revision: on another it would undo somebody's change.
        match api.handle.change(id, Some(before.revision), Change::Settings(Box::new(settings))).await {
            Ok(_) => return Ok(shown(&api, id).await?.into_response()),
            Err(HandleError::Store(StoreError::Conflict(_))) if asked.is_none() && tries > 0 => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The settings after a patch of them.
fn merged(api: &Api, before: &ServiceSettings, mut patch: Map<String, Value>) -> Result<ServiceSettings, Problem> {
    let mut json = before.to_json();
    // What was never set follows what it is derived from, so it is not merged in beside it.
    if before.timeout == Timeout::default_for(before.interval) && patch.contains_key("interval") {
        json.shift_remove("timeout");
    }
    let derived = before.policy.down.window() == before.policy.down.threshold();
    if let Some(Value::Object(policy)) = json.get_mut("policy").filter(|_| derived) {
        policy.shift_remove("window");
    }
    let follows = before.has_degraded_bound() && before.policy.degraded == Some(before.policy.down);
    let given = patch.get("policy").is_some_and(|policy| policy.get("degraded").is_some());
    if let Some(Value::Object(policy)) = json.get_mut("policy").filter(|_| follows && !given) {
        policy.shift_remove("degraded");
    }
    // A client that sends back what it was shown leaves hidden values as they are.
    let patched = Patched::prepare(&api.handle, before, &mut json, &mut patch);
    merge(&mut json, patch);
    let after = readable(api, json)?;
    secrets::refuse_hidden(&after)?;
    patched.check(&after)?;
    Ok(after)
}

/// Reads settings; a service that names no regions is probed from this process's, if services may.
fn readable(api: &Api, mut json: Map<String, Value>) -> Result<ServiceSettings, Problem> {
    if json.get("regions").is_none_or(Value::is_null) {
        json.insert("regions".to_owned(), serde_json::json!(api.regions));
    }
    Ok(ServiceSettings::from_json(json)?)
}

/// The settings as they are to be kept. They are checked before: what is sealed tells its prober
/// nothing of what is wrong with it.
fn sealed(api: &Api, settings: ServiceSettings) -> Result<ServiceSettings, Problem> {
    api.handle.check(&settings)?;
    secrets::seal(&api.handle, api.keys.as_ref(), settings)
}

pub(super) async fn delete(
    State(api): State<Api>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    api.handle.change(id(&text)?, expected(&headers)?, Change::Delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn pause(State(api): State<Api>, Path(text): Path<String>) -> Result<Response, Problem> {
    let id = id(&text)?;
    api.handle.pause(id).await?;
    Ok(shown(&api, id).await?.into_response())
}

pub(super) async fn resume(State(api): State<Api>, Path(text): Path<String>) -> Result<Response, Problem> {
    let id = id(&text)?;
    api.handle.resume(id).await?;
    Ok(shown(&api, id).await?.into_response())
}

pub(super) async fn probe(State(api): State<Api>, Path(text): Path<String>) -> Result<Json<ResultView>, Problem> {
    let id = id(&text)?;
    Ok(Json(ResultView::from(api.handle.probe(id).await?)))
}
