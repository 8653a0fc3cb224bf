//! A client of a server's API, for the commands that ask one.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
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

/// What the server at `base` answers to a GET of `path`.
///
/// # Errors
/// See [`AskError`].
pub(crate) async fn get(base: &str, path: &str, token: Option<&Secret>) -> Result<Value, AskError> {
    let wrong = || AskError::Address(base.to_owned());
    let url = Url::parse(base).and_then(|base| base.join(path)).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    // Without what a URL may hold of a user's name and password.
    let address = url[..url::Position::BeforePath].rsplit('@').next().unwrap_or_default().to_owned();
    let away = |why: String| AskError::Away { address: address.clone(), why };
    let mut request = Request::get(url.as_str()).header(header::ACCEPT, "application/json");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
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
