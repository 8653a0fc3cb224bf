//! What the server is told, and what it makes of it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use healthmon_adapters::sqlite::Durability;
use healthmon_core::runtime::Tuning;

/// The server's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API listens. Loopback only, until there is authentication.
    pub listen: SocketAddr,
    /// The database file.
    pub database: PathBuf,
    /// When a commit counts as done.
    pub durability: Durability,
    /// How long results are kept.
    pub retention: Duration,
    /// The monitor's numbers.
    pub tuning: Tuning,
}

impl Config {
    /// The usual settings with this database.
    pub fn new(database: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            database: database.into(),
            durability: Durability::default(),
            retention: Duration::from_hours(30 * 24),
            tuning: Tuning::default(),
        }
    }

    /// Checks what no type can.
    ///
    /// # Errors
    /// When it would listen beyond loopback.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.listen.ip().is_loopback() { Ok(()) } else { Err(ConfigError::BeyondLoopback(self.listen)) }
    }
}

/// Settings that the server refuses to start with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Anyone who could reach the API could make this machine probe anything.
    #[error(
        "--listen {0} is beyond loopback, and there is no authentication yet; use 127.0.0.1 or [::1], \
         and a reverse proxy with authentication to reach it from elsewhere"
    )]
    BeyondLoopback(SocketAddr),
}
