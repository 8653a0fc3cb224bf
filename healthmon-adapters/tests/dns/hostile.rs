//! Name servers that hang, lie and babble: the outcome is right, the probe ends on time.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Held, Outcome},
};
use hickory_proto::op::ResponseCode;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::support::{
    GRACE, NameServer, PATIENCE, SHORT, Then, addresses, alias, answer_to, bytes, detail, name, prefixed, probe_of,
    prober, read, refusal, see, see_within, settings,
};

type Setup = Pin<Box<dyn Future<Output = NameServer>>>;

struct Row {
    what: &'static str,
    server: Setup,
    options: Value,
    outcome: Outcome,
    says: &'static str,
}

fn row(
    what: &'static str,
    server: impl Future<Output = NameServer> + 'static,
    options: Value,
    outcome: Outcome,
    says: &'static str,
) -> Row {
    Row { what, server: Box::pin(server), options, outcome, says }
}

const TIMEOUT: Outcome = Outcome::Fail(FailReason::Timeout);
const PROTOCOL: Outcome = Outcome::Fail(FailReason::Protocol);
const ASSERTION: Outcome = Outcome::Fail(FailReason::Assertion);
/// How it is said that something else than an answer came.
const STRAY: &str = "no answer but";

/// The right answer.
fn right(question: &[u8]) -> Vec<u8> {
    bytes(&addresses(&read(question), &["192.0.2.1"]))
}

/// The right answer under another id.
fn other_id(question: &[u8]) -> Vec<u8> {
    let mut answer = right(question);
    answer[0] ^= 0xff;
    answer
}

/// An answer to a question that was not asked.
fn other_question(question: &[u8]) -> Vec<u8> {
    let mut message = read(question);
    message.queries[0].set_name(name("evil.test"));
    bytes(&addresses(&message, &["192.0.2.66"]))
}

/// The head of an answer to `question` that promises `answers` records, which `rest` should be.
fn head_and(question: &[u8], answers: u16, rest: &[u8]) -> Vec<u8> {
    let mut message = bytes(&answer_to(&read(question)));
    message[6..8].copy_from_slice(&answers.to_be_bytes());
    message.extend(rest);
    message
}

/// A record whose name is a pointer to itself.
fn pointer_to_itself(question: &[u8]) -> Vec<u8> {
    let at = u16::try_from(bytes(&answer_to(&read(question))).len()).expect("short");
    let pointer = (0xc000 | at).to_be_bytes();
    head_and(question, 1, &[&pointer[..], &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]].concat())
}

/// The most work that 64 KiB can make: a chain of pointers as long as pointers reach, and as many
/// names at its far end as there is room for.
fn chain_of_pointers(question: &[u8]) -> Vec<u8> {
    let start = bytes(&answer_to(&read(question))).len();
    // One record of unknown type holds the chain; each link points to the one before, the first
    // to the root at the end of the question's name.
    let data = start + 11;
    let root = start - 5;
    let links = (0x3fff - data) / 2;
    let mut chain = Vec::new();
    for link in 0..links {
        let to = if link == 0 { root } else { data + 2 * (link - 1) };
        chain.extend((0xc000 | u16::try_from(to).expect("14 bits")).to_be_bytes());
    }
    let length = u16::try_from(chain.len()).expect("short enough");
    let mut rest = vec![0, 0xff, 0x00, 0, 1, 0, 0, 0, 60];
    rest.extend(length.to_be_bytes());
    rest.extend(&chain);
    let last = (0xc000 | u16::try_from(data + 2 * (links - 1)).expect("14 bits")).to_be_bytes();
    let record = [&last[..], &[0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]].concat();
    let room = (65_535 - start - rest.len()) / record.len();
    let count = room.min(2_000);
    rest.extend(record.repeat(count));
    head_and(question, u16::try_from(count + 1).expect("at most 64 KiB"), &rest)
}

