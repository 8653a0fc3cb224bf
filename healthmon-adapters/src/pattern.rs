//! What may be expected of what a peer sends: a text in it, at its beginning, or a regular expression.

use std::fmt;

use healthmon_core::service::{FieldErrors, Fields};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::Value;

use crate::expression;

/// The longest text that can be looked for, in bytes.
const TEXT_LIMIT: usize = 4 * 1024;
/// The longest regular expression, in bytes.
const REGEX_LIMIT: usize = 1024;
/// The longest text that is searched at once, in KiB.
const TEXT_KIB: usize = 64;
/// What a regular expression's search may take, in bytes.
const SEARCH_LIMIT: usize = 256 * 1024;

/// In settings a text, which must be contained, or one of `{"contains": "…"}`, `{"prefix": "…"}`
/// and `{"regex": "…"}`.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    kind: Kind,
    /// As it is written.
    written: Box<str>,
}

#[derive(Debug, Clone)]
enum Kind {
    Contains(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex {
        regex: Regex,
        /// What it is compiled to.
        kib: usize,
    },
}

/// Whether what came so far is what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is; what was expected ends before this byte.
    Until(usize),
    /// Not yet, but what comes may make it so.
    NotYet,
    /// It is not, whatever may come.
    Never,
}

/// What may still be spent on searches that may take long.
#[derive(Debug)]
pub(crate) struct Effort {
    /// Bytes of text times KiB of expression.
    left: usize,
}

impl Effort {
    /// As much as the longest text costs with as much as may be compiled.
    #[cfg(feature = "websocket")]
    pub(crate) const fn of_a_probe() -> Self {
        Self { left: TEXT_KIB * 1024 * expression::SUM_LIMIT }
    }

    /// As much as the longest text costs with this pattern.
    #[cfg(feature = "tcp")]
    pub(crate) const fn of(pattern: &Pattern) -> Self {
        Self { left: TEXT_KIB * 1024 * pattern.kib() }
    }

    /// Whether there is enough left to search `seen` for `pattern`; if so, it is spent.
    pub(crate) fn spend(&mut self, pattern: &Pattern, seen: &[u8]) -> bool {
        let left = self.left.checked_sub(seen.len().saturating_mul(pattern.kib()));
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

impl Pattern {
    /// Reads a pattern; `decode` makes bytes of a text to be contained or begun with.
    ///
    /// # Errors
    /// Every field that is wrong, the pattern itself being called `field`.
    pub(crate) fn read(
        field: &str,
        value: Value,
        decode: impl Fn(&str) -> Result<Vec<u8>, String>,
    ) -> Result<Self, FieldErrors> {
        let bytes = |text: &str| match decode(text) {
            Ok(bytes) if bytes.is_empty() || bytes.len() > TEXT_LIMIT => {
                Err("must be a text of 1 to 4096 bytes".to_owned())
            }
            decoded => decoded.map(Vec::into_boxed_slice),
        };
        let map = match value {
            Value::String(text) => {
                let kind = bytes(&text).map(Kind::Contains);
                return kind
                    .map(|kind| Self { kind, written: text.into() })
                    .map_err(|problem| FieldErrors::one(field, problem));
            }
            Value::Object(map) => map,
            _ => return Err(FieldErrors::one(field, FORMS)),
        };
        let mut fields = Fields::new(map);
        let mut read = Vec::new();
        for (name, make) in [
            ("contains", (&|text: &str| bytes(text).map(Kind::Contains)) as &dyn Fn(&str) -> Result<Kind, String>),
            ("prefix", &|text| bytes(text).map(Kind::Prefix)),
            ("regex", &|text| compile(text).map(|(regex, kib)| Kind::Regex { regex, kib })),
        ] {
            let Some(text) = fields.optional::<String>(name) else { continue };
            match make(&text) {
                Ok(kind) => read.push(Self { kind, written: text.into() }),
                Err(problem) => fields.wrong(name, problem),
            }
        }
        fields.finish().map_err(|errors| errors.within(field))?;
        match (read.pop(), read.pop()) {
            (Some(pattern), None) => Ok(pattern),
            _ => Err(FieldErrors::one(field, FORMS)),
        }
    }

    /// Judges what came so far, of which the first `judged` bytes were judged before.
    pub(crate) fn find(&self, seen: &[u8], judged: usize) -> Found {
        let until = match &self.kind {
            Kind::Contains(text) => {
                // What was judged holds at most a part of it, at its end.
                let from = judged.saturating_sub(text.len() - 1).min(seen.len());
                seen[from..].windows(text.len()).position(|window| window == &**text).map(|at| from + at + text.len())
            }
            Kind::Prefix(text) => {
                let common = seen.len().min(text.len());
                if seen[..common] != text[..common] {
                    return Found::Never;
                }
                (common == text.len()).then_some(common)
            }
            // Nothing is no answer, even where the expression would take it.
            Kind::Regex { .. } if seen.is_empty() => None,
            Kind::Regex { regex, .. } => regex.find(seen).map(|found| found.end()),
        };
        until.map_or(Found::NotYet, Found::Until)
    }

    /// Whether it is compiled, and takes the memory of that.
    pub(crate) const fn is_compiled(&self) -> bool {
        matches!(self.kind, Kind::Regex { .. })
    }

    /// What it is compiled to.
    pub(crate) const fn kib(&self) -> usize {
        match self.kind {
            Kind::Regex { kib, .. } => kib,
            _ => 0,
        }
    }

    /// Whether judging again costs as much as all that came so far, and not just what is new.
    #[cfg(feature = "tcp")]
    pub(crate) const fn rereads(&self) -> bool {
        matches!(self.kind, Kind::Regex { .. })
    }
}

const FORMS: &str = "must be a text, or one of {\"contains\": \"…\"}, {\"prefix\": \"…\"} and {\"regex\": \"…\"}";

fn compile(text: &str) -> Result<(Regex, usize), String> {
    if text.is_empty() || text.len() > REGEX_LIMIT {
        return Err("must be a regular expression of 1 to 1024 bytes".to_owned());
    }
    let build = |limit| RegexBuilder::new(text).size_limit(limit).dfa_size_limit(SEARCH_LIMIT).build();
    expression::compile(build).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => expression::TOO_LARGE.to_owned(),
        other => {
            // The parser draws an arrow under the text over several lines; its last one says what is wrong.
            let drawn = other.to_string();
            let problem = drawn.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("is no regular expression: {problem}")
        }
    })
}

