//! What a real server says, and what it comes to.

use std::time::Duration;

use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Held, Observation, Outcome},
};
use serde_json::json;
use tonic::{Code, Status};

use super::{
    frames::{Raw, read_request, wait_for_end},
    support::{Backend, PATIENCE, SERVING, detail, probe_of, prober, see, see_within, settings},
};

fn assert_failed(seen: &Observation, reason: FailReason, code: Option<u16>, says: &str) {
    assert_eq!(seen.outcome, Outcome::Fail(reason), "{seen:?}");
    assert_eq!((seen.code, detail(seen)), (code, says));
}

#[tokio::test]
async fn a_server_that_serves_passes_as_a_whole_and_by_service() {
    let server = Backend::real(None).await;
    for service in ["", "shop.v1.Cart"] {
        let seen = see(&prober(), &server.url(service), json!({})).await;
        assert_eq!((seen.outcome, seen.code, detail(&seen)), (Outcome::Pass, Some(0), ""), "{service:?}");
        let phases = seen.phases;
        assert!(phases.connect_us.is_some() && phases.first_byte_us.is_some() && phases.tls_us.is_none());
    }
}

#[tokio::test]
async fn what_tonics_own_health_service_says_has_its_reason() {
    let server = Backend::real(None).await;
    let till = see(&prober(), &server.url("shop.v1.Till"), json!({})).await;
    assert_failed(&till, FailReason::NotServing, Some(0), "serving status: expected SERVING, got NOT_SERVING");
    let none = see(&prober(), &server.url("shop.v1.None"), json!({})).await;
    let says = "grpc status NOT_FOUND (5): \"service not registered\"";
    assert_failed(&none, FailReason::UnknownService, Some(5), says);
}

#[tokio::test]
async fn every_serving_status_has_its_reason() {
    let answers = [
        (0, FailReason::NotServing, "serving status: expected SERVING, got UNKNOWN"),
        (2, FailReason::NotServing, "serving status: expected SERVING, got NOT_SERVING"),
        (3, FailReason::UnknownService, "serving status: expected SERVING, got SERVICE_UNKNOWN"),
        (77, FailReason::Protocol, "the serving status is 77, which grpc.health.v1 does not define"),
        (-1, FailReason::Protocol, "the serving status is -1, which grpc.health.v1 does not define"),
    ];
    for (status, reason, says) in answers {
        let server = Backend::answering(move |_| Ok(status)).await;
        assert_failed(&see(&prober(), &server.url(""), json!({})).await, reason, Some(0), says);
    }
}

#[tokio::test]
async fn every_status_has_its_reason_number_and_name() {
    let statuses = [
        (Code::Cancelled, FailReason::Status, "CANCELLED"),
        (Code::Unknown, FailReason::Status, "UNKNOWN"),
        (Code::InvalidArgument, FailReason::Status, "INVALID_ARGUMENT"),
        (Code::DeadlineExceeded, FailReason::Timeout, "DEADLINE_EXCEEDED"),
        (Code::NotFound, FailReason::UnknownService, "NOT_FOUND"),
        (Code::AlreadyExists, FailReason::Status, "ALREADY_EXISTS"),
        (Code::PermissionDenied, FailReason::Authentication, "PERMISSION_DENIED"),
        (Code::ResourceExhausted, FailReason::Status, "RESOURCE_EXHAUSTED"),
        (Code::FailedPrecondition, FailReason::Status, "FAILED_PRECONDITION"),
        (Code::Aborted, FailReason::Status, "ABORTED"),
        (Code::OutOfRange, FailReason::Status, "OUT_OF_RANGE"),
        (Code::Unimplemented, FailReason::Unimplemented, "UNIMPLEMENTED"),
        (Code::Internal, FailReason::Status, "INTERNAL"),
        (Code::Unavailable, FailReason::Status, "UNAVAILABLE"),
        (Code::DataLoss, FailReason::Status, "DATA_LOSS"),
        (Code::Unauthenticated, FailReason::Authentication, "UNAUTHENTICATED"),
    ];
    for (code, reason, name) in statuses {
        let number = i32::from(code);
        for (message, told) in [("", String::new()), ("the disk is full", ": \"the disk is full\"".to_owned())] {
            let server = Backend::answering(move |_| Err(Status::new(code, message))).await;
            let seen = see(&prober(), &server.url(""), json!({})).await;
            let says = format!("grpc status {name} ({number}){told}");
            assert_failed(&seen, reason, u16::try_from(number).ok(), &says);
        }
    }
}

#[tokio::test]
async fn a_server_without_the_health_service_is_unimplemented() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("grpc://{}/", listener.local_addr().expect("bound"));
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let routes = tonic::service::Routes::default();
    let serving = tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming);
    let seen = tokio::select! {
        served = serving => panic!("it ended: {served:?}"),
        seen = see_owned(url) => seen,
    };
    assert_failed(&seen, FailReason::Unimplemented, Some(12), "grpc status UNIMPLEMENTED (12)");
}

