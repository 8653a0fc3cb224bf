//! What may be written, and what is said of the rest.

use healthmon_core::ports::Prober;
use serde_json::{Value, json};

use super::support::{PATIENCE, prober, settings};

fn wrong(url: &str, options: &Value) -> Vec<String> {
    let errors = prober().check(&settings(url, PATIENCE, options)).err();
    errors.iter().flatten().map(|error| error.field.clone()).collect()
}

#[test]
fn every_wrong_field_is_named() {
    let (plain, secured) = ("grpc://shop.test:1/", "grpcs://shop.test:1/");
    for (url, options, fields) in [
        ("http://shop.test:1/", json!({}), vec!["url"]),
        ("grpc://shop.test/", json!({}), vec!["url"]),
        (plain, json!({"grpc": 7}), vec!["grpc"]),
        (plain, json!({"grpc": {"colour": 1}}), vec!["grpc.colour"]),
        (plain, json!({"http": {}}), vec!["http"]),
        (plain, json!({"grpc": {"connection": "sometimes"}}), vec!["grpc.connection"]),
        (plain, json!({"grpc": {"authority": "a b"}}), vec!["grpc.authority"]),
        (plain, json!({"grpc": {"authority": "user@a"}}), vec!["grpc.authority"]),
        (plain, json!({"grpc": {"authority": ""}}), vec!["grpc.authority"]),
        (plain, json!({"grpc": {"metadata": {"X": "y", "z": 1}}}), vec!["grpc.metadata.X", "grpc.metadata.z"]),
        (plain, json!({"grpc": {"tls": {"verify": "none"}}}), vec!["grpc.tls"]),
        (plain, json!({"expect": {"certificate": {"days": 7}}}), vec!["expect.certificate"]),
        (secured, json!({"grpc": {"tls": {"verify": "no"}}}), vec!["grpc.tls.verify"]),
        (secured, json!({"grpc": {"tls": {"key": "k"}}}), vec!["grpc.tls.certificate"]),
        (plain, json!({"expect": {"latency": "never", "status": 0}}), vec!["expect.latency.fail", "expect.status"]),
    ] {
        let mut named = wrong(url, &options);
        named.sort_unstable();
        assert_eq!(named, fields, "{url} {options}");
    }
}

#[test]
fn too_many_keys_are_refused() {
    let metadata: serde_json::Map<_, _> = (0..65).map(|n| (format!("key-{n}"), json!("value"))).collect();
    assert_eq!(wrong("grpc://shop.test:1/", &json!({"grpc": {"metadata": metadata}})), ["grpc.metadata.key-64"]);
}

#[test]
fn its_secrets_are_where_it_says() {
    assert_eq!(prober().secrets(), ["grpc.metadata.*", "grpc.tls.key"]);
}
