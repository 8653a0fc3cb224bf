//! Peers: a real WebSocket server of tungstenite's, and raw ones that answer byte by byte.

use futures_util::{SinkExt, StreamExt};
use healthmon_adapters::{net::Loopback, secrets::Secrets, websocket::WebSocketProber};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::{
            derive_accept_key,
            server::{Request, Response},
        },
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::support::{Authority, Identity, Server, acceptor, dialer, wait_for_end};

pub(crate) fn prober() -> WebSocketProber {
    prober_of(&Authority::new())
}

pub(crate) fn prober_of(authority: &Authority) -> WebSocketProber {
    WebSocketProber::new(dialer(Loopback::Allowed), authority.tls(), Secrets::default())
}

/// A real server: speaks the subprotocol `chat` where it is offered, says "welcome" at `/greeting`,
/// answers what it is sent with "echo: …", and closes with a code where one is asked for ("close 1008").
pub(crate) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S) {
    let mut greeting = None;
    #[expect(clippy::result_large_err, reason = "the error is the library's own")]
    let callback = |request: &Request, mut response: Response| {
        greeting = (request.uri().path() == "/greeting").then_some("welcome");
        let offered = request.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
        if offered.is_some_and(|offered| offered.split(", ").any(|name| name == "chat")) {
            response.headers_mut().insert("sec-websocket-protocol", "chat".parse().expect("a value"));
        }
        Ok(response)
    };
    let Ok(mut session) = accept_hdr_async(stream, callback).await else { return };
    if let Some(greeting) = greeting {
        session.send(Message::text(greeting)).await.ok();
    }
    while let Some(Ok(message)) = session.next().await {
        let Message::Text(text) = message else { continue };
        match text.strip_prefix("close ") {
            Some(code) => {
                let code = CloseCode::from(code.parse::<u16>().expect("a code"));
                session.close(Some(CloseFrame { code, reason: "canary".into() })).await.ok();
            }
            None => drop(session.send(Message::text(format!("echo: {text}"))).await),
        }
    }
}

/// The real server, without TLS.
pub(crate) async fn echo() -> Server {
    Server::raw(converse::<TcpStream>).await
}

/// The real server, behind TLS.
pub(crate) async fn secure(identity: &Identity) -> Server {
    let acceptor = acceptor(identity, rustls::ALL_VERSIONS, &["http/1.1"]);
    Server::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A prober that refuses the certificate breaks the handshake off.
            if let Ok(stream) = acceptor.accept(stream).await {
                converse(stream).await;
            }
        }
    })
    .await
}

/// The head of a request, up to its empty line.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// The value of a header in a request's text.
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The answer that upgrades, with extra header lines.
pub(crate) fn consent(request: &str, extra: &str) -> Vec<u8> {
    let key = derive_accept_key(header(request, "sec-websocket-key").expect("a key").as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {key}\r\n{extra}\r\n"
    )
    .into_bytes()
}

/// Upgrades, sends `once`, then `again` over and over, or nothing more if that is empty.
pub(crate) async fn sending(once: &'static [u8], again: &'static [u8]) -> Server {
    Server::raw(move |mut stream| async move {
        let Some(request) = read_head(&mut stream).await else { return };
        if stream.write_all(&consent(&request, "")).await.is_err() || stream.write_all(once).await.is_err() {
            return;
        }
        let again = again.repeat(4_096usize.div_ceil(again.len().max(1)));
        while !again.is_empty() && stream.write_all(&again).await.is_ok() {}
        wait_for_end(&mut stream).await;
    })
    .await
}

/// Answers the request for the upgrade with this, and closes.
pub(crate) async fn answering(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Server {
    let answer = std::sync::Arc::new(answer);
    Server::raw(move |mut stream| {
        let answer = std::sync::Arc::clone(&answer);
        async move {
            let Some(request) = read_head(&mut stream).await else { return };
            stream.write_all(&answer(&request)).await.ok();
            stream.shutdown().await.ok();
            wait_for_end(&mut stream).await;
        }
    })
    .await
}
