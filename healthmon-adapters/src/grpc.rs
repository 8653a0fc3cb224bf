//! Probing gRPC servers by the standard health service, `grpc.health.v1`.
//!
//! tonic's client over hyper's connection-level HTTP/2, over the [`Dialer`]'s streams, all driven
//! in the probe's own task: nothing is spawned, so dropping a probe closes its socket.

mod call;
mod link;
mod metadata;
mod settings;
mod verdict;
mod watch;
mod wire;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    id::ServiceId,
    ports::Prober,
    probe::{FailReason, Inspection, Observation, Probe},
    service::{FieldErrors, Service, ServiceSettings},
};
use tokio::time::Instant;
use tonic::{Extensions, Request, metadata::MetadataMap};
use tonic_health::pb::HealthCheckRequest;
use url::Host;

use crate::{
    net::{
        Dialer, Progress,
        attempt::{Attempt, Fault},
        pool::Pool,
        tls::{Alpn, TlsClient, TlsError, TlsSettings, TlsSetupError},
    },
    prepared::Prepared,
    secrets::{Redactor, Secrets},
};
use link::Link;
use settings::{Asked, Asking, Reuse, Security, Settings, Watched};
use wire::{End, Wire};

/// How a [`GrpcProber`] is set up.
///
/// ```
/// use healthmon_adapters::{grpc::{GrpcProber, GrpcProberConfig}, net::{AddressPolicy, Dialer, Loopback}};
/// let dialer = Dialer::new(AddressPolicy::new(Loopback::Allowed));
/// let prober = GrpcProber::new(GrpcProberConfig { dialer: dialer.into(), ..Default::default() })?;
/// # Ok::<(), healthmon_adapters::net::tls::TlsSetupError>(())
/// ```
#[derive(Debug, Clone)]
pub struct GrpcProberConfig {
    /// What connects. The default refuses all special addresses, this machine's included.
    pub dialer: Arc<Dialer>,
    /// Root certificates (PEM) to trust beside the system's.
    pub extra_roots: Vec<u8>,
    /// Where the secrets are found that settings refer to.
    pub secrets: Secrets,
    /// How many idle connections are held for services with `"connection": "keep_alive"`; `None`
    /// holds none, so that those are probed over fresh connections too.
    pub idle_connections: Option<NonZeroUsize>,
    /// How long an idle connection is held.
    pub idle_timeout: Duration,
}

