//! The strategies reach everything there is to reach: laws tried on timelines in which nothing
//! happens would hold of any engine.

use std::collections::BTreeSet;

use healthmon_core::{
    engine::{
        Control, Hint, Input, TargetChange, Thresholds, Vote,
        invariants::Timeline,
        strategies::{
            Event,
            proptest::{
                strategy::{Strategy as _, ValueTree as _},
                test_runner::{Config, RngSeed, TestRunner},
            },
            some_cases, thresholds, timeline, timelines,
        },
    },
    probe::Kind,
    status::{Overlay, Status},
};

use crate::story::{FAIL, PASS, policy, regions};

fn some_timelines() -> impl Iterator<Item = Timeline<Thresholds>> {
    let config = Config { rng_seed: RngSeed::Fixed(1), ..some_cases(2_000) };
    let mut runner = TestRunner::new(config);
    let strategy = timelines(thresholds());
    (0..2_000).map(move |_| strategy.new_tree(&mut runner).expect("a timeline").current())
}

/// Each of these was seen.
fn all_seen(seen: &BTreeSet<String>, expected: &[&str]) {
    let missing: Vec<_> = expected.iter().filter(|name| !seen.contains(**name)).collect();
    assert!(missing.is_empty(), "never generated: {missing:?}; generated: {seen:?}");
}

#[test]
fn timelines_reach_every_refusal_overlay_and_hint() {
    let mut seen = BTreeSet::new();
    for timeline in some_timelines() {
        let holds = timeline.every_step(|step| {
            match step.effects.vote {
                Vote::Applied(_) => seen.insert("Applied".to_owned()),
                Vote::Ignored(why) => seen.insert(format!("{why:?}")),
            };
            seen.extend(step.effects.overlays.iter().map(|(overlay, edge)| format!("{overlay:?} {edge:?}")));
            seen.extend((step.effects.hint == Hint::ProbeSooner).then(|| "ProbeSooner".to_owned()));
            Ok(())
        });
        assert_eq!(holds, Ok(()));
    }
    all_seen(&seen, &["Applied", "Late", "OldEpoch", "Paused", "Manual", "UnknownRegion", "Deleted", "NoChange"]);
    all_seen(&seen, &["Blind Began", "Blind Ended", "Paused Began", "Paused Ended", "Maintenance Began"]);
    all_seen(&seen, &["Maintenance Ended", "ProbeSooner"]);
}

#[test]
fn timelines_reach_every_transition_and_cause() {
    let mut seen = BTreeSet::new();
    for timeline in some_timelines() {
        let holds = timeline.every_step(|step| {
            let told = step.effects.transition;
            seen.extend(told.map(|told| format!("{} to {}", told.from, told.to)));
            seen.extend(told.map(|told| format!("{:?}", told.cause)));
            Ok(())
        });
        assert_eq!(holds, Ok(()));
    }
    let statuses = [Status::Up, Status::Degraded, Status::Unknown, Status::Down];
    let pairs = statuses.into_iter().flat_map(|from| statuses.map(|to| (from, to))).filter(|(from, to)| from != to);
    let pairs: Vec<String> = pairs.map(|(from, to)| format!("{from} to {to}")).collect();
    all_seen(&seen, &pairs.iter().map(String::as_str).collect::<Vec<_>>());
    all_seen(&seen, &["Result", "Configuration", "Resumed", "MaintenanceEnded", "Deleted"]);
}

#[test]
fn half_of_the_timelines_go_down_and_none_is_dull() {
    let (mut down, mut voted, mut all) = (0, 0, 0);
    for timeline in some_timelines() {
        let mut went_down = false;
        let holds = timeline.every_step(|step| {
            went_down |= step.after.announced() == Status::Down;
            all += 1;
            voted += u32::from(step.effects.applied().is_some());
            Ok(())
        });
        assert_eq!(holds, Ok(()));
        down += u32::from(went_down);
    }
    assert!(down > 800, "{down} of 2000 timelines went down");
    assert!(voted * 2 > all, "{voted} of {all} inputs moved the state");
}

#[test]
fn events_are_told_relative_to_the_service() {
    let events = [
        Event::Burst(0, PASS, 2, Kind::Scheduled),
        Event::Pause,
        Event::Resume,
        Event::Late(0, FAIL, 0),
        Event::OldEpoch(0, FAIL, 1),
        Event::Burst(0, FAIL, 1, Kind::Edge),
    ];
    let timeline = timeline(&[policy(1, 1, 1)], &regions(&["eu"]), &events);
    let printed = timeline.to_string();
    let lines: Vec<&str> = printed.lines().skip(2).collect();
    assert_eq!(
        lines,
        [
            "  1        10  eu       Pass                     UNKNOWN -> UP",
            "  2        20  eu       Pass                     UP",
            "  3                     pause                    UP                   paused begins",
            "  4                     resume                   UP                   paused ends",
            "  5        20  eu       Fail                     UP                   ignored: late",
            "  6        30  eu       Fail, epoch 1 of 2       UP                   ignored: old epoch",
            "  7        40  eu       Fail, edge               UP -> DOWN",
        ]
    );
}

#[test]
fn a_configuration_prints_what_it_changes() {
    let inputs = |target| {
        let policy = policy(2, 2, 1);
        vec![
            Input::Control(Control::BeginMaintenance),
            Input::Control(Control::Configure { policy, regions: regions(&["ap"]), target }),
        ]
    };
    let of = |target| Timeline::new(policy(1, 1, 1), regions(&["eu"]), inputs(target)).to_string();
    let changed = of(TargetChange::Changed);
    assert!(changed.contains("configure another target; Thresholds {"), "{changed}");
    assert!(changed.contains("; regions ap"), "{changed}");
    assert!(changed.contains(Overlay::Maintenance.as_str()), "{changed}");
    let same = of(TargetChange::Same);
    assert!(!same.contains("another target"), "{same}");
}
