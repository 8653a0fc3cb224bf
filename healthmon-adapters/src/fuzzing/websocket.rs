//! The WebSocket prober against peers that send anything. An input is the number of some settings,
//! what is added to a right answer to the upgrade (or, for some, the whole of another answer), and
//! then what follows, piece by piece as something is said.

use std::{cell::Cell, rc::Rc};

use healthmon_core::ports::Prober;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{assert_harmless, assert_hidden, dialer, parts, peer, probe, run};
use crate::{net::tls::TlsClient, secrets::Secrets, websocket::WebSocketProber};

const CANARY: &str = "canary-5d1f";
const SETTINGS: [&str; 4] = [
    "{}",
    r#"{"websocket": {"headers": {"x-token": "canary-5d1f"}, "ping": {"within": "500ms"}, "subprotocols": ["chat"]}}"#,
    r#"{"websocket": {"send": "canary-5d1f", "expect": {"regex": "\"type\":\\s*\"ack\""}}}"#,
    r#"{"websocket": {"send": "canary-5d1f", "expect": {"prefix": "hello"}, "ping": {}}}"#,
];

thread_local! {
    static PROBER: Rc<WebSocketProber> = {
        let tls = TlsClient::new(b"").unwrap_or_else(|error| panic!("no client: {error}"));
        WebSocketProber::new(dialer(), tls, Secrets::default()).into()
    };
}

pub(super) fn target(data: &[u8]) {
    let Some((number, rest)) = data.split_first() else { return };
    let (settings, whole) = (SETTINGS[usize::from(*number) % SETTINGS.len()], *number >= 0x80);
    let prober = PROBER.with(Rc::clone);
    let sections = serde_json::from_str(settings).unwrap_or_else(|error| panic!("{settings}: {error}"));
    let served = Cell::new(0);
    let look = run(peer::beside(
        |port| {
            let probe = probe(&format!("ws://feed.test:{port}/v1"), &sections);
            let probe = probe.unwrap_or_else(|| panic!("{settings} are no settings"));
            assert_eq!(prober.check(&probe.service.settings), Ok(()));
            async move { prober.inspect(&probe).await }
        },
        |stream, port| {
            served.set(served.get() + 1);
            converse(stream, port, rest, whole)
        },
    ));
    assert!(served.get() <= 1, "redirects are not followed");
    assert_harmless(&look);
    if !data.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()) {
        assert_hidden(&look, CANARY);
    }
}

async fn converse(mut stream: TcpStream, port: u16, said: &[u8], whole: bool) {
    let mut pieces = parts(said);
    let first = pieces.next().unwrap_or_default();
    let mut request = vec![0; 4096];
    let Ok(read) = stream.read(&mut request).await else { return };
    if whole {
        peer::send(&mut stream, first, port).await;
    } else {
        let request = String::from_utf8_lossy(&request[..read]);
        let mut fields = request.lines().filter_map(|line| line.split_once(": "));
        let key = fields.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
        let accept = derive_accept_key(key.map_or("", |(_, value)| value).as_bytes());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-accept: {accept}\r\n"
        );
        let answer = [head.as_bytes(), first, b"\r\n"].concat();
        peer::send(&mut stream, &answer, port).await;
    }
    for piece in pieces {
        peer::send(&mut stream, piece, port).await;
    }
    peer::leave(stream).await;
}
