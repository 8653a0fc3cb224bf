//! The one connector.

mod lookups;
mod race;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
};

use healthmon_core::probe::{FailReason, IndeterminateReason, Outcome};
use serde::Deserialize;
use tokio::{net::TcpStream, sync::Semaphore, time::Instant};
use url::Host;

use super::{
    AddressPolicy, Progress, Refusal, ResolveError, Resolver, Stage, SystemResolver, progress::add, resolver::is_ours,
};

use lookups::Lookups;

/// Which addresses of a host are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
pub enum Family {
    /// Those of either family.
    #[default]
    #[serde(rename = "any")]
    Any,
    /// IPv4 only.
    #[serde(rename = "4")]
    V4,
    /// IPv6 only.
    #[serde(rename = "6")]
    V6,
}

impl Family {
    /// Whether `address` is of this family. An IPv4 address in IPv6 clothes is an IPv4 address.
    pub const fn holds(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.to_canonical().is_ipv4(),
            Self::V6 => address.to_canonical().is_ipv6(),
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "no address",
            Self::V4 => "no IPv4 address",
            Self::V6 => "no IPv6 address",
        }
    }
}

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
    lookups: Lookups,
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
    /// How many lookups may go on at once, unless said otherwise. As many again may go on of names
    /// whose lookup hangs, so that those leave room for the others; and a quarter of names of one domain
    /// (those that end with the same two labels), so that no domain takes all.
    pub const LOOKUPS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
    /// How many addresses of one host are tried at most.
    pub const ADDRESSES: usize = 8;

    /// A dialer with this policy and the system's resolver.
    pub fn new(policy: AddressPolicy) -> Self {
        let lookups = Lookups::new(Self::LOOKUPS.get());
        Self { policy, resolver: Arc::new(SystemResolver::default()), lookups }
    }

    /// This dialer with another resolver.
    #[must_use]
    pub fn with_resolver(mut self, resolver: Arc<dyn Resolver>) -> Self {
        self.resolver = resolver;
        self
    }

    /// This dialer with places kept for the lookups of these names, whatever else is looked up: of those that
    /// must be found when many others hang, such as the canary's.
    #[must_use]
    pub fn with_places_kept_for(mut self, names: impl IntoIterator<Item: AsRef<str>>) -> Self {
        names.into_iter().for_each(|name| self.lookups.keep(name.as_ref()));
        self
    }

    /// This dialer with another bound on lookups that go on at once.
    #[must_use]
    pub fn with_lookups(mut self, lookups: NonZeroUsize) -> Self {
        self.lookups = self.lookups.resized(lookups.get().min(Semaphore::MAX_PERMITS));
        self
    }

    /// The policy.
    pub const fn policy(&self) -> &AddressPolicy {
        &self.policy
    }

    /// A connection to `host`, made to an address that the policy allowed.
    ///
    /// The allowed addresses of a name, at most [`ADDRESSES`](Self::ADDRESSES) of them, race each
    /// other as RFC 8305 has it: the families take turns, an attempt is begun when the one before it
    /// has failed or has not answered for 250 ms, and the first connection wins. The caller enforces
    /// the deadline itself by dropping the future.
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
        self.dial_over(Family::Any, host, port, deadline, progress).await
    }

    /// The same over addresses of one family.
    ///
    /// # Errors
    /// Those of [`dial`](Self::dial), and that the host has no address of that family.
    pub async fn dial_over(
        &self,
        family: Family,
        host: Host<&str>,
        port: u16,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<TcpStream, DialError> {
        let literal = match host {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(name) => return self.dial_name(family, name, port, deadline, progress).await,
        };
        self.policy.judge(literal)?;
        if !family.holds(literal) {
            return Err(no_address_of(family, &literal.to_string()));
        }
        let begun = Instant::now();
        progress.stage = Stage::Connect;
        let connected = connect(SocketAddr::new(literal.to_canonical(), port)).await;
        add(&mut progress.phases.connect_us, begun.elapsed());
        learn_peer(&connected, progress);
        connected
    }

    async fn dial_name(
        &self,
        family: Family,
        name: &str,
        port: u16,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<TcpStream, DialError> {
        let addresses = self.lookup(name, progress).await?;
        let mut refusal = None;
        let of_family = addresses.into_iter().filter(|address| family.holds(*address));
        let allowed = of_family.filter_map(|address| match self.policy.judge(address) {
            Ok(()) => Some(SocketAddr::new(address.to_canonical(), port)),
            Err(refused) => {
                refusal = refusal.or(Some(refused));
                None
            }
        });
        let allowed = race::interleaved(allowed);
        if allowed.is_empty() {
            return Err(refusal.map_or_else(|| no_address_of(family, name), DialError::Refused));
        }
        let begun = Instant::now();
        progress.stage = Stage::Connect;
        let connected = race::connect_first(&allowed, deadline).await;
        add(&mut progress.phases.connect_us, begun.elapsed());
        learn_peer(&connected, progress);
        connected
    }

    pub(super) async fn lookup(&self, name: &str, progress: &mut Progress) -> Result<Vec<IpAddr>, DialError> {
        let mut begun = Instant::now();
        progress.stage = Stage::Lookup;
        let found = match self.resolver.join(name).await {
            Some(found) => found,
            None => {
                let queued = Instant::now();
                progress.stage = Stage::LookupQueue;
                let turn = self.lookups.turn(name).await;
                // To wait for our own bound says nothing of the target, nor of its name servers.
                progress.queued += queued.elapsed();
                begun += queued.elapsed();
                let (turn, permit) =
                    turn.map_err(|error| lookup_error(name, ResolveError::Exhausted(error.to_string())))?;
                progress.stage = Stage::Lookup;
                turn.take(self.resolver.resolve(name, permit)).await
            }
        };
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

fn no_address_of(family: Family, host: &str) -> DialError {
    lookup_error(host, ResolveError::Failed(format!("the host has {}", family.as_str())))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Connect { address, source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}
