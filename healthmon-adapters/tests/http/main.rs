//! The HTTP prober over real sockets and real TLS, on loopback only.

mod answers;
mod conformance;
mod hostile;
mod keep_alive;
mod redirects;
mod sec;
mod settings;
mod support;
mod tls;
