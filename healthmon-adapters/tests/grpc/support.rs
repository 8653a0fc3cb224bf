//! Servers that do what a test wants, and probes against them.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use healthmon_adapters::{
    grpc::{GrpcProber, GrpcProberConfig},
    net::{AddressPolicy, Dialer, LookupPermit, Loopback, ResolveError, Resolver},
};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Prober,
    probe::{Kind, Observation, Probe},
    service::{Activity, Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use hyper::HeaderMap;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Request, Response, Status,
    codegen::{
        Service as HttpService, http,
        tokio_stream::{Stream, StreamExt as _},
    },
    server::NamedService,
    transport::{
        Server,
        server::{ServerTlsConfig, TcpIncoming},
    },
};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, HealthCheckResponse,
        health_server::{Health, HealthServer},
    },
    server::HealthReporter,
};

/// Enough for a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a request looked like when it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
}

impl Arrived {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A real tonic server on loopback; it ends with the test.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    task: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    /// Serves gRPC's health service as `health` does it.
    pub(crate) async fn serving<H: Health>(health: HealthServer<H>, tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (accepted, arrived) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<Arrived>>>::default());
        let count = Arc::clone(&accepted);
        let incoming = TcpIncoming::from(listener).map(move |connection| {
            count.fetch_add(1, Ordering::SeqCst);
            connection
        });
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).expect("a certificate");
        }
        let listening = Listening { inner: health, arrived: Arc::clone(&arrived) };
        let serving = server.add_service(listening).serve_with_incoming(incoming);
        let task = tokio::spawn(async move { serving.await.expect("it serves until the test ends") });
        Self { address, accepted, arrived, task }
    }

    /// Answers every check as `answer` does.
    pub(crate) async fn answering(answer: impl Fn(&str) -> Result<i32, Status> + Send + Sync + 'static) -> Self {
        Self::serving(HealthServer::new(Scripted(Box::new(answer))), None).await
    }

    /// Serves as tonic's own health service does: `shop.v1.Cart` is up, `shop.v1.Till` is not.
    pub(crate) async fn real(tls: Option<ServerTlsConfig>) -> Self {
        Self::reporting(tls).await.1
    }

    /// The same, and what changes it.
    pub(crate) async fn reporting(tls: Option<ServerTlsConfig>) -> (HealthReporter, Self) {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("shop.v1.Cart", ServingStatus::Serving).await;
        reporter.set_service_status("shop.v1.Till", ServingStatus::NotServing).await;
        (reporter, Self::serving(health, tls).await)
    }

    pub(crate) fn url(&self, service: &str) -> String {
        format!("grpc://{}/{service}", self.address)
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().expect("not poisoned").clone()
    }
}

/// Serves, and notes what arrives.
#[derive(Clone)]
struct Listening<S> {
    inner: S,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl<S: NamedService> NamedService for Listening<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: HttpService<http::Request<B>>, B> HttpService<http::Request<B>> for Listening<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> S::Future {
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let arrived = Arrived { authority, headers: request.headers().clone() };
        self.arrived.lock().expect("not poisoned").push(arrived);
        self.inner.call(request)
    }
}

/// What a scripted server says of a service: a serving status's number, or a failure.
type Script = Box<dyn Fn(&str) -> Result<i32, Status> + Send + Sync>;

struct Scripted(Script);

#[tonic::async_trait]
impl Health for Scripted {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        (self.0)(&request.get_ref().service).map(|status| Response::new(HealthCheckResponse { status }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("there is nothing to watch"))
    }
}

/// The number of SERVING.
pub(crate) const SERVING: i32 = 1;

/// A resolver that knows one address for every name, or none.
pub(crate) struct Names(pub(crate) Option<IpAddr>);

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, _: &str, _: LookupPermit) -> Result<Vec<IpAddr>, ResolveError> {
        self.0.map(|address| vec![address]).ok_or_else(|| ResolveError::Failed("no such name".to_owned()))
    }
}

pub(crate) fn dialer(policy: AddressPolicy) -> Arc<Dialer> {
    Arc::new(Dialer::new(policy).with_resolver(Arc::new(Names(None))))
}

/// A prober that may probe this machine.
pub(crate) fn prober() -> GrpcProber {
    prober_with(GrpcProberConfig::default())
}

pub(crate) fn prober_with(config: GrpcProberConfig) -> GrpcProber {
    let dialer = dialer(AddressPolicy::new(Loopback::Allowed));
    GrpcProber::new(GrpcProberConfig { dialer, ..config }).expect("a prober")
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
pub(crate) async fn see(prober: &GrpcProber, url: &str, options: Value) -> Observation {
    see_within(prober, url, PATIENCE, options).await
}

pub(crate) async fn see_within(prober: &GrpcProber, url: &str, timeout: Duration, options: Value) -> Observation {
    let settings = settings(url, timeout, &options);
    prober.check(&settings).expect("settings that the prober takes");
    prober.probe(&probe_of(settings)).await
}

pub(crate) fn detail(seen: &Observation) -> &str {
    seen.detail.as_deref().unwrap_or_default()
}
