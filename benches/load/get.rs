//! The barest GET: hyper's own client over a connection made for it.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, ToSocketAddrs},
};

pub(crate) type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

/// A GET over a fresh connection.
pub(crate) async fn get(address: impl ToSocketAddrs) {
    ask(&mut open(connect(address).await).await).await;
}

pub(crate) async fn connect(address: impl ToSocketAddrs) -> TcpStream {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    stream
}

/// hyper's client over a stream, driven by a task of its own.
pub(crate) async fn open(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender {
    let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = opened.expect("a handshake");
    tokio::spawn(connection);
    sender
}

pub(crate) async fn ask(sender: &mut Sender) {
    let request = hyper::Request::get("/").header("host", "127.0.0.1").body(Empty::new());
    let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.expect("a body");
}