/// What is expected, to follow "expected".
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// How much of a pattern is shown, in characters.
        const SHOWN: usize = 80;
        let how = match self.kind {
            Kind::Contains(_) => "to contain",
            Kind::Prefix(_) => "to begin with",
            Kind::Regex { .. } => "to match",
        };
        let shown: String = self.written.chars().take(SHOWN).collect();
        let more = if shown.len() < self.written.len() { "…" } else { "" };
        write!(f, "{how} {shown:?}{more}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pattern(value: Value) -> Pattern {
        Pattern::read("expect", value, |text| Ok(text.as_bytes().to_vec())).expect("a pattern")
    }

    #[test]
    fn a_text_is_found_wherever_the_pieces_end() {
        let text = b"220 mail.test ESMTP ready";
        for (wanted, until) in
            [(json!("ESMTP"), 19), (json!({"prefix": "220 "}), 4), (json!({"regex": "^220.*SM"}), 17)]
        {
            let pattern = pattern(wanted.clone());
            for first in 0..text.len() {
                let early = pattern.find(&text[..first], 0);
                let found = match early {
                    Found::NotYet => pattern.find(text, first),
                    other => other,
                };
                assert_eq!(found, Found::Until(until), "{wanted} cut at {first}");
                assert_eq!(early == Found::NotYet, first < until, "{wanted} cut at {first}");
            }
        }
    }

    #[test]
    fn only_a_prefix_is_ever_given_up_early() {
        assert_eq!(pattern(json!({"prefix": "+OK"})).find(b"-", 0), Found::Never);
        assert_eq!(pattern(json!({"contains": "+OK"})).find(b"-ERR no\r\n", 0), Found::NotYet);
        assert_eq!(pattern(json!({"regex": "^\\+OK"})).find(b"-ERR no\r\n", 0), Found::NotYet);
    }

    #[cfg(feature = "websocket")]
    #[test]
    fn sec_what_one_probe_spends_on_searches_is_bounded() {
        let (small, large) = (pattern(json!({"regex": "^ok"})), pattern(json!({"regex": r"\w+!"})));
        let mut effort = Effort::of_a_probe();
        assert!((0..16).all(|_| effort.spend(&small, &[0; 64 * 1024])), "a mebibyte for what is usual");
        let mut effort = Effort::of_a_probe();
        assert!(effort.spend(&large, &[0; 64 * 1024]), "the longest text once, whatever the expression");
        assert!(!effort.spend(&large, &[0; 64 * 1024]));
        assert!(effort.spend(&large, &[0; 1024]), "what is refused is not spent");
        assert!(
            (0..1_000).all(|_| effort.spend(&pattern(json!("text")), &[0; 64 * 1024])),
            "a text costs next to nothing"
        );
    }

    #[test]
    fn nothing_is_no_answer() {
        assert_eq!(pattern(json!({"regex": ".*"})).find(b"", 0), Found::NotYet);
        assert_eq!(pattern(json!({"regex": ".*"})).find(b"x", 0), Found::Until(1));
    }

    #[test]
    fn a_pattern_says_what_it_wants_and_never_at_length() {
        assert_eq!(pattern(json!("\u{1b}[31m")).to_string(), "to contain \"\\u{1b}[31m\"");
        assert_eq!(pattern(json!({"regex": "^a"})).to_string(), "to match \"^a\"");
        assert!(pattern(json!("x".repeat(4096))).to_string().len() < 120);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (value, named, says) in [
            (json!(1), "expect", "must be a text, or one of"),
            (json!(""), "expect", "1 to 4096 bytes"),
            (json!("x".repeat(4097)), "expect", "1 to 4096 bytes"),
            (json!({}), "expect", "must be a text, or one of"),
            (json!({"prefix": "a", "regex": "b"}), "expect", "must be a text, or one of"),
            (json!({"prefix": 1}), "expect.prefix", "invalid type"),
            (json!({"regex": "("}), "expect.regex", "is no regular expression: unclosed group"),
            (json!({"regex": "(\\w{1000}){1000}"}), "expect.regex", "is too large"),
            (json!({"regex": "x".repeat(1025)}), "expect.regex", "1 to 1024 bytes"),
            (json!({"colour": 1}), "expect.colour", "not a known field"),
        ] {
            let errors =
                Pattern::read("expect", value.clone(), |text| Ok(text.as_bytes().to_vec())).expect_err("wrong");
            let error = errors.iter().next().expect("one");
            assert_eq!(error.field, named, "{value}");
            assert!(error.problem.contains(says), "{value}: {error:?}");
        }
    }
}
