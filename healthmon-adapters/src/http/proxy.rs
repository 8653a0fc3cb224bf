//! Proxies that a service names; none is ever used because the system says so.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use healthmon_core::{
    probe::FailReason,
    service::{FieldErrors, Fields},
};
use http_body_util::Full;
use hyper::{
    Request, Uri,
    header::{self, HeaderValue},
};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::{Host, Position, Url};

use crate::{
    net::{Progress, Stage, attempt::Fault},
    secrets::{SecretRef, Secrets},
};

/// The most that is read of a proxy's answer.
const HEAD_LIMIT: usize = 8 * 1024;
const HEADERS_LIMIT: usize = 64;
/// Longer names and passwords are nobody's.
pub(super) const CREDENTIAL_LIMIT: usize = 4 * 1024;

/// The section `proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    url: Url,
    credentials: Option<(Box<str>, SecretRef)>,
}

impl Proxy {
    pub(super) fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let url = fields.required::<String>("url").map(|text| (text.len() <= 2048).then(|| Url::parse(&text)));
        let (username, password) = (fields.optional::<String>("username"), fields.optional::<SecretRef>("password"));
        if username.as_deref().is_some_and(|name| !is_user(name)) {
            fields.wrong("username", "must be at most 4096 bytes long, without a colon or control characters");
        }
        let credentials = match (username, password) {
            (None, Some(_)) => {
                fields.wrong("username", "is required beside password");
                None
            }
            (Some(_), None) => {
                fields.wrong("password", "is required beside username");
                None
            }
            (username, password) => username.map(Into::into).zip(password),
        };
        let url = match url {
            Some(Some(Ok(url))) if is_proxy(&url) => Some(url),
            Some(_) => {
                fields.wrong("url", "must be the http:// URL of a proxy, without credentials, path or query");
                None
            }
            None => None,
        };
        fields.finish()?;
        url.map(|url| Self { url, credentials }).ok_or_else(|| FieldErrors::one("url", "is required"))
    }

    pub(super) const fn url(&self) -> &Url {
        &self.url
    }

    /// What is shown to the proxy.
    pub(super) fn authorization(&self, secrets: &Secrets) -> Result<Option<HeaderValue>, Fault> {
        let Some((username, password)) = &self.credentials else { return Ok(None) };
        let password = secrets.reveal(password)?;
        Ok(Some(basic(username, password.expose())))
    }

    /// Has the proxy connect `stream` to `host`.
    pub(super) async fn tunnel(
        &self,
        mut stream: TcpStream,
        host: &Host<&str>,
        port: u16,
        authorization: Option<HeaderValue>,
        progress: &mut Progress,
    ) -> Result<TcpStream, Fault> {
        progress.stage = Stage::Proxy;
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n").into_bytes();
        if let Some(authorization) = authorization {
            request.extend_from_slice(b"proxy-authorization: ");
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let broken = |error: std::io::Error| refused(error.to_string());
        stream.write_all(&request).await.map_err(broken)?;
        let mut answer = Vec::with_capacity(512);
        loop {
            if stream.read_buf(&mut answer).await.map_err(broken)? == 0 {
                return Err(refused("it closed the connection without an answer"));
            }
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
            let mut head = httparse::Response::new(&mut headers);
            match head.parse(&answer) {
                Err(error) => return Err(refused(format!("its answer is no HTTP: {error}"))),
                Ok(httparse::Status::Partial) if answer.len() >= HEAD_LIMIT => {
                    return Err(refused("its answer is too long"));
                }
                Ok(httparse::Status::Partial) => {}
                Ok(httparse::Status::Complete(length)) => {
                    return match head.code.unwrap_or(0) {
                        // Nobody behind the proxy speaks before we do.
                        200..=299 if length == answer.len() => Ok(stream),
                        200..=299 => Err(refused("it sent more than an answer")),
                        407 => Err(refused("it wants other credentials (407)")),
                        code => Err(refused(format!("it answered {code} when it was to connect"))),
                    };
                }
            }
        }
    }
}

fn refused(detail: impl std::fmt::Display) -> Fault {
    Fault::fail(FailReason::Proxy, format!("proxy: {detail}"))
}

fn is_proxy(url: &Url) -> bool {
    let bare = url.username().is_empty() && url.password().is_none() && matches!(url.path(), "" | "/");
    url.scheme() == "http" && url.host().is_some() && bare && url.query().is_none() && url.fragment().is_none()
}

/// Whether a text can be the user of basic authentication.
pub(super) fn is_user(name: &str) -> bool {
    name.len() <= CREDENTIAL_LIMIT && !name.contains(':') && !name.chars().any(char::is_control)
}

/// Basic authentication's header.
pub(super) fn basic(username: &str, password: &str) -> HeaderValue {
    let encoded = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
    let value = HeaderValue::try_from(encoded);
    let mut value = value.unwrap_or_else(|_| unreachable!("base64 is text that a header takes"));
    value.set_sensitive(true);
    value
}

/// Addresses a request for `url` as a proxy wants it.
pub(super) fn address(request: &mut Request<Full<Bytes>>, url: &Url, authorization: Option<&HeaderValue>) {
    // What cannot be put in a request was refused when its path was.
    if let Ok(whole) = Uri::try_from(&url[..Position::AfterQuery]) {
        *request.uri_mut() = whole;
    }
    if let Some(authorization) = authorization {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization.clone());
    }
}
