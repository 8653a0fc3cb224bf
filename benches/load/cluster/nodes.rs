//! Processes of the real binary, one role each.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{accounts::Account, metrics::Metrics};

/// Anything that takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(180);

/// The binary of the same build as this bench. `cargo bench` does not build other packages'
/// binaries, so under it this does.
pub(crate) fn binary() -> PathBuf {
    if let Some(cargo) = std::env::var_os("CARGO") {
        println!("building the binary: cargo build --release --package healthmon-server");
        let built = Command::new(cargo).args(["build", "--release", "--package", "healthmon-server"]).status();
        assert!(built.expect("cargo runs").success(), "the binary does not build");
    }
    let bench = std::env::current_exe().expect("this program");
    let folder = bench.parent().and_then(Path::parent).expect("the folder of the build");
    let binary = folder.join("healthmon");
    assert!(binary.exists(), "{} is missing: cargo build --release --package healthmon-server", binary.display());
    binary
}

/// A node, killed when dropped.
pub(crate) struct Node {
    pub(crate) role: &'static str,
    port: u16,
    child: Child,
    log: PathBuf,
}

impl Node {
    pub(crate) fn start(binary: &Path, role: &'static str, folder: &Path, more: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let log = folder.join(format!("{role}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(binary)
            // Targets are on this machine, which workers of a shared database do not probe unasked.
            .env("HEALTHMON_PROBE_LOOPBACK", "allowed")
            .args(["serve", "--role", role, "--node", role, "--log", "warn", "--listen", &format!("127.0.0.1:{port}")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .spawn()
            .expect("the binary runs");
        Self { role, port, child, log }
    }

    pub(crate) fn account(&self) -> Account {
        Account { name: self.role, process: self.child.id() }
    }

    /// Waits until it says that it is ready.
    pub(crate) fn ready(&mut self) {
        let until = Instant::now() + PATIENCE;
        while !self.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            let ended = self.child.try_wait().expect("asked");
            assert!(ended.is_none(), "{} has ended: {}", self.role, self.log());
            assert!(Instant::now() < until, "{} is not ready: {}", self.role, self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.get("/metrics").map(|text| Metrics::parse(&text)).unwrap_or_default()
    }

    /// What it had to say, which is little when all is well.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let ask = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n\r\n", self.port);
        stream.write_all(ask.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
