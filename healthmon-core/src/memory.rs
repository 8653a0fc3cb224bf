//! The ports in memory: honest implementations for embedders, tests and simulations.

mod broadcaster;
mod queue;
mod scheduler;
mod store;

pub use broadcaster::MemoryBroadcaster;
pub use queue::{MemoryProbeQueue, QueueLimits};
pub use scheduler::LocalScheduler;
pub use store::{MemoryResultStore, StoreLimits};
