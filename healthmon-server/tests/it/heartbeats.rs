//! Services that report in, from their registration on.

use std::time::Instant;

use bytes::Bytes;
use healthmon_adapters::servers::PrivatePostgres;
use healthmon_server::auth::AccessRole;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::{
    credentials::TestToken,
    support::{Answer, Server, Target, folder, until},
};

/// A service that one word turns, and that no slot comes to while a test runs.
fn seldom() -> Value {
    json!({"name": "backup", "url": "heartbeat://backup", "interval": "30days",
        "policy": {"failure_threshold": 1, "success_threshold": 1}})
}

/// The same, looked at each second, and expected to report in every three seconds.
fn often() -> Value {
    json!({"name": "backup", "url": "heartbeat://backup", "interval": "1s",
        "policy": {"failure_threshold": 1, "success_threshold": 1}, "heartbeat": {"every": "3s", "grace": "0s"}})
}

/// A registered service and its token.
struct Reporter<'a> {
    server: &'a Server,
    id: String,
    token: String,
}

impl<'a> Reporter<'a> {
    async fn register(server: &'a Server, settings: Value) -> Self {
        let answer = server.send("POST", "/api/v1/services", Some(settings)).await;
        assert_eq!((answer.status, answer.header("cache-control")), (201, "no-store"), "{}", answer.json);
        let text = |field: &str| answer.json[field].as_str().unwrap().to_owned();
        let (id, token) = (text("id"), text("heartbeat_token"));
        Self { server, id, token }
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/v1/heartbeats/{}{rest}", self.token)
    }

    /// Says something by the path alone.
    async fn says(&self, rest: &str) -> u16 {
        self.server.send("POST", &self.path(rest), None).await.status
    }

    /// Sends a text along.
    async fn tells(&self, rest: &str, text: impl Into<Bytes>) -> u16 {
        let request = Request::post(self.path(rest)).header("host", self.server.address.to_string());
        self.server.raw(request.body(Full::new(text.into())).unwrap()).await.unwrap().status
    }

    async fn shown(&self) -> Answer {
        self.server.get(&format!("/api/v1/services/{}", self.id)).await
    }

    async fn results(&self) -> Vec<Value> {
        let results = self.server.get(&format!("/api/v1/services/{}/results?limit=1000", self.id)).await;
        results.json["results"].as_array().unwrap().clone()
    }

