//! Laws for policies that are nothing but their thresholds: they compare one policy with another.

use super::{LatchPolicy, Timeline, Verdict, Which, broken, ensure, latch::never_healthier, latch::vote};
use crate::engine::{Grade, LatchRule, Policy, State, Thresholds, oracle::Oracle};

/// A policy that is nothing but its thresholds, which can therefore be turned: what laws 19, 20,
/// 22, 23 and 27 need.
pub trait ThresholdPolicy: LatchPolicy {
    /// The same policy with another rule for a latch that it has.
    #[must_use]
    fn with_rule(&self, which: Which, rule: LatchRule) -> Self;

    /// These thresholds in healthmon's own form, by which the oracle judges.
    fn thresholds(&self) -> Thresholds {
        let usual = Thresholds::default();
        Thresholds {
            down: self.rule(Which::Down).unwrap_or(usual.down),
            degraded: self.rule(Which::Degraded),
            damping: self.damping(),
            quorum: self.quorum(),
            blind_after: self.blind_after(),
        }
    }
}

impl ThresholdPolicy for Thresholds {
    fn with_rule(&self, which: Which, rule: LatchRule) -> Self {
        match which {
            Which::Down => Self { down: rule, ..*self },
            Which::Degraded => Self { degraded: self.degraded.map(|_| rule), ..*self },
        }
    }
}

/// The timeline with all its policies undamped and their rules turned; as it was where a rule
/// cannot be turned so.
fn turned<P: ThresholdPolicy>(
    timeline: &Timeline<P>,
    which: Which,
    turn: fn(LatchRule) -> Option<LatchRule>,
) -> (Timeline<P>, Timeline<P>) {
    let plain = timeline.with_policies(|policy| policy.undamped().unwrap_or_else(|| policy.clone()));
    let other = plain.with_policies(|policy| match policy.rule(which).and_then(turn) {
        Some(rule) => policy.with_rule(which, rule),
        None => policy.clone(),
    });
    (plain, other)
}

fn raised(rule: LatchRule) -> Option<LatchRule> {
    LatchRule::new(rule.threshold().checked_add(1)?, rule.window(), rule.success()).ok()
}

fn widened(rule: LatchRule) -> Option<LatchRule> {
    LatchRule::new(rule.threshold(), rule.window().checked_add(1)?, rule.success()).ok()
}

fn slowed(rule: LatchRule) -> Option<LatchRule> {
    LatchRule::new(rule.threshold(), rule.window(), rule.success().checked_add(1)?).ok()
}

/// Law 19: `Down(k + 1) ⊆ Down(k)`: at no step is a region's latch, or the level, healthier under
/// `k` than under `k + 1`. Of either latch; undamped.
pub fn law_19_higher_thresholds_never_detect_earlier<P: ThresholdPolicy>(timeline: &Timeline<P>) -> Verdict {
    for which in Which::BOTH {
        let (plain, higher) = turned(timeline, which, raised);
        never_healthier(&higher, &plain, 19)?;
    }
    Ok(())
}

/// Law 20: `Down(n) ⊆ Down(n + 1)` and `Down(s) ⊆ Down(s + 1)`. Of either latch; undamped.
pub fn law_20_longer_windows_and_recoveries_hold_longer<P: ThresholdPolicy>(timeline: &Timeline<P>) -> Verdict {
    for which in Which::BOTH {
        for turn in [widened, slowed] {
            let (plain, longer) = turned(timeline, which, turn);
            never_healthier(&plain, &longer, 20)?;
        }
    }
    Ok(())
}

/// The votes along a region's outcomes, the first before any.
fn votes<P: Policy>(policy: &P, outcomes: &[Grade], which: Which) -> Vec<bool> {
    let mut memory = P::Memory::default();
    let mut votes = vec![vote(policy, &memory, which)];
    for grade in outcomes {
        policy.observe(&mut memory, *grade);
        votes.push(vote(policy, &memory, which));
    }
    votes
}

