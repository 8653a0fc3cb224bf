//! Child processes, and what they used.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// User and system time of all threads.
    pub(crate) cpu_us: u64,
    /// Resident memory now.
    pub(crate) rss_kb: u64,
}

impl Usage {
    /// Of this process, from /proc.
    pub(crate) fn now() -> Self {
        // Nanoseconds on a CPU, summed over the threads; threads that ended are not counted, and
        // there are none.
        let tasks = std::fs::read_dir("/proc/self/task").expect("the list of threads");
        let on_cpu = |task: std::io::Result<std::fs::DirEntry>| -> u64 {
            let text = std::fs::read_to_string(task.expect("a thread").path().join("schedstat")).unwrap_or_default();
            text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
        };
        let cpu_us = tasks.map(on_cpu).sum::<u64>() / 1_000;
        let status = std::fs::read_to_string("/proc/self/status").expect("this process's status");
        let rss_kb = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .expect("VmRSS");
        Self { cpu_us, rss_kb }
    }
}

/// What a role did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Probes performed while it was measured.
    pub(crate) probes: u64,
    /// How long it was measured.
    pub(crate) wall_us: u64,
    /// What it used meanwhile; memory at the end.
    pub(crate) usage: Usage,
    /// Slots that fell due, and how many of them have a result.
    pub(crate) due: u64,
    pub(crate) recorded: u64,
    /// p50, p99 and the worst, from slot to start.
    pub(crate) lateness_us: [i64; 3],
    pub(crate) first_probe_ms: u64,
    pub(crate) unseen: u64,
}

impl Report {
    pub(crate) fn cpu_us_per_probe(&self) -> f64 {
        self.usage.cpu_us as f64 / self.probes.max(1) as f64
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.probes as f64 / self.wall_us.max(1) as f64 * 1e6
    }

    /// Hands the report to the parent.
    pub(crate) fn send(&self) {
        println!("{}", serde_json::to_string(self).expect("plain data"));
    }
}

/// A role in a process of its own, ended when dropped.
pub(crate) struct Child {
    child: std::process::Child,
    lines: std::cell::RefCell<BufReader<std::process::ChildStdout>>,
}

impl Child {
    pub(crate) fn start(role: &str, args: &[String]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg(role)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child process");
        let lines = BufReader::new(child.stdout.take().expect("its output")).into();
        Self { child, lines }
    }

    pub(crate) fn line(&self) -> String {
        let mut line = String::new();
        self.lines.borrow_mut().read_line(&mut line).expect("a line from the child");
        line.trim().to_owned()
    }

    pub(crate) fn report(self) -> Report {
        serde_json::from_str(&self.line()).expect("a report from the child")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
