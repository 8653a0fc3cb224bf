//! A node on PostgreSQL and Redis, and Redis goes away.

use std::time::{Duration, Instant};

use healthmon_adapters::servers::{PrivatePostgres, PrivateRedis};
use serde_json::json;

use crate::support::{Server, Target, folder, until};

/// Anything that is asked of a node must be answered within this, Redis or not.
const QUICK: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_away_readyz_says_so_nothing_hangs_and_all_heals_without_a_restart() {
    let (folder, target) = (folder(), Target::start().await);
    let (postgres, redis) = (PrivatePostgres::start().unwrap(), PrivateRedis::start().unwrap());
    let (database, queue) = (postgres.url("postgres"), redis.url(0));
    let words = ["serve", "--database", &database, "--queue", &queue, "--node", "one"];
    let server = Server::node(&folder.path().join("one"), &words);
    server.ready().await;
    let id = server.register(json!({"name": "shop", "url": target.url, "interval": "1s", "timeout": "500ms"})).await;
    let mut events = server.events("?after=0").await.unwrap();
    assert_eq!(events.transition().await["to"], "UP");

    redis.kill().unwrap();
    let begun = Instant::now();
    let quickly = async |method: &str, path: &str| {
        let asked = Instant::now();
        let answer = server.send(method, path, None).await;
        assert!(asked.elapsed() < QUICK, "{method} {path} took {:?}", asked.elapsed());
        answer
    };
    let told = until("it to say so", async || {
        let answer = quickly("GET", "/readyz").await;
        (answer.status == 503).then_some(answer)
    });
    let told = told.await.json;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!((&told["checks"]["store"], &told["checks"]["queue"] == "ok"), (&json!("ok"), false), "{told}");
    for path in [
        "/readyz?role=api",
        "/livez",
        "/metrics",
        "/api/v1/services",
        &format!("/api/v1/services/{id}"),
        &format!("/api/v1/services/{id}/results"),
        &format!("/api/v1/services/{id}/uptime?window=1h"),
        "/api/v1/transitions",
    ] {
        assert_eq!(quickly("GET", path).await.status, 200, "{path}");
    }
    for role in ["worker", "recorder", "scheduler", "api,worker"] {
        assert_eq!(quickly("GET", &format!("/readyz?role={role}")).await.status, 503, "{role}");
    }
    let cluster = quickly("GET", "/api/v1/cluster").await;
    assert_eq!((cluster.status, &cluster.json["queue"]), (200, &json!(null)), "{}", cluster.json);
    assert_eq!(cluster.json["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(server.events("?after=0").await.unwrap().transition().await["to"], "UP");
    // What needs the queue says that it is away.
    assert_eq!(quickly("POST", &format!("/api/v1/services/{id}/probe")).await.status, 503);
    assert_eq!(quickly("POST", &format!("/api/v1/services/{id}/pause")).await.status, 200);
    assert_eq!(quickly("POST", &format!("/api/v1/services/{id}/resume")).await.status, 200);

    redis.resume().unwrap();
    server.ready().await;
    target.answer(503);
    assert_eq!(events.transition().await["to"], "DOWN", "probing goes on, and its results are recorded and told");
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_names_the_roles_that_there_are_and_those_that_a_process_does_not_play() {
    let folder = folder();
    let postgres = PrivatePostgres::start().unwrap();
    let database = postgres.url("postgres");
    let words = ["serve", "--database", &database, "--role", "scheduler", "--node", "one"];
    let server = Server::node(&folder.path().join("one"), &words);
    server.ready().await;
    assert_eq!(server.get("/readyz?role=scheduler").await.status, 200);
    let other = server.get("/readyz?role=api").await;
    assert_eq!((other.status, &other.json["checks"]["api"]), (503, &json!("this process does not play this role")));
    assert_eq!(server.get("/readyz?role=poet").await.fields(), ["role"]);
    assert_eq!(server.get("/readyz?part=api").await.fields(), ["part"]);
}
