//! Probes: put in, handed out, completed, given up.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use fred::types::Value;
use healthmon_core::{
    id::{Epoch, Region},
    ports::{Completion, Delivery, Enqueued, MAX_DELIVERIES, QueueError, Receipt},
    probe::{IndeterminateReason, Observation, Probe, ProbeId, ProbeResult},
    shard::Claim,
    time::Timestamp,
};
use tokio::{sync::oneshot, time::Instant};

use super::{
    codec::{self, Head, encode_results, put_name},
    connection::{RedisError, Script, items, number},
    queue::{Inner, Left},
};

static ENQUEUE: Script = Script::new(include_str!("scripts/enqueue.lua"));
static TAKE: Script = Script::new(include_str!("scripts/take.lua"));
static GIVE_BACK: Script = Script::new(include_str!("scripts/give_back.lua"));
static COMPLETE: Script = Script::new(include_str!("scripts/complete.lua"));

/// The most probes handed out by one call of the server: its other clients wait meanwhile.
const TAKE_MOST: usize = 1_000;
/// When a full queue may have room.
const FULL_RETRY: Duration = Duration::from_millis(50);

/// The width of a bucket, in milliseconds: probes whose slots are in one are known together, and
/// forgotten together. Scripts know it too.
const BUCKET: i64 = 30_000;

fn bucket(id: &ProbeId) -> i64 {
    id.slot.as_millis().div_euclid(BUCKET)
}

pub(super) fn entry_id(text: &str) -> Option<(u64, u64)> {
    let (millis, sequence) = text.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// Where a probe that was handed out lies: the bundle, and which of how many it is.
///
/// In a receipt the three numbers are in `stream`, in this order from the highest bits: size, place,
/// and the number of the region among the process's own, so that no two receipts are the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) id: Id,
    pub(super) place: u8,
    pub(super) size: u8,
}

impl At {
    fn receipt(self, region: usize) -> Receipt {
        let region = u32::try_from(region).unwrap_or(u32::MAX) & 0xffff;
        Receipt { stream: u32::from(self.size) << 24 | u32::from(self.place) << 16 | region, id: self.id }
    }

    const fn of(receipt: Receipt) -> Self {
        let [size, place, ..] = receipt.stream.to_be_bytes();
        Self { id: receipt.id, place, size }
    }
}

/// An entry's id.
type Id = (u64, u64);

/// A probe that was handed to the queue itself.
pub(super) struct Ended {
    pub(super) region: Region,
    /// `None` of a whole bundle that cannot be read.
    pub(super) at: Option<At>,
    pub(super) entry: Id,
    /// How many times it has been handed out to workers.
    pub(super) deliveries: u32,
    pub(super) payload: Bytes,
}

impl Ended {
    /// Whether it may be begun at this time.
    pub(super) fn starts_by(&self, now: Timestamp) -> bool {
        self.at.is_some() && Head::read(&self.payload).is_ok_and(|(head, _)| head.start_by >= now)
    }
}

/// What is done of each bundle that this process has, as far as Redis has confirmed it.
#[derive(Default)]
pub(super) struct Bundles(Mutex<HashMap<(Region, Id), Progress>>);

struct Progress {
    /// A bit for each place.
    done: u32,
    since: Instant,
}

/// All places of a bundle.
const fn all(size: u8) -> u32 {
    if size >= 32 { u32::MAX } else { (1 << size) - 1 }
}

