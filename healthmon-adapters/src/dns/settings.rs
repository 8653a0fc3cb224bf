//! The target and the sections `dns` and `expect` of a service's settings.

use healthmon_core::service::{FieldErrors, Fields, ServiceSettings};
use hickory_proto::rr::{DNSClass, RecordType};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Host;

use super::{
    expect::Expected,
    message::Asking,
    question::{self, Question},
};
use crate::{
    net::{Expectations, host, tls::TlsSettings},
    prepared::Prepare,
};

/// How the server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transport {
    /// By datagrams, and over TCP for what does not fit.
    #[default]
    Udp,
    Tcp,
    /// DNS over TLS.
    Tls,
}

impl Transport {
    const fn port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 53,
            Self::Tls => 853,
        }
    }
}

/// What is asked of whom, and what is expected back.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) host: Host<String>,
    pub(super) port: u16,
    pub(super) question: Question,
    pub(super) transport: Transport,
    pub(super) asking: Asking,
    pub(super) tls: TlsSettings,
    pub(super) expected: Expected,
    pub(super) expectations: Expectations,
}

/// The section `dns`.
struct Section {
    kind: Option<RecordType>,
    class: Option<DNSClass>,
    transport: Transport,
    asking: Asking,
    tls: TlsSettings,
}

impl Default for Section {
    fn default() -> Self {
        let asking = Asking { recursion: true, dnssec: false };
        Self { kind: None, class: None, transport: Transport::default(), asking, tls: TlsSettings::default() }
    }
}

impl Settings {
    /// Reads the target and the options, so that all that is wrong comes in one answer.
    pub(super) fn read(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        let url = service.url.url();
        if url.scheme() != "dns" {
            fields.wrong("url", "must begin with dns://");
        }
        let host = host::host(&url);
        if host.is_none() {
            fields.wrong("url", "must name a server, such as dns://192.0.2.53/www.example.org");
        }
        let section = fields.section("dns", Section::read).unwrap_or_default();
        let question = Question::read(&url, section.kind, section.class, &mut fields);
        let kind = question.as_ref().map_or(RecordType::ANY, |question| question.kind);
        let expected = fields.section("expect", |map| {
            let mut fields = Fields::new(map);
            let expected = Expected::read(&mut fields, kind);
            let expectations = Expectations::read(&mut fields);
            fields.finish().map(|()| (expected, expectations))
        });
        let (expected, expectations) = expected.unwrap_or_default();
        if section.transport != Transport::Tls {
            expectations.refuse_certificate(&mut fields);
        }
        fields.finish()?;
        let (Some(host), Some(question)) = (host, question) else {
            return Err(FieldErrors::one("url", "must be such as dns://192.0.2.53/www.example.org?type=AAAA"));
        };
        let port = url.port().unwrap_or_else(|| section.transport.port());
        let Section { transport, asking, tls, .. } = section;
        Ok(Self { host, port, question, transport, asking, tls, expected, expectations })
    }
}

impl Prepare for Settings {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        Self::read(service)
    }

    fn patterns(&self) -> usize {
        self.expected.patterns()
    }

    fn patterns_kib(&self) -> usize {
        self.expected.patterns_kib()
    }
}

impl Section {
    fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let kind = word(&mut fields, "type", question::kind);
        let class = word(&mut fields, "class", question::class);
        let transport: Transport = fields.optional("protocol").unwrap_or_default();
        let recursion = fields.optional("recursion").unwrap_or(true);
        let dnssec = fields.optional("dnssec").unwrap_or(false);
        let tls = fields.section("tls", TlsSettings::read);
        if tls.is_some() && transport != Transport::Tls {
            fields.wrong("tls", "is for dns.protocol tls");
        }
        fields.finish()?;
        Ok(Self { kind, class, transport, asking: Asking { recursion, dnssec }, tls: tls.unwrap_or_default() })
    }
}

fn word<T>(fields: &mut Fields, field: &str, read: impl FnOnce(&str) -> Result<T, &'static str>) -> Option<T> {
    let text: String = fields.optional(field)?;
    read(&text).map_err(|problem| fields.wrong(field, problem)).ok()
}
