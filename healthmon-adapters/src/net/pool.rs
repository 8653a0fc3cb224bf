//! Connections that outlive their probe.

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use healthmon_core::id::ServiceId;
use tokio::time::Instant;

/// At this age a connection is not used again, so that a name that moved is noticed.
const AGE_LIMIT: Duration = Duration::from_mins(5);

/// A connection that can lie idle between two probes, with no task behind it.
pub(crate) trait Idle {
    /// Whether the peer has kept it open and is ready for another request.
    fn is_reusable(&mut self) -> bool;

    /// When it was opened.
    fn opened(&self) -> Instant;
}

/// Idle connections, one for a service at most: two services never share one. A connection fits a
/// probe only if all that it was made for (`K`) is still the same.
///
/// There is no task behind it. What has lain idle too long is let go of when others come in.
pub(crate) struct Pool<K, L> {
    most: NonZeroUsize,
    idle_timeout: Duration,
    links: Mutex<Links<K, L>>,
}

struct Links<K, L> {
    idle: HashMap<ServiceId, Kept<K, L>>,
    swept: Instant,
}

struct Kept<K, L> {
    made_for: K,
    since: Instant,
    link: L,
}

impl<K, L> fmt::Debug for Pool<K, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("most", &self.most).finish_non_exhaustive()
    }
}

impl<K: PartialEq, L: Idle> Pool<K, L> {
    pub(crate) fn new(most: NonZeroUsize, idle_timeout: Duration) -> Self {
        let links = Links { idle: HashMap::new(), swept: Instant::now() };
        Self { most, idle_timeout, links: Mutex::new(links) }
    }

    /// Nothing here panics while it holds the lock, and a map of connections has no half-done state.
    fn links(&self) -> MutexGuard<'_, Links<K, L>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service's idle connection, if it still fits and the peer has kept it.
    pub(crate) fn take(&self, service: ServiceId, wanted: &K) -> Option<L> {
        let kept = self.links().idle.remove(&service)?;
        let young = kept.since.elapsed() < self.idle_timeout && kept.link.opened().elapsed() < AGE_LIMIT;
        let mut link = kept.link;
        (kept.made_for == *wanted && young && link.is_reusable()).then_some(link)
    }

    /// Keeps a connection until the service's next probe, if there is room.
    pub(crate) fn put(&self, service: ServiceId, made_for: K, mut link: L) {
        if !link.is_reusable() {
            return;
        }
        let now = Instant::now();
        let mut links = self.links();
        if now.duration_since(links.swept) > self.idle_timeout / 2 {
            links.swept = now;
            links.idle.retain(|_, kept| now.duration_since(kept.since) < self.idle_timeout);
        }
        if links.idle.len() < self.most.get() || links.idle.contains_key(&service) {
            links.idle.insert(service, Kept { made_for, since: now, link });
        }
    }
}
