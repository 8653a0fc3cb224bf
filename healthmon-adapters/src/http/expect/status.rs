//! Which statuses are expected.

use std::fmt;

use healthmon_core::service::FieldErrors;
use serde_json::Value;

/// Ranges of status codes, ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::http) enum Statuses {
    /// 200 to 299.
    Success,
    /// As configured; never empty.
    Listed(Vec<(u16, u16)>),
}

const FORMS: &str = "must be a status such as 200, \"2xx\" or \"200-299\", or a list of those";
const SUCCESS: &[(u16, u16)] = &[(200, 299)];
const LIST_LIMIT: usize = 32;

impl Statuses {
    fn ranges(&self) -> &[(u16, u16)] {
        match self {
            Self::Success => SUCCESS,
            Self::Listed(ranges) => ranges,
        }
    }

    pub(in crate::http) fn contains(&self, status: u16) -> bool {
        self.ranges().iter().any(|&(from, to)| (from..=to).contains(&status))
    }

    /// Reads the field `status`: one status or a list of them.
    pub(in crate::http) fn read(value: &Value) -> Result<Self, FieldErrors> {
        let Value::Array(list) = value else {
            return one(value).map(|range| Self::Listed(vec![range])).ok_or_else(|| FieldErrors::one("status", FORMS));
        };
        if list.is_empty() || list.len() > LIST_LIMIT {
            return Err(FieldErrors::one("status", "must list 1 to 32 statuses"));
        }
        let ranges = list
            .iter()
            .enumerate()
            .map(|(at, value)| one(value).ok_or_else(|| FieldErrors::one(format!("status[{at}]"), FORMS)));
        ranges.collect::<Result<_, _>>().map(Self::Listed)
    }
}

fn one(value: &Value) -> Option<(u16, u16)> {
    match value {
        Value::Number(number) => {
            let code = u16::try_from(number.as_u64()?).ok()?;
            (100..=599).contains(&code).then_some((code, code))
        }
        Value::String(text) => range(text.trim()),
        _ => None,
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    if let Some(class) = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX")) {
        return match class.as_bytes() {
            [class @ b'1'..=b'5'] => {
                let from = u16::from(class - b'0') * 100;
                Some((from, from + 99))
            }
            _ => None,
        };
    }
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (code(from)?, code(to)?);
    (from <= to).then_some((from, to))
}

fn code(text: &str) -> Option<u16> {
    let text = text.trim();
    let code = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())??;
    (100..=599).contains(&code).then_some(code)
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (from, to)) in self.ranges().iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            if from == to { write!(f, "{from}")? } else { write!(f, "{from}-{to}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_is_read_and_shown_as_a_range() {
        let cases = [
            (json!(204), "204"),
            (json!("204"), "204"),
            (json!("2xx"), "200-299"),
            (json!("200-299"), "200-299"),
            (json!([200, "3xx", "404 - 410"]), "200, 300-399, 404-410"),
        ];
        for (written, shown) in cases {
            assert_eq!(Statuses::read(&written).expect("statuses").to_string(), shown, "{written}");
        }
    }

    #[test]
    fn what_is_no_status_is_refused() {
        let wrong = ["99", "600", "6xx", "xx", "2x", "300-200", "+200", "", "-", "200-"].map(|text| json!(text));
        for wrong in wrong.into_iter().chain([json!(99), json!(1000), json!(-1), json!(true), json!([]), json!({})]) {
            assert!(Statuses::read(&wrong).is_err(), "{wrong}");
        }
        let errors = Statuses::read(&json!([200, "no"])).expect_err("no is no status");
        assert_eq!(errors.iter().next().map(|error| error.field.as_str()), Some("status[1]"));
    }

    #[test]
    fn success_is_200_to_299() {
        let bounds = [199, 200, 299, 300].map(|code| Statuses::Success.contains(code));
        assert_eq!(bounds, [false, true, true, false]);
    }
}
