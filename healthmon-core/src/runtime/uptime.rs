//! How a service did: its results summed, its log read.

use std::num::NonZeroUsize;

use super::Handle;
use crate::{
    id::{Seq, ServiceId},
    ports::{ResultStore, StoreError},
    status::{LogEntry, LogEvent, Status},
    summary::Uptime,
    time::{Slot, Timestamp},
};

/// How many entries of a service's log are read at a time, and at most.
const PAGE: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
const MOST: usize = 10_000;

impl Handle {
    /// How a service did from `from` until `to`, or until now if that is earlier. None if there never
    /// was such a service; a deleted one has it too.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn uptime(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Uptime>, StoreError> {
        let store = &*self.shared.store;
        let now = store.now().await?;
        let to = to.min(Slot::at(now));
        let Some(summed) = store.summary(id, from, to).await? else { return Ok(None) };
        let (log, is_complete) = log_since(store, id, summed.from.time()).await?;
        Ok(Some(Uptime { is_complete, ..Uptime::of(&summed, &log, now) }))
    }
}

/// A service's log, oldest first, from the last transition from UP or UNKNOWN before `from` on; and
/// whether that was not too much to read.
async fn log_since(
    store: &dyn ResultStore,
    id: ServiceId,
    from: Timestamp,
) -> Result<(Vec<LogEntry>, bool), StoreError> {
    let (mut log, mut before): (Vec<LogEntry>, Option<Seq>) = (Vec::new(), None);
    loop {
        let page = store.service_log(id, before, PAGE).await?;
        let is_last = page.len() < PAGE.get();
        before = page.last().map(|entry| entry.seq);
        let reaches_back = page.iter().any(|entry| entry.at <= from && is_beginning(entry));
        log.extend(page);
        if is_last || reaches_back || log.len() >= MOST {
            log.reverse();
            return Ok((log, is_last || reaches_back));
        }
    }
}

/// Whether no incident goes on over this entry.
fn is_beginning(entry: &LogEntry) -> bool {
    let certain = |status| matches!(status, Status::Up | Status::Unknown);
    matches!(entry.event, LogEvent::Transition(turn) if certain(turn.from) || certain(turn.to))
}