fn thousand(question: &[u8]) -> Vec<u8> {
    let found: Vec<String> = (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    bytes(&addresses(&read(question), &found))
}

fn circle(question: &[u8]) -> Vec<u8> {
    let mut answer = answer_to(&read(question));
    answer.add_answers([alias("a.test", "b.test"), alias("b.test", "c.test"), alias("c.test", "a.test")]);
    bytes(&answer)
}

fn datagrams(answer: fn(&[u8]) -> Vec<u8>) -> impl Future<Output = NameServer> {
    NameServer::sending(move |question| vec![answer(question)])
}

fn stream(answer: fn(&[u8]) -> Vec<u8>, then: Then) -> impl Future<Output = NameServer> {
    NameServer::truncating(move |question| (answer(question), then))
}

fn over_datagrams() -> Vec<Row> {
    let none = || json!({});
    vec![
        row(
            "hangs",
            NameServer::sending(|_| Vec::new()),
            none(),
            TIMEOUT,
            "timed out after 400 ms while waiting for the answer",
        ),
        row("another id", datagrams(other_id), none(), PROTOCOL, "no answer but one message, which answers another id"),
        row(
            "another question",
            datagrams(other_question),
            none(),
            PROTOCOL,
            "no answer but one message, which answers another question",
        ),
        row(
            "an echo",
            datagrams(<[u8]>::to_vec),
            none(),
            PROTOCOL,
            "no answer but one message, which is no dns answer",
        ),
        row(
            "babble",
            datagrams(|_| b"hello".to_vec()),
            none(),
            PROTOCOL,
            "no answer but one message, which is no dns answer",
        ),
        row(
            "lies first, then the truth",
            NameServer::sending(|question| {
                vec![b"x".to_vec(), other_id(question), other_question(question), right(question)]
            }),
            json!({"expect": {"answers": ["192.0.2.1"]}}),
            Outcome::Pass,
            "",
        ),
        row(
            "a flood of lies",
            NameServer::sending(|question| vec![other_id(question); 5_000]),
            none(),
            PROTOCOL,
            "no answer but",
        ),
        row(
            "a broken message under the right id",
            datagrams(|question| head_and(question, 3, b"")),
            none(),
            PROTOCOL,
            "the answer cannot be read: unexpected end of input",
        ),
        row("a pointer to itself", datagrams(pointer_to_itself), none(), PROTOCOL, "the answer cannot be read: label"),
        row("aliases in a circle", datagrams(circle), none(), PROTOCOL, "the answer's aliases go in a circle"),
        row(
            "a datagram much larger than we asked for",
            datagrams(thousand),
            none(),
            PROTOCOL,
            "the answer cannot be read",
        ),
        row(
            "more records than there can be",
            datagrams(|question| head_and(question, 65_535, b"")),
            none(),
            PROTOCOL,
            "the answer cannot be read: it has 65535 records",
        ),
        row(
            "an answer of another name",
            datagrams(|question| {
                let mut answer = answer_to(&read(question));
                let evil = addresses(&read(&other_question(question)), &["192.0.2.66"]);
                answer.add_answers(evil.answers);
                bytes(&answer)
            }),
            none(),
            ASSERTION,
            "answers: expected at least 1, got none",
        ),
        row(
            "a failure without the question",
            datagrams(|question| {
                let mut answer = refusal(&read(question), ResponseCode::FormErr);
                answer.queries.clear();
                bytes(&answer)
            }),
            none(),
            Outcome::Fail(FailReason::Status),
            "response code: expected NOERROR, got FORMERR",
        ),
    ]
}

fn over_connections() -> Vec<Row> {
    let none = || json!({});
    let tcp = || json!({"dns": {"protocol": "tcp"}});
    vec![
        row("right after truncation", stream(|q| prefixed(&right(q)), Then::Close), none(), Outcome::Pass, ""),
        row(
            "a thousand addresses",
            stream(|q| prefixed(&thousand(q)), Then::Hang),
            json!({"expect": {"answers": {"count": 1000}}}),
            Outcome::Pass,
            "",
        ),
        row(
            "hangs after truncation",
            stream(|_| Vec::new(), Then::Hang),
            none(),
            TIMEOUT,
            "timed out after 400 ms while waiting for the answer",
        ),
        row(
            "truncated over tcp too",
            stream(
                |q| {
                    let mut answer = answer_to(&read(q));
                    answer.metadata.truncation = true;
                    prefixed(&bytes(&answer))
                },
                Then::Close,
            ),
            none(),
            PROTOCOL,
            "the answer does not fit into a datagram, and over tcp: the answer is cut short even over tcp",
        ),
        row(
            "closes",
            stream(|_| Vec::new(), Then::Close),
            tcp(),
            PROTOCOL,
            "the connection was closed without an answer",
        ),
        row(
            "a prefix that promises more, and closes",
            stream(|q| [&[0xff, 0xff], right(q).as_slice()].concat(), Then::Close),
            tcp(),
            PROTOCOL,
            "the connection was closed after ",
        ),
        row(
            "a prefix that promises more, and hangs",
            stream(|q| [&[0xff, 0xff], right(q).as_slice()].concat(), Then::Hang),
            tcp(),
            TIMEOUT,
            "timed out after 400 ms while reading the body",
        ),
        row(
            "a prefix that promises less",
            stream(|q| [&[0, 20], right(q).as_slice()].concat(), Then::Hang),
            tcp(),
            PROTOCOL,
            "the answer cannot be read",
        ),
        row("a prefix of nothing", stream(|_| vec![0, 0], Then::Hang), tcp(), PROTOCOL, "what came is no dns answer"),
        row(
            "another id",
            stream(|q| prefixed(&other_id(q)), Then::Hang),
            tcp(),
            PROTOCOL,
            "what came answers another id",
        ),
        row(
            "another question",
            stream(|q| prefixed(&other_question(q)), Then::Hang),
            tcp(),
            PROTOCOL,
            "what came answers another question",
        ),
        row(
            "64 KiB of zeros",
            stream(|q| prefixed(&[&q[..2], &[0x80], &vec![0; 65_532]].concat()), Then::Hang),
            tcp(),
            PROTOCOL,
            "what came answers another question",
        ),
        row(
            "64 KiB of pointers",
            stream(|q| prefixed(&chain_of_pointers(q)), Then::Hang),
            tcp(),
            PROTOCOL,
            "the answer cannot be read: its names are pointers to pointers",
        ),
    ]
}

#[tokio::test]
async fn sec_every_name_server_is_judged_rightly_and_on_time() {
    let rows = over_datagrams().into_iter().chain(over_connections());
    // What came instead of an answer is told at the deadline, which strikes before the question is sent again:
    // these are waited for together.
    let (strays, others): (Vec<Row>, Vec<Row>) = rows.partition(|row| row.says.starts_with(STRAY));
    futures_util::future::join_all(strays.into_iter().map(|row| judge(row, SHORT * 2))).await;
    for row in others {
        let timeout = if row.outcome == TIMEOUT { SHORT } else { PATIENCE };
        judge(row, timeout).await;
    }
}

async fn judge(Row { what, server, options, outcome, says }: Row, timeout: Duration) {
    let (server, prober) = (server.await, prober());
    let begun = Instant::now();
    let seen = see_within(&prober, &server.url("a.test"), timeout, options).await;
    // Nothing but a deadline is waited for.
    let most = if timeout == PATIENCE { GRACE } else { timeout + GRACE };
    assert!(begun.elapsed() < most, "{what}: {:?}", begun.elapsed());
    assert_eq!(seen.outcome, outcome, "{what}: {seen:?}");
    assert!(detail(&seen).starts_with(says), "{what}: {seen:?}");
}

#[tokio::test]
async fn where_nobody_listens_there_is_no_connection() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("dns://{}/a.test", socket.local_addr().expect("bound"));
    drop(socket);
    let seen = see(&prober(), &url, json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Connect), "{seen:?}");
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let server = NameServer::sending(move |question| {
        if first.swap(false, std::sync::atomic::Ordering::SeqCst) { Vec::new() } else { vec![right(question)] }
    })
    .await;
    let seen = see(&prober(), &server.url("a.test"), json!({})).await;
    assert_eq!((seen.outcome, server.asked()), (Outcome::Pass, 2), "{seen:?}");
}

