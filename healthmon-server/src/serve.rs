//! Puts monitor and API together, and runs them until told to stop.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use healthmon_adapters::{heartbeat::HeartbeatProber, secrets::SealingKeys};
use healthmon_core::{
    ports::{Clock, StoreError},
    runtime::{BuildError, Handle, Monitor, Role, RunError, Tuning, clock::SystemClock},
    service::Regions,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config,
    accept::accept,
    assembly::Backends,
    auth::Gate,
    cluster::{self, NodeReport},
    config::{ConfigError, ServerRole},
    heartbeats::Intake,
    http::{self, Api, Condition},
    hub::Hub,
    probers, survey,
};

/// How long connections may take to end after the monitor has, and then the database's.
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
    /// A prober cannot be set up.
    #[error(transparent)]
    Probers(#[from] probers::SetupError),
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
    keys: Option<SealingKeys>,
    regions: Regions,
}

impl Server {
    /// Opens the database, puts the monitor together and binds the API's address.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn bind(config: Config) -> Result<Self, ServeError> {
        config.check()?;
        let (secrets, keys) = (config.secrets.secrets(), config.secrets.sealing_keys());
        let (secrets, keys) = (secrets.map_err(ConfigError::from)?, keys.map_err(ConfigError::from)?);
        let access = Arc::new(Gate::new(config.access.clone()).map_err(ConfigError::from)?);
        // Before anything is counted.
        http::metrics::recorder();
        let listen = |source| ServeError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let name: Arc<str> = config.node.clone().unwrap_or_else(|| format!("{}:{}", host(), address.port())).into();
        let report = NodeReport::new(&config.roles, &config.region, address, SystemClock::new().now());
        let backends = Backends::open(&config, &name, &report.to_json()).await?;
        let dialer = config.probing.dialer(config.address_policy(address)).map_err(ConfigError::from)?;
        let shared = probers::Shared { dialer: Arc::new(dialer), secrets };
        let tuning = Tuning { per_host: config.probing.per_host, ..config.tuning };
        let mut builder = Monitor::builder()
            .store(Arc::clone(&backends.store))
            .queue(Arc::clone(&backends.queue))
            .scheduler(Arc::clone(&backends.scheduler))
            .broadcaster(Arc::clone(&backends.broadcaster))
            .clock(Arc::clone(&backends.clock) as Arc<dyn Clock>)
            .tuning(tuning)
            .regions(config.known_regions()?)
            .name(&name);
        for prober in probers::build(&shared)? {
            builder = builder.prober(prober);
        }
        builder = builder.prober(Arc::new(HeartbeatProber::new(Arc::clone(&backends.heartbeats))));
        if let Some(canary) = config.probing.canary().map_err(ConfigError::from)? {
            builder = builder.canary(canary);
        }
        if let Some(nodes) = &backends.nodes {
            builder = builder.node(nodes.number().await);
        }
        let (history, monitor, regions, roles) =
            (config.history(), builder.build()?, config.usual_regions(), config.roles);
        Ok(Self { listener, address, monitor, backends, name, report, roles, access, history, keys, regions })
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may use the API: it can be replaced while the server runs.
    pub fn access(&self) -> Arc<Gate> {
        Arc::clone(&self.access)
    }

    /// From where services are probed that do not say it.
    pub fn regions(&self) -> Regions {
        self.regions.clone()
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
        let Self { listener, address, monitor, backends, name, report, roles, access, history, keys, regions } = self;
        let (closing, tasks, handle) = (CancellationToken::new(), TaskTracker::new(), monitor.handle());
        // Whoever asks, and however many: the monitor's own work has connections of its own.
        let asked = backends.api_store.as_ref().map_or_else(|| handle.clone(), |store| handle.over(Arc::clone(store)));
        let hub = Arc::new(Hub::new(handle.clone(), asked.clone()));
        if roles.contains(&ServerRole::Api) {
            tasks.spawn(Arc::clone(&hub).follow(closing.clone()));
            tasks.spawn(survey::warn(handle.clone(), keys.clone(), closing.clone()));
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
            condition: Arc::new(Condition::of(handle)),
            handle: asked,
            heartbeats: Arc::new(intake),
            hub,
            access,
            address,
            keys,
            regions,
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
        // What is left there goes by itself.
        if tokio::time::timeout(CLOSING, backends.close()).await.is_err() {
            tracing::warn!("the database did not let go in time");
        }
        tracing::info!("stopped");
        Ok(ended?)
    }
}

/// This machine's name. It is asked for, not read from `/proc`, of which systemd may hide that part:
/// then all nodes would be called the same.
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".to_owned() } else { name }
}
