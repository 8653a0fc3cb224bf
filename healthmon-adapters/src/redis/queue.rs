use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use fred::types::Value;
use healthmon_core::{
    id::{Region, ServiceId},
    memory::QueueLimits,
    ports::{
        Clock, Completion, ConsumerId, Delivery, Enqueued, ProbeQueue, QueueDepth, QueueError, Receipt, ResultDelivery,
    },
    probe::Probe,
    shard::ShardCount,
    time::Slot,
};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use super::{
    RedisOptions,
    codec::{Decoder, Encoder},
    connection::{Connection, News, RedisError, Script, Subscription, items, number},
    probes::Surplus,
    results::Drains,
    upkeep,
};

/// How long anybody waits for news before looking: the price of a word that was lost.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the mark of one who waits stands: a little more than until it looks again.
pub(super) const IDLE_MS: i64 = 2_500;

/// The most streams that results are cut into. As many recorders can share the work; each stream costs
/// every call that looks into them. Another number is another [`LAYOUT`].
const STREAMS: u16 = 4;

static DEPTH: Script = Script::new(include_str!("scripts/depth.lua"));

/// The queue over Redis Streams. See [the module](super) for what lies where.
///
/// As durable as the server: with `appendfsync everysec` a crash of its machine may take the last
/// second. A capacity counts probes that wait or are with workers, and results, of all nodes.
pub struct RedisProbeQueue {
    pub(super) inner: Arc<Inner>,
    upkeep: AbortHandle,
    _subscription: Subscription,
}

/// What the queue's tasks share.
pub(super) struct Inner {
    pub(super) connection: Connection,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: QueueLimits,
    pub(super) shards: ShardCount,
    pub(super) regions: Vec<Region>,
    /// Who takes probes: unique per process start.
    pub(super) consumer: String,
    pub(super) encoder: Encoder,
    pub(super) decoder: Decoder,
    pub(super) probes: Waiting,
    pub(super) results: Waiting,
    pub(super) drains: Drains,
    pub(super) surplus: Surplus,
}

/// Who waits for news here.
#[derive(Default)]
pub(super) struct Waiting {
    notify: Notify,
    known: Mutex<Known>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Counts the news that came.
    news: u64,
    /// When Redis last said that there is nothing, if there was no news since.
    nothing_at: Option<Instant>,
}

impl Waiting {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let mut known = self.known();
        *known = Known { news: known.news + 1, nothing_at: None };
        drop(known);
        self.notify.notify_waiters();
    }

    /// Asks until there is something, at most for `wait`, and at least once. `ask` is told whether
    /// it is waited for news, and says whether the queue was left empty.
    async fn until<T, F>(
        &self,
        wait: Duration,
        look: Duration,
        mut ask: impl FnMut(i64) -> F,
    ) -> Result<Vec<T>, QueueError>
    where
        F: Future<Output = Result<(Vec<T>, Left), QueueError>>,
    {
        let end = Instant::now() + wait;
        let mut known_empty = !wait.is_zero() && self.known().nothing_at.is_some_and(|at| at.elapsed() < look);
        loop {
            let news = self.notify.notified();
            tokio::pin!(news);
            // Registered before asking, so that what comes in between is not slept through.
            news.as_mut().enable();
            let before = *self.known();
            if !(known_empty && before.nothing_at.is_some()) {
                let asked = Instant::now();
                let (found, left) = ask(if wait.is_zero() { 0 } else { IDLE_MS }).await?;
                if left == Left::Nothing && !wait.is_zero() {
                    let mut known = self.known();
                    // News comes by another connection, and so may come before an answer that is older.
                    if known.news == before.news {
                        known.nothing_at = Some(asked);
                    }
                }
                if !found.is_empty() || Instant::now() >= end {
                    return Ok(found);
                }
            }
            known_empty = false;
            // Either way it is time to look again.
            tokio::time::timeout_at(end.min(Instant::now() + look), news).await.ok();
        }
    }
}

/// What a call left in the queue.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Perhaps,
}

/// Unlike any other number of any process.
pub(super) fn nonce() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

impl RedisProbeQueue {
    /// Connects. `regions` are those that workers of this node stand in; probes of any region may
    /// be enqueued. `shards` is the same on every node for as long as the deployment lives.
    ///
    /// # Errors
    /// When Redis is away, refuses, is too old, or is used with another number of shards.
    pub async fn connect(
        options: RedisOptions,
        regions: Vec<Region>,
        shards: ShardCount,
        limits: QueueLimits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, QueueError> {
        let connection = Connection::open(&options).await?;
        settle(&connection, shards).await?;
        let inner = Arc::new(Inner {
            connection,
            clock,
            limits,
            shards,
            regions,
            consumer: format!("{}-{}", std::process::id(), nonce()),
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            probes: Waiting::default(),
            results: Waiting::default(),
            drains: Drains::default(),
            surplus: Surplus::default(),
        });
        let heard = Arc::clone(&inner);
        let subscription = Subscription::open(&options, format!("{}:wake", options.base()), move |news| {
            let word = match &news {
                News::Message(word) => word.as_str(),
                News::Gap => None,
            };
            match word.as_deref() {
                Some("r") => heard.results.wake(),
                Some(word) if word.starts_with("p:") => heard.probes.wake(),
                _ => {
                    heard.results.wake();
                    heard.probes.wake();
                }
            }
        });
        let subscription = subscription.await?;
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&inner))).abort_handle();
        Ok(Self { inner, upkeep, _subscription: subscription })
    }

    async fn pull_waiting(&self, max: NonZeroUsize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let inner = &self.inner;
        inner.probes.until(wait, LOOK, |idle| Inner::take(inner, max, idle)).await
    }

    async fn pull_results_waiting(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        wait: Duration,
    ) -> Result<Vec<ResultDelivery>, QueueError> {
        // Asking renews the right.
        let look = LOOK.min(self.inner.limits.drain_lease / 3);
        if self.inner.has_more(consumer) {
            return self.inner.take_results(consumer, max, 0).await.map(|(taken, _)| taken);
        }
        let ask = |idle| self.inner.take_results(consumer, max, idle);
        self.inner.results.until(wait, look, ask).await
    }
}

