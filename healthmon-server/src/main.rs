//! The `healthmon` binary: arguments, logging, signals.

use std::process::ExitCode;

use clap::Parser;
use healthmon_server::{
    Server, check,
    cli::{Cli, Command, ServeArgs},
    logging, watch,
};
use tokio::signal::unix::{SignalKind, signal};

/// A probe is a few dozen short-lived allocations, made on one thread and freed on another: the
/// system's allocator spends a sixth of a probe's time on them, and gives memory back to the
/// system only to ask for it again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong usage, as clap has it.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = logging::init(&cli.log) {
        return fail(USAGE, &format!("--log {}: {error}", cli.log.log));
    }
    match cli.command {
        Command::Serve(args) => run(&args, None).await,
        Command::Watch(args) => match watch::wanted(&args) {
            Ok(wanted) => run(&args.serve, Some(wanted)).await,
            Err(error) => fail(USAGE, &error.to_string()),
        },
        Command::Check(args) => match check::run(&args, &mut std::io::stdout().lock()).await {
            Ok(status) => ExitCode::from(status),
            Err(error) => fail(USAGE, &error.to_string()),
        },
    }
}

async fn run(args: &ServeArgs, wanted: Option<watch::Wanted>) -> ExitCode {
    // Each probe under way is a socket: ask for as many as the system allows.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => return fail(1, &format!("cannot listen for signals: {error}")),
    };
    let served = async {
        let server = Server::bind(args.to_config()?).await?;
        if let Some(wanted) = wanted {
            if let Err(error) = wanted.check(&server.handle()) {
                return Ok(fail(USAGE, &error.to_string()));
            }
            wanted.register(&server.handle()).await;
        }
        server.run(stop).await.map(|()| ExitCode::SUCCESS)
    };
    let ended: Result<_, healthmon_server::ServeError> = served.await;
    ended.unwrap_or_else(|error| fail(1, &error.to_string()))
}

/// Resolves at SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stopping"),
            _ = int.recv() => tracing::info!("interrupted: stopping"),
        }
    })
}

#[expect(clippy::print_stderr, reason = "a program's last words belong on standard error")]
fn fail(status: u8, why: &str) -> ExitCode {
    eprintln!("healthmon: {why}");
    ExitCode::from(status)
}
