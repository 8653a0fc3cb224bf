//! The engine's primitive: trips on `k` bad of the last `n`, clears after `s` good in a row.

use std::num::{NonZeroU8, NonZeroU16};

use serde::{Deserialize, Serialize};

/// When a latch trips and when it clears: `1 ≤ k ≤ n ≤ 64`, `1 ≤ s ≤ 64`.
///
/// ```
/// use healthmon_core::engine::LatchRule;
/// let rule = LatchRule::new(3, 5, 2)?;
/// assert_eq!((rule.threshold(), rule.window(), rule.success()), (3, 5, 2));
/// assert!(LatchRule::new(3, 2, 1).is_err());
/// # Ok::<(), healthmon_core::engine::InvalidLatchRule>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8, u8)", into = "(u8, u8, u8)")]
pub struct LatchRule {
    threshold: NonZeroU8,
    window: NonZeroU8,
    success: NonZeroU8,
}

/// Numbers that make no latch rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 <= threshold <= window <= 64 and 1 <= success threshold <= 64")]
pub struct InvalidLatchRule;

impl LatchRule {
    /// The widest window, and the most successes that can be asked for.
    pub const LIMIT: u8 = 64;

    /// Trips on `threshold` bad of the last `window`, clears after `success` good in a row.
    ///
    /// # Errors
    /// Unless `1 ≤ threshold ≤ window ≤ 64` and `1 ≤ success ≤ 64`.
    pub const fn new(threshold: u8, window: u8, success: u8) -> Result<Self, InvalidLatchRule> {
        match (NonZeroU8::new(threshold), NonZeroU8::new(window), NonZeroU8::new(success)) {
            (Some(k), Some(n), Some(s)) if threshold <= window && window <= Self::LIMIT && success <= Self::LIMIT => {
                Ok(Self { threshold: k, window: n, success: s })
            }
            _ => Err(InvalidLatchRule),
        }
    }

    /// `k`: how many bad outcomes within the window trip it.
    pub const fn threshold(self) -> u8 {
        self.threshold.get()
    }

    /// `n`: how many of the last outcomes are looked at.
    pub const fn window(self) -> u8 {
        self.window.get()
    }

    /// `s`: how many good outcomes in a row clear it (if fewer than `k` bad are left in the window).
    pub const fn success(self) -> u8 {
        self.success.get()
    }

    const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.window.get())
    }
}

impl TryFrom<(u8, u8, u8)> for LatchRule {
    type Error = InvalidLatchRule;

    fn try_from((k, n, s): (u8, u8, u8)) -> Result<Self, Self::Error> {
        Self::new(k, n, s)
    }
}

impl From<LatchRule> for (u8, u8, u8) {
    fn from(rule: LatchRule) -> Self {
        (rule.threshold(), rule.window(), rule.success())
    }
}

/// Lengthens recovery, and recovery only, of a latch that trips again and again: with every recent
/// trip `s` doubles up to `cap`; trips are forgotten after `quiet` good outcomes in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u16)", into = "(u8, u16)")]
pub struct Damping {
    cap: NonZeroU8,
    quiet: NonZeroU16,
}

/// Numbers that make no damping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 <= cap <= 255 and cap < quiet <= 65535")]
pub struct InvalidDamping;

impl Damping {
    /// Damping with `s` at most `cap`, forgotten after `quiet` good outcomes in a row.
    ///
    /// # Errors
    /// Unless `1 ≤ cap < quiet`: a recovery must not count as the quiet that forgets it.
    pub const fn new(cap: u8, quiet: u16) -> Result<Self, InvalidDamping> {
        match (NonZeroU8::new(cap), NonZeroU16::new(quiet)) {
            (Some(c), Some(q)) if (cap as u16) < quiet => Ok(Self { cap: c, quiet: q }),
            _ => Err(InvalidDamping),
        }
    }

    /// The most successes in a row that recovery can be lengthened to.
    pub const fn cap(self) -> u8 {
        self.cap.get()
    }

    /// How many good outcomes in a row forget the trips.
    pub const fn quiet(self) -> u16 {
        self.quiet.get()
    }
}

