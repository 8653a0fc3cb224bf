//! What is expected of an answer, and an answer: parts of an input are the section `expect` in JSON,
//! the answer's header lines, and its body.

use healthmon_core::{
    probe::{FailReason, Held},
    service::Fields,
};
use hyper::{
    HeaderMap, StatusCode, Version,
    header::{HeaderName, HeaderValue},
};
use serde_json::{Map, Value};
use url::Url;

use super::{
    body::{End, Kept, LIMIT, Seen},
    expect::Expect,
};
use crate::{
    fuzzing::{IN_A_BODY, assert_hidden, assert_progress_harmless, parts},
    net::Progress,
};

pub(crate) fn target(data: &[u8]) {
    let mut parts = parts(data);
    let (expect, lines) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(map) = serde_json::from_slice::<Map<String, Value>>(expect) else { return };
    let mut fields = Fields::new(map);
    let expect_read = Expect::read(&mut fields);
    if fields.finish().is_err() {
        return;
    }
    let body = parts.next().unwrap_or_default();
    let headers = headers(lines);
    let first = judged(&expect_read, &headers, body);
    assert_eq!(first, judged(&expect_read, &headers, body), "the same answer is judged the same");
    let marked = |bytes: &[u8]| bytes.windows(IN_A_BODY.len()).any(|window| window == IN_A_BODY.as_bytes());
    let look = assert_progress_harmless(progress(&expect_read, &headers, body));
    if !marked(expect) && !marked(lines) {
        assert_hidden(&look, IN_A_BODY);
    }
}

/// How each assertion came out.
fn judged(expect: &Expect, headers: &HeaderMap, body: &[u8]) -> Vec<(Box<str>, Held)> {
    let all = progress(expect, headers, body).assertions.all();
    all.into_iter().map(|assertion| (assertion.what, assertion.held)).collect()
}

fn progress(expect: &Expect, headers: &HeaderMap, body: &[u8]) -> Progress {
    let mut progress = Progress::inspecting();
    let url = Url::parse("http://shop.test:8080/health?token=x").unwrap_or_else(|_| unreachable!("a url"));
    let status = StatusCode::from_u16(200 + headers.len() as u16).unwrap_or(StatusCode::OK);
    expect.judge_status(status, FailReason::Status, &mut progress);
    expect.judge_head(Version::HTTP_11, headers, &url, &str::to_owned, &mut progress);
    let kept = &body[..body.len().min(LIMIT)];
    let end = if headers.contains_key("x-capped") { End::Capped } else { End::Reached };
    let text = (expect.wanted() != super::body::Wanted::NOTHING).then(|| Kept { bytes: kept.to_vec(), end });
    expect.judge_body(&Seen { end, size: body.len() as u64, text }, &str::to_owned, &mut progress);
    progress
}

fn headers(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(64) {
        let mut halves = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) {
            headers.append(name, value);
        }
    }
    headers
}
