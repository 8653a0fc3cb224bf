use std::sync::Arc;

use tokio::sync::broadcast;

use crate::{id::Revision, status::LogEntry};

/// News for other loops and nodes. A hint only: the store has the truth.
#[derive(Debug, Clone, PartialEq)]
pub enum Hint {
    /// These entries were added to the log, in order of `seq`.
    Log(Arc<[LogEntry]>),
    /// Services changed, up to this revision.
    Services(Revision),
    /// Hints were lost; ask the store.
    Lost,
}

/// Tells nodes of new log entries and changed services.
///
/// # Contract
///
/// - At most once, and possibly never: subscribers close gaps from the store, and also ask it for
///   the head each second, so that a lost last hint costs a second.
/// - `publish` never blocks and never fails; a subscriber that does not read loses hints, is told
///   [`Hint::Lost`], and holds up nobody.
/// - Hints that do arrive come in the order they were published by one node.
pub trait Broadcaster: Send + Sync {
    /// Tells every subscriber, if it can be done at once.
    fn publish(&self, hint: Hint);

    /// Hints from now on.
    fn subscribe(&self) -> Hints;
}

/// A subscription to hints.
#[derive(Debug)]
pub struct Hints(broadcast::Receiver<Hint>);

impl Hints {
    /// Hints as they come out of a channel.
    pub fn new(receiver: broadcast::Receiver<Hint>) -> Self {
        Self(receiver)
    }

    /// The next hint; `None` once the broadcaster is gone.
    ///
    /// Safe to drop while it waits: no hint is lost by that.
    pub async fn next(&mut self) -> Option<Hint> {
        match self.0.recv().await {
            Ok(hint) => Some(hint),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Hint::Lost),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
