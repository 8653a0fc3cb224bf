//! Peers that misbehave: the outcome is right, the probe ends on time, memory stays flat.

use std::{sync::Arc, time::Duration};

use healthmon_core::probe::{FailReason, Outcome};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{
    peers::plain,
    support::{LATER, PATIENCE, SHORT, Server, detail, growth_kb, see_within, wait_for_end},
};

/// Sends `chunk` over and over.
async fn endless(chunk: &'static [u8]) -> Server {
    Server::raw(move |mut stream| async move { while stream.write_all(chunk).await.is_ok() {} }).await
}

/// Sends `first` and then a byte each second.
async fn dripping(first: &'static str) -> Server {
    Server::raw(move |mut stream| async move {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        if stream.write_all(first.as_bytes()).await.is_ok() {
            while stream.write_all(b"x").await.is_ok() {
                second.tick().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn sec_every_hostile_peer_gets_the_right_outcome_on_time() {
    use FailReason::{Assertion, Protocol, Timeout};
    let contains = || json!({"tcp": {"expect": "needle"}});
    let regex = || json!({"tcp": {"expect": {"regex": "(a|aa)*needle$"}}});
    let smtp = || json!({"tcp": {"starttls": "smtp"}});
    let with = |protocol: &str| json!({"tcp": {"starttls": protocol}});
    let rows: Vec<(&str, Server, Duration, Value, FailReason, &str)> = vec![
        ("endless banner", endless(&[b'a'; 16_384]).await, PATIENCE, contains(), Assertion, "65536 bytes without it"),
        ("endless banner, regex", endless(&[b'a'; 7]).await, PATIENCE, regex(), Assertion, "65536 bytes without it"),
        ("endless lines", endless(b"220-\r\n").await, PATIENCE, contains(), Assertion, "65536 bytes without it"),
        (
            "endless prefix",
            endless(b"a").await,
            PATIENCE,
            json!({"tcp": {"expect": {"prefix": "b"}}}),
            Assertion,
            "else",
        ),
        ("one byte a second", dripping("").await, SHORT, contains(), Timeout, "while waiting for the answer"),
        (
            "line, then drips",
            dripping("220 a\r\n").await,
            LATER,
            contains(),
            Assertion,
            "without it until the deadline",
        ),
        ("endless greeting", endless(b"220-a\r\n").await, PATIENCE, smtp(), Protocol, "more than 200 lines came"),
        ("endless line", endless(b"220 aaaa").await, PATIENCE, smtp(), Protocol, "a line is longer than 4096 bytes"),
        ("greeting of drips", dripping("220-").await, SHORT, smtp(), Timeout, "while asking for tls"),
        ("endless imap", endless(b"* OK x\r\n").await, PATIENCE, with("imap"), Protocol, "before it was asked"),
        ("endless ldap", endless(b"\x30\x82\x10\0").await, PATIENCE, with("ldap"), Protocol, "is not ldap"),
        ("endless postgres", endless(b"SSSSSSSS").await, PATIENCE, with("postgres"), Protocol, "in plain behind"),
        ("endless nul", endless(&[0; 4096]).await, PATIENCE, smtp(), Protocol, "a line is longer than"),
    ];
    let prober = plain();
    let mut wrong = Vec::new();
    for (name, server, timeout, options, reason, told) in rows {
        let seen = see_within(&*prober, &format!("tcp://{}", server.address), timeout, &options).await;
        if seen.outcome != Outcome::Fail(reason) || !detail(&seen).contains(told) {
            wrong.push(format!("{name}: {reason:?} {told:?} expected, {seen:?} seen"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_peer_that_never_reads_is_given_up_by_the_deadline() {
    let server = Server::raw(|stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let steps: Vec<Value> = (0..8).map(|_| json!({"send": "x".repeat(65_536)})).collect();
    // Less than the kernel takes by itself passes; what matters is that it ends.
    let options = json!({"tcp": {"steps": steps, "expect": null}});
    let seen = see_within(&*plain(), &format!("tcp://{}", server.address), SHORT, &options).await;
    assert!(matches!(seen.outcome, Outcome::Pass | Outcome::Fail(FailReason::Timeout)), "{seen:?}");
}

#[tokio::test]
async fn sec_single_bytes_do_not_make_a_regular_expression_search_everything_for_each() {
    // 64 Ki pieces of one byte: searched anew for each, that would be 2 GB of searching.
    let server = Server::raw(|mut stream| async move {
        stream.set_nodelay(true).expect("a socket");
        while stream.write_all(b"a").await.is_ok() {
            tokio::task::yield_now().await;
        }
        wait_for_end(&mut stream).await;
    })
    .await;
    let options = json!({"tcp": {"expect": {"regex": "a[^a]b|needle"}}});
    let seen = see_within(&*plain(), &format!("tcp://{}", server.address), PATIENCE * 3, &options).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion), "{seen:?}");
    assert!(detail(&seen).contains("65536 bytes without it"), "{seen:?}");
}

#[tokio::test]
async fn what_comes_in_many_pieces_is_found_at_the_end_even_where_searching_it_costs_much() {
    let server = Server::raw(|mut stream| async move {
        stream.set_nodelay(true).expect("a socket");
        // Each is judged, and then all that may be spent on that is spent.
        for _ in 0..60 {
            stream.write_all(&[b'a'; 64]).await.ok();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stream.write_all(&[b'a'; 50_000]).await.ok();
        stream.write_all(b" found!").await.ok();
    })
    .await;
    let options = json!({"tcp": {"expect": {"regex": r"\w+!"}}});
    let seen = see_within(&*plain(), &format!("tcp://{}", server.address), PATIENCE, &options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
}

#[tokio::test]
async fn sec_memory_stays_flat_under_fifty_hostile_peers_at_once() {
    const GROWTH_KB: u64 = 48 * 1024;
    let prober = plain();
    let servers = [endless(&[b'a'; 16_384]).await, endless(b"220-a\r\n").await, endless(b"220 aaaa").await];
    let work = async {
        for server in &servers {
            for options in [json!({"tcp": {"expect": "needle"}}), json!({"tcp": {"starttls": "smtp"}})] {
                let mut probes = tokio::task::JoinSet::new();
                for _ in 0..50 {
                    let (prober, url, options) =
                        (Arc::clone(&prober), format!("tcp://{}", server.address), options.clone());
                    probes.spawn(async move {
                        let settings = super::support::settings(&url, PATIENCE, &options);
                        healthmon_core::ports::Prober::probe(&*prober, &super::support::probe_of(settings)).await
                    });
                }
                let seen = probes.join_all().await;
                assert!(seen.iter().all(|seen| matches!(seen.outcome, Outcome::Fail(_))), "{:?}", seen[0]);
            }
        }
    };
    let (growth, ()) = growth_kb(work).await;
    assert!(growth < GROWTH_KB, "grew by {growth} kB");
}