#[tokio::test]
async fn many_probes_of_a_server_that_hangs_all_end_on_time() {
    let server = NameServer::sending(|_| Vec::new()).await;
    let prober = prober();
    let url = server.url("a.test");
    let begun = Instant::now();
    let probes = (0..200).map(|_| see_within(&prober, &url, SHORT, json!({})));
    for seen in futures_util::future::join_all(probes).await {
        assert_eq!(seen.outcome, TIMEOUT);
    }
    assert!(begun.elapsed() < SHORT + GRACE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn sec_what_a_server_says_is_told_capped_and_escaped() {
    let server = NameServer::answering(|question| {
        let mut answer = answer_to(question);
        let text = format!("\u{1b}[31m\r\n{}", "x".repeat(200));
        let data = hickory_proto::rr::RData::TXT(hickory_proto::rr::rdata::TXT::new(vec![text]));
        let record = hickory_proto::rr::Record::from_rdata(name("a.test"), 60, data);
        answer.add_answers(std::iter::repeat_n(record, 20));
        answer
    })
    .await;
    let options = json!({"dns": {"protocol": "tcp"}, "expect": {"answers": ["y"]}});
    let probe = probe_of(settings(&server.url("a.test?type=TXT"), PATIENCE, &options));
    let inspected = prober().inspect(&probe).await;
    assert_eq!(inspected.seen.outcome, ASSERTION);
    let facts = inspected.facts.iter().map(|fact| &fact.value);
    let told = inspected.assertions.iter().map(|told| &told.seen);
    for text in facts.chain(told).chain(inspected.seen.detail.iter()) {
        assert!(text.chars().count() <= 512 && !text.contains(char::is_control), "{text}");
    }
    assert_eq!(inspected.facts.iter().filter(|fact| &*fact.what == "answer").count(), 16);
    let long = "x".repeat(101);
    let judged = inspected.assertions.iter().filter(|told| told.held != Held::Held).map(|told| &told.seen);
    for text in judged.chain(inspected.seen.detail.iter()) {
        assert!(text.contains("xxx") && !text.contains(&long), "{text}");
    }
}
