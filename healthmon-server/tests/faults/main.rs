//! The fault harness: a whole deployment of real processes over a real PostgreSQL and Redis, broken
//! again and again, and held against what really happened.
//!
//! ```text
//! cargo test -p healthmon-server --test faults                               # a short piece, the same each time
//! cargo test -p healthmon-server --test faults -- --faults 300               # a long form, other faults each time
//! cargo test -p healthmon-server --test faults -- --faults 300 --seed 7      # the same faults again
//! cargo test -p healthmon-server --test faults -- takeover --repetitions 20  # how long a takeover takes
//! cargo test -p healthmon-server --test faults -- outage --minutes 10 --rate 500
//! ```
//!
//! Two schedulers, three workers, two recorders and two API nodes run as processes of their own,
//! each behind proxies to database and queue. Targets follow a script that the harness knows. An
//! independent WebSocket client follows the events. In the end a checker that knows only the naive
//! oracle looks at what was recorded, what was told, and what was true. A witness notes when the machine
//! itself stood still: that may excuse what came late then, and nothing else.

#![expect(clippy::print_stdout, reason = "it says what it does and finds")]

mod arguments;
mod checker;
mod client;
mod fault;
mod numbers;
mod outage;
mod piece;
mod proxy;
mod stack;
mod takeover;
mod target;
mod window;
mod witness;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !arguments.is_wanted() {
        return ExitCode::SUCCESS;
    }
    if arguments.lists() {
        println!("faults: test");
        return ExitCode::SUCCESS;
    }
    let verdict = match &arguments.command {
        None => piece::run(&arguments).await,
        Some(Command::Takeover { repetitions }) => takeover::run(&arguments, *repetitions).await,
        Some(Command::Outage { minutes, rate }) => outage::run(&arguments, *minutes, *rate).await,
    };
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(faults) => {
            println!("\nNOT KEPT:");
            for fault in &faults {
                println!("  - {fault}");
            }
            ExitCode::FAILURE
        }
    }
}
