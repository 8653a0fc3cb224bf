//! Targets that misbehave: the outcome is right, the probe ends on time, memory stays flat.

use std::{
    future::Future,
    io::Write,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use flate2::{Compression, write::GzEncoder};
use healthmon_adapters::{
    http::HttpProber,
    net::{AddressPolicy, Dialer, LookupPermit, Loopback, ResolveError, Resolver},
};
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, IndeterminateReason, Observation, Outcome},
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::support::{
    Names, OK, PATIENCE, Server, answer, detail, dialer, probe_of, prober, prober_with, read_request, see_within,
    settings, wait_for_end,
};

/// The deadline of targets that hang.
const SHORT: Duration = Duration::from_millis(300);
/// How late a probe may come back on a busy machine.
const GRACE: Duration = Duration::from_secs(5);

type Setup = Pin<Box<dyn Future<Output = Server>>>;

struct Row {
    name: &'static str,
    server: Setup,
    timeout: Duration,
    options: Value,
    outcome: Outcome,
    says: &'static str,
}

fn row(
    name: &'static str,
    server: impl Future<Output = Server> + 'static,
    options: Value,
    outcome: Outcome,
    says: &'static str,
) -> Row {
    let timeout = if outcome == Outcome::Fail(FailReason::Timeout) { SHORT } else { PATIENCE };
    Row { name, server: Box::pin(server), timeout, options, outcome, says }
}

/// Sends `head` and then `chunk` over and over.
async fn endless(head: &'static str, chunk: &'static [u8]) -> Server {
    Server::raw(move |mut stream| async move {
        read_request(&mut stream).await;
        if stream.write_all(head.as_bytes()).await.is_ok() {
            while stream.write_all(chunk).await.is_ok() {}
        }
    })
    .await
}

/// Sends `head` and then a byte each second.
async fn dripping(head: &'static str) -> Server {
    Server::raw(move |mut stream| async move {
        read_request(&mut stream).await;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        if stream.write_all(head.as_bytes()).await.is_ok() {
            while stream.write_all(b"x").await.is_ok() {
                second.tick().await;
            }
        }
    })
    .await
}

async fn silent() -> Server {
    Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await
}

/// Closes with a reset after the request.
async fn resetting() -> Server {
    Server::raw(|mut stream| async move {
        read_request(&mut stream).await;
        reset(stream);
    })
    .await
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().expect("a socket");
}

/// 100 MB that take 100 kB on the wire.
async fn gzip_bomb() -> Server {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..100 {
        encoder.write_all(&[0; 1_000_000]).expect("encoded in memory");
    }
    let body = encoder.finish().expect("encoded in memory");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
    Server::sending([head.as_bytes(), &body].concat()).await
}

async fn gzip_of_nothing() -> Server {
    // Members that decode to nothing, for ever: no output to count, so the input must be.
    static EMPTY: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    endless("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", EMPTY).await
}

