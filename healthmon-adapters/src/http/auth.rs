//! Who we say we are: basic and bearer authentication, and tokens of OAuth 2.

mod fetch;
mod tokens;

use healthmon_core::{
    probe::IndeterminateReason,
    service::{FieldErrors, Fields},
};
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::proxy::{basic, is_user};
use crate::{
    net::{attempt::Fault, tls::TlsSettings},
    secrets::{SecretRef, Secrets},
};
pub(super) use tokens::{Grant, Source, Tokens};

const TEXT_LIMIT: usize = 4 * 1024;

/// The section `auth`: one way of saying who we are. Not `Debug`, though its secrets would not show.
pub(super) enum Auth {
    /// A name and a password.
    Basic { username: Box<str>, password: SecretRef },
    /// A token that somebody gave us.
    Bearer { token: SecretRef },
    /// A token that we are to get.
    Client(Box<Client>),
}

/// OAuth 2's client credentials (RFC 6749, 4.4).
pub(super) struct Client {
    url: Url,
    id: Box<str>,
    secret: SecretRef,
    scope: Option<Box<str>>,
    audience: Option<Box<str>>,
    place: Place,
    /// How the token server's certificate is checked, whatever the target's settings say.
    tls: TlsSettings,
}

/// Where the token server wants to be shown who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    #[default]
    Header,
    Body,
}

impl Auth {
    pub(super) fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let ways = [
            fields.section("basic", Self::read_basic),
            fields.section("bearer", Self::read_bearer),
            fields.section("oauth2", Client::read),
        ];
        fields.finish()?;
        let mut ways = ways.into_iter().flatten();
        match (ways.next(), ways.next()) {
            (Some(way), None) => Ok(way),
            (None, _) => Err(FieldErrors::one("basic", "or bearer or oauth2 is required")),
            (Some(_), Some(_)) => Err(FieldErrors::one("basic", "bearer and oauth2 exclude each other: name one")),
        }
    }

    fn read_basic(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let (username, password) = (fields.required::<String>("username"), fields.required("password"));
        if username.as_deref().is_some_and(|name| !is_user(name)) {
            fields.wrong("username", "must be at most 4096 bytes long, without a colon or control characters");
        }
        fields.finish()?;
        let both = username.map(Into::into).zip(password);
        both.map(|(username, password)| Self::Basic { username, password }).ok_or_else(required)
    }

    fn read_bearer(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let token: Option<SecretRef> = fields.required("token");
        if matches!(&token, Some(SecretRef::Plain(token)) if bearer(token).is_none()) {
            fields.wrong("token", "must be a text without spaces or control characters");
        }
        fields.finish()?;
        token.map(|token| Self::Bearer { token }).ok_or_else(required)
    }

    /// What to show, where nobody needs to be asked for it.
    pub(super) fn header(&self, secrets: &Secrets) -> Result<Option<HeaderValue>, Fault> {
        match self {
            Self::Basic { username, password } => Ok(Some(basic(username, secrets.reveal(password)?.expose()))),
            Self::Bearer { token } => {
                let header = bearer(secrets.reveal(token)?.expose());
                let unusable = || {
                    Fault::indeterminate(
                        IndeterminateReason::Secret,
                        "http.auth.bearer.token is no token: it has spaces or control characters",
                    )
                };
                header.map(Some).ok_or_else(unusable)
            }
            Self::Client(_) => Ok(None),
        }
    }

    /// What we know each other by, the header's own text aside.
    pub(super) const fn secret(&self) -> &SecretRef {
        match self {
            Self::Basic { password, .. } => password,
            Self::Bearer { token } => token,
            Self::Client(client) => &client.secret,
        }
    }

    /// The client that a token is to be had for.
    pub(super) fn client(&self) -> Option<&Client> {
        match self {
            Self::Client(client) => Some(client),
            _ => None,
        }
    }
}

impl Client {
    fn read(map: Map<String, Value>) -> Result<Auth, FieldErrors> {
        let mut fields = Fields::new(map);
        let url = fields.required::<String>("token_url").map(|text| Url::parse(&text));
        let url = match url {
            Some(Ok(url)) if is_token_url(&url) => Some(url),
            Some(_) => {
                fields.wrong("token_url", "must be an http:// or https:// URL without credentials");
                None
            }
            None => None,
        };
        let id = fields.required::<String>("client_id");
        let secret = fields.required("client_secret");
        let (scope, audience) = (fields.optional::<String>("scope"), fields.optional::<String>("audience"));
        for (field, text) in [("client_id", &id), ("scope", &scope), ("audience", &audience)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > TEXT_LIMIT) {
                fields.wrong(field, "must be a text of 1 to 4096 bytes");
            }
        }
        let place = fields.optional("credentials").unwrap_or_default();
        let tls = fields.section("tls", TlsSettings::read).unwrap_or_default();
        if tls != tls.elsewhere() {
            fields.wrong("tls", "takes only verify and ca");
        }
        fields.finish()?;
        let (scope, audience) = (scope.map(Into::into), audience.map(Into::into));
        match (url, id, secret) {
            (Some(url), Some(id), Some(secret)) => {
                Ok(Auth::Client(Box::new(Self { url, id: id.into(), secret, scope, audience, place, tls })))
            }
            _ => Err(required()),
        }
    }
}

/// Behind fields that named what is missing.
fn required() -> FieldErrors {
    FieldErrors::one("auth", "is incomplete")
}

fn is_token_url(url: &Url) -> bool {
    let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    matches!(url.scheme(), "http" | "https") && url.host().is_some() && bare && url.as_str().len() <= 2048
}

/// The header that shows `token`, if it is one.
fn bearer(token: &str) -> Option<HeaderValue> {
    let clean = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut value = clean.then(|| HeaderValue::try_from(format!("Bearer {token}")).ok())??;
    value.set_sensitive(true);
    Some(value)
}
