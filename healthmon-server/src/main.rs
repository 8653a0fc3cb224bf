//! The `healthmon` binary: arguments, logging, signals.

// The futures of a start lie more than the usual 128 deep in an optimised build.
#![recursion_limit = "256"]

use std::{io::IsTerminal, process::ExitCode, sync::Arc};

use healthmon_server::{
    Server, auth,
    check::{self, Look},
    cli::{Command, ServeArgs},
    cluster::show,
    logging,
    settings::{self, SettingsError},
    watch,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A probe is a few dozen short-lived allocations, made on one thread and freed on another: the
/// system's allocator spends a sixth of a probe's time on them, and gives memory back to the
/// system only to ask for it again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Wrong usage, as clap has it.
const USAGE: u8 = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match settings::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(SettingsError::Usage(error)) => error.exit(),
        Err(error) => return fail(USAGE, &error.to_string()),
    };
    if let Err(error) = logging::init(&cli.log) {
        return fail(USAGE, &format!("--log {}: {error}", cli.log.log));
    }
    match cli.command {
        Command::Serve(args) => run(&args, None).await,
        Command::Watch(args) => match watch::wanted(&args) {
            Ok(wanted) => run(&args.serve, Some(wanted)).await,
            Err(error) => fail(USAGE, &error.to_string()),
        },
        Command::Check(args) => match check::run(&args, Look::of_stdout(), &mut std::io::stdout().lock()).await {
            Ok(status) => ExitCode::from(status),
            Err(error) => fail(USAGE, &error.to_string()),
        },
        Command::Reasons => match check::reasons(Look::of_stdout(), &mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error.to_string()),
        },
        Command::Cluster(args) => match show::run(&args, &mut std::io::stdout().lock()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error.to_string()),
        },
        Command::Auth(command) => match auth::command::run(&command, &mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(1, &error.to_string()),
        },
    }
}

async fn run(args: &ServeArgs, wanted: Option<watch::Wanted>) -> ExitCode {
    // Each probe under way is a socket: ask for as many as the system allows.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    // Without a file there is nothing to read again, and a terminal that closes ends what runs in it.
    let hangup = match args.config {
        Some(_) => Hangup::Reads,
        None if std::io::stdin().is_terminal() => Hangup::Stops,
        None => Hangup::IsTold,
    };
    let signals = stop_signal(hangup).and_then(|stop| Ok((stop, signal(SignalKind::hangup())?)));
    let (stop, hangups) = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(1, &format!("cannot listen for signals: {error}")),
    };
    let served = async {
        let config = args.to_config()?;
        tokio::pin!(stop);
        let server = tokio::select! {
            // Boxed: what it waits for lies many futures deep, and the compiler gives up at some depth.
            server = Box::pin(Server::bind(config)) => server?,
            // The database may be waited for.
            () = stop.as_mut() => return Ok(ExitCode::SUCCESS),
        };
        if let Some(wanted) = wanted.map(|wanted| wanted.from_regions(&server.regions())) {
            if let Err(error) = wanted.check(&server.handle()) {
                return Ok(fail(USAGE, &error.to_string()));
            }
            wanted.register(&server.handle()).await;
        }
        match hangup {
            Hangup::Reads => drop(tokio::spawn(reload(server.access(), hangups))),
            Hangup::IsTold => drop(tokio::spawn(tell(hangups))),
            Hangup::Stops => {}
        }
        server.run(stop).await.map(|()| ExitCode::SUCCESS)
    };
    let ended: Result<_, healthmon_server::ServeError> = served.await;
    ended.unwrap_or_else(|error| fail(1, &error.to_string()))
}

/// What SIGHUP does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangup {
    /// It has the settings file read.
    Reads,
    /// It says that the terminal is gone.
    Stops,
    /// It is logged.
    IsTold,
}

/// Says at each SIGHUP that there is nothing to do.
async fn tell(mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        tracing::warn!("SIGHUP: there is no settings file (--config) to read anew, so nothing changes");
    }
}

/// At each SIGHUP, has the settings file say anew who may use the API. What is wrong with it is
/// logged, and nothing changes.
async fn reload(access: Arc<auth::Gate>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        let read = settings::access(std::env::args_os());
        let replaced = read.map_err(|error| error.to_string()).and_then(|settings| {
            let (users, tokens) = (settings.users.len(), settings.tokens.len());
            access.replace(settings).map(|()| (users, tokens)).map_err(|error| error.to_string())
        });
        match replaced {
            Ok((users, tokens)) => tracing::info!(users, tokens, "SIGHUP: read anew who may use the API"),
            Err(error) => {
                tracing::error!(error, "SIGHUP: the settings are refused; who may use the API stays as it was")
            }
        }
    }
}

/// Resolves at SIGTERM or SIGINT, and at SIGHUP if that stops.
fn stop_signal(hangup: Hangup) -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => tracing::info!("SIGTERM: stopping"),
            _ = int.recv() => tracing::info!("interrupted: stopping"),
            _ = hup.recv(), if hangup == Hangup::Stops => tracing::info!("SIGHUP: the terminal is gone; stopping"),
        }
    })
}

#[expect(clippy::print_stderr, reason = "a program's last words belong on standard error")]
fn fail(status: u8, why: &str) -> ExitCode {
    eprintln!("healthmon: {why}");
    ExitCode::from(status)
}
