//! Public test suites for the ports: one function a clause of a contract, one macro a port.
//!
//! An adapter, written here or elsewhere, is held against its port's contract with one macro call,
//! which makes one named `#[test]` of every clause:
//!
//! ```
//! # mod example {
//! use std::sync::Arc;
//! use healthmon_core::{
//!     conformance::{TestTime, store::{StoreFixture, StoreSetup}},
//!     memory::{MemoryResultStore, StoreLimits},
//! };
//!
//! async fn memory(setup: StoreSetup) -> StoreFixture {
//!     let time = TestTime::paused();
//!     let limits = StoreLimits { retention: setup.retention, ..StoreLimits::default() };
//!     StoreFixture::in_process(Arc::new(MemoryResultStore::new(time.clock(), limits)), time)
//! }
//!
//! healthmon_core::store_conformance!(mod memory_store, memory);
//! # }
//! ```
//!
//! What a suite asks of whoever runs it:
//!
//! - The factory is an async function from a *setup* (bounds and leases that the clause needs) to
//!   a *fixture*, and gives each clause an **empty backend of its own**.
//! - A backend that is not there is a panic in the factory, see [`backend_url`]: a suite that did
//!   not run is never green.
//! - Time is the fixture's, see [`TestTime`]. No clause needs a clock that can be driven: with a real one the
//!   same clauses take seconds instead of moments.
//! - Where a clause is about two nodes, the fixture has two handles on one backend; an adapter that
//!   lives in one process gives the same handle twice.
//!
//! That the suites catch what they are for is shown by `tests/conformance/faults.rs`: adapters with
//! one planted fault each, and the clause that finds it.

pub mod broadcaster;
pub mod heartbeats;
pub mod prober;
pub mod queue;
mod run;
mod samples;
pub mod scheduler;
pub mod store;
mod time;

pub use run::{backend_url, poll_times, run};
pub use time::{ManualClock, TestTime};

/// Makes the tests of one suite, or the list of its clauses. For the suites' own macros.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    (tests $port:ident { $($clause:ident)* } $(#[$meta:meta])* $name:ident $fixture:expr) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[test]
                fn $clause() {
                    $crate::conformance::run(async || {
                        $crate::conformance::$port::$clause(async |setup| $fixture(setup).await).await
                    });
                }
            )*
        }
    };
    (names $port:ident { $($clause:ident)* }) => { &[$(stringify!($clause)),*] };
}
