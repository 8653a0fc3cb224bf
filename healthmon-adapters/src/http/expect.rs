//! What is expected of an answer, and how it came out.

mod json;
mod path;
mod status;
mod text;

use healthmon_core::{
    probe::{FailReason, Held},
    service::{FieldErrors, Fields},
};
use hyper::{
    HeaderMap, StatusCode,
    header::{self, HeaderName},
};
use serde_json::{Map, Value};
use url::{Position, Url};

use super::{
    body::{self, Wanted},
    link,
};
use crate::{expression, net::Progress};
use json::Claims;
pub(super) use status::Statuses;
use text::{Condition, quoted};

/// How many headers, and how many places in a JSON document, something can be expected of.
const LIST_LIMIT: usize = 32;
/// How many patterns one service can have: each takes memory.
const PATTERNS_LIMIT: usize = 32;
/// The longest body whose size can be expected, in bytes: so much is counted and not kept.
const SIZE_LIMIT: u64 = 16 * 1024 * 1024;
const VERSIONS: [&str; 3] = ["1.0", "1.1", "2"];

/// Takes secrets of ours out of what a target says, before it is quoted or cut.
pub(super) type Redact<'a> = &'a dyn Fn(&str) -> String;

/// What is expected beside latencies and certificates.
pub(super) struct Expect {
    pub(super) status: Statuses,
    more: Option<Box<More>>,
}

/// What few services expect.
#[derive(Default)]
struct More {
    headers: Vec<(HeaderName, Vec<Condition>)>,
    version: Option<&'static str>,
    url: Vec<Condition>,
    size: Option<Bounds>,
    body: Vec<Condition>,
    json: Vec<Claims>,
}

/// From how many to how many, ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bounds {
    least: Option<u64>,
    most: Option<u64>,
}

impl Default for Expect {
    /// Any success.
    fn default() -> Self {
        Self { status: Statuses::Success, more: None }
    }
}

/// How an assertion came out that holds or fails.
const fn held(holds: bool) -> Held {
    if holds { Held::Held } else { Held::Failed }
}

impl Expect {
    /// Takes its fields out of the section `expect`.
    pub(super) fn read(fields: &mut Fields) -> Self {
        let mut status = Statuses::Success;
        if let Some(written) = fields.optional::<Value>("status") {
            match Statuses::read(&written) {
                Ok(read) => status = read,
                Err(errors) => fields.absorb(errors),
            }
        }
        let mut more = More { headers: fields.section("header", headers).unwrap_or_default(), ..More::default() };
        if let Some(version) = fields.optional::<String>("version") {
            more.version = VERSIONS.into_iter().find(|known| *known == version);
            if more.version.is_none() {
                fields.wrong("version", "must be \"1.0\", \"1.1\" or \"2\"");
            }
        }
        more.url = one_or_many(fields, "url", text::read_url);
        more.body = one_or_many(fields, "body", text::read_body);
        more.size = fields.optional::<Value>("size").and_then(|value| {
            let bounds = Bounds::read(&value).filter(|bounds| bounds.highest() <= SIZE_LIMIT);
            if bounds.is_none() {
                fields.wrong("size", "must be a number of bytes up to 16777216, or {\"min\": …, \"max\": …} of those");
            }
            bounds
        });
        more.json = fields.section("json", claims).unwrap_or_default();
        if more.patterns() > PATTERNS_LIMIT {
            fields.wrong(most_of(&more), "is one pattern too many: at most 32 can be expected in all");
        } else if more.patterns_kib() > expression::SUM_LIMIT {
            fields.wrong(most_of(&more), expression::TOO_LARGE);
        }
        let nothing = more.headers.is_empty() && more.version.is_none() && more.url.is_empty();
        let nothing = nothing && more.size.is_none() && more.body.is_empty() && more.json.is_empty();
        Self { status, more: (!nothing).then(|| Box::new(more)) }
    }

