//! A server process, a target that can be made to fail, an HTTP client, a WebSocket client.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt;
use healthmon_adapters::servers::free_port;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

/// Anything on this machine that takes longer than this will not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Every client is a socket of this process, and a thousand of them are more than most systems give unasked.
fn raise_limit_of_files() {
    static RAISED: Once = Once::new();
    RAISED.call_once(|| {
        rlimit::increase_nofile_limit(16_384).unwrap();
    });
}

/// The `healthmon` binary, running; killed when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `healthmon serve` on a free port over this database. Does not wait for it.
    pub(crate) fn start(database: &Path) -> Self {
        Self::with(database, &["serve"])
    }

    pub(crate) fn with(database: &Path, words: &[&str]) -> Self {
        Self::at([127, 0, 0, 1], database, words, &[])
    }

    /// Starts the binary over this database with these words and this environment, at this address.
    pub(crate) fn at(ip: [u8; 4], database: &Path, words: &[&str], environment: &[(&str, &str)]) -> Self {
        let file = database.to_str().unwrap();
        Self::spawn(ip, database, &[words, &["--database", file]].concat(), environment)
    }

    /// Starts the binary with these words on a free port, as one that may probe this machine though
    /// its database is shared; `beside` is what its log is called after.
    pub(crate) fn node(beside: &Path, words: &[&str]) -> Self {
        Self::spawn([127, 0, 0, 1], beside, words, &[("HEALTHMON_PROBE_LOOPBACK", "allowed")])
    }

    /// The same, as one of which nobody said what it may probe.
    pub(crate) fn cautious_node(beside: &Path, words: &[&str]) -> Self {
        Self::spawn([127, 0, 0, 1], beside, words, &[])
    }

    fn spawn(ip: [u8; 4], beside: &Path, words: &[&str], environment: &[(&str, &str)]) -> Self {
        raise_limit_of_files();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let listen = SocketAddr::from((ip, address.port())).to_string();
        let log = beside.with_extension(format!("{}.log", address.port()));
        let child = Command::new(env!("CARGO_BIN_EXE_healthmon"))
            .args(words)
            .args(["--listen", &listen])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { address, child, log }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal, such as `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        until("the server to end", async || self.try_wait()).await
    }

    /// How it ended, if it has.
    pub(crate) fn try_wait(&self) -> Option<std::process::ExitStatus> {
        // A second handle to the child would need unsafe code; a process that is gone has no /proc.
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let zombie = state.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'));
        zombie.then(|| {
            use std::os::unix::process::ExitStatusExt;
            let code = state.split_whitespace().last().and_then(|code| code.parse().ok()).unwrap_or(0);
            std::process::ExitStatus::from_raw(code)
        })
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn rss_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How much time its threads have spent on a CPU.
    pub(crate) fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let spent = threads.filter_map(|thread| {
            let spent = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            spent.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(spent.sum())
    }

    /// Waits until the API answers.
    pub(crate) async fn ready(&self) {
        until("the API", async || {
            let answer = self.try_request("GET", "/readyz", None).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.try_request("GET", path, None).await.unwrap()
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.try_request(method, path, body).await.unwrap()
    }

    pub(crate) async fn try_request(&self, method: &str, path: &str, body: Option<Value>) -> std::io::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.raw(request.body(Full::from(body)).unwrap()).await
    }

    /// Sends a request as it is.
    pub(crate) async fn raw(&self, request: Request<Full<Bytes>>) -> std::io::Result<Answer> {
        let stream = TcpStream::connect(self.address).await?;
        let broken = std::io::Error::other::<hyper::Error>;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let connection = tokio::spawn(connection);
        let answered = timeout(PATIENCE, sender.send_request(request)).await?.map_err(broken)?;
        let (head, body) = answered.into_parts();
        let bytes = timeout(PATIENCE, body.collect()).await?.map_err(broken)?.to_bytes();
        connection.abort();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, json, bytes })
    }

    /// Registers a service; returns its id.
    pub(crate) async fn register(&self, settings: Value) -> String {
        let answer = self.send("POST", "/api/v1/services", Some(settings)).await;
        assert_eq!(answer.status, 201, "{}", answer.json);
        answer.json["id"].as_str().unwrap().to_owned()
    }

    /// Connects to the events; the hello has been read.
    pub(crate) async fn events(&self, query: &str) -> std::io::Result<Events> {
        let url = format!("ws://{}/api/v1/events{query}", self.address);
        let connected = timeout(PATIENCE, tokio_tungstenite::connect_async(url)).await?;
        let (socket, _) = connected.map_err(std::io::Error::other)?;
        let mut events = Events { socket, hello: Value::Null };
        events.hello = events.next().await.ok_or(std::io::ErrorKind::ConnectionReset)?;
        Ok(events)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) json: Value,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The fields that a problem names.
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.json["errors"].as_array().into_iter().flatten().filter_map(|error| error["field"].as_str()).collect()
    }
}

/// A WebSocket client.
pub(crate) struct Events {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) hello: Value,
}

impl Events {
    /// The next frame with text; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("a frame in time")? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next transition.
    pub(crate) async fn transition(&mut self) -> Value {
        let event = self.next().await.expect("a transition");
        assert_eq!(event["type"], "transition", "{event}");
        event
    }
}

/// What every target answers.
pub(crate) const BODY: &str = "the target says quillwort";

/// An HTTP target whose answer can be changed, and that counts.
pub(crate) struct Target {
    pub(crate) url: String,
    status: Arc<AtomicU16>,
    served: Arc<AtomicU64>,
    authorization: Arc<Mutex<Option<String>>>,
}

impl Target {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (status, served) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU64::new(0)));
        let authorization: Arc<Mutex<Option<String>>> = Arc::default();
        let noted = Arc::clone(&authorization);
        let (answer, count) = (Arc::clone(&status), Arc::clone(&served));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, count, noted) = (Arc::clone(&answer), Arc::clone(&count), Arc::clone(&noted));
                let service = service_fn(move |request: Request<Incoming>| {
                    let value = request.headers().get("authorization");
                    *noted.lock().unwrap() = value.map(|value| value.to_str().unwrap().to_owned());
                    count.fetch_add(1, Ordering::SeqCst);
                    let status = answer.load(Ordering::SeqCst);
                    async move { Response::builder().status(status).body(Full::<Bytes>::from(BODY)) }
                });
                tokio::spawn(async move {
                    // A client that goes in the middle is its own affair.
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        Self { url, status, served, authorization }
    }

    pub(crate) fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// The credentials that the last request brought.
    pub(crate) fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap().clone()
    }

    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }
}

/// Looks until there is something, and panics when there is nothing for too long.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        pause().await;
    }
}

/// A moment between two looks.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// A folder for a database.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}
