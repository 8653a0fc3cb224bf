//! The API: one file a resource.

mod cluster;
mod events;
mod guard;
mod health;
mod heartbeats;
mod log;
pub(crate) mod metrics;
mod problem;
mod query;
mod reasons;
mod results;
mod routes;
pub(crate) mod secrets;
mod services;
mod uptime;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::any};
use healthmon_adapters::{postgres::PostgresNodes, secrets::SealingKeys};
use healthmon_core::{runtime::Handle, service::Regions};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use health::Condition;
pub(crate) use problem::Problem;
pub use routes::{Need, Route};

use self::{guard::Guard, routes::Routes};
use crate::{
    auth::{AccessRole, Gate},
    cluster::NodeReport,
    config::ServerRole,
    heartbeats::Intake,
    hub::Hub,
};

/// The largest request body: settings with a probe's body of 64 KiB fit several times.
const BODY_LIMIT: usize = 256 * 1024;

/// WebSocket clients at once.
const CLIENTS: usize = 10_000;

/// What the routes work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) handle: Handle,
    /// Takes in what services say of themselves.
    pub(crate) heartbeats: Arc<Intake>,
    pub(crate) hub: Arc<Hub>,
    /// Knows who may use the API.
    pub(crate) access: Arc<Gate>,
    pub(crate) address: SocketAddr,
    /// What secrets are sealed with, if with anything.
    pub(crate) keys: Option<SealingKeys>,
    /// From where services are probed that do not say it.
    pub(crate) regions: Regions,
    /// How far back it can be told how a service did.
    pub(crate) history: Duration,
    /// What this process is called, and what it says of itself.
    pub(crate) name: Arc<str>,
    pub(crate) report: Arc<NodeReport>,
    /// The parts it plays.
    pub(crate) roles: Arc<BTreeSet<ServerRole>>,
    /// What it needs, as it last answered.
    pub(crate) condition: Arc<Condition>,
    /// The list of processes, where there are several.
    pub(crate) nodes: Option<Arc<PostgresNodes>>,
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Places for WebSocket clients.
    pub(crate) places: Arc<Semaphore>,
}

impl Api {
    /// Places for WebSocket clients.
    pub(crate) fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CLIENTS))
    }
}

/// The routes of every process, whatever its roles, with what each takes.
fn of_any_process() -> Routes {
    Routes::default().get("/livez", Need::Open, health::live).get("/readyz", Need::Open, health::ready).get(
        "/metrics",
        Need::Metrics,
        metrics::read,
    )
}

/// Every route of the server, with what it takes.
fn declared() -> Routes {
    const VIEWER: Need = Need::Role(AccessRole::Viewer);
    const EDITOR: Need = Need::Role(AccessRole::Editor);
    of_any_process()
        .get("/api/v1/cluster", VIEWER, cluster::read)
        .get("/api/v1/reasons", VIEWER, reasons::list)
        .get("/api/v1/services", VIEWER, services::list)
        .post("/api/v1/services", EDITOR, services::register)
        .get("/api/v1/services/{id}", VIEWER, services::read)
        .patch("/api/v1/services/{id}", EDITOR, services::patch)
        .delete("/api/v1/services/{id}", EDITOR, services::delete)
        .post("/api/v1/services/{id}/pause", EDITOR, services::pause)
        .post("/api/v1/services/{id}/resume", EDITOR, services::resume)
        .post("/api/v1/services/{id}/probe", EDITOR, services::probe)
        .post("/api/v1/services/{id}/heartbeat-token", EDITOR, heartbeats::renew)
        .get("/api/v1/services/{id}/results", VIEWER, results::list)
        .get("/api/v1/services/{id}/uptime", VIEWER, uptime::read)
        .get("/api/v1/services/{id}/transitions", VIEWER, log::of_service)
        .get("/api/v1/transitions", VIEWER, log::list)
        .get("/api/v1/events", VIEWER, events::upgrade)
        // By GET too, for programs that can do no more.
        .get("/api/v1/heartbeats/{token}", Need::Token, heartbeats::plain)
        .post("/api/v1/heartbeats/{token}", Need::Token, heartbeats::plain)
        .get("/api/v1/heartbeats/{token}/{report}", Need::Token, heartbeats::with_report)
        .post("/api/v1/heartbeats/{token}/{report}", Need::Token, heartbeats::with_report)
}

/// Every route of the server, with what it takes to use it.
///
/// ```
/// use healthmon_server::{Need, routes};
///
/// let open: Vec<_> = routes().into_iter().filter(|route| route.need == Need::Open).collect();
/// assert!(open.iter().all(|route| route.path == "/livez" || route.path == "/readyz"));
/// ```
pub fn routes() -> Vec<Route> {
    declared().into_parts().1.into_routes()
}

/// The API.
pub(crate) fn router(api: Api) -> Router {
    let routes = if api.roles.contains(&ServerRole::Api) { declared() } else { of_any_process() };
    let (router, table) = routes.into_parts();
    let guard = Arc::new(Guard { access: Arc::clone(&api.access), address: api.address, table });
    router
        .fallback(any(problem::no_route))
        .method_not_allowed_fallback(problem::no_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(guard, guard::admit))
        .with_state(api)
}
