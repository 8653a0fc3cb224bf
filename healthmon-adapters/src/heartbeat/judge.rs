//! What a service's last words come to at a probe's slot. No clock, no store.

use std::time::Duration;

use healthmon_core::{
    heartbeat::{Deafness, End, Heard, Pulse, Said},
    probe::{FailReason, IndeterminateReason, Outcome, Probe},
    time::{Timestamp, span},
};

use super::{rough, settings::Settings};

/// What is expected of a service by a slot.
pub(super) struct Expected {
    slot: Timestamp,
    /// Since when it is expected of it.
    since: Timestamp,
    settings: Settings,
}

/// What a probe comes to.
#[derive(Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) code: Option<u16>,
    pub(super) detail: Option<String>,
}

impl Verdict {
    fn fail(reason: FailReason, detail: String) -> Self {
        Self { outcome: Outcome::Fail(reason), code: None, detail: Some(detail) }
    }

    fn awaited(detail: String) -> Self {
        let outcome = Outcome::Indeterminate(IndeterminateReason::Awaited);
        Self { outcome, code: None, detail: Some(detail) }
    }

    fn of(end: End, said: Option<&Said>) -> Self {
        if end == End::Well {
            return Self { outcome: Outcome::Pass, code: None, detail: None };
        }
        let status = said.and_then(|said| said.exit_status);
        let what = status.map_or_else(|| "it reported a failure".to_owned(), |status| format!("exit status {status}"));
        let message = said.and_then(|said| said.message.as_deref());
        let detail = message.map_or_else(|| what.clone(), |message| format!("{what}: {message}"));
        let code = status.map(|status| u16::from(status.get()));
        Self { code, ..Self::fail(FailReason::Reported, detail) }
    }
}

impl Expected {
    pub(super) fn of(probe: &Probe, settings: &Settings) -> Self {
        Self { slot: probe.id.slot.time(), since: probe.service.scheduled_since, settings: *settings }
    }

    fn allowed(&self) -> Duration {
        self.settings.every.saturating_add(self.settings.grace)
    }

    /// Until when a word that was said at `at` counts: a run that began meanwhile may take its time.
    fn good_until(&self, at: Timestamp, pulse: &Pulse) -> Timestamp {
        let plain = at.after(self.allowed());
        match (pulse.open_since, self.settings.max_runtime) {
            (Some(began), Some(longest)) if began <= plain => plain.max(began.after(longest)),
            _ => plain,
        }
    }

    /// By when the next word must come.
    pub(super) fn by(&self, pulse: &Pulse) -> Timestamp {
        let said = pulse.end().map_or(self.since, |(_, at)| at.max(self.since));
        self.good_until(said, pulse)
    }

    /// Why silence may be ours: nobody took signs at a time in which a word may have come, after `earliest`
    /// and before `latest`. Another one is to come after that.
    fn excuse(&self, deaf: &[Deafness], earliest: Timestamp, latest: Timestamp) -> Option<Deafness> {
        let may_be_ours = |time: &Deafness| time.to > earliest && time.from < latest;
        deaf.iter().copied().rfind(|time| may_be_ours(time) && self.slot <= time.to.after(self.allowed()))
    }

    pub(super) fn judge(&self, heard: Option<&Heard>) -> Verdict {
        let nothing = Heard::default();
        let Heard { pulse, listening } = heard.unwrap_or(&nothing);
        let deaf = listening.deaf_by(self.slot);
        if let (Some(began), Some(longest)) = (pulse.open_since, self.settings.max_runtime)
            && self.slot > began.after(longest)
        {
            let ended = began.after(longest);
            if let Some(deaf) = self.excuse(&deaf, began, ended) {
                return Verdict::awaited(format!("a run may have ended while nobody took signs, until {}", deaf.to));
            }
            let detail = format!("a run began at {began} and has not ended within {}", span::format(longest));
            return Verdict::fail(FailReason::Timeout, detail);
        }
        if let Some((end, at)) = pulse.end()
            && self.slot <= self.good_until(at, pulse)
        {
            return Verdict::of(end, pulse.failure.as_ref());
        }
        let expected = format!(
            "expected every {} with a grace of {}{}",
            span::format(self.settings.every),
            span::format(self.settings.grace),
            if heard.is_none() { "; it has no token to report in with, ask for one" } else { "" }
        );
        if self.slot <= self.good_until(self.since, pulse) {
            return Verdict::awaited(format!("no word from it yet; {expected}"));
        }
        let from = pulse.end().map_or(self.since, |(_, at)| at.max(self.since));
        // The next word may have come in the later half of its span, or in the grace.
        if let Some(deaf) = self.excuse(&deaf, from.after(self.settings.every / 2), self.by(pulse)) {
            let detail = format!("a word from it may have come while nobody took signs, until {}; {expected}", deaf.to);
            return Verdict::awaited(detail);
        }
        let silence = match pulse.end() {
            Some((_, at)) => format!("no word from it for {}; {expected}", rough(at, self.slot)),
            None => format!("it never reported in; {expected}"),
        };
        Verdict::fail(FailReason::Silence, silence)
    }
}
