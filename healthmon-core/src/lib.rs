//! The core of healthmon, the health monitor that can be embedded.
//!
//! [`runtime::Monitor`] puts a monitor together from five ports (see [`ports`]) and runs it; what is
//! not given is in memory. [`runtime::Handle`] registers, pauses and queries while it runs, and
//! gives the log of changes. [`engine`] decides the status of a service, and can be used alone:
//! without default features this crate is the engine and its nouns, without async.
//!
//! | Feature | Adds |
//! |---|---|
//! | `runtime` (default) | ports, in-memory adapters, loops, the monitor |
//! | `laws` | the naive oracle, proptest strategies, `check_laws!` for a policy of one's own |
//! | `conformance` | test suites for adapters of one's own |
//!
//! [`architecture`] says how it all hangs together.

#[doc = include_str!("../ARCHITECTURE.md")]
pub mod architecture {}
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod engine;
pub mod heartbeat;
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
pub mod shard;
pub mod status;
#[cfg(feature = "runtime")]
pub mod summary;
pub mod time;
