//! Settings by flag, by environment and by file, the earlier before the later.
//!
//! Each setting is defined once, as a flag: a file's keys are the long names of flags, and what it
//! says becomes the flag's default, read by the flag's own parser. Only what belongs together
//! stands together there, under `access` and `probing`:
//!
//! ```yaml
//! listen: 0.0.0.0:8080
//! database: /var/lib/healthmon/healthmon.db
//! retention: 90days
//! probing:
//!   loopback: refused
//!   deny: [10.0.0.0/8]
//!   allow: [10.1.0.0/16]
//!   canary: ["tcp://192.0.2.1:443", "tcp://198.51.100.1:443"]
//! access:
//!   users:
//!     - name: ann
//!       role: admin
//!       password_hash: "$argon2id$v=19$m=19456,t=2,p=1$…$…"
//!   tokens:
//!     - name: grafana
//!       role: viewer
//!       sha256: "…"
//!   metrics: open
//!   allowed_origins: [https://status.example.org]
//!   trusted_proxies: [10.1.2.0/24]
//! ```

mod file;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, CommandFactory, FromArgMatches,
    builder::Resettable,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};

use self::file::{Entry, File, Value};
use crate::{
    auth::AccessSettings,
    cli::{Cli, Command, ServeArgs},
    config::ConfigError,
};

/// No settings take more than this.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The command line or the environment; or nothing is wrong, and help was asked for.
    #[error(transparent)]
    Usage(Box<clap::Error>),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: std::io::Error,
    },
    /// The file says something that is not understood.
    #[error("{}:{problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong: `3:1: retension: is not a setting`.
        problem: String,
    },
    /// The settings do not fit each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<clap::Error> for SettingsError {
    fn from(mut error: clap::Error) -> Self {
        // A value that may be secret is not shown, however wrong it is.
        let named = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
        let long = named.split([' ', '=']).next().unwrap_or_default().trim_start_matches('-');
        if every_arg(&Cli::command()).any(|arg| arg.get_long() == Some(long) && arg.is_hide_env_values_set()) {
            error.insert(ContextKind::InvalidValue, ContextValue::String("(hidden)".to_owned()));
        }
        Self::Usage(Box::new(error))
    }
}

/// Reads a command line, the environment, and the file that they name, if they name one.
///
/// # Errors
/// See [`SettingsError`].
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, SettingsError> {
    let words: Vec<OsString> = words.into_iter().collect();
    let cli = read(Cli::command(), &words)?;
    let Some(path) = cli.command.serve_args().and_then(|args| args.config.clone()) else { return Ok(cli) };
    let text = read_file(&path)?;
    let wrong = |problem| SettingsError::File { path: path.clone(), problem };
    let file = File::read(&text).map_err(wrong)?;
    if let Some(list) = named_twice(&words, &file)? {
        let (flag, variable) = (format!("--{list}"), format!("HEALTHMON_{}", list.to_uppercase()));
        return Err(wrong(format!(
            " access.{list}: {flag} or {variable} names {list} too, and would go before these; leave out one of the two"
        )));
    }
    let with_file = with_file(Cli::command(), file).map_err(wrong)?;
    read(with_file, &words)
}

/// The list that the file has, and that the command line or the environment has too. Of other settings
/// one may go before the other; but whoever takes someone out of the file must have them out.
fn named_twice(words: &[OsString], file: &File) -> Result<Option<&'static str>, SettingsError> {
    let matches = Cli::command().try_get_matches_from(words)?;
    let given = |list: &&str| {
        let source = matches.subcommand().and_then(|(_, serving)| serving.value_source(list));
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    Ok(file.access.listed().into_iter().find(given))
}

/// Reads who may use the API again, from wherever [`parse`] read it.
///
/// # Errors
/// See [`SettingsError`].
pub fn access(words: impl IntoIterator<Item = OsString>) -> Result<AccessSettings, SettingsError> {
    let cli = parse(words)?;
    let config = cli.command.serve_args().map(ServeArgs::to_config).transpose()?;
    Ok(config.map(|config| config.access).unwrap_or_default())
}

fn read(command: clap::Command, words: &[OsString]) -> Result<Cli, SettingsError> {
    let mut matches = command.try_get_matches_from(words)?;
    Ok(Cli::from_arg_matches_mut(&mut matches)?)
}

fn read_file(path: &Path) -> Result<String, SettingsError> {
    let long = || std::io::Error::other("it is longer than 4 MiB, so it is no settings file");
    let read = std::fs::metadata(path)
        .and_then(|file| if file.len() > MOST_BYTES { Err(long()) } else { std::fs::read_to_string(path) });
    read.map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })
}

/// The commands that take settings of the server.
const SERVING: [&str; 2] = ["serve", "watch"];