fn headers(count: usize) -> String {
    let headers: String = (0..count).map(|n| format!("x-{n}: y\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n")
}

fn rows() -> Vec<Row> {
    let fail = Outcome::Fail;
    let (protocol, timeout) = (fail(FailReason::Protocol), fail(FailReason::Timeout));
    let text = || json!({"expect": {"body": "needle"}});
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    vec![
        row("endless body", endless("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 16_384]), json!({}), Outcome::Pass, ""),
        row(
            "endless body, text expected",
            endless("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 16_384]),
            text(),
            fail(FailReason::Assertion),
            "body: expected to contain \"needle\", got a body's first 65536 bytes",
        ),
        row(
            "endless chunks",
            endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
            json!({}),
            Outcome::Pass,
            "",
        ),
        row(
            "endless body with a wrong status",
            endless("HTTP/1.1 500 No\r\n\r\n", &[b'x'; 16_384]),
            json!({}),
            fail(FailReason::Status),
            "status: expected 200-299, got 500",
        ),
        row(
            "gzip bomb",
            gzip_bomb(),
            text(),
            fail(FailReason::Assertion),
            "body: expected to contain \"needle\", got a body's first 65536 bytes",
        ),
        row("gzip bomb that nobody decodes", gzip_bomb(), json!({}), Outcome::Pass, ""),
        row(
            "gzip of nothing for ever",
            gzip_of_nothing(),
            text(),
            fail(FailReason::Assertion),
            "body: expected to contain \"needle\", got a body's first 0 bytes",
        ),
        row(
            "broken gzip",
            Server::sending(answer(200, "content-encoding: gzip\r\n", "plain")),
            text(),
            protocol,
            "the body cannot be decoded",
        ),
        row(
            "an encoding not asked for",
            Server::sending(answer(200, "content-encoding: br\r\n", "plain")),
            text(),
            protocol,
            "a content encoding was not asked for: br",
        ),
        row("one byte a second", dripping(long), json!({}), timeout, "while reading the body"),
        row(
            "one byte a second, chunked",
            dripping("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n40\r\n"),
            text(),
            timeout,
            "while reading the body",
        ),
        row("a head of one byte a second", dripping("HTTP/1.1 200 O"), json!({}), timeout, "waiting for the answer"),
        row("no answer", silent(), json!({}), timeout, "waiting for the answer"),
        row(
            "endless 100 continue",
            endless("", b"HTTP/1.1 100 Continue\r\n\r\n"),
            json!({}),
            protocol,
            "more came than belongs to an answer",
        ),
        row("closed without an answer", Server::sending(""), json!({}), protocol, "connection closed"),
        row("closed within the body", Server::sending(long), json!({}), protocol, "end of file"),
        row("reset", resetting(), json!({}), protocol, "reset"),
        row("garbage", Server::sending(vec![0xf7; 512]), json!({}), protocol, "invalid HTTP"),
        row("another protocol", Server::sending("SSH-2.0-OpenSSH_9.6\r\n"), json!({}), protocol, "invalid HTTP"),
        row("endless garbage", endless("HTTP/1.1 200 OK\r\nx: ", &[b'x'; 16_384]), json!({}), protocol, "too large"),
        row("10,000 headers", Server::sending(headers(10_000)), json!({}), protocol, "too large"),
        row("101 headers", Server::sending(headers(100)), json!({}), protocol, "too large"),
        row(
            "a switch of protocols",
            Server::sending("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            json!({}),
            fail(FailReason::Status),
            "got 101",
        ),
        row(
            "two lengths",
            Server::sending("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx"),
            json!({}),
            protocol,
            "content-length",
        ),
    ]
}

/// Whatever comes of it, it comes on time.
async fn on_time(prober: &HttpProber, url: &str, timeout: Duration, options: Value, name: &str) -> Observation {
    let begun = Instant::now();
    let seen = see_within(prober, url, timeout, options).await;
    assert!(begun.elapsed() < timeout + GRACE, "{name}: took {:?}", begun.elapsed());
    assert!(u128::from(seen.latency_us) <= timeout.as_micros(), "{name}: {}", seen.latency_us);
    seen
}

#[tokio::test]
async fn sec_every_hostile_target_gets_the_right_outcome_on_time() {
    let prober = prober();
    let mut wrong = Vec::new();
    for row in rows() {
        let server = row.server.await;
        let seen = on_time(&prober, &server.url(), row.timeout, row.options, row.name).await;
        if seen.outcome != row.outcome || !detail(&seen).contains(row.says) {
            wrong.push(format!("{}: {:?} {:?} expected, {seen:?} seen", row.name, row.outcome, row.says));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_refused_connection_is_a_connect_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let seen = on_time(&prober(), &format!("http://{address}/"), PATIENCE, json!({}), "refused").await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Connect));
    assert!(detail(&seen).starts_with(&format!("connect to {address}: ")), "{seen:?}");
    assert_eq!(seen.code, None);
}

#[tokio::test]
async fn the_next_address_of_a_name_is_tried_when_one_refuses() {
    let server = Server::answering(|_| answer(200, "", "")).await;
    let ip = server.address.ip();
    let nobody = ["127.9.9.1", "127.9.9.2", "127.9.9.3"].map(|address| address.parse().expect("an address"));
    let names = move |_: &str| [&nobody[..], &[ip]].concat();
    let dialer = dialer(AddressPolicy::new(Loopback::Allowed)).with_resolver(Arc::new(Names(Box::new(names))));
    let url = format!("http://shop.test:{}/", server.address.port());
    let seen = on_time(&prober_with(dialer), &url, PATIENCE, json!({}), "next").await;
    assert_eq!((seen.outcome, server.accepted()), (Outcome::Pass, 1), "{seen:?}");
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure() {
    let seen = on_time(&prober(), "http://nowhere.test/", PATIENCE, json!({}), "dns").await;
    assert_eq!((seen.outcome, detail(&seen)), (Outcome::Fail(FailReason::Dns), "nowhere.test: no such name"));
    assert!(seen.phases.dns_us.is_some() && seen.phases.connect_us.is_none());
}

#[tokio::test]
async fn a_name_that_the_system_does_not_know_is_a_dns_failure() {
    // A label of 64 characters is refused before any server is asked.
    let prober = prober_with(Dialer::new(AddressPolicy::new(Loopback::Allowed)));
    let url = format!("http://{}.test/", "a".repeat(64));
    let seen = on_time(&prober, &url, PATIENCE, json!({}), "dns").await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Dns), "{seen:?}");
}

/// A resolver that never comes back.
struct Dead;

#[async_trait]
impl Resolver for Dead {
    async fn resolve(&self, _: &str, permit: LookupPermit) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        std::future::pending::<()>().await;
        drop(permit);
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_dead_resolver_is_the_targets_trouble_and_a_full_queue_of_lookups_is_ours() {
    let one = std::num::NonZeroUsize::MIN;
    let dialer = Dialer::new(AddressPolicy::default()).with_resolver(Arc::new(Dead)).with_lookups(one);
    let prober = prober_with(dialer);
    let long = probe_of(settings("http://a.test/", SHORT * 2, &json!({})));
    let (first, second) =
        tokio::join!(prober.probe(&long), on_time(&prober, "http://b.test/", SHORT, json!({}), "behind it"),);
    assert_eq!(first.outcome, Outcome::Fail(FailReason::Timeout));
    assert_eq!(detail(&first), "timed out after 600 ms while resolving the name");
    assert_eq!(second.outcome, Outcome::Indeterminate(IndeterminateReason::Internal));
    assert_eq!(detail(&second), "timed out after 300 ms while waiting for a free lookup");
}

/// A resolver as the system's is: a lookup that hangs goes on when nobody waits for it any longer. It
/// counts those.
#[derive(Default)]
struct Stuck(tokio::sync::watch::Sender<usize>);

#[async_trait]
impl Resolver for Stuck {
    async fn resolve(&self, name: &str, permit: LookupPermit) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        if name.starts_with("hung") {
            self.0.send_modify(|count| *count += 1);
            std::mem::forget(permit);
            std::future::pending::<()>().await;
        }
        Ok(vec!["127.0.0.1".parse().expect("an address")])
    }
}

fn stuck(lookups: usize) -> (Arc<Stuck>, Dialer) {
    let resolver = Arc::new(Stuck::default());
    let dialer = Dialer::new(AddressPolicy::new(Loopback::Allowed)).with_resolver(Arc::clone(&resolver) as _);
    (resolver, dialer.with_lookups(std::num::NonZeroUsize::new(lookups).expect("not zero")))
}

/// Probes all of these hosts at once.
async fn probed(
    prober: &HttpProber,
    hosts: impl Iterator<Item = String>,
    timeout: Duration,
) -> Vec<healthmon_core::probe::Observation> {
    let each = hosts.map(|host| {
        let probe = probe_of(settings(&format!("http://{host}/"), timeout, &json!({})));
        async move { prober.probe(&probe).await }
    });
    futures_util::future::join_all(each).await
}

#[tokio::test]
async fn names_whose_lookup_hangs_leave_room_for_others() {
    let prober = &prober_with(stuck(4).1);
    let server = Server::answering(|_| OK.to_vec()).await;
    let good = format!("http://good.test:{}/", server.address.port());
    let hung = |times| (0..4 * times).map(|n| format!("hung.n{}.test", n % 4));
    // When they begin to hang they hold all there is, for a second.
    let (first, after) =
        tokio::join!(probed(prober, hung(1), SHORT * 4), see_within(prober, &good, PATIENCE, json!({})));
    assert!(first.iter().all(|seen| seen.outcome == Outcome::Fail(FailReason::Timeout)), "{first:?}");
    assert_eq!(after.outcome, Outcome::Pass, "{after:?}");
    // It waited for a second, which says nothing of its target.
    assert!(after.phases.dns_us.is_some_and(|micros| micros < 500_000), "{after:?}");
    assert!(after.latency_us < 500_000, "{after:?}");
    // From then on they hold up each other and nobody else.
    for _ in 0..3 {
        let (again, others) = tokio::join!(
            probed(prober, hung(3), SHORT),
            futures_util::future::join_all((0..10).map(|_| see_within(prober, &good, PATIENCE, json!({}))))
        );
        let waiting = Outcome::Indeterminate(IndeterminateReason::Internal);
        assert!(again.iter().all(|seen| seen.outcome == waiting), "{again:?}");
        assert!(others.iter().all(|seen| seen.outcome == Outcome::Pass), "{others:?}");
    }
}

#[tokio::test]
async fn sec_ever_new_names_of_a_domain_that_hangs_take_a_quarter_of_the_lookups() {
    let (resolver, dialer) = stuck(8);
    let prober = &prober_with(dialer);
    let server = Server::answering(|_| OK.to_vec()).await;
    let good = format!("http://good.test:{}/", server.address.port());
    for round in 0..3 {
        let hostile = (0..40).map(|n| format!("hung{round}-{n}.evil.test"));
        let (hostile, other) =
            tokio::join!(probed(prober, hostile, SHORT), see_within(prober, &good, PATIENCE, json!({})));
        assert!(hostile.iter().all(|seen| seen.outcome != Outcome::Pass));
        assert_eq!(other.outcome, Outcome::Pass, "round {round}: {other:?}");
    }
    let hung = *resolver.0.borrow();
    assert!((2..=4).contains(&hung), "{hung} lookups hang: a quarter of those there may be, and of those that hang");
}

#[tokio::test]
async fn names_that_are_known_to_hang_leave_room_for_others_of_their_domain() {
    let prober = &prober_with(stuck(8).1);
    let server = Server::answering(|_| OK.to_vec()).await;
    let good = format!("http://good.corp.test:{}/", server.address.port());
    // As many as the domain may have.
    let hung = || (0..2).map(|n| format!("hung{n}.corp.test"));
    let first = probed(prober, hung(), SHORT * 4).await;
    assert!(first.iter().all(|seen| seen.outcome == Outcome::Fail(FailReason::Timeout)), "{first:?}");
    let (again, other) = tokio::join!(probed(prober, hung(), SHORT), see_within(prober, &good, PATIENCE, json!({})));
    assert!(again.iter().all(|seen| seen.outcome != Outcome::Pass), "{again:?}");
    assert_eq!(other.outcome, Outcome::Pass, "{other:?}");
}

#[tokio::test]
async fn a_name_for_which_places_are_kept_is_found_when_all_lookups_hang() {
    let (resolver, dialer) = stuck(2);
    let prober = &prober_with(dialer.with_places_kept_for(["canary.test"]));
    let server = Server::answering(|_| OK.to_vec()).await;
    let [kept, good] = ["Canary.test.", "good.org"].map(|name| format!("http://{name}:{}/", server.address.port()));
    let story = async {
        // All there is, in both rooms.
        resolver.0.subscribe().wait_for(|hung| *hung == 4).await.expect("the resolver is there");
        let waiting = see_within(prober, &good, SHORT, json!({})).await;
        assert_eq!(waiting.outcome, Outcome::Indeterminate(IndeterminateReason::Internal), "{waiting:?}");
        let canary = see_within(prober, &kept, PATIENCE, json!({})).await;
        assert_eq!(canary.outcome, Outcome::Pass, "{canary:?}");
    };
    tokio::select! {
        () = story => {}
        _ = probed(prober, (0..40).map(|n| format!("hung.n{n}.test")), PATIENCE) => panic!("they hang longer than that"),
    }
}

#[tokio::test]
async fn sec_memory_stays_flat_under_fifty_hostile_targets_at_once() {
    // Fifty bombs decoded whole would take 5 GB, and endless bodies all there is.
    const GROWTH_KB: u64 = 64 * 1024;
    let prober = Arc::new(prober());
    let text = json!({"expect": {"body": "needle"}});
    let servers = [
        endless("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 16_384]).await,
        gzip_bomb().await,
        endless("HTTP/1.1 200 OK\r\nx: ", &[b'x'; 16_384]).await,
        Server::sending(headers(10_000)).await,
    ];
    let before = memory_kb("VmRSS:");
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
    for server in &servers {
        let mut probes = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (prober, url, options) = (Arc::clone(&prober), server.url(), text.clone());
            probes.spawn(async move { see_within(&prober, &url, PATIENCE, options).await });
        }
        let seen = probes.join_all().await;
        assert!(seen.iter().all(|seen| matches!(seen.outcome, Outcome::Fail(_))), "{:?}", seen[0]);
    }
    let growth = memory_kb("VmHWM:").saturating_sub(before);
    assert!(growth < GROWTH_KB, "grew by {growth} kB");
}

fn memory_kb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
