//! The server as its users meet it: the real binary, real sockets, a real database file.

#![expect(clippy::print_stdout, reason = "tests say what they ran")]

mod access;
mod api;
mod checks;
mod clients;
mod commands;
mod credentials;
mod deploy;
mod guard;
mod heartbeats;
mod heartbeats_load;
mod kill;
mod lifecycle;
mod matrix;
mod proxies;
mod redis;
mod regions;
mod secrets;
mod settings;
mod shared;
mod sockets;
mod support;
mod uptime;
mod witnesses;
