//! What a person writes of a service.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use super::{FieldErrors, Fields, Target};
use crate::{engine::Thresholds, id::Region, time::span};

/// How often a service is probed: 100 ms to 30 days, in whole milliseconds.
///
/// The server asks for at least 1 s; below that is for embedders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(u32);

/// A span that is no interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be from 100ms to 30days, in whole milliseconds")]
pub struct InvalidInterval;

impl Interval {
    /// The shortest interval.
    pub const MIN: Duration = Duration::from_millis(100);
    /// The longest interval.
    pub const MAX: Duration = Duration::from_hours(30 * 24);

    /// The interval of this length.
    ///
    /// # Errors
    /// When it is outside 100 ms to 30 days, or not in whole milliseconds.
    pub fn new(span: Duration) -> Result<Self, InvalidInterval> {
        let whole = span.subsec_nanos().is_multiple_of(1_000_000);
        match u32::try_from(span.as_millis()) {
            Ok(millis) if whole && (Self::MIN..=Self::MAX).contains(&span) => Ok(Self(millis)),
            _ => Err(InvalidInterval),
        }
    }

    /// Its length.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }

    /// Its length in milliseconds.
    pub const fn as_millis(self) -> i64 {
        self.0 as i64
    }
}

/// How long a probe may take: 1 ms to 5 minutes, in whole milliseconds, and at most the interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeout(u32);

/// A span that is no timeout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be from 1ms to 5m, in whole milliseconds, and at most the interval")]
pub struct InvalidTimeout;

impl Timeout {
    /// The longest timeout.
    pub const MAX: Duration = Duration::from_mins(5);
    /// The timeout of a service that names none, if its interval is not shorter.
    pub const DEFAULT: Duration = Duration::from_secs(10);

    /// The timeout of this length.
    ///
    /// # Errors
    /// When it is outside 1 ms to 5 minutes, or not in whole milliseconds.
    pub fn new(span: Duration) -> Result<Self, InvalidTimeout> {
        let whole = span.subsec_nanos().is_multiple_of(1_000_000);
        match u32::try_from(span.as_millis()) {
            Ok(millis) if whole && millis > 0 && span <= Self::MAX => Ok(Self(millis)),
            _ => Err(InvalidTimeout),
        }
    }

    /// The timeout of a service with this interval that names none: 10 s, or the interval if shorter.
    pub fn default_for(interval: Interval) -> Self {
        Self(interval.0.min(Self::DEFAULT.as_millis() as u32))
    }

