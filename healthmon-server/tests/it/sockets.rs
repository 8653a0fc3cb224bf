//! Sockets do not outlive what let them in.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use healthmon_server::auth::{AccessRole, User};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::{
    credentials::{TestToken, basic, user, yaml},
    support::{Server, folder, pause, until},
};

/// It is within a second, in one of three tries: a busy machine may take longer once.
async fn assert_soon(closing_takes: impl AsyncFn() -> Duration) {
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(closing_takes().await);
        if took.iter().any(|took| *took < Duration::from_secs(1)) {
            return;
        }
    }
    panic!("it takes {took:?}");
}

fn write(file: &Path, users: &[&User], tokens: &[&TestToken]) {
    let users: String = users.iter().map(|user| yaml(user)).collect();
    let tokens: String = tokens.iter().map(|token| token.yaml()).collect();
    // Whole or not at all, as an editor would.
    let fresh = file.with_extension("new");
    std::fs::write(&fresh, format!("access:\n  users:\n{users}  tokens:\n{tokens}")).unwrap();
    std::fs::rename(&fresh, file).unwrap();
}

fn start(folder: &tempfile::TempDir, file: &Path) -> Server {
    Server::with(&folder.path().join("db"), &["serve", "--config", file.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_changed_password_role_or_token_closes_its_sockets_within_a_second() {
    assert_soon(closing_what_changed_takes).await;
}

async fn closing_what_changed_takes() -> Duration {
    use AccessRole::{Admin, Editor, Viewer};
    let folder = folder();
    let file = folder.path().join("settings.yaml");
    let stays = TestToken::new("stays", Viewer);
    let goes = TestToken::new("goes", Viewer);
    let falls = TestToken::new("falls", Editor);
    let (ann, bob) = (user("ann", Admin, "ann's password"), user("bob", Viewer, "bob's password"));
    let cid = user("cid", Viewer, "cid's password");
    write(&file, &[&ann, &bob, &cid], &[&stays, &goes, &falls]);
    let server = start(&folder, &file);
    server.ready().await;
    let mut closed = Vec::new();
    let brought = [goes.bearer(), falls.bearer(), basic("ann", "ann's password"), basic("bob", "bob's password")];
    for credentials in &brought {
        closed.push(server.socket(&[("authorization", credentials)]).await.unwrap());
    }
    let mut kept = Vec::new();
    for credentials in [stays.bearer(), basic("cid", "cid's password")] {
        kept.push(server.socket(&[("authorization", &credentials)]).await.unwrap());
    }
    // One token goes, one has another role; one user has another password, one another role.
    let fallen = user("bob", Editor, "bob's password");
    let changed = user("ann", Admin, "ann's new password");
    let mut weaker = TestToken::new("falls", Viewer);
    weaker.entry.sha256 = falls.token.hash();
    write(&file, &[&changed, &User { password_hash: bob.password_hash.clone(), ..fallen }, &cid], &[&stays, &weaker]);
    let begun = Instant::now();
    server.signal("HUP");
    for (socket, credentials) in closed.iter_mut().zip(&brought) {
        let frame = loop {
            match timeout(Duration::from_secs(5), socket.next()).await.expect("an end").unwrap().unwrap() {
                Message::Close(frame) => break frame.unwrap(),
                Message::Text(hello) => assert!(hello.contains("hello"), "{hello}"),
                other => panic!("{other}"),
            }
        };
        assert_eq!(frame.code, CloseCode::Policy, "{credentials:.10}");
        assert!(frame.reason.contains("changed") && frame.reason.contains("after="), "{}", frame.reason);
    }
    let took = begun.elapsed();
    for socket in &mut kept {
        assert!(matches!(socket.next().await, Some(Ok(Message::Text(hello))) if hello.contains("hello")));
        let more = timeout(Duration::from_millis(300), socket.next()).await;
        assert!(more.is_err(), "{more:?}");
    }
    assert_eq!(server.socket(&[("authorization", &goes.bearer())]).await.map(|_| ()), Err(401));
    assert_eq!(server.as_(&basic("ann", "ann's password"), "GET", "/api/v1/services").await.status, 401);
    assert_eq!(server.as_(&basic("ann", "ann's new password"), "GET", "/api/v1/services").await.status, 200);
    assert_eq!(server.as_(&falls.bearer(), "POST", "/api/v1/services/1/pause").await.status, 403);
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_socket_that_never_reads_is_closed_within_a_second_too() {
    assert_soon(closing_one_that_never_reads_takes).await;
}

async fn closing_one_that_never_reads_takes() -> Duration {
    let folder = folder();
    let file = folder.path().join("settings.yaml");
    let (stays, goes) = (TestToken::new("stays", AccessRole::Editor), TestToken::new("goes", AccessRole::Viewer));
    write(&file, &[], &[&stays, &goes]);
    let server = start(&folder, &file);
    server.ready().await;
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /api/v1/events HTTP/1.1\r\nhost: {}\r\nauthorization: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        server.address,
        goes.bearer()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    write(&file, &[], &[&stays]);
    let begun = Instant::now();
    server.signal("HUP");
    // It answers no closing handshake, so the server cuts it off.
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("an end").ok();
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_without_a_settings_file_ends_nothing_and_says_so() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    server.signal("HUP");
    until("the log to say so", async || server.log().contains("SIGHUP: there is no settings file").then_some(())).await;
    assert_eq!(server.get("/livez").await.status, 200);
}

#[test]
fn sec_tokens_in_the_file_and_in_the_environment_are_refused() {
    let folder = folder();
    let file = folder.path().join("settings.yaml");
    let (one, other) = (TestToken::new("ci", AccessRole::Viewer), TestToken::new("cd", AccessRole::Viewer));
    let ann = user("ann", AccessRole::Viewer, "ann's password");
    write(&file, &[&ann], &[&one]);
    for (variable, value, says) in [
        ("HEALTHMON_TOKENS", other.entry.to_string(), "access.tokens: --tokens or HEALTHMON_TOKENS names tokens too"),
        ("HEALTHMON_USERS", ann.to_string(), "access.users: --users or HEALTHMON_USERS names users too"),
    ] {
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_healthmon"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config", file.to_str().unwrap()])
            .env(variable, value)
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(2) && said.contains(says), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_settings_that_are_wrong_at_a_reload_change_nothing() {
    let folder = folder();
    let file = folder.path().join("settings.yaml");
    let token = TestToken::new("ci", AccessRole::Viewer);
    write(&file, &[], &[&token]);
    let server = start(&folder, &file);
    server.ready().await;
    let mut socket = server.socket(&[("authorization", &token.bearer())]).await.unwrap();
    let hash = token.entry.sha256;
    for (settings, says) in [
        ("access:\n  tokens:\n    - {name: ci, role: root, sha256: x}\n".to_owned(), "unknown variant"),
        ("access: [".to_owned(), "settings.yaml:1:"),
        (String::new(), "no users and no tokens any more"),
        ("acces: {}".to_owned(), "did you mean"),
        (format!("access:\n  allow_anonymous: true\n  tokens:\n{}", token.yaml()), "does not go with"),
        (format!("access:\n  tokens:\n{0}{0}", token.yaml()), "given twice"),
    ] {
        let before = server.log().matches("SIGHUP").count();
        std::fs::write(&file, settings).unwrap();
        server.signal("HUP");
        let told = until("the log to say so", async || {
            let log = server.log();
            (log.matches("SIGHUP").count() > before).then_some(log)
        });
        let told = told.await;
        let line = told.lines().rfind(|line| line.contains("SIGHUP")).unwrap();
        assert!(line.contains("ERROR") && line.contains(says), "{line}");
        assert!(!line.contains(&hash.to_string()), "{line}");
        assert_eq!(server.as_(&token.bearer(), "GET", "/api/v1/services").await.status, 200);
        assert_eq!(server.get("/api/v1/services").await.status, 401);
    }
    std::fs::remove_file(&file).unwrap();
    server.signal("HUP");
    until("the log to say so", async || server.log().contains("cannot read").then_some(())).await;
    pause().await;
    assert_eq!(server.as_(&token.bearer(), "GET", "/api/v1/services").await.status, 200);
    assert!(matches!(socket.next().await, Some(Ok(Message::Text(hello))) if hello.contains("hello")));
    assert!(timeout(Duration::from_millis(100), socket.next()).await.is_err(), "the socket stays");
}
