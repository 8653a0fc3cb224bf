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
use url::{Position, Url};

use super::{link::Link, route::Route};

/// At this age a connection is not used again, so that a name that moved is noticed.
const AGE_LIMIT: Duration = Duration::from_mins(5);

/// Idle connections, one for a service at most: two services never share one.
///
/// There is no task behind it. What has lain idle too long is let go of when others come in.
pub(super) struct Pool {
    most: NonZeroUsize,
    idle_timeout: Duration,
    idle: Mutex<Idle>,
}

struct Idle {
    links: HashMap<ServiceId, Kept>,
    swept: Instant,
}

struct Kept {
    origin: Box<str>,
    route: Route,
    since: Instant,
    link: Box<Link>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("most", &self.most).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(most: NonZeroUsize, idle_timeout: Duration) -> Self {
        let idle = Idle { links: HashMap::new(), swept: Instant::now() };
        Self { most, idle_timeout, idle: Mutex::new(idle) }
    }

    /// Nothing here panics while it holds the lock, and a map of connections has no half-done state.
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service's idle connection, if it still fits and the peer has kept it.
    pub(super) fn take(&self, service: ServiceId, url: &Url, route: &Route) -> Option<Box<Link>> {
        let kept = self.idle().links.remove(&service)?;
        let fits = *kept.origin == url[..Position::AfterPort] && kept.route == *route;
        let mut link = kept.link;
        let young = kept.since.elapsed() < self.idle_timeout && link.opened.elapsed() < AGE_LIMIT;
        (fits && young && link.is_reusable()).then_some(link)
    }

    /// Keeps a connection until the service's next probe, if there is room.
    pub(super) fn put(&self, service: ServiceId, url: &Url, route: &Route, mut link: Box<Link>) {
        if !link.is_reusable() {
            return;
        }
        let now = Instant::now();
        let kept = Kept { origin: url[..Position::AfterPort].into(), route: route.clone(), since: now, link };
        let mut idle = self.idle();
        if now.duration_since(idle.swept) > self.idle_timeout / 2 {
            idle.swept = now;
            idle.links.retain(|_, kept| now.duration_since(kept.since) < self.idle_timeout);
        }
        if idle.links.len() < self.most.get() || idle.links.contains_key(&service) {
            idle.links.insert(service, kept);
        }
    }
}
