//! Probes of hosts.

use std::{sync::Arc, time::Duration};

use healthmon_adapters::{
    icmp::IcmpProber,
    net::{AddressPolicy, Dialer, Loopback},
};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Prober,
    probe::{Inspection, Kind, Observation, Probe},
    service::{Service, ServiceSettings},
    time::{Slot, Timestamp},
};
use serde_json::{Value, json};

/// Enough for a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// The deadline of hosts that do not answer.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

/// A prober that may ping this machine.
pub(crate) fn prober() -> IcmpProber {
    IcmpProber::new(Dialer::new(AddressPolicy::new(Loopback::Allowed)).into())
}

pub(crate) fn settings(url: &str, timeout: Duration, options: &Value) -> ServiceSettings {
    let mut json =
        json!({"name": "target", "url": url, "interval": "1h", "timeout": format!("{}ms", timeout.as_millis())});
    let sections = options.as_object().expect("an object").clone();
    json.as_object_mut().expect("an object").extend(sections);
    serde_json::from_value(json).expect("settings")
}

pub(crate) fn probe_of(settings: ServiceSettings) -> Probe {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let id = ServiceId::new(1).expect("an id");
    let service = Service::registered(id, settings, Revision(1), Epoch(1), now);
    Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Scheduled)
}

/// Pings `url` with `options`, which must be right, and looks closely.
pub(crate) async fn look(prober: &IcmpProber, url: &str, timeout: Duration, options: Value) -> Inspection {
    let settings = settings(url, timeout, &options);
    prober.check(&settings).expect("settings that the prober takes");
    prober.inspect(&probe_of(settings)).await
}

pub(crate) async fn see(prober: &IcmpProber, url: &str, timeout: Duration, options: Value) -> Observation {
    let settings = settings(url, timeout, &options);
    prober.check(&settings).expect("settings that the prober takes");
    prober.probe(&probe_of(settings)).await
}

pub(crate) fn fact<'a>(inspection: &'a Inspection, what: &str) -> Option<&'a str> {
    inspection.facts.iter().find(|fact| &*fact.what == what).map(|fact| &*fact.value)
}

pub(crate) fn detail(seen: &Observation) -> &str {
    seen.detail.as_deref().unwrap_or_default()
}
