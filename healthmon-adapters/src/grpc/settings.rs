//! The sections `grpc` and `expect` of a service's settings, and what its target names.

use std::str::FromStr;

use healthmon_core::service::{FieldErrors, Fields, Options, ServiceSettings};
use hyper::{
    Uri,
    http::uri::{Authority, PathAndQuery, Scheme},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::{Host, Url};

use super::metadata::Metadata;
use crate::{
    net::{Expectations, tls::TlsSettings},
    prepared::Prepare,
};

const AUTHORITY_LIMIT: usize = 255;

/// Whether a connection outlives its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reuse {
    #[default]
    Fresh,
    KeepAlive,
}

/// Whether the connection is to be secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Security {
    Plain,
    Tls,
}

/// Whether a stream is held that tells of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    No,
    Yes,
}

impl Watched {
    /// Looks for the one field; what is wrong otherwise is told elsewhere.
    pub(super) fn of(options: &Options) -> Self {
        let asked = options.section("grpc").and_then(|grpc| grpc.get("watch")).and_then(Value::as_bool);
        if asked == Some(true) { Self::Yes } else { Self::No }
    }
}

/// How a service is asked. Not `Debug`: metadata may be secret.
#[derive(Default)]
pub(super) struct Settings {
    pub(super) metadata: Metadata,
    pub(super) authority: Option<Authority>,
    pub(super) reuse: Reuse,
    pub(super) tls: TlsSettings,
    pub(super) expectations: Expectations,
}

/// Who is asked, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) host: Host<String>,
    pub(super) port: u16,
    pub(super) security: Security,
    /// The name of the service; empty for the server as a whole.
    pub(super) service: String,
}

impl Asked {
    /// Reads a target; otherwise says what would be right.
    pub(super) fn read(url: &Url) -> Result<Self, &'static str> {
        let security = match url.scheme() {
            "grpc" => Security::Plain,
            "grpcs" => Security::Tls,
            _ => return Err("must begin with grpc:// or grpcs://"),
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must have nothing behind the service's name");
        }
        // For these schemes the URL parser leaves the host as it was written. The one that knows all
        // forms of an address reads it, so that what is judged is what is dialled.
        let host = url.host_str().map(Host::parse).and_then(Result::ok).ok_or("must name a host")?;
        let port = url.port().ok_or("must name a port, such as grpc://host:50051/service")?;
        let service = url.path().strip_prefix('/').unwrap_or_default();
        let right = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
        if !service.bytes().all(right) {
            return Err("must name the service by letters, digits, \".\", \"_\", \"-\" and \"/\" only");
        }
        Ok(Self { host, port, security, service: service.to_owned() })
    }

    /// What requests are addressed to.
    pub(super) fn origin(&self, authority: Option<&Authority>) -> Result<Uri, hyper::http::Error> {
        let own = || Authority::from_str(&format!("{}:{}", self.host, self.port));
        let authority = authority.cloned().map_or_else(own, Ok)?;
        let scheme = match self.security {
            Security::Plain => Scheme::HTTP,
            Security::Tls => Scheme::HTTPS,
        };
        Uri::builder().scheme(scheme).authority(authority).path_and_query(PathAndQuery::from_static("/")).build()
    }
}

/// How and who, ready to ask.
pub(super) struct Asking {
    pub(super) settings: Settings,
    pub(super) asked: Asked,
    /// What requests are addressed to.
    pub(super) origin: Uri,
}

impl Prepare for Asking {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        let wrong = |problem: &dyn std::fmt::Display| FieldErrors::one("url", problem);
        let (mut settings, mut fields) = (Settings::default(), Fields::new(service.options.to_map()));
        settings.read_fields(&mut fields);
        fields.finish()?;
        let asked = Asked::read(&service.url.url()).map_err(|problem| wrong(&problem))?;
        let origin = asked.origin(settings.authority.as_ref()).map_err(|error| wrong(&error))?;
        Ok(Self { settings, asked, origin })
    }
}

