//! `GET /services/{id}/uptime`.

use serde_json::{Value, json};

use crate::support::{Server, Target, folder, until};

async fn server(folder: &tempfile::TempDir) -> Server {
    let server = Server::start(&folder.path().join("healthmon.db"));
    server.ready().await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn uptime_is_told_with_its_coverage_latency_and_incidents() {
    let (folder, target) = (folder(), Target::start().await);
    let server = server(&folder).await;
    let settings = json!({"name": "shop", "url": target.url, "interval": "1s",
        "policy": {"failure_threshold": 1, "success_threshold": 1}});
    let id = server.register(settings).await;
    let path = format!("/api/v1/services/{id}/uptime");
    let counted = async |outcome: &str, least: u64| {
        let told = server.get(&path).await.json;
        (told["counts"][outcome].as_u64()? >= least).then_some(told)
    };
    let up = until("two passes", async || counted("pass", 2).await).await;
    assert_eq!((&up["service"], &up["uptime"], &up["incidents"]), (&json!(id), &json!(1.0), &json!([])));
    assert_eq!((&up["incidents_complete"], &up["regions"]), (&json!(true), &Value::Null), "one region is the total");
    assert_eq!(up["coverage"], 1.0, "what is under way is no gap: {up}");
    assert_eq!(up["expected"], up["counts"]["pass"]);
    let latency = |name: &str| up["latency"][name].as_u64().unwrap();
    assert!(0 < latency("p50_us") && latency("p50_us") <= latency("p95_us") && latency("p95_us") <= latency("p99_us"));

    target.answer(503);
    let down = until("a failure", async || counted("fail", 2).await).await;
    let uptime = down["uptime"].as_f64().unwrap();
    assert!(0.0 < uptime && uptime < 1.0, "{down}");
    let [incident] = down["incidents"].as_array().unwrap().as_slice() else { panic!("{down}") };
    let log = server.get(&format!("/api/v1/services/{id}/transitions")).await.json;
    assert_eq!((&incident["seq"], &incident["from"]), (&log["entries"][0]["seq"], &log["entries"][0]["at"]));
    assert_eq!((&incident["open"], &incident["reason"]), (&json!(true), &json!("status")));

    target.answer(200);
    let over = async || {
        let told = server.get(&path).await.json;
        (told["incidents"][0]["open"] == false).then_some(told)
    };
    let told = until("the end of the incident", over).await;
    let log = server.get(&format!("/api/v1/services/{id}/transitions")).await.json;
    assert_eq!(told["incidents"][0]["to"], log["entries"][0]["at"]);
    assert!(told["incidents"][0]["duration_ms"].as_u64().unwrap() > 0);

    // Only what is within the span counts, and a deleted service has its past still.
    let before = up["to"].as_str().unwrap();
    let earlier = server.get(&format!("{path}?window=1m&to={before}")).await.json;
    assert_eq!((&earlier["to"], &earlier["incidents"]), (&up["to"], &json!([])), "{earlier}");
    assert!(earlier["expected"].as_u64() < told["expected"].as_u64(), "{earlier}");
    assert_eq!(server.send("DELETE", &format!("/api/v1/services/{id}"), None).await.status, 204);
    let deleted = server.get(&path).await;
    assert_eq!((deleted.status, deleted.json["incidents"].as_array().map(Vec::len)), (200, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_told_as_no_uptime_at_all() {
    let (folder, target) = (folder(), Target::start().await);
    let server = server(&folder).await;
    let id = server.register(json!({"name": "shop", "url": target.url, "interval": "30days"})).await;
    let told = server.get(&format!("/api/v1/services/{id}/uptime?window=1h")).await.json;
    assert_eq!(
        (&told["uptime"], &told["coverage"], &told["expected"]),
        (&Value::Null, &Value::Null, &json!(0)),
        "{told}"
    );
    assert_eq!(told["latency"], json!({"p50_us": null, "p95_us": null, "p99_us": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_span_names_the_field_that_is_wrong() {
    let (folder, target) = (folder(), Target::start().await);
    let server = server(&folder).await;
    let id = server.register(json!({"name": "shop", "url": target.url, "interval": "1h"})).await;
    let path = format!("/api/v1/services/{id}/uptime");
    for (query, field) in [
        ("window=10s", "window"),
        ("window=31days", "window"),
        ("window=soon", "window"),
        ("window=1h&from=2026-01-01T00:00:00Z", "window"),
        ("from=1999-01-01T00:00:00Z", "from"),
        ("from=3026-01-01T00:00:00Z", "from"),
        ("from=then", "from"),
        ("to=then", "to"),
        ("span=1h", "span"),
        ("window=1h&window=2h", "window"),
    ] {
        let answer = server.get(&format!("{path}?{query}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (422, "application/problem+json"), "{query}");
        assert_eq!(answer.fields(), [field], "{query}: {}", answer.json);
    }
    for path in ["/api/v1/services/1/uptime", "/api/v1/services/abc/uptime"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}
