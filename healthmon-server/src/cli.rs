//! The command line.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use healthmon_adapters::sqlite::Durability;
use healthmon_core::{runtime::Tuning, time::span};

use crate::Config;

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
    /// Probe a URL once, show where the time went, and exit
    ///
    /// Exit status: 0 passed, 1 failed, 2 wrong usage, 3 nothing learnt about the target.
    Check(CheckArgs),
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
    /// Address and port of the API; loopback only, until there is authentication
    #[arg(long, default_value = "127.0.0.1:8080", env = "HEALTHMON_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// The database file; made if it is missing
    #[arg(long, default_value = "healthmon.db", env = "HEALTHMON_DATABASE", value_name = "FILE")]
    pub database: PathBuf,
    /// Acknowledge commits before they are on the disk: faster, and a power cut may lose the last
    /// moments
    #[arg(long, env = "HEALTHMON_FAST_COMMITS")]
    pub fast_commits: bool,
    /// How long results are kept
    #[arg(long, default_value = "30days", env = "HEALTHMON_RETENTION", value_parser = span::parse, value_name = "SPAN")]
    pub retention: Duration,
    /// How many probes may be under way at once
    #[arg(long, default_value = "4096", env = "HEALTHMON_CONCURRENCY", value_name = "COUNT")]
    pub concurrency: NonZeroUsize,
    /// How long passing results wait to be committed together; failures do not wait
    #[arg(long, default_value = "250ms", env = "HEALTHMON_LINGER", value_parser = span::parse, value_name = "SPAN")]
    pub linger: Duration,
    /// How long probes under way may go on after SIGTERM
    #[arg(long, default_value = "10s", env = "HEALTHMON_DRAIN", value_parser = span::parse, value_name = "SPAN")]
    pub drain: Duration,
}

impl ServeArgs {
    /// The settings these arguments make.
    pub fn to_config(&self) -> Config {
        Config {
            listen: self.listen,
            database: self.database.clone(),
            durability: if self.fast_commits { Durability::Crash } else { Durability::PowerCut },
            retention: self.retention,
            tuning: Tuning {
                concurrency: self.concurrency,
                record_linger: self.linger,
                drain: self.drain,
                ..Tuning::default()
            },
        }
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

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// What to probe: an http:// or https:// URL
    #[arg(value_name = "URL")]
    pub url: String,
    /// How long it may take
    #[arg(long, default_value = "10s", value_parser = span::parse, value_name = "SPAN")]
    pub timeout: Duration,
    /// The statuses that pass, such as 200-299 or 401
    #[arg(long, value_name = "STATUS")]
    pub expect_status: Vec<String>,
    /// A text that the body must contain
    #[arg(long, value_name = "TEXT")]
    pub expect_body: Option<String>,
    /// Print one JSON object instead
    #[arg(long)]
    pub json: bool,
}
