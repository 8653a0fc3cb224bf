//! Which lookups may go on, so that names whose lookup hangs leave room for the others.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{AcquireError, Semaphore},
    time::{Instant, timeout},
};
use url::Host;

use crate::net::{
    LookupPermit,
    resolver::{Held, Place},
};

/// A lookup that takes longer hangs.
const HANGS: Duration = Duration::from_secs(1);
/// For how long it is remembered of a name that its lookup hung.
const REMEMBERED: Duration = Duration::from_mins(5);
/// Of how many names that is remembered.
const NAMES: usize = 4_096;
/// Names of one domain take one of so many places at most.
const SHARE: usize = 4;
/// So many lookups go on at once of a name for which places are kept.
const KEPT: usize = 4;
/// With more domains than these those of which nothing is looked up any more are forgotten.
const DOMAINS: usize = 1_024;

/// Room for as many lookups as there may be, and for as many again of names whose lookup hangs.
///
/// A lookup that begins to hang moves from one room to the other, if there is place, and the next of
/// that name begins in the other one. So dead name servers hold up other names for a second when
/// they die, and not at all from then on; only while more names begin to hang at once than fit into
/// both do the others wait until some of those lookups have ended. Names of one domain never fill
/// either room: whoever redirects to ever new names of a domain that hangs takes a quarter of each.
pub(super) struct Lookups {
    usual: Room,
    hanging: Room,
    /// Places of names that have their own.
    kept: HashMap<Box<str>, Arc<Semaphore>>,
    /// Names whose last lookup hung, and when.
    hung: Mutex<HashMap<Box<str>, Instant>>,
}

struct Room {
    places: Arc<Semaphore>,
    /// How many of them the names of one domain may take.
    share: usize,
    /// What is left of that to each domain of which something is looked up.
    domains: Mutex<Domains>,
}

struct Domains {
    shares: HashMap<Box<str>, Weak<Semaphore>>,
    /// With so many it is seen which of them are over.
    most: usize,
}

/// The right to look one name up.
pub(super) struct Turn<'a> {
    lookups: &'a Lookups,
    name: &'a str,
    /// The place, for as long as the lookup has it.
    place: Weak<Place>,
    whose: Whose,
    begun: Instant,
    /// Whether it came to an end in time.
    ended: bool,
}

/// In which room a lookup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Usual,
    Hanging,
    /// In none, for places are kept for this name.
    Own,
}

impl Room {
    fn new(most: usize) -> Self {
        let domains = Mutex::new(Domains { shares: HashMap::new(), most: DOMAINS });
        Self { places: Arc::new(Semaphore::new(most)), share: most.div_ceil(SHARE), domains }
    }

    /// What is left to the domain of `name`, the same semaphore for all who wait for it.
    fn share_of(&self, name: &str) -> Arc<Semaphore> {
        let domain = domain_of(name);
        // Nothing panics while it is held.
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = domains.shares.get(domain.as_str()).and_then(Weak::upgrade) {
            return share;
        }
        if domains.shares.len() >= domains.most {
            domains.shares.retain(|_, share| share.strong_count() > 0);
            domains.most = DOMAINS.max(2 * domains.shares.len());
        }
        let share = Arc::new(Semaphore::new(self.share));
        domains.shares.insert(domain.into(), Arc::downgrade(&share));
        share
    }

    async fn enter(&self, name: &str) -> Result<Held, AcquireError> {
        let share = self.share_of(name).acquire_owned().await?;
        Ok(Held { place: Arc::clone(&self.places).acquire_owned().await?, share: Some(share) })
    }

    /// Enters it if that takes no waiting.
    fn try_enter(&self, name: &str) -> Option<Held> {
        let share = self.share_of(name).try_acquire_owned().ok()?;
        Some(Held { place: Arc::clone(&self.places).try_acquire_owned().ok()?, share: Some(share) })
    }
}

impl Lookups {
    pub(super) fn new(most: usize) -> Self {
        let [usual, hanging] = [0; 2].map(|_| Room::new(most));
        Self { usual, hanging, kept: HashMap::new(), hung: Mutex::default() }
    }

    /// As many places for others, those that are kept being kept.
    pub(super) fn resized(self, most: usize) -> Self {
        Self { kept: self.kept, ..Self::new(most) }
    }

    /// Keeps places for `name` alone, in whatever way it is written in a URL.
    pub(super) fn keep(&mut self, name: &str) {
        let name = match Host::parse(name) {
            Ok(Host::Domain(name)) => plain(&name),
            // Addresses are not looked up.
            _ => return,
        };
        self.kept.insert(name.into(), Arc::new(Semaphore::new(KEPT)));
    }

    /// Nothing here panics while it holds the lock.
    fn hung(&self) -> MutexGuard<'_, HashMap<Box<str>, Instant>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `name` may be looked up; what comes with it the lookup holds for as long as it
    /// occupies anything.
    pub(super) async fn turn<'a>(&'a self, name: &'a str) -> Result<(Turn<'a>, LookupPermit), AcquireError> {
        let (whose, held) = if let Some(own) = self.kept.get(plain(name).as_str()) {
            (Whose::Own, Held { place: Arc::clone(own).acquire_owned().await?, share: None })
        } else if self.hung().get(name).is_some_and(|at| at.elapsed() < REMEMBERED) {
            (Whose::Hanging, self.hanging.enter(name).await?)
        } else {
            (Whose::Usual, self.usual.enter(name).await?)
        };
        let (permit, place) = LookupPermit::new(held);
        Ok((Turn { lookups: self, name, place, whose, begun: Instant::now(), ended: false }, permit))
    }
}

/// A name as all write it.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The last two labels of a name: who has that domain has all below it, or it is one like `co.uk`, whose
/// names then share what only matters where many of them hang.
fn domain_of(name: &str) -> String {
    let name = plain(name);
    let before = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
    name[before..].to_owned()
}

impl Turn<'_> {
    /// Waits for the lookup.
    pub(super) async fn take<F: Future>(mut self, lookup: F) -> F::Output {
        let mut lookup = pin!(lookup);
        if let Ok(found) = timeout(HANGS, &mut lookup).await {
            if self.whose == Whose::Hanging {
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
        if self.whose == Whose::Own {
            return;
        }
        let now = Instant::now();
        let mut hung = self.lookups.hung();
        if hung.len() >= NAMES {
            hung.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        }
        if hung.len() < NAMES || hung.contains_key(self.name) {
            hung.insert(self.name.into(), now);
        }
        drop(hung);
        if self.whose == Whose::Usual
            && let Some(place) = self.place.upgrade()
            && let Some(other) = self.lookups.hanging.try_enter(self.name)
        {
            place.exchange(other);
            self.whose = Whose::Hanging;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_the_last_two_labels() {
        for (name, domain) in
            [("a.b.example.org", "example.org"), ("Example.ORG.", "example.org"), ("host", "host"), ("", ""), (".", "")]
        {
            assert_eq!(domain_of(name), domain, "{name}");
        }
    }

    #[tokio::test]
    async fn domains_of_which_nothing_is_looked_up_are_forgotten() {
        let lookups = Lookups::new(4);
        let (_turn, permit) = lookups.turn("held.example.org").await.expect("a place");
        for n in 0..3 * DOMAINS {
            drop(lookups.turn(&format!("www.n{n}.test")).await.expect("a place"));
        }
        let domains = lookups.usual.domains.lock().expect("nothing panics");
        assert!(domains.shares.len() <= DOMAINS, "{}", domains.shares.len());
        assert!(domains.shares["example.org"].strong_count() > 0, "held by {permit:?}");
    }
}