impl Default for GrpcProberConfig {
    /// The strictest dialer, no extra roots, no secrets, 1,024 idle connections for 90 s.
    fn default() -> Self {
        Self {
            dialer: Arc::default(),
            extra_roots: Vec::new(),
            secrets: Secrets::default(),
            idle_connections: NonZeroUsize::new(1024),
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// Probes `grpc` and `grpcs` targets, `grpc://host:port/service`: asks the server's
/// `grpc.health.v1.Health/Check` for the health of `service`, or without one for its own.
///
/// A probe passes when the answer is `SERVING`. The timeout is a deadline for all of it, and the
/// server is told how much of it is left. What else may come:
///
/// | Answer | Reason |
/// |---|---|
/// | `NOT_SERVING`, `UNKNOWN` | `not_serving` |
/// | `SERVICE_UNKNOWN`, status `NOT_FOUND` | `unknown_service` |
/// | status `UNIMPLEMENTED`, HTTP status 404 | `unimplemented` |
/// | status `UNAUTHENTICATED`, `PERMISSION_DENIED`, HTTP status 401, 403 | `authentication` |
/// | status `DEADLINE_EXCEEDED` | `timeout` |
/// | any other status, its number being the result's code | `status` |
/// | no HTTP/2, no gRPC, or more than 128 KiB of it | `protocol` |
///
/// With `watch`, the worker that probes a service also holds a stream of `Health/Watch`. Whenever it
/// tells of another status, breaks, or comes back, the service is probed at once: that probe is what
/// is judged, and the schedule goes on as it is. A stream that stays silent for minutes is opened
/// anew. A server without `Watch` is probed by the schedule, and asked again for a stream each hour.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # let certificate = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
/// # let settings = serde_json::json!({
/// #     "name": "cart", "url": "grpcs://shop.example:443/shop.v1.Cart", "interval": "30s", "timeout": "5s",
/// "grpc": {
///   "metadata": {                          // at most 64 keys, 8 KiB together
///     "authorization": {"env": "HEALTHMON_SECRET_CART"},
///     "x-tenant": "a",
///     "trace-bin": "AAEC"                  // keys that end with -bin: base64
///   },
///   "authority": "cart.internal:443",      // the target's host and port
///   "connection": "keep_alive",            // fresh
///   "watch": true,                         // false; probe at once when Health/Watch tells of a change
///   "tls": {                               // for grpcs:// only
///     "verify": "full",
///     "ca": certificate,                   // trusted instead of the usual roots
///     "certificate": certificate, "key": {"file": "cart.key"},
///     "server_name": "cart.internal",      // the target's host
///     "resumption": "disabled"
///   }
/// },
/// "expect": {
///   "latency": {"fail": "2s", "degraded": "500ms"},
///   "certificate": {"days": 7, "degraded_days": 21}
/// }
/// # });
/// # use healthmon_core::ports::Prober;
/// # let prober = healthmon_adapters::grpc::GrpcProber::new(Default::default())?;
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct GrpcProber {
    dialer: Arc<Dialer>,
    tls: TlsClient,
    secrets: Secrets,
    pool: Option<Pool<MadeFor, Link>>,
    prepared: Prepared<Asking>,
}

/// What a kept connection was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MadeFor {
    host: Host<String>,
    port: u16,
    security: Security,
    tls: TlsSettings,
}

impl GrpcProber {
    /// A prober set up by `config`.
    ///
    /// # Errors
    /// When an extra root is no certificate.
    pub fn new(config: GrpcProberConfig) -> Result<Self, TlsSetupError> {
        let tls = TlsClient::new(&config.extra_roots)?.with_secrets(config.secrets.clone());
        let pool = config.idle_connections.map(|most| Pool::new(most, config.idle_timeout));
        Ok(Self { dialer: config.dialer, tls, secrets: config.secrets, pool, prepared: Prepared::default() })
    }

    async fn perform(&self, probe: &Probe, progress: Progress) -> Inspection {
        let attempt = Attempt::begin(probe);
        let asking = match self.prepared.of(&probe.service) {
            Ok(asking) => asking,
            Err(errors) => return Inspection::of(Fault::unreadable(&errors).into()),
        };
        let (attempt, mut progress) = (attempt.measured_from_now(), progress);
        let (service, deadline) = (probe.service.id, attempt.deadline());
        let exchange = Exchange { prober: self, service, asking: &asking, deadline };
        // Boxed, for it is large and a probe's future is moved about.
        let ended = attempt.limit(Box::pin(exchange.run(&mut progress))).await;
        attempt.inspected(ended, progress, &asking.settings.expectations)
    }
}

#[async_trait]
impl Prober for GrpcProber {
    fn schemes(&self) -> &[&'static str] {
        &["grpc", "grpcs"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::check(settings)
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["grpc.metadata.*", "grpc.tls.key"]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }

    fn watches(&self, settings: &ServiceSettings) -> bool {
        // Most services have no options, and of those that have most do not ask for it.
        Watched::of(&settings.options) == Watched::Yes
    }

    async fn watch(&self, service: &Service, changed: &(dyn Fn() + Send + Sync)) {
        watch::watch(self, service, changed).await;
    }
}

/// One probe under way.
struct Exchange<'a> {
    prober: &'a GrpcProber,
    service: ServiceId,
    asking: &'a Asking,
    deadline: Instant,
}

/// What is sent.
struct Question {
    metadata: MetadataMap,
    redactor: Arc<Redactor>,
}

/// Where a connection came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Pool,
    Dialled,
}

/// What became of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exchanged {
    Judged,
    /// The connection had been closed while it lay idle.
    Stale,
}

