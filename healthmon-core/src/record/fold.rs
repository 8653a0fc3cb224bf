use crate::{
    engine::{Control, Effects, Hint, Input, Sighting, State, Thresholds},
    id::{Applied, Region, Seq},
    probe::ProbeResult,
    status::{LogEntry, LogEvent, ServiceLabel},
    time::Timestamp,
};

impl Sighting {
    /// A result, as far as the engine is concerned.
    pub fn of(result: &ProbeResult) -> Self {
        Self {
            region: result.id.region.clone(),
            slot: result.id.slot,
            kind: result.id.kind,
            epoch: result.epoch,
            outcome: result.seen.outcome,
        }
    }
}

/// What became of one service's new results.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// The results in the order they were applied, each with its number if it voted.
    pub results: Vec<(ProbeResult, Option<Applied>)>,
    /// Entries for the log, in order; the store gives them their `seq`.
    pub entries: Vec<LogEntry>,
    /// Whether the engine would like an earlier probe, for any region that it heard of last.
    pub hint: Hint,
}

/// Folds one service's new results into its state, in order of slot.
///
/// `results` must hold only results that are not stored yet, each once.
pub fn fold_results(
    state: &mut State<Thresholds>,
    label: &ServiceLabel,
    at: Timestamp,
    mut results: Vec<ProbeResult>,
) -> Folded {
    results.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let mut folded = Folded { results: Vec::with_capacity(results.len()), entries: Vec::new(), hint: Hint::None };
    // Regions are judged each by its own: that one passes does not decide what another began.
    let mut undecided: Vec<Region> = Vec::new();
    for result in results {
        let before = state.level();
        let effects = state.apply(&Input::Result(Sighting::of(&result)));
        let applied = effects.applied();
        if applied.is_some() {
            if state.level() != before {
                undecided.clear();
            }
            undecided.retain(|region| *region != result.id.region);
            undecided.extend((effects.hint == Hint::ProbeSooner).then(|| result.id.region.clone()));
        }
        folded.entries.extend(entries(&effects, label, at).map(|entry| LogEntry {
            slot: Some(result.id.slot),
            region: Some(result.id.region.clone()),
            reason: result.seen.outcome.reason(),
            detail: result.seen.detail.clone(),
            ..entry
        }));
        folded.results.push((result, applied));
    }
    if !undecided.is_empty() {
        folded.hint = Hint::ProbeSooner;
    }
    folded
}

/// Applies a control input. `None` when it moved nothing.
pub fn fold_control(
    state: &mut State<Thresholds>,
    label: &ServiceLabel,
    at: Timestamp,
    control: Control<Thresholds>,
) -> Option<(Applied, Vec<LogEntry>)> {
    let effects = state.apply(&Input::Control(control));
    let applied = effects.applied()?;
    Some((applied, entries(&effects, label, at).collect()))
}

/// The entries that one input's effects make: overlays first, then the transition they allow.
fn entries<'a>(effects: &'a Effects, label: &'a ServiceLabel, at: Timestamp) -> impl Iterator<Item = LogEntry> + 'a {
    let overlays = effects.overlays.iter().map(|&(overlay, edge)| LogEvent::Overlay { overlay, edge });
    let transition = effects.transition.map(LogEvent::Transition);
    let applied = effects.applied().unwrap_or_default();
    overlays.chain(transition).map(move |event| LogEntry {
        seq: Seq(0),
        applied,
        service: label.clone(),
        event,
        at,
        slot: None,
        region: None,
        reason: None,
        detail: None,
    })
}
