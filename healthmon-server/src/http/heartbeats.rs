//! Services report in: `/heartbeats/{token}`.
//!
//! The token is the right; nobody logs in for it. Simple programs say all by the path, and may send a
//! text along: `curl -fsS --data-binary @log …/heartbeats/hb_…/$?`. Others send JSON.

use std::{num::NonZeroU8, time::Duration};

use axum::{
    body::Body,
    extract::{Path, RawQuery, Request, State, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use healthmon_core::{
    heartbeat::{Report, Run},
    service::Fields,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};

use super::{
    Api, Problem,
    services::{Json, id},
};
use crate::heartbeats::{HeartbeatToken, Refusal, SCHEME, Word};

/// How much of a text is looked at; the rest is let go by.
const TEXT_LIMIT: usize = 10 * 1024;
/// How much is let go by before the connection is closed.
const PASSING_LIMIT: usize = 1024 * 1024;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let in_a = |status, detail: &str, wait: Duration| Self::new(status, detail).retry_after(wait.as_secs() + 1);
        match refusal {
            Refusal::Unknown => nobody(),
            Refusal::TooOften(wait) => in_a(StatusCode::TOO_MANY_REQUESTS, "this token is used too often", wait),
            Refusal::Away(wait) => {
                in_a(StatusCode::SERVICE_UNAVAILABLE, "signs cannot be taken for now; try again", wait)
            }
            Refusal::Failed => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the store failed; the server's log says why")
            }
        }
    }
}

/// No token of anybody's, whatever is wrong with it.
fn nobody() -> Problem {
    Problem::not_found("such heartbeat token")
}

/// `/heartbeats/{token}`: a success, or what the body says.
pub(super) async fn plain(
    State(api): State<Api>,
    token: Result<Path<String>, PathRejection>,
    query: RawQuery,
    request: Request,
) -> Result<StatusCode, Problem> {
    let Path(token) = token.map_err(|_| nobody())?;
    take(&api, &token, None, query, request).await
}

/// `/heartbeats/{token}/{report}`: what the path says.
pub(super) async fn with_report(
    State(api): State<Api>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: RawQuery,
    request: Request,
) -> Result<StatusCode, Problem> {
    let Path((token, report)) = path.map_err(|_| nobody())?;
    take(&api, &token, Some(&report), query, request).await
}

async fn take(
    api: &Api,
    token: &str,
    report: Option<&str>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<StatusCode, Problem> {
    let token: HeartbeatToken = token.parse().map_err(|_| nobody())?;
    api.heartbeats.admit(&token)?;
    let said = report.map(by_path).transpose()?;
    let run = by_query(query.as_deref().unwrap_or(""))?;
    let is_json = is_json(request.headers());
    let body = read(request.into_body()).await?;
    let word = if is_json { by_json(said, run, &body)? } else { by_text(said, run, &body) };
    api.heartbeats.bring(&token, word).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn by_path(report: &str) -> Result<Report, Problem> {
    let wrong = || Problem::field("path", "must end with start, success, fail or an exit status from 0 to 255");
    match report {
        "start" => Ok(Report::Start),
        "success" => Ok(Report::Success),
        "fail" => Ok(Report::Failure(None)),
        status => status.parse().map(Report::of_exit).map_err(|_| wrong()),
    }
}

/// The run that the query names, if it does.
fn by_query(query: &str) -> Result<Option<Run>, Problem> {
    let mut run = None;
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "run" => run = Some(value.parse().map_err(|error| Problem::field("run", error))?),
            other => return Err(Problem::field(other, "is not a known parameter; must be run")),
        }
    }
    Ok(run)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    kind.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json")
}

/// A body as far as it is looked at.
struct Read {
    text: Vec<u8>,
    rest: Rest,
}

/// What came after that.
#[derive(PartialEq, Eq)]
enum Rest {
    Nothing,
    LetGoBy,
}

/// Reads a body. A sign is not lost for its message being too long: what is too much is let go by.
async fn read(mut body: Body) -> Result<Read, Problem> {
    let mut read = Read { text: Vec::new(), rest: Rest::Nothing };
    let all = async {
        let mut passed = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body must be complete"))?;
            let Some(data) = frame.data_ref() else { continue };
            let taken = data.len().min(TEXT_LIMIT - read.text.len());
            read.text.extend_from_slice(&data[..taken]);
            if taken < data.len() {
                read.rest = Rest::LetGoBy;
                passed += data.len() - taken;
            }
            if passed > PASSING_LIMIT {
                break;
            }
        }
        Ok::<(), Problem>(())
    };
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body must come within 10 s");
    tokio::time::timeout(BODY_TIMEOUT, all).await.map_err(late)??;
    Ok(read)
}

fn by_text(said: Option<Report>, run: Option<Run>, body: &Read) -> Word {
    let text = String::from_utf8_lossy(&body.text);
    let message = Some(text.into_owned()).filter(|text| !text.trim().is_empty());
    Word { report: said.unwrap_or(Report::Success), run, message }
}

