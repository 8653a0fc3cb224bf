//! What is expected of a TLS session beside its certificate.

use healthmon_core::{
    probe::{FailReason, Held},
    service::{FieldErrors, Fields},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use tokio_rustls::{client::TlsStream, rustls::ProtocolVersion};

use crate::net::Progress;

/// A version of TLS that rustls speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Version {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

impl Version {
    const fn as_str(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }
}

/// The section `expect.tls`: `{"version": "1.3", "alpn": "h2"}`; the version is the least.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SessionExpectations {
    version: Option<Version>,
    /// The application protocol that must be agreed upon.
    pub(crate) alpn: Option<Box<str>>,
}

impl SessionExpectations {
    pub(crate) fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let read = Self { version: fields.optional("version"), alpn: fields.optional("alpn") };
        fields.finish()?;
        Ok(read)
    }

    /// Notes what `session` does not meet.
    pub(crate) fn judge(&self, session: &TlsStream<TcpStream>, progress: &mut Progress) {
        let (_, session) = session.get_ref();
        let assertion = |held: bool| if held { Held::Held } else { Held::Failed };
        if let Some(least) = self.version {
            let version = match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => Some(Version::V12),
                Some(ProtocolVersion::TLSv1_3) => Some(Version::V13),
                _ => None,
            };
            let held = assertion(version.is_some_and(|version| version >= least));
            progress.assertions.note("tls version", held, FailReason::Assertion, || {
                let seen = version.map_or("another", Version::as_str);
                (format!("at least {}", least.as_str()), seen.to_owned())
            });
        }
        if let Some(wanted) = &self.alpn {
            let agreed = session.alpn_protocol();
            let held = assertion(agreed == Some(wanted.as_bytes()));
            progress.assertions.note("application protocol", held, FailReason::Assertion, || {
                // rustls takes only what was offered, which is the service's own text.
                let seen = agreed.map_or("none".into(), String::from_utf8_lossy);
                (wanted.to_string(), seen.into_owned())
            });
        }
    }
}
