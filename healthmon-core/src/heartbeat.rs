//! What a service says of itself: its signs, and what is kept of them.
//!
//! A service that reports in sends a [`Sign`] when a run of it begins or ends. Of all its signs only
//! the newest are kept, as its [`Pulse`]; probes look at that. No clock, no store.

use std::{collections::VecDeque, fmt, num::NonZeroU8, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{id::ServiceId, probe::printable, status::Status, time::Timestamp};

/// What names one run, so that a sign that is sent again is known for what it is: 1 to 64 visible
/// ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Run(Box<str>);

/// A text that names no run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 visible ASCII characters, such as a UUID")]
pub struct InvalidRun;

impl Run {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Run {
    type Err = InvalidRun;

    fn from_str(text: &str) -> Result<Self, InvalidRun> {
        let right = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if right { Ok(Self(text.into())) } else { Err(InvalidRun) }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Run {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What a sign says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Report {
    /// A run began.
    Start,
    /// A run ended well; or, of a service that has no runs, all is well.
    Success,
    /// A run did not end well, with this exit status if it has one.
    Failure(Option<NonZeroU8>),
}

impl Report {
    /// The report of a program that ended with this exit status.
    pub const fn of_exit(status: u8) -> Self {
        match NonZeroU8::new(status) {
            None => Self::Success,
            failed => Self::Failure(failed),
        }
    }

    /// The name in JSON, metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Success => "success",
            Self::Failure(_) => "failure",
        }
    }
}

/// One word of a service about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// Who says it.
    pub service: ServiceId,
    /// When it came in, by the time of whoever took it.
    pub at: Timestamp,
    /// What it says.
    pub report: Report,
    /// Of which run, if runs are named.
    pub run: Option<Run>,
    /// What there is to say about it, safe to store and show.
    pub message: Option<Box<str>>,
}

impl Sign {
    /// A sign without a run's name or a message.
    pub const fn new(service: ServiceId, at: Timestamp, report: Report) -> Self {
        Self { service, at, report, run: None, message: None }
    }

    /// This sign with a message, made safe to store and show. A blank one is none.
    #[must_use]
    pub fn with_message(mut self, message: &str) -> Self {
        let message = message.trim();
        self.message = (!message.is_empty()).then(|| printable(message));
        self
    }
}

/// A sign as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// When it came in.
    pub at: Timestamp,
    /// With which exit status a run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<NonZeroU8>,
    /// Of which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// What was said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Box<str>>,
}

impl Said {
    fn of(sign: &Sign) -> Self {
        let exit_status = if let Report::Failure(status) = sign.report { status } else { None };
        Self { at: sign.at, exit_status, run: sign.run.clone(), message: sign.message.clone() }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// With a success.
    Well,
    /// With a failure.
    Badly,
}

/// Whether a sign said something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Novelty {
    /// It did.
    News,
    /// It was known already, or a newer one of its sort was. Nothing to speak of has changed.
    Known,
}

/// What is kept of a service's signs: the newest of each sort.
///
/// ```
/// use healthmon_core::{heartbeat::{End, Pulse, Report, Sign}, id::ServiceId, time::Timestamp};
/// let (service, mut pulse) = (ServiceId::new(7)?, Pulse::default());
/// for (second, report) in [(1, Report::Start), (2, Report::of_exit(1)), (3, Report::Start)] {
///     pulse.note(&Sign::new(service, Timestamp::from_millis(second * 1_000), report));
/// }
/// assert_eq!(pulse.end(), Some((End::Badly, Timestamp::from_millis(2_000))));
/// assert_eq!(pulse.open_since, Some(Timestamp::from_millis(3_000)));
/// # Ok::<(), healthmon_core::id::InvalidServiceId>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pulse {
    /// The newest success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success: Option<Said>,
    /// The newest failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Said>,
    /// The newest start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Said>,
    /// Since when a run is under way: the oldest start after the newest end. Not the newest start: a
    /// job that dies and is started anew again and again is to be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_since: Option<Timestamp>,
    /// Which named runs began and ended last, to know signs that are sent again.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    known: VecDeque<(Sort, Run)>,
}

