//! Two nodes and one PostgreSQL: a whole deployment that outlives either node.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use healthmon_adapters::servers::PrivatePostgres;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    proxies::proxy::{Mode, Proxy},
    support::{Server, Target, folder, until},
};

fn node(folder: &Path, postgres: &PrivatePostgres, name: &str, more: &[&str]) -> Server {
    let url = postgres.url("postgres");
    Server::node(&folder.join(name), &[&["serve", "--database", &url, "--node", name], more].concat())
}

async fn execute(postgres: &PrivatePostgres, sql: &str) {
    let mut database = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut database).await.unwrap();
}

fn touchy(target: &Target) -> Value {
    json!({"name": "shop", "url": target.url, "interval": "1s",
        "policy": {"failure_threshold": 1, "success_threshold": 1}})
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_on_one_postgresql_outlive_either_node() {
    let (folder, target, postgres) = (folder(), Target::start().await, PrivatePostgres::start().unwrap());
    let mut one = node(folder.path(), &postgres, "one", &[]);
    let two = node(folder.path(), &postgres, "two", &[]);
    one.ready().await;
    two.ready().await;
    let id = one.register(touchy(&target)).await;
    let path = format!("/api/v1/services/{id}");
    let mut events = two.events("?after=0").await.unwrap();
    assert_eq!(events.transition().await["to"], "UP", "registered by one, told by the other");
    let cluster = two.get("/api/v1/cluster").await.json;
    let names: Vec<&str> = cluster["nodes"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    let shared = || async {
        let cluster = two.get("/api/v1/cluster").await.json;
        let shards = cluster["shards"].as_array().unwrap().clone();
        let of = |name: &str| {
            shards.iter().filter(|shard| shard["owner"].as_str().is_some_and(|o| o.starts_with(name))).count()
        };
        (of("one/") == 32 && of("two/") == 32).then_some(())
    };
    until("each to have its share of the shards", async || shared().await).await;
    one.kill();
    target.answer(503);
    let down = events.transition().await;
    assert_eq!((&down["to"], &down["reason"]), (&json!("DOWN"), &json!("status")), "the other goes on");
    assert_eq!(two.get(&path).await.json["status"], "DOWN");
    let metrics = String::from_utf8(two.get("/metrics").await.bytes.to_vec()).unwrap();
    for name in [
        "healthmon_queue_age_seconds",
        "healthmon_emission_lateness_seconds_bucket",
        "healthmon_record_lag_seconds_count",
        "healthmon_slots_missed_total",
        "healthmon_probes_expired_total",
        "healthmon_lease_changes_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing of\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_of_each_of_its_roles_whether_it_is_ready() {
    let (folder, postgres) = (folder(), PrivatePostgres::start().unwrap());
    let roles = ["scheduler", "worker", "recorder", "api"];
    let nodes: Vec<Server> = roles.iter().map(|role| node(folder.path(), &postgres, role, &["--role", role])).collect();
    for (role, node) in roles.iter().zip(&nodes) {
        node.ready().await;
        let checks = node.get("/readyz").await.json["checks"].clone();
        assert_eq!(checks["queue"], "ok");
        assert_eq!(checks.get("scheduler").is_some(), *role == "scheduler", "{role}: {checks}");
        assert_eq!(checks.get("recorder").is_some(), *role == "recorder", "{role}: {checks}");
        let listed = node.get("/api/v1/services").await.status;
        assert_eq!(listed, if *role == "api" { 200 } else { 404 }, "only a node of that role has an API");
        assert_eq!(node.get("/livez").await.status, 200);
    }
    postgres.stop(healthmon_adapters::servers::StopMode::Immediate).unwrap();
    for node in &nodes {
        until("it to say that it cannot work", async || (node.get("/readyz").await.status == 503).then_some(())).await;
        assert_eq!(node.get("/livez").await.status, 200, "but it lives");
    }
    postgres.resume().unwrap();
    for node in &nodes {
        node.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_when_the_log_is_another_one() {
    let (folder, target, postgres) = (folder(), Target::start().await, PrivatePostgres::start().unwrap());
    let server = node(folder.path(), &postgres, "one", &[]);
    server.ready().await;
    server.register(touchy(&target)).await;
    let mut events = server.events("?after=0").await.unwrap();
    events.transition().await;
    // As a failover that lost something makes it.
    execute(&postgres, "UPDATE head SET log_id = 'another'").await;
    let reset = events.next().await.unwrap();
    assert_eq!((&reset["type"], &reset["log"]), (&json!("reset"), &json!("another")), "{reset}");
    assert_eq!(events.next().await.unwrap()["type"], "snapshot");
    target.answer(503);
    assert_eq!(events.transition().await["to"], "DOWN", "and then as ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_within_seconds_though_its_database_does_not_answer() {
    let (folder, postgres) = (folder(), PrivatePostgres::start().unwrap());
    let proxy = Proxy::to(postgres.port()).await;
    let url = postgres.url("postgres").replace(&postgres.port().to_string(), &proxy.address.port().to_string());
    let words = ["serve", "--database", &url, "--node", "one", "--role", "api"];
    let mut node = Server::node(&folder.path().join("one"), &words);
    node.ready().await;
    proxy.set(Mode::Stall);
    let begun = Instant::now();
    let status = node.terminate().await;
    assert!(status.success(), "{status:?}\n{}", node.log());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn recording_goes_on_however_many_viewers_wait_for_the_database() {
    let (folder, target, postgres) = (folder(), Target::start().await, PrivatePostgres::start().unwrap());
    let node = node(folder.path(), &postgres, "one", &["--linger", "50ms"]);
    node.ready().await;
    // Nothing changes, however long a probe takes: a change could not be written.
    let mut settings = touchy(&target);
    settings["policy"]["failure_threshold"] = json!(10);
    node.register(settings).await;
    assert_eq!(node.events("?after=0").await.unwrap().transition().await["to"], "UP");
    let mut database = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    // Nobody can read the log, and nobody writes to it as long as nothing changes.
    sqlx::raw_sql("BEGIN; LOCK TABLE log IN ACCESS EXCLUSIVE MODE").execute(&mut database).await.unwrap();
    let viewers = (0..40).map(|_| node.try_request("GET", "/api/v1/transitions", None));
    let viewers = futures_util::future::join_all(viewers);
    let goes_on = async {
        let begun = Instant::now();
        let mut before = None;
        until("three more results", async || {
            let recorded: i64 =
                sqlx::query_scalar("SELECT count(*) FROM results").fetch_one(&mut database).await.unwrap();
            (recorded >= *before.get_or_insert(recorded) + 3).then_some(())
        })
        .await;
        // Before the first viewer's statement is cancelled, after 15 s.
        assert!(begun.elapsed() < Duration::from_secs(14), "{:?}", begun.elapsed());
        assert_eq!(node.get("/readyz?role=worker").await.status, 200);
    };
    tokio::select! {
        answers = viewers => panic!("they were to wait: {:?}", answers[0]),
        () = goes_on => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_workers_of_a_shared_database_do_not_probe_their_own_machine_unasked() {
    let (folder, target, postgres) = (folder(), Target::start().await, PrivatePostgres::start().unwrap());
    let url = postgres.url("postgres");
    let words = ["serve", "--database", &url, "--node", "one"];
    let server = Server::cautious_node(&folder.path().join("one"), &words);
    server.ready().await;
    let id = server.register(touchy(&target)).await;
    let probed = server.send("POST", &format!("/api/v1/services/{id}/probe"), None).await;
    assert_eq!((probed.json["reason"].as_str(), target.served()), (Some("blocked"), 0), "{}", probed.json);
    assert!(probed.json["detail"].as_str().is_some_and(|detail| detail.ends_with(": loopback")), "{}", probed.json);
    let path = format!("/api/v1/services/{id}/results?reason=blocked");
    assert!(!server.get(&path).await.json["results"].as_array().unwrap().is_empty());
    assert_eq!(
        server.get(&format!("/api/v1/services/{id}/results?reason=dns")).await.json["results"],
        serde_json::json!([])
    );
    let wrong = server.get(&format!("/api/v1/services/{id}/results?reason=bad")).await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["reason"]), "{}", wrong.json);
}
