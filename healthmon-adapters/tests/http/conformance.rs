//! The prober's contract, clause by clause.

use std::sync::Arc;

use healthmon_core::conformance::prober::{ProberFixture, ProberSetup};
use serde_json::json;

use super::support::{PATIENCE, prober, settings};

/// Asks for all that an answer has, its body too; connections are kept, so that they would be
/// seen to stay open.
async fn demanding(_: ProberSetup) -> ProberFixture {
    let options = json!({
        "http": {"method": "POST", "headers": {"accept": "text/plain"}, "body": "ping", "connection": "keep_alive"},
        "expect": {"status": ["2xx"], "body": "pong"},
    });
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(move |address| settings(&format!("http://{address}/"), PATIENCE, &options)),
    }
}

/// As a service is that names nothing but its URL.
async fn plain(_: ProberSetup) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(|address| settings(&format!("http://{address}/"), PATIENCE, &json!({}))),
    }
}

/// None of the suite's targets speaks TLS, so every one of them fails in or before the handshake.
async fn secure(_: ProberSetup) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(|address| settings(&format!("https://{address}/"), PATIENCE, &json!({}))),
    }
}

/// None of the suite's targets speaks HTTP/2, so they are all strangers to it.
async fn multiplexed(_: ProberSetup) -> ProberFixture {
    let options = json!({"http": {"version": "2"}, "expect": {"json": {"$.status": "green"}, "size": {"max": 100}}});
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(move |address| settings(&format!("http://{address}/"), PATIENCE, &options)),
    }
}

/// The suite's targets are taken for token servers first, and are none.
async fn authorized(_: ProberSetup) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(|address| {
            let client = json!({"token_url": format!("http://{address}/"), "client_id": "a", "client_secret": "b"});
            settings(&format!("http://{address}/"), PATIENCE, &json!({"http": {"auth": {"oauth2": client}}}))
        }),
    }
}

/// And here for proxies.
async fn proxied(_: ProberSetup) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(|address| {
            let options = json!({"http": {"proxy": {"url": format!("http://{address}/")}}});
            settings("https://shop.test/", PATIENCE, &options)
        }),
    }
}

healthmon_core::prober_conformance!(mod http, plain);
healthmon_core::prober_conformance!(mod http_with_options, demanding);
healthmon_core::prober_conformance!(mod https, secure);
healthmon_core::prober_conformance!(mod http_2, multiplexed);
healthmon_core::prober_conformance!(mod http_with_tokens, authorized);
healthmon_core::prober_conformance!(mod http_through_a_proxy, proxied);
