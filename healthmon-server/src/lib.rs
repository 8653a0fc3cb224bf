//! The bundled healthmon server: a monitor with a REST API and WebSocket events.
//!
//! [`Server`] is the whole of it: a configuration, a bound listener, and a future that says when to
//! stop. The binary adds arguments, logging and signals.

mod accept;
mod assembly;
pub mod auth;
pub mod check;
pub mod cli;
mod client;
pub mod cluster;
pub mod config;
mod heartbeats;
mod http;
mod hub;
pub mod logging;
pub mod probers;
mod serve;
pub mod settings;
mod survey;
pub mod watch;

pub use config::Config;
pub use http::{Need, Route, routes};
pub use serve::{ServeError, Server};

/// The README's program is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
