//! Settings as people write them: an object, or else a text of one of the kinds that stand in them.

use healthmon_core::{
    heartbeat::{Report, Run, Sign},
    id::{Region, ServiceId},
    ports::Prober,
    probe::{IndeterminateReason, Outcome},
    service::{Label, Options, Service, ServiceSettings, Target},
    time::{Timestamp, span},
};
use serde_json::{Map, Value};

use super::{assert_harmless, assert_hidden, assert_printable, probe_of, probers::refusing, run};
use crate::secrets::visit_secrets;

/// What stands wherever a secret may, so that it is found again where it must not be.
const CANARY: &str = "canary-5d1f";

pub(super) fn target(data: &[u8]) {
    match serde_json::from_slice::<Map<String, Value>>(data) {
        Ok(map) => object(map),
        Err(_) => text(&String::from_utf8_lossy(data)),
    }
}

fn object(map: Map<String, Value>) {
    let settings = match ServiceSettings::from_json(map) {
        Ok(settings) => settings,
        Err(errors) => {
            assert!(errors.iter().next().is_some_and(|error| !error.problem.is_empty()));
            return;
        }
    };
    let again = ServiceSettings::from_json(settings.to_json());
    assert_eq!(again.as_ref(), Ok(&settings), "what is written is read again");
    assert!(settings.timeout.get() <= settings.interval.get());
    let scheme = settings.url.scheme();
    refusing(scheme, |prober, names| {
        check(prober, &settings);
        names.take();
    });
}

fn check(prober: &dyn Prober, settings: &ServiceSettings) {
    if prober.check(settings).is_ok() {
        let look = run(prober.inspect(&probe_of(settings.clone())));
        assert_harmless(&look);
        let unread = Outcome::Indeterminate(IndeterminateReason::Unsupported);
        assert_ne!(look.seen.outcome, unread, "taken at first, then not: {:?} {settings:?}", look.seen);
        let service = probe_of(settings.clone()).service;
        let written = serde_json::to_string(&*service).unwrap_or_else(|error| panic!("{error}"));
        let read = serde_json::from_str::<Service>(&written).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(read, *service, "what is kept is read again");
    }
    // The same with a secret in each place for one: right or wrong, it is not repeated.
    let mut sections = settings.options.to_map();
    if Value::Object(sections.clone()).to_string().contains(CANARY) {
        return;
    }
    visit_secrets(&mut sections, prober.secrets(), |_, value| {
        if let Value::String(text) = value {
            *text = format!("{text}{CANARY}");
        }
    });
    let mut secret = settings.clone();
    secret.options = Options::new(sections);
    if let Err(errors) = prober.check(&secret) {
        assert!(!errors.to_string().contains(CANARY), "{errors}");
    } else {
        let look = run(prober.inspect(&probe_of(secret)));
        assert_hidden(&look, CANARY);
    }
}

fn text(text: &str) {
    if let Ok(read) = span::parse(text) {
        let written = span::format(read);
        assert_eq!(span::parse(&written), Ok(read), "{text} is {read:?} is {written}");
    }
    if let Ok(run) = text.parse::<Run>() {
        assert_eq!(run.as_str(), text);
        assert_printable(run.as_str());
    }
    if let Ok(label) = Label::new(text) {
        assert!((1..=200).contains(&label.as_str().chars().count()));
    }
    if let Ok(region) = Region::new(text) {
        assert_eq!(region.as_str(), text);
        assert_printable(region.as_str());
    }
    if let Ok(id) = text.parse::<ServiceId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.as_str().parse().as_ref(), Ok(&target), "a target reads itself");
        assert!(target.url().username().is_empty() && target.url().password().is_none());
        assert!(target.as_str().starts_with(target.scheme()) && target.as_str().contains(target.place()));
    }
    let service = ServiceId::new(7).unwrap_or_else(|_| unreachable!("not zero"));
    let sign = Sign::new(service, Timestamp::from_millis(0), Report::Success).with_message(text);
    if let Some(message) = &sign.message {
        assert_printable(message);
        assert!(!message.is_empty());
    }
}