    /// How many patterns are in it.
    pub(super) fn patterns(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.patterns())
    }

    /// What they are compiled to, in KiB.
    pub(super) fn patterns_kib(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.patterns_kib())
    }

    /// What is wanted of the body.
    pub(super) fn wanted(&self) -> Wanted {
        let Some(more) = &self.more else { return Wanted::NOTHING };
        let wanted = if more.body.is_empty() && more.json.is_empty() { Wanted::NOTHING } else { Wanted::TEXT };
        more.size.map_or(wanted, |size| wanted.counted(size.highest().saturating_add(1)))
    }

    /// The fields that expect something of a body.
    pub(super) fn of_a_body(&self) -> impl Iterator<Item = &'static str> {
        let more = self.more.as_deref();
        let named = [
            ("body", more.is_some_and(|more| !more.body.is_empty())),
            ("json", more.is_some_and(|more| !more.json.is_empty())),
            ("size", more.is_some_and(|more| more.size.is_some())),
        ];
        named.into_iter().filter(|(_, expected)| *expected).map(|(name, _)| name)
    }

    /// Judges an answer's status; one that was refused for who we are has a reason of its own.
    pub(super) fn judge_status(&self, status: StatusCode, otherwise: FailReason, progress: &mut Progress) {
        let holds = held(self.status.contains(status.as_u16()));
        progress.assertions.note("status", holds, otherwise, || (self.status.to_string(), status.as_u16().to_string()));
    }

    /// Judges the rest of an answer's head, which came from `url`.
    pub(super) fn judge_head(
        &self,
        version: hyper::Version,
        headers: &HeaderMap,
        url: &Url,
        redact: Redact<'_>,
        progress: &mut Progress,
    ) {
        let Some(more) = &self.more else { return };
        if let Some(expected) = more.version {
            let seen = link::version(version);
            let texts = || (expected.to_owned(), seen.to_owned());
            progress.assertions.note("http version", held(seen == expected), FailReason::Assertion, texts);
        }
        // A query may hold secrets of the target's making.
        let shown = &url[..Position::AfterPath];
        for condition in &more.url {
            let texts = || (condition.to_string(), quoted(&redact(shown)));
            progress.assertions.note("url", held(condition.meets(shown)), FailReason::Assertion, texts);
        }
        for (name, conditions) in &more.headers {
            let values: Vec<_> =
                headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            for condition in conditions {
                let holds = condition.meets_one(&values);
                progress.assertions.note(&format!("header {name}"), held(holds), FailReason::Assertion, || {
                    (condition.to_string(), seen_of(name, values.first().map(|value| &**value), redact))
                });
            }
        }
    }

    /// Judges a body.
    pub(super) fn judge_body(&self, seen: &body::Seen, redact: Redact<'_>, progress: &mut Progress) {
        let Some(more) = &self.more else { return };
        if let Some(bounds) = more.size {
            let (size, capped) = (seen.size, seen.end == body::End::Capped);
            // Of a body that was cut off it is known that it is longer than what was read.
            let holds = if capped { bounds.most.is_none() } else { bounds.hold(size) };
            progress.assertions.note("size", held(holds), FailReason::Assertion, || {
                let more = if capped { "more than " } else { "" };
                (format!("{bounds} bytes"), format!("{more}{size}"))
            });
        }
        let Some(kept) = &seen.text else { return };
        if !more.body.is_empty() {
            let text = String::from_utf8_lossy(&kept.bytes);
            // What stands for bytes that are no text is longer than they are.
            let text = &text[..text.floor_char_boundary(kept.bytes.len())];
            for condition in &more.body {
                progress.assertions.note("body", held(condition.meets(text)), FailReason::Assertion, || {
                    // What was seen instead stays here: bodies are never shown.
                    let seen = match kept.end {
                        body::End::Reached => format!("a body of {} bytes", text.len()),
                        body::End::Capped => format!("a body's first {} bytes", text.len()),
                    };
                    (condition.to_string(), seen)
                });
            }
        }
        json::judge(&more.json, kept, redact, progress);
    }
}

impl More {
    fn patterns(&self) -> usize {
        let conditions = self.headers.iter().flat_map(|(_, all)| all).chain(&self.url).chain(&self.body);
        conditions.filter(|condition| condition.pattern().is_some()).count()
            + self.json.iter().map(Claims::patterns).sum::<usize>()
    }

    /// What all of them are compiled to.
    fn patterns_kib(&self) -> usize {
        let conditions = self.headers.iter().flat_map(|(_, all)| all).chain(&self.url).chain(&self.body);
        conditions.filter_map(|condition| condition.pattern()).map(text::Pattern::kib).sum::<usize>()
            + self.json.iter().map(Claims::patterns_kib).sum::<usize>()
    }
}

