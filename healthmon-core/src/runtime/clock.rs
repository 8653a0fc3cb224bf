//! The real clock, and the one that tests drive.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    ports::{Clock, ResultStore, StoreError},
    time::Timestamp,
};

/// The machine's wall clock, or that of a store which it [follows](Self::follow); for this process
/// it never runs backwards.
///
/// When the wall clock is set forward, this clock follows at once. When it is set back, this one
/// goes on at nine tenths of its pace until the wall clock has caught up: a slot that was planned
/// is never planned again. A clock that follows a store takes no notice of steps of this machine's;
/// when it begins to follow one it shows the store's time at once, be that earlier or later, for
/// until then nothing was planned.
#[derive(Debug)]
pub struct SystemClock {
    last: Mutex<(Instant, Timestamp)>,
    /// An instant, and what the store's clock showed then.
    anchor: Mutex<Option<(Instant, Timestamp)>>,
}

impl SystemClock {
    /// The clock, beginning with the wall clock's time.
    pub fn new() -> Self {
        Self { last: Mutex::new((Instant::now(), wall())), anchor: Mutex::default() }
    }

    /// Follows the time of a store that several nodes share, so that all of them mean the same by
    /// now: asks it what its clock shows. To be called now and then; between two calls, and while
    /// the store is away, this clock goes on by itself.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn follow(&self, store: &dyn ResultStore) -> Result<(), StoreError> {
        let asked = Instant::now();
        let theirs = store.now().await?;
        let way = asked.elapsed();
        let (middle, shown) = (asked + way / 2, self.shown_at(asked + way / 2));
        let off_us = theirs.as_micros() - shown.as_micros();
        // Both at once, in the order in which reading the clock takes them.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut anchor = self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        let first = anchor.is_none();
        if says_something(off_us, way) || first {
            if off_us.abs() >= 1_000_000 {
                tracing::warn!(off_ms = off_us / 1_000, "this process's clock was off by the store's");
            }
            *anchor = Some((middle, theirs));
        }
        if first {
            *last = (middle, theirs);
        }
        Ok(())
    }

    /// What the clock to be followed shows at an instant that is not long ago.
    fn shown_at(&self, instant: Instant) -> Timestamp {
        let anchor = *self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        match anchor {
            Some((then, shown)) => shown.after(instant.saturating_duration_since(then)),
            None => wall().before(instant.elapsed()),
        }
    }
}

/// Whether an answer that took `way`, by which this clock is `off_us` microseconds off, is more
/// than the way's own uncertainty.
fn says_something(off_us: i64, way: Duration) -> bool {
    /// An answer that took longer says too little.
    const LONGEST: Duration = Duration::from_secs(1);
    let open = i64::try_from(way.as_micros() / 2).unwrap_or(i64::MAX);
    way <= LONGEST && off_us.abs() > open.max(500)
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
        let now = follow(last.1, instant.saturating_duration_since(last.0), self.shown_at(instant));
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
    use std::sync::Arc;

    use super::*;
    use crate::memory::{MemoryResultStore, StoreLimits};

    #[test]
    fn the_clock_follows_a_wall_clock_set_forward_and_never_one_set_back() {
        let (at, second) = (Timestamp::from_millis(1_000_000), Duration::from_secs(1));
        assert_eq!(follow(at, second, at.after(second)), at.after(second));
        assert_eq!(follow(at, second, at.after(second * 60)), at.after(second * 60));
        let slewed = follow(at, second, at.before(second * 60));
        assert_eq!(slewed.as_millis(), at.as_millis() + 900);
    }

    #[test]
    fn a_clock_is_corrected_by_no_less_than_an_answer_leaves_open() {
        let millis = Duration::from_millis;
        assert!(says_something(30_000, millis(10)), "30 ms off, told within 10 ms");
        assert!(!says_something(-3_000, millis(10)), "within half the way");
        assert!(says_something(-90_000_000, millis(1)), "an hour is corrected too");
        assert!(!says_something(30_000_000, millis(1_500)), "too slow to be believed");
    }

    #[tokio::test]
    async fn a_clock_that_follows_a_store_shows_its_time() {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let store = MemoryResultStore::new(Arc::new(TimerClock::starting_at(at)), StoreLimits::default());
        let clock = SystemClock::new();
        assert!(clock.now() > at.after(Duration::from_hours(24)));
        clock.follow(&store).await.unwrap();
        let off = clock.now().as_micros() - store.now().await.unwrap().as_micros();
        assert!(off.abs() < 1_000_000, "{off} µs off");
    }
}