async fn see_owned(url: String) -> Observation {
    see(&prober(), &url, json!({})).await
}

#[tokio::test]
async fn the_server_is_told_how_much_time_is_left() {
    let server = Backend::real(None).await;
    see_within(&prober(), &server.url(""), Duration::from_secs(2), json!({})).await;
    let arrived = &server.arrived()[0];
    let told = arrived.header("grpc-timeout").expect("it is told");
    let (number, unit) = told.split_at(told.len() - 1);
    let left = Duration::from_micros(number.parse().expect("a number"));
    assert_eq!(unit, "u", "{told}");
    assert!(left > Duration::from_secs(1) && left < Duration::from_secs(2), "{told}");
}

#[tokio::test]
async fn metadata_and_authority_arrive() {
    let server = Backend::real(None).await;
    let options = json!({"grpc": {
        "metadata": {"authorization": "Bearer abc", "trace-bin": "AAEC"},
        "authority": "cart.internal:443",
    }});
    let seen = see(&prober(), &server.url(""), options).await;
    assert_eq!(seen.outcome, Outcome::Pass, "{seen:?}");
    see(&prober(), &server.url(""), json!({})).await;
    let [told, plain] = &server.arrived()[..] else { panic!("two requests") };
    assert_eq!(told.authority, "cart.internal:443");
    assert_eq!((told.header("authorization"), told.header("trace-bin")), (Some("Bearer abc"), Some("AAEC")));
    assert_eq!(plain.authority, server.address.to_string());
    let agent = concat!("healthmon/", env!("CARGO_PKG_VERSION"));
    assert_eq!((plain.header("user-agent"), plain.header("te")), (Some(agent), Some("trailers")));
}

#[tokio::test]
async fn a_slow_answer_degrades_or_fails_as_expected_and_all_is_told_together() {
    let server = Backend::answering(|_| {
        std::thread::sleep(Duration::from_millis(20));
        Ok(SERVING)
    })
    .await;
    let slow = see(&prober(), &server.url(""), json!({"expect": {"latency": {"degraded": "10ms"}}})).await;
    assert_eq!(slow.outcome, Outcome::Slow, "{slow:?}");
    let failed = see(&prober(), &server.url(""), json!({"expect": {"latency": {"first_byte": "10ms"}}})).await;
    assert_eq!(failed.outcome, Outcome::Fail(FailReason::Assertion), "{failed:?}");
    let late_and_down = Backend::answering(|_| Ok(2)).await;
    let both = see(&prober(), &late_and_down.url(""), json!({"expect": {"latency": {"fail": "1us"}}})).await;
    assert_eq!(both.outcome, Outcome::Fail(FailReason::NotServing), "{both:?}");
    assert!(detail(&both).contains("NOT_SERVING; latency: expected at most"), "{both:?}");
}

#[tokio::test]
async fn a_closer_look_tells_the_same_and_more() {
    let server = Backend::real(None).await;
    for (service, held) in [("shop.v1.Cart", Held::Held), ("shop.v1.Till", Held::Failed)] {
        let probe = probe_of(settings(&server.url(service), PATIENCE, &json!({})));
        let prober = prober();
        let (seen, looked) = (prober.probe(&probe).await, prober.inspect(&probe).await);
        assert_eq!((looked.seen.outcome, &looked.seen.detail), (seen.outcome, &seen.detail));
        let facts: Vec<_> = looked.facts.iter().map(|fact| (&*fact.what, &*fact.value)).collect();
        let address = server.address.to_string();
        assert_eq!(facts, [("asks for", service), ("address", &address), ("grpc status", "OK (0)")]);
        let asserted: Vec<_> = looked.assertions.iter().map(|one| (&*one.what, one.held)).collect();
        assert_eq!(asserted, [("serving status", held)]);
    }
}

#[tokio::test]
async fn a_name_without_an_address_is_a_dns_failure() {
    let seen = see(&prober(), "grpc://shop.test:50051/", json!({})).await;
    assert_eq!(seen.outcome, Outcome::Fail(FailReason::Dns), "{seen:?}");
}

#[tokio::test]
async fn dropping_a_probe_closes_its_socket_and_a_server_that_hangs_is_a_timeout() {
    let (ended, mut has_ended) = tokio::sync::mpsc::channel(4);
    let server = Raw::new(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_request(&mut stream).await;
            wait_for_end(&mut stream).await;
            ended.send(()).await.expect("the test waits");
        }
    })
    .await;
    let short = Duration::from_millis(300);
    let seen = see_within(&prober(), &server.url(), short, json!({})).await;
    assert_failed(&seen, FailReason::Timeout, None, "timed out after 300 ms while waiting for the answer");
    assert_eq!(tokio::time::timeout(PATIENCE, has_ended.recv()).await, Ok(Some(())), "the socket is still open");
}
