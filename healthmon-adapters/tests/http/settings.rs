//! Which settings the prober takes.

use std::time::Duration;

use healthmon_core::ports::Prober;
use serde_json::{Value, json};

use super::support::{prober, settings};

fn wrong_fields(url: &str, options: &Value) -> Vec<String> {
    match prober().check(&settings(url, Duration::from_secs(1), options)) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.iter().map(|error| error.field.clone()).collect(),
    }
}

#[test]
fn every_wrong_field_is_named_by_its_path() {
    let cases = [
        (json!({"grpc": {}}), "grpc"),
        (json!({"http": 1}), "http"),
        (json!({"http": {"colour": "red"}}), "http.colour"),
        (json!({"http": {"method": "BREW"}}), "http.method"),
        (json!({"http": {"method": "get"}}), "http.method"),
        (json!({"http": {"method": "CONNECT"}}), "http.method"),
        (json!({"http": {"headers": {"a b": "c"}}}), "http.headers.a b"),
        (json!({"http": {"headers": {"X": "a\r\nb: c"}}}), "http.headers.X"),
        (json!({"http": {"headers": {"X": 1}}}), "http.headers.X"),
        (json!({"http": {"headers": {"Content-Length": "1"}}}), "http.headers.Content-Length"),
        (json!({"http": {"headers": {"transfer-encoding": "chunked"}}}), "http.headers.transfer-encoding"),
        (json!({"http": {"headers": {"Connection": "x"}}}), "http.headers.Connection"),
        (json!({"http": {"headers": {"Keep-Alive": "x"}}}), "http.headers.Keep-Alive"),
        (json!({"http": {"headers": {"Upgrade": "h2c"}}}), "http.headers.Upgrade"),
        (json!({"http": {"headers": {"Host": "shop.test"}}}), "http.headers.Host"),
        (json!({"http": {"headers": {"x": "1", "X": "2"}}}), "http.headers.X"),
        (json!({"http": {"body": "x"}}), "http.body"),
        (json!({"http": {"method": "POST", "body": "x".repeat(65_537)}}), "http.body"),
        (json!({"http": {"redirects": 11}}), "http.redirects"),
        (json!({"http": {"redirects": -1}}), "http.redirects"),
        (json!({"http": {"connection": "closed"}}), "http.connection"),
        (json!({"http": {"tls": {"verify": "maybe"}}}), "http.tls.verify"),
        (json!({"http": {"tls": {"colour": 1}}}), "http.tls.colour"),
        (json!({"expect": {"status": "2x"}}), "expect.status"),
        (json!({"expect": {"status": [200, 700]}}), "expect.status[1]"),
        (json!({"expect": {"body": ""}}), "expect.body"),
        (json!({"expect": {"colour": 1}}), "expect.colour"),
        (json!({"expect": {"body": {"matches": "\\w+@\\w+"}}}), "expect.body.matches"),
        (json!({"expect": {"body": {"matches": "\\w"}, "header": {"x": {"matches": "\\w"}}}}), "expect.matches"),
        (
            json!({"expect": {"body": {"matches": "\\w"}, "json": {"$[?search(@, '\\\\w')]": {"count": 1}}}}),
            "expect.json",
        ),
        (json!({"http": {"redirects": 0}, "expect": {"certificate": {"days": 7}}}), "expect.certificate"),
        (json!({"http": {"method": "HEAD"}, "expect": {"body": "x"}}), "expect.body"),
    ];
    for (options, field) in cases {
        assert_eq!(wrong_fields("http://a.test/", &options), [field], "{options}");
    }
}

#[test]
fn all_wrong_fields_are_named_in_one_answer() {
    let options = json!({"http": {"method": "BREW", "redirects": 99}, "expect": {"status": 1}, "dns": {}});
    let named = wrong_fields("http://a.test/", &options);
    assert_eq!(named, ["http.method", "http.redirects", "expect.status", "dns"]);
}

#[test]
fn a_wrong_header_is_named_without_its_value() {
    let options = json!({"http": {"headers": {"X": "canary\u{7f}"}}});
    let errors = prober().check(&settings("http://a.test/", Duration::from_secs(1), &options)).expect_err("wrong");
    assert!(!errors.to_string().contains("canary"), "{errors}");
}

#[test]
fn sec_whom_a_secret_is_sent_to_is_no_secret_and_so_no_header() {
    for host in [json!("shop.test"), json!({"env": "HEALTHMON_SECRET_HOST"}), json!({"sealed": "canary"})] {
        let options = json!({"http": {"headers": {"hOsT": host, "authorization": "Bearer canary"}}});
        let errors = prober().check(&settings("http://a.test/", Duration::from_secs(1), &options)).expect_err("wrong");
        assert_eq!(errors.to_string(), "http.headers.hOsT: is set by http.host, and not by a header", "{options}");
    }
}

#[test]
fn odd_but_right_urls_are_taken() {
    for url in
        ["http://a.test", "https://[2001:db8::1]:8443/a?b={c}|\\^`", "http://a.test/ü?q=ü#f", "http://a_b.test./"]
    {
        assert!(wrong_fields(url, &json!({})).is_empty(), "{url}");
    }
}
