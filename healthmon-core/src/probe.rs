//! One unit of work, what was seen, and the recorded fact.

mod inspection;
mod reason;

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Epoch, Region, ServiceId},
    service::Service,
    shard::Claim,
    time::{Slot, Timestamp},
};

pub use inspection::{Assertion, Fact, Held, Inspection};
pub use reason::{FailReason, IndeterminateReason, Reason};

/// The longest [`Observation::detail`], in characters.
pub const DETAIL_LIMIT: usize = 512;

/// Why a probe was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Its slot came. Votes, and counts for coverage.
    Scheduled,
    /// Out of turn: asked by the engine, or for a new, resumed or rescheduled service. Votes.
    Edge,
    /// Asked by a person. Never votes.
    Manual,
}

impl Kind {
    /// The name in JSON and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Edge => "edge",
            Self::Manual => "manual",
        }
    }

    /// The number that databases keep.
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The kind with this number.
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            0 => Some(Self::Scheduled),
            1 => Some(Self::Edge),
            2 => Some(Self::Manual),
            _ => None,
        }
    }
}

/// The identity of a probe, and of its one result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProbeId {
    /// The service.
    pub service: ServiceId,
    /// The planned instant.
    pub slot: Slot,
    /// Where the prober stands.
    pub region: Region,
    /// Why it was asked for.
    pub kind: Kind,
}

impl fmt::Display for ProbeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}/{}", self.service, self.slot.as_millis(), self.region, self.kind.as_str())
    }
}

/// A probe to be performed.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Its identity.
    pub id: ProbeId,
    /// The service with the settings to probe it by.
    pub service: Arc<Service>,
    /// Not begun by then, it becomes `Indeterminate(expired)`.
    pub start_by: Timestamp,
    /// The claim under which a scheduler emitted it; none when claims are not shared, or when
    /// nobody scheduled it (a person asked).
    pub claim: Option<Claim>,
}

impl Probe {
    /// The longest time from slot to start, whatever the interval.
    pub const START_BY_LIMIT: Duration = Duration::from_secs(60);

    /// The probe of `service` in `region` at `slot`; its start-by is slot + min(interval, 60 s).
    pub fn new(service: Arc<Service>, region: Region, slot: Slot, kind: Kind) -> Self {
        let patience = service.settings.interval.get().min(Self::START_BY_LIMIT);
        let id = ProbeId { service: service.id, slot, region, kind };
        Self { id, start_by: slot.time().after(patience), service, claim: None }
    }

    /// The same, emitted under `claim`.
    #[must_use]
    pub const fn under(mut self, claim: Claim) -> Self {
        self.claim = Some(claim);
        self
    }

    /// The result for this probe when nothing of the target was seen.
    pub fn indeterminate(&self, reason: IndeterminateReason, started: Timestamp, detail: &str) -> ProbeResult {
        self.result(started, Observation::indeterminate(reason, detail))
    }

    /// The result for this probe, begun at `started`, of what was seen.
    pub fn result(&self, started: Timestamp, seen: Observation) -> ProbeResult {
        ProbeResult { id: self.id.clone(), epoch: self.service.epoch, started, seen }
    }
}

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The target answered as it should.
    Pass,
    /// It answered as it should, but too slowly or close to some edge. Shows as DEGRADED where the
    /// policy has a rule for it, otherwise it is as good as a pass.
    Slow,
    /// It did not.
    Fail(FailReason),
    /// It did not, and the service's own rule says that one such failure is enough.
    Fatal(FailReason),
    /// Nothing was learnt about the target.
    Indeterminate(IndeterminateReason),
}

impl Outcome {
    /// The name in JSON, filters and logs; a fatal failure is a `fail`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Slow => "slow",
            Self::Fail(_) | Self::Fatal(_) => "fail",
            Self::Indeterminate(_) => "indeterminate",
        }
    }

    /// Why, for a failure or a probe that says nothing.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Pass | Self::Slow => None,
            Self::Fail(reason) | Self::Fatal(reason) => Some(Reason::Fail(reason)),
            Self::Indeterminate(reason) => Some(Reason::Indeterminate(reason)),
        }
    }

    /// The number that databases keep beside the reason's.
    pub const fn code(self) -> i16 {
        match self {
            Self::Pass => 0,
            Self::Slow => 1,
            Self::Fail(_) => 2,
            Self::Fatal(_) => 3,
            Self::Indeterminate(_) => 4,
        }
    }

    /// The outcome with this number and reason.
    pub const fn from_code(code: i64, reason: Option<Reason>) -> Option<Self> {
        match (code, reason) {
            (0, None) => Some(Self::Pass),
            (1, None) => Some(Self::Slow),
            (2, Some(Reason::Fail(reason))) => Some(Self::Fail(reason)),
            (3, Some(Reason::Fail(reason))) => Some(Self::Fatal(reason)),
            (4, Some(Reason::Indeterminate(reason))) => Some(Self::Indeterminate(reason)),
            _ => None,
        }
    }
}

/// Where the time of a probe went, in microseconds; a phase that did not happen is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Phases {
    /// Resolving the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_us: Option<u32>,
    /// Making the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<u32>,
    /// The TLS handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_us: Option<u32>,
    /// From the request to the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_us: Option<u32>,
}

/// What a prober returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What was seen.
    pub outcome: Outcome,
    /// The whole time, in microseconds (at most the timeout, which is at most 5 minutes).
    pub latency_us: u32,
    /// Where that time went.
    pub phases: Phases,
    /// The protocol's own status code, if one came (HTTP: 100 to 599).
    pub code: Option<u16>,
    /// When the certificate that the peer showed expires, if it showed one.
    pub certificate_expires: Option<Timestamp>,
    /// What was expected and what was seen, for people: at most [`DETAIL_LIMIT`] characters,
    /// control characters escaped, never a secret, never a body.
    pub detail: Option<Box<str>>,
}

impl Observation {
    /// An observation of `outcome` after `latency`, without phases or detail.
    pub fn new(outcome: Outcome, latency: Duration) -> Self {
        let latency_us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        Self { outcome, latency_us, phases: Phases::default(), code: None, certificate_expires: None, detail: None }
    }

    /// An observation that says nothing about the target.
    pub fn indeterminate(reason: IndeterminateReason, detail: &str) -> Self {
        Self::new(Outcome::Indeterminate(reason), Duration::ZERO).with_detail(detail)
    }

    /// This observation with a detail, made safe to store and show.
    #[must_use]
    pub fn with_detail(mut self, detail: &str) -> Self {
        self.detail = Some(printable(detail));
        self
    }
}

/// `text` with its control characters escaped, cut to [`DETAIL_LIMIT`] characters.
pub fn printable(text: &str) -> Box<str> {
    let mut out = String::with_capacity(text.len().min(DETAIL_LIMIT));
    let mut left = DETAIL_LIMIT;
    for c in text.chars() {
        // Bidirectional overrides reorder what a person reads, so they are escaped too.
        let unsafe_to_show = c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let width = if unsafe_to_show { c.escape_default().count() } else { 1 };
        if width + 1 > left {
            out.push('…');
            break;
        }
        if unsafe_to_show {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        left -= width;
    }
    out.into()
}

/// The recorded fact: which probe, when it began, what it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// Which probe.
    pub id: ProbeId,
    /// The settings it was probed under.
    pub epoch: Epoch,
    /// When it began.
    pub started: Timestamp,
    /// What it saw.
    pub seen: Observation,
}