/// The sort of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Sort {
    #[serde(rename = "t")]
    Start,
    #[serde(rename = "s")]
    Success,
    #[serde(rename = "f")]
    Failure,
}

impl Pulse {
    /// How many signs of named runs are known again.
    pub const RUNS: usize = 8;

    /// Takes a sign in. Signs may come again, and in another order than they were made: the newest
    /// of each sort stays. One with the sort and the run of a sign that is known changes nothing,
    /// whenever it comes.
    pub fn note(&mut self, sign: &Sign) -> Novelty {
        let sort = match sign.report {
            Report::Start => Sort::Start,
            Report::Success => Sort::Success,
            Report::Failure(_) => Sort::Failure,
        };
        if let Some(run) = &sign.run {
            if self.known.iter().any(|(known, of)| *known == sort && of == run) {
                return Novelty::Known;
            }
            self.known.push_back((sort, run.clone()));
            while self.known.len() > Self::RUNS {
                self.known.pop_front();
            }
        }
        match sort {
            Sort::Start => self.open(sign.at),
            Sort::Success | Sort::Failure => self.close(sign.at),
        }
        let newest = match sort {
            Sort::Start => &mut self.start,
            Sort::Success => &mut self.success,
            Sort::Failure => &mut self.failure,
        };
        let said = Said::of(sign);
        if newest.as_ref().is_some_and(|newest| newest.at > said.at || *newest == said) {
            return Novelty::Known;
        }
        *newest = Some(said);
        Novelty::News
    }

    fn open(&mut self, at: Timestamp) {
        if self.end().is_none_or(|(_, end)| end < at) {
            self.open_since = Some(self.open_since.map_or(at, |since| since.min(at)));
        }
    }

    fn close(&mut self, at: Timestamp) {
        if self.open_since.is_some_and(|since| since <= at) {
            self.open_since = self.start.as_ref().map(|start| start.at).filter(|start| *start > at);
        }
    }

    /// How the newest run that ended did so, and when.
    pub fn end(&self) -> Option<(End, Timestamp)> {
        let well = self.success.as_ref().map(|said| (End::Well, said.at));
        let badly = self.failure.as_ref().map(|said| (End::Badly, said.at));
        match (well, badly) {
            (Some(well), Some(badly)) => Some(if badly.1 > well.1 { badly } else { well }),
            (well, badly) => well.or(badly),
        }
    }
}

/// What came of a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// There is no such service, or no longer, or it has no key.
    Nobody,
    /// It was known already, or a newer one of its sort was.
    Known,
    /// It was news.
    News {
        /// How the run before it ended, if one did.
        before: Option<End>,
        /// What is announced of the service.
        status: Status,
    },
}

impl Noted {
    /// Whether the service is to be probed out of turn after a sign that says `report`: it failed,
    /// or it succeeded and the last that was known is not that all is well.
    pub fn is_a_turn(self, report: Report) -> bool {
        match (self, report) {
            (Self::News { .. }, Report::Failure(_)) => true,
            (Self::News { before, status }, Report::Success) => before != Some(End::Well) || status != Status::Up,
            (Self::News { .. }, Report::Start) | (Self::Nobody | Self::Known, _) => false,
        }
    }
}

/// A time in which nobody took signs: the monitor's own trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deafness {
    /// When signs were last taken before it.
    pub from: Timestamp,
    /// When they were taken again.
    pub to: Timestamp,
}

