//! The core of healthmon, the distributed health monitor that can be embedded.

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod engine;
pub mod id;
#[cfg(feature = "runtime")]
pub mod memory;
#[cfg(feature = "runtime")]
pub mod ports;
pub mod probe;
#[cfg(feature = "runtime")]
pub mod record;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod schedule;
pub mod service;
pub mod status;
pub mod time;
