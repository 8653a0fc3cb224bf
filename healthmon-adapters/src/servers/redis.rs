use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Den, free_port, missing};

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// A Redis server of one's own, which appends every write to a file before it answers.
#[derive(Debug)]
pub struct PrivateRedis {
    den: Den,
    port: u16,
    settings: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl PrivateRedis {
    /// Starts it. Writes are in the file when they are answered (`appendonly`), though not on the disk.
    ///
    /// # Errors
    /// When Redis is not installed or does not start.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"])
    }

    /// Starts it with these settings beyond the usual ones.
    ///
    /// # Errors
    /// When Redis is not installed or does not start.
    pub fn start_with(settings: &[&str]) -> io::Result<Self> {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Self { den: Den::new("redis")?, port: free_port()?, settings, child: Mutex::default() };
        server.resume()?;
        Ok(server)
    }

    /// Its port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The URL of one of its sixteen databases.
    pub fn url(&self, database: u8) -> String {
        format!("redis://127.0.0.1:{}/{database}", self.port)
    }

    /// Kills it, as `kill -9` does. Does nothing when it does not run.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&self) -> io::Result<()> {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Removes what it has written; only while it does not run.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn lose_data(&self) -> io::Result<()> {
        let folder = self.den.path("appendonlydir");
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        // Before version 7 it was one file.
        for file in ["appendonly.aof", "dump.rdb"].map(|name| self.den.path(name)) {
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    /// Starts it again after it was killed, on the same port, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start in time.
    pub fn resume(&self) -> io::Result<()> {
        let mut command = Command::new("redis-server");
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(&self.den.folder)
            .arg("--logfile")
            .arg(self.den.path("redis.log"))
            .args(&self.settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| missing(&command, &error))?;
        fs::write(self.den.path("redis.pid"), child.id().to_string())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answers = self.answers();
            // Whoever answers, it must be there itself.
            if let Some(status) = child.try_wait()? {
                let log = fs::read_to_string(self.den.path("redis.log"))?;
                return Err(io::Error::other(format!("Redis ended with {status}: {log}")));
            }
            if answers {
                break;
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other("Redis does not answer"));
            }
            thread::sleep(Duration::from_millis(5));
        }
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// The number of its process, while it runs.
    pub fn process(&self) -> Option<u32> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }

    /// Says a command to it by hand, and returns the beginning of what it answers.
    ///
    /// # Errors
    /// When it is not there.
    pub fn say(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
    }

    /// Whether it answers, and has loaded its data.
    fn answers(&self) -> bool {
        self.say("PING").is_ok_and(|answer| answer.starts_with("+PONG"))
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "a private Redis may be left over");
        }
    }
}