impl TryFrom<(u8, u16)> for Damping {
    type Error = InvalidDamping;

    fn try_from((cap, quiet): (u8, u16)) -> Result<Self, Self::Error> {
        Self::new(cap, quiet)
    }
}

impl From<Damping> for (u8, u16) {
    fn from(damping: Damping) -> Self {
        (damping.cap(), damping.quiet())
    }
}

/// What one outcome is to a latch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Good.
    Good,
    /// Bad.
    Bad,
    /// So bad that it trips the latch whatever came before.
    Fatal,
}

/// A latch's memory: the last outcomes as bits, the good ones in a row, and whether it is tripped.
///
/// The window is never reset by a trip or a clearing; only [`clear_window`](Self::clear_window)
/// resets it. Outcomes that never happened count as not bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Latch {
    /// Bit `i` is set when the outcome `i` back was bad; never wider than the window.
    history: u64,
    /// Good outcomes in a row, no further than they matter.
    run: u16,
    /// Recent trips; always 0 without damping.
    trips: u8,
    tripped: bool,
}

impl Latch {
    /// A latch with any memory at all, reachable or not, for checking laws on it.
    pub const fn from_parts(history: u64, run: u16, trips: u8, tripped: bool) -> Self {
        Self { history, run, trips, tripped }
    }

    /// Whether it is tripped.
    pub const fn is_tripped(self) -> bool {
        self.tripped
    }

    /// The last outcomes: bit `i` is set when the outcome `i` back was bad.
    pub const fn history(self) -> u64 {
        self.history
    }

    /// Good outcomes in a row since the last bad one or the last clearing of the window.
    pub const fn run(self) -> u16 {
        self.run
    }

    /// Recent trips that damping remembers.
    pub const fn trips(self) -> u8 {
        self.trips
    }

    /// How many good outcomes in a row clear it now: `s`, lengthened by damping.
    pub fn recovery(self, rule: LatchRule, damping: Option<Damping>) -> u16 {
        let s = u16::from(rule.success());
        match damping {
            None => s,
            Some(damping) => {
                // 64 << 8 still fits; more doublings than that are above every cap.
                let doublings = self.trips.saturating_sub(1).min(8);
                (s << doublings).min(u16::from(damping.cap())).max(s)
            }
        }
    }

    /// Takes in one outcome.
    ///
    /// With debug assertions on, the step is held against laws 10 to 13.
    pub fn observe(&mut self, rule: LatchRule, damping: Option<Damping>, mark: Mark) {
        #[cfg(debug_assertions)]
        let before = *self;
        self.step(rule, damping, mark);
        #[cfg(debug_assertions)]
        super::invariants::assert_latch_step(&super::invariants::LatchStep::of_bits(
            rule, damping, before, mark, *self,
        ));
    }

    fn step(&mut self, rule: LatchRule, damping: Option<Damping>, mark: Mark) {
        let bad = mark != Mark::Good;
        self.history = ((self.history << 1) | u64::from(bad)) & rule.mask();
        let furthest = match damping {
            None => u16::from(rule.success()),
            Some(damping) => damping.quiet().max(u16::from(rule.success())),
        };
        self.run = if bad { 0 } else { self.run.saturating_add(1).min(furthest) };
        // Every `quiet` good outcomes in a row forget the trips, those that end a recovery too.
        if damping.is_none_or(|damping| self.run >= damping.quiet()) {
            self.trips = 0;
        }
        let enough = self.history.count_ones() >= u32::from(rule.threshold());
        if self.tripped {
            self.tripped = bad || enough || self.run < self.recovery(rule, damping);
        } else if mark == Mark::Fatal || (bad && enough) {
            self.tripped = true;
            if damping.is_some() {
                self.trips = self.trips.saturating_add(1);
            }
        }
    }

    /// Forgets the outcomes, not whether it is tripped; without damping the trips too.
    pub fn clear_window(&mut self, damping: Option<Damping>) {
        self.history = 0;
        self.run = 0;
        if damping.is_none() {
            self.trips = 0;
        }
    }
}
