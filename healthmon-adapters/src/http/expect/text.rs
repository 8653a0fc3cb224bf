//! Conditions on texts: headers, bodies, URLs.

use std::{borrow::Cow, fmt};

use healthmon_core::service::{FieldErrors, Fields};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};
use url::Url;

use crate::expression;

/// The longest text that can be expected, and the longest pattern, in bytes.
const TEXT_LIMIT: usize = 4 * 1024;
const PATTERN_LIMIT: usize = 1024;
/// How much memory a pattern's search may take.
const SEARCH_LIMIT: usize = 256 * 1024;
/// How many texts one field may list.
const LIST_LIMIT: usize = 16;
/// How much of a text is shown, in characters.
const SHOWN: usize = 64;

/// A regular expression.
#[derive(Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// What it is compiled to.
    kib: usize,
}

impl Pattern {
    pub(super) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    pub(super) const fn kib(&self) -> usize {
        self.kib
    }
}

/// What a text is to be.
#[derive(Debug)]
pub(super) enum Condition {
    Equals(Box<str>),
    Contains(Box<str>),
    NotContains(Box<str>),
    Matches(Pattern),
    NotMatches(Pattern),
    Present,
    Absent,
}

impl Condition {
    /// Whether a text that is there meets it.
    pub(super) fn meets(&self, text: &str) -> bool {
        match self {
            Self::Equals(expected) => *text == **expected,
            Self::Contains(expected) => text.contains(&**expected),
            Self::NotContains(unwanted) => !text.contains(&**unwanted),
            Self::Matches(pattern) => pattern.is_match(text),
            Self::NotMatches(pattern) => !pattern.is_match(text),
            Self::Present => true,
            Self::Absent => false,
        }
    }

    /// Whether one of several texts meets it, or all of them where it denies something.
    pub(super) fn meets_one(&self, texts: &[Cow<'_, str>]) -> bool {
        match self {
            Self::Absent => texts.is_empty(),
            Self::NotContains(_) | Self::NotMatches(_) => texts.iter().all(|text| self.meets(text)),
            _ => texts.iter().any(|text| self.meets(text)),
        }
    }

    pub(super) const fn pattern(&self) -> Option<&Pattern> {
        match self {
            Self::Matches(pattern) | Self::NotMatches(pattern) => Some(pattern),
            _ => None,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals(text) => f.write_str(&quoted(text)),
            Self::Contains(text) => write!(f, "to contain {}", quoted(text)),
            Self::NotContains(text) => write!(f, "not to contain {}", quoted(text)),
            Self::Matches(pattern) => write!(f, "to match {}", quoted(pattern.regex.as_str())),
            Self::NotMatches(pattern) => write!(f, "not to match {}", quoted(pattern.regex.as_str())),
            Self::Present => f.write_str("to be present"),
            Self::Absent => f.write_str("to be absent"),
        }
    }
}

/// A text as it is shown: in quotes, escaped and cut.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// A pattern that is not too large.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() || text.len() > PATTERN_LIMIT {
        return Err("must be a pattern of 1 to 1024 bytes".to_owned());
    }
    let build = |limit| RegexBuilder::new(text).size_limit(limit).dfa_size_limit(SEARCH_LIMIT).build();
    expression::compile(build).map(|(regex, kib)| Pattern { regex, kib }).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => expression::TOO_LARGE.to_owned(),
        // Its last line says what is wrong, those before it draw the place.
        other => {
            let said = other.to_string();
            let last = said.lines().last().unwrap_or_default();
            format!("must be a pattern that the crate regex reads: {}", last.trim_start_matches("error: "))
        }
    })
}

/// Reads what a body is to be: a text that it contains, or an object.
pub(super) fn read_body(value: &Value) -> Result<Vec<Condition>, FieldErrors> {
    match value {
        Value::String(text) => expected(text).map(|text| vec![Condition::Contains(text)]).map_err(of_it),
        Value::Object(map) => read(map, &["contains", "not_contains", "matches", "not_matches"]),
        _ => Err(of_it("must be a text, or an object with contains, not_contains, matches or not_matches")),
    }
}

/// Reads what a header is to be: its value, or an object.
pub(super) fn read_header(value: &Value) -> Result<Vec<Condition>, FieldErrors> {
    match value {
        Value::String(text) => expected(text).map(|text| vec![Condition::Equals(text)]).map_err(of_it),
        Value::Object(map) => read(map, &["equals", "contains", "not_contains", "matches", "not_matches", "exists"]),
        _ => Err(of_it("must be a text, or an object with equals, contains, matches or exists")),
    }
}

