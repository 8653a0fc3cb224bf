//! Who is probed: one server for each kind, and one for each that never answers. All listen on every
//! address of this machine, so that 127.0.0.1 to 127.0.0.16 are as many hosts.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{StreamBody, combinators::BoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, header::HeaderValue, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair, SanType};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::answer::{OK, answer};

/// As many hosts.
pub(crate) const HOSTS: u8 = 16;

/// A server for each kind, by port.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    /// Where connections are kept.
    pub(crate) http_kept: u16,
    pub(crate) json: u16,
    pub(crate) https: u16,
    pub(crate) tls: u16,
    pub(crate) grpc: u16,
    pub(crate) grpc_kept: u16,
    pub(crate) grpcs: u16,
    /// Where all that is wanted is a connection.
    pub(crate) tcp: u16,
    pub(crate) banner: u16,
    pub(crate) websocket: u16,
    pub(crate) wss: u16,
    pub(crate) dns: u16,
}

/// What the target says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Places {
    pub(crate) answering: Ports,
    /// They take connections, `https`, `grpcs` and `wss` do their handshakes too, and then say nothing; where
    /// connections are kept, they answer the first question of each, and `tcp` takes none.
    pub(crate) silent: Ports,
    /// The certificate of who signed the one that is shown.
    pub(crate) ca: String,
}

const GREETING: &[u8] = b"220 here\r\n";
const JSON: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 58\r\n\r\n\
    {\"status\":\"green\",\"version\":\"v1.2.3\",\"nodes\":[{\"load\":1}]}";
/// A message of two bytes, uncompressed: SERVING.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

#[tokio::main]
pub(crate) async fn run() {
    rlimit::increase_nofile_limit(u64::MAX).expect("more files");
    let (ca, [tls, http2_tls]) = identity();
    let silent = listen(wait_for_end).await;
    let http = listen(|stream| answer(stream, OK)).await;
    let grpc = listen(|stream| serve_health(stream, usize::MAX)).await;
    let banner = listen(greet).await;
    let answering = Ports {
        http,
        http_kept: http,
        json: listen(|stream| answer(stream, JSON)).await,
        https: secured(&tls, |stream| answer(stream, OK)).await,
        tls: secured(&tls, wait_for_end).await,
        grpc,
        grpc_kept: grpc,
        grpcs: secured(&http2_tls, |stream| serve_health(stream, usize::MAX)).await,
        tcp: banner,
        banner,
        websocket: listen(shake_hands).await,
        wss: secured(&tls, shake_hands).await,
        dns: name_server(|question| Some(told(question))).await,
    };
    let https = secured(&tls, wait_for_end).await;
    let silent = Ports {
        http: silent,
        http_kept: listen(answer_once).await,
        json: silent,
        https,
        tls: silent,
        grpc: silent,
        grpc_kept: listen(|stream| serve_health(stream, 1)).await,
        grpcs: secured(&http2_tls, wait_for_end).await,
        tcp: full().await,
        banner: silent,
        websocket: silent,
        wss: https,
        dns: name_server(|_| None).await,
    };
    let places = Places { answering, silent, ca };
    #[expect(clippy::print_stdout, reason = "it is how the parent is told")]
    {
        println!("{}", serde_json::to_string(&places).expect("plain data"));
    }
    std::future::pending::<()>().await;
}

/// An authority of our own, and what it vouches for; the second speaks HTTP/2 only.
fn identity() -> (String, [TlsAcceptor; 2]) {
    let key = KeyPair::generate().expect("a key");
    let mut root = CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_certificate = root.self_signed(&key).expect("a root");
    let issuer = rcgen::Issuer::new(root, key);
    let own_key = KeyPair::generate().expect("a key");
    let mut own = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    own.subject_alt_names.extend((1..=HOSTS).map(|n| SanType::IpAddress([127, 0, 0, n].into())));
    let certificate = own.signed_by(&own_key, &issuer).expect("a certificate");
    let key = PrivateKeyDer::try_from(own_key.serialize_der()).expect("its key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a set-up");
    let mut config = config;
    config.ticketer = rustls::crypto::ring::Ticketer::new().expect("tickets");
    let mut http2 = config.clone();
    http2.alpn_protocols = vec![b"h2".to_vec()];
    (root_certificate.pem(), [config, http2].map(|config| TlsAcceptor::from(Arc::new(config))))
}

/// Gives each connection to `serve`; answers its port.
async fn listen<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16 {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("0.0.0.0:0".parse().expect("an address")).expect("a port");
    // Whoever comes when its queue is full is let in a second later.
    let listener = socket.listen(4_096).expect("a listener");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).ok();
                tokio::spawn(serve(stream));
            }
        }
    });
    port
}

