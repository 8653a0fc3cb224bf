//! Probing what speaks TLS from the first byte.

use std::{ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use healthmon_core::{
    ports::Prober,
    probe::{Inspection, Observation, Probe},
    service::{FieldErrors, Fields, ServiceSettings},
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{
    net::{
        Dialer, Expectations, Progress,
        attempt::{Attempt, Fault},
        tls::{TlsClient, TlsSettings},
    },
    prepared::{Prepare, Prepared},
    secrets::Secrets,
    tcp::{Address, Dialogue, SessionExpectations, take_leave},
};

/// Probes `tls` targets: a handshake, the certificate's chain, name and dates, and if so told what is
/// said over the session.
///
/// Without options a probe passes when the handshake succeeds and the certificate is good.
///
/// # Options
///
/// All of them may be left out:
///
/// ```
/// # use healthmon_adapters::{net::{Dialer, tls::TlsClient}, secrets::Secrets, tls::TlsProber};
/// # let settings = serde_json::json!({ "name": "mail", "url": "tls://mail.example:993", "interval": "1h",
/// "tls": {
///   "alpn": ["imap"],                     // none; the application protocols to offer
///   "server_name": "imap.example",        // the target's host
///   "verify": "full",                     // and all else of TlsSettings
///   "send": "a NOOP\r\n",                 // a dialogue as TcpProber has it: send, encoding, expect; or steps
///   "expect": "a OK"
/// },
/// "expect": {
///   "tls": {"version": "1.3", "alpn": "imap"},       // at least that version
///   "certificate": {"days": 7, "degraded_days": 21},
///   "latency": {"tls": "300ms"}
/// }
/// # , "timeout": "5s"});
/// # use healthmon_core::ports::Prober;
/// # let prober = TlsProber::new(Default::default(), TlsClient::new(b"")?, Secrets::default());
/// # prober.check(&serde_json::from_value(settings)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A peer that wants a certificate of ours may say so only after the handshake (with TLS 1.3), so
/// that it takes a dialogue to see it. So does what it takes to resume a session: with `resumption`, one is
/// resumed only where there is a dialogue.
///
/// # Reasons
///
/// `tls` when there is no handshake, `certificate` when the certificate is refused or has too few days
/// left, `assertion` when the version or the application protocol is not the expected one; else those
/// of [`TcpProber`](crate::tcp::TcpProber).
#[derive(Debug)]
pub struct TlsProber {
    dialer: Arc<Dialer>,
    tls: TlsClient,
    secrets: Secrets,
    prepared: Prepared<Asking>,
}

impl TlsProber {
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
        let stream = self.dialer.dial(address.host(), address.port, deadline, progress).await?;
        let handshake = self.tls.handshake_offering(stream, address.host(), &settings.tls, &settings.alpn, progress);
        let mut session = Box::pin(handshake).await?;
        settings.session.judge(&session, progress);
        let held = settings.dialogue.hold(&mut session, &self.secrets, deadline, progress).await;
        take_leave(session, deadline).await;
        held
    }
}

#[async_trait]
impl Prober for TlsProber {
    fn schemes(&self) -> &[&'static str] {
        &["tls"]
    }

    fn check(&self, settings: &ServiceSettings) -> Result<(), FieldErrors> {
        Settings::check(settings)
    }

    fn secrets(&self) -> &'static [&'static str] {
        &["tls.send", "tls.steps.*.send", "tls.key"]
    }

    async fn probe(&self, probe: &Probe) -> Observation {
        self.perform(probe, Progress::default()).await.seen
    }

    async fn inspect(&self, probe: &Probe) -> Inspection {
        self.perform(probe, Progress::inspecting()).await
    }
}

/// How many application protocols can be offered.
const PROTOCOLS_LIMIT: usize = 8;
/// How long the name of one is, in bytes.
const PROTOCOL_LENGTH: RangeInclusive<usize> = 1..=255;

/// The sections `tls` and `expect`.
struct Settings {
    tls: TlsSettings,
    alpn: Arc<[Box<str>]>,
    dialogue: Dialogue,
    session: SessionExpectations,
    expectations: Expectations,
}

/// How, and who.
struct Asking {
    settings: Settings,
    address: Address,
}

impl Prepare for Asking {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        let settings = Settings::read_fields(Fields::new(service.options.to_map()))?;
        let address = Address::of(&service.url.url(), "tls").map_err(|problem| FieldErrors::one("url", problem))?;
        Ok(Self { settings, address })
    }

    fn patterns(&self) -> usize {
        self.settings.dialogue.patterns()
    }

    fn patterns_kib(&self) -> usize {
        self.settings.dialogue.patterns_kib()
    }
}

impl Settings {
    fn check(service: &ServiceSettings) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        if let Err(problem) = Address::of(&service.url.url(), "tls") {
            fields.wrong("url", problem);
        }
        Self::read_fields(fields).map(drop)
    }

    fn read_fields(mut fields: Fields) -> Result<Self, FieldErrors> {
        let mut settings = Self {
            tls: TlsSettings::default(),
            alpn: Arc::default(),
            dialogue: Dialogue::default(),
            session: SessionExpectations::default(),
            expectations: Expectations::default(),
        };
        fields.section("tls", |map| settings.read_tls(map));
        fields.section("expect", |map| settings.read_expect(map));
        if settings.session.alpn.as_ref().is_some_and(|wanted| !settings.alpn.contains(wanted)) {
            fields.wrong("expect.tls.alpn", "must be one of tls.alpn, for no other can be agreed upon");
        }
        fields.finish()?;
        Ok(settings)
    }

    fn read_tls(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        if let Some(names) = fields.optional::<Vec<Box<str>>>("alpn") {
            let wrong =
                |name: &str| !PROTOCOL_LENGTH.contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_graphic());
            if names.is_empty() || names.len() > PROTOCOLS_LIMIT || names.iter().any(|name| wrong(name)) {
                fields.wrong("alpn", "must be 1 to 8 names of protocols such as \"h2\", each at most 255 bytes long");
            }
            self.alpn = names.into();
        }
        self.dialogue = Dialogue::read(&mut fields);
        match TlsSettings::read(fields.take_rest()) {
            Ok(tls) => self.tls = tls,
            Err(errors) => fields.absorb(errors),
        }
        fields.finish()
    }

    fn read_expect(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        self.session = fields.section("tls", SessionExpectations::read).unwrap_or_default();
        self.expectations = Expectations::read(&mut fields);
        fields.finish()
    }
}
