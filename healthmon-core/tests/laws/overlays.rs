//! What controls do: pause, maintenance, blindness, deletion.

use healthmon_core::{
    engine::{Control, Effects, Hint, Ignored, Thresholds, Vote},
    id::{Applied, Epoch},
    service::Activity,
    status::{Cause, Edge, Overlay, Status},
    time::Slot,
};

use crate::story::{BLANK, FAIL, PASS, Story, begins, count, ends, ignored, policy, region, transition};

fn blind_after(patience: u8) -> Thresholds {
    Thresholds { blind_after: count(patience), ..policy(1, 1, 1) }
}

/// The effects of an input that moved the state to this number, and began or ended these overlays.
fn overlaid(applied: u64, overlays: Vec<(Overlay, Edge)>) -> Effects {
    Effects { vote: Vote::Applied(Applied(applied)), transition: None, overlays, hint: Hint::None }
}

#[test]
fn a_pause_ignores_results_and_a_resume_takes_them_again() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    assert_eq!(story.control(Control::Pause), overlaid(3, begins(Overlay::Paused)));
    assert!(story.state.has(Overlay::Paused) && story.state.is_frozen());
    assert_eq!(story.see(FAIL), ignored(Ignored::Paused));
    assert_eq!(story.missed("ap", 9), ignored(Ignored::Paused));
    assert_eq!(story.control(Control::Resume), overlaid(4, ends(Overlay::Paused)));
    assert_eq!((story.state.activity(), story.state.epoch()), (Activity::Active, Epoch(2)));
    assert_eq!(story.run("F"), Status::Down);
}

#[test]
fn a_resume_keeps_the_level_and_clears_the_windows() {
    let mut story = Story::of(policy(2, 2, 2));
    story.run("PF");
    story.control(Control::Pause);
    story.control(Control::Resume);
    assert_eq!(story.run("F"), Status::Up, "the failure before the pause is forgotten");
    assert_eq!(story.run("F"), Status::Down);
    story.run("P");
    story.control(Control::Pause);
    story.control(Control::Resume);
    assert_eq!(story.run("P"), Status::Down, "the success before the pause is forgotten");
    assert_eq!(story.run("P"), Status::Up);
}

#[test]
fn what_already_is_so_is_no_change() {
    let mut story = Story::of(policy(1, 1, 1));
    assert_eq!(story.control(Control::Resume), ignored(Ignored::NoChange));
    assert_eq!(story.control(Control::EndMaintenance), ignored(Ignored::NoChange));
    story.control(Control::Pause);
    story.control(Control::BeginMaintenance);
    assert_eq!(story.control(Control::Pause), ignored(Ignored::NoChange));
    assert_eq!(story.control(Control::BeginMaintenance), ignored(Ignored::NoChange));
    assert_eq!(story.state.applied(), Applied(3));
}

#[test]
fn maintenance_freezes_what_is_announced_while_the_level_moves_on() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    assert_eq!(story.control(Control::BeginMaintenance), overlaid(3, begins(Overlay::Maintenance)));
    assert_eq!((story.run("F"), story.state.level()), (Status::Up, Status::Down));
    let effects = story.control(Control::EndMaintenance);
    assert_eq!(effects.transition, transition(Status::Up, Status::Down, Cause::MaintenanceEnded));
    assert_eq!(effects.overlays, ends(Overlay::Maintenance));
    assert!(!story.state.has(Overlay::Maintenance) && !story.state.is_frozen());
}

#[test]
fn an_outage_that_came_and_went_in_maintenance_is_not_announced() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    story.control(Control::BeginMaintenance);
    story.run("FP");
    assert_eq!(story.control(Control::EndMaintenance).transition, None);
}

#[test]
fn only_the_end_of_the_last_overlay_announces() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    story.control(Control::BeginMaintenance);
    story.run("F");
    story.control(Control::Pause);
    assert_eq!(story.control(Control::EndMaintenance).transition, None);
    let told = story.control(Control::Resume).transition;
    assert_eq!(told, transition(Status::Up, Status::Down, Cause::Resumed));
}

#[test]
fn a_change_of_target_under_a_pause_is_announced_at_its_end() {
    let mut story = Story::of(policy(1, 1, 1));
    story.run("P");
    story.control(Control::Pause);
    assert_eq!(story.retarget().transition, None);
    let told = story.control(Control::Resume).transition;
    assert_eq!(told, transition(Status::Up, Status::Unknown, Cause::Resumed));
}

#[test]
fn the_third_indeterminate_in_a_row_makes_it_blind_and_the_first_sight_ends_that() {
    let mut story = Story::of(blind_after(3));
    story.run("P??");
    assert!(!story.state.has(Overlay::Blind));
    assert_eq!(story.see(BLANK), overlaid(5, begins(Overlay::Blind)));
    assert!(story.state.has(Overlay::Blind) && !story.state.is_frozen());
    assert_eq!(story.see(BLANK).overlays, []);
    assert_eq!(story.status(), Status::Up);
    assert_eq!(story.see(PASS).overlays, ends(Overlay::Blind));
}

