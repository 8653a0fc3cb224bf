//! Settings by flag, by environment and by file.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    credentials::basic,
    support::{Server, folder},
};

/// Runs the binary to its end with something on standard input; how it ended, and what it said.
fn run(words: &[&str], environment: &[(&str, &str)], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_healthmon"));
    command.args(words).envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may not want it, and end before it is written.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What `serve` says to a file, on one line.
fn refusal(file: &Path, settings: &str) -> String {
    std::fs::write(file, settings).unwrap();
    let (status, _, said) = run(&["serve", "--config", file.to_str().unwrap()], &[], "");
    assert_eq!(status, Some(2), "{settings}: {said}");
    said.trim_end().to_owned()
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_place_and_what_would_be_right() {
    let folder = folder();
    let file = folder.path().join("s.yaml");
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$YWJjZGVmZ2hpamtsbW5vcA$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
    let user = |rest: &str| format!("access:\n  users:\n    - {{name: ann, {rest}}}\n");
    let sha256 = "a".repeat(64);
    let token = |rest: &str| format!("access:\n  tokens:\n    - {{name: ci, {rest}}}\n");
    for (settings, says) in [
        ("retension: 3days".to_owned(), ":1:1: retension: is not a setting; did you mean retention?"),
        (
            "\n\nfrequency: 1".to_owned(),
            ":3:1: frequency: is not a setting; there are log_format, log, listen, database",
        ),
        ("retention: long".to_owned(), ":1:1: retention: must be a duration"),
        ("retention:".to_owned(), ":1:1: retention: has no value"),
        ("retention: [1d, 2d]".to_owned(), ":1:1: retention: takes one value, not a list"),
        ("log-format: xml".to_owned(), ":1:1: log-format: must be of text, json"),
        ("fast_commits: perhaps".to_owned(), ":1:1: fast_commits: must be true or false"),
        ("config: other.yaml".to_owned(), ":1:1: config: is not a setting"),
        ("tokens: x".to_owned(), ":1:1: tokens: belongs to access.tokens"),
        ("retention: 1h\nretention: 2h".to_owned(), ":2:1: duplicate"),
        ("listen: {a: b}".to_owned(), ":1:1: listen: takes a value, not settings of its own"),
        ("acces: {users: []}".to_owned(), ":1:1: acces: is not a setting; did you mean access?"),
        ("access:\n  metrics: closed".to_owned(), ":2:12: access.metrics: must be of open, viewer"),
        ("access:\n  allowed_origins: [\"*\"]".to_owned(), ":2:20: access.allowed_origins: must be an origin"),
        ("access:\n  trusted_proxies: [\"::/0\"]".to_owned(), ":2:20: access.trusted_proxies: must be the network"),
        ("access:\n  user: []".to_owned(), ":2:3: unknown field `user`, expected one of users, tokens"),
        (
            user(&format!("role: root, password_hash: \"{hash}\"")),
            "unknown variant `root`, expected one of viewer, editor, admin",
        ),
        (user("role: admin, password: canary"), "unknown field `password`"),
        (user("role: admin, password_hash: canary"), "must be an argon2id hash"),
        (
            user(&format!("role: admin, password_hash: \"{}\"", hash.replace("argon2id", "argon2i"))),
            "must be of argon2id",
        ),
        (user(&format!("role: admin, password_hash: \"{}\"", hash.replace("19456", "1024"))), "is too weak"),
        (user("role: admin"), "missing field `password_hash`"),
        (token(&format!("role: viewer, sha256: {}", &sha256[1..])), "64 hexadecimal digits"),
        (token("sha256: x"), "64 hexadecimal digits"),
        (token(&format!("sha256: {sha256}")), "missing field `role`"),
    ] {
        let said = refusal(&file, &settings);
        assert!(
            said.starts_with("healthmon: ") && said.contains("s.yaml:") && said.contains(says),
            "{settings}: {said}"
        );
        assert!(!said.contains('\n'), "one line: {said}");
        assert!(!said.contains("canary") && !said.contains(&sha256[1..]) && !said.contains("MDEyMz"), "{said}");
    }
    let missing = folder.path().join("missing.yaml");
    let (status, _, said) = run(&["serve", "--config", missing.to_str().unwrap()], &[], "");
    assert!(status == Some(2) && said.contains("cannot read") && said.contains("missing.yaml"), "{said}");
}

#[test]
fn sec_a_value_that_may_be_secret_is_not_repeated_when_it_is_wrong() {
    let folder = folder();
    let file = folder.path().join("s.yaml");
    assert!(!refusal(&file, "database: mysql://ann:canary@db/x").contains("canary"));
    assert!(!refusal(&file, "queue: amqp://ann:canary@db/x").contains("canary"));
    for (words, environment) in [
        (vec!["serve", "--database", "mysql://ann:canary@db/x"], vec![]),
        (vec!["serve", "--queue=amqp://ann:canary@db/x"], vec![]),
        (vec!["watch", "http://127.0.0.1/", "--tokens", "ci:viewer:canary"], vec![]),
        (vec!["serve"], vec![("HEALTHMON_TOKENS", "ci:viewer:canary")]),
        (vec!["serve"], vec![("HEALTHMON_USERS", "ann:viewer:canary")]),
        (vec!["serve"], vec![("HEALTHMON_DATABASE", "mysql://ann:canary@db/x")]),
    ] {
        let (status, out, said) = run(&words, &environment, "");
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("(hidden)") && !said.contains("canary") && !out.contains("canary"), "{said}");
    }
    let users =
        "ann:viewer:$argon2id$v=19$m=19456,t=2,p=1$YWJjZGVmZ2hpamtsbW5vcA$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
    let (_, help, _) = run(&["serve", "--help"], &[("HEALTHMON_USERS", users)], "");
    assert!(help.contains("HEALTHMON_USERS") && !help.contains("MDEyMz"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_go_before_the_environment_and_the_environment_before_the_file() {
    let folder = folder();
    let file = folder.path().join("s.yaml");
    let config = ["serve", "--config", file.to_str().unwrap()];
    // In turn: what the file says, what the environment says, what a flag says, what is logged.
    for (index, (in_file, environment, flag, json)) in [
        (None, None, None, false),
        (Some("json"), None, None, true),
        (Some("json"), Some("text"), None, false),
        (Some("text"), Some("json"), None, true),
        (Some("json"), Some("json"), Some("text"), false),
        (Some("text"), None, Some("json"), true),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(&file, in_file.map_or(String::new(), |format| format!("log_format: {format}\n"))).unwrap();
        let mut words = config.to_vec();
        words.extend(flag.iter().flat_map(|format| ["--log-format", format]));
        let environment: Vec<_> = environment.iter().map(|format| ("HEALTHMON_LOG_FORMAT", *format)).collect();
        let mut server = Server::at([127, 0, 0, 1], &folder.path().join(format!("{index}")), &words, &environment);
        server.ready().await;
        server.terminate().await;
        assert_eq!(server.log().starts_with('{'), json, "case {index}: {}", server.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_may_say_everything_with_dashes_or_underscores_and_be_named_by_the_environment() {
    let folder = folder();
    let file = folder.path().join("s.yaml");
    let settings = "# everything\nlog: debug\nlog-format: json\nregion: attic\nregions: [attic, cellar]\nretention: 90days\n\
                    concurrency: 100\nlinger: 0.5\nfast-commits: true\nrole: [scheduler, worker, recorder, api]\n\
                    access:\n  metrics: open\n  allowed-origins: [https://a.example]\n  allow-anonymous: false\n  trusted-proxies: [10.0.0.0/8, \"::1\"]\n";
    std::fs::write(&file, settings).unwrap();
    let environment = [("HEALTHMON_CONFIG", file.to_str().unwrap())];
    let server = Server::at([127, 0, 0, 1], &folder.path().join("db"), &["serve"], &environment);
    server.ready().await;
    let origin = crate::credentials::request(&server, "GET", "/api/v1/services", &[("origin", "https://a.example")]);
    assert_eq!(server.raw(origin).await.unwrap().status, 200);
    assert!(server.log().starts_with('{'));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_auth_prints_is_what_the_settings_take() {
    let folder = folder();
    let (_, printed, said) = run(&["auth", "hash-password", "--name", "ann"], &[], "correct horse\nand more");
    assert!(printed.contains("HEALTHMON_USERS='ann:admin:$argon2id$"), "{printed}{said}");
    let (_, token, _) = run(&["auth", "new-token", "--name", "ci", "--role", "viewer"], &[], "");
    let words: Vec<&str> = token.split_whitespace().filter(|word| word.starts_with("hm_")).collect();
    let [bearer] = words[..] else { panic!("it is shown once: {token}") };
    assert_eq!(token.matches(bearer).count(), 1, "and in no other word: {token}");
    let bearer = format!("Bearer {bearer}");
    // The lines for the file, as they are; the second list goes under the first's `access`.
    let lines = |printed: &str| -> String {
        let lines = printed.lines().skip_while(|line| line.trim() != "access:").skip(1);
        lines.take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
    };
    let file = folder.path().join("s.yaml");
    std::fs::write(&file, format!("  access:\n{}{}", lines(&printed), lines(&token))).unwrap();
    let by_file = Server::with(&folder.path().join("a"), &["serve", "--config", file.to_str().unwrap()]);
    let quoted = |printed: &str| printed.split("='").nth(1).unwrap().trim_end().trim_end_matches('\'').to_owned();
    let environment = [("HEALTHMON_USERS", quoted(&printed)), ("HEALTHMON_TOKENS", quoted(&token))];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let by_environment = Server::at([127, 0, 0, 1], &folder.path().join("b"), &["serve"], &environment);
    for server in [by_file, by_environment] {
        server.ready().await;
        for (credentials, status) in
            [(basic("ann", "correct horse"), 404), (bearer.clone(), 403), (basic("ann", "x"), 401)]
        {
            assert_eq!(server.as_(&credentials, "POST", "/api/v1/services/1/pause").await.status, status);
        }
    }
}

#[test]
fn auth_prints_json_and_refuses_weak_passwords() {
    let (status, out, _) = run(&["auth", "new-token", "--name", "ci", "--role", "editor", "--json"], &[], "");
    let token: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &token["name"], &token["role"]), (Some(0), &"ci".into(), &"editor".into()));
    let read: healthmon_server::auth::Token = token["token"].as_str().unwrap().parse().unwrap();
    assert_eq!(token["sha256"], read.hash().to_string());
    let (_, out, _) =
        run(&["auth", "hash-password", "--name", "ann", "--role", "viewer", "--json"], &[], "correct horse");
    let user: Value = serde_json::from_str(&out).unwrap();
    let hash: healthmon_server::auth::PasswordHash = user["password_hash"].as_str().unwrap().parse().unwrap();
    assert!(hash.matches("correct horse"));
    for (input, says) in [("short\n", "at least 8"), ("", "at least 8"), (&"x".repeat(5_000), "at most 1024")] {
        let (status, out, said) = run(&["auth", "hash-password"], &[], input);
        assert!(status == Some(1) && out.is_empty() && said.contains(says), "{said}");
    }
    let (status, _, said) = run(&["auth", "new-token", "--name", "a b", "--role", "root"], &[], "");
    assert!(status == Some(2) && said.contains("a b"), "{said}");
}
