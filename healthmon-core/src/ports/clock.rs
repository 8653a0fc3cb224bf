use crate::time::Timestamp;

/// Tells the time. Injected everywhere, so that a day passes in a test in moments.
///
/// Waiting is done with tokio's timer, which tests pause; a test's clock follows that timer.
pub trait Clock: Send + Sync {
    /// The time now. May step in either direction, as wall clocks do.
    fn now(&self) -> Timestamp;
}
