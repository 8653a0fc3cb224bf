//! The store, the scheduler and a queue over PostgreSQL (14 or newer).

mod claims;
mod connect;
mod error;
mod hosts;
mod round;
mod rows;
mod scheduler;
mod schema;

pub use connect::{Postgres, PostgresOptions};
pub use scheduler::{PostgresScheduler, SchedulerOptions};