/// How keys lie, and what is in them: another number whenever a version of healthmon would not understand
/// what the one before has left, or look for it elsewhere.
const LAYOUT: i64 = 3;

/// What must be the same for everybody: how keys lie, and what a service's shard is. Where they differ is a
/// mistake in a configuration, or an upgrade without emptying the queue.
pub(super) async fn settle(connection: &Connection, shards: ShardCount) -> Result<(), RedisError> {
    let (base, shards) = (connection.base(), shards.get());
    // The first layout had its number of shards here: a node that knows only that one finds no number.
    let former: Value = format!("{base}:shards").into();
    connection.say("SETNX", vec![former.clone(), "see layout".into()]).await?;
    let first =
        connection.say("GET", vec![former]).await?.into_string().is_some_and(|text| text.parse::<u16>().is_ok());
    let key: Value = format!("{base}:layout").into();
    connection.say("SETNX", vec![key.clone(), format!("{LAYOUT} {shards}").into()]).await?;
    let settled = connection.say("GET", vec![key]).await?.into_string().unwrap_or_default();
    let (layout, cut) = settled.split_once(' ').unwrap_or((&settled, ""));
    let layout = if first { "1" } else { layout };
    if layout != LAYOUT.to_string() {
        return Err(RedisError::wrong(format!(
            "the queue lies there as another version of healthmon left it (layout {layout}, this one knows {LAYOUT}): \
             let that version record what waits, then delete the keys {base}:*, or use another prefix"
        )));
    }
    if cut == shards.to_string() {
        return Ok(());
    }
    Err(RedisError::wrong(format!("the queue is cut into {cut} shards, and this node was told {shards}")))
}

impl Inner {
    /// How many streams results are cut into.
    pub(super) fn streams(&self) -> u16 {
        self.shards.get().min(STREAMS)
    }

    /// The stream of a service's results.
    pub(super) fn stream_of(&self, service: ServiceId) -> u16 {
        self.shards.shard_of(service).0 % self.streams()
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        let answer = items(self.connection.run(&DEPTH, vec![i64::from(self.streams()).into()]).await?);
        let [waiting, in_flight, results, slot, first, now] = answer.as_slice() else {
            return Err(RedisError::wrong("the depth is not what was asked for").into());
        };
        let count = |value| usize::try_from(number(value)).unwrap_or(0);
        let some = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        let millis = |span: i64| Duration::from_millis(u64::try_from(span).unwrap_or(0));
        let oldest = Slot::from_millis(number(slot)).time();
        // What this process was given and has no room for waits still.
        let surplus = self.surplus.len();
        Ok(QueueDepth {
            waiting: count(waiting) + surplus,
            in_flight: count(in_flight).saturating_sub(surplus),
            results: count(results),
            oldest: if some(slot) { self.clock.now().since(oldest) } else { Duration::ZERO },
            oldest_result: if some(first) { millis(number(now) - number(first)) } else { Duration::ZERO },
        })
    }

    pub(super) async fn recount(&self) -> Result<(), QueueError> {
        self.depth().await.map(drop)
    }
}

impl Drop for RedisProbeQueue {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

#[async_trait]
impl ProbeQueue for RedisProbeQueue {
    async fn enqueue(&self, probes: Vec<Probe>) -> Result<Enqueued, QueueError> {
        self.inner.enqueue(&probes).await
    }

    async fn pull(&self, max: NonZeroUsize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        self.pull_waiting(max, wait).await
    }

    async fn complete(&self, completions: Vec<Completion>) -> Result<(), QueueError> {
        self.inner.complete(&completions).await
    }

    async fn pull_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        wait: Duration,
    ) -> Result<Vec<ResultDelivery>, QueueError> {
        self.pull_results_waiting(consumer, max, wait).await
    }

    async fn ack_results(&self, consumer: &ConsumerId, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.inner.ack_results(consumer, receipts).await
    }

    async fn release(&self, consumer: &ConsumerId) -> Result<(), QueueError> {
        self.inner.release(consumer).await
    }

    async fn depth(&self) -> Result<QueueDepth, QueueError> {
        self.inner.depth().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn news_that_overtakes_an_answer_is_not_forgotten() {
        let (waiting, second) = (Waiting::default(), Duration::from_secs(1));
        let first = waiting.until(second, second, async |_| {
            waiting.wake();
            Ok((vec![1], Left::Nothing))
        });
        assert_eq!(first.await.map_err(|_| ()), Ok(vec![1]));
        let asked = Instant::now();
        let next = waiting.until(second, second, async |_| Ok((vec![2], Left::Perhaps))).await;
        assert_eq!((next.map_err(|_| ()), asked.elapsed()), (Ok(vec![2]), Duration::ZERO));
    }
}
