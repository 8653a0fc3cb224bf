use std::{path::PathBuf, sync::OnceLock};

use clap::{Args, Parser, Subcommand};

/// What this test is called, for those who say to `cargo test` which they want.
const NAME: &str = "faults";
/// How many faults there are in the short form.
const FEW: u32 = 8;
/// Where the short form's random numbers begin: its eight faults are of eight kinds, and among them are the end of
/// a scheduler, a commit that is lost, and faults of both PostgreSQL and Redis.
const SEED: u64 = 269;

/// Breaks a deployment and checks what it promised.
#[derive(Debug, Parser)]
#[command(subcommand_precedence_over_arg = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// How many faults; 8, and the same ones each time, if not given
    #[arg(long)]
    faults: Option<u32>,
    /// How many of them in one piece: each piece is a deployment of its own, with the next seed
    #[arg(long, default_value = "20")]
    pub(crate) piece: u32,
    /// Where the random numbers of the first piece begin; if not given, by the clock for all but the short form
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Another binary than the one just built, such as one with a planted bug
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    /// How many services
    #[arg(long, default_value = "40", global = true)]
    pub(crate) services: usize,
    /// Only faults whose name has this in it
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Keep what the processes logged, here
    #[arg(long, global = true)]
    pub(crate) logs: Option<PathBuf>,
    #[command(flatten)]
    libtest: Libtest,
}

/// What `cargo test` hands to every test binary, such as the names of the tests that are wanted.
/// Those that say how tests run, or what is shown of it, change nothing here.
#[derive(Debug, Args)]
struct Libtest {
    #[arg(hide = true)]
    names: Vec<String>,
    #[arg(long, hide = true, value_name = "NAME")]
    skip: Vec<String>,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, visible_alias = "no-capture", hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    color: Option<String>,
    #[arg(long, hide = true)]
    format: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Kills and stops schedulers, and measures when their shards' probes go on
    Takeover {
        /// How often each way
        #[arg(long, default_value = "20")]
        repetitions: u32,
    },
    /// Takes PostgreSQL away for a while, and looks what is there when it is back
    Outage {
        #[arg(long, default_value = "10")]
        minutes: u32,
        /// Probes a second
        #[arg(long, default_value = "500")]
        rate: u32,
    },
}

impl Arguments {
    /// Whether this test is among those that are wanted.
    pub(crate) fn is_wanted(&self) -> bool {
        let Libtest { names, skip, exact, ignored, .. } = &self.libtest;
        let named = |name: &String| if *exact { name == NAME } else { NAME.contains(name.as_str()) };
        !ignored && (names.is_empty() || names.iter().any(named)) && !skip.iter().any(named)
    }

    /// Whether tests are to be listed, not run.
    pub(crate) fn lists(&self) -> bool {
        self.libtest.list
    }

    pub(crate) fn faults(&self) -> u32 {
        self.faults.unwrap_or(FEW)
    }

    /// The short form finds tomorrow what it finds today; the long ones look further.
    pub(crate) fn seed(&self) -> u64 {
        static CHOSEN: OnceLock<u64> = OnceLock::new();
        let choose = || {
            if self.faults.is_none() && self.command.is_none() {
                return SEED;
            }
            let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            u64::from(nanos.subsec_nanos()) ^ u64::from(std::process::id())
        };
        *CHOSEN.get_or_init(|| self.seed.unwrap_or_else(choose))
    }

    pub(crate) fn binary(&self) -> PathBuf {
        self.binary.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_healthmon").into())
    }
}
