//! What is expected of a JSON document.

use std::{cmp::Ordering, fmt};

use healthmon_core::{
    probe::FailReason,
    service::{FieldErrors, Fields},
};
use serde_json::{Map, Number, Value};

use super::{
    Bounds, Redact, held,
    path::{Budget, Exhausted, Path, equal},
    text::quoted,
};
use crate::{
    http::body::{End, Kept},
    net::Progress,
};

/// What is expected at one path.
pub(super) struct Claims {
    path: Path,
    claims: Vec<Claim>,
}

/// What the values at a path are to be: each of them, and there must be one.
enum Claim {
    Equals(Value),
    Differs(Value),
    /// How a number is to stand to another one.
    Ordered(&'static str, Number),
    /// A text that holds a text, or a list that holds a value.
    Contains(Value),
    Present,
    Absent,
    /// How many there are.
    Count(Bounds),
}

impl Claims {
    /// Reads what is expected at `path`: a value, or an object of comparisons.
    pub(super) fn read(path: &str, value: &Value) -> Result<Self, FieldErrors> {
        let parsed = Path::read(path).map_err(|problem| FieldErrors::one(path, problem))?;
        let claims = match value {
            Value::Object(map) => read(map).map_err(|errors| errors.within(path))?,
            plain => vec![Claim::Equals(plain.clone())],
        };
        Ok(Self { path: parsed, claims })
    }

    pub(super) fn patterns(&self) -> usize {
        self.path.patterns()
    }

    pub(super) fn patterns_kib(&self) -> usize {
        self.path.patterns_kib()
    }
}

fn read(map: &Map<String, Value>) -> Result<Vec<Claim>, FieldErrors> {
    let mut fields = Fields::new(Map::new());
    let mut claims = Vec::new();
    for (name, value) in map {
        let number = || value.as_number().cloned().ok_or("must be a number");
        let claim = match name.as_str() {
            "equals" => Ok(Claim::Equals(value.clone())),
            "not" => Ok(Claim::Differs(value.clone())),
            "<" => number().map(|number| Claim::Ordered("<", number)),
            "<=" => number().map(|number| Claim::Ordered("<=", number)),
            ">" => number().map(|number| Claim::Ordered(">", number)),
            ">=" => number().map(|number| Claim::Ordered(">=", number)),
            "contains" => Ok(Claim::Contains(value.clone())),
            "exists" => match value {
                Value::Bool(true) => Ok(Claim::Present),
                Value::Bool(false) => Ok(Claim::Absent),
                _ => Err("must be true or false"),
            },
            "count" => {
                let wrong = "must be a number, or {\"min\": …, \"max\": …} of those";
                Bounds::read(value).map(Claim::Count).ok_or(wrong)
            }
            _ => Err("is not one of equals, not, <, <=, >, >=, contains, exists, count"),
        };
        match claim {
            Ok(claim) => claims.push(claim),
            Err(problem) => fields.wrong(name, problem),
        }
    }
    if map.is_empty() {
        fields.wrong("equals", "or another comparison is required; {\"equals\": {}} expects an empty object");
    }
    fields.finish()?;
    Ok(claims)
}

/// Judges what was kept of a body. The values in it may be anything at all: of those only numbers,
/// truths and sizes are told.
pub(super) fn judge(all: &[Claims], kept: &Kept, redact: Redact<'_>, progress: &mut Progress) {
    if all.is_empty() {
        return;
    }
    let document: Value = match parse(kept) {
        Ok(document) => document,
        Err(seen) => {
            let texts = || ("a JSON document".to_owned(), seen);
            return progress.assertions.note("json", held(false), FailReason::Assertion, texts);
        }
    };
    // One for all of them: how many paths a service names is not what a probe may cost.
    let mut budget = Budget::default();
    for Claims { path, claims } in all {
        let found = path.select(&document, &mut budget);
        for claim in claims {
            let judged = found.as_ref().map_err(|exhausted| *exhausted);
            let judged = judged.and_then(|found| claim.judge(found, &mut budget));
            let what = format!("json {}", path.text());
            let (holds, seen) = match judged {
                Ok(None) => (true, found.as_ref().map(|found| all_of(found)).unwrap_or_default()),
                Ok(Some(seen)) => (false, seen),
                Err(Exhausted) => (false, "a document with too much to look at".to_owned()),
            };
            progress.assertions.note(&what, held(holds), FailReason::Assertion, || (claim.to_string(), redact(&seen)));
        }
    }
}

fn parse(kept: &Kept) -> Result<Value, String> {
    if kept.end == End::Capped {
        return Err(format!("more than {} bytes, which are not read", kept.bytes.len()));
    }
    serde_json::from_slice(&kept.bytes).map_err(|error| match error.line() {
        // Its own text may repeat what it could not read.
        0 => "something else".to_owned(),
        line => format!("something else at line {line}, column {}", error.column()),
    })
}

impl Claim {
    /// What was seen instead, if it is not what was expected.
    fn judge(&self, found: &[&Value], budget: &mut Budget) -> Result<Option<String>, Exhausted> {
        match self {
            Self::Present => return Ok(found.is_empty().then(|| "nothing".to_owned())),
            Self::Absent => return Ok((!found.is_empty()).then(|| all_of(found))),
            Self::Count(bounds) => {
                let count = found.len();
                return Ok((!bounds.hold(count as u64)).then(|| count.to_string()));
            }
            _ if found.is_empty() => return Ok(Some("nothing".to_owned())),
            _ => {}
        }
        for (at, value) in found.iter().enumerate() {
            if !self.holds_of(value, budget)? {
                let of =
                    if found.len() > 1 { format!(" (value {} of {})", at + 1, found.len()) } else { String::new() };
                return Ok(Some(format!("{}{of}", shape(value))));
            }
        }
        Ok(None)
    }

