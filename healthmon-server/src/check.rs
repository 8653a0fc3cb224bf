//! `healthmon check`: one probe, shown to a person or a program.

mod settings;
mod show;

use std::{io::Write, sync::Arc, time::Duration};

use healthmon_adapters::{net::Loopback, secrets::Secrets};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::Clock,
    probe::{IndeterminateReason, Inspection, Kind, Observation, Outcome, Probe, Reason},
    runtime::clock::SystemClock,
    service::{FieldErrors, Service, Target},
    time::{Slot, Timestamp},
};
use serde_json::{Value, json};

pub use show::Look;

use crate::{cli::CheckArgs, config::SecretSettings, probers};

/// A prober that has not come back this long after its deadline will not.
const BACKSTOP: Duration = Duration::from_secs(1);

/// Why nothing was probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The URL or an option is wrong.
    #[error("{0}")]
    Usage(String),
    /// The answer could not be written.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
}

impl From<FieldErrors> for CheckError {
    fn from(errors: FieldErrors) -> Self {
        Self::Usage(errors.to_string())
    }
}

/// What one probe came to.
#[derive(Debug)]
struct Report {
    target: Target,
    inspection: Inspection,
    now: Timestamp,
}

/// Probes once and writes what was seen. Returns the exit status.
///
/// # Errors
/// When the arguments are wrong, or `out` cannot be written to.
pub async fn run(args: &CheckArgs, look: Look, out: &mut impl Write) -> Result<u8, CheckError> {
    let usage = |error: &dyn std::fmt::Display| CheckError::Usage(error.to_string());
    // A person at this machine may ask about this machine.
    let probing = args.probing.to_settings();
    let dialer = probing.dialer(probing.policy(Loopback::Allowed)).map_err(|error| usage(&error))?;
    let secrets = SecretSettings { folder: args.secrets_dir.clone(), ..SecretSettings::default() };
    let secrets: Secrets = secrets.secrets().map_err(|error| usage(&error))?;
    let shared = probers::Shared { dialer: Arc::new(dialer), secrets };
    let probers = probers::by_scheme(&shared).map_err(|error| usage(&error))?;
    let settings = settings::read(args)?;
    probers.check(&settings)?;
    let (target, timeout) = (settings.url.clone(), settings.timeout.get());
    let now = SystemClock::new().now();
    let id = ServiceId::new(1).map_err(|error| usage(&error))?;
    let service = Service::registered(id, settings, Revision(1), Epoch(1), now);
    let probe = Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Manual);
    let inspected = tokio::time::timeout(timeout + BACKSTOP, probers.inspect(&probe)).await;
    let inspection = inspected.unwrap_or_else(|_| {
        let late = Observation::indeterminate(IndeterminateReason::Internal, "the prober did not keep the deadline");
        Inspection::of(late)
    });
    let report = Report { target, inspection, now };
    if args.json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        out.write_all(show::report(&report, look).as_bytes())?;
    }
    Ok(match report.inspection.seen.outcome {
        Outcome::Pass | Outcome::Slow => 0,
        Outcome::Fail(_) | Outcome::Fatal(_) => 1,
        Outcome::Indeterminate(_) => 3,
    })
}

impl Report {
    fn to_json(&self) -> Value {
        let Inspection { seen, facts, assertions } = &self.inspection;
        json!({
            "url": self.target,
            "at": self.now,
            "outcome": seen.outcome.as_str(),
            "reason": seen.outcome.reason(),
            "meaning": seen.outcome.reason().map(Reason::meaning),
            "detail": seen.detail,
            "latency_us": seen.latency_us,
            "phases": seen.phases,
            "code": seen.code,
            "certificate_expires": seen.certificate_expires,
            "facts": facts,
            "assertions": assertions,
        })
    }
}

/// Writes every reason for which a probe does not pass, with what it means.
///
/// # Errors
/// When `out` cannot be written to.
pub fn reasons(look: Look, out: &mut impl Write) -> Result<(), CheckError> {
    Ok(out.write_all(show::reasons(look).as_bytes())?)
}
