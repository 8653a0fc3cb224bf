//! How often passwords may be tried.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

/// How many limiters there are for peers, and for names: memory does not grow with who tries.
const BUCKETS: usize = 4_096;

/// A peer's address, as far as one party can hold many: an IPv6 network counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(IpAddr::V6((v6.to_bits() >> 64 << 64).into())),
            v4 => Self(v4),
        }
    }
}

/// Limits by hash: those that share a bucket share its allowance, and as the hash is keyed, nobody
/// can arrange to share it with a chosen other.
struct Buckets<C: Clock> {
    limiters: Vec<RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>>,
    hash: RandomState,
    clock: C,
}

impl<C: Clock + Clone> Buckets<C> {
    fn new(quota: Quota, clock: &C) -> Self {
        let limiters = (0..BUCKETS).map(|_| RateLimiter::direct_with_clock(quota, clock.clone()));
        Self { limiters: limiters.collect(), hash: RandomState::new(), clock: clock.clone() }
    }

    /// Takes one from the key's allowance, or says how long there is none.
    fn take(&self, key: impl Hash) -> Result<(), Duration> {
        let index = usize::try_from(self.hash.hash_one(key)).unwrap_or(usize::MAX) % BUCKETS;
        self.limiters[index].check().map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

/// Limits on password checks: by peer, and by user name whoever asks.
pub(super) struct Throttle<C: Clock = DefaultClock> {
    peers: Buckets<C>,
    names: Buckets<C>,
    /// What each peer may try of names that others exhaust: else one guess a second on a name would
    /// keep out its owner, as long as they were not there since the start. It is so little that
    /// guessing from a thousand addresses gains less than two tries a second.
    newcomers: Buckets<C>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::with_clock(&DefaultClock::default())
    }
}

/// As many at once, and then one after each period.
fn quota(period: Duration, burst: u32) -> Quota {
    match (Quota::with_period(period), NonZeroU32::new(burst)) {
        (Some(quota), Some(burst)) => quota.allow_burst(burst),
        _ => panic!("a quota is not zero"),
    }
}

impl<C: Clock + Clone> Throttle<C> {
    /// Someone who knows their password has it checked once a minute, so these are wide: a proxy
    /// in front may be the peer of dozens of people. Who guesses gets two tries a second.
    fn with_clock(clock: &C) -> Self {
        Self {
            peers: Buckets::new(quota(Duration::from_millis(500), 30), clock),
            names: Buckets::new(quota(Duration::from_secs(1), 20), clock),
            newcomers: Buckets::new(quota(Duration::from_mins(10), 3), clock),
        }
    }

    /// Whether this peer may have a password checked now; else after how long.
    pub(super) fn peer(&self, peer: Peer) -> Result<(), Duration> {
        self.peers.take(peer)
    }

    /// Whether this user's password may be checked now, asked by this peer; else after how long.
    pub(super) fn name(&self, name: &str, peer: Peer) -> Result<(), Duration> {
        self.names.take(name).or_else(|wait| self.newcomers.take(peer).map_err(|_| wait))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn address(text: &str) -> Peer {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_peer_that_tried_too_often_waits_and_others_do_not() {
        let clock = FakeRelativeClock::default();
        let throttle = Throttle::with_clock(&clock);
        let (guesser, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let tries = (0..1_000).filter(|_| throttle.peer(guesser).is_ok()).count();
        assert_eq!(tries, 30);
        let wait = throttle.peer(guesser).unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        // One chance in 4096 that they share a bucket, so try a few.
        let others = ["192.0.2.3", "192.0.2.4", "2001:db8::1"].map(address);
        assert!(others.into_iter().chain([other]).any(|peer| throttle.peer(peer).is_ok()));
        clock.advance(Duration::from_secs(1));
        assert_eq!((0..10).filter(|_| throttle.peer(guesser).is_ok()).count(), 2);
    }

    #[test]
    fn a_name_tried_all_the_time_is_tried_once_a_second_and_a_newcomer_still_has_a_few_tries() {
        let clock = FakeRelativeClock::default();
        let throttle = Throttle::with_clock(&clock);
        let tries = |peer: &str| (0..1_000).filter(|_| throttle.name("admin", address(peer)).is_ok()).count();
        assert_eq!(tries("192.0.2.1"), 20 + 3);
        // One chance in 4096 that they share a bucket, so try a few.
        assert!(["192.0.2.2", "192.0.2.3", "2001:db8::1"].into_iter().any(|peer| tries(peer) == 3));
        clock.advance(Duration::from_secs(3));
        assert_eq!(tries("192.0.2.1"), 3);
        clock.advance(Duration::from_mins(10));
        assert_eq!(tries("192.0.2.1"), 20 + 1);
    }

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }
}
