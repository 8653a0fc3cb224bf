//! Two of the examples, run as they are built, and what they print.
//!
//! `cargo test` builds the examples before it runs this. With `--test examples` it does not: then
//! those that are there are run, which may be older than their source.

use std::{path::Path, time::Duration};

use tokio::{process::Command, time::timeout};

/// Both end by themselves; one of them may need a minute for its server and another one for the rest.
const PATIENCE: Duration = Duration::from_mins(3);

/// The lines that an example prints until it ends.
async fn printed_by(example: &str) -> Vec<String> {
    // This program is target/debug/deps/examples-…, an example is target/debug/examples/….
    let program = std::env::current_exe().expect("this program's place");
    let built = program.parent().and_then(Path::parent).expect("a folder of built things").join("examples");
    let mut command = Command::new(built.join(example));
    command.kill_on_drop(true);
    let ended = timeout(PATIENCE, command.output()).await.unwrap_or_else(|_| panic!("{example} goes on and on"));
    let output = ended.unwrap_or_else(|error| panic!("{example}: {error}; build it by `cargo build --examples`"));
    assert!(output.status.success(), "{example}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn custom_prober_finds_the_file_fresh_and_then_too_old() {
    let lines = printed_by("custom_prober").await;
    let [before @ .., down] = lines.as_slice() else { panic!("it prints nothing") };
    // On a machine that stands still for a second it is never seen fresh.
    assert!(before.len() <= 1 && before.iter().all(|up| up.contains("from: Unknown, to: Up")), "{before:?}");
    assert!(down.contains("to: Down"), "{down}");
    assert!(down.contains("the file is ") && down.ends_with(" s old"), "it is told why: {down}");
}

#[tokio::test]
async fn database_ping_sees_its_server_stop_and_start_again() {
    let lines = printed_by("database_ping").await;
    let [up, down, up_again] = lines.as_slice() else { panic!("three changes, not {lines:?}") };
    assert_eq!((up.trim_end(), up_again.trim_end()), ("UNKNOWN → UP", "DOWN → UP"));
    // Whoever comes while it shuts down is told so; later nobody listens.
    let why = down.strip_prefix("UP → DOWN  ").and_then(|why| why.split_once(": "));
    assert!(matches!(why, Some(("connect" | "not_serving", _))), "{down}");
}