impl Settings {
    /// Reads the options and checks the target, so that all that is wrong comes in one answer.
    pub(super) fn check(service: &ServiceSettings) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        let secured = match Asked::read(&service.url.url()) {
            Ok(asked) if asked.origin(None).is_err() => {
                fields.wrong("url", "must name a host");
                false
            }
            Ok(asked) => asked.security == Security::Tls,
            Err(problem) => {
                fields.wrong("url", problem);
                true
            }
        };
        let tls = service.options.section("grpc").and_then(|grpc| grpc.get("tls"));
        if !secured && tls.is_some_and(|tls| !tls.is_null()) {
            fields.wrong("grpc.tls", "is of use only for a target that begins with grpcs://");
        }
        let mut settings = Self::default();
        settings.read_fields(&mut fields);
        if !secured {
            settings.expectations.refuse_certificate(&mut fields);
        }
        fields.finish()
    }

    fn read_fields(&mut self, fields: &mut Fields) {
        fields.section("grpc", |map| self.read_grpc(map));
        fields.section("expect", |map| {
            let mut expect = Fields::new(map);
            self.expectations = Expectations::read(&mut expect);
            expect.finish()
        });
    }

    fn read_grpc(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        self.metadata = fields.section("metadata", Metadata::read).unwrap_or_default();
        if let Some(text) = fields.optional::<String>("authority") {
            match Authority::from_str(&text) {
                Ok(authority) if text.len() <= AUTHORITY_LIMIT && !text.contains('@') => {
                    self.authority = Some(authority);
                }
                _ => fields.wrong("authority", "must be a host name or an address, and perhaps \":\" and a port"),
            }
        }
        self.reuse = fields.optional("connection").unwrap_or_default();
        // Only that it is one or the other: see `Watched::of`.
        fields.optional::<bool>("watch");
        self.tls = fields.section("tls", TlsSettings::read).unwrap_or_default();
        fields.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(url: &str) -> Result<Asked, &'static str> {
        Asked::read(&Url::parse(url).expect("a url"))
    }

    #[test]
    fn a_target_names_host_port_and_service() {
        let whole = asked("grpc://shop.test:50051").expect("right");
        assert_eq!((whole.service.as_str(), whole.port, whole.security), ("", 50051, Security::Plain));
        assert_eq!(asked("grpc://shop.test:50051/").map(|asked| asked.service), Ok(String::new()));
        let named = asked("grpcs://shop.test:443/shop.v1.Cart").expect("right");
        assert_eq!((named.service.as_str(), named.security), ("shop.v1.Cart", Security::Tls));
        let origin = named.origin(None).expect("an origin");
        assert_eq!(origin.to_string(), "https://shop.test:443/");
    }

    #[test]
    fn every_form_of_an_address_is_read_as_the_address() {
        for (host, read) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("[::ffff:7f00:1]", "[::ffff:7f00:1]"),
            ("SHOP.test", "shop.test"),
        ] {
            let asked = asked(&format!("grpc://{host}:1/")).expect("right");
            assert_eq!(asked.host.to_string(), read, "{host}");
            assert_eq!(matches!(asked.host, Host::Domain(_)), read == "shop.test", "{host}");
            assert!(asked.origin(None).is_ok(), "{host}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_target_is_said() {
        for (url, says) in [
            ("http://shop.test:1/", "grpc://"),
            ("grpc://shop.test/", "a port"),
            ("grpc://shop.test:1/a?b", "nothing behind"),
            ("grpc://shop.test:1/a#b", "nothing behind"),
            ("grpc://shop.test:1/a%20b", "letters"),
            ("grpc://sho%20p:1/", "a host"),
        ] {
            let problem = asked(url).expect_err("wrong");
            assert!(problem.contains(says), "{url}: {problem}");
        }
    }
}