impl Bundles {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Region, Id), Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn took(&self, region: &Region, id: Id) {
        self.lock().insert((region.clone(), id), Progress { done: 0, since: Instant::now() });
    }

    /// Finds out which bundles are done when these parts are. Of one that another process took only it
    /// knows.
    fn settle(&self, parts: &mut Parts<'_>) {
        let bundles = self.lock();
        for part in parts.0.values_mut() {
            let known = bundles.get(&(part.region.clone(), part.id)).map_or(0, |progress| progress.done);
            part.last = known | part.places == all(part.size);
        }
    }

    /// Notes what is done. Says whether the whole bundle is, of one that was taken here.
    fn confirm(&self, part: &Part<'_>) -> bool {
        let (mut bundles, key) = (self.lock(), (part.region.clone(), part.id));
        let Some(progress) = bundles.get_mut(&key) else { return false };
        progress.done |= part.places;
        let done = progress.done == all(part.size);
        if done {
            bundles.remove(&key);
        }
        done
    }

    /// Takes note that these are no longer this process's.
    pub(super) fn are_back(&self, region: &Region, probes: &[Ended]) {
        let mut parts = Parts::default();
        probes.iter().filter_map(|probe| probe.at).for_each(|at| parts.add(region, at, None));
        for part in parts.0.values() {
            self.confirm(part);
        }
    }

    /// Forgets bundles that nobody completed in so long: others have had them since.
    pub(super) fn forget(&self, older: Duration) {
        self.lock().retain(|_, progress| progress.since.elapsed() < older);
    }
}

/// What is done of a bundle by one call.
struct Part<'a> {
    region: &'a Region,
    id: Id,
    size: u8,
    places: u32,
    /// One after the other.
    names: BytesMut,
    /// Whether the bundle is acknowledged with it.
    last: bool,
}

/// Puts together what is of one bundle.
#[derive(Default)]
struct Parts<'a>(BTreeMap<(&'a Region, Id), Part<'a>>);

impl<'a> Parts<'a> {
    fn of(&mut self, region: &'a Region, id: Id, size: u8) -> &mut Part<'a> {
        let empty = || Part { region, id, size, places: 0, names: BytesMut::new(), last: false };
        self.0.entry((region, id)).or_insert_with(empty)
    }

    fn add(&mut self, region: &'a Region, at: At, probe: Option<&ProbeId>) {
        let part = self.of(region, at.id, at.size);
        let place = 1_u32.checked_shl(at.place.into()).unwrap_or(0);
        if part.places & place == 0 {
            part.places |= place;
            if let Some(id) = probe {
                put_name(id, &mut part.names);
            }
        }
    }
}

impl Inner {
    pub(super) async fn enqueue(&self, probes: &[Probe]) -> Result<Enqueued, QueueError> {
        if probes.is_empty() {
            return Ok(Enqueued::default());
        }
        let arguments = self.enqueue_arguments(probes).map_err(|error| QueueError::Permanent(Box::new(error)))?;
        let answer = items(self.connection.run(&ENQUEUE, arguments).await?);
        match answer.as_slice() {
            [accepted, repeated, fenced] => {
                let count = |value| usize::try_from(number(value)).unwrap_or(0);
                Ok(Enqueued { accepted: count(accepted), repeated: count(repeated), fenced: count(fenced) })
            }
            _ => Err(QueueError::Full { retry_after: FULL_RETRY }),
        }
    }

    fn enqueue_arguments(&self, probes: &[Probe]) -> Result<Vec<Value>, serde_json::Error> {
        let mut order: Vec<&Probe> = probes.iter().collect();
        let timeout = |probe: &Probe| probe.service.settings.timeout.get();
        let of = |probe: &Probe| (bucket(&probe.id), timeout(probe), probe.id.slot);
        order.sort_by(|a, b| a.id.region.cmp(&b.id.region).then_with(|| of(a).cmp(&of(b))));
        let (mut claims, mut numbers) = (BytesMut::new(), HashMap::<Claim, u16>::new());
        for claim in order.iter().filter_map(|probe| probe.claim) {
            let number = u16::try_from(numbers.len() + 1).unwrap_or(u16::MAX);
            numbers.entry(claim).or_insert_with(|| {
                claims.put_u16(claim.shard.0);
                claims.put_u64(claim.epoch.0);
                number
            });
        }
        let bundles: Vec<&[&Probe]> = order
            // A bundle has one lease: that of a long timeout would keep the others of a worker that is gone.
            .chunk_by(|a, b| a.id.region == b.id.region && bucket(&a.id) == bucket(&b.id) && timeout(a) == timeout(b))
            .flat_map(|same| same.chunks(codec::PROBES))
            .collect();
        let mut arguments = Vec::with_capacity(3 + bundles.len() * 5);
        arguments.extend([size(self.limits.capacity), size(probes.len()), Value::Bytes(claims.freeze())]);
        let written = self.encoder.encode(bundles.iter().copied())?;
        for (bundle, written) in bundles.into_iter().zip(written) {
            let (mut claimed, mut names) = (BytesMut::new(), BytesMut::with_capacity(bundle.len() * codec::NAME));
            for probe in bundle {
                claimed.put_u16(probe.claim.and_then(|claim| numbers.get(&claim).copied()).unwrap_or(0));
                put_name(&probe.id, &mut names);
            }
            let id = &bundle[0].id;
            arguments.extend([id.region.as_str().into(), bucket(id).into()]);
            arguments.extend([claimed.freeze(), names.freeze(), written].map(Value::Bytes));
        }
        Ok(arguments)
    }

