//! What is to be probed, by the words of a command line.

use std::time::Duration;

use healthmon_core::{
    service::{Interval, Label, Options, ServiceSettings, Timeout},
    time::span,
};
use serde_json::{Map, Value, json};

use super::CheckError;
use crate::cli::CheckArgs;

/// No settings of one service are longer.
const FILE_BYTES: u64 = 1024 * 1024;
/// What the API takes of a service and one probe has no use for.
const OF_NO_USE: [&str; 7] = ["name", "url", "interval", "group", "tags", "policy", "regions"];

/// The settings that these arguments make: what the file says, then each option.
pub(super) fn read(args: &CheckArgs) -> Result<ServiceSettings, CheckError> {
    let usage = |flag: &str, error: &dyn std::fmt::Display| CheckError::Usage(format!("{flag}: {error}"));
    let mut sections = match &args.settings {
        None => Map::new(),
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| usage(&format!("--settings {}", path.display()), error);
            if std::fs::metadata(path).is_ok_and(|file| file.len() > FILE_BYTES) {
                return Err(wrong(&"it is longer than 1 MiB"));
            }
            let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
            // Where it is wrong is said, what stands there is not: it may be a secret.
            serde_json::from_str(&text).map_err(|error| {
                wrong(&format_args!("must be a JSON object; see line {}, column {}", error.line(), error.column()))
            })?
        }
    };
    sections.retain(|name, _| !OF_NO_USE.contains(&name.as_str()));
    let in_file = sections.shift_remove("timeout").map(span::deserialize).transpose();
    let in_file = in_file.map_err(|error| usage("timeout", &error))?;
    for option in &args.option {
        put(&mut sections, option).map_err(|problem| usage("--option", &problem))?;
    }
    if !args.expect_status.is_empty() {
        let number = |text: &String| text.parse::<u16>().map_or_else(|_| json!(text), |code| json!(code));
        expected(&mut sections).insert("status".to_owned(), args.expect_status.iter().map(number).collect());
    }
    if let Some(body) = &args.expect_body {
        expected(&mut sections).insert("body".to_owned(), json!(body));
    }
    let url = args.url.parse().map_err(|error| usage(&args.url, &error))?;
    let span = args.timeout.or(in_file).unwrap_or(Timeout::DEFAULT);
    let timeout = Timeout::new(span).map_err(|error| usage("--timeout", &error))?;
    let interval = Interval::new(span.max(Duration::from_secs(60))).map_err(|error| usage("--timeout", &error))?;
    let name = Label::new("check").map_err(|error| usage("name", &error))?;
    Ok(ServiceSettings { timeout, options: Options::new(sections), ..ServiceSettings::new(name, url, interval) })
}

fn expected(sections: &mut Map<String, Value>) -> &mut Map<String, Value> {
    within(sections, "expect")
}

/// The object that stands, or now comes to stand, in this field.
fn within<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    let inner = map.entry(field).or_insert_with(|| Value::Object(Map::new()));
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    match inner {
        Value::Object(inner) => inner,
        _ => unreachable!("it is an object now"),
    }
}

/// Puts `http.method=POST` where it belongs. A value is JSON if it can be read as such, or else text.
fn put(sections: &mut Map<String, Value>, option: &str) -> Result<(), String> {
    let wrong = || "must be a field and its value, such as http.method=POST".to_owned();
    let (path, value) = option.split_once('=').ok_or_else(wrong)?;
    let steps: Vec<&str> = path.split('.').collect();
    let Some((last, way)) = steps.split_last().filter(|_| steps.iter().all(|step| !step.is_empty())) else {
        return Err(wrong());
    };
    if way.is_empty() && OF_NO_USE.contains(last) {
        return Err(format!("{last} is nothing that one probe could use"));
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let target = way.iter().fold(sections, |map, step| within(map, step));
    target.insert((*last).to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections(options: &[&str]) -> Result<Value, String> {
        let mut sections = Map::new();
        options.iter().try_for_each(|option| put(&mut sections, option))?;
        Ok(Value::Object(sections))
    }

    #[test]
    fn options_go_where_their_path_says_as_json_or_else_as_text() {
        let options = ["http.method=POST", "http.body=a=b", "http.redirects=2", "http.headers={\"a\": \"b\"}"];
        let expected = json!({"http": {"method": "POST", "body": "a=b", "redirects": 2, "headers": {"a": "b"}}});
        assert_eq!(sections(&options), Ok(expected));
        assert_eq!(sections(&["http.tls.verify=none"]), Ok(json!({"http": {"tls": {"verify": "none"}}})));
        assert_eq!(sections(&["http=1", "http.body=\"5\""]), Ok(json!({"http": {"body": "5"}})));
    }

    #[test]
    fn an_option_without_a_field_or_of_no_use_is_refused() {
        for wrong in ["http.method", "=POST", "http..method=POST", "interval=5s", ".=1"] {
            assert!(sections(&[wrong]).is_err(), "{wrong}");
        }
    }
}
