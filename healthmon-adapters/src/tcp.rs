//! Probing bare connections: is somebody there, does he say what he should, does he speak TLS.

mod dialogue;
#[cfg(all(feature = "fuzz", any(fuzzing, test)))]
pub(crate) mod fuzz;
mod payload;
mod session;
mod settings;
mod starttls;
mod target;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{Inspection, Observation, Probe},
    service::{FieldErrors, ServiceSettings},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::client::TlsStream;

use crate::{
    net::{
        Dialer, Progress,
        attempt::{Attempt, Fault},
        tls::{Alpn, TlsClient},
    },
    prepared::Prepared,
    secrets::Secrets,
};
pub(crate) use dialogue::Dialogue;
pub(crate) use session::SessionExpectations;
use settings::{Asking, Settings};
pub(crate) use target::Address;

/// Probes `tcp` targets: connects, and if so told asks for TLS, says something and judges the answer.
///
/// Without options a probe passes when the connection is made.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # use healthmon_adapters::{net::{Dialer, tls::TlsClient}, secrets::Secrets, tcp::TcpProber};
/// # let settings = serde_json::json!({ "name": "mail", "url": "tcp://mail.example:25", "interval": "30s",
/// "tcp": {
///   "starttls": "smtp",                   // imap, pop3, ftp, postgres, ldap
///   "tls": {"verify": "full"},            // see TlsSettings; only with starttls
///   "steps": [                            // 1 to 8 of them; all said and heard over TLS, if there is any
///     {"send": "EHLO me.example\r\n", "expect": {"prefix": "250"}},
///     {"send": "51554954 0d0a", "encoding": "hex", "expect": {"contains": "323231"}},  // text; base64
///   ]
/// },
/// "expect": {
///   "tls": {"version": "1.3"},            // at least; only with starttls
///   "certificate": {"days": 7, "degraded_days": 21},
///   "latency": {"fail": "2s", "degraded": "500ms"}
/// }
/// # , "timeout": "5s"});
/// # use healthmon_core::ports::Prober;
/// # let prober = TcpProber::new(Default::default(), TlsClient::new(b"")?, Secrets::default());
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A dialogue of one step may be written without `steps`:
///
/// ```
/// # use healthmon_adapters::{net::{Dialer, tls::TlsClient}, secrets::Secrets, tcp::TcpProber};
/// # let settings = serde_json::json!({ "name": "cache", "url": "tcp://cache.example:6379", "interval": "30s",
/// "tcp": {"send": {"env": "HEALTHMON_SECRET_REDIS_PING"}, "expect": {"regex": "^\\+PONG\r\n"}}
/// # , "timeout": "5s"});
/// # use healthmon_core::ports::Prober;
/// # let prober = TcpProber::new(Default::default(), TlsClient::new(b"")?, Secrets::default());
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// What is sent may be a secret and is never shown; nor is what the target answers. An expected text
/// (or `contains`) may stand anywhere in the answer and a `regex` may match anywhere, so that more is
/// awaited until the deadline; a `prefix` fails as soon as it cannot come any more. What came before
/// a step sends is no answer to it. At most 64 KiB are read for a step.
///
/// # Reasons
///
/// Beside those of every connection (`dns`, `connect`, `timeout`, `tls`, `certificate`, `blocked`):
/// `protocol` when the peer hangs up, or speaks something else than what `starttls` says, or sends
/// in plain what belongs behind the handshake; `unimplemented` when it does not offer STARTTLS, or
/// refuses it; `not_serving` when it greets by saying that it is out of service; `status` for any other
/// code of SMTP or FTP; `assertion` when an answer is not the expected one; `secret` when what is to be
/// sent cannot be had.
#[derive(Debug)]
pub struct TcpProber {
    dialer: Arc<Dialer>,
    tls: TlsClient,
    secrets: Secrets,
    prepared: Prepared<Asking>,
}

impl TcpProber {
    /// A prober that connects by `dialer`, does its handshakes by `tls`, and finds what it is to
    /// send in `secrets`.
    pub fn new(dialer: Arc<Dialer>, tls: TlsClient, secrets: Secrets) -> Self {
        Self { dialer, tls, secrets, prepared: Prepared::default() }
    }

    async fn perform(&self, probe: &Probe, mut progress: Progress) -> Inspection {
        let attempt = Attempt::begin(probe);
        let asking = match self.prepared.of(&probe.service) {
            Ok(asking) => asking,
            Err(errors) => return Inspection::of(Fault::unreadable(&errors).into()),
        };
        let attempt = attempt.measured_from_now();
        let redactor = || asking.settings.dialogue.redactor(&self.secrets, asking.address.host());
        if progress.is_inspected() {
            progress.redactor = Some(redactor().into());
        }
        let exchange = self.exchange(&asking, attempt.deadline(), &mut progress);
        let ended = attempt.limit(Box::pin(exchange)).await;
        let ended = ended.map(|ended| ended.map_err(|fault| fault.redacted_of_certificate(redactor)));
        attempt.inspected(ended, progress, &asking.settings.expectations)
    }

    async fn exchange(
        &self,
        Asking { settings, address }: &Asking,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        let mut stream = self.dialer.dial(address.host(), address.port, deadline, progress).await?;
        let Some(starttls) = settings.starttls else {
            return settings.dialogue.hold(&mut stream, &self.secrets, deadline, progress).await;
        };
        starttls.ask(&mut stream, progress).await?;
        let handshake = self.tls.handshake(stream, address.host(), &settings.tls, Alpn::None, progress);
        let mut session = Box::pin(handshake).await?;
        settings.session.judge(&session, progress);
        let held = settings.dialogue.hold(&mut session, &self.secrets, deadline, progress).await;
        take_leave(session, deadline).await;
        held
    }
}

/// Ends a session by the book, so that the peer has nothing to complain of in its log; one that
/// does not take our last few bytes at once is left without them.
pub(crate) async fn take_leave(mut session: TlsStream<TcpStream>, deadline: Instant) {
    const PATIENCE: Duration = Duration::from_millis(50);
    let until = (Instant::now() + PATIENCE).min(deadline);
    if let Ok(Err(error)) = timeout_at(until, session.shutdown()).await {
        tracing::trace!(%error, "the peer was gone before the session ended");
    }
}

#[async_trait]
impl Prober for TcpProber {
    fn schemes(&self) -> &[&'static str] {
        &["tcp"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::check(settings)
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["tcp.send", "tcp.steps.*.send", "tcp.tls.key"]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }
}
