//! The sections `http` and `expect` of a service's settings.

use std::sync::LazyLock;

use bytes::Bytes;
use healthmon_core::service::{FieldErrors, Fields, ServiceSettings};
use hyper::{
    HeaderMap, Method,
    header::{self, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::{auth::Auth, expect::Expect, request, route::Route};
use crate::{net::Expectations, prepared::Prepare, secrets::SecretRef};

/// The most redirects that can be asked for.
const REDIRECTS_LIMIT: u8 = 10;
const REDIRECTS: u8 = 5;
const HEADERS_LIMIT: usize = 64;
const HEADERS_SIZE_LIMIT: usize = 16 * 1024;
const BODY_LIMIT: usize = 64 * 1024;

/// Whether a connection outlives its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reuse {
    #[default]
    Fresh,
    KeepAlive,
}

/// A body to send.
pub(super) enum Payload {
    Plain(Bytes),
    Secret(SecretRef),
}

/// What is sent, and what is expected back. Not `Debug`: a body may be a secret.
pub(super) struct Settings {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    /// Headers whose values are to be found elsewhere.
    pub(super) secret_headers: Vec<(HeaderName, SecretRef)>,
    pub(super) body: Payload,
    pub(super) auth: Option<Auth>,
    pub(super) redirects: u8,
    pub(super) reuse: Reuse,
    pub(super) route: Route,
    pub(super) expectations: Expectations,
    pub(super) expect: Expect,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::GET,
            headers: HeaderMap::new(),
            secret_headers: Vec::new(),
            body: Payload::Plain(Bytes::new()),
            auth: None,
            redirects: REDIRECTS,
            reuse: Reuse::Fresh,
            route: Route::default(),
            expectations: Expectations::default(),
            expect: Expect::default(),
        }
    }
}

