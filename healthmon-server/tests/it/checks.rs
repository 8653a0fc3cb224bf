//! `healthmon check` of every kind of target but a ping: what people are shown, what programs are given,
//! and how it exits.

use std::{convert::Infallible, net::SocketAddr, process::Output, sync::Arc};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::{accept_async, tungstenite::Message};
use tonic::transport::{
    Identity, Server,
    server::{ServerTlsConfig, TcpIncoming},
};
use tonic_health::ServingStatus;

use crate::support::PATIENCE;

/// Whom certificates are for.
const NAME: &str = "shop.test";

/// A kind of target.
struct Kind {
    scheme: &'static str,
    path: &'static str,
    /// Where its settings have its TLS.
    tls: Option<&'static str>,
    /// What is said to it, and expected back.
    says: &'static [&'static str],
    phases: &'static [&'static str],
    /// One of its own, beside its address.
    fact: &'static str,
}

const KINDS: [Kind; 8] = [
    Kind {
        scheme: "https",
        path: "/",
        tls: Some("http.tls"),
        says: &[],
        phases: &["connect", "tls", "first byte"],
        fact: "http version",
    },
    Kind {
        scheme: "tls",
        path: "",
        tls: Some("tls"),
        says: &["tls.send=hello", "tls.expect=echo: hello"],
        phases: &["connect", "tls", "first byte"],
        fact: "received",
    },
    Kind {
        scheme: "tcp",
        path: "",
        tls: None,
        says: &["tcp.send=hello", "tcp.expect=echo: hello"],
        phases: &["connect", "first byte"],
        fact: "received",
    },
    Kind {
        scheme: "ws",
        path: "/",
        tls: None,
        says: &["websocket.send=hello", "websocket.expect=echo: hello", "websocket.ping={}"],
        phases: &["connect", "first byte"],
        fact: "pong",
    },
    Kind {
        scheme: "wss",
        path: "/",
        tls: Some("websocket.tls"),
        says: &["websocket.send=hello", "websocket.expect=echo: hello"],
        phases: &["connect", "tls", "first byte"],
        fact: "cipher suite",
    },
    Kind {
        scheme: "grpc",
        path: "/shop.v1.Cart",
        tls: None,
        says: &[],
        phases: &["connect", "first byte"],
        fact: "grpc status",
    },
    Kind {
        scheme: "grpcs",
        path: "/shop.v1.Cart",
        tls: Some("grpc.tls"),
        says: &[],
        phases: &["connect", "tls", "first byte"],
        fact: "grpc status",
    },
    Kind {
        scheme: "dns",
        path: "/www.shop.test",
        tls: None,
        says: &[r#"expect.answers=["192.0.2.1"]"#],
        phases: &["first byte"],
        fact: "answer",
    },
];

impl Kind {
    fn url(&self, address: SocketAddr) -> String {
        format!("{}://{address}{}", self.scheme, self.path)
    }

    /// A server of this kind.
    async fn serve(&self, certified: &Certified) -> SocketAddr {
        match self.scheme {
            "https" => secured(certified, answer).await,
            "tls" => secured(certified, echo).await,
            "tcp" => listen(echo).await,
            "ws" => listen(converse).await,
            "wss" => secured(certified, converse).await,
            "grpc" => serve_health(None).await,
            "grpcs" => serve_health(Some(certified)).await,
            "dns" => serve_names().await,
            other => unreachable!("{other} is none of the kinds"),
        }
    }

    /// Options by which certificates of this authority are trusted, and the server is asked for by `name`.
    fn options(&self, ca: &str, name: Option<&str>) -> Vec<String> {
        let mut options: Vec<String> = self.says.iter().map(|option| (*option).to_owned()).collect();
        if let Some(section) = self.tls {
            options.push(format!("{section}.ca={ca}"));
            options.extend(name.map(|name| format!("{section}.server_name={name}")));
        }
        options
    }
}

/// A certificate for [`NAME`], its key, and the certificate of who signed it, in PEM.
struct Certified {
    certificate: String,
    key: String,
    ca: String,
}

impl Certified {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.distinguished_name.push(DnType::CommonName, "test authority");
        let ca = root.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(root, key);
        let key = KeyPair::generate().unwrap();
        let mut own = CertificateParams::new([NAME.to_owned()]).unwrap();
        own.not_before = date_time_ymd(2020, 1, 1);
        own.not_after = date_time_ymd(2200, 1, 1);
        let certificate = own.signed_by(&key, &issuer).unwrap().pem();
        Self { certificate, key: key.serialize_pem(), ca }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Gives every connection to `serve`.
async fn listen<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// The same behind a handshake, which those break off that refuse the certificate.
async fn secured<F: Future<Output = ()> + Send + 'static>(
    certified: &Certified,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let acceptor = certified.acceptor();
    listen(move |stream| {
        let (handshake, serve) = (acceptor.accept(stream), serve.clone());
        async move {
            if let Ok(session) = handshake.await {
                serve(session).await;
            }
        }
    })
    .await
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service =
        service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("well"))) });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut heard = [0; 64];
    while let Ok(size @ 1..) = stream.read(&mut heard).await {
        let said = [b"echo: ".as_slice(), &heard[..size]].concat();
        if stream.write_all(&said).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let Ok(mut session) = accept_async(stream).await else { return };
    while let Some(Ok(message)) = session.next().await {
        if let Message::Text(text) = message {
            session.send(Message::text(format!("echo: {text}"))).await.ok();
        }
    }
}

