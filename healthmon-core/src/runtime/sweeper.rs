//! Looks again and again for what nobody reports: silence, and maintenance that is over.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Vitals, recorder::publish};
use crate::{
    id::ServiceId,
    ports::{Broadcaster, ProbeQueue, ResultStore},
};

/// Results that have waited so long to be recorded are on their way no longer, but late: what looks
/// like silence may be among them.
const LATE: Duration = Duration::from_secs(3);
/// For so long at most silence is not told from lateness.
const BENEFIT_OF_DOUBT: Duration = Duration::from_mins(15);

/// What the loop works with.
pub struct Sweeper {
    /// Does the sweeping.
    pub store: Arc<dyn ResultStore>,
    /// Tells whether results wait to be recorded; none are missed as long as they may be among them.
    pub queue: Arc<dyn ProbeQueue>,
    /// Tells of what changed.
    pub broadcaster: Arc<dyn Broadcaster>,
    /// Counts what it finds.
    pub vitals: Arc<Vitals>,
    /// How long it rests between two passes.
    pub period: Duration,
    /// How many services are looked at in one transaction.
    pub batch: NonZeroUsize,
}

impl Sweeper {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut after: Option<ServiceId> = None;
        let mut behind_since = None;
        loop {
            if after.is_none() && self.is_behind(&stop).await {
                let since = *behind_since.get_or_insert_with(Instant::now);
                if since.elapsed() < BENEFIT_OF_DOUBT {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(self.period) => continue,
                    }
                }
            } else if after.is_none() {
                behind_since = None;
            }
            let swept = tokio::select! {
                () = stop.cancelled() => return,
                swept = self.store.sweep(after, self.batch) => swept,
            };
            after = match swept {
                Ok(swept) => {
                    self.vitals.swept(&swept.entries);
                    if swept.missed > 0 {
                        tracing::warn!(slots = swept.missed, "slots went by without a result");
                    }
                    publish(&*self.broadcaster, swept.entries);
                    swept.next
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot sweep for now");
                    None
                }
            };
            if after.is_none() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(self.period) => {}
                }
            }
        }
    }

    /// Whether recording has fallen behind. A queue that does not answer says nothing.
    async fn is_behind(&self, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = stop.cancelled() => false,
            depth = self.queue.depth() => depth.is_ok_and(|depth| depth.oldest_result > LATE),
        }
    }
}
