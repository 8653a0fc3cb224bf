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
    probe::{FailReason, IndeterminateReason, Inspection, Observation, Probe},
    service::{FieldErrors, ServiceSettings},
};
use hyper::{Response, StatusCode, body::Incoming};
use tokio::time::Instant;
use url::Url;

use crate::net::{
    Dialer, Progress, Stage,
    attempt::{Attempt, Fault},
    tls::{Alpn, TlsClient, TlsSetupError},
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
        let tls = TlsClient::new(&config.extra_roots)?;
        let pool = config.idle_connections.map(|most| Pool::new(most, config.idle_timeout));
        Ok(Self { dialer: config.dialer, tls, pool })
    }

    async fn perform(&self, probe: &Probe, progress: Progress) -> Inspection {
        let parsed;
        let settings = if probe.service.settings.options.is_empty() {
            Settings::plain()
        } else {
            match Settings::read(&probe.service.settings.options) {
                Ok(read) => {
                    parsed = read;
                    &parsed
                }
                Err(errors) => return Inspection::of(Fault::unreadable(&errors).into()),
            }
        };
        let (attempt, mut progress) = (Attempt::begin(probe), progress);
        let exchange = Exchange { prober: self, probe, settings, deadline: attempt.deadline() };
        let ended = attempt.limit(exchange.run(&mut progress)).await;
        attempt.inspected(ended, progress, &settings.expectations)
    }
}

#[async_trait]
impl Prober for HttpProber {
    fn schemes(&self) -> &[&'static str] {
        &["http", "https"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::check(settings)
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["http.headers.*", "http.body", "http.tls.key"]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }
}

/// One probe under way.
struct Exchange<'a> {
    prober: &'a HttpProber,
    probe: &'a Probe,
    settings: &'a Settings,
    deadline: Instant,
}

impl Exchange<'_> {
    async fn run(&self, progress: &mut Progress) -> Result<(), Fault> {
        let mut hop = Hop::first(self.probe.service.settings.url.url(), self.settings);
        loop {
            let answered = self.exchange(&hop, progress).await;
            let (link, response) = answered.map_err(|fault| hop.while_redirected(fault))?;
            let status = response.status();
            progress.code = Some(status.as_u16());
            if self.settings.status.contains(status.as_u16()) {
                return self.judge_body(&hop, link, response, progress).await;
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

    async fn exchange(&self, hop: &Hop, progress: &mut Progress) -> Result<(Link, Response<Incoming>), Fault> {
        let request = hop.request(self.settings)?;
        if let Some(mut link) = self.pooled(hop) {
            progress.certificate(link.certificate_expires);
            match link.exchange(request.clone(), progress).await {
                Ok(response) => return Ok((link, response)),
                // It was closed while it lay idle: once more, over a fresh one.
                Err(error) if error.is_stale(hop.method()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut link = self.connect(hop, progress).await?;
        let response = link.exchange(request, progress).await?;
        Ok((link, response))
    }

    fn pooled(&self, hop: &Hop) -> Option<Link> {
        let pool = self.pool_for(hop)?;
        pool.take(self.probe.service.id, hop.url(), &self.settings.tls)
    }

    /// Only connections to the target itself are kept.
    fn pool_for(&self, hop: &Hop) -> Option<&Pool> {
        match self.settings.reuse {
            Reuse::KeepAlive if hop.is_first() => self.prober.pool.as_ref(),
            _ => None,
        }
    }

    async fn connect(&self, hop: &Hop, progress: &mut Progress) -> Result<Link, Fault> {
        let (host, port, secure) = authority(hop.url())?;
        let stream = self.prober.dialer.dial(host.clone(), port, self.deadline, progress).await?;
        if !secure {
            return Link::open(Stream::Plain(stream), None).await;
        }
        // The shortest-lived of all certificates is told of the probe, the link has its own.
        let earlier = progress.certificate_expires.take();
        let session =
            Box::pin(self.prober.tls.handshake(stream, host, &self.settings.tls, Alpn::Http1, progress)).await;
        let own = progress.certificate_expires;
        progress.certificate(earlier);
        Link::open(Stream::Tls(Box::new(session?)), own).await
    }

    async fn judge_body(
        &self,
        hop: &Hop,
        mut link: Link,
        response: Response<Incoming>,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        progress.stage = Stage::Body;
        let end = match &self.settings.contains {
            None => body::skip(&mut link, response.into_body()).await?,
            Some(text) => body::expect(&mut link, response, text).await?,
        };
        if let (body::End::Reached, Some(pool)) = (end, self.pool_for(hop)) {
            pool.put(self.probe.service.id, hop.url(), &self.settings.tls, link);
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
    let detail = format!("{:?} is not a scheme of this prober", url.scheme());
    Fault::indeterminate(IndeterminateReason::Unsupported, detail)
}
