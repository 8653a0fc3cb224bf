//! The policy that healthmon ships: two latches a region, and a quorum of regions.

use std::num::NonZeroU8;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use super::{Damping, Grade, Latch, LatchRule, Mark, Policy, Tripped};
use crate::service::{FieldErrors, Fields};

/// Thresholds and windows of a service.
///
/// The default: DOWN after 3 failures in a row, UP again after 2 successes, blind after 3 probes
/// in a row that said nothing, no degraded status, no damping, one region's word is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thresholds {
    /// When a region's *down* latch trips (bad: a failure) and clears.
    pub down: LatchRule,
    /// When a region's *degraded* latch trips (bad: a failure or a slow pass) and clears, if at all.
    /// Registering a service whose settings have a bound that degrades sets it, see
    /// [`with_policy_for_bounds`](crate::service::ServiceSettings::with_policy_for_bounds).
    pub degraded: Option<LatchRule>,
    /// Whether recovery is lengthened while a service flaps.
    pub damping: Option<Damping>,
    /// How many regions' latches must be tripped for the service to be so.
    pub quorum: NonZeroU8,
    /// How many probes in a row may say nothing before a region counts as blind.
    pub blind_after: NonZeroU8,
}

/// A region's memory under [`Thresholds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Latches {
    /// Bad: a failure.
    pub down: Latch,
    /// Bad: a failure or a slow pass. Untouched while no degraded rule is set.
    pub degraded: Latch,
}

impl Thresholds {
    /// The usual thresholds with this rule for DOWN.
    pub const fn with_down(down: LatchRule) -> Self {
        Self { down, ..Self::DEFAULT }
    }

    const DEFAULT: Self = Self {
        down: match LatchRule::new(3, 3, 2) {
            Ok(rule) => rule,
            Err(_) => unreachable!(),
        },
        degraded: None,
        damping: None,
        quorum: NonZeroU8::MIN,
        blind_after: NonZeroU8::MIN.saturating_add(2),
    };

    /// Reads the `policy` section of a service's settings.
    ///
    /// # Errors
    /// Every field that is wrong, with what would be right.
    pub fn from_json(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let default = Self::DEFAULT;
        let down = rule(&mut fields, "failure_threshold", Some(default.down));
        let degraded = fields.section("degraded", |map| {
            let mut fields = Fields::new(map);
            let rule = rule(&mut fields, "threshold", None);
            fields.finish()?;
            rule.ok_or_else(|| FieldErrors::one("threshold", "is required"))
        });
        let damping = fields.section("damping", |map| {
            let mut fields = Fields::new(map);
            let (cap, quiet) = (fields.required("cap"), fields.required("quiet"));
            fields.finish()?;
            Damping::new(cap.unwrap_or(0), quiet.unwrap_or(0)).map_err(|error| FieldErrors::one("cap", error))
        });
        let quorum = count(&mut fields, "quorum", 16);
        let blind_after = count(&mut fields, "blind_after", 255);
        fields.finish()?;
        Ok(Self {
            down: down.unwrap_or(default.down),
            degraded,
            damping,
            quorum: quorum.unwrap_or(default.quorum),
            blind_after: blind_after.unwrap_or(default.blind_after),
        })
    }

    /// These thresholds as the `policy` section of a service's settings.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = rule_json(self.down, "failure_threshold");
        map.insert("quorum".into(), self.quorum.get().into());
        map.insert("blind_after".into(), self.blind_after.get().into());
        if let Some(degraded) = self.degraded {
            map.insert("degraded".into(), Value::Object(rule_json(degraded, "threshold")));
        }
        if let Some(damping) = self.damping {
            let pairs = [("cap", u16::from(damping.cap())), ("quiet", damping.quiet())];
            map.insert("damping".into(), pairs.into_iter().map(|(k, v)| (k.to_owned(), Value::from(v))).collect());
        }
        map
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Takes a whole number from 1 to `most`.
fn count(fields: &mut Fields, field: &str, most: u8) -> Option<NonZeroU8> {
    let value: Value = fields.optional(field)?;
    let number = value.as_u64().and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= most).and_then(NonZeroU8::new);
    if number.is_none() {
        fields.wrong(field, format_args!("must be a whole number from 1 to {most}"));
    }
    number
}

/// Takes the three numbers of a rule; the window is the threshold unless it is given.
fn rule(fields: &mut Fields, threshold: &str, default: Option<LatchRule>) -> Option<LatchRule> {
    let k = count(fields, threshold, LatchRule::LIMIT).map(NonZeroU8::get).or(default.map(LatchRule::threshold));
    let n = count(fields, "window", LatchRule::LIMIT).map(NonZeroU8::get).or(k);
    let s = count(fields, "success_threshold", LatchRule::LIMIT)
        .map_or_else(|| Thresholds::DEFAULT.down.success(), NonZeroU8::get);
    let rule = LatchRule::new(k?, n?, s);
    if rule.is_err() {
        fields.wrong("window", format_args!("must be at least the {threshold}"));
    }
    rule.ok()
}

fn rule_json(rule: LatchRule, threshold: &str) -> Map<String, Value> {
    [(threshold, rule.threshold()), ("window", rule.window()), ("success_threshold", rule.success())]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

impl Policy for Thresholds {
    type Memory = Latches;

    fn observe(&self, memory: &mut Latches, grade: Grade) {
        let down = match grade {
            Grade::Pass | Grade::Slow => Mark::Good,
            Grade::Fail => Mark::Bad,
            Grade::Fatal => Mark::Fatal,
        };
        memory.down.observe(self.down, self.damping, down);
        if let Some(rule) = self.degraded {
            let degraded = if grade == Grade::Pass { Mark::Good } else { Mark::Bad };
            memory.degraded.observe(rule, self.damping, degraded);
        }
    }

    fn tripped(&self, memory: &Latches) -> Tripped {
        Tripped { down: memory.down.is_tripped(), degraded: self.degraded.is_some() && memory.degraded.is_tripped() }
    }

    fn clear_windows(&self, memory: &mut Latches) {
        memory.down.clear_window(self.damping);
        match self.degraded {
            Some(_) => memory.degraded.clear_window(self.damping),
            None => memory.degraded = Latch::default(),
        }
    }

    fn quorum(&self) -> NonZeroU8 {
        self.quorum
    }

    fn blind_after(&self) -> NonZeroU8 {
        self.blind_after
    }
}

type Packed = (LatchRule, Option<LatchRule>, Option<Damping>, NonZeroU8, NonZeroU8);

/// In text formats the `policy` section, in binary ones (the engine's snapshot) the bare numbers.
impl Serialize for Thresholds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            self.to_json().serialize(serializer)
        } else {
            let packed: Packed = (self.down, self.degraded, self.damping, self.quorum, self.blind_after);
            packed.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Thresholds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Self::from_json(Map::deserialize(deserializer)?).map_err(de::Error::custom)
        } else {
            let (down, degraded, damping, quorum, blind_after) = Packed::deserialize(deserializer)?;
            Ok(Self { down, degraded, damping, quorum, blind_after })
        }
    }
}
