//! What the files in `deploy` do, where this can be told without containers.

use std::{fs, path::Path, process::Command};

use healthmon_server::auth::{ApiToken, Listed, Token};

use crate::support::{Server, folder};

/// A file of the repository.
fn file(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_that_new_env_prints_is_admitted_by_what_it_writes() {
    let folder = folder();
    let script = folder.path().join("deploy/compose/new-env");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::copy(file("deploy/compose/new-env"), &script).unwrap();
    let said = Command::new(&script).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let said = String::from_utf8(said.stdout).unwrap();
    let token: Token = said.trim().strip_prefix("export HEALTHMON_TOKEN=").unwrap().parse().unwrap();
    let env = fs::read_to_string(folder.path().join(".env")).unwrap();
    let tokens = env.lines().find_map(|line| line.strip_prefix("HEALTHMON_TOKENS=")).unwrap();
    assert_eq!(tokens.parse::<Listed<ApiToken>>().unwrap().0[0].sha256, token.hash());

    let server = Server::at([127, 0, 0, 1], &folder.path().join("db"), &["serve"], &[("HEALTHMON_TOKENS", tokens)]);
    server.ready().await;
    let listed = server.as_(&format!("Bearer {}", token.expose()), "GET", "/api/v1/services").await;
    assert_eq!(listed.status, 200);
}
