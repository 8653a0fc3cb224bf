//! What the server is told, and what it makes of it.

mod probing;

use std::{
    collections::BTreeSet, convert::Infallible, fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use healthmon_adapters::{
    net::{AddressPolicy, NameServersError},
    sqlite::Durability,
};
use healthmon_core::{
    id::Region,
    runtime::{InvalidCanary, Role, Tuning},
    service::{InvalidRegions, Regions},
    shard::ShardCount,
};

pub use probing::{ProbingSettings, SecretSettings, SecretSettingsError};

use crate::auth::{AccessError, AccessSettings, Anonymous};

/// Connections to PostgreSQL, of either kind.
const CONNECTIONS: NonZeroU32 = NonZeroU32::new(8).unwrap();

/// The server's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API listens; beyond loopback only with tokens or users.
    pub listen: SocketAddr,
    /// Who may use the API.
    pub access: AccessSettings,
    /// What probes may reach.
    pub probing: ProbingSettings,
    /// Where secrets of services are found, and how they are kept.
    pub secrets: SecretSettings,
    /// The database.
    pub database: Database,
    /// Where to migrate the schema, when the database URL goes through a connection pooler.
    pub migrations_url: Option<Secret>,
    /// What carries probes to workers and results back.
    pub queue: Queue,
    /// The parts that this process plays.
    pub roles: BTreeSet<ServerRole>,
    /// Where this process's workers stand.
    pub region: Region,
    /// The regions that services may be probed from; none: this process's own.
    pub regions: Vec<Region>,
    /// How many connections to PostgreSQL scheduling, probing and recording take at most.
    pub connections: NonZeroU32,
    /// How many more requests and WebSocket clients take at most: however many there are, they are
    /// not in the way of the others.
    pub api_connections: NonZeroU32,
    /// Into how many shards services are cut; none: as the deployment has it, or 64.
    pub shards: Option<ShardCount>,
    /// What this process is called; none: the host's name.
    pub node: Option<String>,
    /// When a commit counts as done (SQLite).
    pub durability: Durability,
    /// How long results are kept.
    pub retention: Duration,
    /// How long the sums of whole hours are kept, beyond the results themselves (PostgreSQL).
    pub rollup_retention: Duration,
    /// The monitor's numbers.
    pub tuning: Tuning,
}

/// A text that may hold a password: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whom it is meant.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where services, states, results and the log are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// In one SQLite file: one process.
    File(PathBuf),
    /// In PostgreSQL: any number of processes.
    Postgres(Secret),
}

impl FromStr for Database {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres(text.into())),
            Some((scheme, _)) => Err(format!("{scheme}:// is no database; give a file, or a postgres:// URL")),
            None if text.is_empty() => Err("must be a file or a postgres:// URL".to_owned()),
            None => Ok(Self::File(text.into())),
        }
    }
}

/// What carries probes to workers and results back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queue {
    /// This process's memory.
    Memory,
    /// The database that the store is in.
    Postgres,
    /// Redis Streams.
    Redis(Secret),
}

impl FromStr for Queue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("://") {
            None if text == "memory" => Ok(Self::Memory),
            None if text == "postgres" => Ok(Self::Postgres),
            Some(("redis" | "rediss" | "valkey" | "valkeys", _)) => Ok(Self::Redis(text.into())),
            _ => Err("must be memory, postgres, or a redis:// or rediss:// URL".to_owned()),
        }
    }
}

/// A part that a process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum ServerRole {
    /// Says what fell due
    Scheduler,
    /// Performs probes
    Worker,
    /// Records results
    Recorder,
    /// Answers requests and tells of changes
    Api,
}

impl ServerRole {
    /// The monitor's role that it is; none for the API, which is the server's.
    pub const fn of_monitor(self) -> Option<Role> {
        match self {
            Self::Scheduler => Some(Role::Scheduler),
            Self::Worker => Some(Role::Worker),
            Self::Recorder => Some(Role::Recorder),
            Self::Api => None,
        }
    }

    /// Its name, as in `--role`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Worker => "worker",
            Self::Recorder => "recorder",
            Self::Api => "api",
        }
    }
}

