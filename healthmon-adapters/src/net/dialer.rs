//! The one connector.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use healthmon_core::probe::{FailReason, IndeterminateReason, Outcome};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use url::Host;

use super::{
    AddressPolicy, LookupPermit, Progress, Refusal, ResolveError, Resolver, Stage, SystemResolver, progress::add,
    resolver::is_ours,
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name could not be resolved.
    #[error("{host}: {source}")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        source: ResolveError,
    },
    /// The policy leaves no address to dial.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No allowed address took the connection; this is what the last one said.
    #[error("connect to {address}: {source}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
}

impl DialError {
    /// The outcome of a probe that ends with this error.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Lookup { source: ResolveError::Exhausted(_), .. } => {
                Outcome::Indeterminate(IndeterminateReason::Internal)
            }
            Self::Lookup { .. } => Outcome::Fail(FailReason::Dns),
            Self::Refused(_) => Outcome::Indeterminate(IndeterminateReason::Blocked),
            Self::Connect { source, .. } if is_ours(source) => Outcome::Indeterminate(IndeterminateReason::Internal),
            Self::Connect { .. } => Outcome::Fail(FailReason::Connect),
        }
    }
}

/// Connects to hosts that the address policy allows. Meant to be shared by all that dials out, so
/// that its bound on lookups holds for all of it.
pub struct Dialer {
    policy: AddressPolicy,
    resolver: Arc<dyn Resolver>,
    lookups: Arc<Semaphore>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Default for Dialer {
    /// The strictest policy, the system's resolver.
    fn default() -> Self {
        Self::new(AddressPolicy::default())
    }
}

impl Dialer {
    /// How many lookups may go on at once, unless said otherwise.
    pub const LOOKUPS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
    /// How many addresses of one host are tried at most.
    pub const ADDRESSES: usize = 8;

    /// A dialer with this policy and the system's resolver.
    pub fn new(policy: AddressPolicy) -> Self {
        let lookups = Arc::new(Semaphore::new(Self::LOOKUPS.get()));
        Self { policy, resolver: Arc::new(SystemResolver), lookups }
    }

    /// This dialer with another resolver.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// This dialer with another bound on lookups that go on at once.
    #[must_use]
    pub fn with_lookups(mut self, lookups: NonZeroUsize) -> Self {
        self.lookups = Arc::new(Semaphore::new(lookups.get().min(Semaphore::MAX_PERMITS)));
        self
    }

    /// The policy.
    pub const fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// A connection to `host`, made to an address that the policy allowed.
    ///
    /// Allowed addresses are tried in turn, at most [`ADDRESSES`](Self::ADDRESSES) of them, each
    /// with an equal share of the time that is left until `deadline`. The caller enforces the
    /// deadline itself by dropping the future.
    ///
    /// # Errors
    /// When the name has no address, the policy refuses them all, or none takes the connection.
    pub async fn dial(
        &self,
        host: Host<&str>,
        port: u16,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<TcpStream, DialError> {
        let literal = match host {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(name) => return self.dial_name(name, port, deadline, progress).await,
        };
        self.policy.judge(literal)?;
        let begun = Instant::now();
        progress.stage = Stage::Connect;
        let connected = connect(SocketAddr::new(literal.to_canonical(), port)).await;
        add(&mut progress.phases.connect_us, begun.elapsed());
        learn_peer(&connected, progress);
        connected
    }

    async fn dial_name(
        &self,
        name: &str,
        port: u16,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<TcpStream, DialError> {
        let addresses = self.lookup(name, progress).await?;
        let mut allowed = Vec::with_capacity(addresses.len().min(Self::ADDRESSES));
        let mut refusal = None;
        for address in addresses {
            match self.policy.judge(address) {
                Ok(()) if allowed.len() < Self::ADDRESSES => {
                    allowed.push(SocketAddr::new(address.to_canonical(), port));
                }
                Ok(()) => {}
                Err(refused) => refusal = refusal.or(Some(refused)),
            }
        }
        let Some((&last, earlier)) = allowed.split_last() else {
            return Err(match refusal {
                Some(refusal) => DialError::Refused(refusal),
                None => lookup_error(name, ResolveError::Failed("the name has no address".to_owned())),
            });
        };
        let begun = Instant::now();
        progress.stage = Stage::Connect;
        let connected = connect_in_turn(earlier, last, deadline).await;
        add(&mut progress.phases.connect_us, begun.elapsed());
        learn_peer(&connected, progress);
        connected
    }

    pub(super) async fn lookup(&self, name: &str, progress: &mut Progress) -> Result<Vec<IpAddr>, DialError> {
        let begun = Instant::now();
        progress.stage = Stage::LookupQueue;
        let permit = Arc::clone(&self.lookups).acquire_owned().await;
        let permit = permit.map_err(|error| lookup_error(name, ResolveError::Exhausted(error.to_string())))?;
        progress.stage = Stage::Lookup;
        let found = self.resolver.resolve(name, LookupPermit(permit)).await;
        add(&mut progress.phases.dns_us, begun.elapsed());
        found.map_err(|source| lookup_error(name, source))
    }
}

fn learn_peer(connected: &Result<TcpStream, DialError>, progress: &mut Progress) {
    if progress.is_inspected()
        && let Ok(stream) = connected
        && let Ok(peer) = stream.peer_addr()
    {
        progress.learn("address", peer);
    }
}

pub(super) fn lookup_error(host: &str, source: ResolveError) -> DialError {
    DialError::Lookup { host: host.to_owned(), source }
}

/// A blackholed address must not use up the time of those behind it.
async fn connect_in_turn(earlier: &[SocketAddr], last: SocketAddr, deadline: Instant) -> Result<TcpStream, DialError> {
    let mut seen_of_target = None;
    for (at, &address) in earlier.iter().enumerate() {
        let left = u32::try_from(earlier.len() - at + 1).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        let error = match timeout_at(Instant::now() + share, connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => DialError::Connect { address, source: no_answer(share) },
        };
        if matches!(error.outcome(), Outcome::Fail(_)) {
            seen_of_target = Some(error);
        }
    }
    connect(last).await.map_err(|error| match (error.outcome(), seen_of_target) {
        // One address failed by its own fault: that says more than a trouble of ours with the last.
        (Outcome::Indeterminate(_), Some(seen)) => seen,
        _ => error,
    })
}

fn no_answer(share: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", share.as_millis()))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Connect { address, source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}
