//! The section `heartbeat` of a service's settings.

use std::time::Duration;

use healthmon_core::{
    service::{FieldErrors, Fields, ServiceSettings},
    time::span,
};
use serde::Deserialize;

use crate::prepared::Prepare;

/// The longest time between two signs, or that anything here may take.
const LONGEST: Duration = Duration::from_hours(400 * 24);
const SHORTEST: Duration = Duration::from_secs(1);

/// What is expected of a service that reports in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    /// How often a success is expected.
    pub(super) every: Duration,
    /// How much later it may come.
    pub(super) grace: Duration,
    /// How long a run may take.
    pub(super) max_runtime: Option<Duration>,
}

/// A span as people write it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Span(#[serde(with = "span")] Duration);

impl Settings {
    pub(super) fn read(settings: &ServiceSettings) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(settings.options.to_map());
        let interval = settings.interval.get();
        let read = fields.section("heartbeat", |map| {
            let mut fields = Fields::new(map);
            let mut taken = |field: &str, least: Duration| {
                let Span(taken) = fields.optional(field)?;
                if (least..=LONGEST).contains(&taken) {
                    return Some(taken);
                }
                fields.wrong(field, format_args!("must be from {} to 400days", span::format(least)));
                None
            };
            let every = taken("every", SHORTEST).unwrap_or(interval);
            let grace = taken("grace", Duration::ZERO).unwrap_or_else(|| default_grace(every));
            let max_runtime = taken("max_runtime", SHORTEST);
            fields.finish()?;
            Ok(Self { every, grace, max_runtime })
        });
        fields.finish()?;
        Ok(read.unwrap_or_else(|| Self { every: interval, grace: default_grace(interval), max_runtime: None }))
    }
}

impl Prepare for Settings {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        Self::read(service)
    }
}

/// A tenth of the time between two signs, from 10 s to an hour.
fn default_grace(every: Duration) -> Duration {
    (every / 10).clamp(Duration::from_secs(10), Duration::from_hours(1))
}

pub(super) fn check(settings: &ServiceSettings) -> Result<(), FieldErrors> {
    let url = settings.url.url();
    let plain =
        url.port().is_none() && matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    if !plain {
        return Err(FieldErrors::one("url", "must be heartbeat:// and a label, such as heartbeat://nightly-backup"));
    }
    Settings::read(settings).map(drop)
}
