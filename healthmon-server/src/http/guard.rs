//! Who gets through to a route: what every request passes first.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority};
use tracing::Instrument;

use super::{
    Api, Problem,
    problem::no_method,
    routes::{Declared, Need, Table},
};
use crate::auth::{AccessRole, AllowedOrigin, MetricsAccess, Principal, Refused};

/// How much of a path the log shows.
const SHOWN_CHARS: usize = 200;

pub(super) struct Guard {
    pub(super) api: Api,
    pub(super) table: Table,
}

/// Lets a request through to its route, if whoever sends it may use it.
pub(super) async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    if let Some(problem) = foreign(&guard.api, request.headers()) {
        return problem.into_response();
    }
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let declared = match route.as_deref() {
        Some(route) => guard.table.of(request.method(), route),
        // Nobody but those who may look around is told what there is not.
        None => Declared::Takes(Need::Role(AccessRole::Viewer)),
    };
    let needed = match &declared {
        Declared::Takes(need) => guard.role(*need),
        Declared::OtherMethods(_) => Some(AccessRole::Viewer),
        Declared::Nothing => {
            tracing::error!(route, "a route without a declared need is refused");
            return Problem::new(StatusCode::FORBIDDEN, "nobody may use this route").into_response();
        }
    };
    let Some(needed) = needed else { return next.run(request).await };
    let peer = request
        .extensions()
        .get()
        .map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |peer: &ConnectInfo<SocketAddr>| peer.ip().to_canonical());
    let principal = match guard.api.access.principal(request.headers(), peer).await {
        Ok(principal) => principal,
        Err(refused) => {
            tracing::debug!(%peer, ?refused, method = %request.method(), route, "somebody unknown is refused");
            return unknown(refused).into_response();
        }
    };
    let audit = Audit::of(&principal, &request, route, peer);
    let response = match &declared {
        _ if principal.role < needed => lacks(&principal, needed).into_response(),
        Declared::OtherMethods(methods) => other_method(request, methods).await,
        _ => {
            request.extensions_mut().insert(principal);
            let span = tracing::info_span!("request", principal = audit.principal, method = %audit.method);
            next.run(request).instrument(span).await
        }
    };
    audit.write(response.status());
    response
}

impl Guard {
    /// The role that a route takes; none: it takes none.
    fn role(&self, need: Need) -> Option<AccessRole> {
        match need {
            Need::Open => None,
            Need::Metrics => (self.api.access.metrics() == MetricsAccess::Viewer).then_some(AccessRole::Viewer),
            Need::Role(role) => Some(role),
        }
    }
}

async fn other_method(request: Request, methods: &[Method]) -> Response {
    let (head, _) = request.into_parts();
    let mut response = no_method(head.method, head.uri).await.into_response();
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    if let Ok(allow) = HeaderValue::try_from(names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn lacks(principal: &Principal, needed: AccessRole) -> Problem {
    let (name, role) = (principal.as_str(), principal.role);
    Problem::new(StatusCode::FORBIDDEN, format!("this takes the role {needed}; {name} has the role {role}"))
}

fn unknown(refused: Refused) -> Problem {
    match refused {
        Refused::Missing => Problem::new(StatusCode::UNAUTHORIZED, "say who you are: by name and password, or a token"),
        Refused::Garbled => {
            let detail = "the Authorization header must be one, of the scheme Basic or Bearer, and well-formed";
            Problem::new(StatusCode::UNAUTHORIZED, detail)
        }
        Refused::Wrong => {
            Problem::new(StatusCode::UNAUTHORIZED, "there is no such user with this password, or no such token")
        }
        Refused::TooOften(wait) => {
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "passwords were tried too often");
            problem.retry_after(wait.as_secs() + 1)
        }
        Refused::Busy => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many passwords are being checked");
            problem.retry_after(1)
        }
    }
}

/// What the log says of a request that changes something.
struct Audit {
    principal: String,
    role: AccessRole,
    method: Method,
    route: Option<String>,
    path: String,
    peer: IpAddr,
}

impl Audit {
    fn of(principal: &Principal, request: &Request, route: Option<String>, peer: IpAddr) -> Self {
        let (principal, role) = (principal.as_str().to_owned(), principal.role);
        let path = request.uri().path().chars().take(SHOWN_CHARS).collect();
        Self { principal, role, method: request.method().clone(), route, path, peer }
    }

    fn write(&self, status: StatusCode) {
        if self.method.is_safe() {
            return;
        }
        let Self { principal, role, method, route, path, peer } = self;
        let outcome = if status.is_success() { "done" } else { "refused" };
        let status = status.as_u16();
        let route = route.as_deref().unwrap_or("none");
        tracing::info!(target: "healthmon::audit", principal, %role, %method, route, path, %peer, status, outcome, "change");
    }
}

/// Refuses what was not meant for this server, or comes from another origin's page.
///
/// A browser sends a user's password along with whatever a page asks of it, so a page must be the
/// server's own, or of an origin that the settings name. Requests without an `Origin` are not from
/// scripts of pages, and no browser opens a WebSocket without one.
///
/// Where nobody is asked who they are, on loopback, the `Host` must be this machine by a loopback
/// name: a page whose own name was rebound to 127.0.0.1 sends its own name.
fn foreign(api: &Api, headers: &HeaderMap) -> Option<Problem> {
    let host = Header::of(headers, header::HOST).authority();
    let trusts_all = !api.access.is_authenticated() && api.address.ip().is_loopback();
    if trusts_all && !host.as_ref().is_some_and(|host| is_local(host, api)) {
        let detail = format!("the Host header must be {} or localhost with that port", api.address);
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
    }
    let origin = match Header::of(headers, header::ORIGIN) {
        Header::Absent => return None,
        Header::Unclear => "",
        Header::Text(origin) => origin,
    };
    let web = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let from = web.map_or(Header::Unclear, Header::Text).authority();
    let same = from.is_some() && from == host;
    let allowed = || origin.parse::<AllowedOrigin>().is_ok_and(|origin| api.access.allows_origin(&origin));
    (!same && !allowed()).then(|| Problem::new(StatusCode::FORBIDDEN, "this Origin may not use the API"))
}

/// A header that must not come twice.
enum Header<'a> {
    Absent,
    Unclear,
    Text(&'a str),
}

impl<'a> Header<'a> {
    fn of(headers: &'a HeaderMap, name: HeaderName) -> Self {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) => value.to_str().map_or(Self::Unclear, Self::Text),
            (Some(_), Some(_)) => Self::Unclear,
        }
    }

    fn authority(&self) -> Option<Authority> {
        let Self::Text(text) = self else { return None };
        text.parse().ok().filter(|_| !text.contains('@'))
    }
}

fn is_local(host: &Authority, api: &Api) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback && host.port_u16().unwrap_or(80) == api.address.port()
}
