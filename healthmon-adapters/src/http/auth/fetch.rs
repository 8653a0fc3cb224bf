//! Asking a token server for a token.

use std::time::Duration;

use bytes::Bytes;
use healthmon_core::probe::FailReason;
use http_body_util::Full;
use hyper::{
    Method, Request,
    header::{self, HeaderValue},
};
use serde_json::Value;
use tokio::time::Instant;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::{
    Place, bearer,
    tokens::{Asked, UNSAID},
};
use crate::{
    http::{
        body::{self, Wanted},
        proxy::basic,
        request,
        route::{Connector, Detour, Route, Whose},
    },
    net::{Progress, attempt::Fault},
};

/// Longer tokens are refused.
const TOKEN_LIMIT: usize = 8 * 1024;
/// Longer than this no token is used, whatever its server says.
const LIFETIME_LIMIT: u64 = 24 * 60 * 60;

/// What a token server may say of why it gives none (RFC 6749, 5.2). Nothing else of its answer is
/// ever shown.
const REASONS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// A token's header, and how long it is good for.
pub(super) async fn fetch(
    asked: &Asked,
    connector: &Connector,
    route: &Route,
    deadline: Instant,
    progress: &mut Progress,
) -> Result<(HeaderValue, Duration), Fault> {
    // What the target's own settings allow (no verification, another authority, another version) is not said of
    // the token server; only the proxy is the same.
    let detour = route.proxy().map(|proxy| Box::new(Detour::Proxy(proxy.clone())));
    let route = Route { tls: asked.tls.clone(), detour, ..Route::default() };
    let mut link = connector.open(&asked.url, &route, Whose::Foreign, deadline, progress).await?;
    let request = request_for(asked)?;
    let response = link.exchange(request, &asked.url, progress).await?;
    let status = response.status();
    let seen = body::read(&mut link, response, Wanted::TEXT).await?;
    let text = seen.text.map(|text| text.bytes).unwrap_or_default();
    let answer: Option<Value> = serde_json::from_slice(&text).ok();
    if !status.is_success() {
        let said = answer.as_ref().and_then(|answer| answer.get("error")?.as_str());
        let reason = said.and_then(|said| REASONS.iter().find(|reason| **reason == said));
        let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        return Err(refused(format!("the token server answered {}{reason}", status.as_u16())));
    }
    let answer = answer.ok_or_else(|| refused("the token server's answer is not JSON".to_owned()))?;
    let kind = answer.get("token_type").and_then(Value::as_str).unwrap_or("bearer");
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err(refused("the token server's token is of another type than bearer".to_owned()));
    }
    let token = answer.get("access_token").and_then(Value::as_str).filter(|token| token.len() <= TOKEN_LIMIT);
    let header = token.and_then(bearer).ok_or_else(|| refused("the token server's answer has no token".to_owned()))?;
    let seconds = answer.get("expires_in").and_then(|span| span.as_u64().or_else(|| span.as_str()?.parse().ok()));
    Ok((header, seconds.map_or(UNSAID, |seconds| Duration::from_secs(seconds.min(LIFETIME_LIMIT)))))
}

fn request_for(asked: &Asked) -> Result<Request<Full<Bytes>>, Fault> {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    for (name, value) in [("scope", &asked.scope), ("audience", &asked.audience)] {
        if let Some(value) = value {
            form.append_pair(name, value);
        }
    }
    if asked.place == Place::Body {
        form.append_pair("client_id", &asked.id).append_pair("client_secret", &asked.secret);
    }
    let mut request = request::plain(Method::POST, &asked.url, form.finish().into())?;
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, request::CLOSE);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    if asked.place == Place::Header {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        headers.insert(header::AUTHORIZATION, basic(&encoded(&asked.id), &encoded(&asked.secret)));
    }
    Ok(request)
}

fn refused(detail: String) -> Fault {
    Fault::fail(FailReason::Authentication, detail)
}
