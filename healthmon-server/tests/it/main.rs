//! The server as its users meet it: the real binary, real sockets, a real database file.

#![expect(clippy::print_stdout, reason = "tests say what they ran")]

mod api;
mod clients;
mod commands;
mod guard;
mod kill;
mod lifecycle;
mod shared;
mod support;
mod uptime;
