use async_trait::async_trait;

use super::StoreError;
use crate::{
    heartbeat::{Heard, KeyDigest, Noted, Sign},
    id::ServiceId,
    time::Timestamp,
};

/// Keeps what services say of themselves, and the keys by which they are known.
///
/// A part of a store: its services are those of a [`ResultStore`](super::ResultStore).
///
/// # Contract
///
/// - A service without a key, an unknown and a deleted one take no sign, and have no key to compare with.
/// - A new key takes the place of the one before it at once, on every node; signs stay.
/// - `note` is all-or-nothing, durable when it returns, and safe to repeat when the commit's outcome
///   is unknown. Each sign is taken in by [`Pulse::note`](crate::heartbeat::Pulse::note), those of a batch in its order, with the
///   pulse read under a lock: of signs that several nodes note at once none is lost.
/// - What it costs and keeps does not grow with the number of signs.
/// - Dropping a call leaves it done or not done, never half.
#[async_trait]
pub trait Heartbeats: Send + Sync {
    /// Gives a service a key, in place of the one that it had.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such service, or no longer.
    async fn set_key(&self, service: ServiceId, key: KeyDigest) -> Result<(), StoreError>;

    /// The keys of those of these services that have one.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn keys(&self, services: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>, StoreError>;

    /// Notes signs, and says what came of each, in their order. See the contract.
    ///
    /// # Errors
    /// [`StoreError::Transient`]: nothing, or all, of it happened; repeat it.
    async fn note(&self, signs: Vec<Sign>) -> Result<Vec<Noted>, StoreError>;

    /// What a service said last, and when it would have been heard. None of a service that has no
    /// key; an empty pulse of one that never reported in.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn heard(&self, service: ServiceId) -> Result<Option<Heard>, StoreError>;

    /// Says that signs are taken at `now`, by [`Listening::note`](crate::heartbeat::Listening::note).
    /// Whoever takes signs says so each [`Listening::PERIOD`](crate::heartbeat::Listening::PERIOD).
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn listening(&self, now: Timestamp) -> Result<(), StoreError>;
}
