//! What the tests of the probers of bare connections share: peers that do what a test wants,
//! certificates, and probes against them.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use healthmon_adapters::net::{AddressPolicy, Dialer, LookupPermit, Loopback, ResolveError, Resolver, tls::TlsClient};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Prober,
    probe::{Kind, Observation, Probe},
    service::{Activity, Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{ServerConfig, SupportedProtocolVersion, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// Enough for a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The deadline of targets that hang.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// The deadline of targets that hang when they have said something, which is told of them.
pub(crate) const LATER: Duration = Duration::from_millis(1_500);
/// How late a probe may come back on a busy machine.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// A server on loopback; it ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
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
        Self { address, accepted, task }
    }

    /// One that takes no connection, as behind a firewall that drops: its queue is full.
    pub(crate) async fn blackhole() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let listener = socket.listen(1).expect("a listener");
        let address = listener.local_addr().expect("bound");
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..8 {
            waiting.spawn(TcpStream::connect(address));
        }
        for _ in 0..2 {
            waiting.join_next().await.expect("one of eight").expect("no panic").expect("the queue takes two");
        }
        let task = tokio::spawn(async move {
            let _held = (listener, waiting);
            std::future::pending().await
        });
        Self { address, accepted: Arc::default(), task }
    }

    /// Where nobody listens.
    pub(crate) async fn nobody() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("bound")
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Reads until the peer closes or resets.
pub(crate) async fn wait_for_end(stream: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
}

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for `name` that expires on the first day of `year`.
    pub(crate) fn sign(&self, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// A certificate for `mail.test`, which is good.
    pub(crate) fn good(&self) -> Identity {
        self.sign("mail.test", 2200)
    }

    /// A client that trusts it.
    pub(crate) fn tls(&self) -> TlsClient {
        TlsClient::new(self.pem.as_bytes()).expect("a certificate")
    }
}

pub(crate) fn acceptor(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> TlsAcceptor {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("a certificate");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate");
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// A resolver that knows this machine as `mail.test` and as nothing else.
struct Names;

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, host: &str, _: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        match host {
            "mail.test" => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
            _ => Err(ResolveError::Failed("no such name".to_owned())),
        }
    }
}

/// A dialer that may probe this machine, or may not.
pub(crate) fn dialer(loopback: Loopback) -> Arc<Dialer> {
    Arc::new(Dialer::new(AddressPolicy::new(loopback)).with_resolver(Arc::new(Names)))
}

pub(crate) fn settings(url: &str, timeout: Duration, options: &Value) -> ServiceSettings {
    let mut json =
        json!({"name": "target", "url": url, "interval": "1h", "timeout": format!("{}ms", timeout.as_millis())});
    let sections = options.as_object().expect("an object").clone();
    json.as_object_mut().expect("an object").extend(sections);
    serde_json::from_value(json).expect("settings")
}

pub(crate) fn probe_of(settings: ServiceSettings) -> Probe {
    // 41 days before the year 2100, for certificates that expire then; none of them does in earnest.
    let now = Timestamp::from_millis(4_098_852_000_000);
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

/// Probes `url` with `options`, which must be right. Whatever comes of it, it comes on time.
pub(crate) async fn see_within(prober: &dyn Prober, url: &str, timeout: Duration, options: &Value) -> Observation {
    let settings = settings(url, timeout, options);
    prober.check(&settings).expect("settings that the prober takes");
    let begun = std::time::Instant::now();
    let seen = prober.probe(&probe_of(settings)).await;
    assert!(begun.elapsed() < timeout + GRACE, "{url} {options}: took {:?}: {seen:?}", begun.elapsed());
    assert!(u128::from(seen.latency_us) <= timeout.as_micros(), "{url} {options}: {seen:?}");
    seen
}

pub(crate) async fn see(prober: &dyn Prober, url: &str, options: &Value) -> Observation {
    see_within(prober, url, PATIENCE, options).await
}

pub(crate) fn detail(seen: &Observation) -> &str {
    seen.detail.as_deref().unwrap_or_default()
}

/// The fields that a prober finds wrong.
pub(crate) fn wrong_fields(prober: &dyn Prober, url: &str, options: &Value) -> Vec<String> {
    match prober.check(&settings(url, Duration::from_secs(1), options)) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.field.clone()).collect(),
    }
}

/// The most memory that this process took while `work` was done, beyond what it took before, in kB.
pub(crate) async fn growth_kb<F: Future>(work: F) -> (u64, F::Output) {
    let before = memory_kb("VmRSS:");
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    let done = work.await;
    (memory_kb("VmHWM:").saturating_sub(before), done)
}

fn memory_kb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
