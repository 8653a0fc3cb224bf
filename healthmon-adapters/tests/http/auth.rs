//! Who the prober says it is, to whom, and what comes of it when that is refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use healthmon_adapters::{
    http::{HttpProber, HttpProberConfig},
    net::{AddressPolicy, Loopback},
    secrets::Secrets,
};
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, IndeterminateReason, Outcome},
};
use serde_json::{Value, json};

use super::{
    support::{
        Names, OK, Server, answer, detail, dialer, header, policy_of_one, probe_of, prober, prober_with, read_request,
        see, see_within, settings, wait_for_end,
    },
    tls::{Authority, acceptor, params, serve_with},
};

const BLOCKED: Outcome = Outcome::Indeterminate(IndeterminateReason::Blocked);

/// Takes only requests that show `shown`.
async fn taking(shown: &'static str) -> Server {
    Server::answering(move |request| match header(request, "authorization") {
        Some(seen) if seen == shown => OK.to_vec(),
        _ => answer(401, "", ""),
    })
    .await
}

fn basic(password: &Value) -> Value {
    json!({"http": {"auth": {"basic": {"username": "monitor", "password": password}}}})
}

#[tokio::test]
async fn basic_and_bearer_are_shown_and_a_refusal_has_its_own_reason() {
    for (shown, auth) in [
        ("Basic bW9uaXRvcjpzZWNyZXQ=", basic(&json!("secret"))),
        ("Bearer abc", json!({"http": {"auth": {"bearer": {"token": "abc"}}}})),
    ] {
        let server = taking(shown).await;
        assert_eq!(see(&prober(), &server.url(), auth.clone()).await.outcome, Outcome::Pass, "{auth}");
        let other = taking("other").await;
        let seen = see(&prober(), &other.url(), auth).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Authentication));
        assert_eq!((detail(&seen), seen.code), ("status: expected 200-299, got 401", Some(401)));
    }
    let seen = see(&prober(), &taking("other").await.url(), json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Status), "nothing was shown, so nothing was refused");
}

fn prober_with_secrets(folder: &std::path::Path) -> HttpProber {
    let secrets = Secrets::of_environment(Some(folder.to_owned()));
    let dialer = dialer(AddressPolicy::new(Loopback::Allowed));
    HttpProber::new(HttpProberConfig { dialer: dialer.into(), secrets, ..Default::default() }).expect("a prober")
}

#[tokio::test]
async fn secrets_are_found_where_the_settings_say_and_read_anew_each_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let prober = prober_with_secrets(folder.path());
    let server = Server::answering(|_| OK.to_vec()).await;
    let options = json!({"http": {
        "method": "POST", "body": {"file": "body"}, "headers": {"x-key": {"file": "key"}},
        "auth": {"basic": {"username": "u", "password": {"file": "password"}}},
    }});
    for round in ["one", "two"] {
        for name in ["body", "key", "password"] {
            std::fs::write(folder.path().join(name), format!("{name} {round}\n")).expect("written");
        }
        assert_eq!(see(&prober, &server.url(), options.clone()).await.outcome, Outcome::Pass);
        let request = server.requests().pop().expect("a request");
        assert_eq!(header(&request, "x-key"), Some(format!("key {round}").as_str()));
        assert!(request.ends_with(&format!("\r\n\r\nbody {round}")), "{request}");
        let shown = if round == "one" { "Basic dTpwYXNzd29yZCBvbmU=" } else { "Basic dTpwYXNzd29yZCB0d28=" };
        assert_eq!(header(&request, "authorization"), Some(shown));
    }
}

#[tokio::test]
async fn a_secret_that_cannot_be_had_says_nothing_about_the_target() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("lines"), "canary\ncanary").expect("written");
    let prober = prober_with_secrets(folder.path());
    let server = Server::answering(|_| OK.to_vec()).await;
    let bearer = |token: Value| json!({"http": {"auth": {"bearer": {"token": token}}}});
    for (options, said) in [
        (json!({"http": {"headers": {"x": {"file": "none"}}}}), "the secret's file \"none\" cannot be read"),
        (json!({"http": {"headers": {"x": {"env": "HEALTHMON_SECRET_NONE"}}}}), "HEALTHMON_SECRET_NONE is not set"),
        (json!({"http": {"headers": {"x": {"file": "lines"}}}}), "the secret for the header x has line breaks"),
        (bearer(json!({"file": "lines"})), "http.auth.bearer.token is no token"),
        (bearer(json!({"sealed": "canary"})), "sealed"),
    ] {
        let seen = see(&prober, &server.url(), options.clone()).await;
        assert_eq!(seen.outcome, Outcome::Indeterminate(IndeterminateReason::Secret), "{options}");
        assert!(detail(&seen).contains(said) && !detail(&seen).contains("canary"), "{seen:?}");
    }
    assert_eq!(server.accepted(), 0);
}

