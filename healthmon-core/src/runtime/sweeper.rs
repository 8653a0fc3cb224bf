//! Looks again and again for what nobody reports: silence, and maintenance that is over.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Vitals, recorder::publish};
use crate::{
    id::ServiceId,
    ports::{Broadcaster, ResultStore},
};

/// What the loop works with.
pub struct Sweeper {
    /// Does the sweeping.
    pub store: Arc<dyn ResultStore>,
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
        loop {
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
}
