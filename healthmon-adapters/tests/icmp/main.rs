//! Pings over real sockets: of this machine, and in networks that exist for one test only.

mod alone;
mod here;
mod settings;
mod support;
