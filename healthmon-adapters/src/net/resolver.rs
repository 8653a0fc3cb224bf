//! From names to addresses.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use async_trait::async_trait;
use tokio::sync::{
    OwnedSemaphorePermit,
    watch::{self, Receiver, Sender},
};

/// The right to one lookup, of which there are only so many at a time.
///
/// Whoever resolves keeps it for as long as the lookup occupies anything, also when the caller
/// has long gone.
#[derive(Debug)]
pub struct LookupPermit(#[expect(dead_code, reason = "held, not read")] Arc<Place>);

/// The place that a lookup takes, which may become another while it is under way.
#[derive(Debug)]
pub(super) struct Place(Mutex<Held>);

/// A place among all, and one of those that its domain may have.
#[derive(Debug)]
pub(super) struct Held {
    #[expect(dead_code, reason = "held, not read")]
    pub(super) place: OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held, not read")]
    pub(super) share: Option<OwnedSemaphorePermit>,
}

impl LookupPermit {
    pub(super) fn new(held: Held) -> (Self, Weak<Place>) {
        let place = Arc::new(Place(Mutex::new(held)));
        let weak = Arc::downgrade(&place);
        (Self(place), weak)
    }
}

impl Place {
    /// Gives back what it holds, for another.
    pub(super) fn exchange(&self, held: Held) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

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

    /// Waits for a lookup of `host` that is under way anyway, if there is one: it takes no permit.
    async fn join(&self, _host: &str) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        None
    }
}

/// The system's own resolver, `getaddrinfo`, on a thread of the runtime's blocking pool.
///
/// A call of it cannot be cancelled: one whose caller has gone goes on until the system gives up,
/// and its [`LookupPermit`] with it, so that dead name servers cannot eat all threads. Who asks for
/// the same name meanwhile waits for that same call.
#[derive(Debug, Clone, Default)]
pub struct SystemResolver(Arc<Mutex<Calls>>);

type Found = Result<Vec<IpAddr>, ResolveError>;

/// Those under way, by name.
type Calls = HashMap<Box<str>, Receiver<Option<Found>>>;

/// A call under way; it is over when this is dropped.
struct Call {
    resolver: SystemResolver,
    host: Box<str>,
    tell: Sender<Option<Found>>,
    _permit: LookupPermit,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.resolver.calls().remove(&self.host);
    }
}

impl SystemResolver {
    /// Nothing here panics while it holds the lock.
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, host: &str, permit: LookupPermit) -> Receiver<Option<Found>> {
        let mut calls = self.calls();
        if let Some(told) = calls.get(host) {
            return told.clone();
        }
        let (tell, told) = watch::channel(None);
        calls.insert(host.into(), told.clone());
        drop(calls);
        let call = Call { resolver: self.clone(), host: host.into(), tell, _permit: permit };
        tokio::task::spawn_blocking(move || {
            let found = (&*call.host, 0).to_socket_addrs().map(|all| all.map(|address| address.ip()).collect());
            let found = found.map_err(|error| match error {
                error if is_ours(&error) => ResolveError::Exhausted(error.to_string()),
                error => ResolveError::Failed(error.to_string()),
            });
            call.tell.send_replace(Some(found));
        });
        told
    }
}

async fn told(mut call: Receiver<Option<Found>>) -> Found {
    match call.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(found)) => found.clone(),
        // It never began: the runtime is shutting down.
        _ => Err(ResolveError::Exhausted("the call was dropped".to_owned())),
    }
}

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, permit: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        told(self.call(host, permit)).await
    }

    async fn join(&self, host: &str) -> Option<Found> {
        let call = self.calls().get(host).cloned()?;
        Some(told(call).await)
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
