//! Shards: hash slices of the services, the unit of claims and of streams.

use std::{fmt, num::NonZeroU16};

use serde::{Deserialize, Serialize};

use crate::id::{ClaimEpoch, ServiceId};

/// One slice of the services, numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shard(pub u16);

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Into how many slices a deployment cuts its services: 1 to 1,024, settled when the deployment begins.
///
/// ```
/// use healthmon_core::{id::ServiceId, shard::ShardCount};
/// let shards = ShardCount::default();
/// assert_eq!(shards.get(), 64);
/// assert!(shards.shard_of(ServiceId::new(7)?).0 < 64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ShardCount(NonZeroU16);

/// A number that is no count of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a number of shards from 1 to {}", ShardCount::MOST)]
pub struct InvalidShardCount;

impl ShardCount {
    /// The most shards there can be.
    pub const MOST: u16 = 1_024;

    /// This many.
    ///
    /// # Errors
    /// When it is not 1 to 1,024.
    pub const fn new(count: u16) -> Result<Self, InvalidShardCount> {
        match NonZeroU16::new(count) {
            Some(some) if count <= Self::MOST => Ok(Self(some)),
            _ => Err(InvalidShardCount),
        }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The slice that a service is in: the same on every node, for ever.
    ///
    /// Its hash is of another seed than the offset within the interval, so that the services of
    /// a shard spread over time like all services do.
    pub const fn shard_of(self, id: ServiceId) -> Shard {
        let mixed = crate::schedule::mix(id.get() ^ 0x5851_f42d_4c95_7f2d);
        Shard((mixed % self.0.get() as u64) as u16)
    }

    /// Every shard, in order.
    pub fn all(self) -> impl Iterator<Item = Shard> {
        (0..self.get()).map(Shard)
    }
}

impl Default for ShardCount {
    /// 64: enough to spread over some twenty nodes evenly, few enough to look at each in a moment.
    fn default() -> Self {
        const { Self(NonZeroU16::new(64).unwrap()) }
    }
}

impl TryFrom<u16> for ShardCount {
    type Error = InvalidShardCount;

    fn try_from(count: u16) -> Result<Self, Self::Error> {
        Self::new(count)
    }
}

impl From<ShardCount> for u16 {
    fn from(count: ShardCount) -> Self {
        count.get()
    }
}

/// The right under which a scheduler emitted a probe: the shard, and the epoch of its lease, which
/// grows with each claim. A queue drops what comes under an epoch older than it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// The shard.
    pub shard: Shard,
    /// The lease's fencing number.
    pub epoch: ClaimEpoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_spread_evenly_over_shards_and_offsets_within_one() {
        let (shards, minute) = (ShardCount::default(), std::time::Duration::from_mins(1));
        let interval = crate::service::Interval::new(minute).unwrap();
        let (mut counts, mut early) = (vec![0u32; 64], 0u32);
        for id in 0..64_000u64 {
            // As snowflakes of one node come: a millisecond apart.
            let id = ServiceId::new((1 << 50) + (id << 22)).unwrap();
            let shard = shards.shard_of(id);
            counts[usize::from(shard.0)] += 1;
            early += u32::from(shard == Shard(5) && crate::schedule::offset(id, interval) < 30_000);
        }
        // 1,000 expected in each; six standard deviations of a binomial are 190.
        assert!(counts.iter().all(|n| (810..1_190).contains(n)), "{counts:?}");
        assert!((405..595).contains(&early), "half of shard 5 comes in the first half minute: {early}");
    }

    #[test]
    fn a_count_of_shards_is_one_to_1024() {
        assert_eq!(ShardCount::new(0), Err(InvalidShardCount));
        assert_eq!(ShardCount::new(1_025), Err(InvalidShardCount));
        assert_eq!(ShardCount::new(1).map(|count| count.all().collect::<Vec<_>>()), Ok(vec![Shard(0)]));
    }
}
