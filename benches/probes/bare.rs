//! The barest clients: each does with the same library what a probe must, and nothing else.

use std::{
    future::Future,
    net::Ipv4Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::StreamExt;
use healthmon_core::{id::ServiceId, ports::Heartbeats};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use hyper::{Request, Response, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{client_async_with_config, tungstenite::protocol::WebSocketConfig};
use tonic::{body::Body, client::GrpcService};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    get,
    kinds::Kind,
    target::{Places, Ports},
};

/// What clients of one kind share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) tls: TlsConnector,
    pub(crate) heartbeats: Arc<dyn Heartbeats>,
}

/// Set up once, as a program would that does nothing but this.
pub(crate) fn tls(kind: Kind, places: &Places) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(places.ca.as_bytes()).expect("a root")).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = match kind {
        Kind::HttpsResumed => Resumption::in_memory_sessions(256),
        _ => Resumption::disabled(),
    };
    config.alpn_protocols = match kind {
        Kind::Tls => Vec::new(),
        Kind::Grpcs => vec![b"h2".to_vec()],
        _ => vec![b"http/1.1".to_vec()],
    };
    TlsConnector::from(Arc::new(config))
}

type Asked<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A client, which asks one host.
pub(crate) struct Client {
    kind: Kind,
    host: Arc<str>,
    ports: Ports,
    shared: Shared,
    service: ServiceId,
    http: Option<get::Sender>,
    grpc: Option<HealthClient<Channel>>,
}

impl Client {
    pub(crate) fn new(kind: Kind, n: usize, ports: Ports, shared: Shared, service: ServiceId) -> Self {
        Self { kind, host: kind.host(n).into(), ports, shared, service, http: None, grpc: None }
    }

    /// Each kind's future is as large as that kind needs.
    pub(crate) fn ask(&mut self) -> Asked<'_> {
        let (host, kind) = (Arc::clone(&self.host), self.kind);
        let Ports { http, http_kept, json, https, tls, grpc, grpc_kept, grpcs, tcp, banner, websocket, wss, dns } =
            self.ports;
        match kind {
            Kind::Http | Kind::HttpNamed => Box::pin(async move { get::get((&*host, http)).await }),
            Kind::HttpJudged => Box::pin(async move { get::get((&*host, json)).await }),
            Kind::HttpKept => Box::pin(async move {
                let sender = match &mut self.http {
                    Some(sender) => sender,
                    none => none.insert(get::open(get::connect((&*self.host, http_kept)).await).await),
                };
                sender.ready().await.expect("an open connection");
                get::ask(sender).await;
            }),
            Kind::Https | Kind::HttpsResumed | Kind::HttpsOwnRoot => Box::pin(async move {
                let session = self.shake_hands(https).await;
                get::ask(&mut get::open(session).await).await;
            }),
            Kind::Grpc => Box::pin(async move {
                let stream = get::connect((&*host, grpc)).await;
                check(open_grpc(stream, format!("http://{host}:{grpc}")).await).await;
            }),
            Kind::GrpcKept => Box::pin(async move {
                if self.grpc.is_none() {
                    let stream = get::connect((&*host, grpc_kept)).await;
                    self.grpc = Some(open_grpc(stream, format!("http://{host}:{grpc_kept}")).await);
                }
                check(self.grpc.clone().expect("opened")).await;
            }),
            Kind::Grpcs => Box::pin(async move {
                let session = self.shake_hands(grpcs).await;
                check(open_grpc(session, format!("https://{host}:{grpcs}")).await).await;
            }),
            Kind::Tcp => Box::pin(async move { drop(get::connect((&*host, tcp)).await) }),
            Kind::TcpBanner => Box::pin(async move {
                let mut stream = get::connect((&*host, banner)).await;
                let mut heard = [0; 64];
                let n = stream.read(&mut heard).await.expect("a greeting");
                assert!(heard[..n].starts_with(b"220 "));
            }),
            // By the book, as the prober ends it.
            Kind::Tls => Box::pin(async move { self.shake_hands(tls).await.shutdown().await.expect("an end") }),
            Kind::WebSocket => Box::pin(async move {
                let stream = get::connect((&*host, websocket)).await;
                upgrade(stream, format!("ws://{host}:{websocket}/")).await;
            }),
            Kind::Wss => Box::pin(async move {
                let session = self.shake_hands(wss).await;
                upgrade(session, format!("wss://{host}:{wss}/")).await;
            }),
            Kind::Dns => Box::pin(async move { ask_name_server(&host, dns).await }),
            Kind::Icmp => Box::pin(async move { ping(&host, self.service.get()).await }),
            Kind::Heartbeat => Box::pin(async {
                let heard = self.shared.heartbeats.heard(self.service).await.expect("a store");
                assert!(heard.is_some_and(|heard| heard.pulse.success.is_some()));
            }),
        }
    }

    async fn shake_hands(&self, port: u16) -> TlsStream<TcpStream> {
        let stream = get::connect((&*self.host, port)).await;
        let name = ServerName::try_from(self.host.to_string()).expect("a name");
        self.shared.tls.connect(name, stream).await.expect("a handshake")
    }
}

