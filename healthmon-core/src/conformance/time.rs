//! Whose time a suite runs by.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{ports::Clock, runtime::clock::TimerClock, time::Timestamp};

/// The instant at which tests begin when the clock is theirs: 2026-11-20T10:00:00Z.
const START: Timestamp = Timestamp::from_millis(1_795_168_800_000);

/// A clock that stands until it is moved by hand.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that stands at `at`.
    pub const fn starting_at(at: Timestamp) -> Self {
        Self(Mutex::new(at))
    }

    /// Moves it on.
    pub fn advance(&self, span: Duration) {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *at = at.after(span);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How time passes for the adapter under test.
///
/// The same clauses run with all three: with the first two an hour takes a moment, with the last
/// one it takes an hour, so that clauses ask for short spans.
#[derive(Clone)]
pub enum TestTime {
    /// Tokio's timer, paused: waiting leaps. For what waits by that timer and does nothing real.
    Paused(Arc<TimerClock>),
    /// A clock that is moved by hand, while tokio's timer runs: for what does real work (a file, a
    /// thread), but takes its time from an injected clock.
    Manual(Arc<ManualClock>),
    /// Real time, as this clock tells it: for a backend whose time is its server's.
    Real(Arc<dyn Clock>),
}

impl TestTime {
    /// Pauses tokio's timer and begins at a fixed instant.
    ///
    /// # Panics
    /// Outside a current-thread runtime, such as the one of [`run`](super::run).
    pub fn paused() -> Self {
        tokio::time::pause();
        Self::Paused(Arc::new(TimerClock::starting_at(START)))
    }

    /// A clock moved by hand, beginning at a fixed instant.
    pub fn manual() -> Self {
        Self::Manual(Arc::new(ManualClock::starting_at(START)))
    }

    /// The clock to give to the adapter.
    pub fn clock(&self) -> Arc<dyn Clock> {
        match self {
            Self::Paused(clock) => Arc::clone(clock) as Arc<dyn Clock>,
            Self::Manual(clock) => Arc::clone(clock) as Arc<dyn Clock>,
            Self::Real(clock) => Arc::clone(clock),
        }
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        self.clock().now()
    }

    /// Lets `span` pass.
    pub async fn pass(&self, span: Duration) {
        match self {
            Self::Paused(_) | Self::Real(_) => tokio::time::sleep(span).await,
            Self::Manual(clock) => {
                clock.advance(span);
                tokio::task::yield_now().await;
            }
        }
    }

    /// Looks again and again until there is something, and returns it.
    ///
    /// # Panics
    /// When `limit` has passed without it; `what` says what was waited for.
    pub async fn until<T>(&self, limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let step = (limit / 50).clamp(Duration::from_millis(1), Duration::from_millis(100));
        let end = self.now().after(limit);
        loop {
            if let Some(found) = look().await {
                return found;
            }
            assert!(self.now() < end, "{what}: not within {limit:?}");
            self.pass(step).await;
        }
    }
}
