//! The laws of the engine, each tried on 10,000 timelines (`HEALTHMON_LAW_CASES` says otherwise).

use healthmon_core::engine::strategies;

healthmon_core::check_laws! {
    mod thresholds;
    policy: strategies::thresholds(),
    claims: [universal, snapshot, latch, threshold],
}
