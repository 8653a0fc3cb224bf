//! Every route × everyone: the routes come from the router's own table, so a new one is in here.

use std::sync::atomic::{AtomicU32, Ordering};

use healthmon_server::{
    Need, Route,
    auth::{AccessRole, MetricsAccess},
    routes,
};
use serde_json::json;

use crate::{
    credentials::{HANDSHAKE, TestToken, basic, request, user},
    support::{Answer, Server, Target, folder},
};

/// Someone, what they bring, and what they may do.
struct Someone {
    what: String,
    credentials: Option<String>,
    role: Option<AccessRole>,
}

/// A server with a token and a user of each role, and those who come to it.
fn server(folder: &tempfile::TempDir, metrics: &str) -> (Server, Vec<Someone>) {
    let nobody = |what: &str, credentials: Option<String>| Someone { what: what.to_owned(), credentials, role: None };
    let stranger = TestToken::new("stranger", AccessRole::Admin);
    let mut everyone = vec![
        nobody("nobody", None),
        nobody("a stranger's token", Some(stranger.bearer())),
        nobody("a wrong password", Some(basic("admin", "not the password"))),
    ];
    let (mut tokens, mut users) = (Vec::new(), Vec::new());
    for role in AccessRole::ALL {
        let token = TestToken::new(&format!("{role}-token"), role);
        let password = format!("{role}'s password");
        users.push(user(role.as_str(), role, &password).to_string());
        let bearer = (format!("{role} by token"), token.bearer());
        for (what, credentials) in [bearer, (format!("{role} by password"), basic(role.as_str(), &password))] {
            everyone.push(Someone { what, credentials: Some(credentials), role: Some(role) });
        }
        tokens.push(token.entry.to_string());
    }
    let environment = [("HEALTHMON_TOKENS", tokens.join(",")), ("HEALTHMON_USERS", users.join("\n"))];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let words = ["serve", "--metrics-access", metrics];
    (Server::at([127, 0, 0, 1], &folder.path().join(metrics), &words, &environment), everyone)
}

async fn knock(server: &Server, someone: &Someone, method: &str, path: &str) -> Answer {
    let mut headers: Vec<(&str, &str)> = someone.credentials.iter().map(|it| ("authorization", it.as_str())).collect();
    if path.ends_with("/events") {
        headers.extend(HANDSHAKE);
    }
    server.raw(request(server, method, path, &headers)).await.unwrap()
}

/// A heartbeat's token that is well-formed and nobody's, another each time: each may be used so often.
fn nobodys() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("hb_1_{:A>43}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn needed(route: &Route, metrics: MetricsAccess) -> Option<AccessRole> {
    match (route.need, metrics) {
        (Need::Role(role), _) => Some(role),
        (Need::Metrics, MetricsAccess::Viewer) => Some(AccessRole::Viewer),
        (Need::Metrics, MetricsAccess::Open) | (Need::Open | Need::Token, _) => None,
        (need, _) => panic!("what is {need:?}?"),
    }
}

