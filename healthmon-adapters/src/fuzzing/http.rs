//! The HTTP prober against servers that send anything. An input is the number of some settings, and
//! then what is answered to the first request, to the second, and so on.

use std::{collections::VecDeque, rc::Rc};

use healthmon_core::ports::Prober;

use super::{IN_A_BODY, assert_harmless, assert_hidden, dialer, parts, peer, probe, run};
use crate::http::{HttpProber, HttpProberConfig};

/// What stands wherever a secret may.
const CANARY: &str = "canary-5d1f";
/// Those of these that speak HTTP/2, whose heads are no text.
const MULTIPLEXED: [usize; 2] = [5, 7];
const SETTINGS: [&str; 9] = [
    "{}",
    r#"{"http": {"headers": {"x-token": "canary-5d1f"}}, "expect": {
        "status": ["2xx", 404], "body": {"contains": "ok", "not_matches": "error[0-9]+"}, "version": "1.1",
        "header": {"content-type": {"contains": "json"}, "set-cookie": "a", "x": {"exists": true}}}}"#,
    r#"{"http": {"headers": {"x-token": "canary-5d1f"}, "redirects": 10}, "expect": {"json": {
        "$.status": "green", "$..load": {"<": 0.9}, "$.nodes[*]": {"count": {"min": 1}}}}}"#,
    r#"{"http": {"method": "POST", "body": "canary-5d1f"}, "expect": {"size": {"min": 2, "max": 100000}}}"#,
    r#"{"http": {"method": "HEAD", "auth": {"basic": {"username": "a", "password": "canary-5d1f"}}}}"#,
    r#"{"http": {"version": "2", "headers": {"x-token": "canary-5d1f"}}, "expect": {"body": "pong"}}"#,
    r#"{"http": {"proxy": {"url": "http://proxy.test:PORT", "username": "a", "password": "canary-5d1f"}}}"#,
    r#"{"http": {"version": "2",
        "proxy": {"url": "http://proxy.test:PORT", "username": "a", "password": "canary-5d1f"}}}"#,
    r#"{"http": {"auth": {"oauth2": {"token_url": "http://login.test:PORT/", "client_id": "a",
        "client_secret": "canary-5d1f"}}}}"#,
];

thread_local! {
    // Of one input it keeps nothing for the next but tokens of servers that are gone.
    static PROBER: Rc<HttpProber> = {
        let config = HttpProberConfig { dialer: dialer(), idle_connections: None, ..Default::default() };
        HttpProber::new(config).unwrap_or_else(|error| panic!("no prober: {error}")).into()
    };
}

pub(super) fn target(data: &[u8]) {
    let Some((number, answers)) = data.split_first() else { return };
    let number = usize::from(*number) % SETTINGS.len();
    let prober = PROBER.with(Rc::clone);
    let mut left: VecDeque<&[u8]> = parts(answers).collect();
    let look = run(peer::beside(
        |port| {
            let sections = SETTINGS[number].replace("PORT", &port.to_string());
            let sections = serde_json::from_str(&sections).unwrap_or_else(|error| panic!("{sections}: {error}"));
            let probe = probe(&format!("http://shop.test:{port}/"), &sections);
            let probe = probe.unwrap_or_else(|| panic!("{sections} are no settings"));
            assert_eq!(prober.check(&probe.service.settings), Ok(()));
            async move { prober.inspect(&probe).await }
        },
        |mut stream, port| {
            let piece = left.pop_front().unwrap_or_default();
            async move {
                peer::answer(&mut stream, piece, port).await;
                peer::leave(stream).await;
            }
        },
    ));
    assert_harmless(&look);
    if !holds(data, CANARY) {
        assert_hidden(&look, CANARY);
    }
    if !MULTIPLEXED.contains(&number) && parts(answers).all(is_only_in_the_body) {
        assert_hidden(&look, IN_A_BODY);
    }
}

fn holds(data: &[u8], text: &str) -> bool {
    data.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
}

/// Whether a body's mark stands in the body of an answer, and nowhere else.
fn is_only_in_the_body(answer: &[u8]) -> bool {
    let end = |blank: &[u8]| answer.windows(blank.len()).position(|window| window == blank);
    let end = [end(b"\n\r\n"), end(b"\n\n")].into_iter().flatten().min().unwrap_or(answer.len());
    let (head, body) = answer.split_at(end);
    // Behind an interim answer there is another head.
    !holds(head, IN_A_BODY) && !holds(body, "HTTP/1.")
}
