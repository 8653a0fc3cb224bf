//! Name servers of one's own choice, instead of the system's resolver.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

use async_trait::async_trait;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{NetError, runtime::TokioRuntimeProvider},
};

use super::{LookupPermit, ResolveError, Resolver, resolver::is_ours};

/// Which name servers are asked, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServersConfig {
    /// The name servers; the one that answered best is asked first. At least one, at most
    /// [`SERVERS`](NameServers::SERVERS). The address policy does not judge them: an operator names them.
    pub servers: Vec<SocketAddr>,
    /// How long one server is waited for.
    pub timeout: Duration,
    /// How often it is all tried before a name counts as unresolvable.
    pub attempts: NonZeroUsize,
    /// How many answers are held for as long as they say. `None` asks each time, so that every
    /// probe sees what the name servers say now.
    pub cache: Option<NonZeroU32>,
}

impl Default for NameServersConfig {
    /// No server yet, two attempts of 2 s, no cache.
    fn default() -> Self {
        let attempts = NonZeroUsize::MIN.saturating_add(1);
        Self { servers: Vec::new(), timeout: Duration::from_secs(2), attempts, cache: None }
    }
}

/// Name servers that cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameServersError {
    /// Their number is wrong.
    #[error("must be 1 to 8 name servers, such as 192.0.2.53:53")]
    Count,
    /// The resolver refuses them.
    #[error("the resolver cannot be set up: {0}")]
    Setup(String),
}

/// A [`Resolver`] that asks these name servers, over UDP, and over TCP what does not fit.
///
/// Unlike the system's it can be cancelled, has no thread per lookup, and reads neither
/// `/etc/hosts` nor `/etc/resolv.conf`: a name is taken as it stands, without search domains.
/// `localhost` and names below it are this machine without a question.
///
/// ```
/// use std::sync::Arc;
/// use healthmon_adapters::net::{Dialer, NameServers, NameServersConfig};
/// let servers = vec!["192.0.2.53:53".parse()?, "[2001:db8::53]:53".parse()?];
/// let resolver = NameServers::new(NameServersConfig { servers, ..Default::default() })?;
/// let dialer = Dialer::default().with_resolver(Arc::new(resolver));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct NameServers {
    resolver: TokioResolver,
    servers: Vec<SocketAddr>,
}

impl fmt::Debug for NameServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameServers").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl NameServers {
    /// How many name servers there may be.
    pub const SERVERS: usize = 8;

    /// A resolver that asks as `config` says. Nothing is asked yet.
    ///
    /// # Errors
    /// When there is no name server, or too many.
    pub fn new(config: NameServersConfig) -> Result<Self, NameServersError> {
        if config.servers.is_empty() || config.servers.len() > Self::SERVERS {
            return Err(NameServersError::Count);
        }
        let servers = config.servers.iter().map(|&server| name_server(server)).collect();
        let mut options = ResolverOpts::default();
        options.timeout = config.timeout;
        // hickory counts the repetitions.
        options.attempts = config.attempts.get() - 1;
        options.cache_size = config.cache.map_or(0, |entries| u64::from(entries.get()));
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        options.edns0 = true;
        // Servers are asked in turn: each lookup costs what it must and no more.
        options.num_concurrent_reqs = 1;
        let resolver = TokioResolver::builder_with_config(
            ResolverConfig::from_parts(None, Vec::new(), servers),
            TokioRuntimeProvider::default(),
        )
        .with_options(options)
        .build()
        .map_err(|error| NameServersError::Setup(error.to_string()))?;
        Ok(Self { resolver, servers: config.servers })
    }

    async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        // The dot at the end keeps it from being taken for anything but a whole name.
        let name = if host.ends_with('.') { host.to_owned() } else { format!("{host}.") };
        match self.resolver.lookup_ip(name).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(NetError::Io(error)) if is_ours(&error) => Err(ResolveError::Exhausted(error.to_string())),
            Err(error) => Err(ResolveError::Failed(told(&error))),
        }
    }
}

/// What happened, in words that hold nothing of what a name server sent.
fn told(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no name server answered".to_owned(),
        error if error.is_nx_domain() => "the name does not exist".to_owned(),
        error if error.is_no_records_found() => "the name has no address".to_owned(),
        error => error.to_string(),
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

#[async_trait]
impl Resolver for NameServers {
    async fn resolve(&self, host: &str, _permit: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        self.lookup(host).await
    }
}
