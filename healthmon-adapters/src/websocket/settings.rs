//! The sections `websocket` and `expect` of a service's settings.

use std::time::Duration;

use healthmon_core::{
    probe::IndeterminateReason,
    service::{FieldErrors, Fields, ServiceSettings},
    time::span,
};
use http::{
    HeaderMap, Request, Uri,
    header::{self, HeaderName, HeaderValue},
    uri::Authority,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::{Utf8Bytes, handshake::client::generate_key};
use url::{Host, Position, Url};

use crate::{
    net::{Expectations, attempt::Fault, tls::TlsSettings},
    pattern::Pattern,
    prepared::Prepare,
    secrets::{Redactor, SecretRef, Secrets},
};

const HEADERS_LIMIT: usize = 32;
/// The longest header, in bytes.
const HEADER_LIMIT: usize = 8 * 1024;
const SUBPROTOCOLS_LIMIT: usize = 8;
/// The longest message that is sent, in bytes.
pub(super) const SEND_LIMIT: usize = 64 * 1024;

/// Headers that are the prober's own business.
const RESERVED: [HeaderName; 10] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
    header::TE,
];

/// That a ping is sent, and when its answer must be there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ping {
    pub(super) within: Option<Duration>,
}

/// What is said, and what is expected back.
#[derive(Default)]
pub(super) struct Settings {
    headers: Vec<(HeaderName, SecretRef)>,
    /// As whom the target is asked for, if not by the URL's host and port.
    host: Option<HeaderValue>,
    subprotocols: Option<HeaderValue>,
    send: Option<SecretRef>,
    pub(super) expect: Option<Pattern>,
    pub(super) ping: Option<Ping>,
    pub(super) tls: TlsSettings,
    pub(super) expectations: Expectations,
}

/// Where a connection goes, and how.
pub(super) struct Target<'a> {
    pub(super) host: Host<&'a str>,
    pub(super) port: u16,
    pub(super) security: Security,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    Tls,
}

pub(super) fn target(url: &Url) -> Result<Target<'_>, Fault> {
    let security = match url.scheme() {
        "ws" => Some(Security::Plain),
        "wss" => Some(Security::Tls),
        _ => None,
    };
    match (url.host(), url.port_or_known_default(), security) {
        (Some(host), Some(port), Some(security)) => Ok(Target { host, port, security }),
        _ => Err(Fault::indeterminate(
            IndeterminateReason::Unsupported,
            format!("{:?} is not a scheme of this prober", url.scheme()),
        )),
    }
}

/// A span as people write it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Span(#[serde(with = "span")] Duration);

/// How, and who.
pub(super) struct Asking {
    pub(super) settings: Settings,
    pub(super) url: Url,
}

impl Asking {
    /// What takes the headers and the message out of what is told of the peer, but for its own name.
    pub(super) fn redactor(&self, secrets: &Secrets) -> Redactor {
        let mut redactor = Redactor::default();
        for (name, secret) in &self.settings.headers {
            // One that cannot be had was not sent either.
            let Ok(revealed) = secrets.reveal(secret) else { continue };
            match *name {
                header::AUTHORIZATION => redactor.hide_authorization(revealed.expose()),
                _ => redactor.hide(revealed.expose()),
            }
        }
        if let Some(Ok(revealed)) = self.settings.send.as_ref().map(|secret| secrets.reveal(secret)) {
            redactor.hide_document(revealed.expose());
        }
        if let Some(host) = self.url.host() {
            redactor.spare(host);
        }
        redactor
    }
}

impl Prepare for Asking {
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
        let (mut settings, mut fields) = (Settings::default(), Fields::new(service.options.to_map()));
        settings.read_fields(&mut fields);
        fields.finish()?;
        Ok(Self { settings, url: service.url.url() })
    }

    fn patterns(&self) -> usize {
        usize::from(self.settings.expect.as_ref().is_some_and(Pattern::is_compiled))
    }

    fn patterns_kib(&self) -> usize {
        self.settings.expect.as_ref().map_or(0, Pattern::kib)
    }
}

