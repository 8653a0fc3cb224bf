//! Identities: of services, log places and settings.

use std::{fmt, num::NonZeroU64, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A service's id: a 64-bit snowflake (time, node, sequence), a string in JSON.
///
/// Positive as a signed 64-bit number too, which is what databases keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(NonZeroU64);

/// A text or number that is no service id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a service id: a decimal number from 1 to 9223372036854775807")]
pub struct InvalidServiceId;

impl ServiceId {
    /// The id with this number.
    ///
    /// # Errors
    /// When `id` is zero or above `i64::MAX`.
    pub const fn new(id: u64) -> Result<Self, InvalidServiceId> {
        match NonZeroU64::new(id) {
            Some(n) if id <= i64::MAX as u64 => Ok(Self(n)),
            _ => Err(InvalidServiceId),
        }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The number as databases keep it.
    pub const fn as_i64(self) -> i64 {
        self.0.get().cast_signed()
    }
}

impl TryFrom<i64> for ServiceId {
    type Error = InvalidServiceId;

    fn try_from(id: i64) -> Result<Self, Self::Error> {
        u64::try_from(id).map_err(|_| InvalidServiceId).and_then(Self::new)
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ServiceId {
    type Err = InvalidServiceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map_err(|_| InvalidServiceId).and_then(Self::new)
    }
}

impl Serialize for ServiceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.get()) }
    }
}

impl<'de> Deserialize<'de> for ServiceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(deserializer).and_then(|n| Self::new(n).map_err(de::Error::custom))
        }
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this one, saturating.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A place in the transition log: gapless from 1; 0 is the place before the first entry.
    Seq(u64)
}
counter! {
    /// The number of an input that moved a service's state: gapless from 1 within the service.
    Applied(u64)
}
counter! {
    /// Counts the settings a service has been judged by; a result found under older ones does not vote.
    Epoch(u32)
}
counter! {
    /// The fencing number of a lease on a shard: grows with each claim.
    ClaimEpoch(u64)
}
counter! {
    /// The number of a change to any service: gapless from 1, the feed that schedulers follow.
    Revision(u64)
}

/// The identity of a transition log. It changes when the log is not the continuation of the one
/// that clients knew (restored from a backup, failed over with loss).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(pub Arc<str>);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a prober stands: a label, `local` by default.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Region(Arc<str>);

/// A text that is no region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 32 characters of a-z, 0-9 and -")]
pub struct InvalidRegion;

impl Region {
    /// The region with this name.
    ///
    /// # Errors
    /// When it is not 1 to 32 characters of `a-z`, `0-9` and `-`.
    pub fn new(name: &str) -> Result<Self, InvalidRegion> {
        let right = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if right { Ok(Self(name.into())) } else { Err(InvalidRegion) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Region {
    /// `local`. Shared, so that a million services hold one string.
    fn default() -> Self {
        static LOCAL: std::sync::LazyLock<Region> = std::sync::LazyLock::new(|| Region("local".into()));
        LOCAL.clone()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Region {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        if name == "local" { Ok(Self::default()) } else { Self::new(&name).map_err(de::Error::custom) }
    }
}
