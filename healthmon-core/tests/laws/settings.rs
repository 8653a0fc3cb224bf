//! What a change of policy, regions, quorum or target does.

use healthmon_core::{
    engine::{Damping, Thresholds},
    id::Epoch,
    status::{Cause, Status},
};

use crate::story::{FAIL, PASS, Story, count, policy, rule, transition};

#[test]
fn a_change_of_thresholds_keeps_the_level_and_clears_the_windows() {
    let mut story = Story::of(policy(3, 3, 2));
    story.run("PFF");
    assert_eq!(story.configure(policy(2, 2, 2), &["ap"]).transition, None);
    assert_eq!((story.state.epoch(), story.state.policy().down), (Epoch(2), rule(2, 2, 2)));
    assert_eq!(story.run("F"), Status::Up);
    assert_eq!(story.run("F"), Status::Down);
    assert_eq!(story.configure(policy(9, 9, 1), &["ap"]).transition, None);
    assert_eq!(story.run("P"), Status::Up);
}

#[test]
fn a_lower_quorum_counts_the_votes_that_are_there() {
    let with_quorum = |quorum| Thresholds { quorum: count(quorum), ..policy(1, 1, 1) };
    let mut story = Story::in_regions(with_quorum(2), &["ap", "eu"]);
    story.see_in("ap", FAIL);
    story.see_in("eu", PASS);
    assert_eq!(story.status(), Status::Up);
    let told = story.configure(with_quorum(1), &["ap", "eu"]).transition;
    assert_eq!(told, transition(Status::Up, Status::Down, Cause::Configuration));
    let told = story.configure(with_quorum(2), &["ap", "eu"]).transition;
    assert_eq!(told, transition(Status::Down, Status::Up, Cause::Configuration));
}

#[test]
fn a_removed_region_takes_its_vote_and_its_watermark_with_it() {
    let mut story = Story::in_regions(policy(1, 1, 1), &["ap", "eu"]);
    story.see_in("ap", PASS);
    story.see_in("eu", FAIL);
    let told = story.configure(policy(1, 1, 1), &["ap"]).transition;
    assert_eq!(told, transition(Status::Down, Status::Up, Cause::Configuration));
    story.configure(policy(1, 1, 1), &["ap", "eu"]);
    let [ap, eu] = story.state.regions() else { panic!("two regions") };
    assert_eq!((ap.watermark().is_some(), ap.passed()), (true, true));
    assert_eq!((eu.watermark(), eu.passed()), (None, false));
}

#[test]
fn regions_keep_what_they_know_when_others_come_and_go() {
    let mut story = Story::in_regions(policy(1, 1, 2), &["ap", "eu", "us"]);
    story.see_in("ap", PASS);
    story.see_in("us", FAIL);
    story.configure(policy(1, 1, 2), &["ap-2", "eu", "us"]);
    assert_eq!(story.status(), Status::Down, "us votes for it still");
    let names: Vec<_> = story.state.regions().iter().map(|region| region.region().as_str().to_owned()).collect();
    assert_eq!(names, ["ap-2", "eu", "us"]);
    assert!(!story.state.regions().iter().any(|region| region.passed()));
}

#[test]
fn losing_the_only_region_that_ever_passed_is_unknown() {
    let mut story = Story::in_regions(policy(1, 1, 1), &["ap", "eu"]);
    story.see_in("ap", PASS);
    let told = story.configure(policy(1, 1, 1), &["eu"]).transition;
    assert_eq!(told, transition(Status::Up, Status::Unknown, Cause::Configuration));
}

#[test]
fn another_target_is_unknown_and_nothing_of_the_old_one_counts() {
    let mut story = Story::of(Thresholds { blind_after: count(2), ..policy(2, 2, 2) });
    story.run("PFF?");
    let told = story.retarget().transition;
    assert_eq!(told, transition(Status::Down, Status::Unknown, Cause::Configuration));
    let region = &story.state.regions()[0];
    assert_eq!((region.passed(), region.blind_run()), (false, 0));
    assert_eq!(*region.memory(), Default::default());
    assert!(region.watermark().is_some(), "its slots are past all the same");
    assert_eq!(story.run("F"), Status::Unknown);
    assert_eq!(story.run("P"), Status::Up);
}

#[test]
fn the_same_target_keeps_what_is_known() {
    let mut story = Story::of(policy(2, 2, 2));
    story.run("P?");
    story.configure(policy(2, 2, 2), &["ap"]);
    let region = &story.state.regions()[0];
    assert_eq!((region.passed(), region.blind_run()), (true, 1));
}

#[test]
fn without_a_degraded_rule_there_is_no_degraded_vote_and_none_is_kept_for_later() {
    let with = Thresholds { degraded: Some(rule(1, 1, 2)), ..policy(3, 3, 1) };
    let without = policy(3, 3, 1);
    let mut story = Story::of(with);
    assert_eq!(story.run("PS"), Status::Degraded);
    let told = story.configure(without, &["ap"]).transition;
    assert_eq!(told, transition(Status::Degraded, Status::Up, Cause::Configuration));
    story.run("S");
    assert_eq!(story.configure(with, &["ap"]).transition, None);
    assert_eq!(story.run("P"), Status::Up);
}

#[test]
fn a_degraded_service_stays_so_across_a_change_of_thresholds() {
    let with = |s| Thresholds { degraded: Some(rule(1, 1, s)), ..policy(3, 3, 1) };
    let mut story = Story::of(with(1));
    assert_eq!(story.run("PS"), Status::Degraded);
    assert_eq!(story.configure(with(2), &["ap"]).transition, None);
    assert_eq!(story.run("P"), Status::Degraded);
    assert_eq!(story.run("P"), Status::Up);
}

#[test]
fn damping_lengthens_the_recovery_of_a_service_that_flaps() {
    let damped = Thresholds { damping: Damping::new(4, 5).ok(), ..policy(1, 1, 1) };
    let mut story = Story::of(damped);
    assert_eq!(story.run("PFP"), Status::Up);
    assert_eq!(story.run("FP"), Status::Down);
    assert_eq!(story.run("P"), Status::Up);
    assert_eq!(story.run("F"), Status::Down, "no outage is hidden");
    assert_eq!(story.run("PPP"), Status::Down);
    assert_eq!(story.run("P"), Status::Up);
}
