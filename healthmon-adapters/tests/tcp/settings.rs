//! Which settings the probers take.

use serde_json::{Value, json};

use super::{
    peers::{plain, tls},
    support::{Authority, settings, wrong_fields},
};
use healthmon_core::ports::Prober;

#[test]
fn every_wrong_field_of_a_tcp_service_is_named_by_its_path() {
    let nine: Vec<Value> = (0..9).map(|_| json!({"send": "x"})).collect();
    let cases = [
        (json!({"http": {}}), "http"),
        (json!({"tcp": 1}), "tcp"),
        (json!({"tcp": {"colour": 1}}), "tcp.colour"),
        (json!({"tcp": {"steps": [{"expect": {"regex": "\\w"}}, {"expect": {"regex": "\\w"}}]}}), "tcp.steps"),
        (json!({"expect": {"certificate": {"days": 7}}}), "expect.certificate"),
        (json!({"tcp": {"starttls": "gopher"}}), "tcp.starttls"),
        (json!({"tcp": {"tls": {"verify": "none"}}}), "tcp.tls"),
        (json!({"tcp": {"starttls": "smtp", "tls": {"verify": "maybe"}}}), "tcp.tls.verify"),
        (json!({"tcp": {"send": ""}}), "tcp.send"),
        (json!({"tcp": {"send": 1}}), "tcp.send"),
        (json!({"tcp": {"send": {"env": "HOME"}}}), "tcp.send"),
        (json!({"tcp": {"send": "zz", "encoding": "hex"}}), "tcp.send"),
        (json!({"tcp": {"send": "zz", "encoding": "rot13"}}), "tcp.encoding"),
        (json!({"tcp": {"encoding": "hex"}}), "tcp.send"),
        (json!({"tcp": {"expect": ""}}), "tcp.expect"),
        (json!({"tcp": {"expect": "zz", "encoding": "base64"}}), "tcp.expect"),
        (json!({"tcp": {"expect": {"regex": "("}}}), "tcp.expect.regex"),
        (json!({"tcp": {"expect": {"prefix": "a", "regex": "b"}}}), "tcp.expect"),
        (json!({"tcp": {"expect": {"colour": "a"}}}), "tcp.expect.colour"),
        (json!({"tcp": {"send": "x", "steps": [{"send": "y"}]}}), "tcp.steps"),
        (json!({"tcp": {"steps": []}}), "tcp.steps"),
        (json!({"tcp": {"steps": nine}}), "tcp.steps"),
        (json!({"tcp": {"steps": [1]}}), "tcp.steps"),
        (json!({"tcp": {"steps": [{"send": "x"}, {}]}}), "tcp.steps[1].send"),
        (json!({"tcp": {"steps": [{"send": "x"}, {"expect": 1}]}}), "tcp.steps[1].expect"),
        (json!({"tcp": {"steps": [{"sent": "x"}]}}), "tcp.steps[0].sent"),
        (json!({"expect": {"tls": {"version": "1.3"}}}), "expect.tls"),
        (json!({"tcp": {"starttls": "smtp"}, "expect": {"tls": {"version": "1.1"}}}), "expect.tls.version"),
        (json!({"tcp": {"starttls": "smtp"}, "expect": {"tls": {"alpn": "h2"}}}), "expect.tls.alpn"),
        (json!({"expect": {"latency": "soon"}}), "expect.latency.fail"),
        (json!({"expect": {"status": 200}}), "expect.status"),
    ];
    for (options, field) in cases {
        assert_eq!(wrong_fields(&*plain(), "tcp://mail.test:25", &options), [field], "{options}");
    }
}

#[test]
fn every_wrong_field_of_a_tls_service_is_named_by_its_path() {
    let prober = tls(Authority::new().tls());
    let nine: Vec<String> = (0..9).map(|n| format!("p{n}")).collect();
    let cases = [
        (json!({"tcp": {}}), "tcp"),
        (json!({"tls": {"colour": 1}}), "tls.colour"),
        (json!({"tls": {"starttls": "smtp"}}), "tls.starttls"),
        (json!({"tls": {"verify": "maybe"}}), "tls.verify"),
        (json!({"tls": {"ca": "/etc/ssl/own.pem"}}), "tls.ca"),
        (json!({"tls": {"key": "x"}}), "tls.certificate"),
        (json!({"tls": {"alpn": []}}), "tls.alpn"),
        (json!({"tls": {"alpn": "h2"}}), "tls.alpn"),
        (json!({"tls": {"alpn": [""]}}), "tls.alpn"),
        (json!({"tls": {"alpn": ["x".repeat(256)]}}), "tls.alpn"),
        (json!({"tls": {"alpn": ["h2\u{1b}"]}}), "tls.alpn"),
        (json!({"tls": {"alpn": nine}}), "tls.alpn"),
        (json!({"tls": {"steps": [{"expect": {"prefix": ""}}]}}), "tls.steps[0].expect.prefix"),
        (json!({"expect": {"tls": {"alpn": "h2"}}}), "expect.tls.alpn"),
        (json!({"expect": {"tls": {"colour": "h2"}}}), "expect.tls.colour"),
        (json!({"expect": {"certificate": {"days": 0}}}), "expect.certificate.days"),
    ];
    for (options, field) in cases {
        assert_eq!(wrong_fields(&prober, "tls://mail.test:993", &options), [field], "{options}");
    }
}

#[test]
fn all_wrong_fields_are_named_in_one_answer() {
    let options = json!({"tcp": {"starttls": 1, "steps": [{}, {"send": ""}]}, "expect": {"colour": 1}, "dns": {}});
    let named = wrong_fields(&*plain(), "tcp://mail.test", &options);
    assert_eq!(named, ["url", "tcp.starttls", "tcp.steps[0].send", "tcp.steps[1].send", "expect.colour", "dns"]);
}

#[test]
fn a_target_is_a_host_and_a_port_and_nothing_else() {
    let tls = tls(Authority::new().tls());
    for (url, right) in [
        ("tcp://mail.test:25", true),
        ("tcp://mail.test:25/", true),
        ("tcp://[2001:db8::1]:25", true),
        ("tcp://192.0.2.1:25", true),
        ("tcp://mail.test", false),
        ("tcp://mail.test:0", false),
        ("tcp://mail.test:25/inbox", false),
        ("tcp://mail.test:25?x=y", false),
        ("tcp://mail.test:25#x", false),
        ("tcp://1.2.3.4.5:25", false),
        ("tls://mail.test:25", false),
        ("http://mail.test:25", false),
    ] {
        let expected: &[&str] = if right { &[] } else { &["url"] };
        assert_eq!(wrong_fields(&*plain(), url, &json!({})), expected, "{url}");
        let other = url.replacen("tcp://", "tls://", 1);
        assert_eq!(wrong_fields(&tls, &other, &json!({})).is_empty(), right || url.starts_with("tls"), "{other}");
    }
}

#[test]
fn sec_what_is_wrong_with_a_secret_is_told_without_it() {
    for options in [
        json!({"tcp": {"send": "canary", "encoding": "hex"}}),
        json!({"tcp": {"steps": [{"send": "canary!", "encoding": "base64"}]}}),
        json!({"tcp": {"send": ["canary"]}}),
        json!({"tcp": {"send": {"env": "canary"}}}),
    ] {
        let settings = settings("tcp://mail.test:25", std::time::Duration::from_secs(1), &options);
        let errors = plain().check(&settings).expect_err("wrong");
        assert!(!errors.to_string().contains("canary"), "{errors}");
    }
}
