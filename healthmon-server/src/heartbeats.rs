//! Signs of services that report in: from a request into the store, and on to a probe out of turn.
//!
//! A sign is answered once it is durable. The [`Intake`] gathers those that come within a few
//! milliseconds and looks up their tokens, and writes them, all at once: what a sign costs is its
//! request. What a failure, or the first success after one, changes is not for this to judge: it asks
//! for an edge probe, and the prober looks at what was said, as it does at every slot.

mod allowance;
mod intake;
mod nudges;
mod token;

pub(crate) use intake::{Intake, Refusal, Word};
pub(crate) use token::{HeartbeatToken, without_tokens};

/// The scheme of services that report in.
pub(crate) const SCHEME: &str = "heartbeat";
