//! The HTTP prober over real sockets and real TLS, on loopback only.

mod answers;
mod keep_alive;
mod redirects;
mod settings;
mod support;
