//! Instants and spans, as integers.
//!
//! Times are UTC. A [`Timestamp`] counts microseconds (the precision PostgreSQL keeps), a [`Slot`]
//! counts milliseconds (the precision of a Redis stream id). Neither reads a clock.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant: microseconds since 1970-01-01T00:00:00Z.
///
/// Written as RFC 3339 in UTC.
///
/// ```
/// use healthmon_core::time::Timestamp;
/// let t: Timestamp = "2026-11-20T10:00:00.25Z".parse()?;
/// assert_eq!(t.to_string(), "2026-11-20T10:00:00.250000Z");
/// # Ok::<(), healthmon_core::time::InvalidTimestamp>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// A text that is no RFC 3339 instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be an RFC 3339 time such as 2026-11-20T10:00:00Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    /// The instant `micros` microseconds after the epoch (before it when negative).
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The instant `millis` milliseconds after the epoch, saturating.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// This instant moved later by `span`, saturating.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// This instant moved earlier by `span`, saturating.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }

    /// The span from `earlier` to this instant; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let span = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(span).unwrap_or(0))
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(t) => f.write_str(&t.to_rfc3339_opts(SecondsFormat::Micros, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DateTime::parse_from_rfc3339(text).map(|t| Self(t.timestamp_micros())).map_err(|_| InvalidTimestamp)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The planned instant of a probe, in milliseconds since the epoch: `k · interval + offset` for a
/// scheduled probe, the instant it was asked for with any other kind. Never "when it ran".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Slot(i64);

impl Slot {
    /// The slot `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// The slot at the millisecond that `time` falls in.
    pub const fn at(time: Timestamp) -> Self {
        Self(time.as_millis())
    }

    /// The instant this slot is planned for.
    pub const fn time(self) -> Timestamp {
        Timestamp::from_millis(self.0)
    }

    /// This slot moved later by `span` (whole milliseconds), saturating.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_millis(self.0) {
            Some(t) => f.write_str(&t.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => write!(f, "{}ms", self.0),
        }
    }
}

/// In text formats an RFC 3339 instant, in binary ones (the engine's snapshot) the number.
impl Serialize for Slot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Timestamp::deserialize(deserializer).map(Self::at)
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

/// Durations as people write them: `"30s"`, `"1h 30m"`, `"500ms"`; a bare number means seconds.
///
/// For use with `#[serde(with = "healthmon_core::time::span")]`.
pub mod span {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    /// Reads a duration; the error says which forms are right.
    ///
    /// # Errors
    /// When the text is no duration, or the number is negative or not finite.
    pub fn parse(text: &str) -> Result<Duration, InvalidSpan> {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<f64>() {
            return Duration::try_from_secs_f64(seconds).map_err(|_| InvalidSpan);
        }
        humantime::parse_duration(text).map_err(|_| InvalidSpan)
    }

    /// Writes a duration in the same form.
    pub fn format(span: Duration) -> String {
        humantime::format_duration(span).to_string()
    }

    /// A text that is no duration.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[error("must be a duration such as \"30s\", \"500ms\" or \"5m\" (a bare number means seconds)")]
    pub struct InvalidSpan;

    /// Writes the duration as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*span))
    }

    /// Reads the duration from text or from a number of seconds.
    ///
    /// # Errors
    /// When it is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        match Written::deserialize(deserializer).map_err(|_| de::Error::custom(InvalidSpan))? {
            Written::Number(seconds) => {
                Duration::try_from_secs_f64(seconds).map_err(|_| de::Error::custom(InvalidSpan))
            }
            Written::Text(text) => parse(&text).map_err(de::Error::custom),
        }
    }
}
