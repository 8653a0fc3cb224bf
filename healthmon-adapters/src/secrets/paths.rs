//! Walking to where secrets stand in settings.

use serde_json::{Map, Value};

/// Calls `visit` with whatever stands at each of `paths` in `sections`, and with the way there.
///
/// A path is as [`Prober::secrets`](healthmon_core::ports::Prober::secrets) gives it, such as
/// `http.headers.*`: names with dots between them, `*` being every field of an object or every item
/// of a list. Where a path goes on and the value does not, the value itself is visited: it stands
/// where only secrets may, so it is treated as one.
///
/// ```
/// use healthmon_adapters::secrets::visit_secrets;
/// let mut sections = serde_json::json!({"http": {"method": "GET", "headers": {"a": "1", "b": "2"}}});
/// let mut found = Vec::new();
/// if let Some(sections) = sections.as_object_mut() {
///     visit_secrets(sections, &["http.headers.*", "http.body"], |path, _| found.push(path.join(".")));
/// }
/// assert_eq!(found, ["http.headers.a", "http.headers.b"]);
/// ```
pub fn visit_secrets(sections: &mut Map<String, Value>, paths: &[&str], mut visit: impl FnMut(&[String], &mut Value)) {
    for path in paths {
        let steps: Vec<&str> = path.split('.').collect();
        let Some((first, rest)) = steps.split_first() else { continue };
        let mut way = Vec::with_capacity(steps.len());
        into_fields(sections, first, rest, &mut way, &mut visit);
    }
}

fn into_fields(
    map: &mut Map<String, Value>,
    step: &str,
    rest: &[&str],
    way: &mut Vec<String>,
    visit: &mut impl FnMut(&[String], &mut Value),
) {
    let wanted = map.iter_mut().filter(|(name, _)| step == "*" || *name == step);
    for (name, value) in wanted {
        way.push(name.clone());
        descend(value, rest, way, visit);
        way.pop();
    }
}

fn descend(value: &mut Value, steps: &[&str], way: &mut Vec<String>, visit: &mut impl FnMut(&[String], &mut Value)) {
    let Some((step, rest)) = steps.split_first() else { return visit(way, value) };
    match value {
        Value::Object(map) => into_fields(map, step, rest, way, visit),
        Value::Array(items) if *step == "*" => {
            for (at, item) in items.iter_mut().enumerate() {
                way.push(at.to_string());
                descend(item, rest, way, visit);
                way.pop();
            }
        }
        other => visit(way, other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn visited(sections: Value, paths: &[&str]) -> Vec<String> {
        let Value::Object(mut sections) = sections else { panic!("sections are an object") };
        let mut found = Vec::new();
        visit_secrets(&mut sections, paths, |path, value| found.push(format!("{}={value}", path.join("."))));
        found
    }

    #[test]
    fn every_field_and_every_item_that_a_star_stands_for_is_visited() {
        let sections = json!({
            "http": {"headers": {"a.b": "1", "c": {"env": "X"}}, "body": "2", "method": "POST"},
            "steps": [{"send": "3"}, {"expect": "4"}, {"send": "5"}],
        });
        let paths = ["http.headers.*", "http.body", "steps.*.send", "http.token", "tls.key"];
        let expected = [
            "http.headers.a.b=\"1\"",
            "http.headers.c={\"env\":\"X\"}",
            "http.body=\"2\"",
            "steps.0.send=\"3\"",
            "steps.2.send=\"5\"",
        ];
        assert_eq!(visited(sections, &paths), expected);
    }

    #[test]
    fn what_stands_in_the_way_of_a_path_is_visited_itself() {
        assert_eq!(visited(json!({"http": {"headers": "canary"}}), &["http.headers.*"]), ["http.headers=\"canary\""]);
        assert_eq!(visited(json!({"http": ["canary"]}), &["http.headers.*"]), ["http=[\"canary\"]"]);
    }
}
