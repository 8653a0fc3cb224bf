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
    assert!(shown.starts_with(&format!("pass  {url}  status 200")), "{shown}");
    assert!(shown.contains("connect") && shown.contains("first byte"), "{shown}");

    target.answer(503);
    let failed = check(&["--expect-status", "2xx"]).await;
    assert_eq!(failed.status.code(), Some(1));
    let shown = text(&failed.stdout);
    assert!(shown.starts_with("FAIL") && shown.contains("status: expected status 200-299, got 503"), "{shown}");
    assert_eq!(check(&["--expect-status", "503", "--expect-body", "target says"]).await.status.code(), Some(0));

    let json: serde_json::Value = serde_json::from_slice(&check(&["--json"]).await.stdout).unwrap();
    assert_eq!(
        (json["outcome"].as_str(), json["reason"].as_str(), json["code"].as_u64()),
        (Some("fail"), Some("status"), Some(503))
    );
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
    let cases: [(&[&str], i32, &str); 9] = [
        (&["serve", "--listen", "0.0.0.0:8080", "--database", database], 1, "--listen 0.0.0.0:8080 is beyond loopback"),
        (
            &["serve", "--listen", "127.0.0.1:0", "--database", "/nowhere/at/all/db"],
            1,
            "cannot open the database /nowhere/at/all/db",
        ),
        (&["serve", "--log", "healthmon==", "--database", database], 2, "--log healthmon=="),
        (&["serve", "--retention", "long"], 2, "must be a duration"),
        (&["watch"], 2, "<URL>..."),
        (
            &["watch", "ftp://127.0.0.1/", "--listen", "127.0.0.1:0", "--database", database],
            2,
            "one of the schemes http, https",
        ),
        (&["watch", "example.org"], 2, "\"example.org\": must be an absolute URL"),
        (&["check", "http://127.0.0.1/", "--timeout", "1h"], 2, "--timeout: must be from 1ms to 5m"),
        (&["check", "ftp://127.0.0.1/"], 2, "url: must have one of the schemes http, https"),
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
