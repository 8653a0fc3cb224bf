//! Proxies: used when a service names one, and judged like a target.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use healthmon_core::{
    ports::Prober,
    probe::{FailReason, IndeterminateReason, Outcome},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::TcpStream,
};

use super::{
    reach::blackhole,
    support::{
        Names, OK, Server, answer, detail, dialer, header, policy_of_one, prober, prober_with, read_request, see,
        see_within, settings, wait_for_end,
    },
    tls::{Authority, acceptor, params, serve_with},
};

/// A proxy that connects everything to `target`, whatever is asked for, and remembers what was asked.
async fn tunnelling(target: std::net::SocketAddr) -> (Server, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    let server = Server::raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let Some(request) = read_request(&mut stream).await else { return };
            seen.lock().expect("not poisoned").push(request);
            let Ok(mut target) = TcpStream::connect(target).await else { return };
            stream.write_all(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n").await.ok();
            copy_bidirectional(&mut stream, &mut target).await.ok();
        }
    })
    .await;
    (server, asked)
}

fn through(proxy: &str) -> Value {
    json!({"http": {"proxy": {"url": proxy, "username": "monitor", "password": "secret"}}})
}

const SHOWN: Option<&str> = Some("Basic bW9uaXRvcjpzZWNyZXQ=");

#[tokio::test]
async fn a_plain_target_is_asked_for_by_its_whole_url() {
    let proxy = Server::answering(|_| OK.to_vec()).await;
    let seen = see(&prober(), "http://shop.test:81/a?b", through(&proxy.url())).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    let request = &proxy.requests()[0];
    assert!(request.starts_with("GET http://shop.test:81/a?b HTTP/1.1\r\n"), "{request}");
    assert_eq!((header(request, "host"), header(request, "proxy-authorization")), (Some("shop.test:81"), SHOWN));
    assert_eq!(seen.phases.dns_us, None, "the proxy resolves the name");
}

#[tokio::test]
async fn a_secure_target_is_reached_through_a_tunnel_and_shows_its_own_certificate() {
    let authority = Authority::new();
    let target = serve_with(acceptor(&authority.sign(&params("shop.test")), rustls::ALL_VERSIONS), OK.to_vec()).await;
    let (proxy, asked) = tunnelling(target.address).await;
    let seen = see(&authority.prober(), "https://shop.test/", through(&proxy.url())).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    assert!(seen.certificate_expires.is_some() && seen.phases.tls_us.is_some());
    let asked = asked.lock().expect("not poisoned").clone();
    assert!(asked[0].starts_with("CONNECT shop.test:443 HTTP/1.1\r\nhost: shop.test:443\r\n"), "{asked:?}");
    assert_eq!(header(&asked[0], "proxy-authorization"), SHOWN);
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_is_told_apart_from_its_target() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(20_000));
    for (answered, said) in [
        (&b"HTTP/1.1 407 No\r\n\r\n"[..], "it wants other credentials (407)"),
        (b"HTTP/1.1 502 canary\r\n\r\n", "it answered 502 when it was to connect"),
        (b"HTTP/1.1 302 No\r\nlocation: http://canary/\r\n\r\n", "it answered 302"),
        (b"SSH-2.0-canary\r\n", "its answer is no HTTP"),
        (b"", "it closed the connection without an answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nmore than that", "it sent more than an answer"),
        (long.as_bytes(), "its answer is too long"),
    ] {
        let proxy = Server::sending(answered).await;
        let seen = see(&prober(), "https://shop.test/", through(&proxy.url())).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Proxy), "{said}: {seen:?}");
        assert!(detail(&seen).starts_with("proxy: ") && detail(&seen).contains(said), "{said}: {seen:?}");
        assert!(!detail(&seen).contains("canary"), "{seen:?}");
    }
    let refused = Server::answering(|_| answer(407, "", "")).await;
    let seen = see(&prober(), "http://shop.test/", through(&refused.url())).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Proxy), "{seen:?}");
    let nobody = refused.url();
    drop(refused);
    for url in ["http://shop.test/", "https://shop.test/"] {
        let seen = see(&prober(), url, through(&nobody)).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Proxy), "{seen:?}");
        assert!(detail(&seen).starts_with("proxy: connect to "), "{seen:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_is_no_timeout_of_its_target() {
    let silent = Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await;
    let short = Duration::from_millis(300);
    let seen = see_within(&prober(), "https://shop.test/", short, through(&silent.url())).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Proxy), "{seen:?}");
    assert_eq!(detail(&seen), "timed out after 300 ms while asking the proxy");
    let held = blackhole("127.0.0.4:0".parse().expect("an address")).await;
    let nowhere = format!("http://{}/", held.0.local_addr().expect("bound"));
    for url in ["http://shop.test/", "https://shop.test/"] {
        let seen = see_within(&prober(), url, short, through(&nowhere)).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Proxy), "{seen:?}");
        assert_eq!(detail(&seen), "timed out after 300 ms while connecting to the proxy");
    }
    // Behind the proxy it is the target that hangs.
    let (tunnel, _) = tunnelling(silent.address).await;
    let seen = see_within(&prober(), "https://shop.test/", short, through(&tunnel.url())).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Timeout), "{seen:?}");
}

