//! The oracle: DESIGN's words, done in the most obvious way.
//!
//! It keeps every input that ever counted as a list and works out everything from that list, anew
//! each time it is asked: no bit sets, no running totals, nothing in common with the engine but the
//! nouns. Slow, and meant to be: it is what the engine, and a store's account of it, is compared to.

mod ledger;

pub use ledger::Ledger;

use crate::{
    engine::{
        Control, Damping, Effects, Grade, Hint, Ignored, Input, LatchRule, Sighting, TargetChange, Thresholds, Vote,
    },
    id::{Applied, Epoch, Region},
    probe::{Kind, Outcome},
    service::Regions,
    status::{Cause, Edge, Overlay, Status, Transition},
    time::Slot,
};

/// One input that counted, with the settings in force after it.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    input: Option<Input<Thresholds>>,
    policy: Thresholds,
    regions: Vec<Region>,
}

/// The naive engine.
///
/// ```
/// use healthmon_core::{engine::{Control, Input, State, Thresholds, oracle::Oracle}, service::Regions};
/// let (policy, regions) = (Thresholds::default(), Regions::default());
/// let (mut oracle, mut state) = (Oracle::registered(policy, &regions), State::registered(policy, &regions));
/// let input = Input::Control(Control::Pause);
/// assert_eq!(oracle.apply(&input), state.apply(&input));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Oracle {
    rows: Vec<Row>,
}

/// What the oracle works out of one region.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RegionAccount {
    /// The newest slot that voted.
    pub watermark: Option<Slot>,
    /// The newest slot noted as missed.
    pub missed_through: Option<Slot>,
    /// Whether it was ever seen to pass.
    pub passed: bool,
    /// How many probes in a row said nothing.
    pub silent: usize,
    /// The outcomes since the windows were last cleared.
    pub outcomes: Vec<Grade>,
    /// Its down latch.
    pub down: LatchAccount,
    /// Its degraded latch.
    pub degraded: LatchAccount,
}

/// What the oracle works out of one latch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatchAccount {
    /// Whether it is tripped.
    pub tripped: bool,
    /// How often it tripped since the last quiet run, if that matters.
    pub trips: usize,
}

/// What happened to a region's latches, under which policy.
enum Event {
    Seen(Grade),
    WindowsCleared,
}

impl Oracle {
    /// A service just registered.
    pub fn registered(policy: Thresholds, regions: &Regions) -> Self {
        Self { rows: vec![Row { input: None, policy, regions: regions.iter().cloned().collect() }] }
    }

    /// The status that the world has been told: the level at the last moment it was not frozen.
    pub fn status(&self) -> Status {
        let unfrozen = (1..=self.rows.len()).rev().find(|length| !self.frozen(*length));
        unfrozen.map_or(Status::Unknown, |length| self.level_at(length))
    }

    /// The status as the regions vote now.
    pub fn level(&self) -> Status {
        self.level_at(self.rows.len())
    }

    /// One more than the changes of settings and the resumptions.
    pub fn epoch(&self) -> Epoch {
        let bumps = |control: &&Control<Thresholds>| matches!(control, Control::Configure { .. } | Control::Resume);
        Epoch(1 + self.controls(self.rows.len()).filter(bumps).count() as u32)
    }

    /// How many inputs have counted, the registration first.
    pub fn applied(&self) -> Applied {
        Applied(self.rows.len() as u64)
    }

    /// Whether an overlay lies over the status.
    pub fn has(&self, overlay: Overlay) -> bool {
        match overlay {
            Overlay::Paused => self.paused(self.rows.len()),
            Overlay::Maintenance => self.in_maintenance(self.rows.len()),
            Overlay::Blind => self.blind(),
        }
    }

    /// What it works out of one region; `None` for one that the service is not probed from.
    pub fn region(&self, region: &Region) -> Option<RegionAccount> {
        self.regions_at(self.rows.len()).contains(region).then(|| self.account(self.rows.len(), region))
    }

    /// Takes in one input.
    pub fn apply(&mut self, input: &Input<Thresholds>) -> Effects {
        if let Some(why) = self.refusal(input) {
            return Effects { vote: Vote::Ignored(why), transition: None, overlays: vec![], hint: Hint::None };
        }
        let overlays = [Overlay::Paused, Overlay::Maintenance, Overlay::Blind];
        let (status, had) = (self.status(), overlays.map(|overlay| self.has(overlay)));
        let mut row = Row { input: Some(input.clone()), ..self.rows[self.rows.len() - 1].clone() };
        match input {
            Input::Control(Control::Configure { policy, regions, .. }) => {
                row.policy = *policy;
                row.regions = regions.iter().cloned().collect();
            }
            Input::Control(Control::Delete) => row.regions.clear(),
            _ => {}
        }
        self.rows.push(row);
        let (from, to) = (status, self.status());
        let changed = overlays.into_iter().zip(had).filter(|(overlay, had)| self.has(*overlay) != *had);
        Effects {
            vote: Vote::Applied(self.applied()),
            transition: (from != to).then(|| Transition { from, to, cause: cause(input) }),
            overlays: changed.map(|(overlay, had)| (overlay, if had { Edge::Ended } else { Edge::Began })).collect(),
            hint: self.hint(input),
        }
    }

