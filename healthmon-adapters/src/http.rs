//! Probing over HTTP.
//!
//! hyper's connection-level client over the [`Dialer`]'s streams, driven in the probe's own task:
//! nothing is spawned, so dropping a probe closes its socket.

mod auth;
mod body;
mod exchange;
mod expect;
#[cfg(all(feature = "fuzz", any(fuzzing, test)))]
pub(crate) mod fuzz;
mod link;
mod multiplexed;
mod pool;
mod proxy;
mod redirect;
mod request;
mod route;
mod settings;
mod stream;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{Inspection, Observation, Probe},
    service::{FieldErrors, ServiceSettings},
};

use crate::{
    net::{
        Dialer, Progress,
        attempt::{Attempt, Fault},
        tls::{TlsClient, TlsSetupError},
    },
    prepared::Prepared,
    secrets::Secrets,
};
use auth::Tokens;
use exchange::Exchange;
use pool::Pool;
use route::Connector;
use settings::{Asking, Settings};

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
    /// Where the secrets are found that settings refer to.
    pub secrets: Secrets,
    /// How many idle connections are held for services with `"connection": "keep_alive"`; `None`
    /// holds none, so that those are probed over fresh connections too.
    pub idle_connections: Option<NonZeroUsize>,
    /// How long an idle connection is held.
    pub idle_timeout: Duration,
}

