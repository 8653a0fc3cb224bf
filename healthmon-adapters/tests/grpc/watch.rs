//! Held streams that tell of a change at once.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use healthmon_adapters::{
    grpc::{GrpcProber, GrpcProberConfig},
    net::{AddressPolicy, Loopback},
};
use healthmon_core::{
    ports::Prober,
    probe::{FailReason, Kind, Outcome},
    runtime::Monitor,
    service::Service,
    status::{LogEvent, Status},
};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    sync::{Notify, mpsc},
    time::timeout,
};
use tonic_health::ServingStatus;

use super::{
    frames::{Raw, grpc_head, message, read_request, serving, trailers, wait_for_end},
    support::{Backend, PATIENCE, dialer, probe_of, prober, settings},
};

/// Streams that come to nothing within this time say nothing.
const MOMENT: Duration = Duration::from_millis(400);

fn service(url: &str) -> Arc<Service> {
    probe_of(settings(url, PATIENCE, &json!({"grpc": {"watch": true}}))).service
}

/// Watches `url` for ever, and tells each change.
async fn watch(prober: &GrpcProber, url: &str, changes: mpsc::UnboundedSender<()>) {
    prober.watch(&service(url), &|| changes.send(()).expect("the test listens")).await;
}

async fn told(changes: &mut mpsc::UnboundedReceiver<()>) -> bool {
    matches!(timeout(PATIENCE, changes.recv()).await, Ok(Some(())))
}

async fn silent(changes: &mut mpsc::UnboundedReceiver<()>) -> bool {
    timeout(MOMENT, changes.recv()).await.is_err()
}

#[test]
fn only_those_are_watched_that_ask_for_it() {
    let watches = |options| prober().watches(&settings("grpc://shop.test:1/", PATIENCE, &options));
    assert!(watches(json!({"grpc": {"watch": true}})));
    assert!(!watches(json!({"grpc": {"watch": false}})) && !watches(json!({"grpc": {}})) && !watches(json!({})));
    let wrong = prober().check(&settings("grpc://shop.test:1/", PATIENCE, &json!({"grpc": {"watch": "yes"}})));
    let wrong = wrong.expect_err("no bool");
    assert_eq!(wrong.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["grpc.watch"]);
}

#[tokio::test]
async fn a_change_is_told_at_once_and_that_all_is_well_at_first_is_none() {
    let (reporter, server) = Backend::reporting(None).await;
    let (tell, mut changes) = mpsc::unbounded_channel();
    let (prober, url) = (prober(), server.url("shop.v1.Cart"));
    let story = async {
        while server.arrived().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(silent(&mut changes).await, "it is as it was");
        for status in [ServingStatus::NotServing, ServingStatus::Serving] {
            reporter.set_service_status("shop.v1.Cart", status).await;
            assert!(told(&mut changes).await);
            assert!(silent(&mut changes).await, "once");
        }
    };
    tokio::select! {
        () = watch(&prober, &url, tell) => panic!("it goes on until it is dropped"),
        () = story => {}
    }
    let arrived = &server.arrived()[0];
    assert_eq!(arrived.header("grpc-timeout"), None, "a stream has no deadline");
}

#[tokio::test]
async fn a_stream_that_breaks_is_told_of_and_one_that_comes_back_too() {
    let (broken, connections) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (breaks, count) = (Arc::clone(&broken), Arc::clone(&connections));
    let server = Raw::new(move |mut stream| {
        let (breaks, first) = (Arc::clone(&breaks), count.fetch_add(1, Ordering::SeqCst) == 0);
        async move {
            read_request(&mut stream).await;
            stream.write_all(&[grpc_head(&[]), serving()].concat()).await.expect("sent");
            if first { breaks.notified().await } else { wait_for_end(&mut stream).await }
        }
    })
    .await;
    let (tell, mut changes) = mpsc::unbounded_channel();
    let (prober, url) = (prober(), server.url());
    let story = async {
        assert!(silent(&mut changes).await);
        broken.notify_one();
        assert!(told(&mut changes).await, "it broke");
        assert!(told(&mut changes).await, "it is back");
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    };
    tokio::select! {
        () = watch(&prober, &url, tell) => panic!("it goes on until it is dropped"),
        () = story => {}
    }
}

