mod heartbeats;
mod limits;

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
pub use limits::StoreLimits;

use crate::{
    engine::{Control, Input, Sighting, State, TargetChange, Thresholds},
    heartbeat::{KeyDigest, Listening, Pulse},
    id::{Applied, LogId, Revision, Seq, ServiceId},
    ports::{
        AppliedInput, Change, Changed, Clock, LastResult, LogHead, Recorded, ResultKey, ResultQuery, ResultStore,
        ServiceFilter, ServiceView, SetAside, StoreError, StoredResult, Swept,
    },
    probe::{ProbeId, ProbeResult},
    record::{self, sweep},
    service::{Activity, Service, ServiceSettings},
    status::{LogEntry, LogEvent, Overlay},
    summary::{Summary, Summed},
    time::{Slot, Timestamp},
};

/// Everything in memory, gone with the process.
pub struct MemoryResultStore {
    clock: Arc<dyn Clock>,
    limits: StoreLimits,
    log_id: LogId,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    rows: BTreeMap<ServiceId, Row>,
    by_revision: BTreeMap<Revision, ServiceId>,
    revision: Revision,
    log: VecDeque<LogEntry>,
    head: Seq,
    listening: Listening,
}

struct Row {
    service: Service,
    state: State<Thresholds>,
    since: Timestamp,
    maintenance_until: Option<Timestamp>,
    last: Option<LastResult>,
    results: BTreeMap<ResultKey, StoredResult>,
    controls: BTreeMap<Applied, Control<Thresholds>>,
    heartbeat: Option<(KeyDigest, Pulse)>,
}

impl MemoryResultStore {
    /// An empty store.
    pub fn new(clock: Arc<dyn Clock>, limits: StoreLimits) -> Self {
        let log_id = LogId(format!("memory-{}", clock.now().as_micros()).into());
        Self { clock, limits, log_id, tables: Mutex::default() }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // Every change is planned before it is made, so a panic elsewhere left nothing half done.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_aside(&self, tables: &Tables, id: &ProbeId, now: Timestamp) -> Option<SetAside> {
        let living = tables.rows.get(&id.service).is_some_and(|row| row.service.activity != Activity::Deleted);
        match () {
            () if !living => Some(SetAside::NoService),
            () if id.slot.time() < now.before(self.limits.retention) => Some(SetAside::TooOld),
            () if id.slot.time() > now.after(ResultKey::AHEAD) => Some(SetAside::Ahead),
            () => None,
        }
    }

    fn record_now(&self, results: Vec<ProbeResult>) -> Recorded {
        let now = self.clock.now();
        let mut tables = self.tables();
        let mut recorded = Recorded::default();
        let mut fresh: BTreeMap<ServiceId, BTreeMap<ResultKey, ProbeResult>> = BTreeMap::new();
        let mut repeated: Vec<(ServiceId, Applied)> = Vec::new();
        for result in results {
            if let Some(why) = self.set_aside(&tables, &result.id, now) {
                recorded.set_aside.push((result.id, why));
                continue;
            }
            let (service, key) = (result.id.service, ResultKey::of(&result.id));
            let stored = tables.rows.get(&service).and_then(|row| row.results.get(&key));
            if let Some(stored) = stored {
                recorded.repeated += 1;
                repeated.extend(stored.applied.map(|applied| (service, applied)));
            } else if let std::collections::btree_map::Entry::Vacant(place) =
                fresh.entry(service).or_default().entry(key)
            {
                place.insert(result);
            } else {
                recorded.repeated += 1;
            }
        }
        for (service, results) in fresh {
            recorded.inserted += results.len();
            let results = results.into_values().collect();
            let entries = tables.fold(service, results, now, &self.limits, &mut recorded.sooner);
            recorded.entries.extend(tables.append(entries, &self.limits));
        }
        if !repeated.is_empty() {
            let there = tables.log.iter().filter(|entry| repeated.contains(&(entry.service.id, entry.applied)));
            recorded.entries.extend(there.cloned());
        }
        recorded.entries.sort_by_key(|entry| entry.seq);
        recorded.entries.dedup_by_key(|entry| entry.seq);
        recorded
    }

    fn change_now(&self, id: ServiceId, expected: Option<Revision>, change: Change) -> Result<Changed, StoreError> {
        let now = self.clock.now();
        let mut tables = self.tables();
        let row = tables.rows.get(&id).filter(|row| row.service.activity != Activity::Deleted);
        let row = row.ok_or(StoreError::NotFound(id))?;
        if expected.is_some_and(|expected| expected != row.service.revision) {
            return Err(StoreError::Conflict(row.service.revision));
        }
        let Some(plan) = record::plan(&row.service, &row.state, row.maintenance_until, change, now) else {
            return Ok(Changed { service: row.service.clone(), entries: Vec::new() });
        };
        let entries = tables.apply(id, now, plan.control, Some((plan.service, plan.maintenance_until)));
        let entries = tables.append(entries, &self.limits);
        let service = tables.rows.get(&id).map(|row| row.service.clone()).ok_or(StoreError::NotFound(id))?;
        Ok(Changed { service, entries })
    }
}

