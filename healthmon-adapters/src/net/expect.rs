//! What may be expected of any answer: how long it took, and how long its certificate is good for.

use std::time::Duration;

use healthmon_core::{
    probe::{FailReason, Held},
    service::{FieldErrors, Fields},
    time::{Timestamp, span},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Progress;

/// The fields `latency` and `certificate` of the section `expect`, which all probers share.
///
/// ```json
/// "expect": {
///   "latency": {"fail": "2s", "degraded": "500ms", "connect": "100ms"},
///   "certificate": {"days": 7, "degraded_days": 21}
/// }
/// ```
///
/// `"latency": "2s"` is short for `{"fail": "2s"}`; `dns`, `connect`, `tls` and `first_byte` bound a
/// phase. An answer beyond a `degraded` bound is `slow`, beyond any other one a failure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expectations {
    latency: Option<Box<Latency>>,
    certificate: Option<Certificate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Latency {
    fail: Option<Duration>,
    degraded: Option<Duration>,
    dns: Option<Duration>,
    connect: Option<Duration>,
    tls: Option<Duration>,
    first_byte: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Certificate {
    days: u16,
    degraded_days: u16,
}

/// A span as people write it.
#[derive(Deserialize)]
#[serde(transparent)]
struct Span(#[serde(with = "span")] Duration);

const DAY_MS: i64 = 86_400_000;

impl Expectations {
    /// Takes its fields out of the section `expect`, whatever else is in it.
    pub fn read(fields: &mut Fields) -> Self {
        let mut rest = fields.take_rest();
        let latency = rest.shift_remove("latency");
        let mut own = Map::new();
        own.extend(rest.shift_remove("certificate").map(|value| ("certificate".to_owned(), value)));
        match latency {
            None | Some(Value::Null) => {}
            Some(short @ (Value::String(_) | Value::Number(_))) => {
                own.insert("latency".to_owned(), Value::Object(Map::from_iter([("fail".to_owned(), short)])));
            }
            Some(other) => drop(own.insert("latency".to_owned(), other)),
        }
        let mut own = Fields::new(own);
        let latency = own.section("latency", Latency::read).filter(|latency| *latency != Latency::default());
        let certificate = own.section("certificate", Certificate::read);
        // Errors and what is left go back to where they came from.
        if let Err(errors) = own.finish() {
            fields.absorb(errors);
        }
        fields.put_back(rest);
        Self { latency: latency.map(Box::new), certificate }
    }

    /// Notes in `fields`, of all the settings, that a certificate is expected where there is no TLS.
    pub fn refuse_certificate(&self, fields: &mut Fields) {
        if self.certificate.is_some() {
            fields.wrong("expect.certificate", "cannot be expected where there is no TLS");
        }
    }

    /// Notes in `progress` what a complete answer after `latency`, asked for at `now`, does not meet.
    pub(crate) fn judge(&self, latency: Duration, now: Timestamp, progress: &mut Progress) {
        if let Some(wanted) = &self.latency {
            let phases = progress.phases;
            let took = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
            for (what, bound, took, otherwise) in [
                ("latency", wanted.fail, Some(took), Held::Failed),
                ("latency", wanted.degraded, Some(took), Held::Degraded),
                ("dns latency", wanted.dns, phases.dns_us, Held::Failed),
                ("connect latency", wanted.connect, phases.connect_us, Held::Failed),
                ("tls latency", wanted.tls, phases.tls_us, Held::Failed),
                ("first byte latency", wanted.first_byte, phases.first_byte_us, Held::Failed),
            ] {
                let (Some(bound), Some(took)) = (bound, took) else { continue };
                let held = if u128::from(took) <= bound.as_micros() { Held::Held } else { otherwise };
                progress.assertions.note(what, held, FailReason::Assertion, || {
                    (format!("at most {}", span::format(bound)), format!("{:.1} ms", f64::from(took) / 1e3))
                });
            }
        }
        let Some(wanted) = self.certificate else { return };
        if let Some(expires) = progress.certificate_expires {
            let left = (expires.as_millis() - now.as_millis()).div_euclid(DAY_MS);
            let (least, held) = match left {
                left if left < i64::from(wanted.days) => (wanted.days, Held::Failed),
                left if left < i64::from(wanted.degraded_days) => (wanted.degraded_days, Held::Degraded),
                _ => (wanted.days, Held::Held),
            };
            progress.assertions.note("certificate", held, FailReason::Certificate, || {
                (format!("at least {least} days left"), format!("{left} (it expires {expires})"))
            });
        } else {
            // No TLS, where a redirect was to lead to it, or a certificate that cannot be read.
            progress.assertions.note("certificate", Held::Failed, FailReason::Certificate, || {
                let least = if wanted.days > 0 { wanted.days } else { wanted.degraded_days };
                (format!("at least {least} days left"), "no certificate".to_owned())
            });
        }
    }
}

impl Latency {
    fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let mut bound = |field: &str| {
            let span = fields.optional::<Span>(field)?.0;
            if span.is_zero() {
                fields.wrong(field, "must be longer than nothing");
            }
            Some(span)
        };
        let latency = Self {
            fail: bound("fail"),
            degraded: bound("degraded"),
            dns: bound("dns"),
            connect: bound("connect"),
            tls: bound("tls"),
            first_byte: bound("first_byte"),
        };
        if let (Some(fail), Some(degraded)) = (latency.fail, latency.degraded)
            && degraded >= fail
        {
            fields.wrong("degraded", "must be shorter than fail");
        }
        fields.finish()?;
        Ok(latency)
    }
}

impl Certificate {
    fn read(map: Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields::new(map);
        let mut days = |field: &str| {
            let days: u16 = fields.optional(field)?;
            if !(1..=3650).contains(&days) {
                fields.wrong(field, "must be from 1 to 3650");
            }
            Some(days)
        };
        let (days, degraded_days) = (days("days"), days("degraded_days"));
        if let (Some(days), Some(degraded)) = (days, degraded_days)
            && degraded <= days
        {
            fields.wrong("degraded_days", "must be more than days");
        }
        fields.finish()?;
        Ok(Self { days: days.unwrap_or(0), degraded_days: degraded_days.unwrap_or(0) })
    }
}

#[cfg(test)]
mod tests {
    use healthmon_core::probe::Outcome;
    use serde_json::json;

    use super::*;

    fn read(expect: Value) -> Result<Expectations, FieldErrors> {
        let mut fields = Fields::new(expect.as_object().cloned().expect("an object"));
        let read = Expectations::read(&mut fields);
        fields.finish().map(|()| read)
    }

    fn outcome(expect: Value, latency_ms: u64, days_left: i64) -> Option<Outcome> {
        let certificate_expires = Some(Timestamp::from_millis(days_left * DAY_MS + 1));
        let mut progress = Progress { certificate_expires, ..Progress::default() };
        progress.phases.connect_us = Some(50_000);
        let expectations = read(expect).expect("right");
        expectations.judge(Duration::from_millis(latency_ms), Timestamp::from_millis(0), &mut progress);
        progress.assertions.verdict().map(|fault| fault.outcome)
    }

    #[test]
    fn latency_degrades_before_it_fails() {
        let expect = json!({"latency": {"fail": "2s", "degraded": "500ms"}});
        assert_eq!(outcome(expect.clone(), 500, 0), None);
        assert_eq!(outcome(expect.clone(), 501, 0), Some(Outcome::Slow));
        assert_eq!(outcome(expect, 2_001, 0), Some(Outcome::Fail(FailReason::Assertion)));
        assert_eq!(outcome(json!({"latency": "2s"}), 2_001, 0), Some(Outcome::Fail(FailReason::Assertion)));
        assert_eq!(outcome(json!({"latency": {"connect": "49ms"}}), 60, 0), Some(Outcome::Fail(FailReason::Assertion)));
    }

    #[test]
    fn a_certificate_degrades_before_it_fails() {
        let expect = json!({"certificate": {"days": 7, "degraded_days": 21}});
        assert_eq!(outcome(expect.clone(), 1, 21), None);
        assert_eq!(outcome(expect.clone(), 1, 20), Some(Outcome::Slow));
        assert_eq!(outcome(expect.clone(), 1, 6), Some(Outcome::Fail(FailReason::Certificate)));
        assert_eq!(outcome(expect, 1, -3), Some(Outcome::Fail(FailReason::Certificate)));
    }

    #[test]
    fn a_certificate_that_was_not_seen_is_no_good_one() {
        let expect = read(json!({"certificate": {"degraded_days": 21}})).expect("right");
        let mut progress = Progress::default();
        expect.judge(Duration::ZERO, Timestamp::from_millis(0), &mut progress);
        let fault = progress.assertions.verdict().expect("it failed");
        assert_eq!(fault.outcome, Outcome::Fail(FailReason::Certificate));
        assert_eq!(fault.detail, "certificate: expected at least 21 days left, got no certificate");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (wrong, field) in [
            (json!({"latency": true}), "latency"),
            (json!({"latency": "soon"}), "latency.fail"),
            (json!({"latency": {"fail": "1s", "degraded": "1s"}}), "latency.degraded"),
            (json!({"latency": {"colour": 1}}), "latency.colour"),
            (json!({"certificate": {"days": 0}}), "certificate.days"),
            (json!({"certificate": {"days": 7, "degraded_days": 7}}), "certificate.degraded_days"),
            (json!({"certificate": 7}), "certificate"),
            (json!({"colour": 7}), "colour"),
        ] {
            let errors = read(wrong.clone()).expect_err("wrong");
            assert_eq!(errors.iter().next().map(|error| error.field.as_str()), Some(field), "{wrong}");
        }
    }
}
