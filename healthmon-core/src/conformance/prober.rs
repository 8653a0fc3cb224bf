//! The contract of [`Prober`], clause by clause: for probers that speak over TCP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::poll_times;
use crate::{
    id::{Epoch, Region, Revision},
    ports::Prober,
    probe::{DETAIL_LIMIT, Kind, Observation, Outcome, Probe, printable},
    service::{Options, Service, ServiceSettings, Timeout},
    time::{Slot, Timestamp},
};

/// What a clause needs of the prober that it is given: nothing so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProberSetup;

/// Makes settings for a target at this address.
pub type Settings = Box<dyn Fn(SocketAddr) -> ServiceSettings + Send + Sync>;

/// A prober that may dial loopback, and how its targets are written. Time is real.
pub struct ProberFixture {
    /// The prober.
    pub prober: Arc<dyn Prober>,
    /// Settings for a target at an address, which the clauses listen on.
    pub settings: Settings,
}

/// Makes one test of every clause of [`Prober`]'s contract, in a module of its own.
///
/// `$fixture` is an async function from [`ProberSetup`](crate::conformance::prober::ProberSetup) to
/// [`ProberFixture`](crate::conformance::prober::ProberFixture). See [`conformance`](crate::conformance).
#[macro_export]
macro_rules! prober_conformance {
    ($(#[$meta:meta])* mod $name:ident, $fixture:expr $(,)?) => {
        $crate::prober_conformance! { @tests $(#[$meta])* $name $fixture }
    };
    (@$mode:ident $($rest:tt)*) => {
        $crate::__conformance! { $mode prober {
            its_schemes_are_in_lower_case_and_each_once
            it_takes_its_own_settings_and_refuses_sections_it_does_not_know
            a_target_that_hangs_is_a_failure_by_the_deadline
            a_target_that_reads_and_never_answers_is_a_failure_by_the_deadline
            a_target_that_drips_is_given_up_by_the_deadline
            a_target_that_floods_is_given_up_by_the_deadline
            a_refused_connection_is_a_failure
            a_connection_closed_at_once_is_a_failure
            garbage_is_a_failure_and_is_not_repeated_in_the_detail
            many_probes_of_hanging_targets_all_return_by_the_deadline
            a_dropped_probe_closes_its_sockets
            a_finished_probe_leaves_no_task_that_goes_on_sending
        } $($rest)* }
    };
}

/// The names of this suite's clauses.
pub const CLAUSES: &[&str] = crate::prober_conformance!(@names);

const TIMEOUT: Duration = Duration::from_millis(600);
/// How long behind the deadline it is on a machine that has time.
const PROMPT: Duration = Duration::from_millis(400);
/// How long behind the deadline a busy machine may be.
const SLACK: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(5);

/// A server on loopback that gives every connection to `serve`; it ends with the test.
struct Server {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn new<S: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream) -> S + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (open, accepted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (Arc::clone(&open), Arc::clone(&accepted));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::SeqCst);
                counts.1.fetch_add(1, Ordering::SeqCst);
                let (open, serving) = (Arc::clone(&counts.0), serve(stream));
                connections.spawn(async move {
                    serving.await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, open, accepted, task }
    }

    /// One that reads whatever comes, and never says a word, until the other end is closed.
    async fn silent() -> Self {
        Self::new(|mut stream| async move {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        })
        .await
    }

    async fn reach(&self, count: &AtomicUsize, wanted: usize, what: &str) {
        let begun = Instant::now();
        while count.load(Ordering::SeqCst) != wanted {
            assert!(begun.elapsed() < PATIENCE, "{what}: {} of {wanted}", count.load(Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn probe(fixture: &ProberFixture, address: SocketAddr) -> Probe {
    let settings = ServiceSettings {
        timeout: Timeout::new(TIMEOUT).expect("a timeout"),
        interval: super::samples::interval(Duration::from_mins(1)),
        ..(fixture.settings)(address)
    };
    let now = Timestamp::from_millis(1_795_168_800_000);
    let service = Service::registered(super::samples::id(1), settings, Revision(1), Epoch(1), now);
    Probe::new(Arc::new(service), Region::default(), Slot::at(now), Kind::Scheduled)
}

/// Probes, and asserts what holds of every observation.
async fn observe(fixture: &ProberFixture, address: SocketAddr) -> Observation {
    let probe = probe(fixture, address);
    let (begun, limit) = (Instant::now(), TIMEOUT + SLACK);
    let seen = tokio::time::timeout(limit, fixture.prober.probe(&probe)).await.expect("it returns by its deadline");
    let took = begun.elapsed();
    assert!(took <= limit, "it returned after {took:?}, and the timeout is {TIMEOUT:?}");
    let latency = Duration::from_micros(u64::from(seen.latency_us));
    assert!(latency <= TIMEOUT, "a latency of {latency:?} with a timeout of {TIMEOUT:?}");
    if let Some(detail) = &seen.detail {
        assert!(detail.chars().count() <= DETAIL_LIMIT);
        assert_eq!(**detail, *printable(detail), "a detail is safe to show");
    }
    seen
}

fn assert_failed(seen: &Observation) {
    assert!(matches!(seen.outcome, Outcome::Fail(_)), "{seen:?}");
}

/// Its URL schemes are in lower case, each once, and there is one at least.
pub async fn its_schemes_are_in_lower_case_and_each_once(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let mut schemes = fixture.prober.schemes().to_vec();
    assert!(!schemes.is_empty());
    assert!(schemes.iter().all(|scheme| !scheme.is_empty() && *scheme == scheme.to_lowercase()));
    let count = schemes.len();
    schemes.sort_unstable();
    schemes.dedup();
    assert_eq!(schemes.len(), count);
}

/// Settings of its targets pass its check; a section that it does not know is named.
pub async fn it_takes_its_own_settings_and_refuses_sections_it_does_not_know(
    make: impl AsyncFn(ProberSetup) -> ProberFixture,
) {
    let fixture = make(ProberSetup).await;
    let mut settings = (fixture.settings)(SocketAddr::from(([127, 0, 0, 1], 8080)));
    assert!(fixture.prober.schemes().contains(&settings.url.scheme()), "a target of one of its schemes");
    assert_eq!(fixture.prober.check(&settings), Ok(()));
    let mut sections = settings.options.to_map();
    sections.insert("no-such-section".into(), serde_json::json!({"field": 1}));
    settings.options = Options::new(sections);
    let wrong = fixture.prober.check(&settings).expect_err("a section that it does not know");
    assert!(wrong.iter().any(|error| error.field.starts_with("no-such-section")), "{wrong}");
}

/// A target that accepts and does nothing is a failure, by the deadline.
pub async fn a_target_that_hangs_is_a_failure_by_the_deadline(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let server = Server::new(|stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    // One of three is prompt on a machine of any kind that does anything in time; all are within SLACK.
    let mut took = Vec::new();
    while took.iter().all(|took| *took > TIMEOUT + PROMPT) {
        assert!(took.len() < 3, "it returned after {took:?}, and the timeout is {TIMEOUT:?}");
        let begun = Instant::now();
        assert_failed(&observe(&fixture, server.address).await);
        took.push(begun.elapsed());
    }
}

/// A target that reads what it is sent and never answers is a failure, by the deadline.
pub async fn a_target_that_reads_and_never_answers_is_a_failure_by_the_deadline(
    make: impl AsyncFn(ProberSetup) -> ProberFixture,
) {
    let fixture = make(ProberSetup).await;
    let server = Server::silent().await;
    assert_failed(&observe(&fixture, server.address).await);
    server.reach(&server.open, 0, "its connections are closed").await;
}

/// A target that keeps the probe alive byte by byte does not keep it beyond the deadline.
pub async fn a_target_that_drips_is_given_up_by_the_deadline(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let server = Server::new(|mut stream| async move {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_failed(&observe(&fixture, server.address).await);
}

/// A target that sends without end is given up, by the deadline.
pub async fn a_target_that_floods_is_given_up_by_the_deadline(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let server = Server::new(|mut stream| async move {
        let block = vec![b'a'; 1 << 16];
        while stream.write_all(&block).await.is_ok() {}
    })
    .await;
    assert_failed(&observe(&fixture, server.address).await);
}

/// A connection that is refused is a failure of the target, not of the prober.
pub async fn a_refused_connection_is_a_failure(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    assert_failed(&observe(&fixture, address).await);
}

/// A peer that hangs up without a word is a failure.
pub async fn a_connection_closed_at_once_is_a_failure(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let server = Server::new(|stream| async move { drop(stream) }).await;
    assert_failed(&observe(&fixture, server.address).await);
}

/// What is not its protocol is a failure, and what the target sent is not repeated to whoever reads
/// the detail.
pub async fn garbage_is_a_failure_and_is_not_repeated_in_the_detail(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    const SECRET: &str = "hunter2-hunter2";
    let fixture = make(ProberSetup).await;
    let server = Server::new(|mut stream| async move {
        let garbage = format!("\u{1b}[31m{SECRET}\r\n\0\u{7}{SECRET}\r\n\r\n{SECRET}");
        stream.write_all(garbage.as_bytes()).await.ok();
        let mut rest = Vec::new();
        stream.shutdown().await.ok();
        stream.read_to_end(&mut rest).await.ok();
    })
    .await;
    let seen = observe(&fixture, server.address).await;
    assert_failed(&seen);
    assert!(!seen.detail.as_deref().unwrap_or_default().contains(SECRET), "{seen:?}");
}

/// Many at once are as quick as one.
pub async fn many_probes_of_hanging_targets_all_return_by_the_deadline(
    make: impl AsyncFn(ProberSetup) -> ProberFixture,
) {
    let fixture = make(ProberSetup).await;
    let server = Server::silent().await;
    let observations = (0..50).map(|_| observe(&fixture, server.address));
    for seen in futures_util::future::join_all(observations).await {
        assert_failed(&seen);
    }
    server.reach(&server.open, 0, "their connections are closed").await;
}

/// A probe that is dropped, early or late, closes what it had opened.
pub async fn a_dropped_probe_closes_its_sockets(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let server = Server::silent().await;
    let slow = probe(&fixture, server.address);
    for polls in 1..6 {
        let early = poll_times(fixture.prober.probe(&slow), polls);
        tokio::time::timeout(PATIENCE, early).await.expect("it returns at all");
    }
    server.reach(&server.open, 0, "what early ones opened is closed").await;
    let before = server.accepted.load(Ordering::SeqCst);
    {
        let mut probing = fixture.prober.probe(&slow);
        let connected = server.reach(&server.accepted, before + 1, "it connects");
        tokio::select! {
            seen = &mut probing => panic!("the target hangs, and yet: {seen:?}"),
            () = connected => {}
        }
    }
    server.reach(&server.open, 0, "it is dropped, and its socket is closed").await;
}

/// When a probe has returned, it is over: nothing of it dials or sends on.
pub async fn a_finished_probe_leaves_no_task_that_goes_on_sending(make: impl AsyncFn(ProberSetup) -> ProberFixture) {
    let fixture = make(ProberSetup).await;
    let server = Server::silent().await;
    observe(&fixture, server.address).await;
    server.reach(&server.open, 0, "its connections are closed").await;
    let accepted = server.accepted.load(Ordering::SeqCst);
    // Another whole probe's time, elsewhere: whoever goes on behind the first would come back by then.
    let elsewhere = Server::silent().await;
    assert_failed(&observe(&fixture, elsewhere.address).await);
    assert_eq!(server.accepted.load(Ordering::SeqCst), accepted);
}