impl Tables {
    /// Gives entries their places, and keeps the log within its bound.
    fn append(&mut self, mut entries: Vec<LogEntry>, limits: &StoreLimits) -> Vec<LogEntry> {
        for entry in &mut entries {
            self.head = self.head.next();
            entry.seq = self.head;
            if matches!(entry.event, LogEvent::Transition(_))
                && let Some(row) = self.rows.get_mut(&entry.service.id)
            {
                row.since = entry.at;
            }
            self.log.push_back(entry.clone());
        }
        while self.log.len() > limits.log {
            self.log.pop_front();
        }
        entries
    }

    fn fold(
        &mut self,
        id: ServiceId,
        results: Vec<ProbeResult>,
        now: Timestamp,
        limits: &StoreLimits,
        sooner: &mut Vec<ServiceId>,
    ) -> Vec<LogEntry> {
        let Some(row) = self.rows.get_mut(&id) else { return Vec::new() };
        let folded = record::fold_results(&mut row.state, &row.service.label(), now, results);
        if folded.hint == crate::engine::Hint::ProbeSooner {
            sooner.push(id);
        }
        for (result, applied) in folded.results {
            if row.last.as_ref().is_none_or(|last| last.slot <= result.id.slot) {
                row.last = Some(LastResult::of(&result));
            }
            row.results.insert(ResultKey::of(&result.id), StoredResult { result, applied });
        }
        while row.results.len() > limits.results_per_service {
            row.results.pop_first();
        }
        folded.entries
    }

    /// Folds a control input and, when settings come with it, puts them in place under a new revision.
    fn apply(
        &mut self,
        id: ServiceId,
        now: Timestamp,
        control: Option<Control<Thresholds>>,
        settings: Option<(Service, Option<Timestamp>)>,
    ) -> Vec<LogEntry> {
        let Some(row) = self.rows.get_mut(&id) else { return Vec::new() };
        let mut entries = Vec::new();
        if let Some(control) = control {
            let label = row.service.label();
            if let Some((applied, made)) = record::fold_control(&mut row.state, &label, now, control.clone()) {
                row.controls.insert(applied, control);
                entries = made;
            }
        }
        if let Some((service, maintenance_until)) = settings {
            self.by_revision.remove(&row.service.revision);
            self.revision = self.revision.next();
            row.service = Service { revision: self.revision, epoch: row.state.epoch(), ..service };
            row.maintenance_until = maintenance_until;
            self.by_revision.insert(self.revision, id);
        }
        entries
    }

    fn view(row: &Row) -> ServiceView {
        let overlays = [Overlay::Blind, Overlay::Paused, Overlay::Maintenance];
        ServiceView {
            service: row.service.clone(),
            status: row.state.announced(),
            since: row.since,
            overlays: overlays.into_iter().filter(|overlay| row.state.has(*overlay)).collect(),
            maintenance_until: row.maintenance_until,
            last: row.last.clone(),
        }
    }
}

