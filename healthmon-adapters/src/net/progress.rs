//! How far an attempt has come.

use std::{fmt, time::Duration};

use healthmon_core::{
    probe::{Fact, Phases},
    time::Timestamp,
};

use super::Assertions;

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
    /// Asking the peer, in its own protocol, to go on over TLS.
    StartTls,
    /// In the TLS handshake.
    Handshake,
    /// The request is under way, no answer yet.
    Answer,
    /// Reading the answer's body.
    Body,
    /// Getting a token to show to the target.
    Token,
    /// Asking the proxy for a connection.
    Proxy,
}

impl Stage {
    /// What it is busy with, in words that follow "while".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::LookupQueue => "waiting for a free lookup",
            Self::Lookup => "resolving the name",
            Self::Connect => "connecting",
            Self::StartTls => "asking for tls",
            Self::Handshake => "in the tls handshake",
            Self::Answer => "waiting for the answer",
            Self::Body => "reading the body",
            Self::Token => "getting a token",
            Self::Proxy => "asking the proxy",
        }
    }
}

/// How far an attempt has come, and what was measured and learnt on the way.
///
/// It outlives the attempt's future: what was seen before the deadline struck is not lost.
#[derive(Debug, Default)]
pub struct Progress {
    /// What it is busy with.
    pub stage: Stage,
    /// What was measured; over several connections (redirects) the sum.
    pub phases: Phases,
    /// The protocol's own status code, if one came.
    pub code: Option<u16>,
    /// When the certificate expires that the peer showed; of several the first to expire.
    pub certificate_expires: Option<Timestamp>,
    /// How long it waited for our own bounds, which is no latency of the target's.
    pub(crate) queued: Duration,
    /// The connection to the proxy is being made, or asked for a tunnel.
    pub(crate) is_at_proxy: bool,
    /// What was asserted.
    pub assertions: Assertions,
    /// What was learnt, if somebody takes a closer look.
    pub(crate) facts: Option<Vec<Fact>>,
    /// What takes secrets out of that: a peer can put them into its certificate as well.
    #[cfg(any(feature = "grpc", feature = "http", feature = "tcp", feature = "websocket"))]
    pub(crate) redactor: Option<std::sync::Arc<crate::secrets::Redactor>>,
}

impl Progress {
    /// Progress of an attempt that a person looks at closely.
    pub fn inspecting() -> Self {
        Self { assertions: Assertions::complete(), facts: Some(Vec::new()), ..Self::default() }
    }

    /// Whether a person takes a closer look.
    pub const fn is_inspected(&self) -> bool {
        self.facts.is_some()
    }

    /// Notes what was learnt, if somebody takes a closer look.
    pub fn learn(&mut self, what: &str, value: impl fmt::Display) {
        if let Some(facts) = &mut self.facts {
            let value = value.to_string();
            #[cfg(any(feature = "grpc", feature = "http", feature = "tcp", feature = "websocket"))]
            let value = match &self.redactor {
                Some(redactor) => redactor.redact(&value),
                None => value,
            };
            facts.push(Fact::new(what, &value));
        }
    }

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
