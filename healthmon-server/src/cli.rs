//! The command line.

mod access;
mod probing;

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use healthmon_adapters::sqlite::Durability;
use healthmon_core::{
    id::Region,
    runtime::Tuning,
    shard::{InvalidShardCount, ShardCount},
    time::span,
};

pub use access::{AccessArgs, AuthCommand, HashPasswordArgs, NewTokenArgs};
pub use probing::{LoopbackRule, ProbingArgs, SecretArgs};

use crate::{
    Config,
    config::{ConfigError, Database, Queue, Secret, ServerRole},
};

/// Monitors the health of services: probes them on schedule, records every result, decides UP and
/// DOWN by thresholds, and tells of changes as they happen.
#[derive(Debug, Parser)]
#[command(name = "healthmon", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the monitor and its API
    Serve(ServeArgs),
    /// Run the monitor and its API, watching these URLs
    ///
    /// Services that are registered already stay; a URL that is already watched is not registered
    /// twice.
    Watch(WatchArgs),
    /// Probe a URL once, show all that is of interest, and exit
    ///
    /// Exit status: 0 passed, 1 failed, 2 wrong usage, 3 nothing learnt about the target.
    Check(CheckArgs),
    /// Say for which reasons probes do not pass, and what to look at
    Reasons,
    /// Show the deployment: its processes, who schedules what, how late they are
    Cluster(ClusterArgs),
    /// Make what the settings say of users and tokens
    #[command(subcommand)]
    Auth(AuthCommand),
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How logs look
    #[arg(long, global = true, value_enum, default_value = "text", env = "HEALTHMON_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or filters such as healthmon_core=debug
    #[arg(long, global = true, default_value = "info", env = "HEALTHMON_LOG", value_name = "FILTER")]
    pub log: String,
}

/// Settings of the server.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address and port of the API; beyond loopback only with tokens or users
    #[arg(long, default_value = "127.0.0.1:8080", env = "HEALTHMON_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// The database: a file for SQLite, made if it is missing, or a postgres:// URL
    #[arg(
        long,
        default_value = "healthmon.db",
        env = "HEALTHMON_DATABASE",
        hide_env_values = true,
        value_name = "FILE|URL"
    )]
    pub database: Database,
    /// Where to migrate the schema, when the database URL goes through a connection pooler
    #[arg(long, env = "HEALTHMON_MIGRATIONS_URL", hide_env_values = true, value_name = "URL")]
    pub migrations_url: Option<Secret>,
    /// What carries probes to workers: memory, postgres, or a redis:// URL; memory with a file,
    /// postgres with PostgreSQL, if not given
    #[arg(long, env = "HEALTHMON_QUEUE", hide_env_values = true, value_name = "QUEUE")]
    pub queue: Option<Queue>,
    /// The parts this process plays
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "scheduler,worker,recorder,api",
        env = "HEALTHMON_ROLE"
    )]
    pub role: Vec<ServerRole>,
    /// Where this process's workers stand
    #[arg(long, default_value = "local", env = "HEALTHMON_REGION", value_parser = Region::new)]
    pub region: Region,
    /// The regions that services may be probed from; this process's own, if not given. A service
    /// that names none is probed from this process's, or from the first of these
    #[arg(long, value_delimiter = ',', env = "HEALTHMON_REGIONS", value_name = "REGION", value_parser = Region::new)]
    pub regions: Vec<Region>,
    /// How many connections to PostgreSQL scheduling, probing and recording take at most
    #[arg(long, default_value = "8", env = "HEALTHMON_CONNECTIONS", value_name = "COUNT")]
    pub connections: NonZeroU32,
    /// How many more requests and WebSocket clients take at most, of a process with the role api
    #[arg(long, default_value = "8", env = "HEALTHMON_API_CONNECTIONS", value_name = "COUNT")]
    pub api_connections: NonZeroU32,
    /// Into how many shards services are cut: settled when the deployment begins; 64, if not given
    #[arg(long, env = "HEALTHMON_SHARDS", value_name = "COUNT", value_parser = shard_count)]
    pub shards: Option<ShardCount>,
    /// What this process is called; the host's name, if not given
    #[arg(long, env = "HEALTHMON_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// Acknowledge commits before they are on the disk (SQLite): faster, and a power cut may lose
    /// the last moments
    #[arg(long, env = "HEALTHMON_FAST_COMMITS")]
    pub fast_commits: bool,
    /// How long results are kept
    #[arg(long, default_value = "30days", env = "HEALTHMON_RETENTION", value_parser = span::parse, value_name = "SPAN")]
    pub retention: Duration,
    /// How long the sums of whole hours are kept, beyond the results themselves (PostgreSQL): uptime
    /// goes back as far
    #[arg(
        long,
        default_value = "400days",
        env = "HEALTHMON_ROLLUP_RETENTION",
        value_parser = span::parse,
        value_name = "SPAN"
    )]
    pub rollup_retention: Duration,
    /// How many probes may be under way at once
    #[arg(long, default_value = "4096", env = "HEALTHMON_CONCURRENCY", value_name = "COUNT")]
    pub concurrency: NonZeroUsize,
    /// How long passing results wait to be committed together; failures do not wait
    #[arg(long, default_value = "250ms", env = "HEALTHMON_LINGER", value_parser = span::parse, value_name = "SPAN")]
    pub linger: Duration,
    /// How long probes under way may go on after SIGTERM
    #[arg(long, default_value = "10s", env = "HEALTHMON_DRAIN", value_parser = span::parse, value_name = "SPAN")]
    pub drain: Duration,
    /// A file with settings, in YAML: flags and the environment go before it, but users and tokens
    /// may be in one place only. SIGHUP has who may use the API read from it again
    #[arg(long, env = "HEALTHMON_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What probes may reach.
    #[command(flatten)]
    pub probing: ProbingArgs,
    /// Where secrets are, and how they are kept.
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Who may use the API.
    #[command(flatten)]
    pub access: AccessArgs,
}

