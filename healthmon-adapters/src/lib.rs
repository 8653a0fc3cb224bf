//! Adapters for healthmon's ports: what the core asks of the world, done with real technology.

#[cfg(feature = "dns")]
pub mod dns;
#[cfg(any(feature = "dns", feature = "http", feature = "tcp", feature = "websocket"))]
mod expression;
#[cfg(all(feature = "fuzz", any(fuzzing, test)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "grpc")]
pub mod grpc;
#[cfg(feature = "heartbeat")]
pub mod heartbeat;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "icmp")]
pub mod icmp;
#[cfg(feature = "net")]
pub mod net;
#[cfg(any(feature = "tcp", feature = "websocket"))]
mod pattern;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(
    feature = "dns",
    feature = "grpc",
    feature = "heartbeat",
    feature = "http",
    feature = "icmp",
    feature = "tcp",
    feature = "websocket"
))]
mod prepared;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod pulses;
#[cfg(feature = "redis")]
pub mod redis;
pub mod secrets;
#[cfg(feature = "servers")]
pub mod servers;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod services;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sums;
#[cfg(feature = "tcp")]
pub mod tcp;
#[cfg(feature = "tcp")]
pub mod tls;
#[cfg(feature = "websocket")]
pub mod websocket;
