//! Conversations with a real WebSocket server, alone and behind a real nginx.

use std::{fs, process::Command};

use healthmon_adapters::servers::PrivateProgram;
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Held, Outcome},
};
use serde_json::{Value, json};

use super::{
    peers::{echo, prober, prober_of},
    support::{Authority, LATER, PATIENCE, SHORT, Server, detail, probe_of, see, see_within, settings},
};

#[tokio::test]
async fn every_conversation_gets_the_right_outcome() {
    let server = echo().await;
    let assertion = Outcome::Fail(FailReason::Assertion);
    let rows: Vec<(&str, Value, Outcome, &str)> = vec![
        ("/", json!({}), Outcome::Pass, ""),
        ("/", json!({"ping": {}}), Outcome::Pass, ""),
        ("/", json!({"ping": {"within": "5s"}}), Outcome::Pass, ""),
        ("/", json!({"subprotocols": ["other", "chat"]}), Outcome::Pass, ""),
        ("/", json!({"send": "x"}), Outcome::Pass, ""),
        ("/", json!({"send": "x", "expect": "echo: x"}), Outcome::Pass, ""),
        ("/", json!({"send": "x", "expect": {"regex": "^echo: .$"}, "ping": {"within": "5s"}}), Outcome::Pass, ""),
        ("/greeting", json!({"expect": "welcome"}), Outcome::Pass, ""),
        ("/greeting", json!({"send": "x", "expect": {"prefix": "echo: x"}}), Outcome::Pass, ""),
        (
            "/",
            json!({"subprotocols": ["other"]}),
            Outcome::Fail(FailReason::Unimplemented),
            "the peer speaks none of the subprotocols that were offered",
        ),
        (
            "/",
            json!({"send": "canary", "expect": "pong"}),
            assertion,
            "message: expected to contain \"pong\", got 1 message without it until the deadline",
        ),
        ("/", json!({"expect": "pong"}), Outcome::Fail(FailReason::Timeout), "while waiting for the answer"),
        (
            "/",
            json!({"send": "close 1008", "expect": "pong"}),
            assertion,
            "message: expected to contain \"pong\", got nothing of it and then a close with code 1008",
        ),
        (
            "/",
            json!({"send": "close 1013", "expect": "pong"}),
            Outcome::Fail(FailReason::NotServing),
            "the peer closed the session with code 1013",
        ),
        (
            "/greeting",
            json!({"send": "close 1001", "expect": "pong"}),
            Outcome::Fail(FailReason::NotServing),
            "the peer closed the session with code 1001",
        ),
    ];
    let prober = prober();
    for (path, options, outcome, told) in rows {
        let options = json!({ "websocket": options });
        let url = format!("ws://{}{path}", server.address);
        let timeout = match outcome {
            Outcome::Fail(FailReason::Timeout) => SHORT,
            _ if told.contains("until the deadline") => LATER,
            _ => PATIENCE,
        };
        let seen = see_within(&prober, &url, timeout, &options).await;
        assert_eq!(seen.outcome, outcome, "{options}: {seen:?}");
        assert!(detail(&seen).contains(told) && !detail(&seen).contains("canary"), "{options}: {seen:?}");
    }
}

#[tokio::test]
async fn a_closer_look_tells_the_round_trip_and_every_assertion() {
    let server = echo().await;
    let options = json!({"websocket": {"ping": {"within": "5s"}, "send": "canary", "expect": "echo: "}});
    let probe = probe_of(settings(&format!("ws://{}/", server.address), PATIENCE, &options));
    let inspection = prober().inspect(&probe).await;
    assert_eq!(inspection.seen.outcome, Outcome::Pass, "{inspection:?}");
    assert!(!format!("{inspection:?}").contains("canary"), "{inspection:?}");
    assert!(inspection.facts.iter().any(|fact| &*fact.what == "pong" && fact.value.starts_with("after ")));
    let mut made: Vec<_> = inspection.assertions.iter().map(|made| (&*made.what, &*made.expected, made.held)).collect();
    made.sort_unstable_by_key(|made| made.0);
    assert_eq!(made, [("message", "to contain \"echo: \"", Held::Held), ("pong", "within 5s", Held::Held)]);
}

/// nginx, which passes `/` on to `backend`, and answers 403 elsewhere.
fn nginx(authority: &Authority, backend: u16) -> PrivateProgram {
    let identity = authority.good();
    let started = PrivateProgram::start("nginx", |folder, port| {
        fs::write(folder.join("tls.pem"), &identity.certificate)?;
        fs::write(folder.join("tls.key"), &identity.key)?;
        let path = folder.join("nginx.conf");
        let folder = folder.display();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {folder}/a;\nproxy_temp_path {folder}/b;\nfastcgi_temp_path {folder}/c;\n\
             uwsgi_temp_path {folder}/d;\nscgi_temp_path {folder}/e;\n\
             server {{\nlisten 127.0.0.1:{port} ssl http2;\nssl_certificate {folder}/tls.pem;\n\
             ssl_certificate_key {folder}/tls.key;\nlocation / {{\nproxy_pass http://127.0.0.1:{backend};\n\
             proxy_http_version 1.1;\nproxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection \"upgrade\";\n}}\n\
             location /closed {{ return 403; }}\n}}\n}}\n"
        );
        fs::write(&path, text)?;
        let mut command = Command::new("nginx");
        command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        command.args(["-e", "stderr", "-c"]).arg(path);
        Ok(command)
    });
    started.expect("nginx starts")
}

#[tokio::test]
async fn behind_nginx_with_tls() {
    let authority = Authority::new();
    let prober = prober_of(&authority);
    let backend = echo().await;
    let front = nginx(&authority, backend.address.port());
    let at = |path: &str| format!("wss://mail.test:{}{path}", front.port());
    let options = json!({"websocket": {
        "ping": {"within": "5s"}, "subprotocols": ["chat"], "send": "x", "expect": {"prefix": "echo: x"},
    }});
    let seen = see(&prober, &at("/"), &options).await;
    assert_eq!((seen.outcome, seen.code), (Outcome::Pass, Some(101)), "{seen:?}");
    assert!(seen.certificate_expires.is_some());
    let seen = see(&prober, &at("/closed"), &options).await;
    assert_eq!((seen.outcome, seen.code), (Outcome::Fail(FailReason::Status), Some(403)), "{seen:?}");
    let nobody = nginx(&authority, Server::nobody().await.port());
    let seen = see(&prober, &format!("wss://mail.test:{}/", nobody.port()), &options).await;
    assert_eq!((seen.outcome, seen.code), (Outcome::Fail(FailReason::Status), Some(502)), "{seen:?}");
}
