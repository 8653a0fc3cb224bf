//! The REST API, route by route.

use serde_json::{Value, json};

use crate::support::{Server, Target, folder, until};

async fn server(folder: &tempfile::TempDir) -> Server {
    let server = Server::start(&folder.path().join("db"));
    server.ready().await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_registered_read_changed_paused_resumed_probed_and_deleted() {
    let (folder, target) = (folder(), Target::start().await);
    let server = server(&folder).await;
    let body = json!({"name": "shop", "url": target.url, "interval": 30, "group": "web", "tags": {"team": "a"}});
    let created = server.send("POST", "/api/v1/services", Some(body)).await;
    assert_eq!(created.status, 201);
    let path = created.header("location").to_owned();
    assert_eq!(path, format!("/api/v1/services/{}", created.json["id"].as_str().unwrap()));
    assert_eq!((created.json["interval"].as_str(), created.json["timeout"].as_str()), (Some("30s"), Some("10s")));

    let read = server.get(&path).await;
    let tag = read.header("etag").to_owned();
    assert_eq!((read.status, read.json["status"].is_string()), (200, true));

    let wrong = server.send("PATCH", &path, Some(json!({"policy": {"window": 2}}))).await;
    assert_eq!((wrong.status, wrong.fields()), (422, vec!["policy.window"]), "{}", wrong.json);
    let patch = json!({"interval": "1h", "tags": {"team": null, "tier": "1"}, "policy": {"failure_threshold": 5}});
    let patched = server.send("PATCH", &path, Some(patch)).await;
    assert_eq!(patched.status, 200, "{}", patched.json);
    assert_eq!((patched.json["interval"].as_str(), &patched.json["tags"]), (Some("1h"), &json!({"tier": "1"})));
    assert_eq!(patched.json["policy"]["window"], 5);
    assert_ne!(patched.header("etag"), tag);

    let request = |tag: &str| {
        let request = hyper::Request::builder().method("PATCH").uri(&path).header("host", server.address.to_string());
        let request = request.header("content-type", "application/merge-patch+json").header("if-match", tag);
        request.body(http_body_util::Full::from(json!({"name": "store"}).to_string())).unwrap()
    };
    assert_eq!(server.raw(request(&tag)).await.unwrap().status, 412);
    assert_eq!(server.get(&path).await.json["name"], "shop");
    assert_eq!(server.raw(request(patched.header("etag"))).await.unwrap().json["name"], "store");

    let paused = server.send("POST", &format!("{path}/pause"), None).await;
    assert_eq!((paused.json["activity"].as_str(), &paused.json["overlays"]), (Some("paused"), &json!(["paused"])));
    let revision = paused.json["revision"].clone();
    let again = server.send("POST", &format!("{path}/pause"), None).await;
    assert_eq!((again.status, &again.json["revision"]), (200, &revision), "pausing twice is pausing once");
    let served = target.served();
    let probed = server.send("POST", &format!("{path}/probe"), None).await;
    assert_eq!((probed.status, probed.json["outcome"].as_str()), (200, Some("pass")), "{}", probed.json);
    assert_eq!((probed.json["kind"].as_str(), &probed.json["applied"]), (Some("manual"), &Value::Null));
    // One that was under way when it was paused may have come too.
    assert!(target.served() > served, "a person may probe a paused service");
    let served = target.served();
    let resumed = server.send("POST", &format!("{path}/resume"), None).await;
    assert_eq!(resumed.json["activity"], "active");
    until("the probe of a resumed service", async || (target.served() > served).then_some(())).await;

    assert_eq!(server.send("DELETE", &path, None).await.status, 204);
    assert_eq!(server.get(&path).await.status, 404);
    assert_eq!(server.send("DELETE", &path, None).await.status, 404);
    assert_eq!(server.get(&format!("{path}/results")).await.status, 200, "its history stays");
    let log = server.get(&format!("{path}/transitions")).await;
    assert_eq!(log.json["entries"][0]["cause"], "deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_name_every_wrong_field_and_change_nothing() {
    let folder = folder();
    let server = server(&folder).await;
    let url = "http://127.0.0.1:1/";
    let cases: [(Value, &[&str]); 14] = [
        (json!({}), &["name", "url", "interval"]),
        (json!({"name": "", "url": "nowhere", "interval": "never"}), &["name", "url", "interval"]),
        (json!({"name": "a", "url": url, "interval": "500ms"}), &["interval"]),
        (json!({"name": "a", "url": url, "interval": "31days"}), &["interval"]),
        (json!({"name": "a", "url": url, "interval": "10s", "timeout": "11s"}), &["timeout"]),
        (json!({"name": "a", "url": url, "interval": "1h", "timeout": "6m"}), &["timeout"]),
        (json!({"name": "a", "url": "ftp://127.0.0.1/", "interval": "10s"}), &["url"]),
        (json!({"name": "a", "url": "file:///etc/passwd", "interval": "10s"}), &["url"]),
        (json!({"name": "a", "url": "http://u:p@127.0.0.1/", "interval": "10s"}), &["url"]),
        (
            json!({"name": "a", "url": url, "interval": "10s", "policy": {"window": 65, "nonsense": 1}}),
            &["policy.window", "policy.nonsense"],
        ),
        (json!({"name": "a", "url": url, "interval": "10s", "policy": {"quorum": 2}}), &["policy.quorum"]),
        (json!({"name": "a", "url": url, "interval": "10s", "regions": ["mars"]}), &["regions"]),
        (json!({"name": "a", "url": url, "interval": "10s", "colour": "red"}), &["colour"]),
        (json!({"name": "a", "url": url, "interval": "10s", "http": {"method": "BREW"}}), &["http.method"]),
    ];
    for (body, fields) in cases {
        let answer = server.send("POST", "/api/v1/services", Some(body.clone())).await;
        assert_eq!((answer.status, answer.header("content-type")), (422, "application/problem+json"), "{body}");
        assert_eq!(answer.fields(), fields, "{body}: {}", answer.json);
    }
    for (body, status) in [("{", 400), ("[]", 400), ("", 400)] {
        let request = hyper::Request::post("/api/v1/services").header("host", server.address.to_string());
        let request = request.header("content-type", "application/json").body(http_body_util::Full::from(body));
        assert_eq!(server.raw(request.unwrap()).await.unwrap().status, status, "{body:?}");
    }
    let long = json!({"name": "x".repeat(300_000)});
    assert_eq!(server.send("POST", "/api/v1/services", Some(long)).await.status, 413);
    assert_eq!(server.get("/api/v1/services").await.json, json!({"services": [], "next": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged_by_cursor() {
    let (folder, target) = (folder(), Target::start().await);
    let server = server(&folder).await;
    for n in 0..25 {
        let group = if n % 2 == 0 { "even" } else { "odd" };
        server
            .register(json!({"name": format!("Service {n}"), "url": target.url, "interval": "1h",
                "group": group, "tags": {"n": n.to_string()}}))
            .await;
    }
    let (mut path, mut names, mut pages) = ("/api/v1/services?limit=10".to_owned(), Vec::new(), 0);
    loop {
        let page = server.get(&path).await;
        let services = page.json["services"].as_array().unwrap();
        names.extend(services.iter().map(|service| service["name"].as_str().unwrap().to_owned()));
        pages += 1;
        match page.json["next"].as_str() {
            Some(next) => {
                path = format!("/api/v1/services?limit=10&cursor={next}");
                assert_eq!(page.header("link"), format!("<{path}>; rel=\"next\""));
            }
            None => break,
        }
    }
    assert_eq!((pages, names.len()), (3, 25));
    let count = async |query: &str| {
        server.get(&format!("/api/v1/services?{query}")).await.json["services"].as_array().unwrap().len()
    };
    assert_eq!(count("group=even").await, 13);
    assert_eq!(count("tag=n:7").await, 1);
    assert_eq!(count("tag=n&group=odd").await, 12);
    assert_eq!(count("q=SERVICE+2").await, 6);
    assert_eq!(count("status=DOWN").await, 0);
    until("the first probes", async || (count("status=up").await == 25).then_some(())).await;
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("status=sad", "status"),
        ("cursor=!", "cursor"),
        ("x=1", "x"),
    ] {
        let answer = server.get(&format!("/api/v1/services?{query}")).await;
        assert_eq!((answer.status, answer.fields()), (422, vec![field]), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_paged_newest_first_without_gap_or_repeat_while_it_grows() {
    let (folder, target) = (folder(), Target::start().await);
    let server = server(&folder).await;
    let id = server.register(json!({"name": "shop", "url": target.url, "interval": "1s"})).await;
    let path = format!("/api/v1/services/{id}/results");
    until("five results", async || (server.get(&path).await.json["results"].as_array()?.len() >= 5).then_some(()))
        .await;
    let all = server.get(&path).await;
    let slots = |page: &Value| -> Vec<String> {
        page["results"].as_array().unwrap().iter().map(|result| result["slot"].as_str().unwrap().to_owned()).collect()
    };
    let expected = slots(&all.json);
    assert!(expected.is_sorted_by(|a, b| a > b), "{expected:?}");
    let first = server.get(&format!("{path}?limit=2&to={}", all.json["results"][0]["slot"].as_str().unwrap())).await;
    let mut paged = slots(&first.json);
    let mut next = first.json["next"].clone();
    while let Some(cursor) = next.as_str() {
        let page = server.get(&format!("{path}?limit=2&cursor={cursor}")).await;
        paged.extend(slots(&page.json));
        next = page.json["next"].clone();
    }
    assert_eq!(paged, expected[1..]);
    let passed = server.get(&format!("{path}?outcome=pass&from={}", expected.last().unwrap())).await;
    assert!(passed.json["results"].as_array().unwrap().len() >= expected.len());
    assert_eq!(server.get(&format!("{path}?outcome=fail")).await.json["results"], json!([]));
    for (query, field) in [("from=yesterday", "from"), ("outcome=good", "outcome"), ("cursor=zz", "cursor")] {
        assert_eq!(server.get(&format!("{path}?{query}")).await.fields(), [field]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_problem_that_says_so() {
    let folder = folder();
    let server = server(&folder).await;
    for (method, path, status) in [
        ("GET", "/api/v1/services/1", 404),
        ("GET", "/api/v1/services/abc", 404),
        ("GET", "/api/v1/services/1/results", 404),
        ("POST", "/api/v1/services/1/pause", 404),
        ("POST", "/api/v1/services/1/probe", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/api/v1/nowhere", 404),
        ("PUT", "/api/v1/services", 405),
        ("POST", "/livez", 405),
        ("GET", "/api/v1/events", 426),
    ] {
        let answer = server.send(method, path, None).await;
        assert_eq!((answer.status, answer.header("content-type")), (status, "application/problem+json"), "{path}");
        assert!(answer.json["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{}", answer.json);
    }
    assert_eq!((server.get("/livez").await.status, server.get("/readyz").await.status), (200, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_transitions_and_events_are_filtered_by_reason_and_an_unknown_one_is_refused() {
    let (folder, target) = (folder(), Target::start().await);
    let server = server(&folder).await;
    let settings =
        |name: &str, url: &str| json!({"name": name, "url": url, "interval": "1s", "policy": {"failure_threshold": 1}});
    let mut failing = server.events("?after=0&reason=status").await.unwrap();
    let shop = server.register(settings("shop", &target.url)).await;
    let nobody = server.register(settings("nobody", "http://127.0.0.1:1/")).await;
    let path = format!("/api/v1/services/{shop}/transitions");
    let turns = async |path: &str| server.get(path).await.json["entries"].as_array().unwrap().len();
    // Down, up and down again, so that there are entries with the reason, and others between them.
    for (at, status) in [(1, 200), (2, 500), (3, 200), (4, 503)] {
        target.answer(status);
        until("the service to turn", async || (turns(&path).await == at).then_some(())).await;
    }
    until("nobody's failure", async || {
        (turns(&format!("/api/v1/services/{nobody}/transitions")).await > 0).then_some(())
    })
    .await;
    let all = server.get("/api/v1/transitions").await.json;
    assert_eq!((all["entries"].as_array().unwrap().len(), &all["next"]), (5, &Value::Null), "{all}");
    let seqs = |page: &Value| -> Vec<u64> {
        page["entries"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect()
    };
    let of = |reason: &str| -> Vec<u64> {
        let entries = all["entries"].as_array().unwrap().iter().filter(|entry| entry["reason"] == reason);
        entries.map(|entry| entry["seq"].as_u64().unwrap()).collect()
    };
    let (refused, broken) = (of("connect"), of("status"));
    assert_eq!((refused.len(), broken.len()), (1, 2), "{all}");
    assert_eq!(seqs(&server.get("/api/v1/transitions?reason=connect").await.json), refused);
    assert_eq!(server.get("/api/v1/transitions?reason=dns").await.json["entries"], json!([]));
    // Page by page, in either order.
    for (path, field, expected) in [
        ("/api/v1/transitions".to_owned(), "after", broken.clone()),
        (path.clone(), "before", broken.iter().rev().copied().collect()),
    ] {
        let mut seen = Vec::new();
        let mut query = String::new();
        loop {
            let page = server.get(&format!("{path}?reason=status&limit=1{query}")).await.json;
            seen.extend(seqs(&page));
            assert!(seen.len() <= expected.len(), "{path}: {seen:?}");
            let Some(next) = page["next"].as_u64() else { break };
            query = format!("&{field}={next}");
        }
        assert_eq!(seen, expected, "{path}");
    }
    let paged = server.get("/api/v1/transitions?limit=2").await.json;
    assert_eq!((seqs(&paged), paged["next"].as_u64()), (vec![1, 2], Some(2)), "without a reason too");
    for seq in &broken {
        let event = failing.transition().await;
        assert_eq!((event["seq"].as_u64(), event["reason"].as_str()), (Some(*seq), Some("status")), "{event}");
    }
    let results = server.get(&format!("/api/v1/services/{shop}/results?reason=status")).await.json;
    let results = results["results"].as_array().unwrap();
    assert!(!results.is_empty() && results.iter().all(|result| result["reason"] == "status"), "{results:?}");
    for path in [
        format!("/api/v1/services/{shop}/results"),
        path,
        "/api/v1/transitions".to_owned(),
        "/api/v1/events".to_owned(),
    ] {
        for (query, field) in
            [("reason=bad", "reason"), ("reason=dns&reason=tls", "reason"), ("limit=x", "limit"), ("why=dns", "why")]
        {
            let wrong = server.get(&format!("{path}?{query}")).await;
            assert_eq!((wrong.status, wrong.fields()), (422, vec![field]), "{path}?{query}: {}", wrong.json);
        }
        let said = server.get(&format!("{path}?reason=bad")).await.json["errors"][0].to_string();
        assert!(said.contains("certificate, "), "it names those there are: {said}");
    }
}
