//! Results: handed to the recorder that has their stream, and forgotten when they are recorded.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fred::types::Value;
use healthmon_core::ports::{ConsumerId, QueueError, Receipt, ResultDelivery};
use tokio::time::Instant;

use super::{
    codec::decode_results,
    connection::{Script, items, number, strings},
    probes::{Entry, entries_of},
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

/// Where a result lies in its bundle, and in which stream: in a receipt's `stream`, the place in the
/// bundle in the higher half.
fn receipt(stream: u32, place: Place, at: usize) -> Receipt {
    Receipt { stream: u32::try_from(at).unwrap_or(u32::MAX) << 16 | stream & 0xffff, id: place }
}

/// A bit for each of a bundle's results.
fn bit(receipt: Receipt) -> u64 {
    1_u64.checked_shl(receipt.stream >> 16).unwrap_or(0)
}

/// What each recorder of this process was given and has not acknowledged, by stream and in order.
/// Redis has the truth of who owns a stream; this is only where to read on.
#[derive(Default)]
pub(super) struct Drains(Mutex<HashMap<ConsumerId, Drain>>);

#[derive(Default)]
struct Drain {
    held: BTreeMap<u32, VecDeque<Held>>,
    /// Bundles that were given to it and did not fit into what was asked for.
    more: VecDeque<(u32, VecDeque<ResultDelivery>)>,
    /// When all of its streams were last looked into, not only those marked to have news. `None`
    /// when that is to be done: marks may have been taken off by a call whose answer was lost.
    looked: Option<Instant>,
    /// The stream that is read first, moved on with each call so that none waits for ever.
    first: u32,
}

/// A bundle of results that is not acknowledged as a whole.
#[derive(Clone, Copy)]
struct Held {
    place: Place,
    all: u64,
    done: u64,
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

/// What is acknowledged of a stream: all before a place, which is so many results more, and single ones.
#[derive(Default)]
struct Acknowledged {
    upto: Option<(Place, u32)>,
    only: Vec<(Place, u64)>,
}

impl Drain {
    /// What to say of these, of one stream.
    fn acknowledged(&self, stream: u32, acked: &BTreeMap<Place, u64>) -> Acknowledged {
        let (mut said, mut count) = (Acknowledged::default(), 0);
        let mut news = acked.clone();
        for held in self.held.get(&stream).into_iter().flatten() {
            let new = acked.get(&held.place).map_or(0, |new| new & !held.done);
            if held.done | new != held.all {
                break;
            }
            count += new.count_ones();
            news.remove(&held.place);
            said.upto = Some((after(held.place), count));
        }
        said.only = news.into_iter().collect();
        said
    }

    /// Notes what Redis has taken.
    fn confirm(&mut self, stream: u32, acked: &BTreeMap<Place, u64>) {
        let Some(held) = self.held.get_mut(&stream) else { return };
        for bundle in held.iter_mut() {
            bundle.done |= acked.get(&bundle.place).copied().unwrap_or(0) & bundle.all;
        }
        while held.front().is_some_and(|first| first.done == first.all) {
            held.pop_front();
        }
        if held.is_empty() {
            self.held.remove(&stream);
        }
    }

    /// Of what it was given, so much as fits: whole bundles, unless the first does not fit by itself.
    fn next(&mut self, max: usize) -> Vec<ResultDelivery> {
        let mut taken = Vec::new();
        while let Some((_, bundle)) = self.more.front_mut() {
            let room = max - taken.len();
            if bundle.len() > room && !taken.is_empty() {
                break;
            }
            taken.extend(bundle.drain(..bundle.len().min(room)));
            if !bundle.is_empty() {
                break;
            }
            self.more.pop_front();
        }
        taken
    }
}

impl Inner {
    /// Whether there are results that this recorder was given and that nobody has asked for yet.
    pub(super) fn has_more(&self, consumer: &ConsumerId) -> bool {
        self.drains.lock().get(consumer).is_some_and(|drain| !drain.more.is_empty())
    }

    pub(super) async fn take_results(
        &self,
        consumer: &ConsumerId,
        max: NonZeroUsize,
        idle: i64,
    ) -> Result<(Vec<ResultDelivery>, Left), QueueError> {
        let streams = i64::from(self.streams());
        let lease = i64::try_from(self.limits.drain_lease.as_millis()).unwrap_or(i64::MAX);
        let mut arguments: Vec<Value> = vec![(&*consumer.0).into(), lease.into(), streams.into()];
        let (begun, looked) = (Instant::now(), {
            let mut drains = self.drains.lock();
            let drain = drains.entry(consumer.clone()).or_default();
            let had: usize = drain.more.iter().map(|(_, bundle)| bundle.len()).sum();
            let room = i64::try_from(max.get().min(TAKE_MOST).saturating_sub(had)).unwrap_or(i64::MAX);
            drain.first = (drain.first + 1) % u32::from(self.streams());
            let looked = drain.looked.take().filter(|looked| looked.elapsed() < LOOK_INTO_ALL);
            arguments.extend([room.into(), idle.into(), i64::from(drain.first).into()]);
            arguments.push(i64::from(looked.is_none()).into());
            for (stream, held) in &drain.held {
                if let Some(last) = held.back() {
                    arguments.extend([i64::from(*stream).into(), text(last.place)]);
                }
            }
            looked
        });
        let mut answer = items(self.connection.run(&RESULTS, arguments).await?).into_iter();
        let lost: Vec<u32> =
            answer.next().map(items).unwrap_or_default().iter().filter_map(|stream| index(number(stream))).collect();
        let noted: HashSet<String> = answer.next().map(strings).unwrap_or_default().into_iter().collect();
        let (mut given, mut settled) = (Vec::new(), BTreeSet::new());
        for part in answer {
            let mut part = items(part).into_iter();
            let (Some(stream), Some(entries)) = (part.next().and_then(|stream| index(number(&stream))), part.next())
            else {
                continue;
            };
            for entry in entries_of(entries) {
                let (held, bundle) = read(stream, &entry, &noted);
                if held.done == held.all {
                    settled.insert(stream);
                }
                given.push((stream, held, bundle));
            }
        }
        // No await from here on but for what does not matter: a call that is dropped before leaves all
        // as it was, and one that is dropped after has its results still to come.
        let taken = {
            let mut drains = self.drains.lock();
            let drain = drains.entry(consumer.clone()).or_default();
            drain.looked = Some(looked.unwrap_or(begun));
            for stream in lost {
                drain.held.remove(&stream);
                drain.more.retain(|(of, _)| *of != stream);
            }
            for (stream, held, bundle) in given {
                drain.held.entry(stream).or_default().push_back(held);
                if !bundle.is_empty() {
                    drain.more.push_back((stream, bundle));
                }
            }
            settled.is_empty().then(|| drain.next(max.get()))
        };
        let taken = match taken {
            Some(taken) => taken,
            None => {
                // Nobody will acknowledge what holds nothing.
                self.acknowledge(consumer, settled.into_iter().map(|stream| (stream, BTreeMap::new())).collect())
                    .await?;
                self.drains.lock().entry(consumer.clone()).or_default().next(max.get())
            }
        };
        let left = if taken.is_empty() { Left::Nothing } else { Left::Perhaps };
        Ok((taken, left))
    }

    pub(super) async fn ack_results(&self, consumer: &ConsumerId, receipts: &[Receipt]) -> Result<(), QueueError> {
        if receipts.is_empty() {
            return Ok(());
        }
        let mut acked: BTreeMap<u32, BTreeMap<Place, u64>> = BTreeMap::new();
        for receipt in receipts {
            *acked.entry(receipt.stream & 0xffff).or_default().entry(receipt.id).or_default() |= bit(*receipt);
        }
        self.acknowledge(consumer, acked).await
    }

    async fn acknowledge(
        &self,
        consumer: &ConsumerId,
        acked: BTreeMap<u32, BTreeMap<Place, u64>>,
    ) -> Result<(), QueueError> {
        let mut arguments: Vec<Value> = vec![(&*consumer.0).into()];
        {
            let drains = self.drains.lock();
            let (none, drain) = (Drain::default(), drains.get(consumer));
            for (stream, acked) in &acked {
                let Acknowledged { upto, only } = drain.unwrap_or(&none).acknowledged(*stream, acked);
                if let Some((place, count)) = upto {
                    arguments.extend([i64::from(*stream).into(), "upto".into(), text(place), i64::from(count).into()]);
                }
                let parts: Vec<Value> =
                    only.into_iter().flat_map(|(place, bits)| notes(*stream, place, bits)).collect();
                if !parts.is_empty() {
                    let count = i64::try_from(parts.len()).unwrap_or(i64::MAX);
                    arguments.extend([i64::from(*stream).into(), "only".into(), count.into()]);
                    arguments.extend(parts);
                }
            }
        }
        if arguments.len() > 1 || acked.values().any(|places| !places.is_empty()) {
            self.connection.run(&ACK, arguments).await?;
        }
        if let Some(drain) = self.drains.lock().get_mut(consumer) {
            acked.iter().for_each(|(stream, acked)| drain.confirm(*stream, acked));
        }
        Ok(())
    }

    pub(super) async fn release(&self, consumer: &ConsumerId) -> Result<(), QueueError> {
        self.drains.lock().remove(consumer);
        self.connection.run(&RELEASE, vec![(&*consumer.0).into()]).await?;
        Ok(())
    }
}

/// A bundle as it is held, and what of it is to be recorded.
fn read(stream: u32, entry: &Entry, noted: &HashSet<String>) -> (Held, VecDeque<ResultDelivery>) {
    let mut held = Held { place: entry.id, all: 0, done: 0 };
    let results = decode_results(&entry.bundle).unwrap_or_else(|error| vec![Err(error)]);
    let mut bundle = VecDeque::with_capacity(results.len());
    for (at, result) in results.into_iter().enumerate() {
        let receipt = receipt(stream, entry.id, at);
        held.all |= bit(receipt);
        match result {
            _ if !noted.is_empty() && noted.contains(&note(stream, entry.id, at)) => held.done |= bit(receipt),
            Ok(result) => bundle.push_back(ResultDelivery { result, receipt }),
            Err(error) => {
                tracing::error!(%error, stream, id = ?entry.id, "a result was dropped");
                held.done |= bit(receipt);
            }
        }
    }
    (held, bundle)
}

fn note(stream: u32, (millis, sequence): Place, at: usize) -> String {
    format!("{stream}:{millis}-{sequence}:{at}")
}

fn notes(stream: u32, place: Place, bits: u64) -> impl Iterator<Item = Value> {
    (0..64).filter(move |at| bits >> at & 1 == 1).map(move |at| note(stream, place, at).into())
}

fn index(number: i64) -> Option<u32> {
    u32::try_from(number).ok()
}
