//! Laws about one step: cheap enough to be debug assertions.

use super::{Verdict, ensure};
use crate::{
    engine::{
        Control, Damping, Effects, Hint, Input, Latch, LatchRule, Mark, Policy, RegionState, State, TargetChange, Vote,
    },
    id::Applied,
    probe::{Kind, Outcome},
    service::Activity,
    status::{Cause, Status},
};

/// One input, and the states on both sides of it.
#[derive(Debug)]
pub struct Step<'a, P: Policy> {
    /// The state before.
    pub before: &'a State<P>,
    /// What came.
    pub input: &'a Input<P>,
    /// What followed.
    pub effects: &'a Effects,
    /// The state after.
    pub after: &'a State<P>,
}

impl<P: Policy> Step<'_, P> {
    fn was_ignored(&self) -> bool {
        matches!(self.effects.vote, Vote::Ignored(_))
    }

    /// Every step law there is for a state, in order.
    ///
    /// # Errors
    /// The first law that this step breaks.
    pub fn check(&self) -> Verdict {
        law_05_ignored_inputs_change_nothing(self)?;
        law_07_numbers_are_gapless_and_watermarks_rise(self)?;
        law_08_from_is_the_previous_to(self)?;
        law_09_at_most_one_transition_per_input(self)?;
        law_14_indeterminate_never_moves_the_level(self)?;
        law_15_controls_never_move_the_level(self)?;
        law_16_overlays_emit_nothing(self)?;
        law_17_announced_is_the_level(self)?;
        law_18_unknown_is_seldom_re_entered(self)
    }
}

/// One outcome taken in by a latch: what laws 10 to 13 need to know, whether from the bits of a
/// [`Latch`] or from a list of outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatchStep {
    /// The latch's rule.
    pub rule: LatchRule,
    /// What the outcome was to it.
    pub mark: Mark,
    /// Whether it was tripped before.
    pub was_tripped: bool,
    /// Whether it is tripped after.
    pub is_tripped: bool,
    /// How many of the last `n` outcomes since the windows were cleared are bad.
    pub bad: u32,
    /// How many outcomes in a row, this one the last, are bad.
    pub bad_run: u32,
    /// How many outcomes in a row, this one the last, are good.
    pub good_run: u32,
    /// How many outcomes in a row are not bad, those that never happened perhaps among them.
    pub calm_run: u32,
    /// As many good outcomes in a row are needed to clear it: `s`, or more when damped.
    pub least_recovery: u16,
    /// As many are enough.
    pub most_recovery: u16,
}

impl LatchStep {
    /// The step of a bit-set latch from `before` to `after`.
    pub fn of_bits(rule: LatchRule, damping: Option<Damping>, before: Latch, mark: Mark, after: Latch) -> Self {
        let recovery = after.recovery(rule, damping);
        Self {
            rule,
            mark,
            was_tripped: before.is_tripped(),
            is_tripped: after.is_tripped(),
            bad: after.history().count_ones(),
            bad_run: after.history().trailing_ones(),
            good_run: u32::from(after.run()),
            calm_run: after.history().trailing_zeros(),
            least_recovery: recovery,
            most_recovery: recovery,
        }
    }

    /// Laws 10 to 13, in order.
    ///
    /// # Errors
    /// The first law that this step breaks.
    pub fn check(&self) -> Verdict {
        law_10_a_latch_trips_only_on_a_failure(self)?;
        law_11_a_latch_clears_only_on_successes(self)?;
        law_12_enough_failures_in_a_row_trip(self)?;
        law_13_enough_successes_clear(self)
    }
}

#[cfg(debug_assertions)]
pub(in crate::engine) fn assert_step<P: Policy>(step: &Step<'_, P>) {
    if let Err(violation) = step.check() {
        panic!("{violation}\n  before: {:?}\n  input: {:?}\n  after: {:?}", step.before, step.input, step.after);
    }
}

#[cfg(debug_assertions)]
pub(in crate::engine) fn assert_latch_step(step: &LatchStep) {
    if let Err(violation) = step.check() {
        panic!("{violation}\n  {step:?}");
    }
}

