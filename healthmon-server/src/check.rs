//! `healthmon check`: one probe, shown to a person or a program.

use std::{io::Write, sync::Arc, time::Duration};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Dialer, Loopback},
};
use healthmon_core::{
    id::{Epoch, Region, Revision, ServiceId},
    ports::{Clock, Prober},
    probe::{Kind, Observation, Outcome, Probe},
    runtime::{Probers, clock::SystemClock, worker::perform},
    service::{FieldErrors, Interval, Label, Options, Service, ServiceSettings, Timeout},
    time::{Slot, Timestamp},
};
use serde_json::{Map, Value, json};

use crate::cli::CheckArgs;

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

/// Probes once and writes what was seen. Returns the exit status.
///
/// # Errors
/// When the arguments are wrong, or `out` cannot be written to.
pub async fn run(args: &CheckArgs, out: &mut impl Write) -> Result<u8, CheckError> {
    let usage = |error: &dyn std::fmt::Display| CheckError::Usage(error.to_string());
    let mut probers = Probers::default();
    // A person at this machine may ask about this machine.
    let dialer = Arc::new(Dialer::new(AddressPolicy::new(Loopback::Allowed)));
    let prober = HttpProber::new(HttpProberConfig { dialer, ..HttpProberConfig::default() }).map_err(|e| usage(&e))?;
    probers.add(Arc::new(prober) as Arc<dyn Prober>).map_err(|e| usage(&e))?;
    let settings = settings(args)?;
    probers.check(&settings)?;
    let clock = SystemClock::new();
    let now = clock.now();
    let service = Service::registered(ServiceId::new(1).map_err(|e| usage(&e))?, settings, Revision(1), Epoch(1), now);
    let probe = Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Manual);
    let seen = perform(&probers, &clock, &probe).await.seen;
    if args.json {
        writeln!(out, "{}", machine(args, &seen))?;
    } else {
        people(args, &seen, now, out)?;
    }
    Ok(match seen.outcome {
        Outcome::Pass | Outcome::Slow => 0,
        Outcome::Fail(_) | Outcome::Fatal(_) => 1,
        Outcome::Indeterminate(_) => 3,
    })
}

fn settings(args: &CheckArgs) -> Result<ServiceSettings, CheckError> {
    let usage = |flag: &str, error: &dyn std::fmt::Display| CheckError::Usage(format!("{flag}: {error}"));
    let url = args.url.parse().map_err(|error| usage(&args.url, &error))?;
    let timeout = Timeout::new(args.timeout).map_err(|error| usage("--timeout", &error))?;
    let interval =
        Interval::new(args.timeout.max(Duration::from_secs(60))).map_err(|error| usage("--timeout", &error))?;
    let name = Label::new("check").map_err(|error| usage("name", &error))?;
    let mut expect = Map::new();
    if !args.expect_status.is_empty() {
        let number = |text: &String| text.parse::<u16>().map_or_else(|_| json!(text), |code| json!(code));
        expect.insert("status".to_owned(), args.expect_status.iter().map(number).collect());
    }
    if let Some(body) = &args.expect_body {
        expect.insert("body".to_owned(), json!(body));
    }
    let mut options = Map::new();
    if !expect.is_empty() {
        options.insert("expect".to_owned(), Value::Object(expect));
    }
    Ok(ServiceSettings { timeout, options: Options::new(options), ..ServiceSettings::new(name, url, interval) })
}

fn machine(args: &CheckArgs, seen: &Observation) -> Value {
    json!({
        "url": args.url,
        "outcome": seen.outcome.as_str(),
        "reason": seen.outcome.reason(),
        "latency_us": seen.latency_us,
        "phases": seen.phases,
        "code": seen.code,
        "certificate_expires": seen.certificate_expires,
        "detail": seen.detail,
    })
}

fn people(args: &CheckArgs, seen: &Observation, now: Timestamp, out: &mut impl Write) -> std::io::Result<()> {
    let verdict = match seen.outcome {
        Outcome::Pass => "pass",
        Outcome::Slow => "slow",
        Outcome::Fail(_) | Outcome::Fatal(_) => "FAIL",
        Outcome::Indeterminate(_) => "????",
    };
    let code = seen.code.map(|code| format!("  status {code}")).unwrap_or_default();
    writeln!(out, "{verdict}  {}{code}  {}", args.url, millis(seen.latency_us))?;
    if let Some(reason) = seen.outcome.reason() {
        writeln!(out, "      {reason}: {}", seen.detail.as_deref().unwrap_or_default())?;
        writeln!(out, "      {}", reason.meaning())?;
    }
    let phases = [
        ("dns", seen.phases.dns_us),
        ("connect", seen.phases.connect_us),
        ("tls", seen.phases.tls_us),
        ("first byte", seen.phases.first_byte_us),
    ];
    let whole = seen.latency_us.max(1);
    let mut rest = seen.latency_us;
    for (name, us) in phases.into_iter().filter_map(|(name, us)| us.map(|us| (name, us))) {
        rest = rest.saturating_sub(us);
        phase(out, name, us, whole)?;
    }
    phase(out, "rest", rest, whole)?;
    if let Some(expires) = seen.certificate_expires {
        let days = expires.since(now).as_secs() / 86_400;
        if expires <= now {
            writeln!(out, "      certificate expired {expires}")?;
        } else {
            writeln!(out, "      certificate expires in {days} days ({expires})")?;
        }
    }
    Ok(())
}

/// A line with the phase's share of the whole drawn as a bar.
fn phase(out: &mut impl Write, name: &str, us: u32, whole: u32) -> std::io::Result<()> {
    let share = (u64::from(us) * 30).div_ceil(u64::from(whole)).min(30);
    let bar = "█".repeat(usize::try_from(share).unwrap_or(0));
    writeln!(out, "      {name:<11}{:>11}  {bar}", millis(us))
}

fn millis(us: u32) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}
