//! What is expected of an answer.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use healthmon_core::{
    probe::{FailReason, Held},
    service::{FieldErrors, Fields},
    time::span,
};
use hickory_proto::rr::{Record, RecordType};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    answers::{self, normal, text},
    message::{Answer, Rcode},
    question::Question,
};
use crate::{
    expression,
    net::{Progress, attempt::Fault},
};

/// How many answers may be listed, and how many codes.
const LIST_LIMIT: usize = 64;
const TEXT_LIMIT: usize = 1024;
/// How much memory a pattern may take when it is compiled.
const SEARCH_LIMIT: usize = 256 * 1024;
/// How many answers are told, and how much of each.
const TOLD: usize = 8;
const TOLD_CHARS: usize = 100;

const RCODES: &str = "must be a response code such as \"NOERROR\", \"NXDOMAIN\" or 3, or a list of those";

/// What is expected of an answer, beside what is expected of any.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// Never empty but by default, which is `NOERROR`.
    rcodes: Vec<Rcode>,
    answers: Answers,
    authenticated: Option<bool>,
    ttl: Option<Bounds<Duration>>,
}

#[derive(Debug, Default)]
struct Answers {
    exactly: Option<BTreeSet<String>>,
    contains: Vec<String>,
    count: Option<Bounds<usize>>,
    matches: Option<(Regex, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Bounds<T> {
    min: Option<T>,
    max: Option<T>,
}

/// A time to live as people write it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Span(#[serde(with = "span")] Duration);

impl<T: PartialOrd + Copy> Bounds<T> {
    fn read<W: serde::de::DeserializeOwned>(map: Map<String, Value>, unwrap: fn(W) -> T) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let min = fields.optional::<W>("min").map(unwrap);
        let max = fields.optional::<W>("max").map(unwrap);
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            fields.wrong("max", "must be at least min");
        }
        fields.finish()?;
        Ok(Self { min, max })
    }

    fn hold(&self, value: T) -> bool {
        self.min.is_none_or(|min| value >= min) && self.max.is_none_or(|max| value <= max)
    }

    fn told(&self, text: impl Fn(T) -> String) -> String {
        match (self.min.map(&text), self.max.map(&text)) {
            (Some(min), Some(max)) if min == max => min,
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => "any".to_owned(),
        }
    }
}

impl Expected {
    /// How many patterns are in it.
    pub(super) fn patterns(&self) -> usize {
        usize::from(self.answers.matches.is_some())
    }

    /// What it is compiled to, in KiB.
    pub(super) fn patterns_kib(&self) -> usize {
        self.answers.matches.as_ref().map_or(0, |(_, kib)| *kib)
    }

    /// Takes its fields out of the section `expect`; what is asked for says how answers are written.
    pub(super) fn read(fields: &mut Fields, kind: RecordType) -> Self {
        let rcodes = match fields.optional::<Value>("rcode").map(|value| rcodes(&value)) {
            None => Vec::new(),
            Some(Ok(codes)) => codes,
            Some(Err(errors)) => {
                fields.absorb(errors);
                Vec::new()
            }
        };
        let mut rest = fields.take_rest();
        // A bare list is short for exactly those.
        if let Some(list @ Value::Array(_)) = rest.get_mut("answers") {
            *list = Value::Object(Map::from_iter([("exactly".to_owned(), list.take())]));
        }
        fields.put_back(rest);
        let answers = fields.section("answers", |map| Answers::read(map, kind)).unwrap_or_default();
        let authenticated = fields.optional("authenticated");
        let ttl = fields.section("ttl", |map| Bounds::read(map, |Span(span)| span));
        Self { rcodes, answers, authenticated, ttl }
    }

    /// Notes in `progress` what `answer` does not meet.
    pub(super) fn judge(&self, answer: &Answer, question: &Question, progress: &mut Progress) -> Result<(), Fault> {
        let rcode = answer.rcode();
        let expected = if self.rcodes.is_empty() { &[Rcode::NOERROR] } else { self.rcodes.as_slice() };
        let as_expected = expected.contains(&rcode);
        progress.assertions.note("response code", held(as_expected), FailReason::Status, || {
            let codes: Vec<String> = expected.iter().map(ToString::to_string).collect();
            (codes.join(" or "), rcode.to_string())
        });
        // What an answer of another kind holds says nothing more.
        if !as_expected {
            return Ok(());
        }
        let records = answers::of(answer, question)?;
        self.answers.judge(&records, rcode, progress);
        if let Some(wanted) = self.authenticated {
            let seen = answer.message.metadata.authentic_data;
            progress.assertions.note("authenticated", held(seen == wanted), FailReason::Assertion, || {
                (wanted.to_string(), seen.to_string())
            });
        }
        if let Some(bounds) = &self.ttl {
            let outside = records.iter().find(|record| !bounds.hold(Duration::from_secs(record.ttl.into())));
            progress.assertions.note("ttl", held(outside.is_none()), FailReason::Assertion, || {
                let seen = outside.or(records.first()).map_or_else(|| "no answer".to_owned(), |r| seconds(r.ttl));
                (bounds.told(span::format), seen)
            });
        }
        Ok(())
    }
}

