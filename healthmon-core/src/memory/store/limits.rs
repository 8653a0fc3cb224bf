use std::time::Duration;

/// How much a [`MemoryResultStore`](super::MemoryResultStore) keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// Results of a service; the oldest go first.
    pub results_per_service: usize,
    /// Entries of the log; the oldest go first.
    pub log: usize,
    /// Results with slots older than this are not taken in, and those that are there go.
    pub retention: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { results_per_service: 10_000, log: 1_000_000, retention: Duration::from_hours(30 * 24) }
    }
}
