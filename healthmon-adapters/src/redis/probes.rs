//! Probes: put in, handed out, completed, given up.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fred::types::Value;
use healthmon_core::{
    id::{Epoch, Region, ServiceId},
    ports::{Completion, Delivery, Enqueued, MAX_DELIVERIES, QueueError, Receipt},
    probe::{IndeterminateReason, Kind, Observation, Probe, ProbeId, ProbeResult},
    shard::Claim,
    time::{Slot, Timestamp},
};
use tokio::sync::oneshot;

use super::{
    codec::{Head, encode_result},
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

/// The stream a receipt is of, within a region: twice the shard, or one for the extra stream.
const EXTRA: u32 = 1;

fn stream_name(region: &Region, stream: u32) -> String {
    if stream == EXTRA { format!("x:{region}") } else { format!("s:{region}:{}", stream / 2) }
}

/// The region and the number of a stream.
fn stream_of(name: &str) -> Option<(Region, u32)> {
    let (kind, rest) = name.split_once(':')?;
    match kind {
        "x" => Some((Region::new(rest).ok()?, EXTRA)),
        "s" => {
            let (region, shard) = rest.rsplit_once(':')?;
            Some((Region::new(region).ok()?, u32::from(shard.parse::<u16>().ok()?) * 2))
        }
        _ => None,
    }
}

pub(super) fn entry_id(text: &str) -> Option<(u64, u64)> {
    let (millis, sequence) = text.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// Where a probe goes: its stream's shard, `None` for the extra stream.
struct Placed<'a> {
    probe: &'a Probe,
    lane: Option<u16>,
    claim: usize,
}

/// A probe that was handed to the queue itself.
pub(super) struct Entry {
    /// Its stream, as scripts call it.
    pub(super) stream: String,
    pub(super) id: String,
    pub(super) deliveries: u32,
    pub(super) payload: Bytes,
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
        let mut claims: Vec<Claim> = Vec::new();
        let mut numbers: HashMap<Claim, usize> = HashMap::new();
        let mut placed: Vec<Placed<'_>> = probes
            .iter()
            .map(|probe| {
                let claim = probe.claim.map_or(0, |claim| {
                    *numbers.entry(claim).or_insert_with(|| {
                        claims.push(claim);
                        claims.len()
                    })
                });
                // An id of a stream begins with a positive number.
                let scheduled = probe.id.kind == Kind::Scheduled && probe.id.slot.as_millis() > 0;
                let lane = scheduled.then(|| self.shards.shard_of(probe.id.service).0);
                Placed { probe, lane, claim }
            })
            .collect();
        // Stable: what goes to the extra stream keeps its order.
        placed.sort_by(|a, b| {
            let group = |placed: &Placed<'_>| (placed.lane, placed.claim);
            let order = |placed: &Placed<'_>| placed.lane.map(|_| (placed.probe.id.slot, placed.probe.id.service));
            let regions = a.probe.id.region.cmp(&b.probe.id.region);
            regions.then_with(|| group(a).cmp(&group(b))).then_with(|| order(a).cmp(&order(b)))
        });

        let mut payloads = BytesMut::with_capacity(probes.len() * 512);
        let ends = self.encoder.encode(placed.iter().map(|placed| placed.probe), &mut payloads)?;
        let payloads = payloads.freeze();
        let mut names = BytesMut::with_capacity(probes.len() * 36);
        let name_ends: Vec<usize> = placed
            .iter()
            .map(|placed| {
                let ProbeId { slot, service, kind, .. } = &placed.probe.id;
                // Writing to memory does not fail.
                write!(names, "{}-{service}", slot.as_millis()).ok();
                if placed.lane.is_none() {
                    write!(names, "-{}", *kind as u8).ok();
                }
                names.len()
            })
            .collect();
        let names = names.freeze();

        let mut arguments = Vec::with_capacity(3 + claims.len() * 2 + probes.len() * 2 + 64);
        let size = |size: usize| Value::from(i64::try_from(size).unwrap_or(i64::MAX));
        arguments.extend([size(self.limits.capacity), size(probes.len()), size(claims.len())]);
        for claim in &claims {
            arguments.extend([i64::from(claim.shard.0).into(), Value::from(claim.epoch.0.to_string())]);
        }
        let (mut at, mut from, mut name_from) = (0, 0, 0);
        for group in
            placed.chunk_by(|a, b| (&a.probe.id.region, a.lane, a.claim) == (&b.probe.id.region, b.lane, b.claim))
        {
            let first = &group[0];
            arguments.push(first.probe.id.region.as_str().into());
            arguments.push(first.lane.map_or_else(|| "".into(), |shard| i64::from(shard).into()));
            arguments.extend([size(first.claim), size(group.len())]);
            for _ in group {
                arguments.push(Value::Bytes(names.slice(name_from..name_ends[at])));
                arguments.push(Value::Bytes(payloads.slice(from..ends[at])));
                (name_from, from) = (name_ends[at], ends[at]);
                at += 1;
            }
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
            vec![self.consumer.as_str().into(), i64::try_from(max).unwrap_or(i64::MAX).into(), idle.into()];
        arguments.extend(self.regions.iter().map(|region| Value::from(region.as_str())));
        let answer = items(self.connection.run(&TAKE, arguments).await?);
        let now = self.clock.now();
        let (mut deliveries, mut ended, mut count) = (Vec::new(), Vec::new(), 0);
        for part in answer {
            let mut part = items(part).into_iter();
            let (Some(_region), Some(stream), Some(delivery), Some(entries)) =
                (part.next(), part.next().and_then(Value::into_string), part.next(), part.next())
            else {
                continue;
            };
            let Some((region, number_of)) = stream_of(&stream) else { continue };
            let delivery = u32::try_from(number(&delivery)).unwrap_or(u32::MAX);
            for (id, payload) in entries_of(entries) {
                count += 1;
                match (self.decoder.decode(&region, &payload), entry_id(&id)) {
                    (Ok(probe), Some(id)) if probe.start_by >= now => {
                        deliveries.push(Delivery { probe, delivery, receipt: Receipt { stream: number_of, id } });
                    }
                    _ => ended.push(Entry { stream: stream.clone(), id, deliveries: 0, payload }),
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

    async fn give_back(&self, unclaimed: Vec<Delivery>) {
        if unclaimed.is_empty() {
            return;
        }
        let mut arguments: Vec<Value> = vec![self.consumer.as_str().into()];
        for Delivery { probe, delivery, receipt } in unclaimed {
            arguments.extend([
                probe.id.region.as_str().into(),
                stream_name(&probe.id.region, receipt.stream).into(),
                format!("{}-{}", receipt.id.0, receipt.id.1).into(),
                Value::from(i64::from(delivery)),
            ]);
        }
        if let Err(RedisError::Away(error) | RedisError::Wrong(error)) =
            self.connection.run(&GIVE_BACK, arguments).await
        {
            tracing::warn!(%error, "cannot give probes back; they come again when their lease has run out");
        }
    }

    pub(super) async fn complete(&self, completions: &[Completion]) -> Result<(), QueueError> {
        let mut done: BTreeMap<(&Region, u32), Vec<Value>> = BTreeMap::new();
        for Completion { receipt, result } in completions {
            let id = format!("{}-{}", receipt.id.0, receipt.id.1);
            done.entry((&result.id.region, receipt.stream)).or_default().push(id.into());
        }
        let done = done.into_iter().map(|((region, stream), ids)| (stream_name(region, stream), ids));
        self.store(&[], completions.iter().map(|completion| &completion.result), done).await
    }

    /// Turns probes that nobody will bring to an end into results.
    pub(super) async fn give_up(&self, entries: Vec<Entry>) -> Result<(), QueueError> {
        let now = self.clock.now();
        let (mut poison, mut results) = (Vec::new(), Vec::new());
        let mut done: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for entry in entries {
            let (result, poisonous) = self.end(&entry, now);
            match &result {
                Some(result) => {
                    let reason = result.seen.outcome.reason().map(|reason| reason.as_str());
                    tracing::warn!(probe = %result.id, reason, deliveries = entry.deliveries, "a probe was given up");
                }
                None => tracing::error!(stream = entry.stream, id = entry.id, "an unreadable probe was dropped"),
            }
            if poisonous {
                poison.push(Value::Bytes(entry.payload));
            }
            results.extend(result);
            done.entry(entry.stream).or_default().push(entry.id.into());
        }
        self.store(&poison, results.iter(), done.into_iter()).await
    }

    /// What becomes of a probe that is given up: its result, and whether it is kept as poison.
    fn end(&self, entry: &Entry, now: Timestamp) -> (Option<ProbeResult>, bool) {
        let Some((region, stream)) = stream_of(&entry.stream) else { return (None, true) };
        let Ok(probe) = self.decoder.decode(&region, &entry.payload) else {
            let seen = Observation::indeterminate(IndeterminateReason::Poison, "this version cannot read the probe");
            let id = unread_id(region, stream, entry);
            return (id.map(|id| ProbeResult { id, epoch: Epoch::default(), started: now, seen }), true);
        };
        if entry.deliveries >= MAX_DELIVERIES {
            let detail = format!("handed out {} times and never completed", entry.deliveries);
            (Some(probe.indeterminate(IndeterminateReason::Poison, now, &detail)), true)
        } else {
            let detail = "no worker began it by its start-by";
            (Some(probe.indeterminate(IndeterminateReason::Expired, now, detail)), false)
        }
    }

    /// Stores results, each shard's in their order, then acknowledges probes.
    async fn store<'a>(
        &self,
        poison: &[Value],
        results: impl Iterator<Item = &'a ProbeResult>,
        done: impl Iterator<Item = (String, Vec<Value>)>,
    ) -> Result<(), QueueError> {
        let size = |size: usize| Value::from(i64::try_from(size).unwrap_or(i64::MAX));
        let mut by_shard: BTreeMap<u16, Vec<Value>> = BTreeMap::new();
        for result in results {
            let written = encode_result(result).map_err(|error| QueueError::Permanent(Box::new(error)))?;
            by_shard.entry(self.shards.shard_of(result.id.service).0).or_default().push(Value::Bytes(written));
        }
        let mut arguments = vec![size(poison.len())];
        arguments.extend_from_slice(poison);
        arguments.push(size(by_shard.len()));
        for (shard, results) in by_shard {
            arguments.extend([i64::from(shard).into(), size(results.len())]);
            arguments.extend(results);
        }
        for (stream, ids) in done {
            arguments.extend([stream.into(), size(ids.len())]);
            arguments.extend(ids);
        }
        self.connection.run(&COMPLETE, arguments).await?;
        Ok(())
    }
}

/// What can be known of a probe that cannot be read: by its head, or by its place.
fn unread_id(region: Region, stream: u32, entry: &Entry) -> Option<ProbeId> {
    if let Ok((Head { slot, kind, service, .. }, _)) = Head::read(&entry.payload) {
        return Some(ProbeId { service, slot, region, kind });
    }
    if stream == EXTRA {
        return None;
    }
    let (slot, service) = entry_id(&entry.id)?;
    let slot = Slot::from_millis(i64::try_from(slot).ok()?);
    Some(ProbeId { service: ServiceId::new(service).ok()?, slot, region, kind: Kind::Scheduled })
}

/// The entries of a stream: their ids and payloads. One of another form has an empty payload.
pub(super) fn entries_of(entries: Value) -> impl Iterator<Item = (String, Bytes)> {
    items(entries).into_iter().filter_map(|entry| {
        let mut entry = items(entry).into_iter();
        let id = entry.next().and_then(Value::into_string)?;
        let payload = entry.next().and_then(|fields| items(fields).into_iter().nth(1));
        Some((id, payload.and_then(Value::into_bytes).unwrap_or_default()))
    })
}
