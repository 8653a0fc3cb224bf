//! A disk that is full, truly: the test runs itself again within a mount namespace that has a disk
//! of a few megabytes, or, where that is not allowed, under a limit on the size of files.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use healthmon_core::ports::{ResultStore, StoreError};

use crate::trouble::{assert_holds, batch, open, service};

const NAME: &str = "full_disk::a_full_disk_is_transient_and_nothing_recorded_is_lost";
/// Where the small disk is, for the run within.
const DISK: &str = "HEALTHMON_TEST_SMALL_DISK";

/// What keeps the disk small, and how there comes to be room again.
enum Small {
    /// This file takes up room on a disk of four megabytes.
    Disk { ballast: PathBuf },
    /// No file may be larger than a megabyte.
    Files,
}

impl Small {
    fn make_room(&self) {
        match self {
            Self::Disk { ballast } => fs::remove_file(ballast).expect("removed"),
            Self::Files => {
                let pid = std::process::id().to_string();
                let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:"]).status();
                assert!(raised.is_ok_and(|status| status.success()), "the limit can be raised again");
            }
        }
    }
}

#[test]
fn a_full_disk_is_transient_and_nothing_recorded_is_lost() {
    match env::var_os(DISK) {
        Some(folder) => within(Path::new(&folder)),
        None => from_without(),
    }
}

fn from_without() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = folder.path().to_str().expect("a path");
    let itself = env::current_exe().expect("this program");
    let run = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", disk, itself.to_str().expect("a path"), NAME]).env(DISK, disk);
        command.output().expect("a shell")
    };
    let own_mounts = "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size=4m small \"$1\"' sh \"$1\"";
    let output = if run(own_mounts).status.success() {
        run("unshare --user --map-root-user --mount sh -c \
             'mount -t tmpfs -o size=4m small \"$1\" && touch \"$1/small\" && exec \"$2\" --exact \"$3\" --nocapture' \
             sh \"$1\" \"$2\" \"$3\"")
    } else {
        run("trap '' XFSZ; exec prlimit --fsize=1048576:unlimited \"$2\" --exact \"$3\" --nocapture")
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn within(folder: &Path) {
    let small = if folder.join("small").exists() {
        let ballast = folder.join("ballast");
        fs::write(&ballast, vec![1; 2 << 20]).expect("room for the ballast");
        Small::Disk { ballast }
    } else {
        Small::Files
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(fill(&folder.join("healthmon.db"), &small));
}

async fn fill(path: &Path, small: &Small) {
    let store = open(path).await;
    let service = service(&store).await;
    let mut recorded = Vec::new();
    let (refused, error) = 'full: {
        for number in 0..1_000 {
            let results = batch(&service, number, 100);
            match store.record(results.clone()).await {
                Ok(done) => assert_eq!(done.inserted, 100),
                Err(error) => break 'full (results, error),
            }
            recorded.extend(results);
        }
        panic!("the disk is never full");
    };
    assert!(recorded.len() >= 100, "there was room for some");
    assert!(matches!(error, StoreError::Transient { .. }), "{error:?}");
    let expected = match small {
        Small::Disk { .. } => "the disk is full; free some space",
        Small::Files => "the database file cannot be read or written",
    };
    assert!(error.to_string().contains(expected), "{error}");
    assert_holds(&store, &service, &recorded).await;
    let again = store.record(refused.clone()).await;
    assert!(matches!(again, Err(StoreError::Transient { .. })), "it is full still: {again:?}");

    small.make_room();
    let done = store.record(refused.clone()).await.expect("there is room again");
    assert_eq!(done.inserted, 100, "nothing of it was recorded before");
    recorded.extend(refused);
    assert_holds(&store, &service, &recorded).await;
    store.close().await;
    assert_holds(&open(path).await, &service, &recorded).await;
}
