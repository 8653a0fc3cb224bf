//! One follower of the log for all WebSocket clients: each entry is encoded once.
//!
//! There is no queue per client. The hub keeps the newest entries in a ring; each client has a
//! place in the log and reads on from there, from the ring while it keeps up, from the store when
//! it does not. So a client that never reads costs its socket and nothing else.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use healthmon_core::{
    id::Seq,
    ports::StoreError,
    runtime::Handle,
    status::{LogEntry, LogEvent},
};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

/// How many entries the ring keeps.
const RING: usize = 4_096;
/// How many entries a client takes at a time.
const PAGE: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// How long the store is left alone when it did not answer.
const RETRY: Duration = Duration::from_millis(500);

/// An entry of the log with its encoding.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) entry: Arc<LogEntry>,
    pub(crate) text: Utf8Bytes,
}

impl Event {
    pub(crate) fn of(entry: LogEntry) -> Self {
        Self { text: encode(&entry).into(), entry: Arc::new(entry) }
    }
}

/// The entry as clients see it: the log's own JSON, with the transition's fields on the top level.
pub(crate) fn encode(entry: &LogEntry) -> String {
    serde_json::to_string(entry).unwrap_or_else(|error| unreachable!("an entry is plain data: {error}"))
}

/// What a kind of entry is called in `kinds`.
pub(crate) fn kind(event: &LogEvent) -> &'static str {
    match event {
        LogEvent::Transition(_) => "transition",
        LogEvent::Overlay { overlay, .. } => overlay.as_str(),
    }
}

pub(crate) struct Hub {
    handle: Handle,
    ring: RwLock<VecDeque<Event>>,
    head: watch::Sender<Seq>,
}

impl Hub {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle, ring: RwLock::default(), head: watch::Sender::new(Seq::default()) }
    }

    /// Follows the log until closing.
    pub(crate) async fn follow(self: Arc<Self>, closing: CancellationToken) {
        let start = loop {
            match self.handle.store().head().await {
                Ok(head) => break head.head,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the log's head");
                    tokio::select! {
                        () = closing.cancelled() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        };
        self.head.send_replace(start);
        let mut log = self.handle.log(start);
        loop {
            let next = tokio::select! {
                () = closing.cancelled() => return,
                next = log.next() => next,
            };
            match next {
                Ok(entry) => self.push(Event::of(entry)),
                Err(error) => {
                    tracing::warn!(%error, "cannot follow the log for now");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn push(&self, event: Event) {
        let seq = event.entry.seq;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == RING {
            ring.pop_front();
        }
        ring.push_back(event);
        drop(ring);
        self.head.send_replace(seq);
    }

    /// Tells when there is more.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Seq> {
        self.head.subscribe()
    }

    /// What follows `after`, at most a page; empty when there is nothing yet.
    pub(crate) async fn after(&self, after: Seq) -> Result<Vec<Event>, StoreError> {
        if *self.head.borrow() <= after {
            return Ok(Vec::new());
        }
        if let Some(events) = self.ring_after(after) {
            return Ok(events);
        }
        let entries = self.handle.store().log(after, PAGE).await?;
        Ok(entries.into_iter().map(Event::of).collect())
    }

    /// What follows `after`, if the ring reaches back that far.
    fn ring_after(&self, after: Seq) -> Option<Vec<Event>> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let first = ring.front()?.entry.seq;
        if first > after.next() {
            return None;
        }
        // The log has no gap, so places in the ring follow from places in the log.
        let skip = usize::try_from(after.next().0 - first.0).ok()?;
        Some(ring.iter().skip(skip).take(PAGE.get()).cloned().collect())
    }
}
