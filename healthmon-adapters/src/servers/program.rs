use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Den, free_port, missing};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Any server program that runs in the foreground with settings of its own, such as a mail server.
///
/// ```no_run
/// use healthmon_adapters::servers::PrivateProgram;
/// use std::{fs, process::Command};
/// let server = PrivateProgram::start("web", |folder, port| {
///     fs::write(folder.join("index.html"), "hello")?;
///     let mut command = Command::new("python3");
///     command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]).current_dir(folder);
///     Ok(command)
/// })?;
/// assert_ne!(server.port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct PrivateProgram {
    port: u16,
    den: Den,
}

impl PrivateProgram {
    /// Starts what `prepare` makes of a folder and a port of 127.0.0.1, and waits until somebody
    /// listens there. The folder is readable for everybody, as servers like to become somebody else.
    ///
    /// # Errors
    /// When it cannot be prepared, is not installed, or does not start in time.
    pub fn start(name: &str, prepare: impl FnOnce(&Path, u16) -> io::Result<Command>) -> io::Result<Self> {
        let server = Self { den: Den::new(name)?, port: free_port()? };
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&server.den.folder, readable)?;
        let mut command = prepare(&server.den.folder, server.port)?;
        let path = server.den.path("program.log");
        let log = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(|error| missing(&command, &error))?;
        // Its whole group is to go in the end, which is what a number below zero says.
        fs::write(server.den.path("program.pid"), format!("-{}", child.id()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listens = TcpStream::connect(address).is_ok();
            let said = || fs::read_to_string(&path).unwrap_or_default();
            // Whoever listens, it must be there itself.
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("{name} ended with {status}: {}", said())));
            }
            if listens {
                // It is waited for so that it leaves no zombie.
                thread::spawn(move || child.wait());
                return Ok(server);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!("{name} does not listen: {}", said())));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.den.folder
    }

    /// What it has said on its standard output and its standard error.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> io::Result<String> {
        fs::read_to_string(self.den.path("program.log"))
    }
}
