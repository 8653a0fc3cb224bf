//! The engine's laws, each tried on 10,000 timelines (`HEALTHMON_LAW_CASES` says otherwise), and what
//! the engine does row by row.
//!
//! ```text
//! cargo test -p healthmon-core --no-default-features --features laws --test laws
//! ```

mod latch;
mod ledger;
mod non_laws;
mod overlays;
mod service;
mod settings;
mod snapshot;
mod story;
mod strategies;
mod teeth;
mod thresholds;

healthmon_core::check_laws! {
    mod laws;
    policy: healthmon_core::engine::strategies::thresholds(),
    claims: [universal, snapshot, latch, threshold],
}