/// gRPC's health service, by which `shop.v1.Cart` is well.
async fn serve_health(certified: Option<&Certified>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("shop.v1.Cart", ServingStatus::Serving).await;
    let mut server = Server::builder();
    if let Some(Certified { certificate, key, .. }) = certified {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        server = server.tls_config(tls).unwrap();
    }
    let serving = server.add_service(health).serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(async move { serving.await.unwrap() });
    address
}

/// A name server that knows one address for every name.
async fn serve_names() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut asked = [0; 512];
        loop {
            let (size, from) = socket.recv_from(&mut asked).await.unwrap();
            // A name, which ends with a zero, its type and its class follow the header.
            let end = 12 + asked[12..size].iter().position(|byte| *byte == 0).unwrap() + 5;
            let mut answer = asked[..end].to_vec();
            answer[2] |= 0x80;
            answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    address
}

/// What `healthmon check` says to a person and, asked again, to a program.
struct Said {
    status: Option<i32>,
    shown: String,
    json: Value,
}

async fn run(url: &str, options: &[String], more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthmon"));
    command.args(["check", url]).args(more).kill_on_drop(true);
    for option in options {
        command.args(["--option", option.as_str()]);
    }
    timeout(PATIENCE, command.output()).await.expect("it ends").unwrap()
}

async fn check(url: &str, options: &[String]) -> Said {
    let (shown, json) = (run(url, options, &[]).await, run(url, options, &["--json"]).await);
    assert_eq!(shown.status.code(), json.status.code(), "{url}: {shown:?} {json:?}");
    let status = shown.status.code();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap_or_else(|error| panic!("{url}: {error}: {json:?}"));
    assert_eq!(json["url"], url);
    Said { status, shown, json }
}

impl Said {
    /// Outcome and reason, which both forms must tell and the exit status must fit.
    fn assert_is(&self, url: &str, outcome: &str, reason: Option<&str>) {
        let Self { status, shown, json } = self;
        assert_eq!((json["outcome"].as_str(), json["reason"].as_str()), (Some(outcome), reason), "{json}");
        assert_eq!(*status, Some(i32::from(reason.is_some())), "{shown}");
        let verdict = if reason.is_some() { "✗ FAIL" } else { "✓ pass" };
        assert!(shown.starts_with(&format!("{verdict}  {url}  ")), "{shown}");
        assert!(reason.is_none_or(|reason| shown.contains(&format!("\n  {reason}: "))), "{shown}");
    }

