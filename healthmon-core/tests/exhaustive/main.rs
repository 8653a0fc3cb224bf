//! The engine, enumerated rather than sampled.
//!
//! - [`sequences`]: every sequence of inputs up to a length, for small policies, each step held
//!   against the step laws, laws 10 to 13, the snapshot and the oracle.
//! - [`induction`]: laws 19 to 21 by one-step induction over all related pairs of latches.
//! - [`fixpoint`]: laws 22 and 23 for sequences of any length, law 24 for corrupt latches, law 26
//!   for all votes.
//!
//! ```text
//! cargo test --profile exhaustive -p healthmon-core --no-default-features --features laws --test exhaustive -- --nocapture
//! ```

// The counts are what these tests are for.
#![allow(clippy::print_stdout)]

mod alphabet;
mod fixpoint;
mod induction;
mod sequences;