/// A session, and its end; with the bounds that the prober sets in `websocket/upgrade.rs`, for tungstenite
/// takes its buffer for reading at once, and 128 KiB of it unless told otherwise.
async fn upgrade(stream: impl AsyncRead + AsyncWrite + Unpin, url: String) {
    let config = WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * 64 * 1024)
        .max_message_size(Some(64 * 1024))
        .max_frame_size(Some(64 * 1024));
    let (mut session, _) = client_async_with_config(url, stream, Some(config)).await.expect("an upgrade");
    session.close(None).await.expect("an end");
    while let Some(Ok(_)) = session.next().await {}
}

async fn open_grpc(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    origin: String,
) -> HealthClient<Channel> {
    let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = opened.expect("a handshake");
    tokio::spawn(connection);
    HealthClient::with_origin(Channel(sender), origin.parse().expect("a URL"))
}

async fn check(mut client: HealthClient<Channel>) {
    let request = HealthCheckRequest { service: "shop.v1.Cart".to_owned() };
    let answer = client.check(request).await.expect("an answer");
    assert_eq!(answer.get_ref().status, 1);
}

/// hyper's HTTP/2 client as tonic wants it.
#[derive(Clone)]
struct Channel(http2::SendRequest<Body>);

impl GrpcService<Body> for Channel {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

async fn ask_name_server(host: &str, port: u16) {
    let mut message = Message::query();
    let name = Name::from_ascii("www.shop.example.").expect("a name");
    message.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.expect("a socket");
    socket.connect((host, port)).await.expect("an address");
    socket.send(&message.to_vec().expect("a question")).await.expect("sent");
    let mut answer = [0; 1232];
    let size = socket.recv(&mut answer).await.expect("an answer");
    let answer = Message::from_vec(&answer[..size]).expect("a message");
    assert_eq!(answer.answers.len(), 1);
}

/// The socket for pings that this process may have: the kernel's, or else a raw one.
pub(crate) fn ping_socket() -> std::io::Result<Socket> {
    let raw = |_| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4)).or_else(raw)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn ping(host: &str, number: u64) {
    let socket = ping_socket().expect("asked before");
    let address: std::net::SocketAddr = (host.parse::<Ipv4Addr>().expect("an address"), 0).into();
    socket.connect(&address.into()).expect("a way");
    let raw = socket.r#type().expect("its type") == Type::RAW;
    let socket = UdpSocket::from_std(socket.into()).expect("a socket");
    let mut request = [0; 64];
    request[0] = 8;
    request[8..16].copy_from_slice(&number.to_be_bytes());
    let sum: u32 = request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send(&request).await.expect("sent");
    let mut heard = [0; 128];
    loop {
        let size = socket.recv(&mut heard).await.expect("something");
        // A raw socket hands over the header too, and what others of its kind are sent.
        let message = if raw { &heard[20..size] } else { &heard[..size] };
        if message[0] == 0 && message[8..16] == number.to_be_bytes() {
            return;
        }
    }
}