/// Where to look for patterns that are too many, or too large together.
fn most_of(more: &More) -> &'static str {
    if more.json.iter().any(|claims| claims.patterns() > 0) { "json" } else { "matches" }
}

/// Reads a field whose reader takes any JSON.
fn one_or_many(
    fields: &mut Fields,
    field: &str,
    read: impl FnOnce(&Value) -> Result<Vec<Condition>, FieldErrors>,
) -> Vec<Condition> {
    let Some(value) = fields.optional::<Value>(field) else { return Vec::new() };
    read(&value).unwrap_or_else(|errors| {
        for error in &errors {
            let named = if error.field.is_empty() { field.to_owned() } else { format!("{field}.{}", error.field) };
            fields.wrong(&named, &error.problem);
        }
        Vec::new()
    })
}

fn headers(map: Map<String, Value>) -> Result<Vec<(HeaderName, Vec<Condition>)>, FieldErrors> {
    let mut fields = Fields::new(Map::new());
    let mut all = Vec::new();
    for (at, (name, value)) in map.into_iter().enumerate() {
        if at >= LIST_LIMIT {
            fields.wrong(&name, "is one too many: at most 32 headers can be expected");
            break;
        }
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            fields.wrong(&name, "is not a header name");
            continue;
        };
        let mut one = Fields::new(Map::from_iter([(name.clone(), value)]));
        let conditions = one_or_many(&mut one, &name, text::read_header);
        if let Err(errors) = one.finish() {
            fields.absorb(errors);
        }
        all.push((parsed, conditions));
    }
    fields.finish()?;
    Ok(all)
}

fn claims(map: Map<String, Value>) -> Result<Vec<Claims>, FieldErrors> {
    let mut fields = Fields::new(Map::new());
    let mut all = Vec::new();
    for (at, (path, value)) in map.into_iter().enumerate() {
        if at >= LIST_LIMIT {
            fields.wrong(&path, "is one too many: at most 32 paths can be expected");
            break;
        }
        match Claims::read(&path, &value) {
            Ok(claims) => all.push(claims),
            Err(errors) => fields.absorb(errors),
        }
    }
    fields.finish()?;
    Ok(all)
}

/// A header's value as far as it may be shown.
fn seen_of(name: &HeaderName, value: Option<&str>, redact: Redact<'_>) -> String {
    const HIDDEN: [HeaderName; 6] = [
        header::SET_COOKIE,
        header::COOKIE,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static("set-cookie2"),
        HeaderName::from_static("authentication-info"),
    ];
    match value {
        None => "none".to_owned(),
        Some(_) if HIDDEN.contains(name) => "a value that is not shown".to_owned(),
        // What stands behind them may hold secrets of the target's making.
        Some(value) if *name == header::LOCATION => quoted(&redact(value.split(['?', '#']).next().unwrap_or_default())),
        Some(value) => quoted(&redact(value)),
    }
}

impl Bounds {
    /// Reads a number, or an object with `min`, `max` or both.
    fn read(value: &Value) -> Option<Self> {
        if let Some(exactly) = value.as_u64() {
            return Some(Self { least: Some(exactly), most: Some(exactly) });
        }
        let map = value.as_object()?;
        let known = map.keys().all(|key| matches!(key.as_str(), "min" | "max"));
        let number = |key| map.get(key).map(|value: &Value| value.as_u64());
        let (least, most) = (number("min"), number("max"));
        let wrong = !known || map.is_empty() || least == Some(None) || most == Some(None);
        let bounds = Self { least: least.flatten(), most: most.flatten() };
        let ordered = bounds.least.zip(bounds.most).is_none_or(|(least, most)| least <= most);
        (!wrong && ordered).then_some(bounds)
    }

    fn hold(&self, number: u64) -> bool {
        self.least.is_none_or(|least| number >= least) && self.most.is_none_or(|most| number <= most)
    }

    /// The highest number that is of interest.
    fn highest(&self) -> u64 {
        self.most.or(self.least).unwrap_or(0)
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.least, self.most) {
            (Some(least), Some(most)) if least == most => write!(f, "exactly {least}"),
            (Some(least), Some(most)) => write!(f, "{least} to {most}"),
            (Some(least), None) => write!(f, "at least {least}"),
            (None, Some(most)) => write!(f, "at most {most}"),
            (None, None) => f.write_str("any number of"),
        }
    }
}
