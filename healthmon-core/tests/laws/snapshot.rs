//! Snapshots: what is written today, and what was written before.

use std::fmt::Write as _;

use healthmon_core::{
    engine::{Control, Damping, Input, Sighting, SnapshotError, State, Thresholds, invariants::Step},
    id::Epoch,
    status::{Overlay, Status},
};

use crate::story::{BLANK, FAIL, FATAL, PASS, SLOW, Story, count, policy, rule};

/// Version 1, as the first build wrote it. Never to be written anew: a build that cannot read it
/// cannot take over from that one.
const VERSION_1: &[u8] = include_bytes!("fixtures/snapshot-v1.bin");

/// The state that the fixture holds: one of everything.
fn everything() -> State<Thresholds> {
    let policy = Thresholds {
        degraded: Some(rule(2, 6, 3)),
        damping: Damping::new(8, 300).ok(),
        quorum: count(2),
        blind_after: count(4),
        ..policy(3, 5, 2)
    };
    let mut story = Story::in_regions(policy, &["ap", "eu", "us"]);
    story.now = 1_800_000_000_000;
    for (region, outcome) in [("ap", PASS), ("ap", FATAL), ("eu", SLOW), ("eu", FATAL), ("ap", PASS), ("us", FAIL)] {
        story.see_in(region, outcome);
    }
    story.missed("us", 3);
    story.control(Control::BeginMaintenance);
    story.control(Control::Pause);
    story.control(Control::Resume);
    for (region, outcome) in [("ap", FAIL), ("eu", PASS), ("eu", SLOW), ("ap", PASS), ("us", FAIL), ("us", FAIL)] {
        story.see_in(region, outcome);
    }
    story.missed("us", 2);
    story.state
}

#[test]
fn version_1_is_read_as_what_was_written_then() {
    let read = State::<Thresholds>::from_snapshot(VERSION_1).expect("version 1");
    assert_eq!(read, everything());
    assert_eq!((read.announced(), read.level()), (Status::Down, Status::Degraded));
    assert!(read.has(Overlay::Maintenance));
}

#[test]
fn version_1_is_what_is_written_today() {
    let written = everything().to_snapshot();
    let hex = written.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    assert_eq!(written, VERSION_1, "the format changed: give it a new version and keep reading this one\n{hex}");
}

#[test]
fn a_newer_version_is_refused_by_its_number() {
    let mut bytes = everything().to_snapshot();
    bytes[0] += 1;
    let error = State::<Thresholds>::from_snapshot(&bytes).expect_err("it is newer");
    assert_eq!(error, SnapshotError::Newer(2));
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn an_empty_snapshot_is_damaged() {
    let error = State::<Thresholds>::from_snapshot(&[]).expect_err("it is empty");
    assert_eq!(error.to_string(), "the snapshot is damaged: it is empty");
}

#[test]
fn a_snapshot_cut_anywhere_is_damaged() {
    let bytes = everything().to_snapshot();
    for length in 1..bytes.len() {
        let read = State::<Thresholds>::from_snapshot(&bytes[..length]);
        assert!(matches!(read, Err(SnapshotError::Damaged(_))), "{length} bytes: {read:?}");
    }
}

#[test]
fn a_snapshot_with_more_behind_it_is_damaged() {
    let mut bytes = everything().to_snapshot();
    bytes.extend([0, 0]);
    let error = State::<Thresholds>::from_snapshot(&bytes).expect_err("it is too long");
    assert_eq!(error.to_string(), "the snapshot is damaged: 2 bytes too many");
}

#[test]
fn a_snapshot_with_an_impossible_rule_is_damaged() {
    let bytes = everything().to_snapshot();
    // The first three bytes after the version are the down rule's k, n and s.
    assert_eq!(bytes[1..4], [3, 5, 2]);
    let mut impossible = bytes;
    impossible[1] = 6;
    let error = State::<Thresholds>::from_snapshot(&impossible).expect_err("k > n");
    assert!(matches!(error, SnapshotError::Damaged(_)));
}

/// A few inputs of every sort, for regions that a damaged state may or may not have.
fn inputs() -> Vec<Input<Thresholds>> {
    let mut inputs = vec![Input::Control(Control::EndMaintenance)];
    for (slot, region) in ["ap", "eu", "us", "ap", "eu", "us"].into_iter().enumerate() {
        for (within, outcome) in [FAIL, PASS, BLANK, FATAL, SLOW].into_iter().enumerate() {
            let slot = i64::MAX - 100 + 10 * slot as i64 + within as i64;
            let seen = Story::of(policy(1, 1, 1)).sighting(region, slot, outcome);
            inputs.push(Input::Result(Sighting { epoch: Epoch(u32::MAX), ..seen }));
        }
    }
    inputs.extend([Control::Pause, Control::Resume, Control::Delete].map(Input::Control));
    inputs
}

#[test]
fn whatever_a_bit_flip_leaves_readable_goes_on_by_the_laws() {
    let bytes = everything().to_snapshot();
    let mut readable = 0;
    for bit in 8..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(state) = State::<Thresholds>::from_snapshot(&damaged) {
            readable += 1;
            let mut after = state;
            for input in inputs() {
                let before = after.clone();
                let effects = after.apply(&input);
                let step = Step { before: &before, input: &input, effects: &effects, after: &after };
                assert_eq!(step.check(), Ok(()), "bit {bit}");
            }
        }
    }
    assert!(readable > 0);
}
