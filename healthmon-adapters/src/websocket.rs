//! Probing over WebSocket: the upgrade, and if so told a message, its answer, and a ping.

mod conversation;
mod settings;
mod stream;
mod upgrade;

use std::sync::Arc;

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{Inspection, Observation, Probe},
    service::{FieldErrors, ServiceSettings},
};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tracing::{instrument::WithSubscriber, subscriber::NoSubscriber};

use crate::{
    net::{
        Dialer, Progress,
        attempt::{Attempt, Fault},
        tls::{Alpn, TlsClient},
    },
    prepared::Prepared,
    secrets::Secrets,
};
use settings::{Asking, Security, Settings, target};
use stream::{Metered, Stream};

/// Probes `ws` and `wss` targets: whether the connection is upgraded, and if so told whether a
/// message is answered as expected and a ping comes back.
///
/// Without options a probe passes when the upgrade does.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # use healthmon_adapters::{net::{Dialer, tls::TlsClient}, secrets::Secrets, websocket::WebSocketProber};
/// # let settings = serde_json::json!({ "name": "feed", "url": "wss://feed.example/v1?room=1", "interval": "30s",
/// "websocket": {
///   "headers": {                                             // at most 32; each a secret
///     "origin": "https://shop.example",
///     "authorization": {"env": "HEALTHMON_SECRET_FEED"}
///   },
///   "host": "feed.example",                                  // the URL's host and port, as the target is asked for
///   "subprotocols": ["graphql-transport-ws"],                // one of them must be agreed upon
///   "ping": {"within": "500ms"},                             // {}: by the deadline
///   "send": "{\"type\":\"connection_init\"}",                // a text message; may be a secret
///   "expect": {"regex": "\"type\":\\s*\"connection_ack\""},  // a text, {"contains": …}, {"prefix": …}
///   "tls": {"verify": "full"}                                // see TlsSettings; only with wss
/// },
/// "expect": {
///   "certificate": {"days": 7, "degraded_days": 21},
///   "latency": {"fail": "2s", "degraded": "500ms"}
/// }
/// # , "timeout": "5s"});
/// # use healthmon_core::ports::Prober;
/// # let prober = WebSocketProber::new(Default::default(), TlsClient::new(b"")?, Secrets::default());
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The message that is expected may be any of those that come before the deadline; they and what else
/// comes may be at most 64 KiB each and 1 MiB in all, and none of it is ever shown. With an expression that is
/// compiled to more than 6 KiB less is looked through, about 110 KiB of messages with one `\w`, which
/// `(?-u:\w)` makes 1 MiB again; then it fails with `assertion` and says so. Redirects are not
/// followed. The session is closed politely, for which a quarter of a second is given.
///
/// # Reasons
///
/// Beside those of every connection (`dns`, `connect`, `timeout`, `tls`, `certificate`, `blocked`):
/// `status` when the answer to the upgrade is another than 101; `protocol` when that answer or a
/// frame breaks the rules; `unimplemented` when no subprotocol of ours is spoken; `assertion` when the
/// expected message does not come or the pong takes too long; `not_serving` when the peer closes
/// because it goes away, restarts or is overloaded (1001, 1012, 1013); `secret` when a header or the
/// message cannot be had.
#[derive(Debug)]
pub struct WebSocketProber {
    dialer: Arc<Dialer>,
    tls: TlsClient,
    secrets: Secrets,
    prepared: Prepared<Asking>,
}

/// A session, once there is one.
type Session = WebSocketStream<Metered>;

impl WebSocketProber {
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
        let deadline = attempt.deadline();
        let redactor = || asking.redactor(&self.secrets);
        if progress.is_inspected() {
            progress.redactor = Some(redactor().into());
        }
        let mut session = None;
        let exchange = self.exchange(&asking, deadline, &mut session, &mut progress);
        let ended = attempt.limit(Box::pin(exchange)).await;
        let ended = ended.map(|ended| ended.map_err(|fault| fault.redacted_of_certificate(redactor)));
        let inspection = attempt.inspected(ended, progress, &asking.settings.expectations);
        if let Some(session) = session {
            // What follows is no part of what was measured.
            quietly(conversation::close(session, deadline)).await;
        }
        inspection
    }

    async fn exchange(
        &self,
        Asking { settings, url }: &Asking,
        deadline: Instant,
        session: &mut Option<Session>,
        progress: &mut Progress,
    ) -> Result<(), Fault> {
        let target = target(url)?;
        let request = settings.request(url, &self.secrets)?;
        let message = settings.message(&self.secrets)?;
        let stream = self.dialer.dial(target.host.clone(), target.port, deadline, progress).await?;
        let stream = match target.security {
            Security::Plain => Stream::Plain(stream),
            Security::Tls => {
                let handshake = self.tls.handshake(stream, target.host, &settings.tls, Alpn::Http1, progress);
                Stream::Tls(Box::new(Box::pin(handshake).await?))
            }
        };
        let upgraded = quietly(upgrade::upgrade(request, Metered::new(stream), progress)).await?;
        let session = session.insert(upgraded);
        quietly(conversation::hold(session, settings, message, deadline, progress)).await
    }
}

/// Runs what calls tungstenite, which logs whole requests and messages at its lowest level: in
/// there nothing reaches the log. (Only where records of the `log` crate go elsewhere than to
/// `tracing` would they still.)
fn quietly<F: Future>(talking: F) -> impl Future<Output = F::Output> {
    talking.with_subscriber(NoSubscriber::new())
}

#[async_trait]
impl Prober for WebSocketProber {
    fn schemes(&self) -> &[&'static str] {
        &["ws", "wss"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::check(settings)
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["websocket.headers.*", "websocket.send", "websocket.tls.key"]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }
}
