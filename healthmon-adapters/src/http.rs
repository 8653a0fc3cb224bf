//! Probing over HTTP.
//!
//! hyper's connection-level client over the [`Dialer`]'s streams, driven in the probe's own task:
//! nothing is spawned, so dropping a probe closes its socket.

mod body;
mod exchange;
mod pool;
mod redirect;
mod settings;
mod status;
mod stream;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, IndeterminateReason, Observation, Outcome, Probe},
    service::{FieldErrors, ServiceSettings},
};
use hyper::{Response, StatusCode, body::Incoming};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::net::{
    DialError, Dialer, Progress, Stage,
    tls::{TlsClient, TlsError, TlsSetupError},
};
use exchange::Link;
use pool::Pool;
use redirect::Hop;
use settings::{Reuse, Settings};
use stream::Stream;

/// How an [`HttpProber`] is set up.
///
/// ```
/// use healthmon_adapters::{http::{HttpProber, HttpProberConfig}, net::{AddressPolicy, Dialer, Loopback}};
/// let dialer = Dialer::new(AddressPolicy::new(Loopback::Allowed));
/// let prober = HttpProber::new(HttpProberConfig { dialer: dialer.into(), ..Default::default() })?;
/// # Ok::<(), healthmon_adapters::net::tls::TlsSetupError>(())
/// ```
#[derive(Debug, Clone)]
pub struct HttpProberConfig {
    /// What connects. The default refuses all special addresses, this machine's included.
    pub dialer: Arc<Dialer>,
    /// Root certificates (PEM) to trust beside the system's.
    pub extra_roots: Vec<u8>,
    /// How many idle connections are held for services with `"connection": "keep_alive"`; `None`
    /// holds none, so that those are probed over fresh connections too.
    pub idle_connections: Option<NonZeroUsize>,
    /// How long an idle connection is held.
    pub idle_timeout: Duration,
}

impl Default for HttpProberConfig {
    /// The strictest dialer, no extra roots, 1,024 idle connections for 90 s.
    fn default() -> Self {
        Self {
            dialer: Arc::default(),
            extra_roots: Vec::new(),
            idle_connections: NonZeroUsize::new(1024),
            idle_timeout: Duration::from_secs(90),
        }
    }
}

/// Probes `http` and `https` targets.
///
/// A probe passes when the answer's status is an expected one, its body came to its end (or to
/// the cap of 64 KiB), and holds the text that is expected of it, if any. The timeout is a
/// deadline for all of it, redirects included.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # let settings = serde_json::json!({ "name": "shop", "url": "https://shop.example/", "interval": "30s",
/// "http": {
///   "method": "POST",                     // GET; HEAD, PUT, PATCH, DELETE, OPTIONS
///   "headers": {"accept": "text/plain"},  // at most 64
///   "body": "ping",                       // at most 64 KiB
///   "redirects": 3,                       // 5; how many are followed: 0 to 10
///   "connection": "keep_alive",           // fresh
///   "tls": {"verify": "none"}             // full
/// },
/// "expect": {
///   "status": ["2xx", 301, "400-403"],    // 200-299
///   "body": "pong"                        // a text that the body must contain
/// }
/// # , "timeout": "5s"});
/// # use healthmon_core::ports::Prober;
/// # let prober = healthmon_adapters::http::HttpProber::new(Default::default())?;
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A redirect whose status is itself an expected one is not followed. Headers that were configured
/// go to the target's own origin only; a body is never sent on to another.
#[derive(Debug)]
pub struct HttpProber {
    dialer: Arc<Dialer>,
    tls: TlsClient,
    pool: Option<Pool>,
}

impl HttpProber {
    /// A prober set up by `config`.
    ///
    /// # Errors
    /// When an extra root is no certificate.
    pub fn new(config: HttpProberConfig) -> Result<Self, TlsSetupError> {
        let tls = TlsClient::new(&config.extra_roots, &[b"http/1.1"])?;
        let pool = config.idle_connections.map(|most| Pool::new(most, config.idle_timeout));
        Ok(Self { dialer: config.dialer, tls, pool })
    }

    async fn perform(&self, probe: &Probe) -> Observation {
        let begun = Instant::now();
        let wanted = &probe.service.settings;
        let parsed;
        let settings = if wanted.options.is_empty() {
            Settings::plain()
        } else {
            match Settings::read(&wanted.options) {
                Ok(read) => {
                    parsed = read;
                    &parsed
                }
                Err(errors) => return unreadable(&errors),
            }
        };
        let timeout = wanted.timeout.get();
        let mut trace = Trace::default();
        let attempt = Attempt { prober: self, probe, settings, deadline: begun + timeout };
        let ended = timeout_at(attempt.deadline, attempt.run(&mut trace)).await;
        let (outcome, detail) = match ended {
            Ok(Ok(())) => (Outcome::Pass, None),
            Ok(Err(fault)) => (fault.outcome, Some(fault.detail)),
            Err(_) => {
                let stage = trace.progress.stage;
                let detail = format!("timed out after {} ms while {}", timeout.as_millis(), stage.as_str());
                // Never to have got a lookup is our trouble, not the target's.
                let ours = matches!(stage, Stage::Preparing | Stage::LookupQueue);
                let outcome = if ours {
                    Outcome::Indeterminate(IndeterminateReason::Internal)
                } else {
                    Outcome::Fail(FailReason::Timeout)
                };
                (outcome, Some(detail))
            }
        };
        let mut seen = Observation::new(outcome, begun.elapsed().min(timeout));
        seen.phases = trace.progress.phases;
        seen.code = trace.code;
        seen.certificate_expires = trace.progress.certificate_expires;
        match detail {
            Some(detail) => seen.with_detail(&detail),
            None => seen,
        }
    }
}