    /// Takes probes in a task of its own: when the caller is gone, they are given back.
    pub(super) async fn take(
        this: &Arc<Self>,
        max: NonZeroUsize,
        idle: i64,
    ) -> Result<(Vec<Delivery>, Left), QueueError> {
        let (own, max) = (Arc::clone(this), max.get().min(TAKE_MOST));
        let (send, taken) = oneshot::channel();
        tokio::spawn(async move {
            let taken = own.take_now(max, idle).await;
            if let Err(Ok((unclaimed, _))) = send.send(taken) {
                own.give_back(unclaimed).await;
            }
        });
        // The task ends only with an answer, or with the runtime.
        taken.await.unwrap_or_else(|_| Err(RedisError::wrong("the runtime is at its end").into()))
    }

    async fn take_now(&self, max: usize, idle: i64) -> Result<(Vec<Delivery>, Left), QueueError> {
        let mut arguments: Vec<Value> =
            vec![self.consumer.as_str().into(), size(max), size(codec::PROBES), Value::from(idle)];
        arguments.extend(self.regions.iter().map(|region| Value::from(region.as_str())));
        let answer = items(self.connection.run(&TAKE, arguments).await?);
        let now = self.clock.now();
        let (mut deliveries, mut ended, mut count) = (Vec::new(), Vec::new(), 0);
        for part in answer {
            let mut part = items(part).into_iter();
            let (Some(region), Some(entries)) = (part.next(), part.next()) else { continue };
            let region = region.as_str();
            let own = |(_, own): &(usize, &Region)| Some(own.as_str()) == region.as_deref();
            let Some((number_of, region)) = self.regions.iter().enumerate().find(own) else { continue };
            for Entry { id, bundle, before } in entries_of(entries) {
                for probe in self.taken(region, id, bundle, before + 1) {
                    count += 1;
                    match self.decoder.decode(region, &probe.payload) {
                        Ok(decoded) if decoded.start_by >= now && probe.deliveries <= MAX_DELIVERIES => {
                            let Some(at) = probe.at else { continue };
                            let (delivery, receipt) = (probe.deliveries, at.receipt(number_of));
                            deliveries.push(Delivery { probe: decoded, delivery, receipt });
                        }
                        _ => ended.push(Ended { deliveries: probe.deliveries - 1, ..probe }),
                    }
                }
            }
        }
        if !ended.is_empty()
            && let Err(error) = self.give_up(ended).await
        {
            // They come again when their lease has run out.
            tracing::warn!(%error, "cannot give up probes for now");
        }
        if deliveries.len() > max {
            self.give_back(deliveries.split_off(max)).await;
        }
        Ok((deliveries, if count < max { Left::Nothing } else { Left::Perhaps }))
    }