/// When signs were taken, as those who take them say again and again.
///
/// ```
/// use healthmon_core::{heartbeat::{Deafness, Listening}, time::Timestamp};
/// let (mut listening, at) = (Listening::default(), |second: i64| Timestamp::from_millis(second * 1_000));
/// for second in [0, 5, 10, 95, 100] {
///     listening.note(at(second));
/// }
/// assert_eq!(listening.deaf, Some(Deafness { from: at(10), to: at(95) }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Listening {
    /// When somebody last said so.
    pub last: Option<Timestamp>,
    /// The newest time in which nobody did.
    pub deaf: Option<Deafness>,
    /// Those before it, the oldest first. They are apart so that builds that know of one only can read it.
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    earlier: VecDeque<Deafness>,
}

impl Listening {
    /// How often those who take signs say so.
    pub const PERIOD: Duration = Duration::from_secs(5);
    /// Who sends a sign tries again for so long: a restart is no deafness.
    pub const PATIENCE: Duration = Duration::from_secs(20);
    /// How many times in which nobody took signs are known, the newest ones.
    pub const DEAFNESSES: usize = 8;

    /// Somebody takes signs at `at`.
    pub fn note(&mut self, at: Timestamp) {
        if let Some(from) = self.last.filter(|last| at.since(*last) > Self::PATIENCE) {
            self.miss(Deafness { from, to: at });
        }
        self.last = self.last.max(Some(at));
    }

    /// Takes in a time in which nobody did. One that begins where another ended makes that one longer:
    /// between them somebody listened for no more than a moment.
    fn miss(&mut self, newest: Deafness) {
        if let Some(before) = &mut self.deaf
            && before.to >= newest.from
        {
            before.to = newest.to;
            return;
        }
        self.earlier.extend(self.deaf.replace(newest));
        while self.earlier.len() >= Self::DEAFNESSES {
            self.earlier.pop_front();
        }
    }

    /// The times in which nobody took signs, the oldest first, as they are known at `at`: the newest
    /// may not be over.
    pub fn deaf_by(&self, at: Timestamp) -> Vec<Deafness> {
        let mut known = self.clone();
        known.note(at);
        known.earlier.into_iter().chain(known.deaf).collect()
    }
}

/// What is known of a service that reports in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// What it said last.
    pub pulse: Pulse,
    /// When it would have been heard.
    pub listening: Listening,
}

