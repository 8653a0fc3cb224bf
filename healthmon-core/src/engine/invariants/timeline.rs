//! A service's life as a list of inputs, printed so that a person can follow it.

use std::fmt;

use super::{Step, Verdict};
use crate::{
    engine::{Control, Effects, Grade, Ignored, Input, Policy, Sighting, State, TargetChange, Vote},
    probe::{Kind, Outcome},
    service::Regions,
    status::{Edge, Overlay},
};

/// A service's registration and the inputs that followed.
///
/// ```
/// use healthmon_core::{engine::{Control, Input, Thresholds, invariants::Timeline}, service::Regions};
/// let timeline = Timeline::new(Thresholds::default(), Regions::default(), vec![Input::Control(Control::Pause)]);
/// assert!(timeline.to_string().contains("pause"));
/// timeline.every_step(|step| step.check())?;
/// # Ok::<(), Box<healthmon_core::engine::invariants::Violation>>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Timeline<P> {
    /// The policy it was registered with.
    pub policy: P,
    /// The regions it was registered with.
    pub regions: Regions,
    /// What came after.
    pub inputs: Vec<Input<P>>,
    pivot: Option<usize>,
}

/// Timelines up to this long are looked at in every place.
const SHORT: usize = 6;

impl<P: Policy> Timeline<P> {
    /// The life of a service registered with `policy` and `regions`.
    pub const fn new(policy: P, regions: Regions, inputs: Vec<Input<P>>) -> Self {
        Self { policy, regions, inputs, pivot: None }
    }

    /// This timeline; if it is long, laws that speak of a place in it look at two only, which
    /// `pivot` (any number) chooses.
    #[must_use]
    pub fn sampled(self, pivot: usize) -> Self {
        Self { pivot: Some(pivot), ..self }
    }

    /// This timeline; laws that speak of a place in it look at every one.
    #[must_use]
    pub fn everywhere(self) -> Self {
        Self { pivot: None, ..self }
    }

    /// The indices at which laws that speak of a place look. The end counts as a place.
    pub fn places(&self) -> Vec<usize> {
        let length = self.inputs.len();
        match self.pivot {
            Some(pivot) if length > SHORT => vec![pivot % (length + 1), (pivot + length / 2) % (length + 1)],
            _ => (0..=length).collect(),
        }
    }

    /// The state at registration.
    pub fn start(&self) -> State<P> {
        State::registered(self.policy.clone(), &self.regions)
    }

    /// The state after the first `length` inputs.
    pub fn state_at(&self, length: usize) -> State<P> {
        fold(&mut self.start(), &self.inputs[..length]).0
    }

