//! The `policy` section of a service's settings: what is read, what is refused and how.

use healthmon_core::engine::{Damping, Latches, Thresholds};
use serde_json::{Map, Value, json};

use crate::story::{count, policy, rule};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn read(value: Value) -> Thresholds {
    Thresholds::from_json(object(value)).expect("a policy")
}

fn refused(value: Value) -> String {
    Thresholds::from_json(object(value)).expect_err("no policy").to_string()
}

#[test]
fn nothing_written_is_the_default() {
    assert_eq!(read(json!({})), Thresholds::default());
}

#[test]
fn the_window_is_the_threshold_unless_it_is_given() {
    assert_eq!(read(json!({"failure_threshold": 5})).down, rule(5, 5, 2));
    assert_eq!(read(json!({"failure_threshold": 5, "window": 9})).down, rule(5, 9, 2));
    assert_eq!(read(json!({"window": 9})).down, rule(3, 9, 2));
    assert_eq!(read(json!({"success_threshold": 64})).down, rule(3, 3, 64));
}

#[test]
fn everything_can_be_written_and_is_read_back() {
    let written = json!({
        "failure_threshold": 2, "window": 4, "success_threshold": 3, "quorum": 16, "blind_after": 255,
        "degraded": {"threshold": 1, "window": 2, "success_threshold": 5},
        "damping": {"cap": 8, "quiet": 300},
    });
    let expected = Thresholds {
        down: rule(2, 4, 3),
        degraded: Some(rule(1, 2, 5)),
        damping: Damping::new(8, 300).ok(),
        quorum: count(16),
        blind_after: count(255),
    };
    assert_eq!(read(written.clone()), expected);
    assert_eq!(Value::Object(expected.to_json()), written);
}

#[test]
fn what_is_off_is_not_written() {
    let written = Value::Object(policy(3, 3, 2).to_json());
    let expected = json!({"failure_threshold": 3, "window": 3, "success_threshold": 2, "quorum": 1, "blind_after": 3});
    assert_eq!(written, expected);
}

#[test]
fn numbers_out_of_bounds_are_refused_by_field() {
    for (field, most) in
        [("failure_threshold", 64), ("window", 64), ("success_threshold", 64), ("quorum", 16), ("blind_after", 255)]
    {
        for wrong in [json!(0), json!(most + 1), json!(-1), json!(1.5), json!("3"), json!(256 + 1)] {
            let error = refused(json!({field: wrong}));
            let expected = format!("must be a whole number from 1 to {most}");
            assert!(error.contains(field) && error.contains(&expected), "{field}: {wrong}: {error}");
        }
    }
}

#[test]
fn a_window_below_the_threshold_is_refused() {
    let error = refused(json!({"failure_threshold": 3, "window": 2}));
    assert!(error.contains("window") && error.contains("must be at least the failure_threshold"), "{error}");
    let error = refused(json!({"degraded": {"threshold": 3, "window": 2}}));
    assert!(error.contains("must be at least the threshold"), "{error}");
}

#[test]
fn a_degraded_rule_needs_a_threshold() {
    let error = refused(json!({"degraded": {}}));
    assert!(error.contains("degraded.threshold") && error.contains("is required"), "{error}");
    assert_eq!(read(json!({"degraded": {"threshold": 4}})).degraded, Some(rule(4, 4, 2)));
}

#[test]
fn a_damping_must_be_quiet_longer_than_its_cap() {
    let error = refused(json!({"damping": {"cap": 8, "quiet": 8}}));
    assert!(error.contains("damping.cap") && error.contains("cap < quiet"), "{error}");
    assert!(refused(json!({"damping": {"cap": 8}})).contains("damping.quiet"));
}

#[test]
fn a_field_that_nobody_knows_is_refused() {
    assert!(refused(json!({"treshold": 3})).contains("treshold"));
}

#[test]
fn text_holds_the_section_and_binary_the_bare_numbers() {
    let policy = Thresholds { degraded: Some(rule(1, 2, 3)), damping: Damping::new(4, 5).ok(), ..policy(2, 3, 1) };
    let text = serde_json::to_value(policy).expect("json");
    assert_eq!(text, Value::Object(policy.to_json()));
    assert_eq!(serde_json::from_value::<Thresholds>(text).expect("a policy"), policy);
    assert!(serde_json::from_value::<Thresholds>(json!({"quorum": 0})).is_err());
    let bytes = postcard::to_stdvec(&policy).expect("bytes");
    assert_eq!(bytes, [2, 3, 1, 1, 1, 2, 3, 1, 4, 5, 1, 3]);
    assert_eq!(postcard::from_bytes::<Thresholds>(&bytes), Ok(policy));
}

#[test]
fn new_latches_are_clear() {
    let latches = Latches::default();
    assert!(!latches.down.is_tripped() && !latches.degraded.is_tripped());
}