    /// Why an input does not count, if it does not.
    fn refusal(&self, input: &Input<Thresholds>) -> Option<Ignored> {
        let now = self.rows.len();
        let (paused, maintained) = (self.paused(now), self.in_maintenance(now));
        let unchanged = |already: bool| already.then_some(Ignored::NoChange);
        if self.controls(now).any(|control| *control == Control::Delete) {
            return Some(Ignored::Deleted);
        }
        match input {
            Input::Result(seen) => self.refusal_of_result(seen),
            Input::Control(Control::Pause) => unchanged(paused),
            Input::Control(Control::Resume) => unchanged(!paused),
            Input::Control(Control::BeginMaintenance) => unchanged(maintained),
            Input::Control(Control::EndMaintenance) => unchanged(!maintained),
            Input::Control(Control::Configure { .. } | Control::Delete) => None,
            Input::Control(Control::Missed { .. }) if paused => Some(Ignored::Paused),
            Input::Control(Control::Missed { region, through, .. }) => match self.region(region) {
                None => Some(Ignored::UnknownRegion),
                Some(account) if account.watermark.is_some_and(|known| *through <= known) => Some(Ignored::Late),
                Some(account) if account.missed_through.is_some_and(|known| *through <= known) => Some(Ignored::Late),
                Some(_) => None,
            },
        }
    }

    fn refusal_of_result(&self, seen: &Sighting) -> Option<Ignored> {
        if self.paused(self.rows.len()) {
            Some(Ignored::Paused)
        } else if seen.kind == Kind::Manual {
            Some(Ignored::Manual)
        } else if seen.epoch < self.epoch() {
            Some(Ignored::OldEpoch)
        } else {
            match self.region(&seen.region) {
                None => Some(Ignored::UnknownRegion),
                Some(account) => match account.watermark {
                    Some(watermark) if seen.slot <= watermark => Some(Ignored::Late),
                    _ => None,
                },
            }
        }
    }

    /// The control inputs among the first `length` rows.
    fn controls(&self, length: usize) -> impl DoubleEndedIterator<Item = &Control<Thresholds>> {
        self.rows[..length].iter().filter_map(|row| match &row.input {
            Some(Input::Control(control)) => Some(control),
            _ => None,
        })
    }

    fn paused(&self, length: usize) -> bool {
        let ends =
            |control: &&Control<Thresholds>| matches!(control, Control::Pause | Control::Resume | Control::Delete);
        self.controls(length).rfind(ends) == Some(&Control::Pause)
    }

    fn in_maintenance(&self, length: usize) -> bool {
        let ends = |control: &&Control<Thresholds>| {
            matches!(control, Control::BeginMaintenance | Control::EndMaintenance | Control::Delete)
        };
        self.controls(length).rfind(ends) == Some(&Control::BeginMaintenance)
    }

    fn frozen(&self, length: usize) -> bool {
        self.paused(length) || self.in_maintenance(length)
    }

    fn regions_at(&self, length: usize) -> &[Region] {
        &self.rows[length - 1].regions
    }

    fn quorum_at(&self, length: usize) -> usize {
        usize::from(self.rows[length - 1].policy.quorum.get()).min(self.regions_at(length).len())
    }

    fn level_at(&self, length: usize) -> Status {
        let accounts: Vec<_> = self.regions_at(length).iter().map(|region| self.account(length, region)).collect();
        let quorum = self.quorum_at(length);
        if accounts.is_empty() {
            Status::Unknown
        } else if accounts.iter().filter(|account| account.down.tripped).count() >= quorum {
            Status::Down
        } else if accounts.iter().all(|account| !account.passed) {
            Status::Unknown
        } else if accounts.iter().filter(|account| account.degraded.tripped).count() >= quorum {
            Status::Degraded
        } else {
            Status::Up
        }
    }

    /// Fewer regions than the quorum have seen anything within the last `blind_after` probes.
    fn blind(&self) -> bool {
        let now = self.rows.len();
        let patience = usize::from(self.rows[now - 1].policy.blind_after.get());
        let seeing = self.regions_at(now).iter().filter(|region| self.account(now, region).silent < patience).count();
        !self.regions_at(now).is_empty() && !self.paused(now) && seeing < self.quorum_at(now)
    }