/// Law 5: an input that is late, of an old epoch, for a paused or deleted service, manual or from
/// an unknown region does not vote; and whatever did not vote left the state bit-identical and has
/// no effect at all.
pub fn law_05_ignored_inputs_change_nothing<P: Policy>(step: &Step<'_, P>) -> Verdict {
    if step.was_ignored() {
        let silent = step.effects.transition.is_none() && step.effects.overlays.is_empty();
        ensure!(5, silent && step.effects.hint == Hint::None, "an ignored input had effects: {:?}", step.effects);
        ensure!(5, step.before == step.after, "an ignored input moved the state");
    }
    if let Input::Result(seen) = step.input {
        let before = step.before;
        let region = before.regions().iter().find(|region| *region.region() == seen.region);
        let late = region.is_none_or(|region| region.watermark().is_some_and(|watermark| seen.slot <= watermark));
        let void = before.activity() != Activity::Active || seen.kind == Kind::Manual || seen.epoch < before.epoch();
        ensure!(5, (late || void) == step.was_ignored(), "the vote of {seen:?} is {:?}", step.effects.vote);
    }
    Ok(())
}

/// Law 7, its first half: an input that moved the state has the next number, any other none; a
/// watermark never falls while its region stays, nor does the newest missed slot. (The second
/// half, `law_07_sequence_numbers_are_gapless`, is
/// checked on a model of the store, and by the stores' conformance suite.)
pub fn law_07_numbers_are_gapless_and_watermarks_rise<P: Policy>(step: &Step<'_, P>) -> Verdict {
    let (before, after) = (step.before.applied(), step.after.applied());
    let next = match step.effects.vote {
        Vote::Applied(applied) => {
            ensure!(7, applied == after, "the input is told number {applied}, the state has {after}");
            before.next()
        }
        Vote::Ignored(_) => before,
    };
    ensure!(7, after == next && before >= Applied(1), "number {before} is followed by {after}");
    for new in step.after.regions() {
        if let Some(old) = step.before.regions().iter().find(|old| old.region() == new.region()) {
            let rises = old.watermark() <= new.watermark() && old.missed_through() <= new.missed_through();
            ensure!(7, rises, "a watermark fell in {}", new.region());
        }
    }
    Ok(())
}

/// Law 8: a transition leads from the status announced before to the one announced after, and they
/// differ.
pub fn law_08_from_is_the_previous_to<P: Policy>(step: &Step<'_, P>) -> Verdict {
    if let Some(transition) = step.effects.transition {
        let (before, after) = (step.before.announced(), step.after.announced());
        let chained = transition.from == before && transition.to == after;
        ensure!(8, chained, "{before} became {after}, but the transition says {transition:?}");
        ensure!(8, transition.from != transition.to, "from {} to itself", transition.to);
    }
    Ok(())
}

/// Law 9: one input announces at most once, and never in silence: the announced status changes if
/// and only if there is a transition.
pub fn law_09_at_most_one_transition_per_input<P: Policy>(step: &Step<'_, P>) -> Verdict {
    let changed = step.before.announced() != step.after.announced();
    let told = step.effects.transition;
    ensure!(9, changed == told.is_some(), "the announced status changed: {changed}; told: {told:?}");
    Ok(())
}

/// Law 10: a latch trips only on a current failure that makes at least `k` in the last `n`, or on a
/// fatal one.
pub fn law_10_a_latch_trips_only_on_a_failure(step: &LatchStep) -> Verdict {
    if !step.was_tripped && step.is_tripped {
        let enough = step.mark == Mark::Bad && step.bad >= u32::from(step.rule.threshold());
        let by_right = enough || step.mark == Mark::Fatal;
        ensure!(10, by_right, "it tripped on {:?} with {} bad in the window", step.mark, step.bad);
    }
    Ok(())
}

/// Law 11: a latch clears only on a success that is the last of at least `s` in a row (damped: of as
/// many as recovery takes), and with fewer than `k` failures in the window.
pub fn law_11_a_latch_clears_only_on_successes(step: &LatchStep) -> Verdict {
    if step.was_tripped && !step.is_tripped {
        ensure!(11, step.mark == Mark::Good, "it cleared on {:?}", step.mark);
        let recovered = step.good_run >= u32::from(step.least_recovery.max(u16::from(step.rule.success())));
        let calm = step.bad < u32::from(step.rule.threshold());
        ensure!(11, recovered && calm, "it cleared after {} good, with {} bad in the window", step.good_run, step.bad);
    }
    Ok(())
}

/// Law 12: when the last `k` outcomes are all failures, the latch is tripped.
pub fn law_12_enough_failures_in_a_row_trip(step: &LatchStep) -> Verdict {
    let enough = step.mark != Mark::Good && step.bad_run >= u32::from(step.rule.threshold());
    ensure!(12, !enough || step.is_tripped, "it is clear after {} failures in a row", step.bad_run);
    Ok(())
}