impl Config {
    /// The usual settings for one process with this database file.
    pub fn new(database: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            access: AccessSettings::default(),
            probing: ProbingSettings::default(),
            secrets: SecretSettings::default(),
            database: Database::File(database.into()),
            migrations_url: None,
            queue: Queue::Memory,
            roles: ServerRole::value_variants().iter().copied().collect(),
            region: Region::default(),
            regions: Vec::new(),
            connections: CONNECTIONS,
            api_connections: CONNECTIONS,
            shards: None,
            node: None,
            durability: Durability::default(),
            retention: Duration::from_hours(30 * 24),
            rollup_retention: Duration::from_hours(400 * 24),
            tuning: Tuning::default(),
        }
    }

    /// The regions that services may be probed from.
    ///
    /// # Errors
    /// When those that are given are too many, or one is given twice.
    pub fn known_regions(&self) -> Result<Regions, ConfigError> {
        let given = if self.regions.is_empty() { vec![self.region.clone()] } else { self.regions.clone() };
        Regions::new(given).map_err(ConfigError::Regions)
    }

    /// From where services are probed that do not say it: from this process's region, if services
    /// may be, or else from the first that is given.
    pub fn usual_regions(&self) -> Regions {
        let first = self.regions.first().filter(|_| !self.regions.contains(&self.region));
        let usual = first.unwrap_or(&self.region).clone();
        // One region is always a list of regions.
        Regions::new(vec![usual]).unwrap_or_default()
    }

    /// Which addresses workers may dial when the API listens at `listen`.
    pub fn address_policy(&self, listen: SocketAddr) -> AddressPolicy {
        self.probing.policy(probing::loopback(&self.database, listen.ip()))
    }

    /// How far back it can be told how a service did.
    pub(crate) fn history(&self) -> Duration {
        match self.database {
            Database::File(_) => self.retention,
            Database::Postgres(_) => self.retention.max(self.rollup_retention),
        }
    }

    /// Checks what no type can.
    ///
    /// # Errors
    /// What does not fit together, and what would.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.access.check()?;
        let asks_nobody = !self.access.is_authenticated() && self.access.anonymous == Anonymous::Refused;
        if asks_nobody && !self.listen.ip().is_loopback() {
            return Err(ConfigError::BeyondLoopback(self.listen));
        }
        self.known_regions()?;
        let elsewhere = !self.regions.is_empty() && !self.regions.contains(&self.region);
        if elsewhere && self.roles.contains(&ServerRole::Worker) {
            return Err(ConfigError::IdleWorkers(self.region.clone()));
        }
        self.secrets.secrets()?;
        self.probing.canary()?;
        self.probing.dialer(AddressPolicy::default())?;
        let all = ServerRole::value_variants();
        if let Some(missing) = all.iter().find(|role| !self.roles.contains(role))
            && self.queue == Queue::Memory
        {
            return Err(ConfigError::RolesApart(missing.as_str()));
        }
        match (&self.database, &self.queue) {
            (Database::File(_), Queue::Postgres | Queue::Redis(_)) => Err(ConfigError::FileAndSharedQueue),
            (Database::Postgres(_), Queue::Memory) => Err(ConfigError::SharedDatabaseAndMemory),
            _ => Ok(()),
        }
    }
}

/// Settings that the server refuses to start with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Anyone who could reach the API could make this machine probe anything.
    #[error(
        "--listen {0} is beyond loopback, where anyone could have this machine probe anything: name users or tokens \
         in the settings (`healthmon auth new-token` prints one), or say --allow-anonymous"
    )]
    BeyondLoopback(SocketAddr),
    /// It is not clear who may do what.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Secrets cannot be found or kept so.
    #[error(transparent)]
    Secrets(#[from] SecretSettingsError),
    /// The canary is none.
    #[error("--canary {0}")]
    Canary(#[from] InvalidCanary),
    /// The name servers are none.
    #[error("--probe-resolver {0}")]
    Resolver(#[from] NameServersError),
    /// The regions are none.
    #[error("--regions {0}")]
    Regions(InvalidRegions),
    /// No service could be probed by this process's workers.
    #[error(
        "--region {0} is not among --regions, so this process's workers would have nothing to do; say --region with \
         one of those, or leave worker out of --role"
    )]
    IdleWorkers(Region),
    /// A queue in memory is one process's.
    #[error(
        "--role leaves out {0}, but a queue in memory needs every role in this process; give --queue postgres or redis://…"
    )]
    RolesApart(&'static str),
    /// A file is one process's.
    #[error(
        "--queue is shared, but --database is a file, which is one process's; give a postgres:// URL, or --queue memory"
    )]
    FileAndSharedQueue,
    /// With a shared database another process would schedule the same services.
    #[error(
        "--database is PostgreSQL, which processes share; --queue memory is one process's: give postgres or a redis:// URL"
    )]
    SharedDatabaseAndMemory,
}
