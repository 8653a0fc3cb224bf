//! The whole monitor in simulated time: loops, memory adapters, a prober that misbehaves.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they ran")]

mod blind;
mod clock;
mod drain;
mod replay;
mod summary;
mod support;
mod watch;
