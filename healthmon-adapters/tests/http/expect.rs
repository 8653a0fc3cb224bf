//! What can be expected of an answer: provoked, and told.

use std::time::Duration;

use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Outcome},
};
use serde_json::{Value, json};

use super::support::{Server, answer, detail, prober, see, settings};

const HEADERS: &str = "content-type: application/json\r\nx-cache: HIT from a\r\nx-cache: MISS from b\r\n";
const BODY: &str = r#"{"status": "green", "load": 0.5, "nodes": [{"up": true}, {"up": false}], "tags": ["eu"]}"#;

async fn judged(expect: &Value) -> (Outcome, String) {
    let server = Server::answering(|_| answer(200, HEADERS, BODY)).await;
    let seen = see(&prober(), &server.url(), json!({"expect": expect})).await;
    (seen.outcome, detail(&seen).replace(&server.address.to_string(), "HERE"))
}

#[tokio::test]
async fn what_is_expected_and_there_passes() {
    for expect in [
        json!({"header": {"content-type": "application/json"}}),
        json!({"header": {"X-Cache": {"matches": "^MISS", "exists": true}, "x-none": {"exists": false}}}),
        json!({"header": {"x-cache": {"contains": ["HIT", "MISS"], "not_contains": "stale"}}}),
        json!({"body": "green"}),
        json!({"body": {"contains": ["green", "eu"], "not_contains": "red", "matches": "load\": 0\\.\\d", "not_matches": "^$"}}),
        json!({"json": {"$.status": "green", "$.load": {">": 0.1, "<=": 0.5}, "$.nodes[?@.up == true]": {"count": 1}}}),
        json!({"json": {"$.tags": {"contains": "eu"}, "$.error": {"exists": false}, "$..up": {"count": {"min": 2}}}}),
        json!({"size": BODY.len()}),
        json!({"size": {"min": 10, "max": 1000}, "body": "green"}),
        json!({"version": "1.1"}),
        json!({"url": {"matches": "^http://127.0.0.1:\\d+/$"}}),
        json!({"latency": {"fail": "9s", "connect": "9s"}}),
    ] {
        assert_eq!(judged(&expect).await, (Outcome::Pass, String::new()), "{expect}");
    }
}

#[tokio::test]
async fn what_is_expected_and_not_there_is_told_with_what_was_seen() {
    for (expect, said) in [
        (
            json!({"header": {"content-type": "text/html"}}),
            "header content-type: expected \"text/html\", got \"application/json\"",
        ),
        (json!({"header": {"x-none": {"exists": true}}}), "header x-none: expected to be present, got none"),
        (
            json!({"header": {"x-cache": {"exists": false}}}),
            "header x-cache: expected to be absent, got \"HIT from a\"",
        ),
        (
            json!({"header": {"x-cache": {"matches": "^PASS"}}}),
            "header x-cache: expected to match \"^PASS\", got \"HIT from a\"",
        ),
        (json!({"body": "red"}), "body: expected to contain \"red\", got a body of 88 bytes"),
        (json!({"body": {"not_contains": "green"}}), "body: expected not to contain \"green\", got a body of 88 bytes"),
        (json!({"body": {"matches": "^\\["}}), "body: expected to match \"^\\\\[\", got a body of 88 bytes"),
        (json!({"json": {"$.status": "red"}}), "json $.status: expected \"red\", got a text of 5 characters"),
        (json!({"json": {"$.load": {"<": 0.5}}}), "json $.load: expected < 0.5, got 0.5"),
        (json!({"json": {"$.nodes[*].up": true}}), "json $.nodes[*].up: expected true, got false (value 2 of 2)"),
        (json!({"json": {"$.error": {"exists": true}}}), "json $.error: expected to exist, got nothing"),
        (json!({"json": {"$.nodes[*]": {"count": {"max": 1}}}}), "json $.nodes[*]: expected at most 1 values, got 2"),
        (json!({"size": {"max": 10}}), "size: expected at most 10 bytes, got 88"),
        (json!({"size": {"min": 1000}}), "size: expected at least 1000 bytes, got 88"),
        (json!({"version": "2"}), "http version: expected 2, got 1.1"),
        (json!({"url": "https://shop.example/"}), "url: expected \"https://shop.example/\", got \"http://HERE/\""),
    ] {
        assert_eq!(judged(&expect).await, (Outcome::Fail(FailReason::Assertion), said.to_owned()), "{expect}");
    }
}

