//! A deployment of real processes, each behind proxies of its own to PostgreSQL and Redis.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use bytes::Bytes;
use healthmon_adapters::{
    postgres::{PostgresOptions, PostgresResultStore},
    servers::{PrivatePostgres, PrivateRedis, free_port},
};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{arguments::Arguments, proxy::Proxy};

const DATABASE: &str = "postgres";
/// Anything that takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of the deployment, running or not.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) postgres: Proxy,
    pub(crate) redis: Proxy,
    child: Option<Child>,
    folder: PathBuf,
    binary: PathBuf,
    more: Vec<String>,
}

impl Node {
    /// Starts it, with a wall clock that can be set.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log file");
        self.set_clock(0);
        let child = Command::new(&self.binary)
            // Targets are on this machine, which workers of a shared database do not probe unasked.
            .env("HEALTHMON_PROBE_LOOPBACK", "allowed")
            .args(["serve", "--log-format", "text", "--listen", &self.address.to_string(), "--role", self.role])
            .args(["--node", &self.name, "--drain", "5s"])
            .args(["--database", &format!("postgres://healthmon@{}/{DATABASE}", self.postgres.address)])
            .args(["--queue", &format!("redis://{}/0", self.redis.address)])
            .args(&self.more)
            .env("LD_PRELOAD", faketime())
            .env("FAKETIME_TIMESTAMP_FILE", self.clock_file())
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stderr(log.try_clone().expect("a log file"))
            .stdout(log)
            .spawn()
            .expect("the binary runs");
        self.child = Some(child);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("asked").is_none())
    }

    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    /// Sends SIGTERM and waits for the end. Returns how it ended; none when it had to be killed.
    pub(crate) async fn terminate(&mut self) -> Option<std::process::ExitStatus> {
        self.signal("TERM");
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().expect("asked")) {
                self.child = None;
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.kill();
        None
    }

    pub(crate) fn signal(&self, name: &str) {
        let Some(child) = &self.child else { return };
        Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().expect("kill runs");
    }

    /// Sets its wall clock off by so many seconds.
    pub(crate) fn set_clock(&self, seconds: i64) {
        fs::write(self.clock_file(), format!("{seconds:+}")).expect("written");
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Its resident memory.
    pub(crate) fn rss_kb(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn clock_file(&self) -> PathBuf {
        self.folder.join(format!("{}.clock", self.name))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The library that sets a process's wall clock: Debian's faketime.
fn faketime() -> PathBuf {
    let places = fs::read_dir("/usr/lib").expect("a folder").filter_map(Result::ok);
    let file = |place: fs::DirEntry| place.path().join("faketime/libfaketime.so.1");
    places.map(file).find(|file| file.exists()).expect("libfaketime.so.1; install Debian's faketime")
}

pub(crate) struct Stack {
    pub(crate) nodes: Vec<Node>,
    pub(crate) postgres: PrivatePostgres,
    pub(crate) redis: PrivateRedis,
    /// Kept as long as the processes write there.
    _folder: tempfile::TempDir,
}

impl Stack {
    /// Starts servers and processes: so many of each role.
    pub(crate) async fn start(arguments: &Arguments, roles: &[(&'static str, usize)], more: &[&str]) -> Self {
        let durable = [("fsync", "off"), ("full_page_writes", "on"), ("max_connections", "300")];
        let postgres = PrivatePostgres::start_with(&durable).expect("PostgreSQL starts");
        let redis = PrivateRedis::start().expect("Redis starts");
        let folder = tempfile::tempdir().expect("a folder");
        let mut nodes = Vec::new();
        for &(role, count) in roles {
            for number in 1..=count {
                nodes.push(Node {
                    name: format!("{role}-{number}"),
                    role,
                    // No outgoing connection is given it either while its process is down.
                    address: SocketAddr::from(([127, 0, 0, 1], free_port().expect("a port"))),
                    postgres: Proxy::to(postgres.port()).await,
                    redis: Proxy::to(redis.port()).await,
                    child: None,
                    folder: folder.path().to_owned(),
                    binary: arguments.binary(),
                    more: more.iter().map(|word| (*word).to_owned()).collect(),
                });
            }
        }
        let mut stack = Self { nodes, postgres, redis, _folder: folder };
        stack.nodes.iter_mut().for_each(Node::start);
        stack.all_ready().await;
        stack
    }

    /// Waits until every process says that it is ready.
    pub(crate) async fn all_ready(&mut self) {
        let until = Instant::now() + PATIENCE;
        for at in 0..self.nodes.len() {
            loop {
                let answer = request(self.nodes[at].address, "GET", "/readyz", None).await;
                if answer.as_ref().is_ok_and(|(status, _)| *status == 200) {
                    break;
                }
                let node = &mut self.nodes[at];
                assert!(node.is_running(), "{} has ended:\n{}", node.name, node.log());
                let log = node.log();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                assert!(Instant::now() < until, "{} is not ready: {answer:?}\n{}", node.name, tail.join("\n"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Places of the processes with this role.
    pub(crate) fn of(&self, role: &str) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].role == role).collect()
    }

    pub(crate) fn addresses(&self, role: &str) -> Vec<SocketAddr> {
        self.of(role).into_iter().map(|at| self.nodes[at].address).collect()
    }

    /// Registers a service by the API; returns its id.
    pub(crate) async fn register(&self, settings: &Value) -> String {
        let api = self.addresses("api")[0];
        let (status, body) = request(api, "POST", "/api/v1/services", Some(settings)).await.expect("an answer");
        assert_eq!(status, 201, "{body}");
        body["id"].as_str().expect("an id").to_owned()
    }

    /// The database past every proxy, for who looks at what was recorded.
    pub(crate) async fn store(&self) -> PostgresResultStore {
        PostgresResultStore::connect(PostgresOptions::new(self.postgres_url())).await.expect("the database is there")
    }

    pub(crate) fn postgres_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// What every process logged, by its name.
    pub(crate) fn logs(&self) -> BTreeMap<&str, String> {
        self.nodes.iter().map(|node| (node.name.as_str(), node.log())).collect()
    }

    /// Copies what was logged to a folder.
    pub(crate) fn keep_logs(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder");
        for node in &self.nodes {
            fs::copy(node.log_file(), folder.join(format!("{}.log", node.name))).expect("copied");
        }
        fs::write(folder.join("postgres.log"), self.postgres.log().unwrap_or_default()).expect("written");
    }
}

/// One request on a connection of its own.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<(u16, Value)> {
    let broken = std::io::Error::other::<hyper::Error>;
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", address.to_string());
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let answer = sender.send_request(request.body(Full::<Bytes>::from(body)).expect("a request")).await;
        let (head, body) = answer.map_err(broken)?.into_parts();
        let bytes = body.collect().await.map_err(broken)?.to_bytes();
        connection.abort();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Ok((head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_else(|_| text())))
    };
    tokio::time::timeout(Duration::from_secs(10), asked)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
