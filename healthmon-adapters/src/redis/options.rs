use std::{fmt, num::NonZeroUsize, path::PathBuf, time::Duration};

use fred::types::config::Config;

/// Where Redis is, and how it is talked to.
///
/// ```
/// use healthmon_adapters::redis::RedisOptions;
/// let mut options = RedisOptions::new("rediss://:secret@redis.example:6380/2")?;
/// options.prefix = "staging".into();
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok::<(), healthmon_adapters::redis::InvalidRedisOptions>(())
/// ```
#[derive(Clone)]
pub struct RedisOptions {
    config: Config,
    /// What all keys begin with: deployments that share a server have different ones.
    pub prefix: String,
    /// A file of PEM certificates that are trusted beside the system's, for `rediss://`.
    pub ca_file: Option<PathBuf>,
    /// How long a call may take before Redis counts as away.
    pub command_timeout: Duration,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How many calls may wait for the connection.
    pub buffer: NonZeroUsize,
}

/// A text that does not say where Redis is. It does not repeat the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be redis://[user:password@]host[:port][/database], rediss:// for TLS, or redis+unix:///path/to/socket")]
pub struct InvalidRedisOptions;

impl RedisOptions {
    /// The server at `redis://[user:password@]host[:port][/database]`; `rediss://` for TLS,
    /// `redis+unix:///path` for a socket. `valkey` may be written for `redis`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn new(url: &str) -> Result<Self, InvalidRedisOptions> {
        let schemes =
            ["redis://", "rediss://", "valkey://", "valkeys://", "redis+unix://", "valkey+unix://", "unix://"];
        if !schemes.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(InvalidRedisOptions);
        }
        let url = if url.starts_with("unix://") { format!("redis+{url}") } else { url.to_owned() };
        let config = Config::from_url(&url).map_err(|_| InvalidRedisOptions)?;
        Ok(Self {
            config,
            prefix: "healthmon".into(),
            ca_file: None,
            command_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(5),
            buffer: const { NonZeroUsize::new(4096).unwrap() },
        })
    }

    pub(super) fn config(&self) -> Config {
        self.config.clone()
    }

    /// What keys begin with; the braces keep all of them in one slot of a cluster.
    pub(super) fn base(&self) -> String {
        format!("{{{}}}", self.prefix)
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("servers", &self.config.server.hosts())
            .field("database", &self.config.database)
            .field("username", &self.config.username)
            .field("password", &self.config.password.as_ref().map(|_| "…"))
            .field("tls", &self.config.uses_tls())
            .field("prefix", &self.prefix)
            .field("ca_file", &self.ca_file)
            .field("command_timeout", &self.command_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("buffer", &self.buffer)
            .finish()
    }
}
