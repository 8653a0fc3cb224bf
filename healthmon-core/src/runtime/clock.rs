//! The real clock, and the one that tests drive.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    ports::{Clock, ResultStore, StoreError},
    time::Timestamp,
};

/// The machine's wall clock, which for this process never runs backwards.
///
/// When the wall clock is set forward, this clock follows at once. When it is set back, this one
/// goes on at nine tenths of its pace until the wall clock has caught up: a slot that was planned
/// is never planned again.
#[derive(Debug)]
pub struct SystemClock {
    last: Mutex<(Instant, Timestamp)>,
    /// Microseconds to add to the wall clock.
    correction_us: AtomicI64,
}

impl SystemClock {
    /// The clock, beginning with the wall clock's time.
    pub fn new() -> Self {
        Self { last: Mutex::new((Instant::now(), wall())), correction_us: AtomicI64::new(0) }
    }
}

impl SystemClock {
    /// Follows the time of a store that several nodes share, so that all of them mean the same by
    /// now: asks it, and corrects this clock by what it is off, at most half the answer's way.
    /// Without an answer the last correction stays.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn follow(&self, store: &dyn ResultStore) -> Result<(), StoreError> {
        let asked = (Instant::now(), wall());
        let theirs = store.now().await?;
        let way = asked.0.elapsed();
        let off = theirs.as_micros() - asked.1.after(way / 2).as_micros();
        let before = self.correction_us.load(Ordering::Relaxed);
        if let Some(correction) = correction(before, off, way) {
            self.correction_us.store(correction, Ordering::Relaxed);
            if (correction - before).abs() >= 1_000_000 {
                tracing::warn!(off_ms = correction / 1_000, "this machine's clock is off by the store's");
            }
        }
        Ok(())
    }
}

/// What the wall clock is to be corrected by, when an answer that took `way` said that it is `off`
/// by so much: nothing new if that is within what the way leaves open.
fn correction(before: i64, off: i64, way: Duration) -> Option<i64> {
    /// An answer that took longer says too little.
    const LONGEST: Duration = Duration::from_secs(1);
    let open = i64::try_from(way.as_micros() / 2).unwrap_or(i64::MAX);
    (way <= LONGEST && (off - before).abs() > open.max(500)).then_some(off)
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
        let wall = Timestamp::from_micros(wall().as_micros() + self.correction_us.load(Ordering::Relaxed));
        let now = follow(last.1, instant.saturating_duration_since(last.0), wall);
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

    #[test]
    fn a_clock_is_corrected_by_no_more_than_an_answer_can_say() {
        let millis = Duration::from_millis;
        assert_eq!(correction(0, 30_000, millis(10)), Some(30_000), "30 ms off, told within 10 ms");
        assert_eq!(correction(30_000, 33_000, millis(10)), None, "within half the way");
        assert_eq!(correction(30_000, -90_000_000, millis(1)), Some(-90_000_000), "an hour is corrected too");
        assert_eq!(correction(0, 30_000_000, millis(1_500)), None, "too slow to be believed");
    }
}
