//! Puts monitor and API together, and runs them until told to stop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::extract::ConnectInfo;
use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback, tls::TlsSetupError},
    sqlite::{SqliteOptions, SqliteResultStore},
};
use healthmon_core::{
    ports::{Clock, ResultStore, StoreError},
    runtime::{BuildError, Handle, Monitor, RunError, clock::SystemClock},
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
    auth::Gate,
    config::{ConfigError, Database},
    http::{Api, router},
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
    #[error("cannot open the database {path}: {source}")]
    Database {
        /// The file.
        path: String,
        /// What was wrong.
        source: StoreError,
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
    store: Arc<SqliteResultStore>,
    access: Arc<Gate>,
}

impl Server {
    /// Opens the database, puts the monitor together and binds the API's address.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        config.check()?;
        let access = Arc::new(Gate::new(config.access.clone()).map_err(ConfigError::from)?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let Database::File(path) = &config.database else { unimplemented!("PostgreSQL comes with the next change") };
        let options =
            SqliteOptions { durability: config.durability, retention: config.retention, ..SqliteOptions::new(path) };
        let database = |source| ServeError::Database { path: path.display().to_string(), source };
        let store = Arc::new(SqliteResultStore::open(options, Arc::clone(&clock)).await.map_err(database)?);
        // The API listens on loopback only, so whoever can ask for a probe of it could reach it anyway.
        let dialer = Arc::new(Dialer::new(AddressPolicy::new(Loopback::Allowed)));
        let prober = HttpProber::new(HttpProberConfig { dialer, ..HttpProberConfig::default() })?;
        let monitor = Monitor::builder()
            .store(Arc::clone(&store) as Arc<dyn ResultStore>)
            .prober(Arc::new(prober))
            .clock(clock)
            .tuning(config.tuning)
            .build()?;
        let listen = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, monitor, store, access })
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
        let closing = CancellationToken::new();
        let tasks = TaskTracker::new();
        let hub = Arc::new(Hub::new(self.monitor.handle()));
        tasks.spawn(Arc::clone(&hub).follow(closing.clone()));
        let api = Api::new(self.monitor.handle(), hub, self.access, self.address, closing.clone(), tasks.clone());
        tasks.spawn(accept(self.listener, api, closing.clone(), tasks.clone()));
        tracing::info!(url = %format_args!("http://{}/api/v1/services", self.address), "listening");
        let ended = self.monitor.run(stop).await;
        // The last transitions are out; now clients are told to come back later.
        closing.cancel();
        tasks.close();
        if tokio::time::timeout(CLOSING, tasks.wait()).await.is_err() {
            tracing::debug!(tasks = tasks.len(), "clients were cut off");
        }
        self.store.close().await;
        tracing::info!("stopped");
        Ok(ended?)
    }
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
