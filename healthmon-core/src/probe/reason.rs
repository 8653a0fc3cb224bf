//! Why a probe did not pass: one closed set across all probers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a probe failed: what the target did, in one closed taxonomy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FailReason {
    /// The name could not be resolved.
    Dns = 1,
    /// No connection could be made.
    Connect = 2,
    /// The TLS handshake failed.
    Tls = 3,
    /// The deadline passed.
    Timeout = 4,
    /// The peer broke the protocol.
    Protocol = 5,
    /// The answer's status was not an expected one.
    Status = 6,
    /// The answer did not meet an assertion.
    Assertion = 7,
    /// Redirects went in circles, too far, or nowhere.
    Redirect = 8,
    /// The certificate was refused: its chain, its name or its dates.
    Certificate = 9,
    /// The service says of itself that it is not serving.
    NotServing = 10,
    /// The peer answers, but does not know the service that was asked for.
    UnknownService = 11,
    /// The peer answers, but does not offer what is needed to ask it.
    Unimplemented = 12,
    /// Credentials were refused, or could not be had.
    Authentication = 13,
    /// The configured proxy could not be used.
    Proxy = 14,
    /// The service was to report in, and no sign of it came in time.
    Silence = 15,
    /// The service itself reported a failure.
    Reported = 16,
}

/// Why a probe says nothing about its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IndeterminateReason {
    /// The address policy forbids the target's address.
    Blocked = 101,
    /// It was not begun by its start-by.
    Expired = 102,
    /// It was handed out again and again and never completed.
    Poison = 103,
    /// The worker stalled in the middle of it (suspended, starved of time).
    Stalled = 104,
    /// The prober itself failed (a panic, a resource of ours that ran out).
    Internal = 105,
    /// No prober takes the target's scheme, or the settings are newer than the prober.
    Unsupported = 106,
    /// The system does not let this process do what the probe needs.
    Permission = 107,
    /// The prober's own network was down.
    Offline = 108,
    /// Too many probes of the same host were under way.
    Crowded = 109,
    /// A secret that the settings refer to could not be had.
    Secret = 110,
    /// The service is to report in, has not yet, and still has time to.
    Awaited = 111,
}

/// A reason of either sort, as results, transitions, filters and logs carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Of a failure.
    Fail(FailReason),
    /// Of a probe that says nothing.
    Indeterminate(IndeterminateReason),
}

impl FailReason {
    /// Every one of them.
    pub const ALL: [Self; 16] = [
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Protocol,
        Self::Status,
        Self::Assertion,
        Self::Redirect,
        Self::Certificate,
        Self::NotServing,
        Self::UnknownService,
        Self::Unimplemented,
        Self::Authentication,
        Self::Proxy,
        Self::Silence,
        Self::Reported,
    ];
}

impl IndeterminateReason {
    /// Every one of them.
    pub const ALL: [Self; 11] = [
        Self::Blocked,
        Self::Expired,
        Self::Poison,
        Self::Stalled,
        Self::Internal,
        Self::Unsupported,
        Self::Permission,
        Self::Offline,
        Self::Crowded,
        Self::Secret,
        Self::Awaited,
    ];
}

