//! What every store does to a service between taking its lock and committing: pure functions, so
//! that no store has rules of its own.

mod change;
mod fold;
pub mod sweep;

pub use change::{Planned, plan};
pub use fold::{Folded, fold_control, fold_results};
