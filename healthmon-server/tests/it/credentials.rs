//! Users and tokens of the tests, and requests that bring them.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use healthmon_server::auth::{AccessRole, ApiToken, PasswordHash, Token, User};
use http_body_util::Full;
use hyper::Request;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, client::IntoClientRequest},
};

use crate::support::{Answer, Server};

/// A token, and how settings name it.
pub(crate) struct TestToken {
    pub(crate) token: Token,
    pub(crate) entry: ApiToken,
}

impl TestToken {
    pub(crate) fn new(name: &str, role: AccessRole) -> Self {
        let token = Token::generate().unwrap();
        let entry = ApiToken { name: name.parse().unwrap(), role, sha256: token.hash() };
        Self { token, entry }
    }

    /// The `Authorization` header that brings it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token.expose())
    }

    /// Its lines in a settings file.
    pub(crate) fn yaml(&self) -> String {
        let ApiToken { name, role, sha256 } = &self.entry;
        format!("    - {{name: {name}, role: {role}, sha256: \"{sha256}\"}}\n")
    }
}

/// A user with this password.
pub(crate) fn user(name: &str, role: AccessRole, password: &str) -> User {
    User { name: name.parse().unwrap(), role, password_hash: PasswordHash::of(password).unwrap() }
}

/// A user's lines in a settings file.
pub(crate) fn yaml(user: &User) -> String {
    let User { name, role, password_hash } = user;
    format!("    - {{name: {name}, role: {role}, password_hash: \"{password_hash}\"}}\n")
}

/// The `Authorization` header that brings a name and a password.
pub(crate) fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

/// The headers of a WebSocket's opening handshake.
pub(crate) const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
];

/// A request with these headers, and the server's own address as `Host`.
pub(crate) fn request(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", server.address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

impl Server {
    /// Sends a request with these credentials.
    pub(crate) async fn as_(&self, credentials: &str, method: &str, path: &str) -> Answer {
        self.raw(request(self, method, path, &[("authorization", credentials)])).await.unwrap()
    }

    /// Sends a request with these credentials and a JSON body.
    pub(crate) async fn send_as(&self, credentials: &str, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        let request = request.header("authorization", credentials).header("content-type", "application/json");
        self.raw(request.body(Full::from(body.to_string())).unwrap()).await.unwrap()
    }

    /// Opens a WebSocket with these headers; else the status that it was refused with.
    pub(crate) async fn socket(
        &self,
        headers: &[(&'static str, &str)],
    ) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, u16> {
        let mut request = format!("ws://{}/api/v1/events", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}
