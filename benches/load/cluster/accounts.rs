//! What processes use, read from outside.

use std::{collections::HashMap, fs, time::Instant};

/// A tick of /proc's clocks, in microseconds. Their sum is exact; only its reading is this coarse.
const TICK_US: u64 = 10_000;

/// A process that is measured, with all that descend from it.
#[derive(Clone)]
pub(crate) struct Account {
    pub(crate) name: &'static str,
    pub(crate) process: u32,
}

/// What everybody had used at a moment.
pub(crate) struct Books {
    at: Instant,
    used: Vec<(&'static str, u64)>,
    memory_kb: Vec<u64>,
    everybody_us: u64,
}

/// What was used between two moments.
pub(crate) struct Spent {
    pub(crate) wall_us: u64,
    used: Vec<(&'static str, u64)>,
    /// At the end.
    memory_kb: Vec<u64>,
    /// By processes that are not part of the run.
    strangers_us: u64,
}

impl Books {
    pub(crate) fn read(accounts: &[Account]) -> Self {
        let all = processes();
        let used = accounts.iter().map(|account| (account.name, of_family(&all, account.process))).collect();
        let memory_kb = accounts.iter().map(|account| memory_kb(account.process)).collect();
        Self { at: Instant::now(), used, memory_kb, everybody_us: busy_us() }
    }

    pub(crate) fn until(&self, later: &Self) -> Spent {
        let used: Vec<_> = self
            .used
            .iter()
            .zip(&later.used)
            .map(|(before, after)| (before.0, after.1.saturating_sub(before.1)))
            .collect();
        let own: u64 = used.iter().map(|(_, us)| us).sum();
        Spent {
            wall_us: u64::try_from((later.at - self.at).as_micros()).expect("not so long"),
            strangers_us: (later.everybody_us - self.everybody_us).saturating_sub(own),
            used,
            memory_kb: later.memory_kb.clone(),
        }
    }
}

impl Spent {
    pub(crate) fn of(&self, name: &str) -> u64 {
        self.used.iter().filter(|(other, _)| *other == name).map(|(_, us)| us).sum()
    }

    pub(crate) fn sum(&self, names: &[&str]) -> u64 {
        names.iter().map(|name| self.of(name)).sum()
    }

    /// A line for each process: CPU for each of so many pieces of work, and memory now.
    pub(crate) fn print(&self, each: &str, pieces: u64) {
        println!("  {:<12} {:>14} {:>12} {:>12}", "process", format!("us CPU/{each}"), "% of a core", "memory MB");
        for ((name, us), memory_kb) in self.used.iter().zip(&self.memory_kb) {
            self.line(name, *us, pieces, &format!("{:.0}", *memory_kb as f64 / 1e3));
        }
        self.line("others", self.strangers_us, pieces, "");
        println!(
            "  (PostgreSQL with all its processes; memory: PostgreSQL's main process alone; others: not of this run)"
        );
    }

    fn line(&self, name: &str, us: u64, pieces: u64, memory: &str) {
        let (each, share) = (us as f64 / pieces.max(1) as f64, us as f64 / self.wall_us as f64 * 100.0);
        println!("  {name:<12} {each:>14.2} {share:>12.1} {memory:>12}");
    }
}

/// Resident memory now.
pub(crate) fn memory_kb(process: u32) -> u64 {
    of_status(process, "VmRSS:")
}

/// The most resident memory there has been.
pub(crate) fn most_memory_kb(process: u32) -> u64 {
    of_status(process, "VmHWM:")
}

fn of_status(process: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Parent and CPU time, that of children waited for included, of every process there is.
fn processes() -> HashMap<u32, (u32, u64)> {
    let ids = fs::read_dir("/proc")
        .expect("the list of processes")
        .filter_map(|entry| entry.ok().and_then(|entry| entry.file_name().to_str()?.parse::<u32>().ok()));
    let read = |id: u32| {
        // Some end while we look.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split(' ').collect();
        let ticks: u64 = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Some((id, (fields.get(1)?.parse().ok()?, ticks * TICK_US)))
    };
    ids.filter_map(read).collect()
}

fn of_family(all: &HashMap<u32, (u32, u64)>, root: u32) -> u64 {
    let is_of = |mut id: u32| loop {
        match all.get(&id) {
            _ if id == root => return true,
            Some((parent, _)) if *parent > 1 => id = *parent,
            _ => return false,
        }
    };
    all.iter().filter(|(id, _)| is_of(**id)).map(|(_, (_, us))| us).sum()
}

/// What all CPUs have spent on anything.
fn busy_us() -> u64 {
    let stat = fs::read_to_string("/proc/stat").expect("the kernel's counts");
    let ticks: Vec<u64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
    // user, nice, system, then idle and waiting for the disk, then interrupts.
    let idle = ticks.get(3..5).map_or(0, |idle| idle.iter().sum());
    (ticks.iter().take(8).sum::<u64>() - idle) * TICK_US
}
