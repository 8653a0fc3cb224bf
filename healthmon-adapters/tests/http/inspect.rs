//! A closer look: all that is of interest to a person.

use healthmon_core::probe::{Held, Inspection, Outcome};
use serde_json::json;

use super::{
    support::{OK, Server, answer, inspect, prober},
    tls::{Authority, acceptor, at, params, serve_with},
};

fn fact<'a>(inspection: &'a Inspection, what: &str) -> Option<&'a str> {
    inspection.facts.iter().find(|fact| &*fact.what == what).map(|fact| &*fact.value)
}

#[tokio::test]
async fn what_was_met_on_the_way_is_told() {
    let server = Server::answering(|request| match request.split(' ').nth(1) {
        Some("/") => answer(302, "location: /there?canary\r\n", ""),
        _ => answer(200, "content-type: text/plain\r\nserver: x\u{202e}y\r\n", "pong"),
    })
    .await;
    let options = json!({"expect": {"body": "pong", "header": {"x-none": {"exists": true}}}});
    let seen = inspect(&prober(), &server.url(), options).await;
    let address = server.address.to_string();
    for (what, value) in [
        ("address", address.as_str()),
        ("http version", "1.1"),
        ("redirects", "1"),
        ("content type", "text/plain"),
        ("body", "4 bytes"),
        ("server", "x\\u{202e}y"),
    ] {
        assert_eq!(fact(&seen, what), Some(value), "{:?}", seen.facts);
    }
    assert_eq!(fact(&seen, "final url"), Some(server.url().trim_end_matches('/')));
    let held: Vec<_> = seen.assertions.iter().map(|assertion| (&*assertion.what, assertion.held)).collect();
    assert_eq!(held, [("status", Held::Held), ("header x-none", Held::Failed), ("body", Held::Held)]);
    assert!(!format!("{seen:?}").contains("canary"), "{seen:?}");
}

#[tokio::test]
async fn the_certificate_and_the_session_are_told() {
    let authority = Authority::new();
    let server = serve_with(acceptor(&authority.sign(&params("shop.test")), rustls::ALL_VERSIONS), OK.to_vec()).await;
    let seen = inspect(&authority.prober(), &at(&server, "shop.test"), json!({})).await;
    assert_eq!(seen.seen.outcome, Outcome::Pass);
    for what in ["address", "tls", "cipher suite", "certificate names", "certificate issuer", "certificate valid"] {
        assert!(fact(&seen, what).is_some(), "{what}: {:?}", seen.facts);
    }
    assert_eq!(fact(&seen, "certificate names"), Some("shop.test"));
}