impl Reason {
    /// Every reason there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let fails = FailReason::ALL.into_iter().map(Self::Fail);
        fails.chain(IndeterminateReason::ALL.into_iter().map(Self::Indeterminate))
    }

    /// The name in JSON, filters, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail(reason) => match reason {
                FailReason::Dns => "dns",
                FailReason::Connect => "connect",
                FailReason::Tls => "tls",
                FailReason::Timeout => "timeout",
                FailReason::Protocol => "protocol",
                FailReason::Status => "status",
                FailReason::Assertion => "assertion",
                FailReason::Redirect => "redirect",
                FailReason::Certificate => "certificate",
                FailReason::NotServing => "not_serving",
                FailReason::UnknownService => "unknown_service",
                FailReason::Unimplemented => "unimplemented",
                FailReason::Authentication => "authentication",
                FailReason::Proxy => "proxy",
                FailReason::Silence => "silence",
                FailReason::Reported => "reported",
            },
            Self::Indeterminate(reason) => match reason {
                IndeterminateReason::Blocked => "blocked",
                IndeterminateReason::Expired => "expired",
                IndeterminateReason::Poison => "poison",
                IndeterminateReason::Stalled => "stalled",
                IndeterminateReason::Internal => "internal",
                IndeterminateReason::Unsupported => "unsupported",
                IndeterminateReason::Permission => "permission",
                IndeterminateReason::Offline => "offline",
                IndeterminateReason::Crowded => "crowded",
                IndeterminateReason::Secret => "secret",
                IndeterminateReason::Awaited => "awaited",
            },
        }
    }

    /// A sentence that tells an operator what it means and what to look at.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Fail(reason) => match reason {
                FailReason::Dns => "the name could not be resolved; look at the host name and the resolver",
                FailReason::Connect => {
                    "no connection could be made; look at the port, the firewall and whether the service runs"
                }
                FailReason::Tls => {
                    "the TLS handshake failed; look at the protocol versions, and at whether that port speaks TLS at all"
                }
                FailReason::Timeout => {
                    "no complete answer came before the deadline; look at the load, or raise the timeout"
                }
                FailReason::Protocol => "the peer did not speak the protocol; look at what listens on that port",
                FailReason::Status => "the answer's status was not an expected one; look at the service's own log",
                FailReason::Assertion => {
                    "the answer did not meet an assertion; look at what was expected and what was seen"
                }
                FailReason::Redirect => {
                    "the redirects went in circles, too far or nowhere; look at the Location headers"
                }
                FailReason::Certificate => {
                    "the certificate was refused; look at its chain, its names and its expiry, and at the roots to trust"
                }
                FailReason::NotServing => "the service says of itself that it is not serving; look at its own log",
                FailReason::UnknownService => {
                    "the peer does not know the service that was asked for; look at the name in the target"
                }
                FailReason::Unimplemented => {
                    "the peer does not offer what is needed to ask it; look at what is deployed there"
                }
                FailReason::Authentication => {
                    "credentials were refused or could not be had; look at the secrets and at who issues tokens"
                }
                FailReason::Proxy => "the configured proxy could not be used; look at the proxy before the target",
                FailReason::Silence => "the service did not report in; look at whether it runs, and how it reports",
                FailReason::Reported => "the service itself reported a failure; look at its message and its log",
            },
            Self::Indeterminate(reason) => match reason {
                IndeterminateReason::Blocked => {
                    "the address policy forbids this address; allow it by name if it is meant"
                }
                IndeterminateReason::Expired => "no worker began it in time; add workers or look at what holds them",
                IndeterminateReason::Poison => "workers took it again and again and never finished; look at their logs",
                IndeterminateReason::Stalled => "the worker stalled in the middle of it; look at its machine",
                IndeterminateReason::Internal => "the prober itself failed; look at the worker's log",
                IndeterminateReason::Unsupported => {
                    "no prober takes this scheme or these settings; look at the target and the worker's version"
                }
                IndeterminateReason::Permission => {
                    "the system does not let the worker do this; look at the detail for how to allow it"
                }
                IndeterminateReason::Offline => "the worker's own network was down; look at its links and its resolver",
                IndeterminateReason::Crowded => {
                    "too many probes of this host were under way; raise the bound, the interval, or mend the host"
                }
                IndeterminateReason::Secret => {
                    "a secret that the settings refer to could not be had; look at the worker's environment and files"
                }
                IndeterminateReason::Awaited => {
                    "the service has not reported in yet and still has time to; look at whether it was given its token"
                }
            },
        }
    }

    /// The number that databases keep. Never reused for another reason.
    pub const fn code(self) -> i16 {
        match self {
            Self::Fail(reason) => reason as i16,
            Self::Indeterminate(reason) => reason as i16,
        }
    }

    /// The reason with this number.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::all().find(|reason| i64::from(reason.code()) == code)
    }

    /// The reason with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|reason| reason.as_str() == name)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("no reason is called {name:?}")))
    }
}
