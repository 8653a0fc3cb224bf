//! Results: handed to the recorder that has their stream, and forgotten when they are recorded.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fred::types::Value;
use healthmon_core::ports::{ConsumerId, QueueError, Receipt, ResultDelivery};
use tokio::time::Instant;

use super::{
    codec::decode_result,
    connection::{Script, items, number},
    probes::{entries_of, entry_id},
    queue::{Inner, Left},
};

static RESULTS: Script = Script::new(include_str!("scripts/results.lua"));
static ACK: Script = Script::new(include_str!("scripts/ack.lua"));
static RELEASE: Script = Script::new(include_str!("scripts/release.lua"));

/// The most results handed out by one call of the server.
const TAKE_MOST: usize = 5_000;

/// Each how often all streams are looked into, whatever the marks say.
const LOOK_INTO_ALL: Duration = Duration::from_secs(5);

/// An entry's place in its stream.
type Place = (u64, u64);

/// What each recorder of this process was given and has not acknowledged, by stream and in order.
/// Redis has the truth of who owns a stream; this is only where to read on.
#[derive(Default)]
pub(super) struct Drains(Mutex<HashMap<ConsumerId, Drain>>);

#[derive(Default)]
struct Drain {
    held: BTreeMap<u32, VecDeque<Place>>,
    /// When all of its streams were last looked into, not only those marked to have news. `None`
    /// when that is to be done: marks may have been taken off by a call whose answer was lost.
    looked: Option<Instant>,
    /// The stream that is read first, moved on with each call so that none waits for ever.
    first: u32,
}

impl Drains {
    fn lock(&self) -> MutexGuard<'_, HashMap<ConsumerId, Drain>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text((millis, sequence): Place) -> Value {
    format!("{millis}-{sequence}").into()
}

/// The least place after this one.
const fn after((millis, sequence): Place) -> Place {
    if sequence == u64::MAX { (millis + 1, 0) } else { (millis, sequence + 1) }
}

impl Drain {
    /// What to say of acknowledged places: up to where all that was given is done, and what else is.
    fn acknowledged(&self, stream: u32, acked: &BTreeSet<Place>) -> (Option<Place>, Vec<Place>) {
        let held = self.held.get(&stream).into_iter().flatten();
        let done: Vec<Place> = held.copied().take_while(|place| acked.contains(place)).collect();
        let rest = acked.iter().filter(|place| !done.contains(place)).copied().collect();
        (done.last().copied().map(after), rest)
    }
}

impl Inner {
    pub(super) async fn take_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        idle: i64,
    ) -> Result<(Vec<ResultDelivery>, Left), QueueError> {
        let streams = i64::from(self.streams());
        let lease = i64::try_from(self.limits.drain_lease.as_millis()).unwrap_or(i64::MAX);
        let max = i64::try_from(max.get().min(TAKE_MOST)).unwrap_or(i64::MAX);
        let mut arguments: Vec<Value> = vec![(&*consumer.0).into(), lease.into(), streams.into(), max.into()];
        let (begun, looked) = (Instant::now(), {
            let mut drains = self.drains.lock();
            let drain = drains.entry(consumer.clone()).or_default();
            drain.first = (drain.first + 1) % u32::from(self.streams());
            let looked = drain.looked.take().filter(|looked| looked.elapsed() < LOOK_INTO_ALL);
            arguments.extend([idle.into(), i64::from(drain.first).into(), i64::from(looked.is_none()).into()]);
            for (stream, held) in &drain.held {
                if let Some(last) = held.back() {
                    arguments.extend([i64::from(*stream).into(), text(*last)]);
                }
            }
            looked
        });
        let mut answer = items(self.connection.run(&RESULTS, arguments).await?).into_iter();
        let lost: Vec<u32> =
            answer.next().map(items).unwrap_or_default().iter().filter_map(|stream| index(number(stream))).collect();
        let (mut taken, mut unreadable) = (Vec::new(), BTreeMap::<u32, Vec<Place>>::new());
        for part in answer {
            let mut part = items(part).into_iter();
            let (Some(stream), Some(entries)) = (part.next().and_then(|stream| index(number(&stream))), part.next())
            else {
                continue;
            };
            for (id, payload) in entries_of(entries) {
                let Some(place) = entry_id(&id) else { continue };
                match decode_result(&payload) {
                    Ok(result) => taken.push(ResultDelivery { result, receipt: Receipt { stream, id: place } }),
                    Err(error) => {
                        tracing::error!(%error, stream, id, "a result was dropped");
                        unreadable.entry(stream).or_default().push(place);
                    }
                }
            }
        }
        if !unreadable.is_empty() {
            let parts = unreadable.into_iter().map(|(stream, places)| (stream, None, places));
            self.forget(consumer, parts).await?;
        }
        // No await from here to the caller: a call that is dropped before leaves all as it was.
        let mut drains = self.drains.lock();
        let drain = drains.entry(consumer.clone()).or_default();
        drain.looked = Some(looked.unwrap_or(begun));
        for stream in lost {
            drain.held.remove(&stream);
        }
        for ResultDelivery { receipt, .. } in &taken {
            drain.held.entry(receipt.stream).or_default().push_back(receipt.id);
        }
        let left = if taken.is_empty() { Left::Nothing } else { Left::Perhaps };
        Ok((taken, left))
    }

    pub(super) async fn ack_results(&self, consumer: &ConsumerId, receipts: &[Receipt]) -> Result<(), QueueError> {
        if receipts.is_empty() {
            return Ok(());
        }
        let mut acked: BTreeMap<u32, BTreeSet<Place>> = BTreeMap::new();
        for receipt in receipts {
            acked.entry(receipt.stream).or_default().insert(receipt.id);
        }
        let parts: Vec<_> = {
            let drains = self.drains.lock();
            let (none, drain) = (Drain::default(), drains.get(consumer));
            let parts = acked.iter().map(|(stream, places)| {
                let (upto, rest) = drain.unwrap_or(&none).acknowledged(*stream, places);
                (*stream, upto, rest)
            });
            parts.collect()
        };
        self.forget(consumer, parts.into_iter()).await?;
        if let Some(drain) = self.drains.lock().get_mut(consumer) {
            for (stream, places) in &acked {
                if let Some(held) = drain.held.get_mut(stream) {
                    held.retain(|place| !places.contains(place));
                }
            }
            drain.held.retain(|_, held| !held.is_empty());
        }
        Ok(())
    }

    async fn forget(
        &self,
        consumer: &ConsumerId,
        parts: impl Iterator<Item = (u32, Option<Place>, Vec<Place>)>,
    ) -> Result<(), QueueError> {
        let mut arguments: Vec<Value> = vec![(&*consumer.0).into()];
        for (stream, upto, rest) in parts {
            let stream = Value::from(i64::from(stream));
            if let Some(upto) = upto {
                arguments.extend([stream.clone(), "upto".into(), 1.into(), text(upto)]);
            }
            if !rest.is_empty() {
                let count = i64::try_from(rest.len()).unwrap_or(i64::MAX);
                arguments.extend([stream, "only".into(), count.into()]);
                arguments.extend(rest.into_iter().map(text));
            }
        }
        self.connection.run(&ACK, arguments).await?;
        Ok(())
    }

    pub(super) async fn release(&self, consumer: &ConsumerId) -> Result<(), QueueError> {
        self.drains.lock().remove(consumer);
        self.connection.run(&RELEASE, vec![(&*consumer.0).into()]).await?;
        Ok(())
    }
}

fn index(number: i64) -> Option<u32> {
    u32::try_from(number).ok()
}
