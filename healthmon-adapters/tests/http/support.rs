//! Servers that do what a test wants, and probes against them.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, LookupPermit, Loopback, ResolveError, Resolver},
};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Prober,
    probe::{Inspection, Kind, Observation, Probe},
    service::{Activity, Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Enough for a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server on loopback; it ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Gives every connection to `serve`.
    pub(crate) async fn raw<F, S>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::on(listener, Arc::default(), serve)
    }

    fn on<F, S>(listener: TcpListener, requests: Arc<Mutex<Vec<String>>>, serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                open.spawn(serve(stream));
            }
        });
        Self { address, accepted, requests, task }
    }

    /// Answers every request, over and over, with what `answer` makes of it.
    pub(crate) async fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::answering_on("127.0.0.1:0".parse().expect("an address"), answer).await
    }

    pub(crate) async fn answering_on(
        address: SocketAddr,
        answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        let answer = Arc::new(answer);
        Self::on(listener, requests, move |mut stream| {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    seen.lock().expect("not poisoned").push(request.clone());
                    if stream.write_all(&answer(&request)).await.is_err() {
                        break;
                    }
                }
            }
        })
    }

    /// Sends `bytes` once a request has come, and closes.
    pub(crate) async fn sending(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = Arc::new(bytes.into());
        Self::raw(move |mut stream| {
            let bytes = Arc::clone(&bytes);
            async move {
                read_request(&mut stream).await;
                // A prober that has seen enough may be gone by now.
                stream.write_all(&bytes).await.ok();
                stream.shutdown().await.ok();
                wait_for_end(&mut stream).await;
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

/// One request with its body, as text; `None` when the peer has gone.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => request.push(byte[0]),
            _ => return None,
        }
    }
    let head = String::from_utf8(request).expect("text");
    let length = header(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + std::str::from_utf8(&body).expect("text"))
}

/// The value of a header in a request's text.
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Reads until the peer closes or resets.
pub(crate) async fn wait_for_end(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
}

/// A resolver that knows what `names` says and nothing else.
pub(crate) struct Names(pub(crate) Lookup);

/// The addresses of a name.
pub(crate) type Lookup = Box<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

impl Names {
    pub(crate) fn all_at(address: &str) -> Arc<Self> {
        let address = address.parse().expect("an address");
        Arc::new(Self(Box::new(move |_| vec![address])))
    }
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str, _: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        match (self.0)(host) {
            none if none.is_empty() => Err(ResolveError::Failed("no such name".to_owned())),
            some => Ok(some),
        }
    }
}

pub(crate) fn dialer(policy: AddressPolicy) -> Dialer {
    Dialer::new(policy).with_resolver(Arc::new(Names(Box::new(|_| Vec::new()))))
}

pub(crate) fn prober_with(dialer: Dialer) -> HttpProber {
    HttpProber::new(HttpProberConfig { dialer: dialer.into(), ..Default::default() }).expect("a prober")
}

/// A prober that may probe this machine.
pub(crate) fn prober() -> HttpProber {
    prober_with(dialer(AddressPolicy::new(Loopback::Allowed)))
}

/// A prober for which of this machine only 127.0.0.2 exists.
pub(crate) fn policy_of_one() -> AddressPolicy {
    AddressPolicy::new(Loopback::Refused).allow("127.0.0.2/32".parse().expect("a network"))
}

pub(crate) fn settings(url: &str, timeout: Duration, options: &Value) -> ServiceSettings {
    let mut json =
        json!({"name": "target", "url": url, "interval": "1h", "timeout": format!("{}ms", timeout.as_millis())});
    let sections = options.as_object().expect("an object").clone();
    json.as_object_mut().expect("an object").extend(sections);
    serde_json::from_value(json).expect("settings")
}

pub(crate) fn probe_of(settings: ServiceSettings) -> Probe {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let service = Service {
        id: ServiceId::new(1).expect("an id"),
        settings,
        activity: Activity::Active,
        revision: Revision(1),
        epoch: Epoch(1),
        created_at: now,
        updated_at: now,
        scheduled_since: now,
    };
    Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Scheduled)
}

/// Probes `url` with `options`, which must be right.
pub(crate) async fn see(prober: &HttpProber, url: &str, options: Value) -> Observation {
    see_within(prober, url, PATIENCE, options).await
}

pub(crate) async fn see_within(prober: &HttpProber, url: &str, timeout: Duration, options: Value) -> Observation {
    let settings = settings(url, timeout, &options);
    prober.check(&settings).expect("settings that the prober takes");
    prober.probe(&probe_of(settings)).await
}

/// Takes a closer look at `url` with `options`, which must be right.
pub(crate) async fn inspect(prober: &HttpProber, url: &str, options: Value) -> Inspection {
    let settings = settings(url, PATIENCE, &options);
    prober.check(&settings).expect("settings that the prober takes");
    prober.inspect(&probe_of(settings)).await
}

pub(crate) fn detail(seen: &Observation) -> &str {
    seen.detail.as_deref().unwrap_or_default()
}

/// A whole answer with this status, extra header lines and body.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Whatever\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