    /// The probes of a bundle that was handed out to this process, so many times by now.
    pub(super) fn taken(&self, region: &Region, entry: Id, bundle: Bytes, deliveries: u32) -> Vec<Ended> {
        let ended = |at, payload| Ended { region: region.clone(), at, entry, deliveries, payload };
        let parts = codec::parts(&bundle).ok().filter(|parts| (1..=codec::PROBES).contains(&parts.len()));
        let Some(parts) = parts else { return vec![ended(None, bundle)] };
        self.bundles.took(region, entry);
        let size = u8::try_from(parts.len()).unwrap_or(u8::MAX);
        let at = |place| At { id: entry, place, size };
        (0..).zip(parts).map(|(place, payload)| ended(Some(at(place)), payload)).collect()
    }

    /// Puts probes back as if they had not been handed out.
    async fn give_back(&self, unclaimed: Vec<Delivery>) {
        if unclaimed.is_empty() {
            return;
        }
        if let Err(error) = self.put_back(&unclaimed).await {
            tracing::warn!(%error, "cannot give probes back; they come again when their lease has run out");
        }
    }

    async fn put_back(&self, unclaimed: &[Delivery]) -> Result<(), QueueError> {
        let (mut parts, mut probes) = (Parts::default(), BTreeMap::<_, (u32, Vec<&Probe>)>::new());
        for Delivery { probe, delivery, receipt } in unclaimed {
            let (at, region) = (At::of(*receipt), &probe.id.region);
            parts.add(region, at, None);
            probes.entry((region, at.id)).or_insert((delivery - 1, Vec::new())).1.push(probe);
        }
        self.bundles.settle(&mut parts);
        let mut arguments: Vec<Value> = Vec::new();
        for (part, (before, probes)) in parts.0.values().zip(probes.values()) {
            let alone: Vec<&[&Probe]> = probes.chunks(1).collect();
            let written = self.encoder.encode(alone.into_iter());
            let written = written.map_err(|error| QueueError::Permanent(Box::new(error)))?;
            arguments.extend([part.region.as_str().into(), text(part.id)]);
            arguments.extend([i64::from(part.last).into(), i64::from(*before).into()]);
            arguments.push(size(written.len()));
            arguments.extend(written.into_iter().map(Value::Bytes));
        }
        self.connection.run(&GIVE_BACK, arguments).await?;
        self.confirm(parts).await
    }

    pub(super) async fn complete(&self, completions: &[Completion]) -> Result<(), QueueError> {
        let mut done = Parts::default();
        for Completion { receipt, result } in completions {
            done.add(&result.id.region, At::of(*receipt), Some(&result.id));
        }
        self.store(&[], completions.iter().map(|completion| &completion.result), done).await
    }

    /// Turns probes that nobody will bring to an end into results.
    pub(super) async fn give_up(&self, ended: Vec<Ended>) -> Result<(), QueueError> {
        let now = self.clock.now();
        let (mut poison, mut results) = (Vec::new(), Vec::new());
        for probe in &ended {
            let (result, poisonous) = self.end(probe, now);
            match &result {
                Some(result) => {
                    let reason = result.seen.outcome.reason().map(|reason| reason.as_str());
                    tracing::warn!(probe = %result.id, reason, deliveries = probe.deliveries, "a probe was given up");
                }
                None => tracing::error!(region = %probe.region, id = ?probe.entry, "an unreadable probe was dropped"),
            }
            if poisonous {
                poison.push(Value::Bytes(probe.payload.clone()));
            }
            results.push(result);
        }
        let mut done = Parts::default();
        for (probe, result) in ended.iter().zip(&results) {
            let whole = At { id: probe.entry, place: 0, size: 1 };
            done.add(&probe.region, probe.at.unwrap_or(whole), result.as_ref().map(|result| &result.id));
        }
        self.store(&poison, results.iter().flatten(), done).await
    }