    fn holds_of(&self, value: &Value, budget: &mut Budget) -> Result<bool, Exhausted> {
        Ok(match self {
            Self::Equals(expected) => equal(value, expected, budget)?,
            Self::Differs(unwanted) => !equal(value, unwanted, budget)?,
            Self::Ordered(operator, bound) => {
                let order = value.as_number().and_then(|number| order(number, bound));
                order.is_some_and(|order| match *operator {
                    "<" => order == Ordering::Less,
                    "<=" => order != Ordering::Greater,
                    ">" => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                })
            }
            Self::Contains(wanted) => match (value, wanted) {
                (Value::String(text), Value::String(wanted)) => text.contains(wanted.as_str()),
                (Value::Array(list), wanted) => {
                    for one in list {
                        if equal(one, wanted, budget)? {
                            return Ok(true);
                        }
                    }
                    false
                }
                _ => false,
            },
            Self::Present | Self::Absent | Self::Count(_) => true,
        })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| match value {
            Value::String(text) => quoted(text),
            number @ (Value::Number(_) | Value::Bool(_) | Value::Null) => number.to_string(),
            other => shape(other),
        };
        match self {
            Self::Equals(value) => f.write_str(&shown(value)),
            Self::Differs(value) => write!(f, "other than {}", shown(value)),
            Self::Ordered(operator, number) => write!(f, "{operator} {number}"),
            Self::Contains(value) => write!(f, "to contain {}", shown(value)),
            Self::Present => f.write_str("to exist"),
            Self::Absent => f.write_str("nothing"),
            Self::Count(bounds) => write!(f, "{bounds} values"),
        }
    }
}

/// How two numbers stand to each other; integers are compared as such.
pub(super) fn order(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i64().zip(b.as_i64()), a.as_u64().zip(b.as_u64())) {
        (Some((a, b)), _) => Some(a.cmp(&b)),
        (None, Some((a, b))) => Some(a.cmp(&b)),
        (None, None) => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

/// What may be told of a value.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("a text of {} characters", text.chars().count()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(map) => format!("an object of {} fields", map.len()),
    }
}

fn all_of(found: &[&Value]) -> String {
    match found {
        [] => "nothing".to_owned(),
        [one] => shape(one),
        many => format!("{} values", many.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(path: &str, expected: Value, document: &Value) -> Option<String> {
        let Claims { path, claims } = Claims::read(path, &expected).expect("claims");
        let mut budget = Budget::default();
        let found = path.select(document, &mut budget).expect("a small document");
        claims.iter().find_map(|claim| claim.judge(&found, &mut budget).expect("a small document"))
    }

    #[test]
    fn every_comparison_holds_where_it_should_and_tells_no_text_where_it_does_not() {
        let document = json!({
            "status": "green", "ratio": 0.5, "big": 18_446_744_073_709_551_615_u64, "ok": true, "none": null,
            "nodes": [{"up": true, "load": 3}, {"up": true, "load": 7}], "tags": ["a", "b"], "empty": {},
        });
        for (path, expected, instead) in [
            ("$.status", json!("green"), None),
            ("$.status", json!("red"), Some("a text of 5 characters")),
            ("$.status", json!({"not": "red"}), None),
            ("$.status", json!({"contains": "ree"}), None),
            ("$.status", json!({"contains": "x"}), Some("a text of 5 characters")),
            ("$.status", json!({">": 3}), Some("a text of 5 characters")),
            ("$.ratio", json!({">=": 0.5, "<": 1}), None),
            ("$.ratio", json!({"<": 0.5}), Some("0.5")),
            ("$.big", json!({">": 18_446_744_073_709_551_614_u64}), None),
            ("$.nodes.length", json!(1), Some("nothing")),
            ("$.nodes[*].up", json!(true), None),
            ("$.nodes[*].load", json!({"<=": 3}), Some("7 (value 2 of 2)")),
            ("$.nodes[*]", json!({"count": 2}), None),
            ("$.nodes[*]", json!({"count": {"min": 3}}), Some("2")),
            ("$.nodes[?@.load > 5]", json!({"count": {"max": 1}}), None),
            ("$.nodes", json!({"contains": {"load": 3.0, "up": true}}), None),
            ("$.tags", json!({"contains": "b"}), None),
            ("$.tags", json!({"contains": "c"}), Some("a list of 2")),
            ("$.tags", json!(["a", "b"]), None),
            ("$.none", json!(null), None),
            ("$.none", json!({"exists": true}), None),
            ("$.nowhere", json!({"exists": false}), None),
            ("$.nowhere", json!({"exists": true}), Some("nothing")),
            ("$.ok", json!({"exists": false}), Some("true")),
            ("$.empty", json!({"equals": {}}), None),
            ("$.empty", json!({"equals": {"a": 1}}), Some("an object of 0 fields")),
        ] {
            assert_eq!(seen(path, expected.clone(), &document).as_deref(), instead, "{path} {expected}");
        }
    }
}