#[test]
fn missed_slots_blind_like_indeterminate_results() {
    let mut story = Story::of(blind_after(3));
    story.run("P?");
    assert_eq!(story.missed("ap", 1), overlaid(4, vec![]));
    assert_eq!(story.missed("ap", 1), overlaid(5, begins(Overlay::Blind)));
    let mut at_once = Story::of(blind_after(3));
    assert_eq!(at_once.missed("ap", 3).overlays, begins(Overlay::Blind));
}

#[test]
fn silence_is_counted_to_255_and_by_the_next_policy_too() {
    let mut story = Story::of(blind_after(2));
    story.run("????");
    assert_eq!(story.state.regions()[0].blind_run(), 4);
    assert_eq!(story.configure(blind_after(5), &["ap"]).overlays, ends(Overlay::Blind));
    assert_eq!(story.see(BLANK).overlays, begins(Overlay::Blind), "the fifth in a row");
    story.missed("ap", 255);
    assert_eq!(story.state.regions()[0].blind_run(), 255);
    story.run("?");
    assert_eq!(story.state.regions()[0].blind_run(), 255);
}

#[test]
fn blindness_needs_fewer_seeing_regions_than_the_quorum() {
    let two = Thresholds { quorum: count(2), ..blind_after(1) };
    let mut story = Story::in_regions(two, &["ap", "eu", "us"]);
    assert_eq!(story.see_in("ap", BLANK).overlays, []);
    assert_eq!(story.see_in("eu", BLANK).overlays, begins(Overlay::Blind));
}

#[test]
fn a_pause_ends_blindness_and_forgets_the_silence() {
    let mut story = Story::of(blind_after(2));
    story.run("??");
    let both = [begins(Overlay::Paused), ends(Overlay::Blind)].concat();
    assert_eq!(story.control(Control::Pause).overlays, both);
    story.control(Control::Resume);
    assert_eq!(story.see(BLANK).overlays, []);
}

#[test]
fn missed_slots_already_known_or_elsewhere_are_ignored() {
    let mut story = Story::of(blind_after(9));
    story.run("PPP");
    let missed = |name: &str, through| Control::Missed {
        region: region(name),
        through: Slot::from_millis(through),
        slots: count(1),
    };
    assert_eq!(story.control(missed("ap", 3)), ignored(Ignored::Late));
    assert_eq!(story.control(missed("eu", 4)), ignored(Ignored::UnknownRegion));
    assert_eq!(story.control(missed("ap", 5)), overlaid(5, vec![]));
    assert_eq!(story.control(missed("ap", 5)), ignored(Ignored::Late));
    assert_eq!(story.control(missed("ap", 4)), ignored(Ignored::Late));
    let region = &story.state.regions()[0];
    assert_eq!((region.watermark(), region.missed_through()), (Some(Slot::from_millis(3)), Some(Slot::from_millis(5))));
}

#[test]
fn a_result_for_a_slot_noted_as_missed_still_votes() {
    let mut story = Story::of(blind_after(1));
    story.run("P");
    story.missed("ap", 1);
    story.now -= 1;
    let effects = story.see(FAIL);
    assert_eq!(effects.transition, transition(Status::Up, Status::Down, Cause::Result));
    assert_eq!(effects.overlays, ends(Overlay::Blind));
}

#[test]
fn a_deletion_ends_everything_and_nothing_comes_after_it() {
    let mut story = Story::of(blind_after(1));
    story.run("PF");
    let effects = story.control(Control::Delete);
    assert_eq!(effects.transition, transition(Status::Down, Status::Unknown, Cause::Deleted));
    assert_eq!((effects.applied(), story.state.activity()), (Some(Applied(4)), Activity::Deleted));
    for control in [Control::Delete, Control::Pause, Control::Resume, Control::BeginMaintenance] {
        assert_eq!(story.control(control), ignored(Ignored::Deleted));
    }
    assert_eq!(story.see(PASS), ignored(Ignored::Deleted));
    assert_eq!(story.missed("ap", 1), ignored(Ignored::Deleted));
    assert_eq!(story.configure(blind_after(1), &["ap"]), ignored(Ignored::Deleted));
}

#[test]
fn a_deletion_ends_the_overlays_and_announces_despite_them() {
    let mut story = Story::of(blind_after(1));
    story.run("P");
    story.control(Control::BeginMaintenance);
    story.control(Control::Pause);
    let effects = story.control(Control::Delete);
    assert_eq!(effects.overlays, [ends(Overlay::Paused), ends(Overlay::Maintenance)].concat());
    assert_eq!(effects.transition, transition(Status::Up, Status::Unknown, Cause::Deleted));
    let mut blind = Story::of(blind_after(1));
    blind.run("?");
    assert_eq!(blind.control(Control::Delete).overlays, ends(Overlay::Blind));
}