#[tokio::test]
async fn sec_a_proxys_address_is_judged_by_the_policy() {
    let prober = prober_with(dialer(policy_of_one()).with_resolver(Names::all_at("127.0.0.1")));
    for proxy in ["http://127.0.0.1:1/", "http://169.254.169.254/", "http://[::ffff:7f00:1]:1/", "http://proxy.test:1/"]
    {
        for url in ["http://shop.test/", "https://shop.test/"] {
            let seen = see(&prober, url, through(proxy)).await;
            assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Blocked), "{proxy}: {seen:?}");
        }
    }
}

#[tokio::test]
async fn sec_a_target_named_by_its_address_is_judged_before_a_proxy_is_asked() {
    let proxy = Server::answering_on("127.0.0.2:0".parse().expect("an address"), |_| OK.to_vec()).await;
    let prober = prober_with(dialer(policy_of_one()));
    for url in ["http://169.254.169.254/", "https://127.0.0.1/", "http://[::ffff:a9fe:a9fe]/", "https://2852039166/"] {
        let seen = see(&prober, url, through(&proxy.url())).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Blocked), "{url}: {seen:?}");
    }
    assert_eq!(proxy.accepted(), 0);
}

#[tokio::test]
async fn sec_a_proxys_credentials_do_not_reach_the_target() {
    let authority = Authority::new();
    let acceptor = acceptor(&authority.sign(&params("shop.test")), rustls::ALL_VERSIONS);
    let arrived = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&arrived);
    let target = Server::raw(move |stream| {
        let (acceptor, noted) = (acceptor.clone(), Arc::clone(&noted));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Some(request) = read_request(&mut stream).await else { return };
            noted.lock().expect("not poisoned").push(request);
            stream.write_all(OK).await.ok();
        }
    })
    .await;
    let (proxy, _) = tunnelling(target.address).await;
    let seen = see(&authority.prober(), "https://shop.test/", through(&proxy.url())).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    let arrived = arrived.lock().expect("not poisoned");
    assert!(arrived[0].starts_with("GET / HTTP/1.1\r\n"), "{arrived:?}");
    assert_eq!(header(&arrived[0], "proxy-authorization"), None, "{arrived:?}");
}

#[test]
fn what_is_wrong_in_a_proxy_is_named() {
    for (http, field) in [
        (json!({"proxy": {}}), "http.proxy.url"),
        (json!({"proxy": {"url": "socks5://a.test/"}}), "http.proxy.url"),
        (json!({"proxy": {"url": "https://a.test/"}}), "http.proxy.url"),
        (json!({"proxy": {"url": "http://u:canary@a.test/"}}), "http.proxy.url"),
        (json!({"proxy": {"url": "http://a.test/path"}}), "http.proxy.url"),
        (json!({"proxy": {"url": "http://a.test/", "password": "canary"}}), "http.proxy.username"),
        (json!({"proxy": {"url": "http://a.test/", "username": "u"}}), "http.proxy.password"),
        (json!({"proxy": {"url": "http://a.test/", "colour": 1}}), "http.proxy.colour"),
        (json!({"proxy": {"url": "http://a.test/"}, "connect_to": "b.test:1"}), "http.connect_to"),
        (json!({"proxy": "http://a.test/"}), "http.proxy"),
    ] {
        let errors = prober().check(&settings("http://a.test/", Duration::from_secs(1), &json!({"http": http})));
        let errors = errors.expect_err(field);
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field], "{http}");
        assert!(!errors.to_string().contains("canary"), "{errors}");
    }
}