#[async_trait]
impl ResultStore for MemoryResultStore {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        Ok(self.clock.now())
    }

    async fn register(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service, StoreError> {
        let now = self.clock.now();
        let mut tables = self.tables();
        if let Some(row) = tables.rows.get(&id) {
            let same = row.service.settings == settings && row.service.activity != Activity::Deleted;
            return if same { Ok(row.service.clone()) } else { Err(StoreError::Conflict(row.service.revision)) };
        }
        tables.revision = tables.revision.next();
        let state = State::registered(settings.policy, &settings.regions);
        let registration = Control::Configure {
            policy: settings.policy,
            regions: settings.regions.clone(),
            target: TargetChange::Changed,
        };
        let service = Service::registered(id, settings, tables.revision, state.epoch(), now);
        let row = Row {
            service: service.clone(),
            controls: BTreeMap::from([(state.applied(), registration)]),
            state,
            since: now,
            maintenance_until: None,
            last: None,
            results: BTreeMap::new(),
            heartbeat: None,
        };
        tables.rows.insert(id, row);
        tables.by_revision.insert(service.revision, id);
        Ok(service)
    }

    async fn change(&self, id: ServiceId, expected: Option<Revision>, change: Change) -> Result<Changed, StoreError> {
        self.change_now(id, expected, change)
    }

    async fn service(&self, id: ServiceId) -> Result<Option<ServiceView>, StoreError> {
        let tables = self.tables();
        Ok(tables.rows.get(&id).filter(|row| row.service.activity != Activity::Deleted).map(Tables::view))
    }

    async fn services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<ServiceView>, StoreError> {
        let tables = self.tables();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let living = tables.rows.range((from, Bound::Unbounded)).map(|(_, row)| row);
        let wanted = living.filter(|row| {
            row.service.activity != Activity::Deleted && filter.admits(&row.service, row.state.announced())
        });
        Ok(wanted.take(limit.get()).map(Tables::view).collect())
    }

    async fn changes(&self, after: Revision, limit: NonZeroUsize) -> Result<Vec<Service>, StoreError> {
        let tables = self.tables();
        let changed = tables.by_revision.range((Bound::Excluded(after), Bound::Unbounded));
        Ok(changed.filter_map(|(_, id)| tables.rows.get(id)).take(limit.get()).map(|row| row.service.clone()).collect())
    }

    async fn record(&self, results: Vec<ProbeResult>) -> Result<Recorded, StoreError> {
        Ok(self.record_now(results))
    }

    async fn sweep(&self, after: Option<ServiceId>, limit: NonZeroUsize) -> Result<Swept, StoreError> {
        let now = self.clock.now();
        let mut tables = self.tables();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids: Vec<ServiceId> =
            tables.rows.range((from, Bound::Unbounded)).map(|(id, _)| *id).take(limit.get()).collect();
        let mut swept = Swept { next: ids.last().copied().filter(|_| ids.len() == limit.get()), ..Swept::default() };
        for id in ids {
            let Some(row) = tables.rows.get_mut(&id) else { continue };
            let oldest = now.before(self.limits.retention);
            while row.results.first_key_value().is_some_and(|(key, _)| key.slot.time() < oldest) {
                row.results.pop_first();
            }
            let due = sweep::due(&row.service, &row.state, row.maintenance_until, now);
            for control in due {
                swept.missed += sweep::slots_missed(&control);
                let ended = matches!(control, Control::EndMaintenance);
                let entries = tables.apply(id, now, Some(control), None);
                swept.entries.extend(tables.append(entries, &self.limits));
                if let Some(row) = tables.rows.get_mut(&id).filter(|_| ended) {
                    row.maintenance_until = None;
                }
            }
        }
        Ok(swept)
    }

    async fn results(
        &self,
        id: ServiceId,
        query: &ResultQuery,
        limit: NonZeroUsize,
    ) -> Result<Vec<StoredResult>, StoreError> {
        let tables = self.tables();
        let Some(row) = tables.rows.get(&id) else { return Ok(Vec::new()) };
        let newest = query.before.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let wanted = row.results.range((Bound::Unbounded, newest)).rev().filter(|(key, stored)| {
            query.from.is_none_or(|from| key.slot >= from)
                && query.to.is_none_or(|to| key.slot < to)
                && query.outcome.is_none_or(|outcome| stored.outcome().as_str() == outcome)
                && query.reason.is_none_or(|reason| stored.outcome().reason() == Some(reason))
        });
        Ok(wanted.take(limit.get()).map(|(_, stored)| stored.clone()).collect())
    }

    async fn result(&self, id: &ProbeId) -> Result<Option<StoredResult>, StoreError> {
        let tables = self.tables();
        Ok(tables.rows.get(&id.service).and_then(|row| row.results.get(&ResultKey::of(id))).cloned())
    }

    async fn summary(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>, StoreError> {
        let tables = self.tables();
        let Some(row) = tables.rows.get(&id) else { return Ok(None) };
        let within = row.results.values().map(|stored| &stored.result).filter(|r| (from..to).contains(&r.id.slot));
        Ok(Some(Summed { service: row.service.clone(), from, to, summary: within.collect::<Summary>() }))
    }

    async fn log(&self, after: Seq, limit: NonZeroUsize) -> Result<Vec<LogEntry>, StoreError> {
        let tables = self.tables();
        let start = tables.log.partition_point(|entry| entry.seq <= after);
        Ok(tables.log.range(start..).take(limit.get()).cloned().collect())
    }

    async fn service_log(
        &self,
        id: ServiceId,
        before: Option<Seq>,
        limit: NonZeroUsize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        let tables = self.tables();
        let end = before.map_or(tables.log.len(), |before| tables.log.partition_point(|entry| entry.seq < before));
        let of_service = tables.log.range(..end).rev().filter(|entry| entry.service.id == id);
        Ok(of_service.take(limit.get()).cloned().collect())
    }

    async fn head(&self) -> Result<LogHead, StoreError> {
        let tables = self.tables();
        let tail = tables.log.front().map_or(tables.head, |oldest| Seq(oldest.seq.0 - 1));
        Ok(LogHead { log: self.log_id.clone(), head: tables.head, tail })
    }

    async fn inputs(
        &self,
        id: ServiceId,
        after: Applied,
        limit: NonZeroUsize,
    ) -> Result<Vec<AppliedInput>, StoreError> {
        let tables = self.tables();
        let Some(row) = tables.rows.get(&id) else { return Ok(Vec::new()) };
        let controls = row.controls.iter().map(|(applied, control)| (*applied, Input::Control(control.clone())));
        let results = row.results.values().filter_map(|stored| {
            let sighting = Sighting::of(&stored.result);
            stored.applied.map(|applied| (applied, Input::Result(sighting)))
        });
        let mut inputs: BTreeMap<Applied, Input<Thresholds>> = controls.chain(results).collect();
        let after = inputs.split_off(&after.next());
        Ok(after.into_iter().take(limit.get()).map(|(applied, input)| AppliedInput { applied, input }).collect())
    }

    async fn state(&self, id: ServiceId) -> Result<Option<State<Thresholds>>, StoreError> {
        Ok(self.tables().rows.get(&id).map(|row| row.state.clone()))
    }
}