/// Gives token-1, token-2 and so on, each good for `lifetime` seconds.
async fn token_server(lifetime: u64) -> Server {
    let given = AtomicUsize::new(0);
    Server::answering(move |_| {
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        let token = json!({"access_token": format!("token-{number}"), "token_type": "Bearer", "expires_in": lifetime});
        answer(200, "content-type: application/json\r\n", &token.to_string())
    })
    .await
}

fn client(token_url: &str) -> Value {
    json!({"http": {"auth": {"oauth2": {
        "token_url": token_url, "client_id": "moni tor", "client_secret": "can:ary", "scope": "a b", "audience": "shop",
    }}}})
}

#[tokio::test]
async fn a_token_is_fetched_once_and_shown_until_it_expires() {
    let (tokens, target) = (token_server(3_600).await, taking("Bearer token-1").await);
    let prober = prober();
    for _ in 0..3 {
        let seen = see(&prober, &target.url(), client(&tokens.url())).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    }
    let [request] = &tokens.requests()[..] else { panic!("one token for three probes") };
    assert!(request.starts_with("POST / HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\ngrant_type=client_credentials&scope=a+b&audience=shop"), "{request}");
    // Form-encoded first, as RFC 6749 has it: "moni+tor:can%3Aary".
    assert_eq!(header(request, "authorization"), Some("Basic bW9uaSt0b3I6Y2FuJTNBYXJ5"));
}

#[tokio::test]
async fn a_client_may_show_itself_in_the_body() {
    let (tokens, target) = (token_server(3_600).await, taking("Bearer token-1").await);
    let mut options = client(&tokens.url());
    options["http"]["auth"]["oauth2"]["credentials"] = json!("body");
    assert_eq!(see(&prober(), &target.url(), options).await.outcome, Outcome::Pass);
    let request = &tokens.requests()[0];
    assert!(request.ends_with("&client_id=moni+tor&client_secret=can%3Aary"), "{request}");
    assert_eq!(header(request, "authorization"), None);
}

#[tokio::test]
async fn a_token_that_lives_for_nothing_is_fetched_each_time() {
    let tokens = token_server(0).await;
    let target = Server::answering(|_| OK.to_vec()).await;
    let prober = prober();
    for _ in 0..2 {
        see(&prober, &target.url(), client(&tokens.url())).await;
    }
    let shown: Vec<_> = target.requests().iter().map(|r| header(r, "authorization").map(str::to_owned)).collect();
    assert_eq!(shown, [Some("Bearer token-1".to_owned()), Some("Bearer token-2".to_owned())]);
}

#[tokio::test]
async fn a_kept_token_that_is_refused_is_replaced_once() {
    let tokens = token_server(3_600).await;
    let good = Arc::new(AtomicUsize::new(1));
    let wanted = Arc::clone(&good);
    let target = Server::answering(move |request| {
        let wanted = format!("Bearer token-{}", wanted.load(Ordering::SeqCst));
        if header(request, "authorization") == Some(&wanted) { OK.to_vec() } else { answer(401, "", "") }
    })
    .await;
    let prober = prober();
    assert_eq!(see(&prober, &target.url(), client(&tokens.url())).await.outcome, Outcome::Pass);
    good.store(2, Ordering::SeqCst);
    assert_eq!(see(&prober, &target.url(), client(&tokens.url())).await.outcome, Outcome::Pass);
    assert_eq!((tokens.requests().len(), target.requests().len()), (2, 3));
    good.store(99, Ordering::SeqCst);
    let seen = see(&prober, &target.url(), client(&tokens.url())).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Authentication), "{seen:?}");
    assert_eq!((tokens.requests().len(), target.requests().len()), (3, 5), "one more token, and no more");
}

