//! Which settings the prober takes.

use healthmon_core::ports::Prober;
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
        (json!({"dns": 1}), "dns"),
        (json!({"dns": {"colour": "red"}}), "dns.colour"),
        (json!({"dns": {"type": "NONSENSE"}}), "dns.type"),
        (json!({"dns": {"type": "AXFR"}}), "dns.type"),
        (json!({"dns": {"class": "XX"}}), "dns.class"),
        (json!({"dns": {"protocol": "https"}}), "dns.protocol"),
        (json!({"dns": {"recursion": "maybe"}}), "dns.recursion"),
        (json!({"dns": {"dnssec": 1}}), "dns.dnssec"),
        (json!({"dns": {"tls": {}}}), "dns.tls"),
        (json!({"dns": {"protocol": "tls", "tls": {"verify": "maybe"}}}), "dns.tls.verify"),
        (json!({"expect": {"rcode": "NOPE"}}), "expect.rcode"),
        (json!({"expect": {"rcode": []}}), "expect.rcode"),
        (json!({"expect": {"rcode": [0, 4096]}}), "expect.rcode"),
        (json!({"expect": {"answers": 1}}), "expect.answers"),
        (json!({"expect": {"answers": ["not an address"]}}), "expect.answers.exactly[0]"),
        (json!({"expect": {"answers": {"exactly": ["192.0.2.1", "2001:db8::1"]}}}), "expect.answers.exactly[1]"),
        (json!({"expect": {"answers": {"contains": "192.0.2.1"}}}), "expect.answers.contains"),
        (json!({"expect": {"answers": {"count": -1}}}), "expect.answers.count"),
        (json!({"expect": {"answers": {"count": {"min": 2, "max": 1}}}}), "expect.answers.count.max"),
        (json!({"expect": {"answers": {"matches": "("}}}), "expect.answers.matches"),
        (json!({"expect": {"answers": {"matches": "(((a{99}){99}){99})"}}}), "expect.answers.matches"),
        (json!({"expect": {"answers": {"colour": 1}}}), "expect.answers.colour"),
        (json!({"expect": {"authenticated": "yes"}}), "expect.authenticated"),
        (json!({"expect": {"ttl": {"min": "soon"}}}), "expect.ttl.min"),
        (json!({"expect": {"ttl": {"min": "2m", "max": "1m"}}}), "expect.ttl.max"),
        (json!({"expect": {"latency": "soon"}}), "expect.latency.fail"),
        (json!({"dns": {"protocol": "tcp"}, "expect": {"certificate": {"days": 7}}}), "expect.certificate"),
        (json!({"expect": {"status": 200}}), "expect.status"),
    ];
    for (options, field) in cases {
        assert_eq!(wrong_fields("dns://ns.test/a.test", &options), [field], "{options}");
    }
}

#[test]
fn all_wrong_fields_are_named_in_one_answer() {
    let options = json!({"dns": {"protocol": "x", "class": "Y"}, "expect": {"rcode": "z"}, "http": {}});
    let named = wrong_fields("dns://ns.test/", &options);
    assert_eq!(named, ["dns.class", "dns.protocol", "url", "expect.rcode", "http"]);
}

#[test]
fn a_type_is_given_once_in_the_url_or_in_the_options() {
    let options = json!({"dns": {"type": "MX", "class": "IN"}});
    assert!(wrong_fields("dns://ns.test/a.test", &options).is_empty());
    assert_eq!(wrong_fields("dns://ns.test/a.test?type=MX", &options), ["dns.type"]);
    assert_eq!(wrong_fields("dns://ns.test/a.test?class=IN", &options), ["dns.class"]);
}

#[test]
fn a_target_that_asks_nothing_that_can_be_asked_is_refused() {
    for url in ["dns://ns.test", "dns://ns.test/a/b", "dns://ns.test/a?type=1", "dns://a%2fb/c", "dns://ns.test/a#b"] {
        assert_eq!(wrong_fields(url, &json!({})), ["url"], "{url}");
    }
}
