//! The store, the scheduler and a queue over PostgreSQL (14 or newer).

mod changes;
mod claims;
mod connect;
mod error;
mod head;
mod heartbeats;
mod hosts;
mod nodes;
mod partitions;
mod queue;
mod read;
mod record;
mod regions;
mod results;
mod rollups;
mod round;
mod rows;
mod scheduler;
mod schema;
mod states;
mod store;
mod summary;

pub use connect::{Postgres, PostgresOptions};
pub use nodes::{NodeRow, PostgresNodes, ShardRow};
pub use queue::PostgresProbeQueue;
pub use scheduler::{PostgresScheduler, SchedulerOptions};
pub use store::PostgresResultStore;
