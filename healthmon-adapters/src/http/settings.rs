//! The sections `http` and `expect` of a service's settings.

use std::sync::LazyLock;

use bytes::Bytes;
use healthmon_core::service::{FieldErrors, Fields, Options, ServiceSettings};
use hyper::{
    HeaderMap, Method,
    header::{self, HeaderName, HeaderValue},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{redirect::Hop, status::Statuses};
use crate::net::{Expectations, tls::TlsSettings};

/// The most redirects that can be asked for.
const REDIRECTS_LIMIT: u8 = 10;
const REDIRECTS: u8 = 5;
const HEADERS_LIMIT: usize = 64;
const HEADERS_SIZE_LIMIT: usize = 16 * 1024;
const BODY_LIMIT: usize = 64 * 1024;
const TEXT_LIMIT: usize = 4 * 1024;

/// Whether a connection outlives its probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reuse {
    #[default]
    Fresh,
    KeepAlive,
}

/// What is sent, and what is expected back. Not `Debug`: a body may be a secret.
pub(super) struct Settings {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) redirects: u8,
    pub(super) reuse: Reuse,
    pub(super) tls: TlsSettings,
    pub(super) expectations: Expectations,
    pub(super) status: Statuses,
    pub(super) contains: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            method: Method::GET,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            redirects: REDIRECTS,
            reuse: Reuse::Fresh,
            tls: TlsSettings::default(),
            expectations: Expectations::default(),
            status: Statuses::Success,
            contains: None,
        }
    }
}

impl Settings {
    /// Those of a service without options.
    pub(super) fn plain() -> &'static Self {
        static PLAIN: LazyLock<Settings> = LazyLock::new(Settings::default);
        &PLAIN
    }

    /// Reads the options.
    pub(super) fn read(options: &Options) -> Result<Self, FieldErrors> {
        Self::read_fields(Fields::new(options.to_map()))
    }

    /// Reads the options and checks the target, so that all that is wrong comes in one answer.
    pub(super) fn check(service: &ServiceSettings) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        match service.url.scheme() {
            "http" | "https" => {
                let plain = Self::plain();
                if let Err(fault) = Hop::first(service.url.url(), plain).request(plain) {
                    fields.wrong("url", fault.detail);
                }
            }
            _ => fields.wrong("url", "must begin with http:// or https://"),
        }
        Self::read_fields(fields).map(drop)
    }

    fn read_fields(mut fields: Fields) -> Result<Self, FieldErrors> {
        let mut settings = Self::default();
        fields.section("http", |map| settings.read_http(map));
        fields.section("expect", |map| settings.read_expect(map));
        if settings.contains.is_some() && settings.method == Method::HEAD {
            fields.wrong("expect.body", "cannot be expected with http.method HEAD, whose answers have no body");
        }
        fields.finish()?;
        Ok(settings)
    }

    fn read_http(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        if let Some(name) = fields.optional::<String>("method") {
            match method(&name) {
                Some(method) => self.method = method,
                None => fields.wrong("method", "must be GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS"),
            }
        }
        if let Some(headers) = fields.section("headers", headers) {
            self.headers = headers;
        }
        if let Some(body) = fields.optional::<String>("body") {
            if matches!(self.method, Method::GET | Method::HEAD) {
                fields.wrong("body", "cannot be sent with GET or HEAD; set the method");
            } else if body.len() > BODY_LIMIT {
                fields.wrong("body", "must be at most 65536 bytes long");
            }
            self.body = body.into();
        }
        if let Some(redirects) = fields.optional::<u8>("redirects") {
            if redirects > REDIRECTS_LIMIT {
                fields.wrong("redirects", "must be from 0 to 10");
            }
            self.redirects = redirects;
        }
        self.reuse = fields.optional("connection").unwrap_or_default();
        self.tls = fields.section("tls", TlsSettings::read).unwrap_or_default();
        fields.finish()
    }

    fn read_expect(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        if let Some(status) = fields.optional::<Value>("status") {
            match Statuses::read(&status) {
                Ok(statuses) => self.status = statuses,
                Err(errors) => fields.absorb(errors),
            }
        }
        if let Some(text) = fields.optional::<String>("body") {
            if text.is_empty() || text.len() > TEXT_LIMIT {
                fields.wrong("body", "must be a text of 1 to 4096 bytes");
            }
            self.contains = Some(text);
        }
        self.expectations = Expectations::read(&mut fields);
        fields.finish()
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

/// No message here repeats a value: it may be a secret.
fn headers(map: Map<String, Value>) -> Result<HeaderMap, FieldErrors> {
    let mut fields = Fields::new(Map::new());
    let mut headers = HeaderMap::with_capacity(map.len().min(HEADERS_LIMIT));
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
        if RESERVED.contains(&parsed) {
            fields.wrong(&name, "is set by the prober itself");
            continue;
        }
        let Some(mut value) = value.as_str().and_then(|value| HeaderValue::from_str(value).ok()) else {
            fields.wrong(&name, "must be a text without line breaks or other control characters");
            continue;
        };
        size += name.len() + value.len();
        value.set_sensitive(true);
        if size > HEADERS_SIZE_LIMIT {
            fields.wrong(&name, "is too much: all headers together must be at most 16384 bytes long");
            break;
        }
        if headers.insert(parsed, value).is_some() {
            fields.wrong(&name, "is set twice");
        }
    }
    fields.finish()?;
    Ok(headers)
}
