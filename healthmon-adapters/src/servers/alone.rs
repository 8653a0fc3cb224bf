//! A network of one's own.

use std::{io, os::unix::fs::MetadataExt, process::Command};

/// Runs the ignored test `name` of this test program once more, in a network and with mounts that exist
/// for it only (`unshare`): set up by the commands of `setup`, with only loopback up before them, and then
/// by way of `prefix`, words to be put before a command, or none.
///
/// # Errors
/// What it said, when it did not pass, or when there can be no such network: that needs root or user
/// namespaces.
pub fn run_alone(setup: &[&str], prefix: &str, name: &str) -> io::Result<()> {
    let setup: String = setup.iter().flat_map(|command| [command, " && "]).collect();
    let script = format!("ip link set lo up && {setup} exec {prefix} \"$0\" --exact {name} --ignored");
    let mut unshare = Command::new("unshare");
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--mount", "sh", "-c", &script]).arg(std::env::current_exe()?);
    let output = unshare.output().map_err(|error| {
        io::Error::new(error.kind(), format!("unshare, of Debian's package util-linux, does not run: {error}"))
    })?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // A name that no test has passes as well, with none.
    if output.status.success() && said.contains("1 passed") {
        return Ok(());
    }
    Err(io::Error::other(format!("in a network of its own (it needs root or user namespaces): {said}")))
}
