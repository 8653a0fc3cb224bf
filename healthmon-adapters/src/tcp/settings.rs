//! The sections `tcp` and `expect` of a service's settings.

use healthmon_core::service::{FieldErrors, Fields, ServiceSettings};
use serde_json::{Map, Value};

use super::{Address, Dialogue, SessionExpectations, starttls::StartTls};
use crate::{
    net::{Expectations, tls::TlsSettings},
    prepared::Prepare,
};

/// What is said, and what is expected back.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) starttls: Option<StartTls>,
    pub(super) tls: TlsSettings,
    pub(super) dialogue: Dialogue,
    pub(super) session: SessionExpectations,
    pub(super) expectations: Expectations,
}

/// How, and who.
pub(super) struct Asking {
    pub(super) settings: Settings,
    pub(super) address: Address,
}

impl Prepare for Asking {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        let settings = Settings::read_fields(Fields::new(service.options.to_map()))?;
        let address = Address::of(&service.url.url(), "tcp").map_err(|problem| FieldErrors::one("url", problem))?;
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
    /// Reads the options and checks the target, so that all that is wrong comes in one answer.
    pub(super) fn check(service: &ServiceSettings) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        if let Err(problem) = Address::of(&service.url.url(), "tcp") {
            fields.wrong("url", problem);
        }
        Self::read_fields(fields).map(drop)
    }

    fn read_fields(mut fields: Fields) -> Result<Self, FieldErrors> {
        let mut settings = Self::default();
        fields.section("tcp", |map| settings.read_tcp(map));
        fields.section("expect", |map| settings.read_expect(map));
        if settings.starttls.is_none() && settings.session != SessionExpectations::default() {
            fields.wrong("expect.tls", "can be expected only with tcp.starttls, or of a target tls://host:port");
        }
        if settings.starttls.is_none() {
            settings.expectations.refuse_certificate(&mut fields);
        }
        if settings.session.alpn.is_some() {
            fields.wrong("expect.tls.alpn", "can be expected only of a target tls://host:port");
        }
        fields.finish()?;
        Ok(settings)
    }

    fn read_tcp(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        self.starttls = fields.optional("starttls");
        let tls = fields.section("tls", TlsSettings::read);
        if tls.is_some() && self.starttls.is_none() {
            fields
                .wrong("tls", "can be set only with starttls; where TLS begins at once the target is tls://host:port");
        }
        self.tls = tls.unwrap_or_default();
        self.dialogue = Dialogue::read(&mut fields);
        fields.finish()
    }

    fn read_expect(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        self.session = fields.section("tls", SessionExpectations::read).unwrap_or_default();
        self.expectations = Expectations::read(&mut fields);
        fields.finish()
    }
}
