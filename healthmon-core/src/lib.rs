//! The core of healthmon, the distributed health monitor that can be embedded.

pub mod engine;
pub mod id;
#[cfg(feature = "runtime")]
pub mod ports;
pub mod probe;
pub mod service;
pub mod status;
pub mod time;
