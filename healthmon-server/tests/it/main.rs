//! The server as its users meet it: the real binary, real sockets, a real database file.

mod api;
mod clients;
mod commands;
mod guard;
mod kill;
mod lifecycle;
mod support;