    /// Everything about one region that follows from the first `length` rows.
    fn account(&self, length: usize, region: &Region) -> RegionAccount {
        let rows = &self.rows[..length];
        // Its life began after the last time the service was not probed from it ...
        let born = rows.iter().rposition(|row| !row.regions.contains(region)).map_or(0, |last| last + 1);
        let life = &rows[born..];
        // ... and what is known of the target, after it was last another one.
        let renewed = life.iter().rposition(|row| {
            matches!(row.input, Some(Input::Control(Control::Configure { target: TargetChange::Changed, .. })))
        });
        let known = &life[renewed.map_or(0, |last| last + 1)..];
        let seen = |row: &Row| match &row.input {
            Some(Input::Result(seen)) if seen.region == *region => Some((seen.slot, seen.outcome)),
            _ => None,
        };
        let missed = |row: &Row| match &row.input {
            Some(Input::Control(Control::Missed { region: of, through, slots })) if of == region => {
                Some((*through, usize::from(slots.get())))
            }
            _ => None,
        };
        let mut silent = 0;
        for row in known.iter().rev() {
            match (seen(row), missed(row), &row.input) {
                (Some((_, Outcome::Indeterminate(_))), ..) => silent += 1,
                (Some(_), ..) | (_, _, Some(Input::Control(Control::Pause))) => break,
                (_, Some((_, slots)), _) => silent += slots,
                _ => {}
            }
        }
        let events: Vec<(Event, Thresholds)> = known
            .iter()
            .filter_map(|row| match (&row.input, seen(row)) {
                (Some(Input::Control(Control::Configure { .. } | Control::Resume)), _) => {
                    Some((Event::WindowsCleared, row.policy))
                }
                (_, Some((_, outcome))) => Some((Event::Seen(Grade::of(outcome)?), row.policy)),
                _ => None,
            })
            .collect();
        RegionAccount {
            watermark: life.iter().filter_map(seen).map(|(slot, _)| slot).max(),
            missed_through: life.iter().filter_map(missed).map(|(slot, _)| slot).max(),
            passed: known.iter().filter_map(seen).any(|(_, outcome)| matches!(outcome, Outcome::Pass | Outcome::Slow)),
            silent,
            outcomes: since_cleared(&events),
            down: latch(&events, |policy| Some(policy.down), |grade| grade >= Grade::Fail, |g| g == Grade::Fatal),
            degraded: latch(&events, |policy| policy.degraded, |grade| grade >= Grade::Slow, |_| false),
        }
    }

    /// An earlier probe is wanted when a success leaves it DOWN, or a failure leaves it not so.
    fn hint(&self, input: &Input<Thresholds>) -> Hint {
        let Input::Result(Sighting { outcome, .. }) = input else { return Hint::None };
        match (self.level(), outcome) {
            (Status::Down, Outcome::Pass | Outcome::Slow) => Hint::ProbeSooner,
            (Status::Up | Status::Degraded, Outcome::Fail(_) | Outcome::Fatal(_)) => Hint::ProbeSooner,
            _ => Hint::None,
        }
    }
}

fn cause(input: &Input<Thresholds>) -> Cause {
    match input {
        Input::Result(_) | Input::Control(Control::Missed { .. }) => Cause::Result,
        Input::Control(Control::Resume) => Cause::Resumed,
        Input::Control(Control::EndMaintenance) => Cause::MaintenanceEnded,
        Input::Control(Control::Delete) => Cause::Deleted,
        Input::Control(Control::Configure { .. } | Control::Pause | Control::BeginMaintenance) => Cause::Configuration,
    }
}

/// The outcomes after the last clearing of the windows.
fn since_cleared(events: &[(Event, Thresholds)]) -> Vec<Grade> {
    let last = events.iter().rev().map_while(|(event, _)| match event {
        Event::Seen(grade) => Some(*grade),
        Event::WindowsCleared => None,
    });
    let mut grades: Vec<Grade> = last.collect();
    grades.reverse();
    grades
}

/// A latch, from the list of all that ever happened to it.
fn latch(
    events: &[(Event, Thresholds)],
    rule: fn(&Thresholds) -> Option<LatchRule>,
    bad: fn(Grade) -> bool,
    fatal: fn(Grade) -> bool,
) -> LatchAccount {
    let mut now = LatchAccount::default();
    for (index, (event, policy)) in events.iter().enumerate() {
        let Some(rule) = rule(policy) else {
            now = LatchAccount::default();
            continue;
        };
        if policy.damping.is_none() {
            now.trips = 0;
        }
        let Event::Seen(grade) = event else { continue };
        let window = since_cleared(&events[..=index]);
        let failures = window.iter().rev().take(rule.window().into()).filter(|grade| bad(**grade)).count();
        let successes = window.iter().rev().take_while(|grade| !bad(**grade)).count();
        if policy.damping.is_some_and(|damping| successes >= usize::from(damping.quiet())) {
            now.trips = 0;
        }
        if now.tripped {
            let clears = successes >= recovery(rule, policy.damping, now.trips) && failures < rule.threshold().into();
            now.tripped = !clears;
        } else if fatal(*grade) || (bad(*grade) && failures >= rule.threshold().into()) {
            now.tripped = true;
            now.trips += usize::from(policy.damping.is_some());
        }
    }
    now
}

/// How many successes in a row clear a latch: `s`, doubled by every recent trip but the first, up to
/// the cap; but never fewer than `s`.
fn recovery(rule: LatchRule, damping: Option<Damping>, trips: usize) -> usize {
    let s = usize::from(rule.success());
    let Some(damping) = damping else { return s };
    let mut lengthened = s;
    for _ in 1..trips {
        lengthened = (2 * lengthened).min(damping.cap().into());
    }
    lengthened.min(damping.cap().into()).max(s)
}
