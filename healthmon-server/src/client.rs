//! A client of a server's API, for the commands that ask one.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;

use crate::config::Secret;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer that is read.
const ANSWER_LIMIT: usize = 16 * 1024 * 1024;

/// Why a server did not answer what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The address is wrong.
    #[error("{0}: must be the http:// or https:// URL of a healthmon server")]
    Address(String),
    /// It is not clear who asks.
    #[error(
        "the address has a name and a password, and a token is given too (--token, HEALTHMON_TOKEN); leave one out"
    )]
    Twice,
    /// There is no server, or it is none of ours.
    #[error("cannot ask {address}: {why}")]
    Away {
        /// Where.
        address: String,
        /// What was wrong.
        why: String,
    },
    /// It refuses.
    #[error("{address} answers {status}: {why}")]
    Refused {
        /// Where.
        address: String,
        /// The status.
        status: StatusCode,
        /// Its own words.
        why: String,
    },
}

/// What the server at `base` answers to a GET of `path`. A name and a password in `base` are sent as
/// such.
///
/// # Errors
/// See [`AskError`].
pub(crate) async fn get(base: &str, path: &str, token: Option<&Secret>) -> Result<Value, AskError> {
    // Without what a URL may hold of a user's name and password.
    let wrong = || AskError::Address(base.rsplit('@').next().unwrap_or_default().to_owned());
    let url = Url::parse(base).and_then(|base| base.join(path)).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    let credentials = match (basic(&url), token) {
        (Some(_), Some(_)) => return Err(AskError::Twice),
        (Some(basic), None) => Some(basic),
        (None, token) => token.map(|token| format!("Bearer {}", token.expose())),
    };
    let address = url[..url::Position::BeforePath].rsplit('@').next().unwrap_or_default().to_owned();
    let target =
        format!("{}://{}{}", url.scheme(), &url[url::Position::BeforeHost..url::Position::AfterPort], url.path());
    let away = |why: String| AskError::Away { address: address.clone(), why };
    let mut request = Request::get(target).header(header::ACCEPT, "application/json");
    if let Some(credentials) = credentials {
        request = request.header(header::AUTHORIZATION, credentials);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| away(error.to_string()))?;
    let roots = hyper_rustls::HttpsConnectorBuilder::new().with_provider_and_native_roots(ring());
    let roots = roots.map_err(|error| away(error.to_string()))?;
    let client = Client::builder(TokioExecutor::new()).build(roots.https_or_http().enable_http1().build());
    let asked = async {
        let answer = client.request(request).await.map_err(|error| away(reasons(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        Ok((status, body.map_err(|error| away(error.to_string()))?.to_bytes()))
    };
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    let (status, body) = asked.unwrap_or_else(|_| Err(away(format!("no answer within {PATIENCE:?}"))))?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(answer);
    }
    let why = answer["detail"].as_str().unwrap_or("no reason is given").to_owned();
    Err(AskError::Refused { address, status, why })
}

/// What brings the name and the password that a URL has, if it has one of them.
fn basic(url: &Url) -> Option<String> {
    let (name, password) = (url.username(), url.password());
    if name.is_empty() && password.is_none() {
        return None;
    }
    let plain = |text| percent_decode_str(text).collect::<Vec<u8>>();
    let pair = [plain(name), b":".to_vec(), plain(password.unwrap_or_default())].concat();
    Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

fn ring() -> rustls::crypto::CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// An error with what is behind it.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_password_are_taken_out_of_the_url_as_they_were_meant() {
        let of = |url: &str| basic(&Url::parse(url).unwrap());
        let pair = |text: &str| Some(format!("Basic {}", BASE64_STANDARD.encode(text)));
        assert_eq!(of("http://ann:correct%20horse%40%3A+@127.0.0.1:8080"), pair("ann:correct horse@:+"));
        assert_eq!(of("http://ann@127.0.0.1/"), pair("ann:"));
        assert_eq!(of("http://127.0.0.1/a@b"), None);
    }
}
