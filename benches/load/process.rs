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
    /// Of that, SQLite's threads.
    pub(crate) sqlite_us: u64,
    /// Resident memory now.
    pub(crate) rss_kb: u64,
}

impl Usage {
    /// Of this process, from /proc.
    pub(crate) fn now() -> Self {
        // Nanoseconds on a CPU, thread by thread; threads that ended are not counted, and there are
        // none that matter.
        let (mut cpu_us, mut sqlite_us) = (0, 0);
        for task in std::fs::read_dir("/proc/self/task").expect("the list of threads") {
            let folder = task.expect("a thread").path();
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            let ns: u64 = read("schedstat").split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            cpu_us += ns / 1_000;
            if read("comm").starts_with("sqlx-sqlite") {
                sqlite_us += ns / 1_000;
            }
        }
        let status = std::fs::read_to_string("/proc/self/status").expect("this process's status");
        let rss_kb = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
            .expect("VmRSS");
        Self { cpu_us, sqlite_us, rss_kb }
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

impl Usage {
    /// What has been used since `before`; memory as it is now.
    pub(crate) fn since(self, before: Self) -> Self {
        let (cpu_us, sqlite_us) = (self.cpu_us - before.cpu_us, self.sqlite_us - before.sqlite_us);
        Self { cpu_us, sqlite_us, ..self }
    }
}

impl Report {
    pub(crate) fn cpu_us_per_probe(&self) -> f64 {
        self.usage.cpu_us as f64 / self.probes.max(1) as f64
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.probes as f64 / self.wall_us.max(1) as f64 * 1e6
    }

    /// What a child handed over.
    pub(crate) fn of(line: &str) -> Self {
        serde_json::from_str(line).expect("a report from the child")
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

    /// The number of its process.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&self) -> String {
        let mut line = String::new();
        self.lines.borrow_mut().read_line(&mut line).expect("a line from the child");
        line.trim().to_owned()
    }

    pub(crate) fn report(self) -> Report {
        Report::of(&self.line())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
