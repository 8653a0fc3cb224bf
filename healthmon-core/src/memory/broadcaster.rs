use tokio::sync::broadcast;

use crate::ports::{Broadcaster, Hint, Hints};

/// Hints within one process.
#[derive(Debug)]
pub struct MemoryBroadcaster(broadcast::Sender<Hint>);

impl MemoryBroadcaster {
    /// A broadcaster that keeps at most `capacity` hints for a subscriber that does not read.
    pub fn new(capacity: usize) -> Self {
        Self(broadcast::Sender::new(capacity.max(1)))
    }
}

impl Default for MemoryBroadcaster {
    fn default() -> Self {
        Self::new(1024)
    }
}

impl Broadcaster for MemoryBroadcaster {
    fn publish(&self, hint: Hint) {
        // No subscriber is no failure: a hint is for those who listen.
        self.0.send(hint).ok();
    }

    fn subscribe(&self) -> Hints {
        Hints::new(self.0.subscribe())
    }
}