fn shard_count(text: &str) -> Result<ShardCount, String> {
    let count = text.parse().map_err(|_| InvalidShardCount.to_string())?;
    ShardCount::new(count).map_err(|error| error.to_string())
}

impl ServeArgs {
    /// The settings these arguments make.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn to_config(&self) -> Result<Config, ConfigError> {
        let queue = self.queue.clone().unwrap_or(match self.database {
            Database::File(_) => Queue::Memory,
            Database::Postgres(_) => Queue::Postgres,
        });
        let config = Config {
            listen: self.listen,
            access: self.access.to_settings(),
            probing: self.probing.to_settings(),
            secrets: self.secrets.to_settings(),
            database: self.database.clone(),
            migrations_url: self.migrations_url.clone(),
            queue,
            roles: self.role.iter().copied().collect(),
            region: self.region.clone(),
            regions: self.regions.clone(),
            connections: self.connections,
            api_connections: self.api_connections,
            shards: self.shards,
            node: self.node.clone(),
            durability: if self.fast_commits { Durability::Crash } else { Durability::PowerCut },
            retention: self.retention,
            rollup_retention: self.rollup_retention,
            tuning: Tuning {
                concurrency: self.concurrency,
                record_linger: self.linger,
                drain: self.drain,
                ..Tuning::default()
            },
        };
        config.check()?;
        Ok(config)
    }
}

/// What to watch.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// What to watch: http:// or https:// URLs
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
    /// How often each is probed
    #[arg(long, default_value = "10s", value_parser = span::parse, value_name = "SPAN")]
    pub interval: Duration,
    /// Settings of the server.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// Whom to ask.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// A server of the deployment that has an API; with name:password@ before the host, who asks
    #[arg(
        long,
        default_value = "http://127.0.0.1:8080",
        env = "HEALTHMON_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub url: String,
    /// A token that may look
    #[arg(long, env = "HEALTHMON_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<Secret>,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// What to probe, such as `https://example.org/health`
    #[arg(value_name = "URL")]
    pub url: String,
    /// How long it may take; 10s, if neither this nor the file says it
    #[arg(long, value_parser = span::parse, value_name = "SPAN")]
    pub timeout: Option<Duration>,
    /// The statuses that pass, such as 200-299 or 401
    #[arg(long, value_name = "STATUS")]
    pub expect_status: Vec<String>,
    /// A text that the body must contain
    #[arg(long, value_name = "TEXT")]
    pub expect_body: Option<String>,
    /// A field of the service's settings and its value, such as http.method=POST; may be repeated
    #[arg(long, short, value_name = "FIELD=VALUE")]
    pub option: Vec<String>,
    /// A file with a service's settings, in JSON as the API takes them
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// A folder with secrets that the settings refer to as {"file": "…"}
    #[arg(long, env = "HEALTHMON_SECRETS_DIR", value_name = "FOLDER")]
    pub secrets_dir: Option<PathBuf>,
    /// What may be reached.
    #[command(flatten)]
    pub probing: ProbingArgs,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}