#[tokio::test]
async fn a_size_beyond_what_is_read_is_counted_and_not_kept() {
    let bytes = answer(200, "", &"x".repeat(300_000));
    for (size, said) in [
        (json!({"min": 300_000, "max": 300_000}), ""),
        (json!({"max": 1_000}), "size: expected at most 1000 bytes, got more than 65536"),
        (json!({"max": 299_999}), "size: expected at most 299999 bytes, got more than 300000"),
        (json!({"min": 300_001}), "size: expected at least 300001 bytes, got 300000"),
    ] {
        let bytes = bytes.clone();
        let server = Server::answering(move |_| bytes.clone()).await;
        let seen = see(&prober(), &server.url(), json!({"expect": {"size": size}})).await;
        assert_eq!(detail(&seen), said, "{size}");
    }
}

#[tokio::test]
async fn all_that_failed_is_told_together_under_the_reason_of_the_first() {
    let server = Server::answering(|_| answer(503, HEADERS, BODY)).await;
    let options = json!({"expect": {
        "header": {"x-none": {"exists": true}}, "body": {"contains": ["green", "red"]},
        "json": {"$.load": {">": 1}, "$.status": "green"}, "size": {"max": 5},
    }});
    let seen = see(&prober(), &server.url(), options).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Status));
    assert_eq!(
        detail(&seen),
        "status: expected 200-299, got 503; header x-none: expected to be present, got none; \
         size: expected at most 5 bytes, got 88; body: expected to contain \"red\", got a body of 88 bytes; \
         json $.load: expected > 1, got 0.5"
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_hide_the_status() {
    let server = Server::sending("HTTP/1.1 500 No\r\ncontent-length: 100\r\n\r\n").await;
    let seen = see(&prober(), &server.url(), json!({"expect": {"body": "x"}})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Status));
    assert!(
        detail(&seen).starts_with("status: expected 200-299, got 500; body: expected to be read, got "),
        "{seen:?}"
    );
}

#[tokio::test]
async fn an_expected_url_is_where_the_redirects_end_and_its_query_stays_out_of_sight() {
    let server = Server::answering(|request| match request.split(' ').nth(1) {
        Some("/") => answer(302, "location: /login?next=canary#canary\r\n", ""),
        _ => answer(200, "", ""),
    })
    .await;
    let expected = format!("{}login", server.url());
    assert_eq!(see(&prober(), &server.url(), json!({"expect": {"url": expected}})).await.outcome, Outcome::Pass);
    let seen = see(&prober(), &server.url(), json!({"expect": {"url": {"not_contains": "login"}}})).await;
    assert_eq!(detail(&seen), format!("url: expected not to contain \"login\", got \"{expected}\""));
}

#[tokio::test]
async fn what_is_no_json_says_where_and_not_what() {
    let deep = "[".repeat(60_000);
    let long = format!("[{}1]", "1,".repeat(40_000));
    for (body, said) in [
        ("", "something else at line 1, column 0"),
        ("canary", "something else at line 1, column 1"),
        ("{\"canary\": }", "something else at line 1, column 12"),
        (deep.as_str(), "something else at line 1, column 128"),
        (long.as_str(), "more than 65536 bytes, which are not read"),
    ] {
        let bytes = answer(200, "", body);
        let server = Server::answering(move |_| bytes.clone()).await;
        let seen = see(&prober(), &server.url(), json!({"expect": {"json": {"$.canary": 1}}})).await;
        assert_eq!(detail(&seen), format!("json: expected a JSON document, got {said}"));
    }
}

/// 64 KiB of JSON that would keep a careless evaluator busy for hours.
#[tokio::test]
async fn sec_a_document_made_to_be_slow_ends_the_search_on_time() {
    let body = format!("[{}1]", "[[]],".repeat(13_000));
    let bytes = answer(200, "", &body);
    let server = Server::answering(move |_| bytes.clone()).await;
    let begun = std::time::Instant::now();
    let expect = json!({"json": {"$..[?count($..*) > 0]": {"count": 1}}});
    let seen = see(&prober(), &server.url(), json!({"expect": expect})).await;
    assert!(detail(&seen).ends_with("got a document with too much to look at"), "{seen:?}");
    let most = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 3 });
    assert!(begun.elapsed() < most, "took {:?}", begun.elapsed());
}

