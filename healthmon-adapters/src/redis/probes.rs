//! Probes: put in, handed out, completed, given up.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
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
    codec::{self, Row, Unreadable, encode_results, put_name},
    connection::{RedisError, Script, items, number},
    queue::{Inner, Left},
};

static ENQUEUE: Script = Script::new(include_str!("scripts/enqueue.lua"));
static TAKE: Script = Script::new(concat!(include_str!("scripts/bundles.lua"), include_str!("scripts/take.lua")));
static GIVE_BACK: Script =
    Script::new(concat!(include_str!("scripts/bundles.lua"), include_str!("scripts/give_back.lua")));
static COMPLETE: Script =
    Script::new(concat!(include_str!("scripts/bundles.lua"), include_str!("scripts/complete.lua")));

/// The most probes handed out by one call of the server: its other clients wait meanwhile.
const TAKE_MOST: usize = 1_000;
/// When a full queue may have room.
const FULL_RETRY: Duration = Duration::from_millis(50);

/// The width of a bucket, in milliseconds: probes whose slots are in one are known together, and
/// forgotten together, which is a pause for everybody when there are many.
const BUCKET: i64 = 2_000;

/// Probes that are alike and stand together, in bundles that are neither too many nor too large.
fn bundles<'a, 'b>(
    probes: &'b [&'a Probe],
    lengths: &[usize],
    alike: impl Fn(&Probe, &Probe) -> bool,
) -> Vec<&'b [&'a Probe]> {
    let (mut bundles, mut from, mut bytes) = (Vec::with_capacity(probes.len() / codec::PROBES + 1), 0, 0);
    for (at, length) in lengths.iter().enumerate() {
        let fits = at - from < codec::PROBES && bytes + length <= codec::BYTES;
        if at > from && !(fits && alike(probes[at - 1], probes[at])) {
            bundles.push(&probes[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += length;
    }
    if from < probes.len() {
        bundles.push(&probes[from..]);
    }
    bundles
}

fn bucket(id: &ProbeId) -> i64 {
    id.slot.as_millis().div_euclid(BUCKET)
}

pub(super) fn entry_id(text: &str) -> Option<(u64, u64)> {
    let (millis, sequence) = text.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// An entry's id.
type Id = (u64, u64);

/// Where a probe that was handed out lies: the bundle, and its place in it.
///
/// In a receipt the place is in the higher half of `stream`, and in the lower the number of the region
/// among the process's own, so that no two receipts are the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    id: Id,
    place: u8,
}

impl At {
    fn receipt(self, region: usize) -> Receipt {
        let region = u32::try_from(region).unwrap_or(u32::MAX) & 0xffff;
        Receipt { stream: u32::from(self.place) << 16 | region, id: self.id }
    }

    const fn of(receipt: Receipt) -> Self {
        let [_, place, ..] = receipt.stream.to_be_bytes();
        Self { id: receipt.id, place }
    }
}

/// How long probes stay with a process that had no room for them.
const HOLD: Duration = Duration::from_millis(20);

/// Probes that came in a bundle and did not fit into what was asked for.
///
/// They stay for a moment where somebody asks again and again for a few, as a worker does that is full: on
/// the stream they would be behind all that waits. Otherwise they go back at once.
#[derive(Default)]
pub(super) struct Surplus(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    probes: VecDeque<(Instant, Delivery)>,
    /// When it was last asked for probes.
    asked: Option<Instant>,
}

impl Surplus {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().probes.len()
    }

    /// As many as there are and as are asked for; and whether to keep what will not fit.
    fn ask(&self, max: usize) -> (Vec<Delivery>, bool) {
        let mut kept = self.lock();
        let often = kept.asked.replace(Instant::now()).is_some_and(|asked| asked.elapsed() < HOLD);
        let some = max.min(kept.probes.len());
        (kept.probes.drain(..some).map(|(_, delivery)| delivery).collect(), often)
    }

    fn keep(&self, deliveries: Vec<Delivery>) {
        let now = Instant::now();
        self.lock().probes.extend(deliveries.into_iter().map(|delivery| (now, delivery)));
    }

    fn take_old(&self) -> Vec<Delivery> {
        let mut kept = self.lock();
        let some = kept.probes.iter().take_while(|(since, _)| since.elapsed() >= HOLD).count();
        kept.probes.drain(..some).map(|(_, delivery)| delivery).collect()
    }
}

/// A probe that was handed out to this process.
pub(super) struct Taken {
    region: Region,
    at: At,
    /// How many times it has been handed out to workers.
    deliveries: u32,
    /// What tells which probe it is, if that can be read.
    id: Option<ProbeId>,
    probe: Result<Probe, Unreadable>,
    bundle: Bytes,
}

/// What is said of bundles by one call.
#[derive(Default)]
struct Parts<'a>(BTreeMap<(&'a Region, Id), Part>);