    /// Runs it through and holds `law` against every step.
    ///
    /// # Errors
    /// The first violation, with its place.
    pub fn every_step(&self, mut law: impl FnMut(&Step<'_, P>) -> Verdict) -> Verdict {
        let mut after = self.start();
        for (index, input) in self.inputs.iter().enumerate() {
            let before = after.clone();
            let effects = after.step(input);
            law(&Step { before: &before, input, effects: &effects, after: &after })
                .map_err(|violation| Box::new(violation.at(index)))?;
        }
        Ok(())
    }

    /// The outcomes that voted in the region that has the most of them, in order.
    pub fn busiest(&self) -> Vec<Grade> {
        let mut grades: Vec<Vec<Grade>> = vec![Vec::new(); self.regions.count()];
        let mut state = self.start();
        for input in &self.inputs {
            let voted = matches!(state.step(input).vote, Vote::Applied(_));
            if let (true, Input::Result(seen)) = (voted, input)
                && let Some(at) = self.regions.iter().position(|region| *region == seen.region)
            {
                grades[at].extend(Grade::of(seen.outcome));
            }
        }
        grades.into_iter().max_by_key(Vec::len).unwrap_or_default()
    }

    /// The same life under other policies.
    #[must_use]
    pub fn with_policies<Q: Policy>(&self, mut other: impl FnMut(&P) -> Q) -> Timeline<Q> {
        let inputs = self.inputs.iter().map(|input| convert(input, &mut other)).collect();
        Timeline { policy: other(&self.policy), regions: self.regions.clone(), inputs, pivot: self.pivot }
    }

    /// Every policy in it.
    pub fn policies(&self) -> impl Iterator<Item = &P> {
        let later = self.inputs.iter().filter_map(|input| match input {
            Input::Control(Control::Configure { policy, .. }) => Some(policy),
            _ => None,
        });
        std::iter::once(&self.policy).chain(later)
    }
}

/// Applies inputs without the debug assertions, which would speak before the law that is checked.
pub(super) fn fold<P: Policy>(state: &mut State<P>, inputs: &[Input<P>]) -> (State<P>, Vec<Effects>) {
    let effects = inputs.iter().map(|input| state.step(input)).collect();
    (state.clone(), effects)
}

fn convert<P: Policy, Q: Policy>(input: &Input<P>, other: &mut impl FnMut(&P) -> Q) -> Input<Q> {
    let control = match input {
        Input::Result(seen) => return Input::Result(seen.clone()),
        Input::Control(control) => control,
    };
    Input::Control(match control {
        Control::Configure { policy, regions, target } => {
            Control::Configure { policy: other(policy), regions: regions.clone(), target: *target }
        }
        Control::Pause => Control::Pause,
        Control::Resume => Control::Resume,
        Control::BeginMaintenance => Control::BeginMaintenance,
        Control::EndMaintenance => Control::EndMaintenance,
        Control::Missed { region, through, slots } => {
            Control::Missed { region: region.clone(), through: *through, slots: *slots }
        }
        Control::Delete => Control::Delete,
    })
}

impl<P: Policy> fmt::Debug for Timeline<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One line an input: its number, slot and region, what it was, and the status after it.
impl<P: Policy> fmt::Display for Timeline<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let regions = self.regions.iter().map(|region| region.as_str()).collect::<Vec<_>>().join(", ");
        writeln!(f, "registered in {regions} with {:?}", self.policy)?;
        writeln!(f, "{:>3}  {:>8}  {:<8} {:<24} {:<20} notes", "#", "slot", "region", "input", "status")?;
        let mut state = self.start();
        for (index, input) in self.inputs.iter().enumerate() {
            let before = state.clone();
            let effects = state.step(input);
            let (slot, region, what) = columns(input, &before);
            let status = match effects.transition {
                Some(transition) => format!("{} -> {}", transition.from, transition.to),
                None => state.announced().to_string(),
            };
            let line =
                format!("{:>3}  {slot:>8}  {region:<8} {what:<24} {status:<20} {}", index + 1, notes(&effects, &state));
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn columns<P: Policy>(input: &Input<P>, before: &State<P>) -> (String, String, String) {
    let control = match input {
        Input::Result(seen) => return sighting(seen, before),
        Input::Control(control) => control,
    };
    let what = match control {
        Control::Configure { policy, regions, target } => {
            let mut changes = Vec::new();
            if *target == TargetChange::Changed {
                changes.push("another target".to_owned());
            }
            if policy != before.policy() {
                changes.push(format!("{policy:?}"));
            }
            if !regions.iter().eq(before.regions().iter().map(super::super::RegionState::region)) {
                let names = regions.iter().map(|region| region.as_str()).collect::<Vec<_>>();
                changes.push(format!("regions {}", names.join(", ")));
            }
            format!("configure {}", if changes.is_empty() { "the same".to_owned() } else { changes.join("; ") })
        }
        Control::Pause => "pause".to_owned(),
        Control::Resume => "resume".to_owned(),
        Control::BeginMaintenance => "begin maintenance".to_owned(),
        Control::EndMaintenance => "end maintenance".to_owned(),
        Control::Missed { region, through, slots } => {
            return (through.as_millis().to_string(), region.to_string(), format!("missed {slots}"));
        }
        Control::Delete => "delete".to_owned(),
    };
    (String::new(), String::new(), what)
}

fn sighting<P: Policy>(seen: &Sighting, before: &State<P>) -> (String, String, String) {
    let mut what = match seen.outcome {
        Outcome::Pass => "Pass".to_owned(),
        Outcome::Slow => "Slow".to_owned(),
        Outcome::Fail(_) => "Fail".to_owned(),
        Outcome::Fatal(_) => "Fatal".to_owned(),
        Outcome::Indeterminate(_) => "Indeterminate".to_owned(),
    };
    match seen.kind {
        Kind::Scheduled => {}
        Kind::Edge => what.push_str(", edge"),
        Kind::Manual => what.push_str(", manual"),
    }
    if seen.epoch != before.epoch() {
        what.push_str(&format!(", epoch {} of {}", seen.epoch, before.epoch()));
    }
    (seen.slot.as_millis().to_string(), seen.region.to_string(), what)
}

fn notes<P: Policy>(effects: &Effects, state: &State<P>) -> String {
    let mut notes = Vec::new();
    if let Vote::Ignored(why) = effects.vote {
        notes.push(
            match why {
                Ignored::Late => "ignored: late",
                Ignored::OldEpoch => "ignored: old epoch",
                Ignored::Paused => "ignored: paused",
                Ignored::Manual => "ignored: manual",
                Ignored::UnknownRegion => "ignored: unknown region",
                Ignored::Deleted => "ignored: deleted",
                Ignored::NoChange => "ignored: no change",
            }
            .to_owned(),
        );
    }
    for (overlay, edge) in &effects.overlays {
        let edge = if *edge == Edge::Began { "begins" } else { "ends" };
        notes.push(format!("{} {edge}", overlay.as_str()));
    }
    let lasting = [Overlay::Paused, Overlay::Maintenance, Overlay::Blind].into_iter();
    let lasting = lasting.filter(|o| state.has(*o) && !effects.overlays.iter().any(|(began, _)| began == o));
    notes.extend(lasting.map(|overlay| overlay.as_str().to_owned()));
    if state.level() != state.announced() {
        notes.push(format!("level {}", state.level()));
    }
    notes.join(", ")
}
