//! The API: one file a resource.

mod events;
mod guard;
mod health;
mod log;
mod problem;
mod results;
mod services;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{any, get, post},
};
use healthmon_core::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use problem::Problem;

use crate::hub::Hub;

/// The largest request body: settings with a probe's body of 64 KiB fit several times.
const BODY_LIMIT: usize = 256 * 1024;

/// WebSocket clients at once.
const CLIENTS: usize = 10_000;

/// What the routes work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) handle: Handle,
    pub(crate) hub: Arc<Hub>,
    pub(crate) address: SocketAddr,
    pub(crate) closing: CancellationToken,
    pub(crate) tasks: TaskTracker,
    /// Places for WebSocket clients.
    pub(crate) places: Arc<Semaphore>,
}

impl Api {
    pub(crate) fn new(
        handle: Handle,
        hub: Arc<Hub>,
        address: SocketAddr,
        closing: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self { handle, hub, address, closing, tasks, places: Arc::new(Semaphore::new(CLIENTS)) }
    }
}

/// Every route of the server.
pub(crate) fn router(api: Api) -> Router {
    let v1 = Router::new()
        .route("/services", get(services::list).post(services::register))
        .route("/services/{id}", get(services::read).patch(services::patch).delete(services::delete))
        .route("/services/{id}/pause", post(services::pause))
        .route("/services/{id}/resume", post(services::resume))
        .route("/services/{id}/probe", post(services::probe))
        .route("/services/{id}/results", get(results::list))
        .route("/services/{id}/transitions", get(log::of_service))
        .route("/transitions", get(log::list))
        .route("/events", get(events::upgrade))
        .fallback(any(problem::no_route))
        .method_not_allowed_fallback(problem::no_method);
    Router::new()
        .nest("/api/v1", v1)
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .fallback(any(problem::no_route))
        .method_not_allowed_fallback(problem::no_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(api.clone(), guard::same_origin))
        .with_state(api)
}
