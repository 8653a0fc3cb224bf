//! Takes results off the queue and records them; what that changes is broadcast.

use std::{collections::HashSet, num::NonZeroUsize, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Vitals, edges::EdgeNews};
use crate::{
    ports::{
        Broadcaster, Clock, ConsumerId, Hint, ProbeQueue, Recorded, ResultDelivery, ResultKey, ResultStore, SetAside,
        StoreError,
    },
    probe::{Kind, Outcome, ProbeId, ProbeResult},
    status::{LogEntry, LogEvent, Status},
};

/// How often a transaction that waits for company looks whether something urgent has come.
const LOOK: Duration = Duration::from_millis(25);
/// How long results whose time has not come for the store are kept for it, and how often they are
/// offered.
const EARLY_PATIENCE: Duration = Duration::from_mins(15);
const EARLY_PAUSE: Duration = Duration::from_millis(500);

fn is_urgent(delivery: &ResultDelivery) -> bool {
    let result = &delivery.result;
    result.seen.outcome != Outcome::Pass || result.id.kind != Kind::Scheduled
}

/// What the loop works with.
pub struct Recorder {
    /// Hands out results.
    pub queue: Arc<dyn ProbeQueue>,
    /// Records them.
    pub store: Arc<dyn ResultStore>,
    /// Tells of what changed.
    pub broadcaster: Arc<dyn Broadcaster>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Notes how long recording takes.
    pub vitals: Arc<Vitals>,
    /// Is told what was recorded, so that what is undecided is probed sooner.
    pub edges: Option<EdgeNews>,
    /// Who this recorder is; unique per process start.
    pub consumer: ConsumerId,
    /// How many results go into one transaction at most.
    pub batch: NonZeroUsize,
    /// How long a transaction of results that merely pass waits for company: fewer commits, later
    /// results. Others do not wait.
    pub linger: Duration,
    /// How long the queue is waited for at a time.
    pub wait: Duration,
    /// For how long after `stop` results that are still there are recorded.
    pub drain: Duration,
}

impl Recorder {
    /// Runs until `stop` and the queue's results are drained, or the drain time is over.
    pub async fn run(self, stop: CancellationToken) {
        let mut deadline = None;
        loop {
            if stop.is_cancelled() {
                let until = *deadline.get_or_insert_with(|| tokio::time::Instant::now() + self.drain);
                let drained = tokio::time::timeout_at(until, self.step(Duration::ZERO, Duration::ZERO)).await;
                if matches!(drained, Ok(0)) {
                    break;
                }
                if drained.is_err() {
                    tracing::warn!("results are left in the queue at the end of the drain time");
                    break;
                }
                continue;
            }
            tokio::select! {
                // A step that is dropped loses nothing: unacknowledged results come again.
                () = stop.cancelled() => {}
                _ = self.step(self.wait, self.linger) => {}
            }
            if stop.is_cancelled() {
                // What a dropped step had in hand is handed out again after this.
                self.release().await;
            }
        }
        self.release().await;
    }

    async fn release(&self) {
        if let Err(error) = self.queue.release(&self.consumer).await {
            tracing::warn!(%error, "could not give up the right to results; it will run out");
        }
    }

    /// Takes a batch and records it, however long the store is away. Returns its size.
    async fn step(&self, wait: Duration, linger: Duration) -> usize {
        let mut batch = self.pull(wait).await;
        if batch.is_empty() {
            return 0;
        }
        self.wait_for_company(&mut batch, linger).await;
        let (results, receipts): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|ResultDelivery { result, receipt }| (result, receipt)).unzip();
        self.record(results).await;
        while let Err(error) = self.queue.ack_results(&self.consumer, &receipts).await {
            tracing::warn!(%error, "cannot acknowledge results for now");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        receipts.len()
    }

    /// Adds what comes within `linger`, unless somebody waits for what the batch holds already: a
    /// result that may be news, or one that a person asked for.
    async fn wait_for_company(&self, batch: &mut Vec<ResultDelivery>, linger: Duration) {
        let until = Instant::now() + linger;
        loop {
            let room = self.batch.get().saturating_sub(batch.len());
            let now = Instant::now();
            if room == 0 || now >= until || batch.iter().any(is_urgent) {
                return;
            }
            tokio::time::sleep_until(until.min(now + LOOK)).await;
            batch.extend(self.pull(Duration::ZERO).await);
        }
    }