#[tokio::test]
async fn many_probes_at_once_fetch_one_token() {
    let (tokens, target) = (token_server(3_600).await, taking("Bearer token-1").await);
    let prober = Arc::new(prober());
    let mut probes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (prober, url, options) = (Arc::clone(&prober), target.url(), client(&tokens.url()));
        probes.spawn(async move { see(&prober, &url, options).await.outcome });
    }
    assert!(probes.join_all().await.iter().all(|outcome| *outcome == Outcome::Pass));
    assert_eq!(tokens.requests().len(), 1);
}

#[tokio::test]
async fn another_secret_or_scope_is_another_token() {
    let tokens = token_server(3_600).await;
    let target = Server::answering(|_| OK.to_vec()).await;
    let prober = prober();
    for (field, value) in [("scope", "a b"), ("scope", "c"), ("client_secret", "other"), ("audience", "other")] {
        let mut options = client(&tokens.url());
        options["http"]["auth"]["oauth2"][field] = json!(value);
        see(&prober, &target.url(), options).await;
    }
    assert_eq!(tokens.requests().len(), 4);
}

#[tokio::test]
async fn a_token_server_that_gives_none_is_an_authentication_failure() {
    let target = Server::answering(|_| OK.to_vec()).await;
    let nothing = |body: &'static str| answer(200, "", body);
    for (answered, said) in [
        (
            answer(400, "", r#"{"error": "invalid_client", "error_description": "canary"}"#),
            "answered 400 (invalid_client)",
        ),
        (answer(400, "", r#"{"error": "canary"}"#), "token: the token server answered 400"),
        (answer(302, "location: http://127.0.0.1:1/\r\n", ""), "answered 302"),
        (answer(500, "", "canary"), "answered 500"),
        (nothing("canary"), "is not JSON"),
        (nothing("{}"), "has no token"),
        (nothing(r#"{"access_token": ""}"#), "has no token"),
        (nothing(r#"{"access_token": "can\r\nary: x"}"#), "has no token"),
        (nothing(r#"{"access_token": "a", "token_type": "mac"}"#), "another type than bearer"),
        (b"canary\r\n\r\n".to_vec(), "token: "),
        (Vec::new(), "token: "),
    ] {
        let tokens = Server::sending(answered).await;
        let seen = see(&prober(), &target.url(), client(&tokens.url())).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Authentication), "{said}: {seen:?}");
        assert!(detail(&seen).contains(said) && !detail(&seen).contains("canary"), "{said}: {seen:?}");
    }
    assert_eq!(target.accepted(), 0);
}

#[tokio::test]
async fn sec_hostile_token_servers_are_bounded_and_on_time() {
    let target = Server::answering(|_| OK.to_vec()).await;
    let endless = Server::raw(|mut stream| async move {
        use tokio::io::AsyncWriteExt;
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok();
        while stream.write_all(&[b'['; 16_384]).await.is_ok() {}
    })
    .await;
    let seen = see(&prober(), &target.url(), client(&endless.url())).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Authentication), "{seen:?}");
    let silent = Server::raw(|mut stream| async move { wait_for_end(&mut stream).await }).await;
    let timeout = Duration::from_millis(300);
    let (prober, begun) = (prober(), std::time::Instant::now());
    let seen = see_within(&prober, &target.url(), timeout, client(&silent.url())).await;
    assert!(begun.elapsed() < timeout + Duration::from_secs(5));
    assert_eq!(detail(&seen), "token: it did not come in time, waiting for the answer");
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Authentication), "the target was not even asked");
}

/// A probe with much time that waits for a token leaves others theirs.
#[tokio::test]
async fn a_token_server_that_hangs_is_waited_for_no_longer_than_others_can_wait() {
    let target = Server::answering(|_| OK.to_vec()).await;
    let first = Arc::new(AtomicUsize::new(0));
    let tokens = Server::raw(move |mut stream| {
        let first = Arc::clone(&first);
        async move {
            use tokio::io::AsyncWriteExt;
            if first.fetch_add(1, Ordering::SeqCst) == 0 {
                return wait_for_end(&mut stream).await;
            }
            read_request(&mut stream).await;
            stream.write_all(&answer(200, "", r#"{"access_token": "a", "expires_in": 3600}"#)).await.ok();
        }
    })
    .await;
    let (prober, options) = (prober(), client(&tokens.url()));
    let begun = std::time::Instant::now();
    let seen = see_within(&prober, &target.url(), Duration::from_mins(5), options.clone()).await;
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Authentication), "{seen:?}");
    assert_eq!(detail(&seen), "token: it did not come in time, waiting for the answer");
    let seen = see(&prober, &target.url(), options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
}

#[tokio::test]
async fn sec_what_is_not_checked_of_the_target_is_checked_of_its_token_server() {
    let target = Server::answering(|_| OK.to_vec()).await;
    let authority = Authority::new();
    let given = answer(200, "", r#"{"access_token": "a", "expires_in": 3600}"#);
    let acceptor = acceptor(&authority.sign(&params("login.test")), rustls::ALL_VERSIONS);
    let tokens = serve_with(acceptor, given).await;
    let dialer = dialer(AddressPolicy::new(Loopback::Allowed)).with_resolver(Names::all_at("127.0.0.1"));
    let prober = prober_with(dialer);
    let asked = |of_target: Value, of_server: Value| {
        let mut options = client(&format!("https://login.test:{}/", tokens.address.port()));
        options["http"]["tls"] = of_target;
        options["http"]["auth"]["oauth2"]["tls"] = of_server;
        options
    };
    for of_target in [json!({"verify": "none"}), json!({"ca": authority.pem})] {
        let seen = see(&prober, &target.url(), asked(of_target, json!({}))).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Authentication), "{seen:?}");
        assert!(detail(&seen).starts_with("token: ") && detail(&seen).contains("certificate"), "{seen:?}");
    }
    // And what is trusted instead of the usual roots at the target keeps no token from us.
    let other = json!({"ca": Authority::new().pem});
    for of_server in [json!({"ca": authority.pem}), json!({"verify": "none"})] {
        let seen = see(&prober, &target.url(), asked(other.clone(), of_server)).await;
        assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    }
}

#[tokio::test]
async fn probes_that_waited_for_a_fetch_that_failed_do_not_each_try_again() {
    let tokens = Server::answering(|_| answer(503, "", "")).await;
    let target = Server::answering(|_| OK.to_vec()).await;
    let prober = Arc::new(prober());
    let mut probes = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (prober, url, options) = (Arc::clone(&prober), target.url(), client(&tokens.url()));
        probes.spawn(async move { see(&prober, &url, options).await.outcome });
    }
    let seen = probes.join_all().await;
    assert!(seen.iter().all(|outcome| *outcome == Outcome::Fail(FailReason::Authentication)), "{seen:?}");
    assert_eq!(tokens.requests().len(), 1);
}

#[tokio::test]
async fn sec_a_token_servers_address_is_judged_by_the_policy() {
    let target = Server::answering_on("127.0.0.2:0".parse().expect("an address"), |_| OK.to_vec()).await;
    let prober = prober_with(dialer(policy_of_one()));
    for url in ["http://127.0.0.1:1/", "http://169.254.169.254/token", "http://[::ffff:127.0.0.1]:1/"] {
        let seen = see(&prober, &target.url(), client(url)).await;
        assert_eq!(seen.outcome, BLOCKED, "{url}: {seen:?}");
        assert!(detail(&seen).starts_with("token: the address policy refuses "), "{seen:?}");
    }
    assert_eq!(target.accepted(), 0);
}

/// Neither what was configured nor a token follows a redirect to another origin.
#[tokio::test]
async fn sec_credentials_are_not_sent_to_another_origin() {
    let tokens = token_server(3_600).await;
    for options in [
        basic(&json!("canary")),
        json!({"http": {"auth": {"bearer": {"token": "canary"}}}}),
        json!({"http": {"headers": {"authorization": "canary", "x-key": "canary"}}}),
        client(&tokens.url()),
    ] {
        let elsewhere = Server::answering(|_| answer(401, "", "")).await;
        let location = format!("location: {}\r\n", elsewhere.url());
        let home = Server::answering(move |_| answer(302, &location, "")).await;
        let seen = see(&prober(), &home.url(), options.clone()).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Status), "{options}: {seen:?}");
        assert!(header(&home.requests()[0], "authorization").is_some());
        let request = &elsewhere.requests()[0];
        assert!(header(request, "authorization").is_none() && header(request, "x-key").is_none(), "{request}");
        assert_eq!(elsewhere.requests().len(), 1, "a token is not fetched anew for a stranger's 401");
    }
}

