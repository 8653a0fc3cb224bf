//! What a service's status does, row by row of the engine's table.

use healthmon_core::{
    engine::{Control, Grade, Hint, Ignored, Input, LatchRule, Sighting, Thresholds, Vote},
    id::{Applied, Epoch},
    probe::{Kind, Outcome},
    status::{Cause, Status},
};

use crate::story::{
    BLANK, FAIL, FATAL, PASS, SLOW, Story, count, ignored, older, policy, region, rule, told, transition,
};

#[test]
fn a_registered_service_is_unknown_active_and_at_input_one() {
    let story = Story::of(policy(3, 3, 2));
    let state = &story.state;
    assert_eq!((state.announced(), state.level()), (Status::Unknown, Status::Unknown));
    assert_eq!((state.applied(), state.epoch()), (Applied(1), Epoch(1)));
    let regions = state.regions();
    assert_eq!((regions.len(), regions[0].region()), (1, &region("ap")));
    assert_eq!((regions[0].watermark(), regions[0].missed_through()), (None, None));
    assert_eq!((regions[0].passed(), regions[0].blind_run()), (false, 0));
}

#[test]
fn the_first_pass_makes_unknown_up() {
    let mut story = Story::of(policy(3, 3, 2));
    assert_eq!(story.see(PASS).transition, transition(Status::Unknown, Status::Up, Cause::Result));
}

#[test]
fn the_first_slow_pass_makes_unknown_up_or_degraded_if_that_trips() {
    assert_eq!(told(policy(3, 3, 2), "S").0, Status::Up);
    let degraded = |k| Thresholds { degraded: Some(rule(k, k, 1)), ..policy(3, 3, 2) };
    assert_eq!(told(degraded(1), "S").0, Status::Degraded);
    assert_eq!(told(degraded(2), "S").0, Status::Up);
}

#[test]
fn failures_below_the_threshold_leave_unknown_unknown() {
    assert_eq!(told(policy(3, 3, 2), "FF"), (Status::Unknown, 0));
    assert_eq!(Story::of(policy(3, 3, 2)).see(FAIL).hint, Hint::None);
}

#[test]
fn three_failures_at_threshold_three_go_down() {
    let mut story = Story::of(policy(3, 3, 2));
    story.run("PFF");
    assert_eq!(story.status(), Status::Up);
    let effects = story.see(FAIL);
    assert_eq!(effects.transition, transition(Status::Up, Status::Down, Cause::Result));
    assert_eq!((effects.vote, effects.hint), (Vote::Applied(Applied(5)), Hint::None));
    assert_eq!(effects.applied(), Some(Applied(5)));
}

#[test]
fn a_fatal_failure_goes_down_at_once() {
    assert_eq!(told(policy(3, 3, 2), "PX").0, Status::Down);
    assert_eq!(told(policy(3, 3, 2), "X").0, Status::Down);
}

#[test]
fn a_failure_that_trips_nothing_asks_for_an_earlier_probe() {
    let mut story = Story::of(policy(3, 3, 2));
    assert_eq!(story.see(PASS).hint, Hint::None);
    assert_eq!(story.see(FAIL).hint, Hint::ProbeSooner);
    let mut degraded = Story::of(Thresholds { degraded: Some(rule(1, 1, 1)), ..policy(3, 3, 2) });
    degraded.run("P");
    let effects = degraded.see(FAIL);
    assert_eq!((degraded.status(), effects.hint), (Status::Degraded, Hint::ProbeSooner));
    assert_eq!(degraded.see(SLOW).hint, Hint::None);
}

#[test]
fn a_success_that_clears_nothing_asks_for_an_earlier_probe() {
    let mut story = Story::of(policy(1, 1, 2));
    story.run("F");
    assert_eq!(story.see(PASS).hint, Hint::ProbeSooner);
    assert_eq!((story.status(), story.see(SLOW).hint), (Status::Down, Hint::None));
    assert_eq!(story.status(), Status::Up);
    story.run("F");
    assert_eq!(story.see(SLOW).hint, Hint::ProbeSooner);
    assert_eq!(story.see(BLANK).hint, Hint::None);
    assert_eq!(story.see(FATAL).hint, Hint::None);
}

#[test]
fn two_successes_after_down_go_up() {
    assert_eq!(told(policy(3, 3, 2), "FFFP").0, Status::Down);
    assert_eq!(told(policy(3, 3, 2), "FFFPP"), (Status::Up, 2));
    assert_eq!(told(policy(3, 3, 2), "FFFSS").0, Status::Up);
}

