//! Peers that upgrade and then misbehave: the outcome is right, the probe ends on time, memory stays flat.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Outcome},
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::{accept_async, tungstenite::Message};

use super::{
    peers::{consent, prober, read_head, sending},
    support::{GRACE, PATIENCE, SHORT, Server, detail, growth_kb, probe_of, see, see_within, settings, wait_for_end},
};

/// A text frame of 65,537 bytes, which is one too many; its beginning at least.
const GIANT: &[u8] = &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 1];
const MONSTROUS: &[u8] = &[0x81, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const BLOCK: &[u8] = &[b'a'; 4_096];
/// Frames of 127 bytes.
const MESSAGE: &[u8] = &filled(0x81);
const PING: &[u8] = &filled(0x89);
const PONG: &[u8] = &filled(0x8a);

const fn filled(kind: u8) -> [u8; 127] {
    let mut frame = [b'a'; 127];
    (frame[0], frame[1]) = (kind, 125);
    frame
}

#[tokio::test]
async fn sec_every_hostile_peer_gets_the_right_outcome_on_time() {
    use FailReason::{Assertion, Protocol, Timeout};
    let long = PATIENCE * 3;
    let rows: Vec<(&str, Server, Duration, FailReason, &str)> = vec![
        ("masked frame", sending(b"\x81\x82\x01\x02\x03\x04hi", b"").await, long, Protocol, "masked frame from server"),
        ("fragmented ping", sending(b"\x09\x00", b"").await, long, Protocol, "Fragmented control frame"),
        ("long ping", sending(b"\x89\x7e\x00\x80", BLOCK).await, long, Protocol, "Control frame too big"),
        ("reserved bits", sending(b"\xf1\x02hi", b"").await, long, Protocol, "Reserved bits"),
        ("unknown frame", sending(b"\x83\x02hi", b"").await, long, Protocol, "invalid opcode: 3"),
        ("unknown control", sending(b"\x8b\x00", b"").await, long, Protocol, "invalid opcode: 11"),
        ("continuation of nothing", sending(b"\x80\x02hi", b"").await, long, Protocol, "nothing to continue"),
        ("a message within one", sending(b"\x01\x02hi\x81\x02hi", b"").await, long, Protocol, "fragments received"),
        ("not UTF-8", sending(b"\x81\x02\xff\xff", b"").await, long, Protocol, "not UTF-8"),
        ("close of one byte", sending(b"\x88\x01x", b"").await, long, Protocol, "close sequence"),
        ("giant frame", sending(GIANT, BLOCK).await, long, Assertion, "and then one longer than 65536 bytes"),
        ("monstrous frame", sending(MONSTROUS, BLOCK).await, long, Assertion, "and then one longer than 65536 bytes"),
        ("endless fragments", sending(b"\x01\x01a", b"\x00\x01a").await, long, Assertion, "longer than 65536 bytes"),
        ("endless empty fragments", sending(b"\x01\x01a", b"\x00\x00").await, long, Assertion, "within 1048576 bytes"),
        ("endless messages", sending(b"", MESSAGE).await, long, Assertion, "messages without it within 1048576"),
        ("endless pings", sending(b"", PING).await, long, Assertion, "nothing of it within 1048576"),
        ("endless pongs", sending(b"", PONG).await, long, Assertion, "nothing of it within 1048576"),
        ("half a frame", sending(b"\x81\x7e", b"").await, SHORT, Timeout, "while waiting for the answer"),
        ("half a message", sending(b"\x01\x06needle", b"").await, SHORT, Timeout, "while waiting for the answer"),
        ("garbage", sending(b"\xf7\xf7\xf7\xf7", b"\xf7").await, long, Protocol, "websocket: "),
    ];
    let prober = prober();
    let mut wrong = Vec::new();
    for (name, server, timeout, reason, told) in rows {
        let options = json!({"websocket": {"send": "x", "expect": "needle"}});
        let seen = see_within(&prober, &format!("ws://{}/", server.address), timeout, &options).await;
        if seen.outcome != Outcome::Fail(reason) || !detail(&seen).contains(told) {
            wrong.push(format!("{name}: {reason:?} {told:?} expected, {seen:?} seen"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn sec_no_more_is_searched_for_a_large_expression_than_one_long_message() {
    // Sixteen such messages may come; each took most of a second where its text was the worst there is.
    let mut message = vec![0x81, 126, 0x80, 0];
    message.resize(4 + 0x8000, b'a');
    let message: &'static [u8] = message.leak();
    let server = sending(b"", message).await;
    for (regex, told) in [
        (r"\w+!", "3 messages without it, and more than is searched for so large an expression"),
        ("^b", "messages without it within 1048576 bytes"),
    ] {
        let options = json!({"websocket": {"expect": {"regex": regex}}});
        let seen = see_within(&prober(), &format!("ws://{}/", server.address), PATIENCE * 3, &options).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion), "{seen:?}");
        assert!(detail(&seen).contains(told), "{seen:?}");
    }
}

#[tokio::test]
async fn a_peer_that_hangs_up_without_a_word_is_told_so() {
    let server = Server::raw(|mut stream| async move {
        let Some(request) = read_head(&mut stream).await else { return };
        stream.write_all(&consent(&request, "")).await.ok();
        stream.shutdown().await.ok();
        wait_for_end(&mut stream).await;
    })
    .await;
    let seen = see(&prober(), &format!("ws://{}/", server.address), &json!({"websocket": {"expect": "x"}})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Protocol), "{seen:?}");
    assert!(detail(&seen).contains("without closing handshake"), "{seen:?}");
}

#[tokio::test]
async fn only_the_pong_to_our_ping_counts_and_it_may_take_only_so_long() {
    // A pong that answers nothing of ours.
    let server = sending(b"\x8a\x02hi", b"").await;
    let url = format!("ws://{}/", server.address);
    let seen = see_within(&prober(), &url, SHORT, &json!({"websocket": {"ping": {}}})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout), "{seen:?}");
    let options = json!({"websocket": {"ping": {"within": "100ms"}}});
    let (prober, begun) = (prober(), std::time::Instant::now());
    let seen = see(&prober, &url, &options).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion), "{seen:?}");
    assert_eq!(detail(&seen), "pong: expected within 100ms, got none by then");
    assert!(begun.elapsed() < GRACE, "it does not wait for the deadline");
}

