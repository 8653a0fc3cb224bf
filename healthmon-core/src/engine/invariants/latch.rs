//! Laws for policies whose votes are latches.

use std::ops::RangeInclusive;

use super::{
    LatchStep, Step, Timeline, Verdict, broken, ensure, law_10_a_latch_trips_only_on_a_failure,
    law_11_a_latch_clears_only_on_successes, law_12_enough_failures_in_a_row_trip, law_13_enough_successes_clear,
};
use crate::{
    engine::{Control, Damping, Grade, Input, LatchRule, Mark, Policy, State, Thresholds, Vote},
    id::Region,
    probe::{FailReason, Outcome},
    status::Status,
};

/// Which of a region's latches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Which {
    /// Its bad outcomes are failures; a fatal one trips it at once.
    Down,
    /// Its bad outcomes are failures and slow passes.
    Degraded,
}

impl Which {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Down, Self::Degraded];

    /// What an outcome is to this latch.
    pub const fn mark(self, grade: Grade) -> Mark {
        match (self, grade) {
            (Self::Down, Grade::Fatal) => Mark::Fatal,
            (Self::Down, Grade::Fail) | (Self::Degraded, Grade::Slow | Grade::Fail | Grade::Fatal) => Mark::Bad,
            (Self::Down, Grade::Pass | Grade::Slow) | (Self::Degraded, Grade::Pass) => Mark::Good,
        }
    }
}

/// A policy whose votes are latches: what laws 10 to 13, 21 and 24 need to know of it.
///
/// ```
/// use healthmon_core::engine::{LatchRule, Thresholds, invariants::{LatchPolicy, Which}};
/// assert_eq!(LatchRule::new(3, 3, 2).ok(), Thresholds::default().rule(Which::Down));
/// ```
pub trait LatchPolicy: Policy {
    /// The latch's `k`, `n` and `s`; `None` if the policy has no such latch.
    fn rule(&self, which: Which) -> Option<LatchRule>;

    /// By what its recoveries are lengthened, if at all.
    fn damping(&self) -> Option<Damping> {
        None
    }

    /// The same policy without damping; `None` if it cannot be without, and then laws 21 and 24
    /// do not bind it.
    fn undamped(&self) -> Option<Self> {
        self.damping().is_none().then(|| self.clone())
    }
}

impl LatchPolicy for Thresholds {
    fn rule(&self, which: Which) -> Option<LatchRule> {
        match which {
            Which::Down => Some(self.down),
            Which::Degraded => self.degraded,
        }
    }

    fn damping(&self) -> Option<Damping> {
        self.damping
    }

    fn undamped(&self) -> Option<Self> {
        Some(Self { damping: None, ..*self })
    }
}

/// One region's vote of one sort.
pub(super) fn vote<P: Policy>(policy: &P, memory: &P::Memory, which: Which) -> bool {
    let tripped = policy.tripped(memory);
    match which {
        Which::Down => tripped.down,
        Which::Degraded => tripped.degraded,
    }
}

/// Laws 10 to 13 with their numbers.
type LatchLaw = fn(&LatchStep) -> Verdict;
const STEP_LAWS: [(u8, LatchLaw); 4] = [
    (10, law_10_a_latch_trips_only_on_a_failure),
    (11, law_11_a_latch_clears_only_on_successes),
    (12, law_12_enough_failures_in_a_row_trip),
    (13, law_13_enough_successes_clear),
];

/// Watches a run and keeps, region by region, the list of outcomes since the windows were last
/// cleared: laws 10 to 13 speak of those.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Windows {
    regions: Vec<(Region, Vec<Grade>)>,
}

impl Windows {
    /// The outcomes of a region since its windows were last cleared.
    pub fn outcomes(&self, region: &Region) -> &[Grade] {
        self.regions.iter().find(|(name, _)| name == region).map_or(&[], |(_, grades)| grades)
    }

