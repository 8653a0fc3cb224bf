//! The target and the sections `icmp` and `expect` of a service's settings.

use std::time::Duration;

use healthmon_core::{
    probe::{FailReason, Held},
    service::{FieldErrors, Fields, ServiceSettings},
    time::span,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use url::Host;

use super::pings::TOKEN;
use crate::{
    net::{Expectations, Progress, host},
    prepared::Prepare,
};

const COUNT: u16 = 3;
const COUNT_LIMIT: u16 = 10;
const INTERVAL: Duration = Duration::from_millis(200);
const SIZE: usize = 56;
/// What an Ethernet packet holds beside the headers of IPv4.
const SIZE_LIMIT: usize = 1472;

const TARGET: &str = "must be such as icmp://192.0.2.1 or icmp://router.example.org";

/// Which addresses of a host are pinged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    #[default]
    Either,
    V4,
    V6,
}

impl Family {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Either => "either version",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What is sent to whom, and what is expected back.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) host: Host<String>,
    pub(super) count: u16,
    pub(super) interval: Duration,
    pub(super) size: usize,
    pub(super) family: Family,
    pub(super) expected: Expected,
    pub(super) expectations: Expectations,
}

struct Section {
    count: u16,
    interval: Duration,
    size: usize,
    family: Family,
}

/// What is expected of pings, beside what is expected of any answer.
#[derive(Debug, Default)]
pub(super) struct Expected {
    loss: Bounds<u8>,
    round_trip: Bounds<Span>,
}

/// Beyond one it degrades, beyond the other it fails.
#[derive(Debug)]
struct Bounds<T> {
    degraded: Option<T>,
    fail: Option<T>,
}

impl<T> Default for Bounds<T> {
    fn default() -> Self {
        Self { degraded: None, fail: None }
    }
}

/// A span as people write it.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Deserialize)]
#[serde(transparent)]
struct Span(#[serde(with = "span")] Duration);

impl Default for Section {
    fn default() -> Self {
        Self { count: COUNT, interval: INTERVAL, size: SIZE, family: Family::Either }
    }
}

impl Settings {
    /// Reads the target and the options, so that all that is wrong comes in one answer.
    pub(super) fn read(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        let url = service.url.url();
        let host = host::host(&url);
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "icmp" || host.is_none() {
            fields.wrong("url", TARGET);
        } else if !bare || url.port().is_some() {
            fields.wrong("url", format_args!("{TARGET}, and nothing more"));
        }
        let section = fields.section("icmp", Section::read).unwrap_or_default();
        if section.interval * u32::from(section.count - 1) >= service.timeout.get() {
            let most = span::format(service.timeout.get());
            fields.wrong("icmp.count", format_args!("must let the last ping be sent before the timeout ({most})"));
        }
        let expected = fields.section("expect", |map| {
            let mut fields = Fields::new(map);
            let expected = Expected::read(&mut fields);
            let expectations = Expectations::read(&mut fields);
            fields.finish().map(|()| (expected, expectations))
        });
        let (expected, expectations) = expected.unwrap_or_default();
        expectations.refuse_certificate(&mut fields);
        fields.finish()?;
        let Some(host) = host else { return Err(FieldErrors::one("url", TARGET)) };
        let Section { count, interval, size, family } = section;
        Ok(Self { host, count, interval, size, family, expected, expectations })
    }
}

impl Prepare for Settings {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        Self::read(service)
    }
}

impl Section {
    fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let mut section = Self::default();
        if let Some(count) = fields.optional("count") {
            if !(1..=COUNT_LIMIT).contains(&count) {
                fields.wrong("count", "must be from 1 to 10");
            }
            section.count = count.clamp(1, COUNT_LIMIT);
        }
        if let Some(Span(interval)) = fields.optional("interval") {
            if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&interval) {
                fields.wrong("interval", "must be from 10ms to 10s");
            }
            section.interval = interval.min(Duration::from_secs(10));
        }
        if let Some(size) = fields.optional("size") {
            if !(TOKEN..=SIZE_LIMIT).contains(&size) {
                fields.wrong("size", format_args!("must be from {TOKEN} to {SIZE_LIMIT}"));
            }
            section.size = size;
        }
        section.family = fields.optional("ip").unwrap_or_default();
        fields.finish()?;
        Ok(section)
    }
}

impl<T: DeserializeOwned + PartialOrd> Bounds<T> {
    fn read(fields: &mut Fields, field: &str) -> Self {
        let mut rest = fields.take_rest();
        if let Some(short @ (Value::Number(_) | Value::String(_))) = rest.get_mut(field) {
            *short = Value::Object(Map::from_iter([("fail".to_owned(), short.take())]));
        }
        fields.put_back(rest);
        let read = fields.section(field, |map| {
            let mut fields = Fields::new(map);
            let bounds = Self { degraded: fields.optional("degraded"), fail: fields.optional("fail") };
            if let Self { degraded: Some(degraded), fail: Some(fail) } = &bounds
                && degraded >= fail
            {
                fields.wrong("degraded", "must be less than fail");
            }
            fields.finish().map(|()| bounds)
        });
        read.unwrap_or_default()
    }
}

impl Expected {
    fn read(fields: &mut Fields) -> Self {
        let loss: Bounds<u8> = Bounds::read(fields, "loss");
        if loss.fail.max(loss.degraded) > Some(100) {
            fields.wrong("loss", "must be a percentage, 0 to 100");
        }
        Self { loss, round_trip: Bounds::read(fields, "round_trip") }
    }

    /// Notes what pings do not meet of which `lost` hundredths of all `sent` were lost, and which
    /// took `mean` on average.
    pub(super) fn judge(&self, lost: u32, sent: u32, mean: Duration, progress: &mut Progress) {
        for (bound, otherwise) in [(self.loss.fail, Held::Failed), (self.loss.degraded, Held::Degraded)] {
            let Some(bound) = bound else { continue };
            let held = if lost <= u32::from(bound) * sent { Held::Held } else { otherwise };
            progress.assertions.note("loss", held, FailReason::Assertion, || {
                (format!("at most {bound} %"), format!("{} % of {sent} pings", lost / sent.max(1)))
            });
        }
        for (bound, otherwise) in [(self.round_trip.fail, Held::Failed), (self.round_trip.degraded, Held::Degraded)] {
            let Some(Span(bound)) = bound else { continue };
            let held = if mean <= bound { Held::Held } else { otherwise };
            progress.assertions.note("round trip", held, FailReason::Assertion, || {
                (format!("at most {}", span::format(bound)), format!("{:.3} ms", mean.as_secs_f64() * 1e3))
            });
        }
    }
}
