//! Redirects are followed by hand.

use healthmon_core::probe::{FailReason, Outcome};
use serde_json::json;

use super::support::{OK, Server, answer, detail, header, prober, see};

fn path(request: &str) -> &str {
    request.split(' ').nth(1).unwrap_or_default()
}

/// Answers /n with a redirect to /n-1, and /0 with success.
async fn staircase() -> Server {
    Server::answering(|request| match path(request).trim_start_matches('/').parse::<u32>() {
        Ok(0) | Err(_) => OK.to_vec(),
        Ok(n) => answer(302, &format!("location: /{}\r\n", n - 1), ""),
    })
    .await
}

#[tokio::test]
async fn sec_redirects_are_followed_up_to_the_limit() {
    let server = staircase().await;
    let cases = [(5, json!({}), true), (6, json!({}), false), (10, json!({"http": {"redirects": 10}}), true)];
    for (steps, options, arrives) in cases {
        let seen = see(&prober(), &format!("{}{steps}", server.url()), options).await;
        if arrives {
            assert_eq!((seen.outcome, seen.code), (Outcome::Pass, Some(200)), "{steps}: {seen:?}");
        } else {
            assert_eq!((seen.outcome, seen.code), (Outcome::Fail(FailReason::Redirect), Some(302)));
            assert_eq!(detail(&seen), "more than 5 redirects");
        }
    }
}

#[tokio::test]
async fn with_no_redirects_asked_for_the_status_is_judged() {
    let server = staircase().await;
    let url = format!("{}1", server.url());
    let seen = see(&prober(), &url, json!({"http": {"redirects": 0}})).await;
    assert_eq!((seen.outcome, detail(&seen)), (Outcome::Fail(FailReason::Status), "status: expected 200-299, got 302"));
    let seen = see(&prober(), &url, json!({"expect": {"status": 302}})).await;
    assert_eq!((seen.outcome, seen.code), (Outcome::Pass, Some(302)), "an expected redirect is not followed");
}

#[tokio::test]
async fn sec_a_loop_and_a_location_that_leads_nowhere_are_redirect_failures() {
    let cases = [
        ("location: /\r\n", "redirects go in circles at http://"),
        ("", "status 302 without a location"),
        ("location: ftp://127.0.0.1/\r\n", "redirect to a \"ftp\" url, which is not followed"),
        ("location: file:///etc/passwd\r\n", "redirect to a \"file\" url, which is not followed"),
        ("location: http://\r\n", "redirect to a location that is not a url"),
    ];
    for (header, said) in cases {
        let server = Server::answering(move |_| answer(302, header, "")).await;
        let seen = see(&prober(), &server.url(), json!({})).await;
        assert_eq!(seen.outcome, Outcome::Fail(FailReason::Redirect), "{header:?}");
        assert!(detail(&seen).starts_with(said), "{header:?}: {}", detail(&seen));
        assert_eq!(server.accepted(), 1, "{header:?}");
    }
}

#[tokio::test]
async fn configured_headers_survive_a_redirect_within_the_origin() {
    let server = staircase().await;
    let options = json!({"http": {"headers": {"authorization": "Bearer canary"}}});
    let seen = see(&prober(), &format!("{}1", server.url()), options).await;
    assert_eq!(seen.outcome, Outcome::Pass);
    let sent: Vec<_> = server.requests().iter().map(|r| header(r, "authorization").map(str::to_owned)).collect();
    assert_eq!(sent, vec![Some("Bearer canary".to_owned()); 2]);
}

#[tokio::test]
async fn a_posted_body_goes_on_at_307_and_becomes_a_get_at_302() {
    for (status, method) in [(307, "POST /to HTTP/1.1"), (302, "GET /to HTTP/1.1")] {
        let server = Server::answering(move |request| match path(request) {
            "/to" => OK.to_vec(),
            _ => answer(status, "location: /to\r\n", ""),
        })
        .await;
        let seen = see(&prober(), &server.url(), json!({"http": {"method": "POST", "body": "ping"}})).await;
        assert_eq!(seen.outcome, Outcome::Pass);
        let second = server.requests()[1].clone();
        assert!(second.starts_with(method), "{second}");
        assert_eq!(second.ends_with("ping"), status == 307);
    }
}