    /// Its length.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

macro_rules! span_serde {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&span::format(self.get()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                span::serialize(&self.get(), serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(span::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}
span_serde!(Interval);
span_serde!(Timeout);

/// A service's name, or a group's: 1 to 200 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Label(Arc<str>);

/// A text that is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 200 characters long, without control characters or blanks at its ends")]
pub struct InvalidName;

impl Label {
    /// The label with this text.
    ///
    /// # Errors
    /// When it is empty, longer than 200 characters, has control characters, or blanks at its ends.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let right = !text.is_empty()
            && text.trim() == text
            && text.chars().count() <= 200
            && !text.chars().any(char::is_control);
        if right { Ok(Self(text.into())) } else { Err(InvalidName) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A service's tags: at most 32 pairs, keys of 1 to 64 characters, values of at most 200.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::box_collection, reason = "most services have none: a pointer instead of a map for each of a million")]
pub struct Tags(Option<Box<BTreeMap<String, String>>>);

/// Pairs that are no tags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be at most 32 pairs of text, keys of 1 to 64 characters and values of at most 200, without control characters"
)]
pub struct InvalidTags;

impl Tags {
    /// The tags with these pairs.
    ///
    /// # Errors
    /// When there are too many, or one is too long or has control characters.
    pub fn new(pairs: BTreeMap<String, String>) -> Result<Self, InvalidTags> {
        let fits = |text: &str, least: usize, most: usize| {
            (least..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        let right = pairs.len() <= 32 && pairs.iter().all(|(key, value)| fits(key, 1, 64) && fits(value, 0, 200));
        match right {
            true if pairs.is_empty() => Ok(Self(None)),
            true => Ok(Self(Some(Box::new(pairs)))),
            false => Err(InvalidTags),
        }
    }

    /// The pairs, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|pairs| pairs.iter()).map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The pairs as a map.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.as_deref().cloned().unwrap_or_default()
    }
}

impl Serialize for Tags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(BTreeMap::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The regions a service is probed from: 1 to 16, each once, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Regions(Arc<[Region]>);

impl Regions {
    /// These regions, sorted.
    ///
    /// # Errors
    /// When there are none, more than 16, or one twice.
    pub fn new(mut regions: Vec<Region>) -> Result<Self, InvalidRegions> {
        regions.sort_unstable();
        let once = regions.windows(2).all(|pair| pair[0] != pair[1]);
        if once && (1..=16).contains(&regions.len()) { Ok(Self(regions.into())) } else { Err(InvalidRegions) }
    }

    /// The regions, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Region> {
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// A list that cannot be a service's regions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a list of 1 to 16 different regions")]
pub struct InvalidRegions;

impl Default for Regions {
    /// `local` alone. Shared, so that a million services hold one list.
    fn default() -> Self {
        static LOCAL: std::sync::LazyLock<Arc<[Region]>> = std::sync::LazyLock::new(|| [Region::default()].into());
        Self(Arc::clone(&LOCAL))
    }
}

impl<'a> IntoIterator for &'a Regions {
    type Item = &'a Region;
    type IntoIter = std::slice::Iter<'a, Region>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Serialize for Regions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Regions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let regions = Vec::<Region>::deserialize(deserializer)?;
        if let [one] = regions.as_slice()
            && *one == Region::default()
        {
            return Ok(Self::default());
        }
        Self::new(regions).map_err(de::Error::custom)
    }
}

/// Sections that only the target's prober understands, such as `http` and `expect`.
///
/// The core keeps them as they were written; the prober checks them when a service is registered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options(Option<Arc<Map<String, Value>>>);

impl Options {
    /// These sections.
    pub fn new(sections: Map<String, Value>) -> Self {
        Self(if sections.is_empty() { None } else { Some(Arc::new(sections)) })
    }

    /// One section.
    pub fn section(&self, name: &str) -> Option<&Value> {
        self.0.as_ref()?.get(name)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All sections.
    pub fn to_map(&self) -> Map<String, Value> {
        self.0.as_deref().cloned().unwrap_or_default()
    }
}

/// What a person writes of a service. In JSON `name`, `url` and `interval` are enough.
///
/// ```
/// use healthmon_core::service::ServiceSettings;
/// let settings: ServiceSettings = serde_json::from_value(serde_json::json!({
///     "name": "shop", "url": "https://shop.example/health", "interval": "30s",
///     "group": "web", "tags": {"team": "checkout"},
/// }))?;
/// assert_eq!(settings.timeout.get().as_secs(), 10);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    /// What people call it.
    pub name: Label,
    /// Where its probes go.
    pub url: Target,
    /// How often.
    pub interval: Interval,
    /// How often while a change is undecided; at most the interval. None: no more often than else.
    pub edge_interval: Option<Interval>,
    /// How long a probe may take; at most the interval.
    pub timeout: Timeout,
    /// What people group it under.
    pub group: Option<Label>,
    /// Pairs for filters.
    pub tags: Tags,
    /// By which thresholds it is judged.
    pub policy: Thresholds,
    /// From where it is probed.
    pub regions: Regions,
    /// What only its prober understands.
    pub options: Options,
}

impl ServiceSettings {
    /// Settings with defaults for all but the name, the target and the interval.
    pub fn new(name: Label, url: Target, interval: Interval) -> Self {
        Self {
            name,
            url,
            interval,
            edge_interval: None,
            timeout: Timeout::default_for(interval),
            group: None,
            tags: Tags::default(),
            policy: Thresholds::default(),
            regions: Regions::default(),
            options: Options::default(),
        }
    }

    /// Whether the section `expect` has a bound that degrades, such as `expect.latency.degraded` or
    /// `expect.certificate.degraded_days`: a field, at any depth, whose name begins so.
    pub fn has_degraded_bound(&self) -> bool {
        fn is_bound((field, value): (&String, &Value)) -> bool {
            !value.is_null() && (field.starts_with("degraded") || within(value))
        }
        fn within(value: &Value) -> bool {
            value.as_object().is_some_and(|fields| fields.iter().any(is_bound))
        }
        self.options.section("expect").is_some_and(within)
    }

    /// These settings with a policy for what they expect: where a bound that degrades is set and no
    /// `policy.degraded`, the service degrades by the thresholds by which it goes down.
    #[must_use]
    pub fn with_policy_for_bounds(mut self) -> Self {
        if self.policy.degraded.is_none() && self.has_degraded_bound() {
            self.policy.degraded = Some(self.policy.down);
        }
        self
    }

    /// Reads settings from a JSON object; sections nobody here knows become [`Options`].
    ///
    /// # Errors
    /// Every field that is wrong, with what would be right.
    pub fn from_json(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let name = fields.required("name");
        let url = fields.required("url");
        let interval: Option<Interval> = fields.required("interval");
        let edge_interval: Option<Interval> = fields.optional("edge_interval");
        let timeout: Option<Timeout> = fields.optional("timeout");
        let group = fields.optional("group");
        let tags = fields.optional("tags").unwrap_or_default();
        let policy: Thresholds = fields.section("policy", Thresholds::from_json).unwrap_or_default();
        let regions: Regions = fields.optional("regions").unwrap_or_default();
        if let (Some(interval), Some(timeout)) = (interval, timeout)
            && timeout.get() > interval.get()
        {
            fields.wrong("timeout", format_args!("must be at most the interval ({interval})"));
        }
        if let (Some(interval), Some(edge)) = (interval, edge_interval)
            && edge > interval
        {
            fields.wrong("edge_interval", format_args!("must be at most the interval ({interval})"));
        }
        if usize::from(policy.quorum.get()) > regions.count() {
            fields.wrong("policy.quorum", "must be at most the number of regions");
        }
        let options = Options::new(fields.take_rest());
        fields.finish()?;
        let (Some(name), Some(url), Some(interval)) = (name, url, interval) else {
            return Err(FieldErrors::one("name", "is required"));
        };
        let timeout = timeout.unwrap_or_else(|| Timeout::default_for(interval));
        Ok(Self { name, url, interval, edge_interval, timeout, group, tags, policy, regions, options })
    }

    /// These settings as a JSON object, from which [`from_json`](Self::from_json) reads the same.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
        put("name", self.name.as_str().into());
        put("url", self.url.as_str().into());
        put("interval", span::format(self.interval.get()).into());
        if let Some(edge) = self.edge_interval {
            put("edge_interval", span::format(edge.get()).into());
        }
        put("timeout", span::format(self.timeout.get()).into());
        if let Some(group) = &self.group {
            put("group", group.as_str().into());
        }
        if !self.tags.is_empty() {
            put("tags", self.tags.iter().map(|(k, v)| (k.to_owned(), Value::from(v))).collect());
        }
        put("policy", Value::Object(self.policy.to_json()));
        put("regions", self.regions.iter().map(Region::as_str).collect());
        map.extend(self.options.to_map());
        map
    }
}

impl Serialize for ServiceSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ServiceSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Map::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