    /// Notes a step and holds the laws with these numbers, of 10 to 13, against every region's
    /// latches and the level.
    ///
    /// # Errors
    /// The first of them that is broken.
    pub fn see<P: LatchPolicy>(&mut self, step: &Step<'_, P>, laws: RangeInclusive<u8>) -> Verdict {
        let voted = matches!(step.effects.vote, Vote::Applied(_));
        match step.input {
            Input::Control(Control::Configure { .. } | Control::Resume | Control::Delete) if voted => {
                self.regions.clear();
                Ok(())
            }
            Input::Result(seen) if voted => match Grade::of(seen.outcome) {
                Some(grade) => self.outcome(step, &seen.region, grade, laws),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn outcome<P: LatchPolicy>(
        &mut self,
        step: &Step<'_, P>,
        region: &Region,
        grade: Grade,
        mut laws: RangeInclusive<u8>,
    ) -> Verdict {
        match self.regions.iter_mut().find(|(name, _)| name == region) {
            Some((_, grades)) => grades.push(grade),
            None => self.regions.push((region.clone(), vec![grade])),
        }
        for which in Which::BOTH {
            let Some(facts) = self.latch_step(step, region, which) else { continue };
            for (_, law) in STEP_LAWS.iter().filter(|(number, _)| laws.contains(number)) {
                law(&facts)?;
            }
        }
        laws.try_for_each(|number| self.level(step, grade, number))
    }

    fn latch_step<P: LatchPolicy>(&self, step: &Step<'_, P>, region: &Region, which: Which) -> Option<LatchStep> {
        let policy = step.after.policy();
        let rule = policy.rule(which)?;
        let tripped = |state: &State<P>| {
            let region = state.regions().iter().find(|state| state.region() == region)?;
            Some(vote(policy, region.memory(), which))
        };
        let marks: Vec<Mark> = self.outcomes(region).iter().map(|grade| which.mark(*grade)).collect();
        let run = |good: bool| marks.iter().rev().take_while(|mark| (**mark == Mark::Good) == good).count() as u32;
        let window = marks.iter().rev().take(usize::from(rule.window()));
        let s = u16::from(rule.success());
        Some(LatchStep {
            rule,
            mark: *marks.last()?,
            was_tripped: tripped(step.before)?,
            is_tripped: tripped(step.after)?,
            bad: window.filter(|mark| **mark != Mark::Good).count() as u32,
            bad_run: run(false),
            good_run: run(true),
            calm_run: run(true),
            least_recovery: s,
            most_recovery: policy.damping().map_or(s, |damping| s.max(u16::from(damping.cap()))),
        })
    }

    /// What the laws say of the level: it becomes DOWN only on a failure and ceases to be only on a
    /// success; it is DOWN when enough regions have failed long enough, UP when all have passed so.
    fn level<P: LatchPolicy>(&self, step: &Step<'_, P>, grade: Grade, number: u8) -> Verdict {
        let (before, after) = (step.before.level(), step.after.level());
        let policy = step.after.policy();
        let regions = || step.after.regions().iter();
        let in_row = |region: &Region, which: Which, good: bool| {
            let grades = self.outcomes(region).iter().rev();
            grades.take_while(|grade| (which.mark(**grade) == Mark::Good) == good).count()
        };
        match number {
            10 => {
                let became = before != Status::Down && after == Status::Down;
                ensure!(10, !became || !grade.passed(), "the level became DOWN on {grade:?}");
            }
            11 => {
                let ceased = before == Status::Down && after != Status::Down;
                ensure!(11, !ceased || grade.passed(), "the level ceased to be DOWN on {grade:?}");
            }
            12 => {
                let Some(rule) = policy.rule(Which::Down) else { return Ok(()) };
                let failing = |name: &Region| in_row(name, Which::Down, false) >= usize::from(rule.threshold());
                let failing = regions().filter(|region| failing(region.region())).count();
                let quorum = usize::from(policy.quorum().get()).min(step.after.regions().len());
                ensure!(12, failing < quorum || after == Status::Down, "{failing} regions fail, and it is {after}");
            }
            _ => {
                let cap = policy.damping().map_or(0, Damping::cap);
                let enough = |name: &Region, which: Which| {
                    policy.rule(which).is_none_or(|rule| {
                        let passes = rule.success().max(cap).max(rule.window() - rule.threshold() + 1);
                        in_row(name, which, true) >= usize::from(passes)
                    })
                };
                let well = regions().all(|region| Which::BOTH.iter().all(|which| enough(region.region(), *which)));
                ensure!(13, !well || after == Status::Up, "all regions have recovered, and it is {after}");
            }
        }
        Ok(())
    }
}

/// Law `number`, one of 10 to 13, of every region's latches and of the level, over a run; windows
/// start at the last clearing of windows.
pub fn law_10_to_13_hold_of_regions_and_levels<P: LatchPolicy>(timeline: &Timeline<P>, number: u8) -> Verdict {
    let mut windows = Windows::default();
    timeline.every_step(|step| windows.see(step, number..=number))
}

/// Law 21: with any one outcome that voted made worse (`Pass < Slow < Fail < Fatal`), no region's
/// latch and no level is ever healthier (`Up < Degraded < Unknown < Down`) than without. Undamped.
pub fn law_21_worse_outcomes_never_look_healthier<P: LatchPolicy>(timeline: &Timeline<P>) -> Verdict {
    if timeline.policies().any(|policy| policy.undamped().is_none()) {
        return Ok(());
    }
    let timeline = timeline.with_policies(|policy| policy.undamped().unwrap_or_else(|| policy.clone()));
    for place in timeline.places() {
        // The nearest result from there on; the places of a long timeline may hold a control input.
        let next = timeline.inputs.iter().enumerate().skip(place).find_map(|(index, input)| match input {
            Input::Result(seen) => Some((index, worse(seen.outcome))),
            Input::Control(_) => None,
        });
        let Some((index, outcomes)) = next else { continue };
        for outcome in outcomes {
            let mut worsened = timeline.clone();
            if let Input::Result(seen) = &mut worsened.inputs[index] {
                seen.outcome = outcome;
            }
            never_healthier(&timeline, &worsened, 21)?;
        }
    }
    Ok(())
}

fn worse(outcome: Outcome) -> Vec<Outcome> {
    let (fail, fatal) = (Outcome::Fail(FailReason::Connect), Outcome::Fatal(FailReason::Connect));
    match outcome {
        Outcome::Pass => vec![Outcome::Slow, fail, fatal],
        Outcome::Slow => vec![fail, fatal],
        Outcome::Fail(_) => vec![fatal],
        Outcome::Fatal(_) | Outcome::Indeterminate(_) => vec![],
    }
}

/// Runs both and fails law `number` where a latch or the level of `worse` is healthier.
pub(super) fn never_healthier<P: Policy>(better: &Timeline<P>, worse: &Timeline<P>, number: u8) -> Verdict {
    let (mut one, mut other) = (better.start(), worse.start());
    for (index, (left, right)) in better.inputs.iter().zip(&worse.inputs).enumerate() {
        one.step(left);
        other.step(right);
        let healthier = |which| {
            let pairs = one.regions().iter().zip(other.regions());
            let trips = |state: &State<P>, memory| vote(state.policy(), memory, which);
            pairs.filter(|(a, b)| trips(&one, a.memory()) && !trips(&other, b.memory())).count()
        };
        for which in Which::BOTH {
            if healthier(which) > 0 {
                let why = format_args!("a {which:?} latch is clear that was tripped in the other run:\n{worse}");
                return Err(Box::new(broken(number, why).at(index)));
            }
        }
        if one.level() > other.level() {
            let why = format_args!("the level is {}, in the other run {}:\n{worse}", other.level(), one.level());
            return Err(Box::new(broken(number, why).at(index)));
        }
    }
    Ok(())
}

/// Law 24: after `max(n, s)` passes in a row a region's memory is the same whatever it was before:
/// the one of a region that has seen nothing else. Undamped. (For [`Latch`](crate::engine::Latch)
/// it is checked of corrupt ones too, see `tests/exhaustive`.)
pub fn law_24_successes_forget_everything<P: LatchPolicy>(timeline: &Timeline<P>) -> Verdict {
    for place in timeline.places() {
        let state = timeline.state_at(place);
        let Some(policy) = state.policy().undamped() else { continue };
        let rules = Which::BOTH.into_iter().filter_map(|which| policy.rule(which));
        let passes = rules.map(|rule| rule.window().max(rule.success())).max().unwrap_or(0);
        let after_passes = |mut memory: P::Memory| {
            (0..passes).for_each(|_| policy.observe(&mut memory, Grade::Pass));
            memory
        };
        let fresh = after_passes(P::Memory::default());
        for region in state.regions() {
            let now = after_passes(region.memory().clone());
            if now != fresh {
                let old = region.memory();
                let why = format_args!("after {place} inputs, then {passes} passes, {old:?} is {now:?}, not {fresh:?}");
                return Err(broken(24, why));
            }
        }
    }
    Ok(())
}