/// A server that says one thing on each connection, by its number, and then is as if it led nowhere; and
/// when it was asked.
async fn saying(what: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> (Raw, mpsc::UnboundedReceiver<()>) {
    let connections = AtomicUsize::new(0);
    let (asked, was_asked) = mpsc::unbounded_channel();
    let server = Raw::new(move |mut stream| {
        let (asked, said) = (asked.clone(), what(connections.fetch_add(1, Ordering::SeqCst)));
        async move {
            read_request(&mut stream).await;
            stream.write_all(&[grpc_head(&[]), said].concat()).await.expect("sent");
            asked.send(()).expect("the test listens");
            wait_for_end(&mut stream).await;
        }
    });
    (server.await, was_asked)
}

/// Connections come and go in real time; what is waited for between them is skipped.
async fn pass(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_server_that_cannot_be_watched_is_left_alone_for_an_hour() {
    let (server, mut was_asked) =
        saying(|nth| if nth == 0 { trailers(&[("grpc-status", b"12")]) } else { serving() }).await;
    let (tell, mut changes) = mpsc::unbounded_channel();
    let (prober, url) = (prober(), server.url());
    let story = async {
        assert!(told(&mut was_asked).await);
        assert!(silent(&mut was_asked).await, "it is left alone");
        pass(Duration::from_mins(29)).await;
        assert!(silent(&mut was_asked).await, "for half an hour to a whole one");
        pass(Duration::from_mins(31)).await;
        assert!(told(&mut was_asked).await, "it may have learnt it meanwhile");
        assert!(silent(&mut changes).await, "neither is news");
    };
    tokio::select! {
        () = watch(&prober, &url, tell) => panic!("it goes on until it is dropped"),
        () = story => {}
    }
}

#[tokio::test]
async fn a_stream_that_has_been_silent_for_long_is_opened_anew_and_is_news_only_if_that_shows_another_status() {
    let (server, mut was_asked) = saying(|nth| if nth < 2 { serving() } else { message(0, 2, &[8, 2]) }).await;
    let (tell, mut changes) = mpsc::unbounded_channel();
    let (prober, url) = (prober(), server.url());
    let story = async {
        assert!(told(&mut was_asked).await);
        assert!(silent(&mut changes).await);
        pass(Duration::from_mins(2)).await;
        assert!(silent(&mut was_asked).await, "that is not long");
        pass(Duration::from_mins(3)).await;
        assert!(told(&mut was_asked).await);
        assert!(silent(&mut changes).await, "the same status again is no news");
        pass(Duration::from_mins(5)).await;
        assert!(told(&mut was_asked).await && told(&mut changes).await);
    };
    tokio::select! {
        () = watch(&prober, &url, tell) => panic!("it goes on until it is dropped"),
        () = story => {}
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_no_news_and_is_asked_again_with_pauses() {
    let refused = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("grpc://{}/", refused.local_addr().expect("bound"));
    drop(refused);
    let (tell, mut changes) = mpsc::unbounded_channel();
    let watched = timeout(Duration::from_secs(2), watch(&prober(), &url, tell)).await;
    assert!(watched.is_err(), "it goes on trying");
    assert_eq!(changes.recv().await, None);
}

#[tokio::test]
async fn sec_a_server_that_changes_its_mind_without_end_is_slowed_down() {
    let other = message(0, 2, &[8, 2]);
    let server = Raw::repeating(grpc_head(&[]), [serving(), other].concat()).await;
    let (tell, mut changes) = mpsc::unbounded_channel();
    let watched = timeout(Duration::from_secs(1), watch(&prober(), &server.url(), tell)).await;
    assert!(watched.is_err(), "it goes on until it is dropped");
    let mut count = 0;
    while changes.recv().await.is_some() {
        count += 1;
    }
    assert!((1..=12).contains(&count), "{count} in a second");
}

#[tokio::test]
async fn sec_a_watch_makes_no_connection_that_the_policy_forbids() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let dialer = dialer(AddressPolicy::new(Loopback::Refused));
    let prober = GrpcProber::new(GrpcProberConfig { dialer, ..Default::default() }).expect("a prober");
    let (tell, _changes) = mpsc::unbounded_channel();
    assert!(timeout(MOMENT, watch(&prober, &format!("grpc://{address}/"), tell)).await.is_err());
    let own = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let (_, first) = listener.accept().await.expect("a connection");
    assert_eq!(first, own.local_addr().expect("connected"), "somebody had connected before");
}

#[tokio::test]
async fn dropping_a_watch_closes_its_socket() {
    let (ended, mut has_ended) = mpsc::channel(1);
    let (begun, mut has_begun) = mpsc::channel(1);
    let server = Raw::new(move |mut stream| {
        let (begun, ended) = (begun.clone(), ended.clone());
        async move {
            read_request(&mut stream).await;
            stream.write_all(&[grpc_head(&[]), serving()].concat()).await.expect("sent");
            begun.send(()).await.expect("the test waits");
            wait_for_end(&mut stream).await;
            ended.send(()).await.expect("the test waits");
        }
    })
    .await;
    let (tell, _changes) = mpsc::unbounded_channel();
    let (prober, url) = (prober(), server.url());
    tokio::select! {
        () = watch(&prober, &url, tell) => panic!("it goes on until it is dropped"),
        begun = has_begun.recv() => assert!(begun.is_some()),
    }
    assert_eq!(timeout(PATIENCE, has_ended.recv()).await, Ok(Some(())), "the socket is still open");
}

#[tokio::test]
async fn a_stream_that_the_server_ends_in_order_is_opened_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let server = Raw::new(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            read_request(&mut stream).await;
            let answer = [grpc_head(&[]), serving(), trailers(&[("grpc-status", b"14")])].concat();
            stream.write_all(&answer).await.expect("sent");
            wait_for_end(&mut stream).await;
        }
    })
    .await;
    let (tell, _changes) = mpsc::unbounded_channel();
    let (prober, url) = (prober(), server.url());
    let twice = async {
        while connections.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = watch(&prober, &url, tell) => panic!("it goes on until it is dropped"),
        reopened = timeout(PATIENCE, twice) => assert_eq!(reopened, Ok(())),
    }
}