/// Whatever is expected, the detail tells no text of a body, and no credentials out of headers.
#[tokio::test]
async fn sec_no_assertion_reflects_a_body_or_a_cookie() {
    let body = r#"{"canary": "canary", "list": ["canary"], "deep": {"canary": ["canary"]}}"#;
    let headers = "set-cookie: canary=canary\r\nlocation: /here?canary\r\nauthentication-info: canary\r\n";
    for expect in [
        json!({"body": "other"}),
        json!({"body": {"matches": "other", "not_matches": "."}}),
        json!({"json": {"$.*": "other", "$..*": {"<": 1}, "$.list": ["other"], "$.deep": {"equals": {"a": 1}}}}),
        json!({"json": {"$.list": {"contains": "other"}, "$.deep": {"exists": false}, "$.deep.*": {"count": 9}}}),
        json!({"header": {"set-cookie": "other", "location": "other", "authentication-info": {"matches": "other"}}}),
    ] {
        let bytes = answer(200, headers, body);
        let server = Server::answering(move |_| bytes.clone()).await;
        let seen = see(&prober(), &server.url(), json!({"expect": expect})).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion), "{expect}");
        assert!(!detail(&seen).contains("canary"), "{expect}: {seen:?}");
    }
}

#[tokio::test]
async fn sec_a_headers_value_is_shown_escaped_and_cut() {
    // What HTTP lets pass of what a terminal or a reader's eye would obey.
    let long = format!("x-a: \u{9b}2J\u{202e}{}\r\n", "x".repeat(5_000));
    let bytes = answer(200, &long, "");
    let server = Server::answering(move |_| bytes.clone()).await;
    let seen = see(&prober(), &server.url(), json!({"expect": {"header": {"x-a": "b"}}})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Assertion), "{seen:?}");
    assert!(detail(&seen).contains("got \"\\u{9b}2J\\u{202e}xxx"), "{seen:?}");
    assert!(!detail(&seen).chars().any(char::is_control) && detail(&seen).len() < 150, "{seen:?}");
}

#[test]
fn what_is_wrong_in_expect_is_named_by_its_path() {
    let big = "((a{100}){100}){100}";
    for (expect, field) in [
        (json!({"header": {"a b": "c"}}), "expect.header.a b"),
        (json!({"header": {"x": 1}}), "expect.header.x"),
        (json!({"header": {"x": {"colour": 1}}}), "expect.header.x.colour"),
        (json!({"header": {"x": {"exists": "yes"}}}), "expect.header.x.exists"),
        (json!({"header": {"x": {"matches": "("}}}), "expect.header.x.matches"),
        (json!({"body": {}}), "expect.body"),
        (json!({"body": {"equals": "x"}}), "expect.body.equals"),
        (json!({"body": {"matches": big}}), "expect.body.matches"),
        (json!({"body": {"matches": "x".repeat(1_025)}}), "expect.body.matches"),
        (json!({"body": {"contains": []}}), "expect.body.contains"),
        (json!({"body": {"contains": vec!["x"; 17]}}), "expect.body.contains"),
        (
            json!({"body": {"matches": vec!["x"; 16], "not_matches": vec!["x"; 16]}, "url": {"matches": "x"}}),
            "expect.matches",
        ),
        (json!({"json": {"status": "green"}}), "expect.json.status"),
        (json!({"json": {"$.a": {"<": "1"}}}), "expect.json.$.a.<"),
        (json!({"json": {"$.a": {"like": 1}}}), "expect.json.$.a.like"),
        (json!({"json": {"$.a": {}}}), "expect.json.$.a.equals"),
        (json!({"json": {"$.a": {"count": {"min": 2, "max": 1}}}}), "expect.json.$.a.count"),
        (json!({"json": []}), "expect.json"),
        (json!({"size": -1}), "expect.size"),
        (json!({"size": {"max": 16_777_217}}), "expect.size"),
        (json!({"version": "3"}), "expect.version"),
        (json!({"url": "shop"}), "expect.url"),
        (json!({"url": "http://a.test/?q"}), "expect.url"),
    ] {
        let errors = prober().check(&settings("http://a.test/", Duration::from_secs(1), &json!({"expect": expect})));
        let errors = errors.expect_err(field);
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field], "{expect}");
    }
    for wanted in ["body", "json", "size"] {
        let expect = match wanted {
            "json" => json!({"json": {"$.a": 1}}),
            "size" => json!({"size": 1}),
            _ => json!({"body": {"contains": "x"}}),
        };
        let options = json!({"http": {"method": "HEAD"}, "expect": expect});
        let errors = prober().check(&settings("http://a.test/", Duration::from_secs(1), &options)).expect_err(wanted);
        assert_eq!(errors.iter().next().map(|error| error.field.clone()), Some(format!("expect.{wanted}")));
    }
}