/// The same behind a handshake.
async fn secured<F: Future<Output = ()> + Send + 'static>(
    tls: &TlsAcceptor,
    serve: impl Fn(tokio_rustls::server::TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
) -> u16 {
    let tls = tls.clone();
    listen(move |stream| {
        let (handshake, serve) = (tls.accept(stream), serve.clone());
        async move {
            if let Ok(session) = handshake.await {
                serve(session).await;
            }
        }
    })
    .await
}

/// A port that takes no connection: nobody lets in those who wait, and they are as many as may.
async fn full() -> u16 {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("0.0.0.0:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let port = listener.local_addr().expect("bound").port();
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(("127.0.0.1", port))).await {
        waiting.push(stream);
    }
    tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop((listener, waiting));
    });
    port
}

async fn answer_once(mut stream: TcpStream) {
    let mut request = [0; 4_096];
    if matches!(stream.read(&mut request).await, Ok(1..)) && stream.write_all(OK).await.is_ok() {
        wait_for_end(stream).await;
    }
}

async fn wait_for_end(mut stream: impl AsyncRead + Unpin) {
    let mut buffer = [0; 64];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

async fn greet(mut stream: TcpStream) {
    if stream.write_all(GREETING).await.is_ok() {
        wait_for_end(stream).await;
    }
}

async fn shake_hands(stream: impl AsyncRead + AsyncWrite + Unpin) {
    if let Ok(mut session) = tokio_tungstenite::accept_async(stream).await {
        use futures_util::StreamExt;
        while let Some(Ok(_)) = session.next().await {}
    }
}

/// What a health service that serves says, without a gRPC library: the target is to be cheap. More
/// questions of one connection than these are not answered.
async fn serve_health(stream: impl AsyncRead + AsyncWrite + Unpin, most: usize) {
    let asked = AtomicUsize::new(0);
    let health = service_fn(move |_: Request<Incoming>| {
        let is_answered = asked.fetch_add(1, Ordering::Relaxed) < most;
        async move {
            if !is_answered {
                std::future::pending::<()>().await;
            }
            let trailers = [(hyper::header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))];
            let frames = [Frame::data(Bytes::from_static(SERVING)), Frame::trailers(trailers.into_iter().collect())];
            let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
            let mut answer = Response::new(BoxBody::new(body));
            answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            Ok::<_, Infallible>(answer)
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // A client that hangs up ends it.
    server.serve_connection(TokioIo::new(stream), health).await.ok();
}

async fn name_server(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> u16 {
    let socket = UdpSocket::bind("0.0.0.0:0").await.expect("a port");
    let port = socket.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            // An answer must come from the address that was asked: on loopback the kernel takes the
            // one that was asked only of a connected socket, so that only 127.0.0.1 is asked.
            let Ok((size, from)) = socket.recv_from(&mut buffer).await else { continue };
            if let Some(answer) = answer(&buffer[..size]) {
                socket.send_to(&answer, from).await.ok();
            }
        }
    });
    port
}

/// The question again, with one address.
fn told(question: &[u8]) -> Vec<u8> {
    // A name of whatever length, type and class follow the header.
    let name = question[12..].iter().position(|byte| *byte == 0).map_or(question.len(), |at| 12 + at + 5);
    let mut answer = question[..name].to_vec();
    answer[2] |= 0x80;
    answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    answer
}
