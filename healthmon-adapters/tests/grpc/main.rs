//! The gRPC prober against real servers and against hostile ones, on loopback only.

mod answers;
mod conformance;
mod frames;
mod hostile;
mod keep_alive;
mod sec;
mod settings;
mod support;
mod tls;
mod watch;
