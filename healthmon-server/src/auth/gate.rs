//! Finds out who is asking.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, thread::available_parallelism, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, header};
use tokio::sync::{Semaphore, watch};

use super::{
    AccessError, AccessSettings, AllowedOrigin, MetricsAccess, PasswordHash,
    password::MOST_BYTES,
    proxies,
    roster::{Principal, Roster},
    throttle::{Peer, Throttle},
};
use crate::config::Secret;

/// How long a password waits for others to be checked.
const WAIT: Duration = Duration::from_secs(5);

/// Why someone is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// They did not say who they are.
    Missing,
    /// They said it in a way that nobody understands.
    Garbled,
    /// The token or the password is nobody's.
    Wrong,
    /// Passwords were tried too often; there is another try after this.
    TooOften(Duration),
    /// Too many passwords are being checked.
    Busy,
}

/// A name and a password, as HTTP's basic authentication carries them.
pub(super) struct Basic {
    pub(super) name: String,
    pub(super) password: Secret,
}

impl Basic {
    fn read(encoded: &str) -> Option<Self> {
        // Names are short and passwords have an end, so nothing longer is even decoded.
        let encoded = Some(encoded.trim()).filter(|encoded| encoded.len() <= 2 * MOST_BYTES)?;
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        let (name, password) = text.split_once(':').filter(|(_, password)| password.len() <= MOST_BYTES)?;
        Some(Self { name: name.to_owned(), password: password.into() })
    }
}

/// What speaks for a password before it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was right before.
    Known,
    /// It comes from where this user's right password came lately.
    Usual,
    /// Nothing.
    New,
}

/// Checks passwords, a few at a time and not too often.
pub(super) struct Checker {
    throttle: Throttle,
    /// For passwords of which nobody knows whether they are right.
    turns: Arc<Semaphore>,
    /// For passwords that were right: they do not wait behind guesses.
    known: Arc<Semaphore>,
}

impl Checker {
    /// Limits first, since they cost nothing; then a turn; then the hash.
    pub(super) async fn check(
        &self,
        basic: &Basic,
        hash: Option<&PasswordHash>,
        peer: Peer,
        standing: Standing,
    ) -> Result<(), Refused> {
        // Whoever tries a name all the time, or from the address of a balancer, must not keep out
        // its owner.
        if standing != Standing::Known {
            self.throttle.peer(peer).map_err(Refused::TooOften)?;
        }
        if standing == Standing::New {
            self.throttle.name(&basic.name, peer).map_err(Refused::TooOften)?;
        }
        let Some(hash) = hash.cloned() else { return Err(Refused::Wrong) };
        let turns = if standing == Standing::Known { &self.known } else { &self.turns };
        let turn = tokio::time::timeout(WAIT, Arc::clone(turns).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or(Refused::Busy)?;
        let password = basic.password.clone();
        let matches = tokio::task::spawn_blocking(move || {
            let matches = hash.matches(password.expose());
            drop(turn);
            matches
        });
        match matches.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refused::Wrong),
            Err(_) => Err(Refused::Busy),
        }
    }
}

/// Knows who may use the API; what it knows can be replaced while the server runs.
pub struct Gate {
    roster: watch::Sender<Arc<Roster>>,
    checker: Checker,
}

impl Gate {
    pub(crate) fn new(settings: AccessSettings) -> Result<Self, AccessError> {
        // The rest is for probes and for who is let in.
        let turns = available_parallelism().map_or(1, NonZeroUsize::get).div_ceil(2);
        let checker = Checker {
            throttle: Throttle::default(),
            turns: Arc::new(Semaphore::new(turns)),
            known: Arc::new(Semaphore::new(1)),
        };
        Ok(Self { roster: watch::Sender::new(Arc::new(Roster::new(settings)?)), checker })
    }

    /// Puts other users, tokens, origins and access to metrics in force at once. WebSocket clients
    /// of whom the settings no longer say the same are closed.
    ///
    /// # Errors
    /// When it is not clear who may do what, or nobody would be asked any more; then nothing changes.
    pub fn replace(&self, settings: AccessSettings) -> Result<(), AccessError> {
        settings.check()?;
        if self.is_authenticated() && !settings.is_authenticated() {
            return Err(AccessError::NobodyLeft);
        }
        let next = self.roster.borrow().followed_by(settings);
        self.roster.send_replace(Arc::new(next));
        Ok(())
    }

    /// Whether requests must say who they come from.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.roster.borrow().settings.is_authenticated()
    }

    pub(crate) fn metrics(&self) -> MetricsAccess {
        self.roster.borrow().settings.metrics
    }

    /// Whether pages of this origin are welcome though they are not the server's own.
    pub(crate) fn allows_origin(&self, origin: &AllowedOrigin) -> bool {
        self.roster.borrow().settings.origins.contains(origin)
    }

    /// Whether an address is that of a proxy that hands on the requests of others.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        proxies::trusts(&self.roster.borrow().settings.proxies, address)
    }

    /// Where a request comes from that came with these headers from this peer.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        proxies::client(&self.roster.borrow().settings.proxies, peer, headers)
    }

    /// Finds out who sends these headers.
    pub(crate) async fn principal(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Principal, Refused> {
        let roster = Arc::clone(&self.roster.borrow());
        if let Some(everyone) = roster.anonymous() {
            return Ok(everyone);
        }
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let credentials = given.next().ok_or(Refused::Missing)?;
        // Of two, somebody in between may have checked the other.
        let credentials = Some(credentials).filter(|_| given.next().is_none()).and_then(|value| value.to_str().ok());
        let (scheme, rest) = credentials.and_then(|text| text.split_once(' ')).ok_or(Refused::Garbled)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return roster.token(&rest.trim().parse().map_err(|_| Refused::Wrong)?);
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let basic = Basic::read(rest).ok_or(Refused::Garbled)?;
            return roster.password(&basic, peer.into(), &self.checker).await;
        }
        Err(Refused::Garbled)
    }

    /// Resolves when the settings no longer say of someone what they said when they came.
    pub(crate) async fn revoked(&self, principal: &Principal) {
        let mut rosters = self.roster.subscribe();
        while rosters.borrow_and_update().still(principal) {
            if rosters.changed().await.is_err() {
                return;
            }
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}