    /// What becomes of a probe that is given up: its result, and whether it is kept as poison.
    fn end(&self, ended: &Ended, now: Timestamp) -> (Option<ProbeResult>, bool) {
        let Ended { region, deliveries, payload, .. } = ended;
        let Ok(probe) = self.decoder.decode(region, payload) else {
            let seen = Observation::indeterminate(IndeterminateReason::Poison, "this version cannot read the probe");
            let id = Head::read(payload).map(|(Head { slot, kind, service, .. }, _)| ProbeId {
                service,
                slot,
                region: region.clone(),
                kind,
            });
            // The bytes before the first probe are no head.
            let id = id.ok().filter(|_| ended.at.is_some());
            return (id.map(|id| ProbeResult { id, epoch: Epoch::default(), started: now, seen }), true);
        };
        if *deliveries >= MAX_DELIVERIES {
            let detail = format!("handed out {deliveries} times and never completed");
            (Some(probe.indeterminate(IndeterminateReason::Poison, now, &detail)), true)
        } else {
            let detail = "no worker began it by its start-by";
            (Some(probe.indeterminate(IndeterminateReason::Expired, now, detail)), false)
        }
    }

    /// Stores results, each service's in their order, then acknowledges probes.
    async fn store<'a>(
        &self,
        poison: &[Value],
        results: impl Iterator<Item = &'a ProbeResult>,
        mut done: Parts<'_>,
    ) -> Result<(), QueueError> {
        self.bundles.settle(&mut done);
        let mut streams: BTreeMap<u16, Vec<&ProbeResult>> = BTreeMap::new();
        for result in results {
            streams.entry(self.stream_of(result.id.service)).or_default().push(result);
        }
        let mut arguments = vec![size(poison.len())];
        arguments.extend_from_slice(poison);
        arguments.push(size(streams.len()));
        for (stream, results) in streams {
            let bundles = results.chunks(codec::RESULTS);
            arguments.extend([i64::from(stream).into(), size(results.len()), size(bundles.len())]);
            for bundle in bundles {
                let written = encode_results(bundle).map_err(|error| QueueError::Permanent(Box::new(error)))?;
                arguments.push(Value::Bytes(written));
            }
        }
        for part in done.0.values() {
            arguments.extend([part.region.as_str().into(), text(part.id)]);
            arguments.push(i64::from(part.last).into());
            arguments.push(Value::Bytes(part.names.clone().freeze()));
        }
        self.connection.run(&COMPLETE, arguments).await?;
        self.confirm(done).await
    }

    /// Notes what Redis has taken, and acknowledges bundles that two calls have completed together, of
    /// which neither knew the other's part.
    async fn confirm(&self, parts: Parts<'_>) -> Result<(), QueueError> {
        let mut arguments = vec![size(0), size(0)];
        for part in parts.0.values() {
            if self.bundles.confirm(part) && !part.last {
                arguments.extend([part.region.as_str().into(), text(part.id), Value::from(1), Value::from("")]);
            }
        }
        if arguments.len() > 2 {
            self.connection.run(&COMPLETE, arguments).await?;
        }
        Ok(())
    }
}

fn text((millis, sequence): Id) -> Value {
    format!("{millis}-{sequence}").into()
}

fn size(size: usize) -> Value {
    i64::try_from(size).unwrap_or(i64::MAX).into()
}

/// An entry of a stream.
pub(super) struct Entry {
    pub(super) id: Id,
    /// Empty of one of another form.
    pub(super) bundle: Bytes,
    /// How many times its probes were handed out before.
    pub(super) before: u32,
}

/// The entries of a stream.
pub(super) fn entries_of(entries: Value) -> impl Iterator<Item = Entry> {
    items(entries).into_iter().filter_map(|entry| {
        let mut entry = items(entry).into_iter();
        let id = entry.next().and_then(Value::into_string)?;
        let mut fields = entry.next().map(items).unwrap_or_default().into_iter();
        let bundle = fields.nth(1).and_then(Value::into_bytes).unwrap_or_default();
        let before = fields.nth(1).map_or(0, |before| u32::try_from(number(&before)).unwrap_or(0));
        Some(Entry { id: entry_id(&id)?, bundle, before })
    })
}