    /// The phases, which both forms must tell.
    fn assert_phases(&self, phases: &[&str]) {
        let Self { shown, json, .. } = self;
        let measured: Vec<&String> = json["phases"].as_object().expect("phases").keys().collect();
        let expected: Vec<String> = phases.iter().map(|phase| format!("{}_us", phase.replace(' ', "_"))).collect();
        assert_eq!(measured, expected.iter().collect::<Vec<_>>(), "{json}");
        for phase in phases {
            let begin = format!("  {phase:<10}  ");
            assert!(shown.lines().any(|line| line.starts_with(&begin) && line.contains(" ms  ")), "{phase}: {shown}");
        }
    }

    /// What was learnt, which both forms must tell.
    fn facts(&self) -> Vec<&str> {
        let facts: Vec<&str> =
            self.json["facts"].as_array().expect("facts").iter().map(|fact| fact["what"].as_str().unwrap()).collect();
        for fact in facts.iter().filter(|fact| !fact.starts_with("certificate")) {
            assert!(self.shown.contains(&format!("\n  {fact} ")), "{fact}: {}", self.shown);
        }
        facts
    }

    /// Whether there is a certificate, which both forms must tell all of.
    fn tells_certificate(&self) -> bool {
        let Self { shown, json, .. } = self;
        let Some((_, block)) = shown.split_once("\n  certificate\n") else {
            assert_eq!(json["certificate_expires"], Value::Null, "{shown}");
            assert!(!self.facts().iter().any(|fact| fact.starts_with("certificate")), "{json}");
            return false;
        };
        for (name, value) in [
            ("issuer", "CN=test authority"),
            ("names", NAME),
            ("valid", "2020-01-01 to 2200-01-01"),
            ("chain", "1 certificate"),
            ("expires", "in "),
        ] {
            let told = |line: &str| line.starts_with(&format!("  {name} ")) && line.contains(value);
            assert!(block.lines().any(told), "{name}: {shown}");
        }
        assert!(json["certificate_expires"].as_str().is_some_and(|at| at.starts_with("2200-01-01")), "{json}");
        assert!(self.facts().contains(&"certificate names"), "{json}");
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_any_kind_is_told_of_with_phases_facts_and_certificate() {
    let certified = Certified::new();
    for kind in KINDS {
        let url = kind.url(kind.serve(&certified).await);
        let said = check(&url, &kind.options(&certified.ca, Some(NAME))).await;
        said.assert_is(&url, "pass", None);
        said.assert_phases(kind.phases);
        let facts = said.facts();
        assert!(facts.contains(&"address") && facts.contains(&kind.fact), "{url}: {facts:?}");
        assert_eq!(said.tells_certificate(), kind.tls.is_some(), "{url}: {}", said.shown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_any_kind_fails_to_connect() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let certified = Certified::new();
    for kind in KINDS {
        let url = kind.url(nobody);
        let said = check(&url, &kind.options(&certified.ca, Some(NAME))).await;
        said.assert_is(&url, "fail", Some("connect"));
        // Datagrams are sent without a connection.
        said.assert_phases(if kind.scheme == "dns" { &[] } else { &["connect"] });
        assert!(!said.facts().contains(&"address") && !said.tells_certificate(), "{}", said.shown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused_and_shown() {
    let certified = Certified::new();
    for kind in KINDS.into_iter().filter(|kind| kind.tls.is_some()) {
        let url = kind.url(kind.serve(&certified).await);
        let said = check(&url, &kind.options(&certified.ca, None)).await;
        said.assert_is(&url, "fail", Some("certificate"));
        said.assert_phases(&["connect", "tls"]);
        assert!(said.tells_certificate(), "{}", said.shown);
        assert!(said.json["detail"].as_str().is_some_and(|detail| detail.contains(NAME)), "{}", said.json);
    }
}
