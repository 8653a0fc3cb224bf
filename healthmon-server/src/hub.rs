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
    id::{LogId, Seq},
    ports::StoreError,
    runtime::Handle,
    status::{LogEntry, LogEvent},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

/// How many entries the ring keeps.
const RING: usize = 4_096;
/// How many entries a client takes at a time.
const PAGE: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// How often it is made sure that the log is still the same.
const LOOK: Duration = Duration::from_secs(1);
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

/// Where the hub is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    /// The newest entry it has.
    pub(crate) head: Seq,
    /// Counts the logs that it followed: a client's place is one in the log that it began with.
    pub(crate) log: u64,
}

pub(crate) struct Hub {
    /// By which the log is followed.
    handle: Handle,
    /// By which clients read what the ring no longer has.
    asked: Handle,
    ring: RwLock<VecDeque<Event>>,
    place: watch::Sender<Place>,
}

impl Hub {
    pub(crate) fn new(handle: Handle, asked: Handle) -> Self {
        Self { handle, asked, ring: RwLock::default(), place: watch::Sender::new(Place::default()) }
    }

    /// Follows the log until closing. When it turns out to be another log, which it is after a
    /// failover that lost something or a restore, or to have a gap, begins anew with that.
    pub(crate) async fn follow(self: Arc<Self>, closing: CancellationToken) {
        tokio::select! {
            () = closing.cancelled() => {}
            () = async { loop { self.follow_one().await } } => {}
        }
    }

    async fn follow_one(&self) {
        let known = loop {
            match self.handle.store().head().await {
                Ok(head) => break head,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the log's head");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        self.ring.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.place.send_modify(|place| *place = Place { head: known.head, log: place.log + 1 });
        // Side by side: a look that took its turn would drop a page that a slow store was about to give.
        tokio::select! {
            () = self.copy(known.head) => {}
            () = self.replaced(&known.log) => {}
        }
    }

    /// Resolves when the log is another one.
    async fn replaced(&self, known: &LogId) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            // Of errors, who follows the log will hear.
            if let Ok(head) = self.handle.store().head().await
                && head.log != *known
            {
                tracing::warn!(was = %known, is = %head.log, "the log is another one; clients begin anew");
                return;
            }
        }
    }

    /// Takes the log in from there, until it has a gap.
    async fn copy(&self, mut last: Seq) {
        let mut log = self.handle.log(last);
        loop {
            match log.next().await {
                Ok(entry) if entry.seq != last.next() => {
                    tracing::warn!(after = %last, next = %entry.seq, "the log has a gap here; clients begin anew");
                    return;
                }
                Ok(entry) => {
                    last = entry.seq;
                    self.push(Event::of(entry));
                }
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
        self.place.send_modify(|place| place.head = seq);
    }

    /// Tells when there is more.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    /// What follows `after`, at most a page; empty when there is nothing yet.
    pub(crate) async fn after(&self, after: Seq) -> Result<Vec<Event>, StoreError> {
        if self.place.borrow().head <= after {
            return Ok(Vec::new());
        }
        if let Some(events) = self.ring_after(after) {
            return Ok(events);
        }
        let entries = self.asked.store().log(after, PAGE).await?;
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
