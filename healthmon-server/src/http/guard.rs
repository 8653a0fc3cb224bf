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
    Problem,
    problem::no_method,
    routes::{Declared, Need, Table},
};
use crate::{
    auth::{AccessRole, AllowedOrigin, Gate, MetricsAccess, Principal, Refused},
    heartbeats::without_tokens,
};

/// How much of a path the log shows.
const SHOWN_CHARS: usize = 200;

pub(super) struct Guard {
    /// Knows who may use the API.
    pub(super) access: Arc<Gate>,
    /// Where the server listens.
    pub(super) address: SocketAddr,
    /// What each route takes.
    pub(super) table: Table,
}

/// Lets a request through to its route, if whoever sends it may use it.
pub(super) async fn admit(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    if let Some(problem) = guard.foreign(request.headers()) {
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
        .map_or(IpAddr::from(Ipv4Addr::UNSPECIFIED), |peer: &ConnectInfo<SocketAddr>| peer.ip());
    let peer = guard.access.client(peer, request.headers());
    let principal = match guard.access.principal(request.headers(), peer).await {
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
            Need::Open | Need::Token => None,
            Need::Metrics => (self.access.metrics() == MetricsAccess::Viewer).then_some(AccessRole::Viewer),
            Need::Role(role) => Some(role),
        }
    }

    /// Refuses what was not meant for this server, or comes from another origin's page.
    ///
    /// A browser sends a user's password along with whatever a page asks of it, so a page must be the
    /// server's own, or of an origin that the settings name. That lets its scripts open the WebSocket;
    /// what else is answered they cannot read, as nothing here answers CORS. Requests without an `Origin` are not from
    /// scripts of pages, and no browser opens a WebSocket without one.
    ///
    /// Where nobody is asked who they are, on loopback, the `Host` must be this machine by a loopback
    /// name: a page whose own name was rebound to 127.0.0.1 sends its own name.
    fn foreign(&self, headers: &HeaderMap) -> Option<Problem> {
        let host = Header::of(headers, header::HOST).authority();
        let trusts_all = !self.access.is_authenticated() && self.address.ip().is_loopback();
        if trusts_all && !host.as_ref().is_some_and(|host| is_local(host, self.address.port())) {
            let detail = format!("the Host header must be {} or localhost with that port", self.address);
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
        let allowed = || origin.parse::<AllowedOrigin>().is_ok_and(|origin| self.access.allows_origin(&origin));
        (!same && !allowed()).then(|| Problem::new(StatusCode::FORBIDDEN, "this Origin may not use the API"))
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
        let path = without_tokens(request.uri().path()).chars().take(SHOWN_CHARS).collect();
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

fn is_local(host: &Authority, port: u16) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback && host.port_u16().unwrap_or(80) == port
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;
    use crate::{
        auth::{AccessSettings, Token},
        http::routes::Routes,
    };

    fn guarded(router: Router, table: Table, settings: AccessSettings) -> TowerToHyperService<Router> {
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        let guard = Guard { access: Arc::new(Gate::new(settings).unwrap()), address, table };
        let layer = middleware::from_fn_with_state(Arc::new(guard), admit);
        TowerToHyperService::new(router.layer(layer))
    }

    fn request(method: &str, path: &str, token: Option<&Token>) -> Request {
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:8080");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        request.body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn sec_a_route_that_nobody_declared_is_refused_to_everyone() {
        let ran = async || -> &'static str { panic!("an undeclared route was run") };
        let sneaked_in = Router::new()
            .route("/declared", routing::get(async || "fine").post(ran))
            .route("/sneaked-in", routing::get(ran).post(ran));
        let token = Token::generate().unwrap();
        let entry = format!("root:admin:{}", token.hash()).parse().unwrap();
        let with_token = AccessSettings { tokens: vec![entry], ..AccessSettings::default() };
        let anonymous = AccessSettings::default();
        for (settings, token) in [(with_token, Some(&token)), (anonymous, None)] {
            let (_, table) = Routes::default().get("/declared", Need::Open, async || "").into_parts();
            let app = guarded(sneaked_in.clone(), table, settings);
            for (method, path, status) in [
                ("GET", "/declared", StatusCode::OK),
                ("POST", "/declared", StatusCode::METHOD_NOT_ALLOWED),
                ("GET", "/sneaked-in", StatusCode::FORBIDDEN),
                ("HEAD", "/sneaked-in", StatusCode::FORBIDDEN),
                ("POST", "/sneaked-in", StatusCode::FORBIDDEN),
            ] {
                let response = app.call(request(method, path, token)).await.unwrap();
                assert_eq!(response.status(), status, "{method} {path}");
            }
        }
    }
}
