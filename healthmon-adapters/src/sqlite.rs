//! Everything in one SQLite file.
//!
//! One writer connection, so that every change is one `BEGIN IMMEDIATE` transaction after another,
//! and a few readers that never wait for it (WAL). Durable by default: a commit that returned
//! survives a power cut (`synchronous = FULL`).

mod cache;
mod error;
mod heartbeats;
mod read;
mod record;
mod rows;
mod store;
mod summary;

pub use store::{Durability, SqliteOptions, SqliteResultStore};
