//! Load on a deployment of many processes: PostgreSQL, Redis, one node of each role and the target,
//! all on this machine. See the top of `main.rs` for the commands.

mod accounts;
mod database;
mod metrics;
mod nodes;
mod peer;
mod record;
mod schedule;
mod stack;
mod steady;

pub(crate) use record::run as role_record;

use std::time::Duration;

use crate::process::{Child, Report};

/// What is asked for on the command line beyond the mode.
pub(crate) struct Options<'a>(&'a [&'a str]);

impl<'a> Options<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|word| *word == name)?;
        Some(self.0.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")))
    }

    fn has(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} {text}: must be a number")))
    }

    /// `20s`, `500ms`.
    fn span(&self, name: &str) -> Option<Duration> {
        self.text(name).map(|text| {
            healthmon_core::time::span::parse(text).unwrap_or_else(|error| panic!("{name} {text}: {error}"))
        })
    }
}

/// Runs a mode; says whether it is one of these.
pub(crate) fn run(words: &[&str]) -> bool {
    let options = Options(words);
    match words.first().copied() {
        Some("cluster") => steady::steady(&options),
        Some("cluster-peak") => steady::peak(&options),
        Some("schedule-redis") => schedule::redis(&options),
        Some("million") => schedule::million(&options),
        Some("record-postgres") => record::postgres(&options),
        Some("peer") => peer::peer(&options),
        _ => return false,
    }
    true
}

/// The bare client: so many fresh-connection GETs a second, 0 for as many as it can.
fn control(ports: &str, rate: u64, seconds: u64) -> Report {
    Child::start("role-control", &[ports.to_owned(), rate.to_string(), seconds.to_string()]).report()
}

/// A runtime for what little the bench itself asks of servers.
fn wait<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(what)
}

/// How busy the machine was before anything was started: figures of a busy one are worth little.
fn note_load() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine before: {}", load.split_whitespace().take(3).collect::<Vec<_>>().join(" "));
}
