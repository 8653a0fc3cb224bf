//! From names to addresses.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
};

use async_trait::async_trait;
use tokio::sync::OwnedSemaphorePermit;

/// The right to one lookup, of which there are only so many at a time.
///
/// Whoever resolves keeps it for as long as the lookup occupies anything, also when the caller
/// has long gone.
#[derive(Debug)]
pub struct LookupPermit(#[expect(dead_code, reason = "held for its drop")] pub(super) OwnedSemaphorePermit);

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name, or the servers that should know it, do not answer with an address.
    #[error("{0}")]
    Failed(String),
    /// A resource of ours ran out.
    #[error("the lookup could not be made: {0}")]
    Exhausted(String),
}

/// Finds the addresses of a name. Literal addresses never come here.
#[async_trait]
pub trait Resolver: Send + Sync {
    /// The addresses of `host`, in the order in which they should be tried.
    ///
    /// The caller drops the future when its deadline passes.
    ///
    /// # Errors
    /// When there is none.
    async fn resolve(&self, host: &str, permit: LookupPermit) -> Result<Vec<IpAddr>, ResolveError>;
}

/// The system's own resolver, `getaddrinfo`, on a thread of the runtime's blocking pool.
///
/// A call of it cannot be cancelled: one whose caller has gone goes on until the system gives up,
/// and its [`LookupPermit`] with it, so that dead name servers cannot eat all threads.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl SystemResolver {
    async fn lookup(host: &str, permit: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        let host = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            let found = (host.as_str(), 0).to_socket_addrs().map(|all| all.map(|a| a.ip()).collect::<Vec<_>>());
            drop(permit);
            found
        });
        match lookup.await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) if is_ours(&error) => Err(ResolveError::Exhausted(error.to_string())),
            Ok(Err(error)) => Err(ResolveError::Failed(error.to_string())),
            Err(error) => Err(ResolveError::Exhausted(error.to_string())),
        }
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, permit: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        Self::lookup(host, permit).await
    }
}

/// Whether an error says that something of ours ran out (memory, file descriptors, local ports),
/// which tells nothing about the target.
pub(super) fn is_ours(error: &io::Error) -> bool {
    // ENFILE and EMFILE have no kind of their own; these numbers are the same on every Unix.
    const TOO_MANY_FILES: [i32; 2] = [23, 24];
    matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error().is_some_and(|number| TOO_MANY_FILES.contains(&number))
}