/// Reads what the URL is to be in the end: a URL, or an object.
pub(super) fn read_url(value: &Value) -> Result<Vec<Condition>, FieldErrors> {
    match value {
        Value::String(text) => url(text).map(|condition| vec![condition]).map_err(of_it),
        Value::Object(map) => read(map, &["contains", "not_contains", "matches", "not_matches"]),
        _ => Err(of_it("must be a URL, or an object with contains or matches")),
    }
}

fn url(text: &str) -> Result<Condition, String> {
    let url = Url::parse(text).ok().filter(|url| url.query().is_none() && url.fragment().is_none() && url.has_host());
    url.map(|url| Condition::Equals(url.as_str().into()))
        .ok_or_else(|| "must be a URL without query and fragment, which are not compared".to_owned())
}

fn of_it(problem: impl fmt::Display) -> FieldErrors {
    FieldErrors::one("", problem)
}

fn read(map: &Map<String, Value>, known: &[&str]) -> Result<Vec<Condition>, FieldErrors> {
    let mut fields = Fields::new(Map::new());
    let mut conditions = Vec::new();
    for (name, value) in map {
        if !known.contains(&name.as_str()) {
            fields.wrong(name, "is not a known field");
            continue;
        }
        if name == "exists" {
            match value {
                Value::Bool(true) => conditions.push(Condition::Present),
                Value::Bool(false) => conditions.push(Condition::Absent),
                _ => fields.wrong(name, "must be true or false"),
            }
            continue;
        }
        let texts = match value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(list) if (1..=LIST_LIMIT).contains(&list.len()) => list,
            _ => {
                fields.wrong(name, "must be a text, or a list of 1 to 16 of them");
                continue;
            }
        };
        for text in texts {
            match text.as_str().ok_or_else(|| "must be a text".to_owned()).and_then(|text| condition(name, text)) {
                Ok(condition) => conditions.push(condition),
                Err(problem) => fields.wrong(name, problem),
            }
        }
    }
    if map.is_empty() {
        return Err(of_it(format!("must have one of {}", known.join(", "))));
    }
    fields.finish()?;
    Ok(conditions)
}

fn condition(name: &str, text: &str) -> Result<Condition, String> {
    Ok(match name {
        "equals" => Condition::Equals(expected(text)?),
        "contains" => Condition::Contains(expected(text)?),
        "not_contains" => Condition::NotContains(expected(text)?),
        "matches" => Condition::Matches(pattern(text)?),
        _ => Condition::NotMatches(pattern(text)?),
    })
}

fn expected(text: &str) -> Result<Box<str>, String> {
    if text.is_empty() || text.len() > TEXT_LIMIT {
        return Err("must be a text of 1 to 4096 bytes".to_owned());
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pattern_is_bounded_in_length_and_in_what_it_compiles_to() {
        for (wrong, said) in [
            (String::new(), "1 to 1024 bytes"),
            ("x".repeat(1_025), "1 to 1024 bytes"),
            ("((a{100}){100}){100}".to_owned(), "one expression may take 64 KiB"),
            ("(".to_owned(), "unclosed group"),
        ] {
            let refused = pattern(&wrong).expect_err("refused");
            assert!(refused.contains(said), "{wrong}: {refused}");
        }
    }

    #[test]
    fn what_would_take_another_engine_for_ever_is_linear_here() {
        let evil = pattern("^(a+)+$").expect("a pattern");
        assert!(!evil.is_match(&("a".repeat(65_535) + "b")));
    }

    #[test]
    fn a_text_is_shown_quoted_escaped_and_cut() {
        assert_eq!(quoted("a\u{1b}\"b"), "\"a\\u{1b}\\\"b\"");
        assert_eq!(quoted(&"ü".repeat(65)), format!("\"{}\"…", "ü".repeat(64)));
    }

    #[test]
    fn what_is_denied_must_hold_of_every_value() {
        let values = [Cow::Borrowed("a"), Cow::Borrowed("b")];
        let of = |json: Value| read_header(&json).expect("conditions").remove(0).meets_one(&values);
        assert!(of(json!("b")) && of(json!({"not_contains": "c"})) && of(json!({"exists": true})));
        assert!(!of(json!("c")) && !of(json!({"not_contains": "b"})) && !of(json!({"exists": false})));
    }
}