impl Settings {
    /// Those of a service without options.
    pub(super) fn plain() -> &'static Self {
        static PLAIN: LazyLock<Settings> = LazyLock::new(Settings::default);
        &PLAIN
    }

    /// Reads the options and checks the target, so that all that is wrong comes in one answer.
    pub(super) fn check(service: &ServiceSettings) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        match service.url.scheme() {
            "http" | "https" => {
                let mut url = service.url.url();
                url.set_fragment(None);
                if let Err(fault) = request::plain(Method::GET, &url, Bytes::new()) {
                    fields.wrong("url", fault.detail);
                }
            }
            _ => fields.wrong("url", "must begin with http:// or https://"),
        }
        let mut settings = Self::default();
        settings.read_fields(&mut fields);
        if service.url.scheme() == "http" && settings.redirects == 0 {
            settings.expectations.refuse_certificate(&mut fields);
        }
        fields.finish()
    }

    fn read_fields(&mut self, fields: &mut Fields) {
        fields.section("http", |map| self.read_http(map));
        fields.section("expect", |map| self.read_expect(map));
        if self.method == Method::HEAD {
            for wanted in self.expect.of_a_body() {
                let problem = "cannot be expected with http.method HEAD, whose answers have no body";
                fields.wrong(&format!("expect.{wanted}"), problem);
            }
        }
    }

    fn read_http(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        if let Some(name) = fields.optional::<String>("method") {
            match method(&name) {
                Some(method) => self.method = method,
                None => fields.wrong("method", "must be GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"),
            }
        }
        fields.section("headers", |map| self.read_headers(map));
        self.read_host(&mut fields);
        if let Some(body) = fields.optional::<SecretRef>("body") {
            if matches!(self.method, Method::GET | Method::HEAD) {
                fields.wrong("body", "cannot be sent with GET or HEAD; set the method");
            }
            self.body = match body {
                SecretRef::Plain(text) if text.len() > BODY_LIMIT => {
                    fields.wrong("body", "must be at most 65536 bytes long");
                    Payload::Plain(Bytes::new())
                }
                SecretRef::Plain(text) => Payload::Plain(String::from(text).into()),
                elsewhere => Payload::Secret(elsewhere),
            };
        }
        if let Some(redirects) = fields.optional::<u8>("redirects") {
            if redirects > REDIRECTS_LIMIT {
                fields.wrong("redirects", "must be from 0 to 10");
            }
            self.redirects = redirects;
        }
        self.reuse = fields.optional("connection").unwrap_or_default();
        self.auth = fields.section("auth", Auth::read);
        let named = |name: &HeaderName| self.secret_headers.iter().any(|(known, _)| known == name);
        if self.auth.is_some() && (self.headers.contains_key(header::AUTHORIZATION) || named(&header::AUTHORIZATION)) {
            fields.wrong("auth", "cannot be set beside a header authorization");
        }
        self.route = Route::read(&mut fields);
        fields.finish()
    }

    fn read_host(&mut self, fields: &mut Fields) {
        let Some(host) = fields.optional::<String>("host") else { return };
        let authority = host.parse::<hyper::http::uri::Authority>().is_ok_and(|read| !read.as_str().contains('@'));
        match HeaderValue::try_from(&host) {
            Ok(value) if authority => drop(self.headers.insert(header::HOST, value)),
            _ => fields.wrong("host", "must be a host name, and a port if there is to be one"),
        }
    }

    /// No message here repeats a value: it may be a secret.
    fn read_headers(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(Map::new());
        self.headers.reserve(map.len().min(HEADERS_LIMIT));
        let mut size = 0;
        for (at, (name, value)) in map.into_iter().enumerate() {
            if at >= HEADERS_LIMIT {
                fields.wrong(&name, "is one too many: at most 64 headers can be set");
                break;
            }
            let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
                fields.wrong(&name, "is not a header name");
                continue;
            };
            if parsed == header::HOST {
                // Headers are secrets. Whom a secret is sent to must not be one: it is compared
                // when a service is changed.
                fields.wrong(&name, "is set by http.host, and not by a header");
                continue;
            }
            if RESERVED.contains(&parsed) {
                fields.wrong(&name, "is set by the prober itself");
                continue;
            }
            let known = self.headers.contains_key(&parsed) || self.secret_headers.iter().any(|(n, _)| *n == parsed);
            match serde_json::from_value(value) {
                Ok(SecretRef::Plain(text)) => {
                    let Ok(mut value) = HeaderValue::from_str(&text) else {
                        fields.wrong(&name, "must be a text without line breaks or other control characters");
                        continue;
                    };
                    size += name.len() + value.len();
                    value.set_sensitive(true);
                    self.headers.insert(parsed, value);
                }
                Ok(elsewhere) => self.secret_headers.push((parsed, elsewhere)),
                Err(error) => {
                    fields.wrong(&name, error);
                    continue;
                }
            }
            if size > HEADERS_SIZE_LIMIT {
                fields.wrong(&name, "is too much: all headers together must be at most 16384 bytes long");
                break;
            }
            if known {
                fields.wrong(&name, "is set twice");
            }
        }
        fields.finish()
    }

    fn read_expect(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        self.expect = Expect::read(&mut fields);
        self.expectations = Expectations::read(&mut fields);
        fields.finish()
    }
}

/// How, and who.
pub(super) struct Asking {
    pub(super) settings: Settings,
    pub(super) url: Url,
}

impl Prepare for Asking {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        let (mut settings, mut fields) = (Settings::default(), Fields::new(service.options.to_map()));
        settings.read_fields(&mut fields);
        fields.finish()?;
        Ok(Self { settings, url: service.url.url() })
    }

    fn patterns(&self) -> usize {
        self.settings.expect.patterns()
    }

    fn patterns_kib(&self) -> usize {
        self.settings.expect.patterns_kib()
    }
}

fn method(name: &str) -> Option<Method> {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    known.into_iter().find(|method| method.as_str() == name)
}

/// Headers that say how the message is framed or what the connection is for, which is the
/// prober's own business.
const RESERVED: [HeaderName; 12] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
