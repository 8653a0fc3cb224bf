//! What is said and heard: provoked, and what is told of it.

use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Held, Outcome},
};
use serde_json::{Value, json};

use super::{
    peers::{Then, plain, saying},
    support::{LATER, PATIENCE, SHORT, Server, detail, probe_of, see, see_within, settings},
};

const ASSERTION: Outcome = Outcome::Fail(FailReason::Assertion);
const PROTOCOL: Outcome = Outcome::Fail(FailReason::Protocol);
const TIMEOUT: Outcome = Outcome::Fail(FailReason::Timeout);

struct Row {
    says: &'static [&'static [u8]],
    then: Then,
    options: Value,
    outcome: Outcome,
    told: &'static str,
}

fn row(says: &'static [&'static [u8]], then: Then, options: Value, outcome: Outcome, told: &'static str) -> Row {
    Row { says, then, options: json!({ "tcp": options }), outcome, told }
}

fn rows() -> Vec<Row> {
    let ping = |expect: Value| json!({"send": "PING\r\n", "expect": expect});
    vec![
        row(&[], Then::Hang, json!({}), Outcome::Pass, ""),
        row(&[], Then::Close, json!({}), Outcome::Pass, ""),
        row(&[b"", b"+PONG\r\n"], Then::Hang, ping(json!("PONG")), Outcome::Pass, ""),
        row(&[b"", b"+PONG\r\n"], Then::Hang, ping(json!({"prefix": "+PONG"})), Outcome::Pass, ""),
        row(&[b"", b"+PONG\r\n"], Then::Close, ping(json!({"regex": "^\\+P.NG\r\n$"})), Outcome::Pass, ""),
        row(
            &[b"", b"\x00\x01\xff"],
            Then::Hang,
            json!({"send": "00", "encoding": "hex", "expect": {"prefix": "0001 FF"}}),
            Outcome::Pass,
            "",
        ),
        row(&[b"", b"\xff\xfe"], Then::Hang, ping(json!({"regex": "(?-u)\\xff\\xfe"})), Outcome::Pass, ""),
        // A banner is no answer to what is sent after it was waited for.
        row(
            &[b"220 hello\r\n", b"250 ok\r\n", b"221 bye\r\n"],
            Then::Close,
            json!({"steps": [
                {"expect": {"prefix": "220"}},
                {"send": "NOOP\r\n", "expect": {"prefix": "250"}},
                {"send": "QUIT\r\n", "expect": {"prefix": "221"}},
            ]}),
            Outcome::Pass,
            "",
        ),
        // Without sending in between, each step goes on where the one before it ended.
        row(
            &[b"one two three"],
            Then::Hang,
            json!({"steps": [{"expect": "two"}, {"expect": {"prefix": " three"}}]}),
            Outcome::Pass,
            "",
        ),
        row(
            &[b"two one"],
            Then::Close,
            json!({"steps": [{"expect": "one"}, {"expect": "two"}]}),
            PROTOCOL,
            "the connection was closed without an answer",
        ),
        row(
            &[b"", b"-NOAUTH canary\r\n"],
            Then::Hang,
            ping(json!({"prefix": "+PONG"})),
            ASSERTION,
            "answer: expected to begin with \"+PONG\", got something else",
        ),
        row(
            &[b"", b"-NOAUTH canary\r\n"],
            Then::Hang,
            ping(json!("PONG")),
            ASSERTION,
            "answer: expected to contain \"PONG\", got 16 bytes without it until the deadline",
        ),
        row(
            &[b"", b"canary"],
            Then::Close,
            ping(json!({"regex": "^\\+PONG"})),
            ASSERTION,
            "answer: expected to match \"^\\\\+PONG\", got 6 bytes without it and then the end",
        ),
        row(
            &[b"220 hello\r\n", b"500 canary\r\n"],
            Then::Hang,
            json!({"steps": [{"expect": "220"}, {"send": "NOOP\r\n", "expect": {"prefix": "250"}}, {"send": "never"}]}),
            ASSERTION,
            "answer of step 2: expected to begin with \"250\", got something else",
        ),
        row(&[], Then::Hang, ping(json!("PONG")), TIMEOUT, "timed out after 300 ms while waiting for the answer"),
        row(&[b"", b"half an ans"], Then::Hang, ping(json!("PONG")), TIMEOUT, "while waiting for the answer"),
        row(&[b""], Then::Close, ping(json!("PONG")), PROTOCOL, "the connection was closed without an answer"),
    ]
}