impl Default for HttpProberConfig {
    /// The strictest dialer, no extra roots, no secrets but those in the settings, 1,024 idle connections for 90 s.
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

/// Probes `http` and `https` targets.
///
/// A probe passes when the answer's status is an expected one, its body came to its end (or to
/// the cap of 64 KiB), and all that is expected of it holds; whatever does not is told together.
/// The timeout is a deadline for all of it: redirects, tokens and proxies included.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # let settings = serde_json::json!({ "name": "shop", "url": "https://shop.example/", "interval": "30s",
/// "http": {
///   "method": "POST",                     // GET; HEAD, PUT, PATCH, DELETE, OPTIONS
///   "headers": {                          // at most 64; a value may be a secret
///     "accept": "application/json", "x-key": {"env": "HEALTHMON_SECRET_SHOP"}
///   },
///   "body": "ping",                       // at most 64 KiB; may be a secret
///   "auth": {"oauth2": {                  // or basic, or bearer, as below
///     "token_url": "https://login.example/token",
///     "client_id": "monitor", "client_secret": {"file": "shop-client"},
///     "scope": "health", "audience": "shop",  // none
///     "credentials": "body",              // header: where the token server reads who we are
///     "tls": {"verify": "full"}           // of the token server; or ca
///   }},
///   "redirects": 3,                       // 5; how many are followed: 0 to 10
///   "connection": "keep_alive",           // fresh
///   "version": "any",                     // 1.1; 2, or what the server prefers
///   "ip": "4",                            // any; 6
///   "host": "shop.example",               // the URL's host and port, as the target is asked for
///   "connect_to": "10.0.0.7:8443",        // the URL's host and port, as they are dialled
///   "tls": {"server_name": "shop.internal"}   // see TlsSettings
/// },
/// "expect": {
///   "status": ["2xx", 301, "400-403"],    // 200-299
///   "header": {
///     "content-type": "application/json", // what it is to be, or one or more of:
///     "x-cache": {"matches": "^HIT", "not_contains": "stale", "exists": true}
///   },
///   "body": {                             // "pong" is short for {"contains": "pong"}
///     "contains": ["pong", "ok"], "not_contains": "error", "matches": "v[0-9]+", "not_matches": "^$"
///   },
///   "json": {                             // by paths of RFC 9535
///     "$.status": "green",                // what each value there is to be, or one or more of:
///     "$.nodes[*].load": {">=": 0, "<": 0.9, "not": 0.5},
///     "$.nodes[?@.up == true]": {"count": {"min": 2, "max": 9}},
///     "$.tags": {"contains": "eu"}, "$.error": {"exists": false}
///   },
///   "size": {"min": 2, "max": 10000},     // of the body in bytes, as it comes; at most 16 MiB
///   "version": "2",                       // 1.0, 1.1
///   "url": "https://shop.example/home",   // where redirects end; or contains, matches
///   "latency": {"fail": "2s", "degraded": "500ms"},   // see Expectations
///   "certificate": {"days": 7, "degraded_days": 21}
/// }
/// # , "timeout": "5s"});
/// # use healthmon_core::ports::Prober;
/// # let prober = healthmon_adapters::http::HttpProber::new(Default::default())?;
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # for http in [
/// #     serde_json::json!({"auth":
/// {"basic": {"username": "monitor", "password": {"env": "HEALTHMON_SECRET_SHOP"}}}
/// #     }), serde_json::json!({"auth":
/// {"bearer": {"token": {"file": "shop-token"}}}
/// #     }), serde_json::json!({
/// "proxy": {"url": "http://proxy.example:3128", "username": "monitor", "password": {"file": "proxy"}}
/// #     })
/// # ] {
/// #     let settings = serde_json::json!({"name": "shop", "url": "http://shop.example/", "interval": "30s", "http": http});
/// #     prober.check(&serde_json::from_value(settings)?)?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// **Redirects.** One whose status is itself an expected one is not followed. What is meant for the
/// target goes to its own origin only, and not back to it after a redirect elsewhere: headers,
/// credentials, the client's certificate, `connect_to` and `tls.server_name`. A body is never sent
/// on to another origin.
///
/// **Bodies are never shown**, nor texts out of JSON: only sizes, numbers and truths are. Values of
/// headers that are expected to be something are, except those that hold credentials.
///
/// **Tokens** are kept until shortly before they expire, fetched by one probe at a time, and fetched
/// anew once when the target answers 401. A token server is reached like a target, through the same
/// address policy and proxy, and no redirect of it is followed; but what `http.tls`, `http.version` and
/// `http.ip` say of the target is not said of it. It is given 5 s, or what is left until the deadline.
///
/// **Proxies.** None is used that a service does not name; those of the environment are not. `http`
/// targets are asked for by their whole URL, `https` targets (and HTTP/2 without TLS) through a
/// tunnel. The address policy judges the proxy, and a target that is named by its address; the name
/// of any other target is resolved by the proxy, where this prober's address policy does not reach.
/// Whoever configures a proxy trusts it with that.
///
/// **HTTP/2** without TLS is spoken without asking first. It is driven by the probe itself, like
/// HTTP/1: no task is left behind.
#[derive(Debug)]
pub struct HttpProber {
    connector: Connector,
    pool: Option<Pool>,
    tokens: Tokens,
    prepared: Prepared<Asking>,
}

impl HttpProber {
    /// A prober set up by `config`.
    ///
    /// # Errors
    /// When an extra root is no certificate.
    pub fn new(config: HttpProberConfig) -> Result<Self, TlsSetupError> {
        let HttpProberConfig { dialer, extra_roots, secrets, idle_connections, idle_timeout } = config;
        let tls = TlsClient::new(&extra_roots)?.with_secrets(secrets.clone());
        let pool = idle_connections.map(|most| Pool::new(most, idle_timeout));
        Ok(Self {
            connector: Connector { dialer, tls, secrets },
            pool,
            tokens: Tokens::default(),
            prepared: Prepared::default(),
        })
    }

    async fn perform(&self, probe: &Probe, progress: Progress) -> Inspection {
        let attempt = Attempt::begin(probe);
        let kept;
        // Those without options are not kept: there may be a million of them.
        let (settings, url) = if probe.service.settings.options.is_empty() {
            (Settings::plain(), None)
        } else {
            match self.prepared.of(&probe.service) {
                Ok(read) => {
                    kept = read;
                    (&kept.settings, Some(&kept.url))
                }
                Err(errors) => return Inspection::of(Fault::unreadable(&errors).into()),
            }
        };
        let (attempt, mut progress) = (attempt.measured_from_now(), progress);
        let ended = match Exchange::new(self, probe, settings, url, attempt.deadline()) {
            Ok(exchange) => attempt.limit(exchange.run(&mut progress)).await,
            Err(fault) => Ok(Err(fault)),
        };
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
        &[
            "http.headers.*",
            "http.body",
            "http.auth.basic.password",
            "http.auth.bearer.token",
            "http.auth.oauth2.client_secret",
            "http.proxy.password",
            "http.tls.key",
        ]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }
}
