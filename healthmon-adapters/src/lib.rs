//! Adapters for healthmon's ports: what the core asks of the world, done with real technology.

#[cfg(feature = "heartbeat")]
pub mod heartbeat;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod pulses;
#[cfg(feature = "redis")]
pub mod redis;
pub mod secrets;
#[cfg(feature = "servers")]
pub mod servers;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sums;
