//! Probing name servers.
//!
//! hickory's encoding of messages over exchanges of our own: one question on a fresh socket, its
//! id and port random, asked of an address that the policy allowed. What answers something else
//! is ignored, never believed.

mod answers;
mod exchange;
mod expect;
#[cfg(all(feature = "fuzz", any(fuzzing, test)))]
pub(crate) mod fuzz;
mod message;
mod question;
mod settings;

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Inspection, Observation, Probe},
    service::{FieldErrors, ServiceSettings},
};
use tokio::time::Instant;
use url::Host;

use crate::{
    net::{
        Dialer, Progress,
        attempt::{Attempt, Fault},
        host::borrowed,
        tls::{Alpn, TlsClient, TlsSetupError},
    },
    prepared::Prepared,
    secrets::Secrets,
};
use exchange::{Heard, over_datagrams, over_stream};
use message::{Answer, Query};
use settings::{Settings, Transport};

/// How a [`DnsProber`] is set up.
///
/// ```
/// use healthmon_adapters::{dns::{DnsProber, DnsProberConfig}, net::{AddressPolicy, Dialer, Loopback}};
/// let dialer = Dialer::new(AddressPolicy::new(Loopback::Allowed));
/// let prober = DnsProber::new(DnsProberConfig { dialer: dialer.into(), ..Default::default() })?;
/// # Ok::<(), healthmon_adapters::net::tls::TlsSetupError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct DnsProberConfig {
    /// What connects. The default refuses all special addresses, this machine's included.
    pub dialer: Arc<Dialer>,
    /// Root certificates (PEM) to trust beside the system's, for DNS over TLS.
    pub extra_roots: Vec<u8>,
    /// Where the keys of clients' certificates are found that settings refer to.
    pub secrets: Secrets,
}

/// Asks a name server one question, and judges what it answers.
///
/// The target is a URL after RFC 4501, `dns://SERVER[:PORT]/NAME[?type=TYPE][;class=CLASS]`: the
/// host is the name server that is asked, the path the whole name that is asked for, the type `A`
/// unless one is given, the class `IN`. The port is 53, with DNS over TLS 853. A slash in the name
/// is written `%2F`; the root is asked for by an empty path beside a type (`dns://SERVER/?type=NS`).
///
/// A probe passes when an answer to this very question comes with an expected response code and
/// meets the expectations; unless something is said about their number, there must be at least one
/// answer. Answers are the records of the type that was asked for, at the name that was asked for
/// or where its aliases lead. An answer that does not fit into a datagram is asked for again over
/// TCP. Datagrams that nobody answers are sent again after 1, 2, 4 … s.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # let settings = serde_json::json!({ "name": "zone", "url": "dns://192.0.2.53/www.example.org?type=AAAA",
/// # "interval": "30s",
/// "dns": {
///   // "type": "AAAA", "class": "IN",   // here, or in the URL
///   "protocol": "tls",                  // udp; tcp, tls (DNS over TLS)
///   "recursion": false,                 // true: the server is to ask others if need be
///   "dnssec": true,                     // false: signatures are not asked for
///   "tls": {"server_name": "dns.example.org"}
/// },
/// "expect": {
///   "rcode": ["NOERROR", "NXDOMAIN"],   // NOERROR; a name, a number, or a list of those
///   "answers": {                        // a list is short for {"exactly": […]}
///     "exactly": ["2001:db8::1"],       // these and no others, in any order
///     "contains": ["2001:db8::1"],      // these at least
///     "count": {"min": 1, "max": 4},    // or a number
///     "matches": "^2001:db8:"           // a pattern that each answer must match
///   },
///   "authenticated": true,              // whether the server vouches for it by DNSSEC (its AD flag)
///   "ttl": {"min": "1m", "max": "1d"}   // of each answer
/// }
/// # });
/// # use healthmon_core::ports::Prober;
/// # let prober = healthmon_adapters::dns::DnsProber::new(Default::default())?;
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Answers are written as in zone files: `10 mail.example.org` for MX, the bare text for TXT, names
/// in ASCII and without regard to case or a dot at the end, types that are not known in base64.
///
/// An unexpected response code is `status` with the code in the result; answers that are not as
/// expected are `assertion`; a server that stays silent is `timeout`, one that answers what was not
/// asked or cannot be read is `protocol`, one whose own name has no address is `dns`.
#[derive(Debug)]
pub struct DnsProber {
    dialer: Arc<Dialer>,
    tls: TlsClient,
    prepared: Prepared<Settings>,
}

