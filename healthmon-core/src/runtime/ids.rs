use std::{sync::Arc, time::Duration};

use ferroid::{
    generator::{AtomicSnowflakeGenerator, Poll},
    id::SnowflakeTwitterId,
    time::TimeSource,
};

use crate::{id::ServiceId, ports::Clock};

/// Milliseconds since 2020-01-01, by the injected clock: 41 bits of them last until 2089.
struct Millis(Arc<dyn Clock>);

const EPOCH_MILLIS: i64 = 1_577_836_800_000;

impl TimeSource<u64> for Millis {
    fn current_millis(&self) -> u64 {
        // At least 1, so that no id is ever zero.
        u64::try_from(self.0.now().as_millis() - EPOCH_MILLIS).unwrap_or(0).max(1)
    }
}

/// Makes service ids: 41 bits of time, 10 of the node's number, 12 of sequence.
pub struct ServiceIds(AtomicSnowflakeGenerator<SnowflakeTwitterId, Millis>);

impl ServiceIds {
    /// Ids of this node; `node` is 0 to 1023 and no other node's.
    pub fn new(clock: Arc<dyn Clock>, node: u16) -> Self {
        Self(AtomicSnowflakeGenerator::new(u64::from(node & 0x3ff), Millis(clock)))
    }

    /// The next id. Waits a millisecond when 4,096 have been made within one.
    pub async fn next(&self) -> ServiceId {
        loop {
            match self.0.poll_id() {
                Poll::Ready { id } => {
                    if let Ok(id) = ServiceId::new(id.to_raw()) {
                        return id;
                    }
                }
                Poll::Pending { yield_for } => tokio::time::sleep(Duration::from_millis(yield_for.max(1))).await,
            }
        }
    }
}
