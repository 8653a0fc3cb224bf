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

healthmon_core::prober_conformance!(mod http, plain);
healthmon_core::prober_conformance!(mod http_with_options, demanding);
healthmon_core::prober_conformance!(mod https, secure);
