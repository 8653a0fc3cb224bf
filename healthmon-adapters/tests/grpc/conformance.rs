//! The prober's contract, clause by clause.

use std::sync::Arc;

use healthmon_core::conformance::prober::{ProberFixture, ProberSetup};
use serde_json::json;

use super::support::{PATIENCE, prober, settings};

/// Asks for all that can be asked for; connections are kept, so that they would be seen to stay open.
async fn demanding(_: ProberSetup) -> ProberFixture {
    let options = json!({
        "grpc": {
            "metadata": {"authorization": "Bearer abc", "trace-bin": "AAEC"},
            "authority": "cart.internal",
            "connection": "keep_alive",
        },
        "expect": {"latency": "5s"},
    });
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(move |address| settings(&format!("grpc://{address}/shop.v1.Cart"), PATIENCE, &options)),
    }
}

/// As a service is that names nothing but its URL.
async fn plain(_: ProberSetup) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(|address| settings(&format!("grpc://{address}"), PATIENCE, &json!({}))),
    }
}

/// None of the suite's targets speaks TLS, so every one of them fails in or before the handshake.
async fn secure(_: ProberSetup) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(|address| settings(&format!("grpcs://{address}/"), PATIENCE, &json!({}))),
    }
}

healthmon_core::prober_conformance!(mod grpc, plain);
healthmon_core::prober_conformance!(mod grpc_with_options, demanding);
healthmon_core::prober_conformance!(mod grpcs, secure);