async fn everyone_everywhere(metrics: MetricsAccess, flag: &str) {
    let folder = folder();
    let (server, everyone) = server(&folder, flag);
    server.ready().await;
    for route in routes() {
        let needed = needed(&route, metrics);
        let path = route.path.replace("{id}", "1").replace("{report}", "fail");
        let mut methods = vec![route.method.as_str()];
        methods.extend((route.method == "GET" && !path.ends_with("/events")).then_some("HEAD"));
        for (method, someone) in methods.iter().flat_map(|method| everyone.iter().map(move |it| (*method, it))) {
            let path = path.replace("{token}", &nobodys());
            let answer = knock(&server, someone, method, &path).await;
            let who = &someone.what;
            match (needed, someone.role) {
                (Some(_), None) => {
                    assert_eq!(answer.status, 401, "{who}: {method} {path}");
                    assert_eq!(answer.header("www-authenticate"), "Basic realm=\"healthmon\", Bearer");
                }
                (Some(needed), Some(role)) if role < needed => {
                    assert_eq!(answer.status, 403, "{who}: {method} {path}");
                    assert_eq!(answer.header("content-type"), "application/problem+json");
                    let detail = answer.json["detail"].as_str().unwrap();
                    assert!(detail.contains(&format!("the role {needed}")), "{detail}");
                }
                // The service is not there, or the body is not: that was found out by the route.
                _ => {
                    if route.need == Need::Token {
                        assert_eq!(answer.status, 404, "{who}: {method} {path}: the token is the right, no role is");
                    }
                    let ran = [200, 101, 404, 415].contains(&answer.status);
                    assert!(ran, "{who}: {method} {path}: {}", answer.status);
                    let upgraded = path.ends_with("/events");
                    assert_eq!(answer.status == 101, upgraded, "{who}: {method} {path}: {}", answer.status);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_every_route_takes_the_role_it_was_declared_with() {
    everyone_everywhere(MetricsAccess::Viewer, "viewer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_open_metrics_open_nothing_else() {
    everyone_everywhere(MetricsAccess::Open, "open").await;
}

#[test]
fn sec_only_liveness_and_readiness_are_open_and_no_change_is_a_viewers() {
    let declared = routes();
    assert!(declared.len() >= 14, "the table is the router's");
    for route in declared {
        let Route { method, path, need, .. } = &route;
        match need {
            Need::Open => assert!(*method == "GET" && ["/livez", "/readyz"].contains(path), "{route:?}"),
            Need::Token => assert!(path.starts_with("/api/v1/heartbeats/{token}"), "{route:?}"),
            Need::Metrics => assert_eq!((method.as_str(), *path), ("GET", "/metrics")),
            Need::Role(role) => assert!(*method == "GET" || *role >= AccessRole::Editor, "{route:?}"),
            need => panic!("what is {need:?}?"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_what_is_no_route_is_told_to_viewers_only() {
    let folder = folder();
    let (server, everyone) = server(&folder, "viewer");
    server.ready().await;
    for someone in &everyone {
        let expected = |known: u16| if someone.role.is_some() { known } else { 401 };
        for (method, path, status) in [
            ("GET", "/", 404),
            ("GET", "/api/v1/nothing", 404),
            ("POST", "/api/v1/services/1/nothing", 404),
            ("GET", "//api/v1/services", 404),
            ("GET", "/api/v1/services/", 404),
            ("GET", "/API/v1/services", 404),
            ("GET", "/livez/../api/v1/services", 404),
            ("GET", "/api/v1%2Fservices", 404),
            ("PUT", "/api/v1/services", 405),
            ("OPTIONS", "/api/v1/services", 405),
            ("TRACE", "/api/v1/services", 405),
            ("POST", "/livez", 405),
        ] {
            let answer = knock(&server, someone, method, path).await;
            assert_eq!(answer.status, expected(status), "{}: {method} {path}", someone.what);
            if answer.status == 405 && path == "/api/v1/services" {
                assert_eq!(answer.header("allow"), "GET, POST");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_a_viewer_changes_nothing_and_an_editor_does() {
    let (folder, target) = (folder(), Target::start().await);
    let (server, everyone) = server(&folder, "viewer");
    server.ready().await;
    let settings = json!({"name": "a", "url": target.url, "interval": "1h"});
    for someone in &everyone {
        let credentials = someone.credentials.as_deref().unwrap_or("");
        let may = someone.role >= Some(AccessRole::Editor);
        let created = server.send_as(credentials, "POST", "/api/v1/services", &settings).await;
        assert_eq!(created.status == 201, may, "{}: {}", someone.what, created.status);
        if may {
            let path = created.header("location").to_owned();
            for viewer in everyone.iter().filter(|it| it.role < Some(AccessRole::Editor)) {
                let credentials = viewer.credentials.as_deref().unwrap_or("");
                let patch = json!({"interval": "2h"});
                assert!([401, 403].contains(&server.send_as(credentials, "PATCH", &path, &patch).await.status));
                for action in ["pause", "resume", "probe"] {
                    let status = knock(&server, viewer, "POST", &format!("{path}/{action}")).await.status;
                    assert!([401, 403].contains(&status), "{}: {action}: {status}", viewer.what);
                }
                assert!([401, 403].contains(&knock(&server, viewer, "DELETE", &path).await.status));
            }
            let shown = server.as_(credentials, "GET", &path).await;
            assert_eq!((shown.json["interval"].as_str(), &shown.json["overlays"]), (Some("1h"), &json!([])));
            assert_eq!(knock(&server, someone, "DELETE", &path).await.status, 204);
        }
    }
    // Nobody came through with less, so only scheduled first probes were made: one for each editor and admin.
    let log = server.log();
    let changes = log.lines().filter(|line| line.contains("change") && line.contains("status=201")).count();
    assert_eq!(changes, 4, "{log}");
    assert!(log.contains("principal=\"editor-token\"") || log.contains("principal=editor-token"), "{log}");
}
