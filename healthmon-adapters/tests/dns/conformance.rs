//! The prober's contract, clause by clause; over connections, for the suite listens on those.

use std::sync::Arc;

use healthmon_core::conformance::prober::{ProberFixture, ProberSetup};
use serde_json::{Value, json};

use super::support::{PATIENCE, prober, settings};

fn fixture(options: Value) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(prober()),
        settings: Box::new(move |address| settings(&format!("dns://{address}/a.test?type=TXT"), PATIENCE, &options)),
    }
}

async fn over_tcp(_: ProberSetup) -> ProberFixture {
    fixture(json!({"dns": {"protocol": "tcp"}, "expect": {"answers": {"matches": ".*"}}}))
}

/// None of the suite's targets speaks TLS, so every one of them fails in or before the handshake.
async fn over_tls(_: ProberSetup) -> ProberFixture {
    fixture(json!({"dns": {"protocol": "tls", "tls": {"verify": "none"}}}))
}

healthmon_core::prober_conformance!(mod dns_over_tcp, over_tcp);
healthmon_core::prober_conformance!(mod dns_over_tls, over_tls);
