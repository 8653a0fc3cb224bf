//! Whether the machine itself stood still: nothing that runs on it can be in time then.

use std::{
    fmt,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use healthmon_core::{ports::Clock, runtime::clock::SystemClock, time::Timestamp};

use super::window::{PROBE, Window};

/// How long it sleeps at a time.
const NAP: Duration = Duration::from_millis(20);
/// Who sleeps longer than this was not woken when it was time.
const LONGEST: Duration = Duration::from_millis(250);
/// A run says nothing when more than this part of it is excused.
const MOST: u32 = 2;

/// A time in which the machine stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standstill {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

/// What the witness noted.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) standstills: Vec<Standstill>,
    /// For how long it watched.
    pub(crate) watched: Duration,
}

impl Account {
    /// It slept for so long, by a clock that nobody sets, and woke at `now`.
    pub(crate) fn woke(&mut self, slept: Duration, now: Timestamp) {
        self.watched += slept;
        if slept > LONGEST {
            self.standstills.push(Standstill { from: now.before(slept), until: now });
        }
    }

    /// For how long the machine stood still in all.
    pub(crate) fn in_all(&self) -> Duration {
        self.standstills.iter().map(|still| still.until.since(still.from)).sum()
    }

    /// What that excuses.
    pub(crate) fn windows(&self) -> Vec<Window> {
        self.standstills.iter().map(|still| Window::of_a_standstill(still.from, still.until)).collect()
    }

    /// How much of the run that excuses: each time with what is before and after it, none twice.
    fn excused(&self) -> Duration {
        let mut windows: Vec<_> =
            self.windows().iter().map(|window| (window.from.before(PROBE), window.late_until)).collect();
        windows.sort_unstable();
        let (mut excused, mut until) = (Duration::ZERO, None);
        for (from, late_until) in windows {
            let from = until.map_or(from, |until| from.max(until));
            if late_until > from {
                excused += late_until.since(from);
                until = Some(late_until);
            }
        }
        excused
    }

    /// Says so if it was too much: a run that excuses everything finds nothing.
    pub(crate) fn too_busy(&self) -> Option<String> {
        (self.excused() * MOST > self.watched).then(|| format!("the machine was too busy to judge: {self}"))
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (times, still, watched) = (self.standstills.len(), self.in_all(), self.watched);
        let (still, watched) = (still.as_secs_f64(), watched.as_secs_f64());
        write!(f, "the machine stood still {times} times, for {still:.1} s of {watched:.1} s")
    }
}

/// A thread that does nothing but sleep and look at the clock. It ends with its handle.
pub(crate) struct Witness {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<Account>,
}

impl Witness {
    /// Lets it watch, and note times by this clock.
    pub(crate) fn start(clock: Arc<SystemClock>) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let mut before = Instant::now();
        let watch = move || {
            let mut account = Account::default();
            loop {
                let goes_on = stopped.recv_timeout(NAP) == Err(mpsc::RecvTimeoutError::Timeout);
                let now = Instant::now();
                account.woke(now - before, clock.now());
                before = now;
                if !goes_on {
                    return account;
                }
            }
        };
        Self { stop, thread: thread::spawn(watch) }
    }

    /// Ends it. Returns what it noted.
    pub(crate) fn end(self) -> Account {
        let Self { stop, thread } = self;
        drop(stop);
        thread.join().expect("it only sleeps")
    }
}
