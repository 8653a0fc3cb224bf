//! The main job: green within two seconds, DOWN after exactly the threshold, UP again.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Server, Target, folder, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_green_result_is_readable_within_two_seconds_of_the_start() {
    let target = Target::start().await;
    let mut spans: Vec<Duration> = Vec::new();
    // A machine that is busy now may not be so in a moment.
    while spans.len() < 3 && spans.iter().all(|span| *span >= Duration::from_secs(2)) {
        let folder = folder();
        let began = Instant::now();
        let server = Server::with(&folder.path().join("db"), &["watch", &target.url]);
        let outcome = until("a recorded result", async || {
            let list = server.try_request("GET", "/api/v1/services", None).await.ok()?;
            let id = list.json["services"][0]["id"].as_str()?.to_owned();
            let results = server.get(&format!("/api/v1/services/{id}/results")).await;
            results.json["results"][0]["outcome"].as_str().map(str::to_owned)
        })
        .await;
        spans.push(began.elapsed());
        assert_eq!(outcome, "pass");
    }
    assert!(spans.iter().any(|span| *span < Duration::from_secs(2)), "{spans:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_target_is_down_after_exactly_its_threshold_and_up_after_it_returns() {
    let (folder, target) = (folder(), Target::start().await);
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    let mut events = server.events("").await.unwrap();
    let id = server
        .register(json!({"name": "shop", "url": target.url, "interval": "1s", "group": "web", "tags": {"team": "a"},
            "policy": {"failure_threshold": 4, "success_threshold": 2}}))
        .await;
    let up = events.transition().await;
    assert_eq!((up["from"].as_str(), up["to"].as_str()), (Some("UNKNOWN"), Some("UP")));
    assert_eq!(up["service"], json!({"id": id, "name": "shop", "group": "web", "tags": {"team": "a"}}));

    target.answer(503);
    let down = events.transition().await;
    assert_eq!((down["from"].as_str(), down["to"].as_str()), (Some("UP"), Some("DOWN")));
    assert_eq!(
        (down["reason"].as_str(), down["detail"].as_str()),
        (Some("status"), Some("status: expected 200-299, got 503"))
    );
    target.answer(200);
    let up = events.transition().await;
    assert_eq!((up["from"].as_str(), up["to"].as_str()), (Some("DOWN"), Some("UP")));

    // From the passes before through the failures to the passes after, by the recorded history.
    let history = server.get(&format!("/api/v1/services/{id}/results?limit=1000")).await;
    let votes: Vec<_> =
        history.json["results"].as_array().unwrap().iter().rev().filter(|r| !r["applied"].is_null()).collect();
    let at = |slot: &serde_json::Value| votes.iter().position(|vote| vote["slot"] == *slot).unwrap();
    let (down_at, up_at) = (at(&down["slot"]), at(&up["slot"]));
    let failures = votes[..=down_at].iter().rev().take_while(|vote| vote["outcome"] == "fail").count();
    assert_eq!(failures, 4);
    let passes = votes[..=up_at].iter().rev().take_while(|vote| vote["outcome"] == "pass").count();
    assert_eq!(passes, 2);
    let log = server.get("/api/v1/transitions").await;
    let seqs: Vec<_> =
        log.json["entries"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_finds_its_url_among_hundreds_that_begin_alike() {
    let (folder, target) = (folder(), Target::start().await);
    let database = folder.path().join("db");
    let mut server = Server::start(&database);
    server.ready().await;
    // More than a page of them before the one that is it.
    for number in 0..520 {
        let url = format!("{}{number}", target.url);
        server.register(json!({"name": format!("{number}"), "url": url, "interval": "1h"})).await;
    }
    server.register(json!({"name": "it", "url": target.url, "interval": "1h"})).await;
    assert!(server.terminate().await.success());
    let server = Server::with(&database, &["watch", &target.url]);
    server.ready().await;
    until("it to say so", async || server.log().contains("is registered already").then_some(())).await;
    let listed = server.get(&format!("/api/v1/services?limit=1000&q={}", target.url)).await;
    assert_eq!(listed.json["services"].as_array().unwrap().len(), 521);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_what_was_recorded_is_there_after_a_restart() {
    let (folder, target) = (folder(), Target::start().await);
    let database = folder.path().join("db");
    let mut server = Server::start(&database);
    server.ready().await;
    let id = server.register(json!({"name": "shop", "url": target.url, "interval": "1s"})).await;
    let mut events = server.events("?after=0").await.unwrap();
    let seen = events.transition().await;
    let before = until("two results", async || {
        let results = server.get(&format!("/api/v1/services/{id}/results")).await.json["results"].clone();
        (results.as_array()?.len() >= 2).then_some(results)
    })
    .await;
    let status = server.terminate().await;
    assert!(status.success(), "{status:?}\n{}", server.log());
    assert!(events.next().await.is_none(), "clients are told goodbye");

    let server = Server::start(&database);
    server.ready().await;
    let service = server.get(&format!("/api/v1/services/{id}")).await;
    assert_eq!((service.json["status"].as_str(), service.json["name"].as_str()), (Some("UP"), Some("shop")));
    let after = server.get(&format!("/api/v1/services/{id}/results?limit=1000")).await.json["results"].clone();
    let kept = |result| after.as_array().unwrap().contains(result);
    assert!(before.as_array().unwrap().iter().all(kept), "{before} in {after}");
    let mut events = server.events("?after=0").await.unwrap();
    assert_eq!(events.transition().await, seen);
}
