//! Private PostgreSQL, Redis and other servers, for tests and load runs of adapters and of programs that
//! embed healthmon.
//!
//! Each has a folder and a port of its own on loopback, and goes, folder and all, when its handle
//! is dropped or this process ends, however it ends: a watchdog process reads from a pipe that
//! ends with it. They are real servers and can be stopped, killed and started again.

mod alone;
mod postgres;
mod program;
mod redis;
mod unbound;

pub use alone::run_alone;
pub use postgres::{PrivatePostgres, StopMode};
pub use program::PrivateProgram;
pub use redis::PrivateRedis;
pub use unbound::{PrivateUnbound, UnboundSetup};

use std::{
    io,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// A port of 127.0.0.1 that nobody has now, neither for connections nor for datagrams, and that this
/// process is given once. The system gives none like it to whoever asks for any (Linux takes those from
/// 32768 on), so that it is free still when a server takes it, or takes it again.
///
/// # Errors
/// When none is free.
pub fn free_port() -> io::Result<u16> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Processes that begin one after the other are given ports that lie apart.
        let place = std::process::id().wrapping_mul(101).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + place % COUNT).map_err(io::Error::other)?;
        let address = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port below those that the system gives is free"))
}

/// A temporary folder and the watchdog that clears it up.
#[derive(Debug)]
struct Den {
    folder: PathBuf,
    watchdog: Child,
}

impl Den {
    /// A folder of its own. Whatever process has its number in a file `*.pid` there is killed in the end.
    fn new(name: &str) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("healthmon-{name}-")).tempdir()?.keep();
        let script = r#"read _; for file in "$0"/*.pid; do [ -f "$file" ] && kill -KILL "$(head -n 1 "$file")"; done; \
            for _ in 1 2 3 4 5; do rm -rf "$0" && break; sleep 0.2; done"#;
        let watchdog = Command::new("sh")
            .args(["-c", script])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { folder, watchdog })
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Den {
    fn drop(&mut self) {
        // The end of its input is its sign; it has nothing to report.
        drop(self.watchdog.stdin.take());
        if let Err(error) = self.watchdog.wait() {
            tracing::warn!(%error, folder = %self.folder.display(), "a private server may be left over");
        }
    }
}

/// Runs a command to its end.
fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output().map_err(|error| missing(command, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", command.get_program().display(), said.trim())))
}

/// Says which program is missing, and how it is had.
fn missing(command: &Command, error: &io::Error) -> io::Error {
    let program = command.get_program().display();
    io::Error::new(error.kind(), format!("cannot run {program}: {error}; install what .ci/test says it needs"))
}
