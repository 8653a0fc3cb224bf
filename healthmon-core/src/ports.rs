//! The five ports, the clock, and what stores may keep besides: what the core asks of the world.
//!
//! Each is a small batch-shaped trait, held as `Arc<dyn _>`, with its contract in its docs and a
//! public conformance suite (feature `conformance`). Errors say what the caller can do about them.

mod broadcaster;
mod clock;
mod heartbeats;
mod prober;
mod queue;
mod scheduler;
mod store;

pub use broadcaster::{Broadcaster, Hint, Hints};
pub use clock::Clock;
pub use heartbeats::Heartbeats;
pub use prober::Prober;
pub use queue::{
    Completion, ConsumerId, Delivery, Enqueued, MAX_DELIVERIES, ProbeQueue, QueueDepth, QueueError, Receipt,
    ResultDelivery,
};
pub use scheduler::{Due, Scheduler, SchedulerError};
pub use store::{
    AppliedInput, Change, Changed, LastResult, LogHead, Recorded, ResultKey, ResultQuery, ResultStore, ServiceFilter,
    ServiceView, SetAside, StoreError, StoredResult, Swept,
};
