//! The store, the scheduler and a queue over PostgreSQL (14 or newer).

mod connect;
mod error;
mod hosts;
mod rows;
mod schema;

pub use connect::{Postgres, PostgresOptions};
