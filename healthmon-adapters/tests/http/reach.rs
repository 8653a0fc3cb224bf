//! Which address is dialled, and under which name the target is asked for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use healthmon_adapters::net::{AddressPolicy, Loopback};
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, IndeterminateReason, Outcome},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{
    support::{
        Names, OK, PATIENCE, Server, answer, detail, dialer, header, policy_of_one, prober, prober_with, see,
        see_within, settings,
    },
    tls::{Authority, acceptor, params, serve_with},
};

fn knowing(addresses: &[&str]) -> healthmon_adapters::http::HttpProber {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
    let names = Names(Box::new(move |_| addresses.clone()));
    prober_with(dialer(AddressPolicy::new(Loopback::Allowed)).with_resolver(Arc::new(names)))
}

/// A listener at `address` that takes no more connections: its queue is full, so that the kernel
/// answers nothing at all. Held together with what fills it.
pub(crate) async fn blackhole(address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(address).expect("a free port");
    let listener = socket.listen(0).expect("a listener");
    let mut filling = Vec::new();
    let address = listener.local_addr().expect("bound");
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        filling.push(stream);
    }
    (listener, filling)
}

#[tokio::test]
async fn an_address_that_never_answers_costs_a_quarter_of_a_second() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let silent = SocketAddr::new("127.0.0.3".parse().expect("an address"), server.address.port());
    let held = blackhole(silent).await;
    let url = format!("http://shop.test:{}/", server.address.port());
    let (prober, begun) = (knowing(&["127.0.0.3", "127.0.0.1"]), Instant::now());
    let seen = see(&prober, &url, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    let connect = Duration::from_micros(seen.phases.connect_us.expect("it connected").into());
    assert!(connect >= Duration::from_millis(245), "the first had the field to itself: {connect:?}");
    // As much as the other has of the deadline would be five seconds.
    assert!(begun.elapsed() < Duration::from_secs(4), "took {:?}", begun.elapsed());
    drop(held);
}

#[tokio::test]
async fn with_little_time_every_address_still_gets_its_turn() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let port = server.address.port();
    let mut held = Vec::new();
    for silent in ["127.0.0.4", "127.0.0.5", "127.0.0.6"] {
        held.push(blackhole(SocketAddr::new(silent.parse().expect("an address"), port)).await);
    }
    let prober = knowing(&["127.0.0.4", "127.0.0.5", "127.0.0.6", "127.0.0.1"]);
    let url = format!("http://shop.test:{port}/");
    let seen = see_within(&prober, &url, Duration::from_millis(600), json!({})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    drop(held);
}

#[tokio::test]
async fn the_next_address_is_tried_at_once_when_one_refuses_and_all_refusals_are_a_connect_failure() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let url = format!("http://shop.test:{}/", server.address.port());
    let seen = see(&knowing(&["127.9.9.1", "127.9.9.2", "127.0.0.1"]), &url, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    assert!(seen.phases.connect_us.is_some_and(|took| took < 240_000), "{seen:?}");
    let seen = see(&knowing(&["127.9.9.1", "127.9.9.2"]), &url, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Connect));
    assert!(detail(&seen).starts_with("connect to 127.9.9.2:"), "{seen:?}");
}

#[tokio::test]
async fn only_addresses_of_the_family_that_was_asked_for_are_dialled() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let url = format!("http://shop.test:{}/", server.address.port());
    let (both, mapped) = (knowing(&["2001:db8::1", "127.0.0.1"]), knowing(&["::ffff:127.0.0.1"]));
    let over = |family: &str| json!({"http": {"ip": family}});
    assert_eq!(see(&both, &url, over("4")).await.outcome, Outcome::Pass);
    assert_eq!(see(&mapped, &url, over("4")).await.outcome, Outcome::Pass);
    for (prober, family, said) in [
        (&mapped, "6", "shop.test: the host has no IPv6 address"),
        (&knowing(&["2001:db8::1"]), "4", "shop.test: the host has no IPv4 address"),
    ] {
        let seen = see(prober, &url, over(family)).await;
        assert_eq!((seen.outcome, detail(&seen)), (Outcome::Fail(FailReason::Dns), said));
    }
    let seen = see(&prober(), &server.url(), over("6")).await;
    assert_eq!(detail(&seen), "127.0.0.1: the host has no IPv6 address");
}

