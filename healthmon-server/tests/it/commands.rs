//! The command line, as a person or a script meets it.

use std::process::{Command, Output};

use healthmon_server::auth::AccessRole;

use crate::{
    credentials::{TestToken, user},
    support::{Server, Target, folder},
};

fn healthmon(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_healthmon")).args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn check_shows_where_the_time_went_and_exits_by_the_outcome() {
    let target = Target::start().await;
    let url = target.url.clone();
    let check = async |words: &'static [&'static str]| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || healthmon(&[&["check", &url], words].concat())).await.unwrap()
    };
    let passed = check(&[]).await;
    assert_eq!(passed.status.code(), Some(0));
    let shown = text(&passed.stdout);
    assert!(shown.starts_with(&format!("✓ pass  {url}  status 200")), "{shown}");
    assert!(shown.contains("connect") && shown.contains("first byte"), "{shown}");
    assert!(shown.contains("address") && !shown.contains('\u{1b}'), "facts, and no colour in a pipe: {shown}");

    target.answer(503);
    let failed = check(&["--expect-status", "2xx"]).await;
    assert_eq!(failed.status.code(), Some(1));
    let shown = text(&failed.stdout);
    assert!(shown.starts_with("✗ FAIL") && shown.contains("\n  status: "), "{shown}");
    assert!(shown.contains("200-299") && shown.contains("503") && shown.contains("look at"), "{shown}");
    assert_eq!(check(&["--expect-status", "503", "--expect-body", "target says"]).await.status.code(), Some(0));

    let json: serde_json::Value = serde_json::from_slice(&check(&["--json"]).await.stdout).unwrap();
    assert_eq!(
        (json["outcome"].as_str(), json["reason"].as_str(), json["code"].as_u64()),
        (Some("fail"), Some("status"), Some(503))
    );
    assert!(json["meaning"].is_string() && json["facts"].is_array() && json["assertions"].is_array(), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_takes_any_settings_of_a_service_by_option_or_by_file() {
    let (folder, target) = (folder(), Target::start().await);
    let url = target.url.clone();
    let file = folder.path().join("service.json");
    let settings = serde_json::json!({
        "name": "a", "url": "https://elsewhere.example/", "interval": "1h", "timeout": "5s",
        "http": {"headers": {"authorization": "Bearer from-the-file"}}, "expect": {"status": [200]},
    });
    std::fs::write(&file, settings.to_string()).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let check = async |words: &[&str]| {
        let words: Vec<String> = ["check", &url].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let words = move || healthmon(&words.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(words).await.unwrap()
    };
    assert_eq!(check(&["--settings", &file]).await.status.code(), Some(0));
    assert_eq!(target.authorization().as_deref(), Some("Bearer from-the-file"));
    let over = ["--settings", &file, "-o", "http.headers.authorization=Basic x", "--option", "expect.status=[404]"];
    assert_eq!(check(&over).await.status.code(), Some(1), "an option goes before the file");
    assert_eq!(target.authorization().as_deref(), Some("Basic x"));
    for (words, says) in [
        (["--option", "http.method"], "--option: must be a field and its value"),
        (["--option", "http.method=BREW"], "http.method: must be GET"),
        (["--settings", "/nowhere.json"], "--settings /nowhere.json: "),
        (["--probe-deny", "everything"], "must be a network"),
    ] {
        let refused = check(&words).await;
        assert_eq!(refused.status.code(), Some(2), "{words:?}");
        assert!(text(&refused.stderr).contains(says), "{words:?}: {}", text(&refused.stderr));
    }
    let denied = check(&["--probe-deny", "127.0.0.0/8"]).await;
    assert_eq!(denied.status.code(), Some(3));
    assert!(text(&denied.stdout).contains("127.0.0.0/8 is denied"), "the rule is told: {}", text(&denied.stdout));
}

#[test]
fn every_reason_is_explained() {
    let listed = healthmon(&["reasons"]);
    assert_eq!(listed.status.code(), Some(0));
    let listed = text(&listed.stdout);
    for reason in healthmon_core::probe::Reason::all() {
        assert!(listed.contains(&format!("\n  {reason} ")), "{reason}: {listed}");
    }
}

#[test]
fn check_of_a_forbidden_address_learns_nothing_and_says_why() {
    let blocked = healthmon(&["check", "http://169.254.169.254/latest/meta-data/"]);
    assert_eq!(blocked.status.code(), Some(3));
    assert!(text(&blocked.stdout).contains("blocked"), "{}", text(&blocked.stdout));
}

#[test]
fn wrong_usage_is_answered_in_a_sentence_that_names_what_is_wrong() {
    let folder = folder();
    let database = folder.path().join("db");
    let database = database.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 13] = [
        (&["serve", "--listen", "0.0.0.0:8080", "--database", database], 1, "--listen 0.0.0.0:8080 is beyond loopback"),
        (
            &["serve", "--listen", "127.0.0.1:0", "--database", "/nowhere/at/all/db"],
            1,
            "cannot open the database /nowhere/at/all/db",
        ),
        (&["serve", "--log", "healthmon==", "--database", database], 2, "--log healthmon=="),
        (&["serve", "--retention", "long"], 2, "must be a duration"),
        (&["serve", "--regions", "eu,eu", "--database", database], 1, "--regions must be a list of 1 to 16 different"),
        (
            &["serve", "--secrets-dir", "/nowhere", "--database", database],
            1,
            "--secrets-dir /nowhere: must be a folder",
        ),
        (&["serve", "--secret-key", "short", "--database", database], 1, "key 1 is not 32 bytes in base64 or hex"),
        (&["serve", "--secret-key-file", "/nowhere", "--database", database], 1, "--secret-key-file /nowhere: "),
        (&["watch"], 2, "<URL>..."),
        (
            &["watch", "ftp://127.0.0.1/", "--listen", "127.0.0.1:0", "--database", database],
            2,
            "one of the schemes dns, grpc, grpcs, heartbeat, http, https",
        ),
        (&["watch", "example.org"], 2, "\"example.org\": must be an absolute URL"),
        (&["check", "http://127.0.0.1/", "--timeout", "1h"], 2, "--timeout: must be from 1ms to 5m"),
        (&["check", "ftp://127.0.0.1/"], 2, "url: must have one of the schemes dns, grpc, grpcs, http, https"),
    ];
    for (words, status, says) in cases {
        let output = healthmon(words);
        let shown = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{words:?}: {shown}");
        assert!(shown.contains(says), "{words:?}: {shown}");
    }
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = folder();
    let output = healthmon(&["serve", "--listen", &address, "--database", folder.path().join("db").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&format!("cannot listen at {address}")), "{}", text(&output.stderr));
}

#[test]
fn the_readme_explains_every_reason_as_the_code_does() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let listed: Vec<&str> = readme
        .lines()
        .skip_while(|line| !line.starts_with("| reason | counts as |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    let expected: Vec<String> = healthmon_core::probe::Reason::all()
        .map(|reason| {
            let outcome = match reason {
                healthmon_core::probe::Reason::Fail(_) => "fail",
                healthmon_core::probe::Reason::Indeterminate(_) => "indeterminate",
            };
            format!("| `{reason}` | {outcome} | {} |", reason.meaning())
        })
        .collect();
    assert_eq!(listed, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_is_asked_with_a_token_or_a_password_and_shows_neither() {
    let folder = folder();
    let (token, ann) = (TestToken::new("ci", AccessRole::Viewer), user("ann", AccessRole::Viewer, "canary@horse"));
    let environment = [("HEALTHMON_USERS", ann.to_string()), ("HEALTHMON_TOKENS", token.entry.to_string())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = Server::at([127, 0, 0, 1], &folder.path().join("db"), &["serve"], &environment);
    server.ready().await;
    let address = server.address;
    let bearer = token.token.expose().to_owned();
    let asked = async |user: &str, words: &[&str]| {
        let url = format!("http://{user}{address}");
        let words: Vec<String> =
            [&["cluster", "--url", &url], words].concat().iter().map(ToString::to_string).collect();
        let run = move || healthmon(&words.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    };
    for (user, words, status, says) in [
        ("ann:canary%40horse@", &[] as &[&str], 0, "NODE"),
        ("", &["--token", &bearer], 0, "NODE"),
        ("", &[], 1, "say who you are"),
        ("ann:canary-wrong@", &[], 1, "no such user"),
        ("ann:canary%40horse@", &["--token", &bearer], 1, "leave one out"),
    ] {
        let output = asked(user, words).await;
        let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{user}: {shown}");
        assert!(shown.contains(says) && !shown.contains("canary") && !shown.contains(&bearer), "{user}: {shown}");
    }
    let wrong = healthmon(&["cluster", "--url", "ftp://ann:canary@127.0.0.1/"]);
    assert!(text(&wrong.stderr).contains("127.0.0.1/: must be") && !text(&wrong.stderr).contains("canary"));
}