#[test]
fn slow_passes_and_failures_degrade_and_passes_restore() {
    let policy = Thresholds { degraded: Some(rule(2, 3, 2)), ..policy(3, 3, 1) };
    let mut story = Story::of(policy);
    assert_eq!(story.run("PS"), Status::Up);
    assert_eq!(story.run("S"), Status::Degraded);
    assert_eq!(story.run("P"), Status::Degraded);
    assert_eq!(story.run("P"), Status::Up);
    assert_eq!(story.run("FF"), Status::Degraded);
    assert_eq!(story.run("F"), Status::Down);
    assert_eq!(story.run("P"), Status::Degraded, "down is clear, degraded is not");
    assert_eq!(story.run("P"), Status::Up);
}

#[test]
fn a_degraded_latch_that_tripped_is_not_seen_while_nothing_ever_passed() {
    let policy = Thresholds { degraded: Some(rule(1, 1, 1)), ..policy(3, 3, 1) };
    assert_eq!(told(policy, "FF"), (Status::Unknown, 0));
}

#[test]
fn indeterminate_results_move_neither_level_nor_window() {
    assert_eq!(told(policy(2, 2, 1), "PF?F").0, Status::Down);
    assert_eq!(told(policy(2, 2, 1), "P????").0, Status::Up);
    assert_eq!(told(policy(2, 2, 2), "FFP?P").0, Status::Up);
}

#[test]
fn late_results_are_ignored_and_say_why() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("PP");
    for slot in [2, 1, 0] {
        let late = story.sighting("ap", slot, FAIL);
        assert_eq!(story.apply(&Input::Result(late)), ignored(Ignored::Late), "slot {slot}");
    }
    let edge = Sighting { kind: Kind::Edge, ..story.sighting("ap", 3, FAIL) };
    assert_eq!(story.apply(&Input::Result(edge)).transition.map(|told| told.to), Some(Status::Down));
}

#[test]
fn the_first_slot_of_all_votes_whatever_its_number() {
    let mut story = Story::of(policy(1, 1, 1));
    let seen = story.sighting("ap", i64::MIN, PASS);
    assert_eq!(story.apply(&Input::Result(seen)).applied(), Some(Applied(2)));
}

#[test]
fn results_of_older_settings_are_ignored() {
    let mut story = Story::of(policy(1, 1, 1));
    story.configure(policy(1, 1, 1), &["ap"]);
    assert_eq!(story.state.epoch(), Epoch(2));
    let old = Sighting { epoch: older(story.state.epoch()), ..story.sighting("ap", 9, FAIL) };
    assert_eq!(story.apply(&Input::Result(old)), ignored(Ignored::OldEpoch));
}

#[test]
fn manual_results_and_those_from_elsewhere_are_ignored() {
    let mut story = Story::of(policy(1, 1, 1));
    let manual = Sighting { kind: Kind::Manual, ..story.sighting("ap", 9, FAIL) };
    assert_eq!(story.apply(&Input::Result(manual)), ignored(Ignored::Manual));
    assert_eq!(story.see_in("eu", FAIL), ignored(Ignored::UnknownRegion));
    assert_eq!(story.state.applied(), Applied(1));
}

#[test]
fn of_several_reasons_to_ignore_a_result_the_first_is_given() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    story.configure(policy(1, 1, 1), &["ap"]);
    let late = story.sighting("ap", 1, FAIL);
    let unknown = Sighting { region: region("eu"), ..late.clone() };
    let old = Sighting { epoch: older(story.state.epoch()), ..unknown.clone() };
    let manual = Sighting { kind: Kind::Manual, ..old.clone() };
    let results = [(&late, Ignored::Late), (&unknown, Ignored::UnknownRegion), (&old, Ignored::OldEpoch)];
    for (seen, why) in results.into_iter().chain([(&manual, Ignored::Manual)]) {
        assert_eq!(story.apply(&Input::Result(seen.clone())), ignored(why));
    }
    story.control(Control::Pause);
    assert_eq!(story.apply(&Input::Result(manual.clone())), ignored(Ignored::Paused));
    story.control(Control::Delete);
    assert_eq!(story.apply(&Input::Result(manual)), ignored(Ignored::Deleted));
}

