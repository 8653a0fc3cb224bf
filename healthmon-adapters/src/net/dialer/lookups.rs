//! Which lookups may go on, so that names whose lookup hangs leave room for the others.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{AcquireError, Semaphore},
    time::{Instant, timeout},
};

use crate::net::LookupPermit;

/// A lookup that takes longer hangs.
const HANGS: Duration = Duration::from_secs(1);
/// For how long it is remembered of a name that its lookup hung.
const REMEMBERED: Duration = Duration::from_mins(5);
/// Of how many names that is remembered.
const NAMES: usize = 4_096;

/// Room for as many lookups as there may be, and for as many again of names whose lookup hangs.
///
/// A lookup that begins to hang moves from one room to the other, if there is place, and the next of
/// that name begins in the other one. So dead name servers hold up other names for a second when
/// they die, and not at all from then on; only while more names begin to hang at once than fit into
/// both do the others wait until some of those lookups have ended.
pub(super) struct Lookups {
    usual: Arc<Semaphore>,
    hanging: Arc<Semaphore>,
    /// Names whose last lookup hung, and when.
    hung: Mutex<HashMap<Box<str>, Instant>>,
}

/// The right to look one name up.
pub(super) struct Turn<'a> {
    lookups: &'a Lookups,
    name: &'a str,
    permit: LookupPermit,
    room: Room,
    begun: Instant,
    /// Whether it came to an end in time.
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Usual,
    Hanging,
}

impl Lookups {
    pub(super) fn new(most: usize) -> Self {
        let [usual, hanging] = [0; 2].map(|_| Arc::new(Semaphore::new(most)));
        Self { usual, hanging, hung: Mutex::default() }
    }

    /// Nothing here panics while it holds the lock.
    fn hung(&self) -> MutexGuard<'_, HashMap<Box<str>, Instant>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `name` may be looked up.
    pub(super) async fn turn<'a>(&'a self, name: &'a str) -> Result<Turn<'a>, AcquireError> {
        let hung = self.hung().get(name).is_some_and(|at| at.elapsed() < REMEMBERED);
        let (room, semaphore) = if hung { (Room::Hanging, &self.hanging) } else { (Room::Usual, &self.usual) };
        let permit = LookupPermit::new(Arc::clone(semaphore).acquire_owned().await?);
        Ok(Turn { lookups: self, name, permit, room, begun: Instant::now(), ended: false })
    }
}

impl Turn<'_> {
    /// What the lookup holds for as long as it occupies anything.
    pub(super) fn permit(&self) -> LookupPermit {
        self.permit.clone()
    }

    /// Waits for the lookup.
    pub(super) async fn take<F: Future>(mut self, lookup: F) -> F::Output {
        let mut lookup = pin!(lookup);
        if let Ok(found) = timeout(HANGS, &mut lookup).await {
            if self.room == Room::Hanging {
                self.lookups.hung().remove(self.name);
            }
            self.ended = true;
            return found;
        }
        self.hangs();
        self.ended = true;
        lookup.await
    }

    /// Remembers that it hangs, and makes room.
    fn hangs(&mut self) {
        let now = Instant::now();
        let mut hung = self.lookups.hung();
        if hung.len() >= NAMES {
            hung.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        }
        if hung.len() < NAMES || hung.contains_key(self.name) {
            hung.insert(self.name.into(), now);
        }
        drop(hung);
        if self.room == Room::Usual
            && let Ok(place) = Arc::clone(&self.lookups.hanging).try_acquire_owned()
        {
            self.permit.exchange(place);
            self.room = Room::Hanging;
        }
    }
}

impl Drop for Turn<'_> {
    /// Whoever waited for it waits no longer, and it has not ended: that is to hang too, unless it
    /// had hardly any time.
    fn drop(&mut self) {
        if !self.ended && self.begun.elapsed() >= HANGS / 2 {
            self.hangs();
        }
    }
}
