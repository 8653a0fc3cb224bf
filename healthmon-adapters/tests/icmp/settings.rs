//! Which settings the prober takes.

use std::{net::SocketAddr, sync::Arc};

use healthmon_core::{
    conformance::prober::{
        ProberFixture, ProberSetup, it_takes_its_own_settings_and_refuses_sections_it_does_not_know,
        its_schemes_are_in_lower_case_and_each_once,
    },
    ports::Prober,
};
use serde_json::{Value, json};

use super::support::{PATIENCE, prober, settings};

fn wrong_fields(url: &str, options: &Value) -> Vec<String> {
    match prober().check(&settings(url, PATIENCE, options)) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.field.clone()).collect(),
    }
}

#[test]
fn every_wrong_field_is_named_by_its_path() {
    let cases = [
        (json!({"http": {}}), "http"),
        (json!({"icmp": 1}), "icmp"),
        (json!({"icmp": {"colour": "red"}}), "icmp.colour"),
        (json!({"icmp": {"count": 0}}), "icmp.count"),
        (json!({"icmp": {"count": 11}}), "icmp.count"),
        (json!({"icmp": {"interval": "1ms"}}), "icmp.interval"),
        (json!({"icmp": {"interval": "11s", "count": 1}}), "icmp.interval"),
        (json!({"icmp": {"interval": "5s", "count": 3}}), "icmp.count"),
        (json!({"icmp": {"size": 15}}), "icmp.size"),
        (json!({"icmp": {"size": 1473}}), "icmp.size"),
        (json!({"icmp": {"ip": 4}}), "icmp.ip"),
        (json!({"expect": {"loss": 101}}), "expect.loss"),
        (json!({"expect": {"loss": {"fail": 20, "degraded": 20}}}), "expect.loss.degraded"),
        (json!({"expect": {"loss": {"colour": 1}}}), "expect.loss.colour"),
        (json!({"expect": {"round_trip": "soon"}}), "expect.round_trip.fail"),
        (json!({"expect": {"round_trip": {"fail": "1s", "degraded": "2s"}}}), "expect.round_trip.degraded"),
        (json!({"expect": {"latency": {"colour": 1}}}), "expect.latency.colour"),
        (json!({"expect": {"certificate": {"days": 7}}}), "expect.certificate"),
        (json!({"expect": {"status": 200}}), "expect.status"),
    ];
    for (options, field) in cases {
        assert_eq!(wrong_fields("icmp://a.test", &options), [field], "{options}");
    }
}

#[test]
fn a_target_is_a_host_and_nothing_more() {
    for url in ["icmp://a.test", "icmp://a.test/", "icmp://192.0.2.1", "icmp://[2001:db8::1]"] {
        assert!(wrong_fields(url, &json!({})).is_empty(), "{url}");
    }
    for url in ["icmp://a.test:7", "icmp://a.test/b", "icmp://a.test?b", "icmp://a.test#b", "icmp://a%2fb"] {
        assert_eq!(wrong_fields(url, &json!({})), ["url"], "{url}");
    }
}

#[test]
fn all_wrong_fields_are_named_in_one_answer() {
    let options = json!({"icmp": {"count": 99, "size": 1}, "expect": {"loss": 200}, "dns": {}});
    let named = wrong_fields("icmp://a.test/b", &options);
    assert_eq!(named, ["url", "icmp.count", "icmp.size", "expect.loss", "dns"]);
}

/// The clauses of the prober's contract that do not speak of connections.
#[tokio::test]
async fn it_keeps_the_part_of_the_contract_that_concerns_it() {
    async fn fixture(_: ProberSetup) -> ProberFixture {
        ProberFixture {
            prober: Arc::new(prober()),
            settings: Box::new(|address: SocketAddr| {
                settings(&format!("icmp://{}", address.ip()), PATIENCE, &json!({"icmp": {"count": 1}}))
            }),
        }
    }
    its_schemes_are_in_lower_case_and_each_once(fixture).await;
    it_takes_its_own_settings_and_refuses_sections_it_does_not_know(fixture).await;
}
