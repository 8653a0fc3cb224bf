//! Which settings the prober takes.

use healthmon_core::ports::Prober;
use serde_json::{Map, Value, json};

use super::{
    peers::prober,
    support::{PATIENCE, settings, wrong_fields},
};

#[test]
fn every_wrong_field_is_named_by_its_path() {
    let many: Map<String, Value> = (0..33).map(|n| (format!("x-{n}"), json!("y"))).collect();
    let cases = [
        (json!({"http": {}}), "http"),
        (json!({"websocket": []}), "websocket"),
        (json!({"websocket": {"colour": 1}}), "websocket.colour"),
        (json!({"websocket": {"headers": {"a b": "c"}}}), "websocket.headers.a b"),
        (json!({"websocket": {"headers": {"X": "a\r\nb: c"}}}), "websocket.headers.X"),
        (json!({"websocket": {"headers": {"X": "\u{fc}"}}}), "websocket.headers.X"),
        (json!({"websocket": {"headers": {"X": "y".repeat(8193)}}}), "websocket.headers.X"),
        (json!({"websocket": {"headers": {"X": 1}}}), "websocket.headers.X"),
        (json!({"websocket": {"headers": {"X": {"env": "HOME"}}}}), "websocket.headers.X"),
        (json!({"websocket": {"headers": {"x": "1", "X": "2"}}}), "websocket.headers.X"),
        (json!({"websocket": {"headers": {"Upgrade": "h2c"}}}), "websocket.headers.Upgrade"),
        (json!({"websocket": {"headers": {"Sec-WebSocket-Key": "x"}}}), "websocket.headers.Sec-WebSocket-Key"),
        (
            json!({"websocket": {"headers": {"Sec-WebSocket-Protocol": "x"}}}),
            "websocket.headers.Sec-WebSocket-Protocol",
        ),
        (json!({"websocket": {"headers": {"Host": "feed.test"}}}), "websocket.headers.Host"),
        (json!({"websocket": {"host": "a b"}}), "websocket.host"),
        (json!({"websocket": {"host": "u@feed.test"}}), "websocket.host"),
        (json!({"websocket": {"headers": many}}), "websocket.headers.x-32"),
        (json!({"websocket": {"subprotocols": []}}), "websocket.subprotocols"),
        (json!({"websocket": {"subprotocols": ["a", "a"]}}), "websocket.subprotocols"),
        (json!({"websocket": {"subprotocols": ["a, b"]}}), "websocket.subprotocols"),
        (json!({"websocket": {"subprotocols": "chat"}}), "websocket.subprotocols"),
        (json!({"websocket": {"send": ""}}), "websocket.send"),
        (json!({"websocket": {"send": 1}}), "websocket.send"),
        (json!({"websocket": {"expect": {"regex": "("}}}), "websocket.expect.regex"),
        (json!({"websocket": {"expect": ""}}), "websocket.expect"),
        (json!({"websocket": {"ping": true}}), "websocket.ping"),
        (json!({"websocket": {"ping": {"within": "0s"}}}), "websocket.ping.within"),
        (json!({"websocket": {"ping": {"within": "soon"}}}), "websocket.ping.within"),
        (json!({"websocket": {"tls": {"verify": "maybe"}}}), "websocket.tls.verify"),
        (json!({"expect": {"status": 101}}), "expect.status"),
        (json!({"expect": {"latency": {"fail": 0}}}), "expect.latency.fail"),
    ];
    for (options, field) in cases {
        assert_eq!(wrong_fields(&prober(), "wss://feed.test/", &options), [field], "{options}");
    }
    let tls = json!({"websocket": {"tls": {"verify": "none"}}});
    assert_eq!(wrong_fields(&prober(), "ws://feed.test/", &tls), ["websocket.tls"]);
    let days = json!({"expect": {"certificate": {"days": 7}}});
    assert_eq!(wrong_fields(&prober(), "ws://feed.test/", &days), ["expect.certificate"]);
}

#[test]
fn targets_are_ws_and_wss_urls() {
    for (url, right) in [
        ("ws://feed.test", true),
        ("wss://feed.test:8443/a?b={c}", true),
        ("ws://[2001:db8::1]/\u{fc}", true),
        ("ws://feed.test:0/", false),
        ("http://feed.test/", false),
        ("tcp://feed.test:80", false),
    ] {
        let expected: &[&str] = if right { &[] } else { &["url"] };
        assert_eq!(wrong_fields(&prober(), url, &json!({})), expected, "{url}");
    }
}

#[test]
fn sec_whom_a_secret_is_sent_to_is_no_secret_and_so_no_header() {
    for host in [json!("feed.test"), json!({"env": "HEALTHMON_SECRET_HOST"}), json!({"sealed": "canary"})] {
        let options = json!({"websocket": {"headers": {"hOsT": host}}});
        let errors = prober().check(&settings("ws://feed.test/", PATIENCE, &options)).expect_err("wrong");
        let told = "websocket.headers.hOsT: is set by websocket.host, and not by a header";
        assert_eq!(errors.to_string(), told, "{options}");
    }
}

#[test]
fn sec_what_is_wrong_with_a_secret_is_told_without_it() {
    for options in [
        json!({"websocket": {"headers": {"X": "canary\u{7f}"}}}),
        json!({"websocket": {"headers": {"X": ["canary"]}}}),
        json!({"websocket": {"send": {"env": "canary"}}}),
    ] {
        let errors = prober().check(&settings("ws://feed.test/", PATIENCE, &options)).expect_err("wrong");
        assert!(!errors.to_string().contains("canary"), "{errors}");
    }
}