/// The SHA-256 of the token that a service reports in with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1_000)
    }

    fn sign(second: i64, report: Report) -> Sign {
        Sign::new(ServiceId::new(7).unwrap(), at(second), report)
    }

    fn of_run(second: i64, report: Report, run: &str) -> Sign {
        Sign { run: Some(run.parse().unwrap()), ..sign(second, report) }
    }

    fn pulse(signs: &[(i64, Report)]) -> Pulse {
        let mut pulse = Pulse::default();
        for (second, report) in signs {
            pulse.note(&sign(*second, *report));
        }
        pulse
    }

    const START: Report = Report::Start;
    const GOOD: Report = Report::Success;
    const BAD: Report = Report::Failure(None);

    #[test]
    fn the_newest_of_each_sort_stays_in_whatever_order_they_come() {
        let signs = [(1, START), (2, BAD), (3, START), (4, GOOD), (5, START)];
        let expected = pulse(&signs);
        assert_eq!(expected.end(), Some((End::Well, at(4))));
        assert_eq!(expected.open_since, Some(at(5)));
        for turned in 0..signs.len() {
            let mut others = signs;
            others.rotate_left(turned);
            assert_eq!(pulse(&others), expected, "{others:?}");
            others.reverse();
            assert_eq!(pulse(&others), expected, "{others:?}");
        }
    }

    #[test]
    fn a_run_is_under_way_from_the_first_start_after_an_end_until_the_next_end() {
        for (signs, expected) in [
            (&[(1, START)][..], Some(1)),
            (&[(1, START), (2, START)], Some(1)),
            (&[(1, START), (2, START), (3, GOOD)], None),
            (&[(1, START), (2, START), (3, BAD), (4, START)], Some(4)),
            (&[(1, START), (3, START), (2, GOOD)], Some(3)),
            (&[(2, GOOD), (1, START)], None),
            (&[(1, GOOD)], None),
        ] {
            assert_eq!(pulse(signs).open_since, expected.map(at), "{signs:?}");
        }
    }

    #[test]
    fn a_sign_of_a_known_run_is_no_news_however_late_it_is_sent_again() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.note(&of_run(1, GOOD, "a")), Novelty::News);
        assert_eq!(pulse.note(&of_run(2, BAD, "a")), Novelty::News, "another sort is another sign");
        let before = pulse.clone();
        assert_eq!(pulse.note(&of_run(9, GOOD, "a")), Novelty::Known);
        assert_eq!(pulse, before);
        assert_eq!(pulse.note(&of_run(9, GOOD, "b")), Novelty::News);
    }

    #[test]
    fn as_many_runs_are_known_as_are_promised_and_no_more_are_kept() {
        let mut pulse = Pulse::default();
        for run in 0..1_000 {
            pulse.note(&of_run(run, GOOD, &format!("run-{run}")));
        }
        let newest = 1_000 - i64::try_from(Pulse::RUNS).unwrap();
        for run in newest..1_000 {
            assert_eq!(pulse.note(&of_run(2_000, GOOD, &format!("run-{run}"))), Novelty::Known);
        }
        assert_eq!(pulse.known.len(), Pulse::RUNS);
        assert_eq!(pulse.success.unwrap().at, at(999));
    }

    #[test]
    fn the_same_sign_twice_and_an_older_one_are_no_news() {
        let mut pulse = pulse(&[(5, GOOD)]);
        assert_eq!(pulse.note(&sign(5, GOOD)), Novelty::Known);
        assert_eq!(pulse.note(&sign(4, GOOD)), Novelty::Known);
        assert_eq!(pulse.note(&sign(4, BAD)), Novelty::News, "it is the newest of its sort");
        assert_eq!(pulse.end(), Some((End::Well, at(5))), "but not of all");
    }

    #[test]
    fn failures_and_successes_that_change_something_are_turns() {
        let news = |before, status| Noted::News { before, status };
        let (well, badly) = (Some(End::Well), Some(End::Badly));
        for (noted, report, expected) in [
            (news(well, Status::Up), GOOD, false),
            (news(badly, Status::Up), GOOD, true),
            (news(None, Status::Unknown), GOOD, true),
            (news(well, Status::Down), GOOD, true),
            (news(well, Status::Up), BAD, true),
            (news(badly, Status::Down), BAD, true),
            (news(badly, Status::Down), START, false),
            (Noted::Known, BAD, false),
            (Noted::Nobody, BAD, false),
        ] {
            assert_eq!(noted.is_a_turn(report), expected, "{noted:?} {report:?}");
        }
    }

    #[test]
    fn a_time_in_which_nobody_listened_is_known_and_a_restart_is_none() {
        let listened = |seconds: &[i64]| {
            let mut listening = Listening::default();
            seconds.iter().for_each(|second| listening.note(at(*second)));
            listening.deaf
        };
        let deaf = |from, to| Some(Deafness { from: at(from), to: at(to) });
        assert_eq!(listened(&[]), None);
        assert_eq!(listened(&[1_000]), None, "nobody listened ever before, and nobody was to");
        assert_eq!(listened(&[0, 5, 25, 30]), None);
        assert_eq!(listened(&[0, 5, 26, 30]), deaf(5, 26));
        assert_eq!(listened(&[0, 100, 105, 300, 305]), deaf(105, 300), "the newest");
        assert_eq!(listened(&[0, 100, 95, 101]), deaf(0, 100), "nodes' clocks differ a little");
        assert_eq!(listened(&[0, 100, 200]), deaf(0, 200), "a moment is too short");
    }

    #[test]
    fn what_is_known_of_times_in_which_nobody_listened_grows_while_nobody_does() {
        let deaf = |from, to| Deafness { from: at(from), to: at(to) };
        let mut listening = Listening::default();
        assert!(listening.deaf_by(at(1_000)).is_empty());
        [0, 100].into_iter().for_each(|second| listening.note(at(second)));
        assert_eq!(listening.deaf_by(at(120)), [deaf(0, 100)]);
        assert_eq!(listening.deaf_by(at(121)), [deaf(0, 121)], "which goes on");
        listening.note(at(105));
        assert_eq!(listening.deaf_by(at(125)), [deaf(0, 100)]);
        assert_eq!(listening.deaf_by(at(126)), [deaf(0, 100), deaf(105, 126)], "another one");
    }

    #[test]
    fn the_newest_times_in_which_nobody_listened_are_known_and_no_more() {
        const TIMES: u32 = 12;
        for again in 0..1_u32 << TIMES {
            let (mut listening, mut expected, mut now) = (Listening::default(), Vec::<Deafness>::new(), 0);
            listening.note(at(now));
            for time in 0..TIMES {
                // Nobody listens for 30 s, after somebody did for 5 s or only for a moment.
                if (again >> time) & 1 == 1 {
                    now += 5;
                    listening.note(at(now));
                }
                let from = at(now);
                now += 30;
                listening.note(at(now));
                match expected.last_mut() {
                    Some(last) if last.to == from => last.to = at(now),
                    _ => expected.push(Deafness { from, to: at(now) }),
                }
            }
            let newest = &expected[expected.len().saturating_sub(Listening::DEAFNESSES)..];
            assert_eq!(listening.deaf_by(at(now)), newest, "{again:b}");
        }
    }

    #[test]
    fn listening_is_read_back_as_it_was_written_by_an_earlier_build_too() {
        let mut listening = Listening::default();
        [0, 100, 105, 300, 305, 400].into_iter().for_each(|second| listening.note(at(second)));
        let written = serde_json::to_string(&listening).unwrap();
        assert_eq!(serde_json::from_str::<Listening>(&written).unwrap(), listening);
        let earlier =
            r#"{"last":"1970-01-01T00:01:40Z","deaf":{"from":"1970-01-01T00:00:00Z","to":"1970-01-01T00:01:40Z"}}"#;
        let mut expected = Listening::default();
        [0, 100].into_iter().for_each(|second| expected.note(at(second)));
        assert_eq!(serde_json::from_str::<Listening>(earlier).unwrap(), expected);
        assert_eq!(serde_json::from_str::<Listening>("{}").unwrap(), Listening::default());
    }

    #[test]
    fn messages_are_made_safe_and_blank_ones_are_none() {
        let said = sign(1, BAD).with_message(" disk\u{1b}[31m full\r\n").message;
        assert_eq!(said.as_deref(), Some("disk\\u{1b}[31m full"));
        assert_eq!(sign(1, BAD).with_message(" \n").message, None);
        let long = sign(1, BAD).with_message(&"x".repeat(100_000)).message.unwrap();
        assert!(long.chars().count() <= crate::probe::DETAIL_LIMIT);
    }

    #[test]
    fn runs_have_names_of_visible_ascii() {
        for (text, right) in
            [("a", true), (&"x".repeat(64), true), (&"x".repeat(65), false), ("", false), ("a b", false)]
        {
            assert_eq!(text.parse::<Run>().is_ok(), right, "{text:?}");
        }
        assert!("é".parse::<Run>().is_err());
    }

    #[test]
    fn a_pulse_is_read_back_as_it_was_written() {
        let mut pulse = pulse(&[(1, START), (2, Report::of_exit(3)), (4, START)]);
        pulse.note(&Sign { run: Some("r-1".parse().unwrap()), ..sign(5, GOOD).with_message("\"fine\" 🩺") });
        let written = serde_json::to_string(&pulse).unwrap();
        assert_eq!(serde_json::from_str::<Pulse>(&written).unwrap(), pulse);
        assert_eq!(serde_json::from_str::<Pulse>("{}").unwrap(), Pulse::default());
    }
}