/// Law 13: after as many successes in a row as recovery takes, the last `n − k + 1` outcomes among
/// them, the latch is clear.
pub fn law_13_enough_successes_clear(step: &LatchStep) -> Verdict {
    let recovered = step.mark == Mark::Good && step.good_run >= u32::from(step.most_recovery);
    let calm = step.calm_run > u32::from(step.rule.window() - step.rule.threshold());
    ensure!(13, !(recovered && calm && step.is_tripped), "it is tripped after {} good in a row", step.good_run);
    Ok(())
}

/// Law 14: an Indeterminate result moves neither the level nor what any policy remembers.
pub fn law_14_indeterminate_never_moves_the_level<P: Policy>(step: &Step<'_, P>) -> Verdict {
    if let Input::Result(seen) = step.input
        && let Outcome::Indeterminate(_) = seen.outcome
    {
        let (before, after) = (step.before.level(), step.after.level());
        ensure!(14, before == after, "the level went from {before} to {after}");
        let memories = |state: &State<P>| state.regions().iter().map(|r| r.memory().clone()).collect::<Vec<_>>();
        ensure!(14, memories(step.before) == memories(step.after), "a policy remembers a result that says nothing");
    }
    Ok(())
}

/// Law 15: no control input but a configuration and a deletion moves the level or any region's
/// vote; and what a control input announces bears its own cause.
pub fn law_15_controls_never_move_the_level<P: Policy>(step: &Step<'_, P>) -> Verdict {
    let (cause, may_move) = match step.input {
        Input::Result(_) => (Some(Cause::Result), true),
        Input::Control(Control::Configure { .. }) => (Some(Cause::Configuration), true),
        Input::Control(Control::Delete) => (Some(Cause::Deleted), true),
        Input::Control(Control::Resume) => (Some(Cause::Resumed), false),
        Input::Control(Control::EndMaintenance) => (Some(Cause::MaintenanceEnded), false),
        Input::Control(Control::Pause | Control::BeginMaintenance | Control::Missed { .. }) => (None, false),
    };
    if !may_move {
        let (before, after) = (step.before.level(), step.after.level());
        ensure!(15, before == after, "a control input moved the level from {before} to {after}");
        let votes = |state: &State<P>| {
            state.regions().iter().map(|region| state.policy().tripped(region.memory())).collect::<Vec<_>>()
        };
        ensure!(15, votes(step.before) == votes(step.after), "a control input moved a region's vote");
    }
    let told = step.effects.transition.map(|transition| transition.cause);
    ensure!(15, told.is_none() || told == cause, "it announced with the cause {told:?}");
    Ok(())
}

/// Law 16: while an overlay freezes the announced status (a pause, a maintenance) nothing is
/// announced; when the last one ends, by whatever input, there is a transition if and only if what
/// was announced differs from the level.
pub fn law_16_overlays_emit_nothing<P: Policy>(step: &Step<'_, P>) -> Verdict {
    let told = step.effects.transition;
    if step.after.is_frozen() {
        ensure!(16, told.is_none(), "announced under an overlay: {told:?}");
    } else if step.before.is_frozen() {
        let differs = step.before.announced() != step.after.level();
        ensure!(16, differs == told.is_some(), "the last overlay ended, and what was told is {told:?}");
    }
    Ok(())
}

/// Law 17: after an input that moved the state, outside pause and maintenance, the announced status
/// is the level.
pub fn law_17_announced_is_the_level<P: Policy>(step: &Step<'_, P>) -> Verdict {
    let after = step.after;
    let holds = step.was_ignored() || after.is_frozen() || after.announced() == after.level();
    ensure!(17, holds, "{} is announced, the level is {}", after.announced(), after.level());
    Ok(())
}

/// Law 18: the level becomes UNKNOWN again only by a deletion, or by a configuration that leaves no
/// region that ever passed: its target is another, or the regions that had passed are gone, or, of
/// a service that never passed, the votes that made it DOWN. No result and no other input does it.
pub fn law_18_unknown_is_seldom_re_entered<P: Policy>(step: &Step<'_, P>) -> Verdict {
    let (before, after) = (step.before, step.after);
    if before.level() != Status::Unknown && after.level() == Status::Unknown {
        let none_passed = !after.regions().iter().any(RegionState::passed);
        let by_right = match step.input {
            Input::Control(Control::Delete) => true,
            Input::Control(Control::Configure { target: TargetChange::Changed, .. }) => none_passed,
            Input::Control(Control::Configure { target: TargetChange::Same, .. }) => {
                let kept = |old: &&RegionState<P::Memory>| {
                    old.passed() && after.regions().iter().any(|new| new.region() == old.region())
                };
                none_passed && before.regions().iter().find(kept).is_none()
            }
            _ => false,
        };
        ensure!(18, by_right, "{} became UNKNOWN by {:?}", before.level(), step.input);
    }
    Ok(())
}
