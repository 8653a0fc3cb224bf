//! The real clock, and the one that tests drive.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{ports::Clock, time::Timestamp};

/// The machine's wall clock, which for this process never runs backwards.
///
/// When the wall clock is set forward, this clock follows at once. When it is set back, this one
/// goes on at nine tenths of its pace until the wall clock has caught up: a slot that was planned
/// is never planned again.
#[derive(Debug)]
pub struct SystemClock {
    last: Mutex<(Instant, Timestamp)>,
}

impl SystemClock {
    /// The clock, beginning with the wall clock's time.
    pub fn new() -> Self {
        Self { last: Mutex::new((Instant::now(), wall())) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system clock")]
fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The reading that follows `last` after `elapsed`, with the wall clock at `wall`.
fn follow(last: Timestamp, elapsed: Duration, wall: Timestamp) -> Timestamp {
    wall.max(last.after(elapsed * 9 / 10))
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let instant = Instant::now();
        let now = follow(last.1, instant.saturating_duration_since(last.0), wall());
        *last = (instant, now);
        now
    }
}

/// A clock that follows tokio's timer from a given instant: paused and advanced with it, so that
/// a day passes in a test in moments.
#[derive(Debug)]
pub struct TimerClock {
    start: tokio::time::Instant,
    at: Timestamp,
}

impl TimerClock {
    /// A clock that shows `at` now.
    pub fn starting_at(at: Timestamp) -> Self {
        Self { start: tokio::time::Instant::now(), at }
    }
}

impl Clock for TimerClock {
    fn now(&self) -> Timestamp {
        self.at.after(self.start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_follows_a_wall_clock_set_forward_and_never_one_set_back() {
        let (at, second) = (Timestamp::from_millis(1_000_000), Duration::from_secs(1));
        assert_eq!(follow(at, second, at.after(second)), at.after(second));
        assert_eq!(follow(at, second, at.after(second * 60)), at.after(second * 60));
        let slewed = follow(at, second, at.before(second * 60));
        assert_eq!(slewed.as_millis(), at.as_millis() + 900);
    }
}