    /// Until the probe that comes with the registration is recorded: whatever comes later was asked for.
    async fn settled(self) -> Self {
        until("the first probe", async || (!self.results().await.is_empty()).then_some(())).await;
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_turns_the_service_at_once_though_its_next_slot_is_far_away() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let mut events = server.events("").await.unwrap();
    let reporter = Reporter::register(&server, seldom()).await.settled().await;
    let first = reporter.results().await[0].clone();
    assert_eq!((&first["outcome"], &first["reason"]), (&json!("indeterminate"), &json!("awaited")), "{first}");

    let begun = Instant::now();
    assert_eq!(reporter.says("").await, 204);
    assert_eq!(events.transition().await["to"], "UP");
    assert_eq!(reporter.tells("/3", "disk \u{1b}[31mfull\n").await, 204);
    let down = events.transition().await;
    assert_eq!((&down["to"], &down["reason"]), (&json!("DOWN"), &json!("reported")));
    assert_eq!(down["detail"], "exit status 3: disk \\u{1b}[31mfull");
    let failed = reporter.results().await[0].clone();
    assert_eq!((&failed["kind"], &failed["code"]), (&json!("edge"), &json!(3)), "{failed}");
    assert_eq!(reporter.says("/success").await, 204);
    assert_eq!(events.transition().await["to"], "UP");
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_down_and_a_word_ends_it() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let mut events = server.events("").await.unwrap();
    let reporter = Reporter::register(&server, often()).await;
    assert_eq!(reporter.says("").await, 204);
    assert_eq!(events.transition().await["to"], "UP");
    let down = events.transition().await;
    assert_eq!((&down["to"], &down["reason"]), (&json!("DOWN"), &json!("silence")));
    let detail = down["detail"].as_str().unwrap();
    assert!(detail.starts_with("no word from it for ") && detail.ends_with("; expected every 3s with a grace of 0s"));
    assert_eq!(reporter.says("").await, 204);
    assert_eq!(events.transition().await["to"], "UP");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_begins_and_does_not_end_is_a_timeout() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let mut events = server.events("").await.unwrap();
    let mut settings = often();
    settings["heartbeat"] = json!({"every": "1h", "max_runtime": "1s"});
    let reporter = Reporter::register(&server, settings).await;
    assert_eq!(reporter.says("/0").await, 204);
    assert_eq!(events.transition().await["to"], "UP");
    assert_eq!(reporter.says("/start").await, 204);
    let down = events.transition().await;
    assert_eq!((&down["to"], &down["reason"]), (&json!("DOWN"), &json!("timeout")));
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_token_is_shown_once_and_dies_when_another_is_asked_for() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let mut reporter = Reporter::register(&server, seldom()).await;
    assert!(reporter.token.starts_with(&format!("hb_{}_", reporter.id)));
    for path in [format!("/api/v1/services/{}", reporter.id), "/api/v1/services".to_owned()] {
        let shown = String::from_utf8(server.get(&path).await.bytes.to_vec()).unwrap();
        assert!(!shown.contains("hb_") && !shown.contains("heartbeat_token"), "{shown}");
    }
    assert_eq!(reporter.says("").await, 204);
    let renewed = server.send("POST", &format!("/api/v1/services/{}/heartbeat-token", reporter.id), None).await;
    assert_eq!((renewed.status, renewed.header("cache-control")), (200, "no-store"));
    assert_eq!(reporter.says("").await, 404, "the old one is dead");
    reporter.token = renewed.json["heartbeat_token"].as_str().unwrap().to_owned();
    assert_eq!(reporter.says("").await, 204);
    server.send("DELETE", &format!("/api/v1/services/{}", reporter.id), None).await;
    assert_eq!(reporter.says("").await, 404, "and with the service the new one");
    let again = server.send("POST", &format!("/api/v1/services/{}/heartbeat-token", reporter.id), None).await;
    assert_eq!(again.status, 404);
    let target = Target::start().await;
    let other = server.register(json!({"name": "shop", "url": target.url, "interval": "1h"})).await;
    let refused = server.send("POST", &format!("/api/v1/services/{other}/heartbeat-token"), None).await;
    assert_eq!((refused.status, refused.fields()), (422, vec!["url"]), "others do not report in");
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_every_wrong_token_is_the_same_not_found() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let reporter = Reporter::register(&server, seldom()).await;
    let random = "A".repeat(43);
    let mut slip = reporter.token.clone();
    slip.pop();
    let mut answers = Vec::new();
    for token in [
        format!("hb_{}_{random}", reporter.id),
        format!("hb_1_{random}"),
        slip,
        "hb_x_y".to_owned(),
        "%FF%FE".to_owned(),
        reporter.id.clone(),
    ] {
        for (method, rest) in [("POST", ""), ("GET", "/fail"), ("POST", "/0")] {
            let answer = server.send(method, &format!("/api/v1/heartbeats/{token}{rest}"), None).await;
            assert_eq!(answer.status, 404, "{method} {token}{rest}");
            answers.push(answer.bytes);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(reporter.shown().await.json["status"], "UNKNOWN", "and nothing was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_that_is_sent_again_changes_nothing() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let mut events = server.events("").await.unwrap();
    let reporter = Reporter::register(&server, seldom()).await.settled().await;
    assert_eq!(reporter.says("/fail?run=a").await, 204);
    assert_eq!(events.transition().await["to"], "DOWN");
    assert_eq!(reporter.says("/success?run=b").await, 204);
    assert_eq!(events.transition().await["to"], "UP");
    let before = reporter.results().await.len();
    for _ in 0..3 {
        assert_eq!(reporter.says("/fail?run=a").await, 204, "whoever sends it again hears that it is there");
    }
    // The next change comes by a sign that is none: nothing came between.
    assert_eq!(reporter.says("/fail?run=c").await, 204);
    assert_eq!(events.transition().await["to"], "DOWN");
    assert_eq!(reporter.results().await.len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_said_in_several_ways() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let reporter = Reporter::register(&server, seldom()).await;
    for method in ["GET", "HEAD", "POST"] {
        for rest in ["", "/start", "/success", "/fail", "/0", "/17"] {
            assert_eq!(server.send(method, &reporter.path(rest), None).await.status, 204, "{method} {rest}");
        }
    }
    // Another token, as this one is used up for now.
    let reporter = Reporter::register(&server, seldom()).await;
    let body = json!({"status": "failure", "exit_status": 4, "message": "m", "run": "r"});
    assert_eq!(server.send("POST", &reporter.path(""), Some(body)).await.status, 204);
    assert_eq!(reporter.tells("/fail", vec![b'x'; 200 * 1024]).await, 204, "too long a text loses no sign");
    for (rest, body, field) in [
        ("", json!({"status": "fine"}), "status"),
        ("/start", json!({"status": "start"}), "status"),
        ("", json!({"exit_status": 1, "status": "success"}), "exit_status"),
        ("", json!({"run": "a b"}), "run"),
        ("", json!({"colour": 1}), "colour"),
        ("/never", json!({}), "path"),
        ("?colour=1", json!({}), "colour"),
    ] {
        let refused = server.send("POST", &reporter.path(rest), Some(body)).await;
        assert_eq!((refused.status, refused.fields()), (422, vec![field]), "{rest}");
    }
    let put = server.send("PUT", &reporter.path(""), None).await;
    assert_eq!((put.status, put.header("allow")), (405, "GET, POST"));
}

/// Sends `count` signs over one connection; the statuses.
async fn flood(reporter: &Reporter<'_>, count: usize) -> Vec<u16> {
    let stream = tokio::net::TcpStream::connect(reporter.server.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut statuses = Vec::new();
    for _ in 0..count {
        let request = Request::post(reporter.path("/fail")).header("host", reporter.server.address.to_string());
        sender.ready().await.unwrap();
        let answer = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        statuses.push(answer.status().as_u16());
        if answer.status() == 429 {
            assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        }
        answer.into_body().collect().await.unwrap();
    }
    connection.abort();
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_flood_is_turned_away_and_leaves_nothing_behind() {
    let folder = folder();
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let reporter = Reporter::register(&server, seldom()).await;
    let other = Reporter::register(&server, seldom()).await;
    flood(&reporter, 500).await;
    let before = server.rss_kb();
    let statuses = flood(&reporter, 5_000).await;
    let count = |status: u16| statuses.iter().filter(|it| **it == status).count();
    assert_eq!(count(204) + count(429), statuses.len(), "{statuses:?}");
    assert!(count(429) > 4_000, "{} of 5,000", count(429));
    assert_eq!(other.says("").await, 204, "others have their own allowance");
    let grown = server.rss_kb().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} kB");
    let probes = reporter.results().await.len();
    assert!(probes < 100, "{probes} probes: one a second at most, whatever is said");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_there_after_a_kill() {
    let folder = folder();
    let database = folder.path().join("db");
    let mut server = Server::start(&database);
    server.ready().await;
    let reporter = Reporter::register(&server, seldom()).await;
    // Killed at once: what was answered is durable.
    assert_eq!(reporter.tells("/9?run=a", "no space").await, 204);
    let (id, token) = (reporter.id, reporter.token);
    server.kill();
    let server = Server::start(&database);
    server.ready().await;
    let reporter = Reporter { server: &server, id, token };
    let probed = server.send("POST", &format!("/api/v1/services/{}/probe", reporter.id), None).await;
    assert_eq!(probed.json["detail"], "exit status 9: no space", "{}", probed.json);
    assert_eq!(reporter.says("/success?run=b").await, 204, "and the token is good still");
    let probed = server.send("POST", &format!("/api/v1/services/{}/probe", reporter.id), None).await;
    assert_eq!(probed.json["outcome"], "pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_token_needs_no_login_and_is_nowhere_told() {
    let folder = folder();
    let admin = TestToken::new("admin", AccessRole::Admin);
    let environment = [("HEALTHMON_TOKENS", admin.entry.to_string())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut server = Server::at([127, 0, 0, 1], &folder.path().join("db"), &["serve", "--log", "trace"], &environment);
    server.ready().await;
    let created = server.send_as(&admin.bearer(), "POST", "/api/v1/services", &seldom()).await;
    let token = created.json["heartbeat_token"].as_str().unwrap().to_owned();
    // It may have that character itself.
    let secret = token.splitn(3, '_').nth(2).unwrap().to_owned();
    let path = format!("/api/v1/heartbeats/{token}");
    assert_eq!(server.send("POST", &path, None).await.status, 204);
    let mut answers = Vec::new();
    for (method, path) in [
        ("POST", format!("{path}/never")),
        ("POST", format!("{path}/1/2")),
        ("PUT", path.clone()),
        ("DELETE", format!("{path}/fail")),
        ("POST", format!("/{path}")),
        ("POST", format!("/api/v1/heartbeat/{token}")),
        ("POST", path.replace("hb_", "hb%5F")),
        ("POST", format!("{path}x")),
        ("POST", format!("{path}?colour=1")),
    ] {
        answers.push(server.as_(&admin.bearer(), method, &path).await);
    }
    for path in ["/api/v1/services", "/api/v1/transitions", "/metrics", "/api/v1/cluster"] {
        answers.push(server.as_(&admin.bearer(), "GET", path).await);
    }
    for answer in &answers {
        assert!(!String::from_utf8_lossy(&answer.bytes).contains(&secret), "{}", answer.json);
    }
    server.terminate().await;
    let log = server.log();
    let told = log.lines().find(|line| line.contains(&secret));
    assert_eq!(told, None);
    assert!(log.contains("/api/v1/heartbeats/(hidden)"), "the audit log tells of what was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_to_one_node_is_heard_by_the_other() {
    let (folder, postgres) = (folder(), PrivatePostgres::start().unwrap());
    let url = postgres.url("postgres");
    let node = |name: &str, role: &str| {
        let words = ["serve", "--database", &url, "--node", name, "--role", role];
        Server::node(&folder.path().join(name), &words)
    };
    let (api, workers) = (node("api", "api"), node("workers", "scheduler,worker,recorder"));
    api.ready().await;
    workers.ready().await;
    let mut events = api.events("").await.unwrap();
    let reporter = Reporter::register(&api, seldom()).await;
    assert_eq!(reporter.says("").await, 204);
    assert_eq!(events.transition().await["to"], "UP");
    assert_eq!(reporter.tells("/1", "why").await, 204);
    let down = events.transition().await;
    assert_eq!((&down["to"], &down["detail"]), (&json!("DOWN"), &json!("exit status 1: why")));
    postgres.stop(healthmon_adapters::servers::StopMode::Immediate).unwrap();
    let away = api.send("POST", &reporter.path(""), None).await;
    assert_eq!(away.status, 503, "what is not durable is not taken");
    assert!(!away.header("retry-after").is_empty());
    postgres.resume().unwrap();
    until("signs to be taken again", async || (reporter.says("").await == 204).then_some(())).await;
    assert_eq!(events.transition().await["to"], "UP");
}
