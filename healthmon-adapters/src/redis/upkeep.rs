//! What nobody asks for: leases that ran out, probes that nobody takes, entries that are done.

use std::{collections::HashMap, sync::Arc, time::Duration};

use fred::types::Value;
use healthmon_core::{id::Region, ports::QueueError};

use super::{
    connection::{RedisError, Script, items, number, strings},
    probes::entry_id,
    queue::{Inner, settle},
};

static SWEEP: Script = Script::new(concat!(include_str!("scripts/bundles.lua"), include_str!("scripts/sweep.lua")));

/// How often the streams are looked through, by one node of all; more often where leases are short.
const PERIOD: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(100);
/// How long workers have, when Redis is back, to say what they have done meanwhile.
const RETURN: Duration = Duration::from_secs(2);
/// How many bundles with probes to give up are looked at together.
const ROOM: i64 = 20;
/// Each how many rounds the count is set right, and consumers of dead processes are forgotten.
const RECOUNT: u64 = 30;
const TIDY: u64 = 600;

/// Runs until it is aborted.
pub(super) async fn run(inner: Arc<Inner>) {
    let period = (inner.limits.lease_margin / 2).clamp(SHORTEST, PERIOD);
    let (mut round, mut away, mut cursors) = (0_u64, false, Cursors::new());
    loop {
        tokio::time::sleep(period).await;
        if away {
            if inner.connection.say("PING", Vec::new()).await.is_err() {
                continue;
            }
            // Leases ran out while nobody could say that a probe is done: they are told first.
            tokio::time::sleep(RETURN).await;
        }
        round += 1;
        match inner.round(period, round, &mut cursors).await {
            Ok(()) => away = false,
            Err(error) => {
                if !away {
                    tracing::warn!(%error, "cannot look after the queue for now");
                }
                away = true;
            }
        }
    }
}

/// Where to look on for leases that ran out, by region.
type Cursors = HashMap<Region, String>;

impl Inner {
    async fn round(&self, period: Duration, round: u64, cursors: &mut Cursors) -> Result<(), QueueError> {
        // One node a period: whoever comes first.
        let base = self.connection.base();
        let turn = i64::try_from(period.as_millis()).unwrap_or(1_000) * 9 / 10;
        let turn = vec![
            format!("{base}:upkeep").into(),
            self.consumer.as_str().into(),
            "NX".into(),
            "PX".into(),
            Value::from(turn),
        ];
        if self.connection.say("SET", turn).await?.is_null() {
            return Ok(());
        }
        if round == 1 || round.is_multiple_of(RECOUNT) {
            // Redis may have lost it, and another node have settled something else since.
            match settle(&self.connection, self.shards).await {
                Err(RedisError::Wrong(error)) => tracing::error!(%error, "the queue is used in two ways at once"),
                settled => settled?,
            }
        }
        let regions = self.connection.say("SMEMBERS", vec![format!("{base}:regions").into()]).await?;
        for region in strings(regions).iter().filter_map(|region| Region::new(region).ok()) {
            while self.sweep(&region, round.is_multiple_of(TIDY), cursors).await? {}
        }
        if round.is_multiple_of(RECOUNT) {
            self.recount().await?;
        }
        Ok(())
    }

    /// Looks through one region; says whether there is more to do at once.
    async fn sweep(&self, region: &Region, tidy: bool, cursors: &mut Cursors) -> Result<bool, QueueError> {
        let (now, margin) = (self.clock.now(), self.limits.lease_margin.as_millis());
        let arguments: Vec<Value> = vec![
            region.as_str().into(),
            now.as_micros().into(),
            i64::try_from(margin).unwrap_or(i64::MAX).into(),
            self.consumer.as_str().into(),
            ROOM.into(),
            i64::from(tidy).into(),
            cursors.get(region).map_or("-", String::as_str).into(),
        ];
        let mut answer = items(self.connection.run(&SWEEP, arguments).await?).into_iter();
        let more = answer.next().is_some_and(|more| number(&more) > 0);
        let cursor = answer.next().and_then(Value::into_string).unwrap_or_else(|| "-".into());
        cursors.insert(region.clone(), cursor);
        let mut ended = Vec::new();
        for entry in answer.next().map(items).unwrap_or_default() {
            let mut entry = items(entry).into_iter();
            let id = entry.next().and_then(Value::into_string).and_then(|id| entry_id(&id));
            let (Some(id), Some(before), Some(bundle), Some(places)) = (id, entry.next(), entry.next(), entry.next())
            else {
                continue;
            };
            let before = u32::try_from(number(&before)).unwrap_or(u32::MAX);
            let (bundle, places) = (bundle.into_bytes().unwrap_or_default(), u16::try_from(number(&places)).ok());
            ended.extend(self.taken(region, id, bundle, places, before));
        }
        if !ended.is_empty() {
            self.give_up(ended).await?;
        }
        Ok(more)
    }
}