fn changes(votes: &[bool]) -> usize {
    votes.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Law 22: of two consecutive policies (`n = k`), undamped and with the same `s`, that with the
/// higher threshold never changes its vote more often, from a common start that is not tripped.
///
/// For one region whose status is its down latch's vote that is "never more transitions from UP";
/// from UNKNOWN it does not hold, nor with `n > k` (see the regression cases).
pub fn law_22_higher_consecutive_thresholds_transit_no_more<P: ThresholdPolicy>(timeline: &Timeline<P>) -> Verdict {
    let outcomes = timeline.busiest();
    let Some(policy) = timeline.policy.undamped() else { return Ok(()) };
    for which in Which::BOTH {
        let Some(rule) = policy.rule(which) else { continue };
        for k in 1..=rule.threshold().saturating_add(1) {
            let consecutive = |k: u8| LatchRule::new(k, k, rule.success()).ok();
            let (Some(low), Some(high)) = (consecutive(k), consecutive(k + 1)) else { continue };
            let count = |rule| changes(&votes(&policy.with_rule(which, rule), &outcomes, which));
            let (low, high) = (count(low), count(high));
            ensure!(22, high <= low, "k = {k} changes {low} times, k = {} {high} times, over {outcomes:?}", k + 1);
        }
    }
    Ok(())
}

/// Law 23: a damped latch is tripped whenever the undamped one is, and with it the level is DOWN
/// whenever that of the undamped policy is; so an outage is announced as soon as undamped, and a
/// permanent one for good. And each latch changes its vote no more often than the undamped one.
///
/// The *service's* transitions may be more: where the degraded latch is damped longer than the
/// down latch, DOWN → UP becomes DOWN → DEGRADED → UP.
pub fn law_23_damping_only_lengthens_recovery<P: ThresholdPolicy>(timeline: &Timeline<P>) -> Verdict {
    let plain = timeline.with_policies(|policy| policy.undamped().unwrap_or_else(|| policy.clone()));
    never_healthier(&plain, timeline, 23)?;
    let (mut damped_changes, mut plain_changes) = (0, 0);
    let (mut damped, mut undamped) = (timeline.start(), plain.start());
    let votes_of = |state: &State<P>| {
        let votes = |region| Which::BOTH.map(|which| vote(state.policy(), region, which));
        state.regions().iter().map(|region| (region.region().clone(), votes(region.memory()))).collect::<Vec<_>>()
    };
    for (left, right) in timeline.inputs.iter().zip(&plain.inputs) {
        let before = (votes_of(&damped), votes_of(&undamped));
        damped.step(left);
        undamped.step(right);
        damped_changes += differences(&before.0, &votes_of(&damped));
        plain_changes += differences(&before.1, &votes_of(&undamped));
    }
    ensure!(23, damped_changes <= plain_changes, "damped {damped_changes} changes of votes, undamped {plain_changes}");
    Ok(())
}

type Votes = Vec<(crate::id::Region, [bool; 2])>;

/// How many latches of regions that stayed changed their vote.
fn differences(before: &Votes, after: &Votes) -> usize {
    let pairs =
        before.iter().filter_map(|(name, old)| after.iter().find(|(n, _)| n == name).map(|(_, new)| (old, new)));
    pairs.map(|(old, new)| old.iter().zip(new).filter(|(a, b)| a != b).count()).sum()
}

/// Law 27: the [oracle](Oracle), which keeps lists and recomputes everything from DESIGN's words,
/// says the same of every input: vote, number, transition, overlays and hint; and ends in the same
/// status, level and epoch.
pub fn law_27_the_engine_is_the_oracle<P: ThresholdPolicy>(timeline: &Timeline<P>) -> Verdict {
    let by_thresholds = timeline.with_policies(P::thresholds);
    let mut oracle = Oracle::registered(by_thresholds.policy, &by_thresholds.regions);
    let mut index = 0;
    timeline.every_step(|step| {
        let expected = oracle.apply(&by_thresholds.inputs[index]);
        index += 1;
        ensure!(27, expected == *step.effects, "the oracle says {expected:?}, the engine {:?}", step.effects);
        let (status, level) = (step.after.announced(), step.after.level());
        let same = (oracle.status(), oracle.level(), oracle.epoch()) == (status, level, step.after.epoch());
        ensure!(
            27,
            same,
            "the oracle has {} over {}, the engine {status} over {level}",
            oracle.status(),
            oracle.level()
        );
        Ok(())
    })?;
    let end = oracle.applied();
    let applied = timeline.state_at(timeline.inputs.len()).applied();
    if end == applied { Ok(()) } else { Err(broken(27, format_args!("the oracle counts {end}, the engine {applied}"))) }
}
