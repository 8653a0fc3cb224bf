//! Puts monitor and API together, and runs them until told to stop.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use axum::extract::ConnectInfo;
use healthmon_adapters::{
    heartbeat::HeartbeatProber,
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback, tls::TlsSetupError},
};
use healthmon_core::{
    ports::{Clock, StoreError},
    runtime::{BuildError, Handle, Monitor, Role, RunError, clock::SystemClock},
};
use hyper::service::{Service, service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    assembly::Backends,
    auth::Gate,
    cluster::{self, NodeReport},
    config::{ConfigError, ServerRole},
    heartbeats::Intake,
    http::{self, Api, router},
    hub::Hub,
};

/// Connections to the API at once; more wait to be accepted.
const CONNECTIONS: usize = 16_384;
/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long connections may take to end after the monitor has.
const CLOSING: Duration = Duration::from_secs(2);

/// Why the server cannot start, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A setting is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address is taken, or not this machine's.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What was wrong.
        source: std::io::Error,
    },
    /// The database cannot be opened.
    #[error("cannot open the database {name}: {source}")]
    Database {
        /// The file, or the kind of server.
        name: String,
        /// What was wrong.
        source: StoreError,
    },
    /// Redis cannot be used.
    #[error("cannot use Redis: {source}")]
    Redis {
        /// What was wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The prober cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// The monitor cannot be put together.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The monitor stopped by itself.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// A server that listens already, but does nothing yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    monitor: Monitor,
    backends: Backends,
    name: Arc<str>,
    report: NodeReport,
    roles: BTreeSet<ServerRole>,
    access: Arc<Gate>,
    history: Duration,
}

impl Server {
    /// Opens the database, puts the monitor together and binds the API's address.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        config.check()?;
        let access = Arc::new(Gate::new(config.access.clone()).map_err(ConfigError::from)?);
        // Before anything is counted.
        http::metrics::recorder();
        let listen = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let name: Arc<str> = config.node.clone().unwrap_or_else(|| format!("{}:{}", host(), address.port())).into();
        let report = NodeReport::new(&config.roles, &config.region, address, SystemClock::new().now());
        let backends = Backends::open(&config, &name, &report.to_json()).await?;
        // Whoever can ask a server that listens on loopback for a probe of it could reach it anyway.
        let loopback = if address.ip().is_loopback() { Loopback::Allowed } else { Loopback::Refused };
        let dialer = Arc::new(Dialer::new(AddressPolicy::new(loopback)));
        let prober = HttpProber::new(HttpProberConfig { dialer, ..HttpProberConfig::default() })?;
        let mut builder = Monitor::builder()
            .store(Arc::clone(&backends.store))
            .queue(Arc::clone(&backends.queue))
            .scheduler(Arc::clone(&backends.scheduler))
            .broadcaster(Arc::clone(&backends.broadcaster))
            .clock(Arc::clone(&backends.clock) as Arc<dyn Clock>)
            .prober(Arc::new(prober))
            .prober(Arc::new(HeartbeatProber::new(Arc::clone(&backends.heartbeats))))
            .tuning(config.tuning)
            .regions(config.known_regions())
            .name(&name);
        if let Some(nodes) = &backends.nodes {
            builder = builder.node(nodes.number().await);
        }
        let (history, monitor, roles) = (config.history(), builder.build()?, config.roles);
        Ok(Self { listener, address, monitor, backends, name, report, roles, access, history })
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may use the API: it can be replaced while the server runs.
    pub fn access(&self) -> Arc<Gate> {
        Arc::clone(&self.access)
    }

    /// What registers, pauses, lists and queries.
    pub fn handle(&self) -> Handle {
        self.monitor.handle()
    }

    /// Runs until `stop` resolves, then drains: probes under way, results on their way, clients.
    ///
    /// # Errors
    /// When the monitor stopped by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { listener, address, monitor, backends, name, report, roles, access, history } = self;
        let (closing, tasks, handle) = (CancellationToken::new(), TaskTracker::new(), monitor.handle());
        let hub = Arc::new(Hub::new(handle.clone()));
        if roles.contains(&ServerRole::Api) {
            tasks.spawn(Arc::clone(&hub).follow(closing.clone()));
        }
        tasks.spawn(http::metrics::upkeep(closing.clone()));
        if let Some(nodes) = &backends.nodes {
            let clock = Arc::clone(&backends.clock);
            tasks.spawn(cluster::report(Arc::clone(nodes), report.clone(), handle.clone(), clock, closing.clone()));
        }
        let played: Vec<Role> = roles.iter().filter_map(|role| role.of_monitor()).collect();
        let (intake, taking_in) = Intake::new(Arc::clone(&backends.heartbeats), handle.clone());
        if roles.contains(&ServerRole::Api) {
            // Ends with the last request, that none is left without an answer.
            tasks.spawn(taking_in);
        }
        let api = Api {
            handle,
            heartbeats: Arc::new(intake),
            hub,
            access,
            address,
            history,
            name,
            report: Arc::new(report),
            roles: Arc::new(roles),
            nodes: backends.nodes.clone(),
            closing: closing.clone(),
            tasks: tasks.clone(),
            places: Api::places(),
        };
        let shown: Vec<_> = api.roles.iter().map(|role| role.as_str()).collect();
        tracing::info!(url = %format_args!("http://{address}/api/v1/services"), roles = %shown.join(","), "listening");
        tasks.spawn(accept(listener, api, closing.clone(), tasks.clone()));
        let ended = monitor.run_roles(&played, stop).await;
        // The last transitions are out; now clients are told to come back later.
        closing.cancel();
        tasks.close();
        if tokio::time::timeout(CLOSING, tasks.wait()).await.is_err() {
            tracing::debug!(tasks = tasks.len(), "clients were cut off");
        }
        backends.close().await;
        tracing::info!("stopped");
        Ok(ended?)
    }
}

/// This machine's name.
fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "node".to_owned(), |name| name.trim().to_owned())
}

/// Accepts clients until closing, each in a task of its own.
async fn accept(listener: TcpListener, api: Api, closing: CancellationToken, tasks: TaskTracker) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let app = TowerToHyperService::new(router(api));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = closing.cancelled() => return,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of sockets, most likely: others will end.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let (app, closing) = (app.clone(), closing.clone());
        let app = service_fn(move |mut request| {
            request.extensions_mut().insert(ConnectInfo(peer));
            app.call(request)
        });
        tasks.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(64 * 1024)
                .serve_connection(TokioIo::new(stream), app)
                .with_upgrades();
            tokio::pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = closing.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a client's connection ended");
            }
            drop(place);
        });
    }
}