fn by_json(said: Option<Report>, run: Option<Run>, body: &Read) -> Result<Word, Problem> {
    if body.rest == Rest::LetGoBy {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a JSON body must be at most 10 KiB long"));
    }
    let wrong = |error| Problem::new(StatusCode::BAD_REQUEST, format!("the body must be a JSON object: {error}"));
    let map: Map<String, Value> =
        if body.text.is_empty() { Map::new() } else { serde_json::from_slice(&body.text).map_err(wrong)? };
    let mut fields = Fields::new(map);
    let status: Option<String> = fields.optional("status");
    let exit_status: Option<u8> = fields.optional("exit_status");
    let message = fields.optional("message");
    let named: Option<Run> = fields.optional("run");
    if said.is_some() {
        for (field, given) in [("status", status.is_some()), ("exit_status", exit_status.is_some())] {
            if given {
                fields.wrong(field, "must be left out where the path says it");
            }
        }
    }
    let report = match (said, status.as_deref(), exit_status) {
        (Some(said), _, _) => said,
        (None, None, None) => Report::Success,
        (None, None, Some(exit)) => Report::of_exit(exit),
        (None, Some("start"), None) => Report::Start,
        (None, Some("success"), None | Some(0)) => Report::Success,
        (None, Some("failure"), None) => Report::Failure(None),
        (None, Some("failure"), Some(exit)) if exit > 0 => Report::Failure(NonZeroU8::new(exit)),
        (None, Some("start" | "success" | "failure"), Some(_)) => {
            fields.wrong("exit_status", "must be 0 for a success, 1 to 255 for a failure, and left out for a start");
            Report::Success
        }
        (None, Some(_), _) => {
            fields.wrong("status", "must be start, success or failure");
            Report::Success
        }
    };
    fields.finish()?;
    Ok(Word { report, run: named.or(run), message })
}

/// `POST /services/{id}/heartbeat-token`: a new token, shown this once; the one before it is dead.
pub(super) async fn renew(State(api): State<Api>, Path(text): Path<String>) -> Result<Response, Problem> {
    let id = id(&text)?;
    let missing = || Problem::not_found(format_args!("service {id}"));
    let service = api.handle.service(id).await?.ok_or_else(missing)?.service;
    if service.settings.url.scheme() != SCHEME {
        return Err(Problem::field("url", "must be heartbeat://…: other services do not report in"));
    }
    let token = api.heartbeats.issue(id).await?;
    Ok(once(Json(json!({ "heartbeat_token": token.expose() })).into_response()))
}

/// An answer that nobody in between is to keep.
pub(super) fn once(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(said: Option<Report>, body: &str) -> Result<Word, Problem> {
        by_json(said, None, &Read { text: body.as_bytes().to_vec(), rest: Rest::Nothing })
    }

    #[test]
    fn the_path_says_what_happened() {
        for (path, report) in [
            ("start", Report::Start),
            ("success", Report::Success),
            ("fail", Report::Failure(None)),
            ("0", Report::Success),
            ("1", Report::of_exit(1)),
            ("255", Report::of_exit(255)),
        ] {
            assert_eq!(by_path(path).unwrap(), report, "{path}");
        }
        for path in ["", "256", "-1", "Start", "failed", "1.5"] {
            assert!(by_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn json_says_what_happened_where_the_path_does_not() {
        let failed = |exit| Report::Failure(NonZeroU8::new(exit));
        for (body, report) in [
            ("", Report::Success),
            ("{}", Report::Success),
            (r#"{"status": "start"}"#, Report::Start),
            (r#"{"status": "success", "exit_status": 0}"#, Report::Success),
            (r#"{"status": "failure"}"#, failed(0)),
            (r#"{"status": "failure", "exit_status": 7}"#, failed(7)),
            (r#"{"exit_status": 0}"#, Report::Success),
            (r#"{"exit_status": 7}"#, failed(7)),
        ] {
            assert_eq!(json(None, body).unwrap().report, report, "{body}");
        }
        for body in [
            "[]",
            "{",
            r#"{"status": "fine"}"#,
            r#"{"status": "failure", "exit_status": 0}"#,
            r#"{"status": "success", "exit_status": 1}"#,
            r#"{"status": "start", "exit_status": 0}"#,
            r#"{"exit_status": 256}"#,
            r#"{"run": "a b"}"#,
            r#"{"more": 1}"#,
        ] {
            assert!(json(None, body).is_err(), "{body}");
        }
        assert!(json(Some(Report::Start), r#"{"status": "start"}"#).is_err(), "said twice");
        let word = json(Some(Report::Start), r#"{"run": "r1", "message": "m"}"#).unwrap();
        assert_eq!(word, Word { report: Report::Start, run: "r1".parse().ok(), message: Some("m".to_owned()) });
    }

    #[tokio::test]
    async fn a_text_that_is_too_long_is_cut_and_does_not_lose_the_sign() {
        let read = read(Body::from("x".repeat(3 * PASSING_LIMIT))).await.unwrap();
        assert_eq!(read.text.len(), TEXT_LIMIT);
        assert!(by_json(None, None, &read).is_err(), "half an object is none");
        assert_eq!(by_text(Some(Report::Start), None, &read).message.unwrap().len(), TEXT_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let (_sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
        let frames = futures_util::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|()| (Ok::<_, std::io::Error>(bytes::Bytes::new()), receiver))
        });
        let Err(problem) = read(Body::from_stream(frames)).await else { panic!("it was read") };
        assert_eq!(problem.into_response().status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[test]
    fn a_query_names_a_run_and_nothing_else() {
        assert_eq!(by_query("").unwrap(), None);
        assert_eq!(by_query("run=a-1").unwrap(), "a-1".parse().ok());
        assert!(by_query("run=").is_err());
        assert!(by_query("rum=a").is_err());
    }
}
