//! The WebSocket prober over real sockets, on loopback only.

mod conformance;
mod hostile;
mod peers;
mod real;
mod sec;
mod settings;
#[path = "../wire/support.rs"]
mod support;
mod upgrade;
