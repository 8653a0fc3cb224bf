//! What keeps a web page in the operator's browser from using the API that listens beside it.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header, uri::Authority};

use super::{Api, Problem};

/// Refuses requests that were not meant for this server, or come from another origin's page.
///
/// The `Host` must be this machine by a loopback name: a page whose own name was rebound to
/// 127.0.0.1 sends its own name. An `Origin`, when the browser sends one, must be this host.
pub(super) async fn same_origin(State(api): State<Api>, request: Request, next: Next) -> Response {
    match refusal(&api, request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(api: &Api, headers: &HeaderMap) -> Option<Problem> {
    let named = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let authority = |text: &str| text.parse::<Authority>().ok();
    let host = named(header::HOST).and_then(authority);
    if !host.as_ref().is_some_and(|host| is_local(host, api)) {
        let detail = format!("the Host header must be {} or localhost with that port", api.address);
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let origin = named(header::ORIGIN)?;
    let from = origin.strip_prefix("http://").and_then(authority);
    let foreign = from.is_none() || from != host;
    foreign.then(|| Problem::new(StatusCode::FORBIDDEN, "this Origin may not use the API"))
}

fn is_local(host: &Authority, api: &Api) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback && host.port_u16().unwrap_or(80) == api.address.port()
}
