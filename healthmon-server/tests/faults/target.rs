//! The targets, whose truth is scripted and known.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use healthmon_core::{ports::Clock, runtime::clock::SystemClock, time::Timestamp};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::numbers::Numbers;

/// How a target really was, from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) at: Timestamp,
    pub(crate) down: bool,
}

/// Many targets behind one port, told apart by their path.
pub(crate) struct Targets {
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<SystemClock>,
    inner: Arc<Inner>,
    scripts: Mutex<Vec<JoinHandle<()>>>,
}

struct Inner {
    down: Vec<AtomicBool>,
    turns: Mutex<Vec<Vec<Turn>>>,
    /// When each target last answered, in microseconds.
    answered: Vec<AtomicU64>,
    /// How many probes each target served.
    served: Vec<AtomicU64>,
}

impl Targets {
    pub(crate) async fn start(count: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let clock = Arc::new(SystemClock::new());
        let up = vec![vec![Turn { at: clock.now(), down: false }]; count];
        let inner = Arc::new(Inner {
            down: (0..count).map(|_| AtomicBool::new(false)).collect(),
            turns: Mutex::new(up),
            answered: (0..count).map(|_| AtomicU64::new(0)).collect(),
            served: (0..count).map(|_| AtomicU64::new(0)).collect(),
        });
        let (shared, time) = (Arc::clone(&inner), Arc::clone(&clock));
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (inner, time) = (Arc::clone(&shared), Arc::clone(&time));
                let service = service_fn(move |request: Request<Incoming>| {
                    let number: Option<usize> = request.uri().path()[1..].parse().ok();
                    let down = number.and_then(|number| inner.down.get(number));
                    let status = match (number, down) {
                        (Some(number), Some(down)) => {
                            inner.answered[number].store(time.now().as_micros().cast_unsigned(), Ordering::Relaxed);
                            inner.served[number].fetch_add(1, Ordering::Relaxed);
                            if down.load(Ordering::SeqCst) { 503 } else { 200 }
                        }
                        _ => 404,
                    };
                    async move { Response::builder().status(status).body(Full::<Bytes>::default()) }
                });
                tokio::spawn(async move {
                    // A client that goes in the middle is its own affair.
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        Self { address, clock, inner, scripts: Mutex::default() }
    }

    /// Lets each target go up and down by a script of its own: outages well longer than the
    /// threshold, and blips well shorter.
    pub(crate) fn play(&self, numbers: &Numbers) {
        let mut scripts = self.scripts.lock().expect("unpoisoned");
        for number in 0..self.inner.down.len() {
            let (inner, clock) = (Arc::clone(&self.inner), Arc::clone(&self.clock));
            let mut numbers = Numbers(numbers.clone().next() ^ (number as u64) << 32);
            scripts.push(tokio::spawn(async move {
                loop {
                    tokio::time::sleep(numbers.millis(4_000, 25_000)).await;
                    inner.set(&clock, number, true);
                    let outage =
                        if numbers.below(4) == 0 { numbers.millis(200, 1_200) } else { numbers.millis(6_000, 25_000) };
                    tokio::time::sleep(outage).await;
                    inner.set(&clock, number, false);
                }
            }));
        }
    }

    /// Everything stays as it is from now on.
    pub(crate) fn freeze(&self) {
        for script in self.scripts.lock().expect("unpoisoned").drain(..) {
            script.abort();
        }
    }

    pub(crate) fn is_down(&self, number: usize) -> bool {
        self.inner.down[number].load(Ordering::SeqCst)
    }

    pub(crate) fn turns(&self, number: usize) -> Vec<Turn> {
        self.inner.turns.lock().expect("unpoisoned")[number].clone()
    }

    /// When a target was last probed.
    pub(crate) fn answered(&self, number: usize) -> Timestamp {
        Timestamp::from_micros(self.inner.answered[number].load(Ordering::Relaxed).cast_signed())
    }

    pub(crate) fn served(&self) -> u64 {
        (0..self.inner.served.len()).map(|number| self.served_by(number)).sum()
    }

    /// How many probes one target served.
    pub(crate) fn served_by(&self, number: usize) -> u64 {
        self.inner.served[number].load(Ordering::Relaxed)
    }

    /// Whether a target was down at some moment from one instant to another.
    pub(crate) fn was_down_within(&self, number: usize, from: Timestamp, to: Timestamp) -> bool {
        was(&self.turns(number), true, from, to)
    }

    /// Whether a target was up at some moment from one instant to another.
    pub(crate) fn was_up_within(&self, number: usize, from: Timestamp, to: Timestamp) -> bool {
        was(&self.turns(number), false, from, to)
    }
}

impl Inner {
    fn set(&self, clock: &SystemClock, number: usize, down: bool) {
        // The turn is noted between two instants; a moment's doubt is the checker's to allow for.
        self.down[number].store(down, Ordering::SeqCst);
        self.turns.lock().expect("unpoisoned")[number].push(Turn { at: clock.now(), down });
    }
}

/// How long between a target's turn and its note, at most.
const DOUBT: Duration = Duration::from_millis(100);

fn was(turns: &[Turn], down: bool, from: Timestamp, to: Timestamp) -> bool {
    turns.iter().enumerate().any(|(at, turn)| {
        let end = turns.get(at + 1).map_or(Timestamp::from_micros(i64::MAX), |next| next.at.after(DOUBT));
        turn.down == down && turn.at.before(DOUBT) <= to && from <= end
    })
}