fn seconds(ttl: u32) -> String {
    span::format(Duration::from_secs(ttl.into()))
}

const fn held(as_expected: bool) -> Held {
    if as_expected { Held::Held } else { Held::Failed }
}

impl Answers {
    fn read(map: Map<String, Value>, kind: RecordType) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let exactly = texts(&mut fields, "exactly", kind).map(BTreeSet::from_iter);
        let contains = texts(&mut fields, "contains", kind).unwrap_or_default();
        let count = match fields.optional::<Value>("count") {
            None => None,
            Some(Value::Object(map)) => {
                Bounds::read(map, |count: usize| count).map_err(|errors| fields.absorb(errors.within("count"))).ok()
            }
            Some(number) => match number.as_u64().and_then(|number| usize::try_from(number).ok()) {
                Some(count) => Some(Bounds { min: Some(count), max: Some(count) }),
                None => {
                    fields.wrong("count", "must be a number, or {\"min\": 1, \"max\": 4}");
                    None
                }
            },
        };
        let matches = fields.optional::<String>("matches").and_then(|written| match pattern(&written) {
            Ok(pattern) => Some(pattern),
            Err(problem) => {
                fields.wrong("matches", problem);
                None
            }
        });
        fields.finish()?;
        Ok(Self { exactly, contains, count, matches })
    }

    fn judge(&self, records: &[&Record], rcode: Rcode, progress: &mut Progress) {
        let seen: Vec<String> = records.iter().map(|record| text(&record.data)).collect();
        let mut note = |what, as_expected, expected: &dyn Fn() -> String| {
            progress.assertions.note(what, held(as_expected), FailReason::Assertion, || (expected(), told(&seen)));
        };
        match &self.count {
            Some(count) => note("answers", count.hold(seen.len()), &|| count.told(|n| n.to_string())),
            // Other codes have none.
            None if rcode == Rcode::NOERROR && self.exactly.is_none() => {
                note("answers", !seen.is_empty(), &|| "at least 1".to_owned());
            }
            None => {}
        }
        if let Some(exactly) = &self.exactly {
            let same = exactly.iter().eq(seen.iter().collect::<BTreeSet<_>>());
            note("answers", same, &|| format!("exactly {}", told(&exactly.iter().cloned().collect::<Vec<_>>())));
        }
        for wanted in &self.contains {
            note("answers", seen.contains(wanted), &|| short(wanted));
        }
        if let Some((pattern, _)) = &self.matches {
            note("answers", seen.iter().all(|text| pattern.is_match(text)), &|| {
                format!("each to match {}", short(pattern.as_str()))
            });
        }
    }
}

/// With what it is compiled to, in KiB.
fn pattern(written: &str) -> Result<(Regex, usize), String> {
    if written.is_empty() || written.len() > TEXT_LIMIT {
        return Err(format!("must be a pattern of 1 to {TEXT_LIMIT} bytes"));
    }
    let build = |limit| RegexBuilder::new(written).size_limit(limit).dfa_size_limit(SEARCH_LIMIT).build();
    expression::compile(build).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => expression::TOO_LARGE.to_owned(),
        error => format!("must be a regular expression: {}", error.to_string().replace('\n', " ")),
    })
}

/// A list of answers as they are written for this type.
fn texts(fields: &mut Fields, field: &str, kind: RecordType) -> Option<Vec<String>> {
    let written: Vec<String> = fields.optional(field)?;
    if written.len() > LIST_LIMIT || written.iter().any(|text| text.len() > TEXT_LIMIT) {
        fields.wrong(field, format_args!("must be at most {LIST_LIMIT} answers of at most {TEXT_LIMIT} bytes"));
    }
    for (at, text) in written.iter().enumerate() {
        let address: Option<IpAddr> = text.trim().parse().ok();
        let fits = match kind {
            RecordType::A => address.is_some_and(|address| address.is_ipv4()),
            RecordType::AAAA => address.is_some_and(|address| address.is_ipv6()),
            _ => true,
        };
        if !fits {
            fields.wrong(&format!("{field}[{at}]"), format_args!("must be an address as records of type {kind} hold"));
        }
    }
    Some(written.iter().map(|text| normal(kind, text)).collect())
}

fn rcodes(value: &Value) -> Result<Vec<Rcode>, FieldErrors> {
    let one = |value: &Value| match value {
        Value::String(name) => Rcode::from_name(name.trim()),
        value => value.as_u64().and_then(Rcode::from_number),
    };
    let list = match value {
        Value::Array(list) => list.as_slice(),
        single => std::slice::from_ref(single),
    };
    if list.is_empty() || list.len() > LIST_LIMIT {
        return Err(FieldErrors::one("rcode", RCODES));
    }
    list.iter().map(|value| one(value).ok_or_else(|| FieldErrors::one("rcode", RCODES))).collect()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(TOLD_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The answers that were seen, not all of them when there are many.
fn told(seen: &[String]) -> String {
    let mut told: Vec<String> = seen.iter().take(TOLD).map(|text| short(text)).collect();
    match seen.len() {
        0 => return "none".to_owned(),
        many if many > TOLD => told.push(format!("and {} more", many - TOLD)),
        _ => {}
    }
    told.join(", ")
}
