//! The engine's laws, each tried on 10,000 timelines (`HEALTHMON_LAW_CASES` says otherwise), and what
//! the engine does row by row.
//!
//! ```text
//! cargo test -p healthmon-core --no-default-features --features laws --test laws
//! ```

mod latch;
mod non_laws;
mod overlays;
mod service;
mod settings;
mod snapshot;
mod story;
mod teeth;
mod thresholds;

use healthmon_core::engine::strategies;

healthmon_core::check_laws! {
    mod laws;
    policy: strategies::thresholds(),
    claims: [universal, snapshot, latch, threshold],
}
