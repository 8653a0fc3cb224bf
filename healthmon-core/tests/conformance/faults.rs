//! Adapters with one planted fault each, and the clause that finds it: the suites have teeth.
//!
//! Each row names a fault, the clause that is to catch it, and shows both that the faulty adapter
//! fails the clause and that the honest one passes it.

mod broadcaster;
mod heartbeats;
mod prober;
mod queue;
mod scheduler;
mod store;

use std::panic::{AssertUnwindSafe, catch_unwind};

use healthmon_core::conformance;

/// Asserts that the clause holds of the honest adapter and not of the faulty one, and tells so.
#[expect(clippy::print_stdout, reason = "the list of faults and what caught them is what this is for")]
pub(crate) fn caught(
    fault: &str,
    clause: &str,
    faulty: impl AsyncFnOnce() + Send + 'static,
    honest: impl AsyncFnOnce() + Send + 'static,
) {
    conformance::run(honest);
    let verdict = catch_unwind(AssertUnwindSafe(|| conformance::run(faulty)));
    assert!(verdict.is_err(), "a {fault} passes {clause}");
    println!("caught: a {fault}, by {clause}");
}

/// One named test a fault: `name: "what it does" => clause, faulty factory, honest factory;`.
macro_rules! faults {
    ($port:ident { $($name:ident: $fault:literal => $clause:ident, $faulty:expr, $honest:expr;)* }) => {
        $(
            #[test]
            fn $name() {
                crate::faults::caught(
                    $fault,
                    stringify!($clause),
                    async || healthmon_core::conformance::$port::$clause(async |setup| $faulty(setup).await).await,
                    async || healthmon_core::conformance::$port::$clause(async |setup| $honest(setup).await).await,
                );
            }
        )*
    };
}
pub(crate) use faults;