#[test]
fn a_result_after_a_configuration_counts_under_its_new_epoch() {
    let mut story = Story::of(policy(1, 1, 1));
    story.configure(policy(1, 1, 1), &["ap"]);
    assert_eq!(story.see(FAIL).applied(), Some(Applied(3)));
}

#[test]
fn down_needs_a_quorum_of_regions() {
    let two = Thresholds { quorum: count(2), ..policy(1, 1, 1) };
    let mut story = Story::in_regions(two, &["ap", "eu", "us"]);
    story.see_in("ap", PASS);
    assert_eq!((story.see_in("eu", FAIL).transition, story.status()), (None, Status::Up));
    assert_eq!(story.see_in("us", FAIL).transition, transition(Status::Up, Status::Down, Cause::Result));
    assert_eq!(story.see_in("eu", PASS).transition, transition(Status::Down, Status::Up, Cause::Result));
}

#[test]
fn degraded_needs_a_quorum_of_regions() {
    let two = Thresholds { quorum: count(2), degraded: Some(rule(1, 1, 1)), ..policy(1, 1, 1) };
    let mut story = Story::in_regions(two, &["ap", "eu"]);
    story.see_in("ap", SLOW);
    assert_eq!(story.status(), Status::Up);
    story.see_in("eu", SLOW);
    assert_eq!(story.status(), Status::Degraded);
}

#[test]
fn a_quorum_above_the_number_of_regions_means_all_of_them() {
    let many = Thresholds { quorum: count(9), ..policy(1, 1, 1) };
    let mut story = Story::in_regions(many, &["ap", "eu"]);
    story.see_in("ap", FAIL);
    assert_eq!(story.status(), Status::Unknown);
    story.see_in("eu", FAIL);
    assert_eq!(story.status(), Status::Down);
}

#[test]
fn a_region_that_fell_silent_keeps_its_vote() {
    let two = Thresholds { quorum: count(2), ..policy(1, 1, 1) };
    let mut story = Story::in_regions(two, &["ap", "eu"]);
    story.see_in("ap", FAIL);
    story.missed("ap", 200);
    assert_eq!(story.see_in("eu", FAIL).transition.map(|told| told.to), Some(Status::Down));
}

#[test]
fn watermarks_are_of_each_region_alone() {
    let mut story = Story::in_regions(policy(1, 1, 1), &["ap", "eu"]);
    let first = story.sighting("ap", 100, PASS);
    story.apply(&Input::Result(first));
    let other = story.sighting("eu", 50, FAIL);
    assert_eq!(story.apply(&Input::Result(other)).transition.map(|told| told.to), Some(Status::Down));
    let slots = story.state.regions().iter().map(|region| region.watermark().map(|slot| slot.as_millis()));
    assert_eq!(slots.collect::<Vec<_>>(), [Some(100), Some(50)]);
}

#[test]
fn outcomes_have_their_grades() {
    let grades = [PASS, SLOW, FAIL, FATAL, BLANK].map(Grade::of);
    assert_eq!(grades, [Some(Grade::Pass), Some(Grade::Slow), Some(Grade::Fail), Some(Grade::Fatal), None]);
    let passed = [Grade::Pass, Grade::Slow, Grade::Fail, Grade::Fatal].map(Grade::passed);
    assert_eq!(passed, [true, true, false, false]);
}

#[test]
fn the_default_policy_is_three_failures_and_two_successes() {
    let policy = Thresholds::default();
    assert_eq!(Ok(policy.down), LatchRule::new(3, 3, 2));
    assert_eq!((policy.degraded, policy.damping), (None, None));
    assert_eq!((policy.quorum.get(), policy.blind_after.get()), (1, 3));
    assert_eq!(Thresholds::with_down(rule(1, 2, 3)), Thresholds { down: rule(1, 2, 3), ..policy });
}

#[test]
fn an_outcome_of_every_sort_is_told_apart_from_the_others() {
    let results: [Outcome; 5] = [PASS, SLOW, FAIL, FATAL, BLANK];
    let statuses = results.map(|outcome| {
        let mut story = Story::of(Thresholds { degraded: Some(rule(1, 1, 1)), ..policy(2, 2, 1) });
        story.run("P");
        story.see(outcome);
        story.status()
    });
    assert_eq!(statuses, [Status::Up, Status::Degraded, Status::Degraded, Status::Down, Status::Up]);
}