    async fn pull(&self, wait: Duration) -> Vec<ResultDelivery> {
        match self.queue.pull_results(&self.consumer, self.batch, wait).await {
            Ok(batch) => batch,
            Err(error) => {
                tracing::warn!(%error, "cannot take results for now");
                tokio::time::sleep(Duration::from_millis(200)).await;
                Vec::new()
            }
        }
    }

    /// Records all of `results`. A batch that the store refuses is halved until the one it
    /// refuses is found, so that one bad row holds up nobody.
    async fn record(&self, results: Vec<ProbeResult>) {
        let (mut parts, begun) = (vec![results], Instant::now());
        while let Some(part) = parts.pop() {
            match self.store.record(part.clone()).await {
                Ok(mut recorded) => {
                    let early = self.early(&mut recorded, &part, begun);
                    self.vitals.recorded(self.clock.now(), &part, &recorded);
                    if let Some(edges) = &self.edges {
                        edges.tell(part, &recorded);
                    }
                    self.tell(recorded);
                    if !early.is_empty() {
                        tracing::warn!(results = early.len(), "the store's clock is behind; the results are kept");
                        parts.push(early);
                        tokio::time::sleep(EARLY_PAUSE).await;
                    }
                }
                Err(StoreError::Refused(error)) if part.len() == 1 => {
                    self.vitals.set_aside(SetAside::Refused);
                    tracing::error!(%error, probe = %part[0].id, why = ?SetAside::Refused, "a result was set aside");
                }
                Err(StoreError::Refused(_)) => {
                    let mut first = part;
                    let second = first.split_off(first.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
                Err(error) => {
                    let pause = match &error {
                        StoreError::Transient { retry_after, .. } => (*retry_after).max(Duration::from_millis(10)),
                        _ => Duration::from_secs(5),
                    };
                    tracing::error!(%error, results = part.len(), "cannot record; the results are kept");
                    parts.push(part);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Takes out what was set aside because its slot is ahead of the store's time while by this node's
    /// it is not: a standby whose clock is behind has taken over. Its time will come.
    fn early(&self, recorded: &mut Recorded, part: &[ProbeResult], begun: Instant) -> Vec<ProbeResult> {
        let latest = self.clock.now().after(ResultKey::AHEAD);
        let waits =
            |id: &ProbeId, why| why == SetAside::Ahead && id.slot.time() <= latest && begun.elapsed() < EARLY_PATIENCE;
        if !recorded.set_aside.iter().any(|(id, why)| waits(id, *why)) {
            return Vec::new();
        }
        let mut early = HashSet::new();
        recorded.set_aside.retain(|(id, why)| {
            let waits = waits(id, *why);
            if waits {
                early.insert(id.clone());
            }
            !waits
        });
        part.iter().filter(|result| early.contains(&result.id)).cloned().collect()
    }

    fn tell(&self, recorded: Recorded) {
        for (probe, why) in &recorded.set_aside {
            tracing::warn!(%probe, ?why, "a result was set aside");
        }
        publish(&*self.broadcaster, recorded.entries);
    }
}

/// Logs what was added to the log, and tells whoever listens.
pub fn publish(broadcaster: &dyn Broadcaster, entries: Vec<LogEntry>) {
    if entries.is_empty() {
        return;
    }
    for entry in &entries {
        note(entry);
    }
    broadcaster.publish(Hint::Log(entries.into()));
}

fn note(entry: &LogEntry) {
    let service = &entry.service;
    match &entry.event {
        LogEvent::Transition(transition) => {
            macro_rules! changed {
                ($level:ident) => {
                    tracing::$level!(
                        service = %service.name,
                        id = %service.id,
                        seq = entry.seq.0,
                        from = transition.from.as_str(),
                        to = transition.to.as_str(),
                        cause = transition.cause.as_str(),
                        reason = entry.reason.map(|reason| reason.as_str()),
                        detail = entry.detail.as_deref(),
                        "status changed"
                    )
                };
            }
            if transition.to == Status::Down { changed!(warn) } else { changed!(info) }
        }
        LogEvent::Overlay { overlay, edge } => tracing::info!(
            service = %service.name,
            id = %service.id,
            seq = entry.seq.0,
            overlay = overlay.as_str(),
            ?edge,
            "overlay changed"
        ),
    }
}
