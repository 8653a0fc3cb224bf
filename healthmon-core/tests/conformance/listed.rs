//! A clause that is written but not listed in its macro would never run.

use healthmon_core::conformance;

/// The public async functions in these sources.
fn clauses(sources: &[&str]) -> Vec<String> {
    let names = sources.iter().flat_map(|source| source.lines()).filter_map(|line| {
        let rest = line.strip_prefix("pub async fn ")?;
        Some(rest[..rest.find('(')?].to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

macro_rules! every_clause_is_listed {
    ($($port:ident [$($source:literal),*])*) => {
        $(
            #[test]
            fn $port() {
                let sources = [$(include_str!(concat!("../../src/conformance/", $source))),*];
                let mut listed = conformance::$port::CLAUSES.to_vec();
                listed.sort_unstable();
                assert_eq!(listed, clauses(&sources));
            }
        )*
    };
}

every_clause_is_listed! {
    store [
        "store/concurrency.rs", "store/drops.rs", "store/log.rs", "store/pages.rs", "store/record.rs",
        "store/services.rs", "store/summary.rs", "store/sweep.rs", "store/votes.rs"
    ]
    queue ["queue/bounds.rs", "queue/delivery.rs", "queue/drops.rs", "queue/results.rs"]
    scheduler ["scheduler/changes.rs", "scheduler/shared.rs", "scheduler/slots.rs"]
    broadcaster ["broadcaster.rs"]
    heartbeats ["heartbeats.rs"]
    prober ["prober.rs"]
}

#[test]
#[should_panic(expected = "HEALTHMON_NO_SUCH_BACKEND is not set")]
fn a_missing_backend_is_a_failure() {
    conformance::backend_url("HEALTHMON_NO_SUCH_BACKEND");
}

#[test]
#[should_panic(expected = "what is asked of it")]
fn a_clause_that_fails_fails_its_test() {
    conformance::run(async || panic!("what is asked of it"));
}