impl Settings {
    /// Reads the options and checks the target, so that all that is wrong comes in one answer.
    pub(super) fn check(service: &ServiceSettings) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(service.options.to_map());
        let url = service.url.url();
        match target(&url) {
            Err(_) => fields.wrong("url", "must begin with ws:// or wss://"),
            Ok(target) if target.port == 0 => fields.wrong("url", "must name a port from 1 to 65535"),
            Ok(_) => {
                if let Err(fault) = Self::default().request(&url, &Secrets::default()) {
                    fields.wrong("url", fault.detail);
                }
            }
        }
        let mut read = Self::default();
        read.read_fields(&mut fields);
        if url.scheme() == "ws" {
            if read.tls != TlsSettings::default() {
                fields.wrong("websocket.tls", "can be set only for a target that begins with wss://");
            }
            read.expectations.refuse_certificate(&mut fields);
        }
        fields.finish()
    }

    fn read_fields(&mut self, fields: &mut Fields) {
        fields.section("websocket", |map| self.read_websocket(map));
        fields.section("expect", |map| {
            let mut fields = Fields::new(map);
            self.expectations = Expectations::read(&mut fields);
            fields.finish()
        });
    }

    fn read_websocket(&mut self, map: Map<String, Value>) -> Result<(), FieldErrors> {
        let mut fields = Fields::new(map);
        self.headers = fields.section("headers", headers).unwrap_or_default();
        if let Some(text) = fields.optional::<String>("host") {
            self.host = host(&text);
            if self.host.is_none() {
                fields.wrong("host", "must be a host name, and a port if there is to be one");
            }
        }
        if let Some(names) = fields.optional::<Vec<String>>("subprotocols") {
            match subprotocols(&names) {
                Some(value) => self.subprotocols = Some(value),
                None => {
                    fields.wrong("subprotocols", "must be 1 to 8 names such as \"graphql-transport-ws\", no two alike")
                }
            }
        }
        self.send = fields.optional("send");
        if let Some(SecretRef::Plain(text)) = &self.send
            && text.is_empty()
        {
            fields.wrong("send", "must not be empty; leave it out to send nothing");
        }
        if let Some(value) = fields.optional::<Value>("expect") {
            match Pattern::read("expect", value, |text| Ok(text.as_bytes().to_vec())) {
                Ok(pattern) => self.expect = Some(pattern),
                Err(errors) => fields.absorb(errors),
            }
        }
        self.ping = fields.section("ping", ping);
        self.tls = fields.section("tls", TlsSettings::read).unwrap_or_default();
        fields.finish()
    }

    /// The request for the upgrade.
    pub(super) fn request(&self, url: &Url, secrets: &Secrets) -> Result<Request<()>, Fault> {
        let unusable = |what: &str| {
            Fault::indeterminate(IndeterminateReason::Unsupported, format!("the {what} cannot be put in a request"))
        };
        let path = &url[Position::BeforePath..Position::AfterQuery];
        // Only its path is sent, but the library wants a whole one.
        let uri = Uri::builder().scheme("ws").authority("target").path_and_query(path).build();
        let mut request = Request::new(());
        *request.uri_mut() = uri.map_err(|_| unusable("path"))?;
        let host = match &self.host {
            Some(host) => host.clone(),
            None => {
                HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]).map_err(|_| unusable("host"))?
            }
        };
        let key = HeaderValue::from_str(&generate_key());
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, key.map_err(|_| unusable("key"))?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("healthmon/", env!("CARGO_PKG_VERSION"))));
        if let Some(subprotocols) = &self.subprotocols {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocols.clone());
        }
        for (name, secret) in &self.headers {
            let fault = |detail: String| Fault::indeterminate(IndeterminateReason::Secret, detail);
            let revealed = secrets.reveal(secret).map_err(|error| fault(error.to_string()))?;
            let mut value =
                header_value(revealed.expose()).ok_or_else(|| fault(format!("the header {name} {HEADER_RULE}")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(request)
    }

    /// The message to send.
    pub(super) fn message(&self, secrets: &Secrets) -> Result<Option<Utf8Bytes>, Fault> {
        let Some(secret) = &self.send else { return Ok(None) };
        let revealed = secrets.reveal(secret);
        let revealed =
            revealed.map_err(|error| Fault::indeterminate(IndeterminateReason::Secret, error.to_string()))?;
        Ok(Some(revealed.expose().into()))
    }
}

const HEADER_RULE: &str = "must be a text of at most 8192 bytes without line breaks or other control characters";

fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok().filter(|value| value.len() <= HEADER_LIMIT && value.to_str().is_ok())
}

/// No message here repeats a value: it may be a secret.
fn headers(map: Map<String, Value>) -> Result<Vec<(HeaderName, SecretRef)>, FieldErrors> {
    let names: Vec<String> = map.keys().cloned().collect();
    let mut fields = Fields::new(map);
    let mut known = HeaderMap::new();
    let mut headers = Vec::with_capacity(names.len().min(HEADERS_LIMIT));
    for (at, name) in names.iter().enumerate() {
        let secret = fields.optional::<SecretRef>(name);
        if at >= HEADERS_LIMIT {
            fields.wrong(name, "is one too many: at most 32 headers can be set");
            fields.take_rest();
            break;
        }
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            fields.wrong(name, "is not a header name");
            continue;
        };
        if parsed == header::HOST {
            // Headers are secrets. Whom a secret is sent to must not be one: it is compared when a
            // service is changed.
            fields.wrong(name, "is set by websocket.host, and not by a header");
            continue;
        }
        if RESERVED.contains(&parsed) {
            fields.wrong(name, "is set by the prober itself");
            continue;
        }
        if known.insert(parsed.clone(), HeaderValue::from_static("")).is_some() {
            fields.wrong(name, "is set twice");
        }
        match secret {
            Some(SecretRef::Plain(text)) if header_value(&text).is_none() => fields.wrong(name, HEADER_RULE),
            Some(secret) => headers.push((parsed, secret)),
            None => {}
        }
    }
    fields.finish()?;
    Ok(headers)
}

fn host(text: &str) -> Option<HeaderValue> {
    let authority = text.parse::<Authority>().ok().filter(|read| !read.as_str().contains('@'));
    authority.and_then(|_| HeaderValue::from_str(text).ok())
}

fn subprotocols(names: &[String]) -> Option<HeaderValue> {
    // A token of HTTP, which is what a header's name is too, though without upper case.
    let is_token = |name: &String| name.len() <= 128 && HeaderName::from_bytes(name.as_bytes()).is_ok();
    let alike = names.iter().enumerate().any(|(at, name)| names[..at].contains(name));
    if names.is_empty() || names.len() > SUBPROTOCOLS_LIMIT || alike || !names.iter().all(is_token) {
        return None;
    }
    HeaderValue::from_str(&names.join(", ")).ok()
}

fn ping(map: Map<String, Value>) -> Result<Ping, FieldErrors> {
    let mut fields = Fields::new(map);
    let within = fields.optional::<Span>("within").map(|span| span.0);
    if within.is_some_and(|within| within.is_zero()) {
        fields.wrong("within", "must be longer than nothing");
    }
    fields.finish()?;
    Ok(Ping { within })
}
