//! How far an attempt has come.

use std::time::Duration;

use healthmon_core::{probe::Phases, time::Timestamp};

/// What an attempt is busy with, so that a deadline can say where it struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Stage {
    /// Nothing of the target has been asked yet.
    #[default]
    Preparing,
    /// Waiting for one of our own limited lookups to become free.
    LookupQueue,
    /// Resolving the name.
    Lookup,
    /// Making the connection.
    Connect,
    /// In the TLS handshake.
    Handshake,
    /// The request is under way, no answer yet.
    Answer,
    /// Reading the answer's body.
    Body,
}

impl Stage {
    /// What it is busy with, in words that follow "while".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::LookupQueue => "waiting for a free lookup",
            Self::Lookup => "resolving the name",
            Self::Connect => "connecting",
            Self::Handshake => "in the tls handshake",
            Self::Answer => "waiting for the answer",
            Self::Body => "reading the body",
        }
    }
}

/// How far an attempt has come, and what was measured and learnt on the way.
///
/// It outlives the attempt's future: what was seen before the deadline struck is not lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// What it is busy with.
    pub stage: Stage,
    /// What was measured; over several connections (redirects) the sum.
    pub phases: Phases,
    /// When the certificate expires that the peer showed; of several the first to expire.
    pub certificate_expires: Option<Timestamp>,
}

impl Progress {
    /// Notes the expiry of a certificate that was shown.
    pub fn certificate(&mut self, expires: Option<Timestamp>) {
        self.certificate_expires = match (self.certificate_expires, expires) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
    }
}

/// Adds `span` to a phase.
pub(crate) fn add(phase: &mut Option<u32>, span: Duration) {
    let micros = u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
    *phase = Some(phase.unwrap_or(0).saturating_add(micros));
}
