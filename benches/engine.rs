//! What one input costs the engine: `cargo bench --bench engine`.

#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::{hint::black_box, num::NonZeroU8, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use healthmon_core::{
    engine::{Damping, Effects, Hint, Input, Latch, LatchRule, Mark, Sighting, State, Thresholds},
    id::Region,
    probe::{FailReason, Kind, Outcome},
    service::Regions,
    status::Status,
    time::Slot,
};

const FAIL: Outcome = Outcome::Fail(FailReason::Timeout);
/// Inputs that are made ahead and applied in one measurement; the slots of each are new.
const INPUTS: u32 = 1_000;

fn regions(names: &[&str]) -> Regions {
    Regions::new(names.iter().map(|name| Region::new(name).expect("a region")).collect()).expect("regions")
}

fn input(region: &Region, slot: i64, outcome: Outcome) -> Input<Thresholds> {
    Input::Result(Sighting {
        region: region.clone(),
        slot: Slot::from_millis(slot),
        kind: Kind::Scheduled,
        epoch: healthmon_core::id::Epoch(1),
        outcome,
    })
}

/// A service that has been seen to be up from everywhere.
fn up(policy: Thresholds, regions: &Regions) -> State<Thresholds> {
    let mut state = State::registered(policy, regions);
    for slot in 1..=64 {
        for region in regions.iter() {
            state.apply(&input(region, slot, Outcome::Pass));
        }
    }
    assert_eq!(state.announced(), Status::Up);
    state
}

/// Applies all `inputs` to `state`, each of which must lead to what `like` says.
fn bench_inputs(
    c: &mut Criterion,
    name: &str,
    state: &State<Thresholds>,
    inputs: &[Input<Thresholds>],
    like: impl Fn(&Effects) -> bool,
) {
    let mut rehearsal = state.clone();
    assert!(inputs.iter().all(|input| like(&rehearsal.apply(input))), "{name}: not what is to be measured");
    let mut group = c.benchmark_group("apply");
    group.throughput(criterion::Throughput::Elements(inputs.len() as u64));
    group.bench_function(name, |b| {
        b.iter_batched_ref(
            || state.clone(),
            |state| {
                for input in inputs {
                    black_box(state.apply(black_box(input)));
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn apply(c: &mut Criterion) {
    let one = Regions::default();
    let local = Region::default();
    let slots = 1_000..1_000 + i64::from(INPUTS);

    let passes: Vec<_> = slots.clone().map(|slot| input(&local, slot, Outcome::Pass)).collect();
    bench_inputs(c, "pass", &up(Thresholds::default(), &one), &passes, |effects| {
        effects.applied().is_some() && effects.transition.is_none() && effects.hint == Hint::None
    });

    // 64 of 64 would be needed and 63 come, so it is never decided.
    let stubborn = Thresholds::with_down(LatchRule::new(64, 64, 2).expect("a rule"));
    let failures: Vec<_> = (0..63).map(|at| input(&local, 1_000 + at, FAIL)).collect();
    bench_inputs(c, "undecided failure", &up(stubborn, &one), &failures, |effects| {
        effects.applied().is_some() && effects.transition.is_none() && effects.hint == Hint::ProbeSooner
    });

    let three = regions(&["eu", "us", "ap"]);
    let quorum = Thresholds { quorum: NonZeroU8::new(2).expect("more than none"), ..Thresholds::default() };
    let names: Vec<&Region> = three.iter().collect();
    // One region of three is against it all the time: the quorum is counted each time, and not met.
    let votes: Vec<_> = slots
        .flat_map(|slot| names.iter().enumerate().map(move |(at, region)| (slot, at, (*region).clone())))
        .map(|(slot, at, region)| input(&region, slot, if at == 0 { FAIL } else { Outcome::Pass }))
        .collect();
    bench_inputs(c, "quorum of 2 of 3 regions", &up(quorum, &three), &votes, |effects| {
        effects.applied().is_some() && effects.transition.is_none()
    });
}

fn latch(c: &mut Criterion) {
    let mut group = c.benchmark_group("latch");
    let rule = LatchRule::new(3, 5, 2).expect("a rule");
    let damping = Damping::new(16, 100).expect("a damping");
    let marks: Vec<Mark> = (0..INPUTS).map(|n| if n % 7 < 3 { Mark::Bad } else { Mark::Good }).collect();
    group.throughput(criterion::Throughput::Elements(marks.len() as u64));
    for (name, damping) in [("observe", None), ("observe, damped", Some(damping))] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut latch = Latch::default();
                for mark in &marks {
                    latch.observe(black_box(rule), damping, black_box(*mark));
                }
                latch
            });
        });
    }
    group.finish();
}

fn snapshot(c: &mut Criterion) {
    let mut group = c.benchmark_group("snapshot");
    for (name, regions) in [("1 region", Regions::default()), ("3 regions", regions(&["eu", "us", "ap"]))] {
        let state = up(Thresholds::default(), &regions);
        assert_eq!(State::from_snapshot(&state.to_snapshot()).as_ref(), Ok(&state));
        group.bench_function(format!("round trip, {name}"), |b| {
            b.iter(|| State::<Thresholds>::from_snapshot(&black_box(&state).to_snapshot()));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = apply, latch, snapshot
}
criterion_main!(benches);
