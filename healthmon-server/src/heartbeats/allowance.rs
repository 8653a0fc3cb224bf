//! How often one token may be used.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use healthmon_core::heartbeat::KeyDigest;
use tokio::time::Instant;

/// One sign takes this long to be allowed again; ...
const EACH: Duration = Duration::from_millis(200);
/// ... so many may come at once.
const BURST: u32 = 30;
/// How many tokens in use are known: memory does not grow with who comes. Beyond it the bound of the
/// intake's queue is the only one.
const MOST: usize = 65_536;

/// By token, when all that it used is allowed again. A token that was not used lately is not here.
///
/// Unlike passwords, tokens are not limited by who brings them: a thousand machines may have one
/// address, and nobody guesses 256 bits.
#[derive(Default)]
pub(super) struct Allowances(Mutex<HashMap<u128, Instant>>);

impl Allowances {
    /// Takes one from a token's allowance, or says after how long there is one.
    pub(super) fn take(&self, digest: KeyDigest, now: Instant) -> Result<(), Duration> {
        // Half of a SHA-256 is enough to tell tokens apart.
        let mut half = [0; 16];
        half.copy_from_slice(&digest.0[..16]);
        let key = u128::from_be_bytes(half);
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let free = used.get(&key).map_or(now, |free| (*free).max(now)) + EACH;
        let ahead = free - now;
        let most = EACH * BURST;
        if ahead > most {
            return Err(ahead - most);
        }
        if used.len() >= MOST && !used.contains_key(&key) {
            used.retain(|_, free| *free > now);
        }
        if used.len() < MOST || used.contains_key(&key) {
            used.insert(key, free);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u128) -> KeyDigest {
        let mut digest = [0; 32];
        digest[..16].copy_from_slice(&number.to_be_bytes());
        KeyDigest(digest)
    }

    #[test]
    fn a_token_that_floods_waits_and_others_do_not() {
        let (allowances, now) = (Allowances::default(), Instant::now());
        let taken = (0..1_000).filter(|_| allowances.take(token(1), now).is_ok()).count();
        assert_eq!(taken, BURST as usize);
        assert_eq!(allowances.take(token(1), now), Err(EACH));
        assert!(allowances.take(token(2), now).is_ok());
        let later = now + Duration::from_secs(2);
        assert_eq!((0..100).filter(|_| allowances.take(token(1), later).is_ok()).count(), 10, "five a second");
    }

    #[test]
    fn memory_does_not_grow_with_tokens_and_nobody_is_kept_out() {
        let (allowances, now) = (Allowances::default(), Instant::now());
        let many = MOST as u128 + 1_000;
        assert!((0..many).all(|number| allowances.take(token(number), now).is_ok()));
        assert_eq!(allowances.0.lock().unwrap().len(), MOST);
        assert!(allowances.take(token(many), now + EACH).is_ok());
        assert_eq!(allowances.0.lock().unwrap().len(), 1, "those that are free again are not kept");
    }
}
