//! The `healthmon` binary: arguments, logging, signals.

use std::{process::ExitCode, sync::Arc};

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
    let hangups = args.config.as_ref().map(|_| signal(SignalKind::hangup())).transpose();
    let (stop, hangups) = match stop_signal().and_then(|stop| Ok((stop, hangups?))) {
        Ok(signals) => signals,
        Err(error) => return fail(1, &format!("cannot listen for signals: {error}")),
    };
    let served = async {
        let config = args.to_config()?;
        tokio::pin!(stop);
        let server = tokio::select! {
            server = Server::bind(config) => server?,
            // The database may be waited for.
            () = stop.as_mut() => return Ok(ExitCode::SUCCESS),
        };
        if let Some(wanted) = wanted.map(|wanted| wanted.from_regions(&server.regions())) {
            if let Err(error) = wanted.check(&server.handle()) {
                return Ok(fail(USAGE, &error.to_string()));
            }
            wanted.register(&server.handle()).await;
        }
        if let Some(hangups) = hangups {
            tokio::spawn(reload(server.access(), hangups));
        }
        server.run(stop).await.map(|()| ExitCode::SUCCESS)
    };
    let ended: Result<_, healthmon_server::ServeError> = served.await;
    ended.unwrap_or_else(|error| fail(1, &error.to_string()))
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