#[tokio::test]
async fn pings_of_the_peer_are_answered() {
    let server = Server::raw(|mut stream| async move {
        let Some(request) = read_head(&mut stream).await else { return };
        stream.write_all(&consent(&request, "")).await.ok();
        stream.write_all(b"\x89\x04ping").await.ok();
        let mut pong = [0; 10];
        stream.read_exact(&mut pong).await.ok();
        let payload: Vec<u8> = (6..10).map(|at| pong[at] ^ pong[at - 4]).collect();
        let said: &[u8] = if pong[0] == 0x8a && payload == b"ping" { b"\x81\x05right" } else { b"\x81\x05wrong" };
        stream.write_all(said).await.ok();
        wait_for_end(&mut stream).await;
    })
    .await;
    let options = json!({"websocket": {"expect": "right"}});
    let seen = see(&prober(), &format!("ws://{}/", server.address), &options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
}

#[tokio::test]
async fn the_session_is_closed_politely_and_a_rude_peer_is_not_waited_for() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::raw(move |stream| {
        let tell = tell.clone();
        async move {
            let mut session = accept_async(stream).await.expect("an upgrade");
            while let Some(Ok(message)) = session.next().await {
                if let Message::Close(frame) = message {
                    tell.send(frame.map(|frame| u16::from(frame.code))).expect("somebody listens");
                }
            }
        }
    })
    .await;
    let seen = see(&prober(), &format!("ws://{}/", server.address), &json!({})).await;
    assert_eq!((seen.outcome, told.recv().await), (Outcome::Pass, Some(Some(1000))), "{seen:?}");

    let rude = sending(b"", b"").await;
    let (prober, begun) = (prober(), std::time::Instant::now());
    let seen = see(&prober, &format!("ws://{}/", rude.address), &json!({})).await;
    let took = begun.elapsed();
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    assert!(took < GRACE, "took {took:?}");
    // Nobody answers the farewell, which then takes a quarter of a second.
    let measured = Duration::from_micros(u64::from(seen.latency_us));
    assert!(measured + Duration::from_millis(250) <= took, "that is no part of what was measured: {seen:?}, {took:?}");
}

#[tokio::test]
async fn sec_memory_stays_flat_under_fifty_hostile_peers_at_once() {
    const GROWTH_KB: u64 = 48 * 1024;
    let prober = Arc::new(prober());
    let servers = [
        sending(GIANT, BLOCK).await,
        sending(b"\x01\x01a", b"\x00\x01a").await,
        sending(b"", PING).await,
        sending(b"", b"\x81\x7e\x40\x00").await,
    ];
    let options: Value = json!({"websocket": {"expect": "needle", "ping": {}}});
    let work = async {
        for server in &servers {
            let mut probes = tokio::task::JoinSet::new();
            for _ in 0..50 {
                let settings = settings(&format!("ws://{}/", server.address), PATIENCE, &options);
                let prober = Arc::clone(&prober);
                probes.spawn(async move { prober.probe(&probe_of(settings)).await });
            }
            let seen = probes.join_all().await;
            assert!(seen.iter().all(|seen| matches!(seen.outcome, Outcome::Fail(_))), "{:?}", seen[0]);
        }
    };
    let (growth, ()) = growth_kb(work).await;
    assert!(growth < GROWTH_KB, "grew by {growth} kB");
}