#[derive(Default)]
struct Part {
    /// A bit for each probe.
    places: u16,
    /// One after the other.
    names: BytesMut,
}

impl<'a> Parts<'a> {
    fn add(&mut self, region: &'a Region, at: At, probe: Option<&ProbeId>) {
        let part = self.0.entry((region, at.id)).or_default();
        part.places |= 1_u16.checked_shl(at.place.into()).unwrap_or(0);
        if let Some(id) = probe {
            put_name(id, &mut part.names);
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
        // A bundle has one lease: that of a long timeout would keep the others of a worker that is gone.
        let key = |probe: &Probe| (bucket(&probe.id), timeout(probe));
        let alike = |a: &Probe, b: &Probe| a.id.region == b.id.region && key(a) == key(b);
        let bundles = bundles(&order, &self.encoder.lengths(&order)?, alike);
        let mut arguments = Vec::with_capacity(3 + bundles.len() * 4);
        arguments.extend([size(self.limits.capacity), size(probes.len()), Value::Bytes(claims.freeze())]);
        let written = self.encoder.encode(bundles.iter().copied())?;
        for (bundle, written) in bundles.into_iter().zip(written) {
            let mut claimed = BytesMut::with_capacity(2 * bundle.len());
            for probe in bundle {
                claimed.put_u16(probe.claim.and_then(|claim| numbers.get(&claim).copied()).unwrap_or(0));
            }
            let id = &bundle[0].id;
            arguments.extend([id.region.as_str().into(), bucket(id).into()]);
            arguments.extend([claimed.freeze(), written].map(Value::Bytes));
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
        let (kept, often) = own.surplus.ask(max);
        if kept.len() == max {
            return Ok((kept, Left::Perhaps));
        }
        let (send, taken) = oneshot::channel();
        tokio::spawn(async move {
            let mut surplus = Vec::new();
            let taken = match own.take_now(max - kept.len(), idle).await {
                Ok((mut more, left)) => {
                    surplus = more.split_off(more.len().min(max - kept.len()));
                    Ok((kept.into_iter().chain(more).collect(), left))
                }
                Err(_) if !kept.is_empty() => Ok((kept, Left::Perhaps)),
                Err(error) => Err(error),
            };
            let keep = often && !surplus.is_empty();
            if keep {
                own.surplus.keep(std::mem::take(&mut surplus));
            }
            // Before the answer, so that whoever looks after it finds them where they are.
            own.give_back(surplus).await;
            if let Err(Ok((unclaimed, _))) = send.send(taken) {
                own.give_back(unclaimed).await;
            }
            if keep {
                tokio::time::sleep(HOLD).await;
                own.give_back(own.surplus.take_old()).await;
            }
        });
        // The task ends only with an answer, or with the runtime.
        taken.await.unwrap_or_else(|_| Err(RedisError::wrong("the runtime is at its end").into()))
    }

    /// Takes so many probes, or a few more.
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
            for Entry { id, bundle, places, before } in entries_of(entries) {
                for taken in self.taken(region, id, bundle, places, before.saturating_add(1)) {
                    count += 1;
                    match taken {
                        Taken { at, deliveries: delivery, probe: Ok(probe), .. }
                            if probe.start_by >= now && delivery <= MAX_DELIVERIES =>
                        {
                            deliveries.push(Delivery { probe, delivery, receipt: at.receipt(number_of) });
                        }
                        taken => ended.push(Taken { deliveries: taken.deliveries - 1, ..taken }),
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
        Ok((deliveries, if count < max { Left::Nothing } else { Left::Perhaps }))
    }

    /// Of a bundle that was handed out to this process, so many times by now, the probes with these places.
    pub(super) fn taken(
        &self,
        region: &Region,
        entry: Id,
        bundle: Bytes,
        places: Option<u16>,
        deliveries: u32,
    ) -> Vec<Taken> {
        let taken = |place, id, probe| Taken {
            region: region.clone(),
            at: At { id: entry, place },
            deliveries,
            id,
            probe,
            bundle: bundle.clone(),
        };
        let places = places.unwrap_or(u16::MAX);
        // What nobody of ours has put there counts as one probe.
        let Some(read) = codec::Bundle::read(&bundle).ok().filter(|_| places > 0) else {
            return vec![taken(0, None, Err(Unreadable))];
        };
        let wanted = (0..).zip(&read.rows).filter(|(place, _)| places >> place & 1 == 1);
        let probes = self.decoder.decode(region, &read, places);
        let id = |row: &Result<Row, _>| row.ok().map(|row| row.id(region));
        wanted.zip(probes).map(|((place, row), probe)| taken(place, id(row), probe)).collect()
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
        let (mut parts, mut before) = (Parts::default(), BTreeMap::new());
        for Delivery { probe, delivery, receipt } in unclaimed {
            let (at, region) = (At::of(*receipt), &probe.id.region);
            parts.add(region, at, None);
            before.insert((region, at.id), delivery - 1);
        }
        let mut arguments: Vec<Value> = Vec::with_capacity(4 * parts.0.len());
        for (((region, id), part), before) in parts.0.iter().zip(before.into_values()) {
            arguments.extend([region.as_str().into(), text(*id)]);
            arguments.extend([i64::from(part.places).into(), i64::from(before).into()]);
        }
        self.connection.run(&GIVE_BACK, arguments).await?;
        Ok(())
    }

    pub(super) async fn complete(&self, completions: &[Completion]) -> Result<(), QueueError> {
        let mut done = Parts::default();
        for Completion { receipt, result } in completions {
            done.add(&result.id.region, At::of(*receipt), Some(&result.id));
        }
        self.store(&[], completions.iter().map(|completion| &completion.result), done).await
    }

    /// Turns probes that nobody will bring to an end into results.
    pub(super) async fn give_up(&self, ended: Vec<Taken>) -> Result<(), QueueError> {
        let now = self.clock.now();
        let (mut poison, mut kept) = (Vec::new(), BTreeSet::new());
        let (mut results, mut done) = (Vec::new(), Parts::default());
        for taken in &ended {
            let (result, poisonous) = end(taken, now);
            let Taken { region, at, deliveries, .. } = taken;
            match &result {
                Some(result) => {
                    let reason = result.seen.outcome.reason().map(|reason| reason.as_str());
                    tracing::warn!(probe = %result.id, reason, deliveries, "a probe was given up");
                }
                None => tracing::error!(%region, id = ?at.id, "an unreadable probe was dropped"),
            }
            if poisonous && kept.insert((region, at.id)) {
                poison.push(Value::Bytes(taken.bundle.clone()));
            }
            done.add(region, *at, taken.id.as_ref());
            results.extend(result);
        }
        self.store(&poison, results.iter(), done).await
    }

    /// Stores results, each service's in their order, then acknowledges probes.
    async fn store<'a>(
        &self,
        poison: &[Value],
        results: impl Iterator<Item = &'a ProbeResult>,
        done: Parts<'_>,
    ) -> Result<(), QueueError> {
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
        for ((region, id), Part { places, names }) in done.0 {
            arguments.extend([region.as_str().into(), text(id)]);
            arguments.extend([i64::from(places).into(), Value::Bytes(names.freeze())]);
        }
        self.connection.run(&COMPLETE, arguments).await?;
        Ok(())
    }
}

/// What becomes of a probe that is given up: its result, and whether it is kept as poison.
fn end(taken: &Taken, now: Timestamp) -> (Option<ProbeResult>, bool) {
    let Taken { id, deliveries, .. } = taken;
    match &taken.probe {
        Err(_) => {
            let seen = Observation::indeterminate(IndeterminateReason::Poison, "this version cannot read the probe");
            let result = |id: &ProbeId| ProbeResult { id: id.clone(), epoch: Epoch::default(), started: now, seen };
            (id.as_ref().map(result), true)
        }
        Ok(probe) if *deliveries >= MAX_DELIVERIES => {
            let detail = format!("handed out {deliveries} times and never completed");
            (Some(probe.indeterminate(IndeterminateReason::Poison, now, &detail)), true)
        }
        Ok(probe) => {
            let detail = "no worker began it by its start-by";
            (Some(probe.indeterminate(IndeterminateReason::Expired, now, detail)), false)
        }
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
    /// A bit for each of its probes that is meant; none when that is all of them.
    pub(super) places: Option<u16>,
    /// How many times its probes were handed out before.
    pub(super) before: u32,
}

/// The entries of a stream.
pub(super) fn entries_of(entries: Value) -> impl Iterator<Item = Entry> {
    items(entries).into_iter().filter_map(|entry| {
        let mut entry = items(entry).into_iter();
        let id = entry.next().and_then(Value::into_string)?;
        // The names of the fields lie between.
        let mut fields = entry.next().map(items).unwrap_or_default().into_iter();
        let bundle = fields.nth(1).and_then(Value::into_bytes).unwrap_or_default();
        let places = fields.nth(1).and_then(|places| u16::try_from(number(&places)).ok());
        let before = fields.nth(1).map_or(0, |before| u32::try_from(number(&before)).unwrap_or(0));
        Some(Entry { id: entry_id(&id)?, bundle, places, before })
    })
}
