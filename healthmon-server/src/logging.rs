//! Where events go: to standard error, as text or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::cli::{LogArgs, LogFormat};

/// Sets logging up for the process.
///
/// # Errors
/// When the filter cannot be understood.
pub fn init(args: &LogArgs) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&args.log)?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => registry.with(layer.with_target(false).compact()).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_ansi(false)).init(),
    }
    Ok(())
}
