//! What a sign costs. Figures depend on the machine, so this runs when asked for:
//! `cargo test --release -p healthmon-server --test it -- --ignored --nocapture heartbeats_load`

use std::time::{Duration, Instant};

use bytes::Bytes;
use healthmon_adapters::servers::PrivatePostgres;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpStream, task::JoinSet};

use crate::support::{Server, folder};

const SERVICES: usize = 1_000;
const RATE: usize = 1_000;
const SECONDS: usize = 20;
/// Connections that are kept open; each sends its share of the signs.
const CONNECTIONS: usize = 50;

async fn tokens(server: &Server) -> Vec<String> {
    let mut tokens = Vec::with_capacity(SERVICES);
    for number in 0..SERVICES {
        let settings = json!({"name": format!("job {number}"), "url": "heartbeat://job", "interval": "1h"});
        let created = server.send("POST", "/api/v1/services", Some(settings)).await;
        tokens.push(created.json["heartbeat_token"].as_str().unwrap().to_owned());
    }
    tokens
}

/// Sends one sign after the other over one connection, each `pause` after the one before; how long
/// each took.
async fn send(address: std::net::SocketAddr, tokens: Vec<String>, count: usize, pause: Duration) -> Vec<Duration> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ticks = tokio::time::interval(pause);
    let mut spans = Vec::with_capacity(count);
    for token in tokens.iter().cycle().take(count) {
        ticks.tick().await;
        sender.ready().await.unwrap();
        let request = Request::post(format!("/api/v1/heartbeats/{token}")).header("host", address.to_string());
        let begun = Instant::now();
        let answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 204);
        answer.into_body().collect().await.unwrap();
        spans.push(begun.elapsed());
    }
    connection.abort();
    spans
}

#[expect(clippy::print_stdout, reason = "figures are what it is for")]
async fn measure(what: &str, server: Server) {
    server.ready().await;
    let tokens = tokens(&server).await;
    let (before, begun, memory) = (server.cpu(), Instant::now(), server.rss_kb());
    let mut senders = JoinSet::new();
    for share in tokens.chunks(SERVICES / CONNECTIONS) {
        let count = RATE * SECONDS / CONNECTIONS;
        let pause = Duration::from_secs(1) * u32::try_from(CONNECTIONS).unwrap() / u32::try_from(RATE).unwrap();
        senders.spawn(send(server.address, share.to_vec(), count, pause));
    }
    let mut spans: Vec<Duration> = senders.join_all().await.into_iter().flatten().collect();
    let (took, cpu) = (begun.elapsed(), server.cpu() - before);
    spans.sort_unstable();
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{what}: {} signs, {:.0}/s, {:.1} us CPU each, answered in p50 {:.1} ms, p99 {:.1} ms, memory {} kB, before {memory} kB",
        spans.len(),
        spans.len() as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / spans.len() as f64,
        at(0.5),
        at(0.99),
        server.rss_kb(),
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_thousand_signs_a_second_on_sqlite() {
    let folder = folder();
    measure("SQLite, every commit on the disk", Server::start(&folder.path().join("db"))).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn a_thousand_signs_a_second_on_postgresql() {
    let (folder, postgres) = (folder(), PrivatePostgres::start().unwrap());
    let url = postgres.url("postgres");
    let server = Server::node(&folder.path().join("one"), &["serve", "--database", &url, "--node", "one"]);
    measure("PostgreSQL, the server's own share", server).await;
}
