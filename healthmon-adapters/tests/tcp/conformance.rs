//! The probers' contract, clause by clause, wherever a peer has something to say.

use std::sync::Arc;

use healthmon_core::conformance::prober::{ProberFixture, ProberSetup};
use serde_json::{Value, json};

use super::{
    peers::{plain, tls},
    support::{Authority, PATIENCE, settings},
};

fn tcp_with(options: Value) -> ProberFixture {
    ProberFixture {
        prober: plain(),
        settings: Box::new(move |address| settings(&format!("tcp://{address}"), PATIENCE, &options)),
    }
}

async fn banner(_: ProberSetup) -> ProberFixture {
    tcp_with(json!({"tcp": {"expect": {"regex": "^220 .*ESMTP"}}}))
}

async fn dialogue(_: ProberSetup) -> ProberFixture {
    tcp_with(json!({"tcp": {"steps": [
        {"send": "PING\r\n", "expect": {"prefix": "+PONG"}},
        {"send": "UVVJVA0K", "encoding": "base64", "expect": "K09L"},
    ]}}))
}

async fn starttls(_: ProberSetup) -> ProberFixture {
    tcp_with(json!({"tcp": {"starttls": "smtp"}}))
}

async fn postgres(_: ProberSetup) -> ProberFixture {
    tcp_with(json!({"tcp": {"starttls": "postgres"}}))
}

async fn ldap(_: ProberSetup) -> ProberFixture {
    tcp_with(json!({"tcp": {"starttls": "ldap"}}))
}

async fn handshake(_: ProberSetup) -> ProberFixture {
    ProberFixture {
        prober: Arc::new(tls(Authority::new().tls())),
        settings: Box::new(|address| settings(&format!("tls://{address}"), PATIENCE, &json!({}))),
    }
}

healthmon_core::prober_conformance!(mod tcp_banner, banner);
healthmon_core::prober_conformance!(mod tcp_dialogue, dialogue);
healthmon_core::prober_conformance!(mod tcp_starttls_smtp, starttls);
healthmon_core::prober_conformance!(mod tcp_starttls_postgres, postgres);
healthmon_core::prober_conformance!(mod tcp_starttls_ldap, ldap);
healthmon_core::prober_conformance!(mod tls_handshake, handshake);