#[tokio::test]
async fn with_an_interval_of_an_hour_an_outage_is_announced_at_once() {
    let (reporter, server) = Backend::reporting(None).await;
    let monitor = Monitor::builder().prober(Arc::new(prober())).build().expect("a monitor");
    let handle = monitor.handle();
    let mut log = handle.log(Default::default());
    let options = json!({"grpc": {"watch": true}, "policy": {"failure_threshold": 1}});
    let story = async {
        let settings = settings(&server.url("shop.v1.Cart"), PATIENCE, &options);
        let service = handle.register(settings).await.expect("registered");
        let mut announced = async || match log.next().await.expect("an entry").event {
            LogEvent::Transition(transition) => transition.to,
            other => panic!("{other:?} was announced"),
        };
        assert_eq!(announced().await, Status::Up);
        // The probe and the watch: two requests.
        while server.arrived().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        reporter.set_service_status("shop.v1.Cart", ServingStatus::NotServing).await;
        assert_eq!(announced().await, Status::Down);
        let results = handle.results(service.id, NonZeroUsize::MIN).await.expect("results");
        let newest = &results[0].result;
        assert_eq!((newest.id.kind, newest.seen.outcome), (Kind::Edge, Outcome::Fail(FailReason::NotServing)));
    };
    let told = timeout(PATIENCE, story);
    tokio::select! {
        ended = monitor.run(std::future::pending()) => panic!("it ended: {ended:?}"),
        told = told => assert_eq!(told, Ok(()), "within {PATIENCE:?}"),
    }
}
