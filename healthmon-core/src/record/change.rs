use crate::{
    engine::{Control, State, TargetChange, Thresholds},
    ports::Change,
    service::{Activity, Service, ServiceSettings},
    status::Overlay,
    time::Timestamp,
};

/// What a change comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// The service as it will be, but for revision and epoch, which the store sets.
    pub service: Service,
    /// The input to fold into its state, if the change concerns the engine.
    pub control: Option<Control<Thresholds>>,
    /// When maintenance is to end from now on.
    pub maintenance_until: Option<Timestamp>,
}

/// Plans `change` of `service` at `now`. `None` when everything already is as it would have it.
pub fn plan(
    service: &Service,
    state: &State<Thresholds>,
    maintenance_until: Option<Timestamp>,
    change: Change,
    now: Timestamp,
) -> Option<Planned> {
    let mut after = service.clone();
    after.updated_at = now;
    let mut until = maintenance_until;
    let control = match change {
        Change::Settings(settings) => {
            if *settings == service.settings {
                return None;
            }
            if settings.interval != service.settings.interval || settings.url != service.settings.url {
                after.scheduled_since = now;
            }
            let control = configure(&service.settings, &settings);
            after.settings = *settings;
            control
        }
        Change::Pause => {
            after.activity = Activity::Paused;
            Some(Control::Pause).filter(|_| !state.has(Overlay::Paused))
        }
        Change::Resume => {
            after.activity = Activity::Active;
            after.scheduled_since = now;
            Some(Control::Resume).filter(|_| state.has(Overlay::Paused))
        }
        Change::BeginMaintenance { until: end } => {
            until = Some(end);
            Some(Control::BeginMaintenance).filter(|_| !state.has(Overlay::Maintenance))
        }
        Change::EndMaintenance => {
            until = None;
            Some(Control::EndMaintenance).filter(|_| state.has(Overlay::Maintenance))
        }
        Change::Delete => {
            after.activity = Activity::Deleted;
            until = None;
            Some(Control::Delete)
        }
    };
    let moves = control.is_some() || after.settings != service.settings || until != maintenance_until;
    moves.then_some(Planned { service: after, control, maintenance_until: until })
}

/// The control input that a change of settings is, if results are judged otherwise after it.
fn configure(before: &ServiceSettings, after: &ServiceSettings) -> Option<Control<Thresholds>> {
    let target = if before.url == after.url { TargetChange::Same } else { TargetChange::Changed };
    let judged_alike = target == TargetChange::Same
        && before.policy == after.policy
        && before.regions == after.regions
        && before.timeout == after.timeout
        && before.options == after.options;
    (!judged_alike).then(|| Control::Configure { policy: after.policy, regions: after.regions.clone(), target })
}