impl DnsProber {
    /// A prober set up by `config`.
    ///
    /// # Errors
    /// When an extra root is no certificate.
    pub fn new(config: DnsProberConfig) -> Result<Self, TlsSetupError> {
        let tls = TlsClient::new(&config.extra_roots)?.with_secrets(config.secrets);
        Ok(Self { dialer: config.dialer, tls, prepared: Prepared::default() })
    }

    async fn perform(&self, probe: &Probe, mut progress: Progress) -> Inspection {
        let attempt = Attempt::begin(probe);
        let settings = match self.prepared.of(&probe.service) {
            Ok(settings) => settings,
            Err(errors) => return Inspection::of(Fault::unreadable(&errors).into()),
        };
        let attempt = attempt.measured_from_now();
        let mut heard = Heard::default();
        let lookup = Lookup { prober: self, settings: &settings, deadline: attempt.deadline() };
        let mut ended = attempt.limit(lookup.run(&mut heard, &mut progress)).await;
        // Silence is a timeout; to be told something else is not.
        if let (Err(_), Some(fault)) = (&ended, heard.fault()) {
            ended = Ok(Err(fault));
        }
        attempt.inspected(ended, progress, &settings.expectations)
    }
}

#[async_trait]
impl Prober for DnsProber {
    fn schemes(&self) -> &[&'static str] {
        &["dns"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::read(settings).map(drop)
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["dns.tls.key"]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }
}

/// One probe under way.
struct Lookup<'a> {
    prober: &'a DnsProber,
    settings: &'a Settings,
    deadline: Instant,
}

impl Lookup<'_> {
    async fn run(&self, heard: &mut Heard, progress: &mut Progress) -> Result<(), Fault> {
        let settings = self.settings;
        progress.learn("question", &settings.question);
        let answer = match settings.transport {
            Transport::Udp => self.ask_by_datagram(heard, progress).await?,
            Transport::Tcp => self.ask_by_stream(borrowed(&settings.host), progress).await?,
            Transport::Tls => self.ask_by_tls(progress).await?,
        };
        progress.code = Some(answer.rcode().number());
        answer.tell(progress);
        settings.expected.judge(&answer, &settings.question, progress)
    }

    async fn ask_by_datagram(&self, heard: &mut Heard, progress: &mut Progress) -> Result<Answer, Fault> {
        let settings = self.settings;
        let addresses = self.prober.dialer.addresses(borrowed(&settings.host), settings.port, progress).await?;
        let query = self.query()?;
        let (answer, from) =
            over_datagrams(&self.prober.dialer, &addresses, &query, self.deadline, heard, progress).await?;
        progress.learn("address", from);
        if !answer.is_truncated() {
            return Ok(answer);
        }
        progress.learn("truncated", "asked again over tcp");
        heard.forget();
        self.ask_by_stream(host_of(from), progress).await.map_err(|fault| Fault {
            detail: format!("the answer does not fit into a datagram, and over tcp: {}", fault.detail),
            ..fault
        })
    }

    async fn ask_by_stream(&self, host: Host<&str>, progress: &mut Progress) -> Result<Answer, Fault> {
        let stream = self.prober.dialer.dial(host, self.settings.port, self.deadline, progress).await?;
        whole(over_stream(stream, &self.query()?, progress).await?)
    }

    async fn ask_by_tls(&self, progress: &mut Progress) -> Result<Answer, Fault> {
        let (host, settings) = (borrowed(&self.settings.host), self.settings);
        let stream = self.prober.dialer.dial(host.clone(), settings.port, self.deadline, progress).await?;
        let session = Box::pin(self.prober.tls.handshake(stream, host, &settings.tls, Alpn::None, progress)).await?;
        whole(over_stream(session, &self.query()?, progress).await?)
    }

    fn query(&self) -> Result<Query, Fault> {
        Query::new(&self.settings.question, self.settings.asking)
    }
}

const fn host_of(address: SocketAddr) -> Host<&'static str> {
    match address {
        SocketAddr::V4(v4) => Host::Ipv4(*v4.ip()),
        SocketAddr::V6(v6) => Host::Ipv6(*v6.ip()),
    }
}

/// Over a stream there is room for all of it.
fn whole(answer: Answer) -> Result<Answer, Fault> {
    if answer.is_truncated() {
        return Err(Fault::fail(FailReason::Protocol, "the answer is cut short even over tcp"));
    }
    Ok(answer)
}