impl Exchange<'_> {
    async fn run(&self, progress: &mut Progress) -> Result<(), Fault> {
        let question = self.question()?;
        if progress.is_inspected() {
            progress.redactor = Some(Arc::clone(&question.redactor));
        }
        let service = self.asking.asked.service.as_str();
        progress.learn("asks for", if service.is_empty() { "the server as a whole" } else { service });
        let ended = self.ask(&question, progress).await;
        ended.map_err(|fault| fault.redacted(&question.redactor))
    }

    fn question(&self) -> Result<Question, Fault> {
        let mut metadata = MetadataMap::new();
        let redactor = self.asking.settings.metadata.reveal(&self.prober.secrets, &mut metadata)?;
        Ok(Question { metadata, redactor: redactor.into() })
    }

    fn request(&self, question: &Question) -> Request<HealthCheckRequest> {
        let message = HealthCheckRequest { service: self.asking.asked.service.clone() };
        Request::from_parts(question.metadata.clone(), Extensions::default(), message)
    }

    async fn ask(&self, question: &Question, progress: &mut Progress) -> Result<(), Fault> {
        if let Some(link) = self.pool().and_then(|pool| pool.take(self.service, &self.made_for())) {
            progress.certificate(link.certificate_expires);
            if self.exchange(link, Source::Pool, question, progress).await? == Exchanged::Judged {
                return Ok(());
            }
            // Asking is like not asking: once more, over a fresh one, whose certificate counts.
            progress.certificate_expires = None;
        }
        let link = self.connect(progress).await?;
        self.exchange(link, Source::Dialled, question, progress).await.map(drop)
    }

    fn pool(&self) -> Option<&Pool<MadeFor, Link>> {
        match self.asking.settings.reuse {
            Reuse::KeepAlive => self.prober.pool.as_ref(),
            Reuse::Fresh => None,
        }
    }

    fn made_for(&self) -> MadeFor {
        let Asked { host, port, security, .. } = &self.asking.asked;
        MadeFor { host: host.clone(), port: *port, security: *security, tls: self.asking.settings.tls.clone() }
    }

    async fn connect(&self, progress: &mut Progress) -> Result<Link, Fault> {
        let host = || match &self.asking.asked.host {
            Host::Domain(name) => Host::Domain(name.as_str()),
            Host::Ipv4(address) => Host::Ipv4(*address),
            Host::Ipv6(address) => Host::Ipv6(*address),
        };
        let stream = self.prober.dialer.dial(host(), self.asking.asked.port, self.deadline, progress).await?;
        if self.asking.asked.security == Security::Plain {
            return Link::open(Wire::new(stream), None).await;
        }
        let handshake = self.prober.tls.handshake(stream, host(), &self.asking.settings.tls, Alpn::Http2, progress);
        let session = Box::pin(handshake).await.map_err(refused)?;
        if session.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Fault::fail(FailReason::Protocol, NO_HTTP2));
        }
        Link::open(Wire::new(session), progress.certificate_expires).await
    }

    async fn exchange(
        &self,
        mut link: Link,
        source: Source,
        question: &Question,
        progress: &mut Progress,
    ) -> Result<Exchanged, Fault> {
        let mut request = self.request(question);
        request.set_timeout(self.deadline.saturating_duration_since(Instant::now()));
        let (answered, heard) = link.check(self.asking.origin.clone(), request, progress).await;
        let told = heard.so_far();
        let unanswered = told.head.is_none() && told.broken.is_some();
        if source == Source::Pool && unanswered && link.meter().end() != Some(End::TooMuch) {
            return Ok(Exchanged::Stale);
        }
        verdict::judge(answered, &told, link.meter(), &question.redactor, progress)?;
        if let Some(pool) = self.pool() {
            pool.put(self.service, self.made_for(), link);
        }
        Ok(Exchanged::Judged)
    }
}

const NO_HTTP2: &str = "the peer offers no HTTP/2 (by ALPN), which gRPC needs";

/// A peer that speaks TLS but no HTTP/2 says so by an alert.
fn refused(error: TlsError) -> Fault {
    let no_http2 = rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol);
    match &error {
        TlsError::Handshake(io)
            if io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) == Some(&no_http2) =>
        {
            Fault::fail(FailReason::Protocol, NO_HTTP2)
        }
        _ => error.into(),
    }
}