#[tokio::test]
async fn every_answer_gets_the_right_outcome_and_is_never_repeated() {
    let prober = plain();
    let mut wrong = Vec::new();
    for row in rows() {
        let server = saying(row.says, row.then).await;
        let timeout = match row.outcome {
            TIMEOUT => SHORT,
            _ if row.told.contains("until the deadline") => LATER,
            _ => PATIENCE,
        };
        let seen = see_within(&*prober, &format!("tcp://{}", server.address), timeout, &row.options).await;
        if seen.outcome != row.outcome || !detail(&seen).contains(row.told) || detail(&seen).contains("canary") {
            wrong.push(format!("{}: {:?} {:?} expected, {seen:?} seen", row.options, row.outcome, row.told));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_as_what_it_is() {
    let prober = plain();
    let nobody = Server::nobody().await;
    let seen = see(&*prober, &format!("tcp://{nobody}"), &json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Connect));
    assert!(detail(&seen).starts_with(&format!("connect to {nobody}: ")), "{seen:?}");

    let blackhole = Server::blackhole().await;
    let seen = see_within(&*prober, &format!("tcp://{}", blackhole.address), SHORT, &json!({})).await;
    assert_eq!((seen.outcome, detail(&seen)), (TIMEOUT, "timed out after 300 ms while connecting"));

    let seen = see(&*prober, "tcp://nowhere.test:25", &json!({})).await;
    assert_eq!((seen.outcome, detail(&seen)), (Outcome::Fail(FailReason::Dns), "nowhere.test: no such name"));
}

#[tokio::test]
async fn a_peer_that_resets_is_a_protocol_failure() {
    let server = Server::raw(|stream| async move { stream.set_zero_linger().expect("a socket") }).await;
    let options = json!({"tcp": {"send": "x", "expect": "y"}});
    let seen = see(&*plain(), &format!("tcp://{}", server.address), &options).await;
    assert_eq!(seen.outcome, PROTOCOL, "{seen:?}");
}

#[tokio::test]
async fn phases_and_latency_are_judged() {
    let server = saying(&[b"220 hello\r\n"], Then::Hang).await;
    let url = format!("tcp://mail.test:{}", server.address.port());
    let seen = see(&*plain(), &url, &json!({"tcp": {"expect": "220"}})).await;
    let phases = seen.phases;
    assert!(phases.dns_us.is_some() && phases.connect_us.is_some() && phases.first_byte_us.is_some(), "{seen:?}");
    let hasty = json!({"tcp": {"expect": "220"}, "expect": {"latency": {"first_byte": "1us"}}});
    let seen = see(&*plain(), &url, &hasty).await;
    assert_eq!(seen.outcome, ASSERTION);
    assert!(detail(&seen).starts_with("first byte latency: expected at most 1us, got "), "{seen:?}");
}

#[tokio::test]
async fn a_closer_look_shows_every_assertion_and_no_answer() {
    let server = saying(&[b"220 canary\r\n", b"250 canary\r\n"], Then::Hang).await;
    let options = json!({"tcp": {"steps": [{"expect": "220"}, {"send": "NOOP\r\n", "expect": "250"}]}});
    let probe = probe_of(settings(&format!("tcp://{}", server.address), PATIENCE, &options));
    let inspection = plain().inspect(&probe).await;
    assert_eq!(inspection.seen.outcome, Outcome::Pass);
    let made: Vec<_> = inspection.assertions.iter().map(|made| (&*made.what, &*made.expected, made.held)).collect();
    assert_eq!(
        made,
        [
            ("answer of step 1", "to contain \"220\"", Held::Held),
            ("answer of step 2", "to contain \"250\"", Held::Held)
        ]
    );
    let facts: Vec<_> = inspection.facts.iter().map(|fact| (&*fact.what, &*fact.value)).collect();
    let peer = server.address.to_string();
    assert_eq!(facts, [("address", peer.as_str()), ("received", "24 bytes")]);
}