#[tokio::test]
async fn connect_to_changes_what_is_dialled_and_nothing_else() {
    let server = Server::answering(|_| OK.to_vec()).await;
    let options = json!({"http": {"connect_to": server.address.to_string()}});
    let seen = see(&prober(), "http://shop.test:81/a", options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    assert_eq!(header(&server.requests()[0], "host"), Some("shop.test:81"));
    let authority = Authority::new();
    let server = serve_with(acceptor(&authority.sign(&params("shop.test")), rustls::ALL_VERSIONS), OK.to_vec()).await;
    let options = json!({"http": {"connect_to": format!("other.test:{}", server.address.port())}});
    let seen = see(&authority.prober(), "https://shop.test/", options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "the name in the certificate is the URL's: {seen:?}");
}

#[tokio::test]
async fn the_name_in_the_handshake_and_the_name_in_the_request_can_be_others() {
    let authority = Authority::new();
    let server = serve_with(acceptor(&authority.sign(&params("inner.test")), rustls::ALL_VERSIONS), OK.to_vec()).await;
    let url = format!("https://shop.test:{}/", server.address.port());
    let seen = see(&authority.prober(), &url, json!({"http": {"tls": {"server_name": "inner.test"}}})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    let server = Server::answering(|_| OK.to_vec()).await;
    see(&prober(), &server.url(), json!({"http": {"host": "inner.test:81"}})).await;
    assert_eq!(header(&server.requests()[0], "host"), Some("inner.test:81"));
}

/// The overrides are meant for the target: elsewhere, the redirect's own names hold.
#[tokio::test]
async fn a_redirect_elsewhere_is_dialled_and_asked_for_by_its_own_name() {
    let elsewhere = Server::answering(|_| OK.to_vec()).await;
    let location = format!("location: {}\r\n", elsewhere.url());
    let home = Server::answering(move |_| answer(302, &location, "")).await;
    let options = json!({"http": {"connect_to": home.address.to_string(), "host": "inner.test"}});
    let seen = see(&prober(), "http://shop.test/", options).await;
    assert_eq!((seen.outcome, home.accepted(), elsewhere.accepted()), (Outcome::Pass, 1, 1), "{seen:?}");
    assert_eq!(header(&elsewhere.requests()[0], "host"), Some(elsewhere.address.to_string().as_str()));
}

#[tokio::test]
async fn sec_connect_to_is_judged_by_the_policy() {
    let prober = prober_with(dialer(policy_of_one()).with_resolver(Names::all_at("127.0.0.1")));
    for place in
        ["127.0.0.1:1", "[::ffff:127.0.0.1]:1", "0x7f.1:1", "2852039166:80", "inside.test:1", "[fd00:ec2::254]:80"]
    {
        for url in ["http://shop.test/", "https://shop.test/"] {
            let seen = see(&prober, url, json!({"http": {"connect_to": place}})).await;
            assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Blocked), "{place}: {seen:?}");
        }
    }
}

/// Of an allowed and a forbidden address only the allowed one takes part in the race.
#[tokio::test]
async fn sec_a_forbidden_address_does_not_take_part_in_the_race() {
    let server = Server::answering_on("127.0.0.2:0".parse().expect("an address"), |_| OK.to_vec()).await;
    let names = Names(Box::new(|_| ["127.0.0.1", "127.0.0.2", "::1"].map(|a| a.parse().expect("an address")).to_vec()));
    let prober = prober_with(dialer(policy_of_one()).with_resolver(Arc::new(names)));
    let forbidden = TcpListener::bind(("127.0.0.1", server.address.port())).await;
    let seen = see(&prober, &format!("http://shop.test:{}/", server.address.port()), json!({})).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    if let Ok(forbidden) = forbidden {
        let own = TcpStream::connect(forbidden.local_addr().expect("bound")).await.expect("it listens");
        let (_, first) = forbidden.accept().await.expect("a connection");
        assert_eq!(first, own.local_addr().expect("connected"), "somebody had connected before");
    }
}

#[test]
fn what_is_wrong_about_the_way_is_named() {
    for (http, field) in [
        (json!({"ip": "5"}), "http.ip"),
        (json!({"ip": 4}), "http.ip"),
        (json!({"version": "3"}), "http.version"),
        (json!({"connect_to": "shop.test"}), "http.connect_to"),
        (json!({"connect_to": "shop.test:0"}), "http.connect_to"),
        (json!({"connect_to": "u@shop.test:1"}), "http.connect_to"),
        (json!({"connect_to": "shop.test/x:1"}), "http.connect_to"),
        (json!({"connect_to": "::1:80"}), "http.connect_to"),
        (json!({"host": "a b"}), "http.host"),
        (json!({"host": "u@a.test"}), "http.host"),
        (json!({"host": "a.test\r\nx: y"}), "http.host"),
    ] {
        let errors = prober().check(&settings("http://a.test/", PATIENCE, &json!({"http": http}))).expect_err(field);
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field], "{http}");
    }
}
