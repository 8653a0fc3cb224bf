//! What is sent.

use std::borrow::Cow;

use bytes::Bytes;
use healthmon_core::probe::{FailReason, IndeterminateReason};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Uri,
    header::{self, HeaderName, HeaderValue},
};
use url::{Position, Url};

use super::settings::{Payload, Settings};
use crate::{
    net::attempt::Fault,
    secrets::{Redactor, SecretRef, Secrets},
};

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("healthmon/", env!("CARGO_PKG_VERSION")));
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");
pub(super) const CLOSE: HeaderValue = HeaderValue::from_static("close");
pub(super) const DECODABLE: HeaderValue = HeaderValue::from_static("gzip, deflate");

/// What a service wants to be sent to its target and nobody else, its secrets filled in. Not `Debug`.
pub(super) struct Sent<'a> {
    pub(super) headers: Cow<'a, HeaderMap>,
    pub(super) body: Bytes,
    /// A token that was sent before the one in the headers.
    pub(super) former: Option<HeaderValue>,
}

impl<'a> Sent<'a> {
    /// With the secrets that the settings refer to.
    pub(super) fn by(settings: &'a Settings, secrets: &Secrets) -> Result<Self, Fault> {
        let mut headers = Cow::Borrowed(&settings.headers);
        for (name, secret) in &settings.secret_headers {
            let unusable = || {
                let detail = format!("the secret for the header {name} has line breaks or other control characters");
                Fault::indeterminate(IndeterminateReason::Secret, detail)
            };
            let mut value = HeaderValue::try_from(secrets.reveal(secret)?.expose()).map_err(|_| unusable())?;
            value.set_sensitive(true);
            headers.to_mut().insert(name, value);
        }
        if let Some(auth) = &settings.auth
            && let Some(value) = auth.header(secrets)?
        {
            headers.to_mut().insert(header::AUTHORIZATION, value);
        }
        let body = match &settings.body {
            Payload::Plain(body) => body.clone(),
            Payload::Secret(secret) => Bytes::copy_from_slice(secrets.reveal(secret)?.expose().as_bytes()),
        };
        Ok(Self { headers, body, former: None })
    }
}

/// Headers whose values are words of HTTP's own. Written plainly they are no secrets, and often the
/// very words of the answer.
const WORDS: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    // What `http.host` says; no header does.
    header::HOST,
    header::PRAGMA,
];

impl Sent<'_> {
    /// Looks for all of it in what the target says.
    pub(super) fn hide(&self, settings: &Settings, redactor: &mut Redactor) {
        // Sealed is what was written plainly.
        let refers = |(_, at): &&(HeaderName, SecretRef)| !matches!(at, SecretRef::Sealed(_));
        let referred = |name| settings.secret_headers.iter().filter(refers).any(|(known, _)| known == name);
        for (name, value) in &*self.headers {
            if !WORDS.contains(name) || referred(name) {
                let value = String::from_utf8_lossy(value.as_bytes());
                let of_user = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION].contains(name);
                if of_user { redactor.hide_authorization(&value) } else { redactor.hide(&value) }
            }
        }
        if let Some(token) = &self.former {
            redactor.hide(&String::from_utf8_lossy(token.as_bytes()));
        }
        redactor.hide_document(&String::from_utf8_lossy(&self.body));
    }
}

/// A request for `url` with nothing but what every request of ours has.
pub(super) fn plain(method: Method, url: &Url, body: Bytes) -> Result<Request<Full<Bytes>>, Fault> {
    let unusable = |what: &str| Fault::fail(FailReason::Protocol, format!("the {what} cannot be put in a request"));
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(path).map_err(|_| unusable("path"))?;
    let host = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]);
    let headers = request.headers_mut();
    headers.reserve(6);
    headers.insert(header::HOST, host.map_err(|_| unusable("host"))?);
    headers.insert(header::USER_AGENT, USER_AGENT);
    headers.insert(header::ACCEPT, ANYTHING);
    Ok(request)
}
