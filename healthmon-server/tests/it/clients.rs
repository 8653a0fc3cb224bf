//! A thousand WebSocket clients, some of which never read.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{Server, Target, folder, until};

const CLIENTS: usize = 1_000;
const SILENT: usize = 100;
const SERVICES: usize = 30;

/// A client that shakes hands and never reads again, with the smallest window the kernel gives.
async fn silent(server: &Server) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2_048).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    let request = format!(
        "GET /api/v1/events?after=0 HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        server.address
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    stream
}

/// Reads transitions until there are `count`.
async fn read(server: &Server, after: u64, count: usize) -> Vec<u64> {
    let mut events = server.events(&format!("?after={after}")).await.unwrap();
    let mut seqs = Vec::new();
    while seqs.len() < count {
        seqs.push(events.transition().await["seq"].as_u64().unwrap());
    }
    seqs
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_get_every_transition_once_while_some_never_read() {
    let (folder, target) = (folder(), Target::start().await);
    let server = std::sync::Arc::new(Server::start(&folder.path().join("db")));
    server.ready().await;
    let mut readers = JoinSet::new();
    for _ in 0..CLIENTS - SILENT {
        let server = std::sync::Arc::clone(&server);
        readers.spawn(async move { server.events("").await.unwrap() });
    }
    let mut clients = readers.join_all().await;
    let mut deaf = Vec::new();
    for _ in 0..SILENT {
        deaf.push(silent(&server).await);
    }
    let before = server.rss_kb();
    // Names as long as they may be: 800 bytes and more an event.
    for n in 0..SERVICES {
        let name = format!("{n} {}", "x".repeat(190));
        server
            .register(json!({"name": name, "url": target.url, "interval": "1s",
                "policy": {"failure_threshold": 1, "success_threshold": 1}}))
            .await;
    }
    // Up, and then down and up again and again, until the deaf ones' windows are long full.
    let mut rounds = 1;
    let transitions = until("every service to go up and down", async || {
        target.answer(if rounds % 2 == 0 { 500 } else { 200 });
        let head = server.get("/api/v1/transitions?limit=1").await.json["head"].as_u64()?;
        if head >= rounds * SERVICES as u64 {
            rounds += 1;
        }
        (rounds > 4).then_some(3 * SERVICES)
    })
    .await;
    let expected: Vec<u64> = (1..=transitions as u64).collect();
    let mut reading = JoinSet::new();
    for mut client in clients.drain(..) {
        reading.spawn(async move {
            let mut seqs = Vec::new();
            while seqs.len() < transitions {
                seqs.push(client.transition().await["seq"].as_u64().unwrap());
            }
            seqs
        });
    }
    for seqs in reading.join_all().await {
        assert_eq!(seqs, expected);
    }
    let grown = server.rss_kb().saturating_sub(before);
    println!("{CLIENTS} clients, {SILENT} of them deaf, {transitions} transitions each: memory grew by {grown} kB");
    assert!(grown < 64 * 1024, "memory grew by {grown} kB");
    // Each that comes back with its last seq has the rest once, wherever it left.
    for after in [0, 1, transitions as u64 / 2, transitions as u64 - 1] {
        let rest = transitions - usize::try_from(after).unwrap();
        assert_eq!(read(&server, after, rest).await, expected[usize::try_from(after).unwrap()..]);
    }
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_the_log_does_not_have_is_answered_with_reset_and_a_snapshot() {
    let (folder, target) = (folder(), Target::start().await);
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let id = server.register(json!({"name": "shop", "url": target.url, "interval": "1s"})).await;
    let first = server.events("?after=0").await.unwrap().transition().await;
    let log = server.get("/api/v1/transitions").await.json["log"].clone();

    for query in ["?after=999", "?after=1&log=another"] {
        let mut events = server.events(query).await.unwrap();
        assert_eq!(events.hello, json!({"type": "hello", "log": log, "head": 1}));
        let reset = events.next().await.unwrap();
        assert_eq!((reset["type"].as_str(), reset["head"].as_u64()), (Some("reset"), Some(1)), "{reset}");
        let snapshot = events.next().await.unwrap();
        assert_eq!(snapshot["services"][0]["service"]["id"], Value::from(id.clone()));
        assert_eq!((snapshot["services"][0]["status"].as_str(), snapshot["last"].as_bool()), (Some("UP"), Some(true)));
    }
    let mut right = server.events(&format!("?after=1&log={}", log.as_str().unwrap())).await.unwrap();
    target.answer(500);
    let down = right.transition().await;
    assert_eq!((down["seq"].as_u64(), down["to"].as_str()), (Some(2), Some("DOWN")), "the right log needs no reset");
    assert_eq!(first["seq"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_only_the_kinds_and_services_they_ask_for() {
    let (folder, target) = (folder(), Target::start().await);
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let mut plain = server.events("?after=0").await.unwrap();
    let mut tagged = server.events("?after=0&tag=team:b&kinds=paused,transition").await.unwrap();
    let settings = |name: &str| json!({"name": name, "url": target.url, "interval": "1s", "tags": {"team": name}});
    let a = server.register(settings("a")).await;
    assert_eq!(plain.transition().await["service"]["id"], Value::from(a.clone()));
    let b = server.register(settings("b")).await;
    assert_eq!(plain.transition().await["service"]["id"], Value::from(b.clone()));
    for id in [&a, &b] {
        assert_eq!(server.send("POST", &format!("/api/v1/services/{id}/pause"), None).await.status, 200);
    }
    assert_eq!(tagged.transition().await["service"]["name"], "b");
    let overlay = tagged.next().await.unwrap();
    assert_eq!(
        (overlay["type"].as_str(), overlay["overlay"].as_str(), overlay["edge"].as_str()),
        (Some("overlay"), Some("paused"), Some("began"))
    );
    let nothing = tokio::time::timeout(Duration::from_millis(300), plain.socket.next()).await;
    assert!(nothing.is_err(), "only transitions unless asked: {nothing:?}");
}