/// The command line with a file's settings as defaults.
fn with_file(command: clap::Command, file: File) -> Result<clap::Command, String> {
    let File { entries, access, probing } = file;
    let mut defaults = Vec::new();
    for entry in &entries {
        let arg = setting(&command, entry)?;
        defaults.push((arg.get_id().clone(), default(&command, arg, entry)?));
    }
    for (long, entry) in access.scalars().into_iter().chain(probing.scalars()) {
        let arg = every_arg(&command).find(|arg| arg.get_long() == Some(long)).ok_or("no such setting")?;
        defaults.push((arg.get_id().clone(), default(&command, arg, &entry)?));
    }
    for (long, list) in access.lists() {
        let arg = every_arg(&command).find(|arg| arg.get_long() == Some(long)).ok_or("no such setting")?;
        defaults.push((arg.get_id().clone(), list));
    }
    let put = |command: clap::Command, (id, value): &(clap::Id, String)| {
        let there = command.get_arguments().any(|arg| arg.get_id() == id);
        if there { command.mut_arg(id.clone(), |arg| arg.default_value(value.clone())) } else { command }
    };
    let mut command = defaults.iter().fold(command, put);
    for name in SERVING {
        command = command.mut_subcommand(name, |serving| defaults.iter().fold(serving, put));
    }
    Ok(command)
}

/// The arguments that are settings of the server, and those that are the same for all commands.
fn every_arg(command: &clap::Command) -> impl Iterator<Item = &Arg> {
    let serve = command.find_subcommand(SERVING[0]).into_iter().flat_map(clap::Command::get_arguments);
    command.get_arguments().chain(serve).filter(|arg| arg.get_long().is_some())
}

/// What the file calls a flag.
fn key(long: &str) -> String {
    long.replace('-', "_")
}

/// The flags that a file's top level may not set, and what does instead.
fn elsewhere(long: &str) -> Option<&'static str> {
    match long {
        "users" => Some("access.users"),
        "tokens" => Some("access.tokens"),
        "allow-anonymous" => Some("access.allow_anonymous"),
        "metrics-access" => Some("access.metrics"),
        "allowed-origin" => Some("access.allowed_origins"),
        "probe-loopback" => Some("probing.loopback"),
        "probe-allow" => Some("probing.allow"),
        "probe-deny" => Some("probing.deny"),
        "probe-resolver" => Some("probing.resolver"),
        "canary" => Some("probing.canary"),
        "probes-per-host" => Some("probing.per_host"),
        "trusted-proxy" => Some("access.trusted_proxies"),
        _ => None,
    }
}

/// The flag that a key names.
fn setting<'a>(command: &'a clap::Command, entry: &Entry) -> Result<&'a Arg, String> {
    let wanted = key(&entry.key);
    let mut longs = every_arg(command).filter_map(Arg::get_long).filter(|long| *long != "config");
    if let Some(long) = longs.by_ref().find(|long| key(long) == wanted) {
        return match elsewhere(long) {
            Some(place) => Err(entry.problem(format_args!("belongs to {place}"))),
            None => every_arg(command).find(|arg| arg.get_long() == Some(long)).ok_or_else(String::new),
        };
    }
    let longs = every_arg(command).filter_map(Arg::get_long).filter(|long| *long != "config");
    let mut known: Vec<String> = longs.filter(|long| elsewhere(long).is_none()).map(key).collect();
    known.extend(["access".to_owned(), "probing".to_owned()]);
    let close = known
        .iter()
        .map(|known| (distance(known, &wanted), known))
        .min()
        .filter(|(far, known)| *far <= 2.min(known.len() / 3));
    Err(match close {
        Some((_, close)) => entry.problem(format_args!("is not a setting; did you mean {close}?")),
        None => entry.problem(format_args!("is not a setting; there are {}", known.join(", "))),
    })
}

/// What a flag's default becomes, once the flag's own parser has taken it.
fn default(command: &clap::Command, arg: &Arg, entry: &Entry) -> Result<String, String> {
    let flag = matches!(arg.get_action(), ArgAction::SetTrue);
    let value = match &entry.value {
        Value::Bool(value) if flag => return Ok(value.to_string()),
        _ if flag => return Err(entry.problem("must be true or false")),
        Value::Nested => return Err(entry.problem("takes a value, not settings of its own")),
        Value::Nothing => return Err(entry.problem("has no value")),
        Value::Text(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::List(list) => match arg.get_value_delimiter() {
            Some(delimiter) => list.join(&delimiter.to_string()),
            None => return Err(entry.problem("takes one value, not a list")),
        },
    };
    let word = format!("--{}={value}", arg.get_long().unwrap_or_default());
    // Without the environment, so that what is wrong there is not said of the file.
    let bare = |command: clap::Command| {
        command.mut_args(|arg| {
            let action = arg.get_action().clone();
            if matches!(action, ArgAction::Help | ArgAction::Version) { arg } else { arg.env(Resettable::Reset) }
        })
    };
    let command = bare(command.clone()).mut_subcommand(SERVING[0], bare);
    match command.try_get_matches_from(["healthmon", SERVING[0], &word]) {
        Ok(_) => Ok(value),
        Err(error) => Err(entry.problem(refusal(&error, arg))),
    }
}

/// Why a flag does not take a value, without the value.
fn refusal(error: &clap::Error, arg: &Arg) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    let known: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if known.is_empty() {
        "is no value that this setting takes".to_owned()
    } else {
        format!("must be of {}", known.join(", "))
    }
}

/// How many letters to insert, drop or replace to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl Command {
    /// The settings of the server, where the command takes them.
    fn serve_args(&self) -> Option<&ServeArgs> {
        match self {
            Self::Serve(args) => Some(args),
            Self::Watch(args) => Some(&args.serve),
            _ => None,
        }
    }
}
