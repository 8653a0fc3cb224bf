use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Den, free_port, run};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// How PostgreSQL is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, the data is written out.
    Fast,
    /// As after a crash: it recovers when it starts again.
    Immediate,
}

/// A PostgreSQL server of one's own. As root it runs as the user `postgres`, which refuses root.
#[derive(Debug)]
pub struct PrivatePostgres {
    den: Den,
    port: u16,
    programs: PathBuf,
}

impl PrivatePostgres {
    /// Makes a cluster and starts it. `fsync` is off: it survives this process's mishaps, not the machine's.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[("fsync", "off"), ("full_page_writes", "off")])
    }

    /// Makes a cluster with these settings beyond the usual ones, and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start_with(settings: &[(&str, &str)]) -> io::Result<Self> {
        let server = Self::prepared()?;
        run(server
            .as_server("initdb")
            .args(["--username=healthmon", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg(server.data()))?;
        server.configure(settings)?;
        server.resume()?;
        Ok(server)
    }

    /// A folder and a port, and the programs' place; nothing runs yet.
    fn prepared() -> io::Result<Self> {
        let server = Self { den: Den::new("postgres")?, port: free_port()?, programs: programs()? };
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&server.den.folder))?;
        }
        Ok(server)
    }

    fn configure(&self, settings: &[(&str, &str)]) -> io::Result<()> {
        let mut lines = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = 300\n\
             logging_collector = off\n",
            self.port,
            self.den.folder.display()
        );
        for (name, value) in settings {
            lines.push_str(&format!("{name} = '{value}'\n"));
        }
        let file = self.data().join("postgresql.conf");
        let before = fs::read_to_string(&file)?;
        fs::write(&file, before + &lines)
    }

    /// A streaming replica of this server, started with `name` as its `application_name`: what
    /// `synchronous_standby_names` of this server would call it.
    ///
    /// # Errors
    /// When it cannot be made or does not start.
    pub fn replica(&self, name: &str) -> io::Result<Self> {
        let replica = Self::prepared()?;
        run(replica
            .as_server("pg_basebackup")
            .args(["--host=127.0.0.1", "--username=healthmon", "--wal-method=stream", "--checkpoint=fast", "--no-sync"])
            .arg(format!("--port={}", self.port))
            .arg("--pgdata")
            .arg(replica.data()))?;
        let upstream = format!("host=127.0.0.1 port={} user=healthmon application_name={name}", self.port);
        replica.configure(&[("primary_conninfo", &upstream), ("hot_standby", "on")])?;
        fs::write(replica.data().join("standby.signal"), "")?;
        replica.resume()?;
        Ok(replica)
    }

    /// Makes a replica a primary.
    ///
    /// # Errors
    /// When it is none, or does not come up.
    pub fn promote(&self) -> io::Result<()> {
        run(self.as_server("pg_ctl").args(["promote", "--wait", "--pgdata"]).arg(self.data()))
    }

    /// Its port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database of it. The user is `healthmon`, a superuser without a password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://healthmon@127.0.0.1:{}/{database}", self.port)
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(&self, mode: StopMode) -> io::Result<()> {
        let mode = match mode {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        run(self.as_server("pg_ctl").args(["stop", "--wait", "--mode", mode, "--pgdata"]).arg(self.data()))?;
        fs::remove_file(self.den.path("postgres.pid")).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }

    /// Starts it again after it was stopped, on the same port, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start in time.
    pub fn resume(&self) -> io::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.den.path("postgres.log"))?;
        // A group of its own: an interrupt at the terminal is the tests' to handle.
        let mut command = self.as_server("postgres");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child =
            command.arg("-D").arg(self.data()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        fs::write(self.den.path("postgres.pid"), child.id().to_string())?;
        let deadline = Instant::now() + PATIENCE;
        let port = self.port.to_string();
        loop {
            let ready = self.as_server("pg_isready").args(["--quiet", "--host=127.0.0.1", "--port", &port]).status()?;
            // Whoever answers, it must be there itself.
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("PostgreSQL ended with {status}: {}", self.log()?)));
            }
            if ready.success() {
                // It is waited for so that it leaves no zombie; stopping goes by its own tools.
                thread::spawn(move || child.wait());
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!("PostgreSQL does not answer: {}", self.log()?)));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The number of its main process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&self) -> io::Result<u32> {
        fs::read_to_string(self.den.path("postgres.pid"))?.trim().parse().map_err(io::Error::other)
    }

    /// What it has logged.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> io::Result<String> {
        fs::read_to_string(self.den.path("postgres.log"))
    }

    fn data(&self) -> PathBuf {
        self.den.path("data")
    }

    /// One of PostgreSQL's programs, as the user that may run it.
    fn as_server(&self, program: impl AsRef<OsStr>) -> Command {
        let path = self.programs.join(Path::new(program.as_ref()));
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        // Folders that this user may not read are no place to start from.
        command.current_dir("/").env("LC_ALL", "C.UTF-8");
        command
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Where PostgreSQL's programs are: where Debian keeps them, a folder a version, of which the newest; or in
/// the path. `PG_BIN` names another folder, to test with another version.
fn programs() -> io::Result<PathBuf> {
    let has_server = |folder: &PathBuf| folder.join("initdb").exists();
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|found| found.filter_map(Result::ok).map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort();
    let on_path =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let named = std::env::var_os("PG_BIN").map(PathBuf::from);
    named.into_iter().chain(versions.into_iter().rev()).chain(on_path).find(has_server).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "PostgreSQL's initdb is nowhere; install Debian's postgresql")
    })
}
