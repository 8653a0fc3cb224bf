//! The whole monitor in simulated time: loops, memory adapters, a prober that misbehaves.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tests say what they ran")]

mod blind;
mod bulkheads;
mod canary;
mod clock;
mod day;
mod degraded;
mod drain;
mod edges;
mod replay;
mod summary;
mod support;
mod watch;