/// The settings were checked when the service was registered, so this is a worker older than they
/// are. Only the fields are named: what stands in them may be secret.
fn unreadable(errors: &FieldErrors) -> Observation {
    let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
    let detail = format!("this prober cannot read the settings: {}", fields.join(", "));
    Observation::indeterminate(IndeterminateReason::Unsupported, &detail)
}

#[async_trait]
impl Prober for HttpProber {
    fn schemes(&self) -> &[&'static str] {
        &["http", "https"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::check(settings)
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe).await
    }
}

/// What is known so far; it outlives the attempt, which the deadline may cut off.
#[derive(Debug, Default)]
struct Trace {
    progress: Progress,
    code: Option<u16>,
}

/// Why a probe did not pass.
#[derive(Debug)]
struct Fault {
    outcome: Outcome,
    detail: String,
}

impl Fault {
    fn fail(reason: FailReason, detail: impl Into<String>) -> Self {
        Self { outcome: Outcome::Fail(reason), detail: detail.into() }
    }
}

impl From<DialError> for Fault {
    fn from(error: DialError) -> Self {
        Self { outcome: error.outcome(), detail: error.to_string() }
    }
}

impl From<TlsError> for Fault {
    fn from(error: TlsError) -> Self {
        Self::fail(FailReason::Tls, error.to_string())
    }
}

/// One probe under way.
struct Attempt<'a> {
    prober: &'a HttpProber,
    probe: &'a Probe,
    settings: &'a Settings,
    deadline: Instant,
}

impl Attempt<'_> {
    async fn run(&self, trace: &mut Trace) -> Result<(), Fault> {
        let mut hop = Hop::first(self.probe.service.settings.url.url(), self.settings);
        loop {
            let answered = self.exchange(&hop, trace).await;
            let (link, response) = answered.map_err(|fault| hop.while_redirected(fault))?;
            let status = response.status();
            trace.code = Some(status.as_u16());
            if self.settings.status.contains(status.as_u16()) {
                return self.judge_body(&hop, link, response, trace).await;
            }
            if !redirect::is_redirect(status) || self.settings.redirects == 0 {
                return Err(self.unexpected(status));
            }
            hop.follow(&response, self.settings)?;
        }
    }

    fn unexpected(&self, status: StatusCode) -> Fault {
        Fault::fail(FailReason::Status, format!("expected status {}, got {}", self.settings.status, status.as_u16()))
    }

    async fn exchange(&self, hop: &Hop, trace: &mut Trace) -> Result<(Link, Response<Incoming>), Fault> {
        let request = hop.request(self.settings)?;
        if let Some(mut link) = self.pooled(hop) {
            trace.progress.certificate(link.certificate_expires);
            match link.exchange(request.clone(), &mut trace.progress).await {
                Ok(response) => return Ok((link, response)),
                // It was closed while it lay idle: once more, over a fresh one.
                Err(error) if error.is_stale(hop.method()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut link = self.connect(hop, trace).await?;
        let response = link.exchange(request, &mut trace.progress).await?;
        Ok((link, response))
    }

    fn pooled(&self, hop: &Hop) -> Option<Link> {
        let pool = self.pool_for(hop)?;
        pool.take(self.probe.service.id, hop.url(), self.settings.verify)
    }

    /// Only connections to the target itself are kept.
    fn pool_for(&self, hop: &Hop) -> Option<&Pool> {
        match self.settings.reuse {
            Reuse::KeepAlive if hop.is_first() => self.prober.pool.as_ref(),
            _ => None,
        }
    }

    async fn connect(&self, hop: &Hop, trace: &mut Trace) -> Result<Link, Fault> {
        let progress = &mut trace.progress;
        let (host, port, secure) = authority(hop.url())?;
        let stream = self.prober.dialer.dial(host.clone(), port, self.deadline, progress).await?;
        if !secure {
            return Link::open(Stream::Plain(stream), None).await;
        }
        // The shortest-lived of all certificates is told of the probe, the link has its own.
        let earlier = progress.certificate_expires.take();
        let session = Box::pin(self.prober.tls.handshake(stream, host, self.settings.verify, progress)).await;
        let own = progress.certificate_expires;
        progress.certificate(earlier);
        Link::open(Stream::Tls(Box::new(session?)), own).await
    }

    async fn judge_body(
        &self,
        hop: &Hop,
        mut link: Link,
        response: Response<Incoming>,
        trace: &mut Trace,
    ) -> Result<(), Fault> {
        trace.progress.stage = Stage::Body;
        let end = match &self.settings.contains {
            None => body::skip(&mut link, response.into_body()).await?,
            Some(text) => body::expect(&mut link, response, text).await?,
        };
        if let (body::End::Reached, Some(pool)) = (end, self.pool_for(hop)) {
            pool.put(self.probe.service.id, hop.url(), self.settings.verify, link);
        }
        Ok(())
    }
}

/// Where a URL's connection goes, and whether it is to be secured.
fn authority(url: &Url) -> Result<(url::Host<&str>, u16, bool), Fault> {
    let secure = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(unsupported(url)),
    };
    match (url.host(), url.port_or_known_default()) {
        (Some(host), Some(port)) => Ok((host, port, secure)),
        _ => Err(unsupported(url)),
    }
}

fn unsupported(url: &Url) -> Fault {
    let outcome = Outcome::Indeterminate(IndeterminateReason::Unsupported);
    Fault { outcome, detail: format!("{:?} is not a scheme of this prober", url.scheme()) }
}
