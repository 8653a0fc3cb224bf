//! The HTTP prober over real sockets and real TLS, on loopback only.

mod answers;
mod auth;
mod conformance;
mod expect;
mod hostile;
mod inspect;
mod keep_alive;
mod multiplexed;
mod nginx;
mod proxy;
mod reach;
mod redirects;
mod sec;
mod settings;
mod support;
mod tls;
