//! The prober's contract, clause by clause.

use std::sync::Arc;

use healthmon_core::conformance::prober::{ProberFixture, ProberSetup};
use serde_json::{Value, json};

use super::{
    peers::prober,
    support::{PATIENCE, settings},
};

fn with(scheme: &'static str, options: Value) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(move |address| settings(&format!("{scheme}://{address}/"), PATIENCE, &options)),
    }
}

async fn plain(_: ProberSetup) -> ProberFixture {
    with("ws", json!({}))
}

async fn demanding(_: ProberSetup) -> ProberFixture {
    let websocket = json!({
        "headers": {"origin": "https://shop.test"}, "subprotocols": ["chat"], "ping": {}, "send": "ping", "expect": "pong",
    });
    with("ws", json!({ "websocket": websocket }))
}

async fn secure(_: ProberSetup) -> ProberFixture {
    with("wss", json!({}))
}

healthmon_core::prober_conformance!(mod ws, plain);
healthmon_core::prober_conformance!(mod ws_with_options, demanding);
healthmon_core::prober_conformance!(mod wss, secure);
