//! Probes: put in, handed out, completed, given up.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fred::types::Value;
use healthmon_core::{
    id::{Epoch, Region},
    ports::{Completion, Delivery, Enqueued, MAX_DELIVERIES, QueueError, Receipt},
    probe::{IndeterminateReason, Observation, Probe, ProbeId, ProbeResult},
    shard::Claim,
    time::Timestamp,
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

/// The most probes that a script is given together: what Lua unpacks at once is limited.
const GROUP: usize = 1_000;
/// The width of a bucket, in milliseconds: probes whose slots are in one are known together, and
/// forgotten together.
const BUCKET: i64 = 30_000;

pub(super) fn entry_id(text: &str) -> Option<(u64, u64)> {
    let (millis, sequence) = text.split_once('-')?;
    Some((millis.parse().ok()?, sequence.parse().ok()?))
}

/// A probe that was handed to the queue itself.
pub(super) struct Entry {
    pub(super) region: Region,
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
        let mut order: Vec<&Probe> = probes.iter().collect();
        order.sort_by(|a, b| a.id.region.cmp(&b.id.region).then_with(|| a.id.slot.cmp(&b.id.slot)));
        let mut claims: Vec<Claim> = Vec::new();
        let mut numbers: HashMap<Claim, Value> = HashMap::new();
        for claim in order.iter().filter_map(|probe| probe.claim) {
            numbers.entry(claim).or_insert_with(|| {
                claims.push(claim);
                size(claims.len())
            });
        }
        let mut arguments = Vec::with_capacity(8 + claims.len() * 2 + probes.len() * 2);
        arguments.extend([size(self.limits.capacity), size(probes.len()), size(claims.len())]);
        for claim in &claims {
            arguments.extend([i64::from(claim.shard.0).into(), Value::from(claim.epoch.0.to_string())]);
        }

        let mut payloads = BytesMut::with_capacity(probes.len() * 512);
        let ends = self.encoder.encode(order.iter().copied(), &mut payloads)?;
        let payloads = payloads.freeze();
        let bucket = |probe: &Probe| probe.id.slot.as_millis().div_euclid(BUCKET);
        let groups = order.chunk_by(|a, b| a.id.region == b.id.region && bucket(a) == bucket(b));
        let (mut from, mut ends) = (0, ends.into_iter());
        for group in groups.flat_map(|group| group.chunks(GROUP)) {
            let first = group[0];
            arguments.extend([first.id.region.as_str().into(), bucket(first).into(), size(group.len())]);
            for (probe, end) in group.iter().zip(&mut ends) {
                let claim = probe.claim.and_then(|claim| numbers.get(&claim)).cloned();
                arguments.push(claim.unwrap_or(Value::Integer(0)));
                arguments.push(Value::Bytes(payloads.slice(from..end)));
                from = end;
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
            let (Some(region), Some(delivery), Some(entries)) = (part.next(), part.next(), part.next()) else {
                continue;
            };
            let region = region.as_str();
            let own = |(_, own): &(usize, &Region)| Some(own.as_str()) == region.as_deref();
            let Some((place, region)) = self.regions.iter().enumerate().find(own) else { continue };
            let delivery = u32::try_from(number(&delivery)).unwrap_or(u32::MAX);
            // Ids of different streams may be the same.
            let stream = u32::try_from(place).unwrap_or(u32::MAX);
            for (id, payload) in entries_of(entries) {
                count += 1;
                match (self.decoder.decode(region, &payload), entry_id(&id)) {
                    (Ok(probe), Some(id)) if probe.start_by >= now => {
                        deliveries.push(Delivery { probe, delivery, receipt: Receipt { stream, id } });
                    }
                    _ => ended.push(Entry { region: region.clone(), id, deliveries: 0, payload }),
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
        let mut done: BTreeMap<&Region, Vec<Value>> = BTreeMap::new();
        for Completion { receipt, result } in completions {
            let id = format!("{}-{}", receipt.id.0, receipt.id.1);
            done.entry(&result.id.region).or_default().push(id.into());
        }
        self.store(&[], completions.iter().map(|completion| &completion.result), done).await
    }

    /// Turns probes that nobody will bring to an end into results.
    pub(super) async fn give_up(&self, entries: Vec<Entry>) -> Result<(), QueueError> {
        let now = self.clock.now();
        let (mut poison, mut results) = (Vec::new(), Vec::new());
        let mut done: BTreeMap<&Region, Vec<Value>> = BTreeMap::new();
        for entry in &entries {
            let (result, poisonous) = self.end(entry, now);
            match &result {
                Some(result) => {
                    let reason = result.seen.outcome.reason().map(|reason| reason.as_str());
                    tracing::warn!(probe = %result.id, reason, deliveries = entry.deliveries, "a probe was given up");
                }
                None => tracing::error!(region = %entry.region, id = entry.id, "an unreadable probe was dropped"),
            }
            if poisonous {
                poison.push(Value::Bytes(entry.payload.clone()));
            }
            results.extend(result);
            done.entry(&entry.region).or_default().push(entry.id.as_str().into());
        }
        self.store(&poison, results.iter(), done).await
    }

    /// What becomes of a probe that is given up: its result, and whether it is kept as poison.
    fn end(&self, entry: &Entry, now: Timestamp) -> (Option<ProbeResult>, bool) {
        let Ok(probe) = self.decoder.decode(&entry.region, &entry.payload) else {
            let seen = Observation::indeterminate(IndeterminateReason::Poison, "this version cannot read the probe");
            let id = Head::read(&entry.payload).map(|(Head { slot, kind, service, .. }, _)| ProbeId {
                service,
                slot,
                region: entry.region.clone(),
                kind,
            });
            return (id.ok().map(|id| ProbeResult { id, epoch: Epoch::default(), started: now, seen }), true);
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
        done: BTreeMap<&Region, Vec<Value>>,
    ) -> Result<(), QueueError> {
        let mut streams: BTreeMap<u16, Vec<Value>> = BTreeMap::new();
        for result in results {
            let written = encode_result(result).map_err(|error| QueueError::Permanent(Box::new(error)))?;
            streams.entry(self.stream_of(result.id.service)).or_default().push(Value::Bytes(written));
        }
        let mut arguments = vec![size(poison.len())];
        arguments.extend_from_slice(poison);
        arguments.push(size(streams.len()));
        for (stream, results) in streams {
            arguments.extend([i64::from(stream).into(), size(results.len())]);
            arguments.extend(results);
        }
        for (region, ids) in done {
            arguments.extend([region.as_str().into(), size(ids.len())]);
            arguments.extend(ids);
        }
        self.connection.run(&COMPLETE, arguments).await?;
        Ok(())
    }
}

fn size(size: usize) -> Value {
    i64::try_from(size).unwrap_or(i64::MAX).into()
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