#[tokio::test]
async fn sec_secrets_are_in_no_observation_of_any_failure() {
    let echo = Server::answering(|request| {
        answer(500, &format!("x-echo: {}\r\n", header(request, "authorization").unwrap_or("")), request)
    })
    .await;
    let expect = json!({"header": {"x-none": {"exists": true}}, "body": "other", "json": {"$": 1}});
    for mut options in
        [basic(&json!("canary")), client(&echo.url()), json!({"http": {"auth": {"bearer": {"token": "canary"}}}})]
    {
        options["expect"] = expect.clone();
        let seen = see(&prober(), &echo.url(), options).await;
        let shown = format!("{seen:?}");
        assert!(!shown.contains("canary") && !shown.contains("can:ary") && !shown.contains("Y2FuYXJ5"), "{shown}");
    }
}

#[test]
fn what_is_wrong_in_auth_is_named_and_no_secret_is_repeated() {
    let oauth2 = |field: &str, value: Value| {
        let mut options = client("https://login.test/");
        options["http"]["auth"]["oauth2"][field] = value;
        options["http"].clone()
    };
    for (http, field) in [
        (json!({"auth": {}}), "http.auth.basic"),
        (json!({"auth": {"colour": {}}}), "http.auth.colour"),
        (json!({"auth": {"basic": {"username": "a:b", "password": "canary"}}}), "http.auth.basic.username"),
        (json!({"auth": {"basic": {"username": "a"}}}), "http.auth.basic.password"),
        (json!({"auth": {"basic": {"username": "a", "password": ["canary"]}}}), "http.auth.basic.password"),
        (json!({"auth": {"bearer": {"token": "canary canary"}}}), "http.auth.bearer.token"),
        (json!({"auth": {"bearer": {"token": "a"}, "basic": {"username": "a", "password": "b"}}}), "http.auth.basic"),
        (json!({"auth": {"bearer": {"token": "canary"}}, "headers": {"authorization": "canary"}}), "http.auth"),
        (oauth2("token_url", json!("file:///etc/passwd")), "http.auth.oauth2.token_url"),
        (oauth2("token_url", json!("https://canary:canary@login.test/")), "http.auth.oauth2.token_url"),
        (oauth2("client_id", json!(null)), "http.auth.oauth2.client_id"),
        (oauth2("client_secret", json!({"env": "PATH"})), "http.auth.oauth2.client_secret"),
        (oauth2("scope", json!("")), "http.auth.oauth2.scope"),
        (oauth2("credentials", json!("cookie")), "http.auth.oauth2.credentials"),
        (oauth2("tls", json!({"verify": "perhaps"})), "http.auth.oauth2.tls.verify"),
        (oauth2("tls", json!({"server_name": "other.test"})), "http.auth.oauth2.tls"),
        (json!({"headers": {"x": {"file": "../canary"}}}), "http.headers.x"),
    ] {
        let errors = prober().check(&settings("http://a.test/", Duration::from_secs(1), &json!({"http": http})));
        let errors = errors.expect_err(field);
        assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [field], "{http}");
        assert!(!errors.to_string().contains("canary"), "{errors}");
    }
}

/// What the prober names as its secrets is what it reads as such.
#[test]
fn every_secret_is_listed() {
    let listed = prober().secrets();
    for path in [
        "http.headers.*",
        "http.body",
        "http.auth.basic.password",
        "http.auth.bearer.token",
        "http.auth.oauth2.client_secret",
        "http.proxy.password",
        "http.tls.key",
    ] {
        assert!(listed.contains(&path), "{path}");
    }
    let sealed = json!({"sealed": "x"});
    for http in [
        json!({"method": "POST", "body": sealed, "headers": {"x": sealed}}),
        json!({"auth": {"basic": {"username": "a", "password": sealed}}}),
        json!({"auth": {"bearer": {"token": sealed}}}),
        json!({"proxy": {"url": "http://a.test/", "username": "a", "password": sealed}}),
    ] {
        let settings = settings("http://a.test/", Duration::from_secs(1), &json!({"http": http}));
        prober().check(&settings).expect("sealed secrets are taken");
        drop(probe_of(settings));
    }
}
