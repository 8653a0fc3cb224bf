use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use healthmon_core::{
    conformance::store::{StoreFixture, StoreSetup},
    engine::{State, Thresholds},
    id::{Applied, Revision, Seq, ServiceId},
    ports::{
        AppliedInput, Change, Changed, LogHead, Recorded, ResultQuery, ResultStore, ServiceFilter, ServiceView,
        StoreError, StoredResult, Swept,
    },
    probe::{Kind, ProbeId, ProbeResult},
    service::{Activity, Service, ServiceSettings},
    status::LogEntry,
    summary::Summed,
    time::{Slot, Timestamp},
};

use crate::memory_store;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    RecordsTwice,
    ForgetsEntriesOnRepeat,
    LateResultsVote,
    ManualResultsVote,
    SkipsASeq,
    HalfABatch,
    HalfWhenDropped,
    RefusesTheWholeBatch,
    DropsWhatItSetsAside,
    OrderOfArrival,
    PagesByOffset,
    FeedSkips,
    ForgetsDeleted,
    NoConflict,
    AlwaysARevision,
    LosesAnInput,
    LastIsTheLatestToArrive,
    MissesTwice,
    FeedSaysActive,
    SumsEveryKind,
    SumsTheEnd,
    SumsOnce,
    SumsOthers,
}

/// The store in memory, with one fault.
struct Faulty {
    inner: Arc<dyn ResultStore>,
    fault: Fault,
    calls: AtomicUsize,
    shown: Mutex<Vec<(ServiceId, usize)>>,
    sums: Mutex<HashMap<(ServiceId, Slot, Slot), Summed>>,
}

async fn with(fault: Fault, setup: StoreSetup) -> StoreFixture {
    let honest = memory_store(setup).await;
    StoreFixture::in_process(Arc::new(Faulty::new(honest.store, fault)), honest.time)
}

/// `inner`, with a feed that does not tell of pauses and deletions.
pub(super) fn deaf_to_pauses(inner: Arc<dyn ResultStore>) -> Arc<dyn ResultStore> {
    Arc::new(Faulty::new(inner, Fault::FeedSaysActive))
}

impl Faulty {
    fn new(inner: Arc<dyn ResultStore>, fault: Fault) -> Self {
        Self { inner, fault, calls: AtomicUsize::new(0), shown: Mutex::default(), sums: Mutex::default() }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Moves a result to a slot of its own, as a store without a key on slots might.
    fn moved(result: &ProbeResult, millis: i64) -> ProbeResult {
        let mut result = result.clone();
        result.id.slot = Slot::from_millis(result.id.slot.as_millis() + millis);
        result
    }

    /// The newest slot of a result's service.
    async fn newest(&self, result: &ProbeResult) -> Option<Slot> {
        let one = self.inner.results(result.id.service, &ResultQuery::default(), NonZeroUsize::MIN).await;
        one.ok()?.first().map(|stored| stored.result.id.slot)
    }

    async fn record_faulty(&self, mut results: Vec<ProbeResult>) -> Result<Recorded, StoreError> {
        match self.fault {
            Fault::RecordsTwice => {
                let twice: Vec<_> = results.iter().map(|result| Self::moved(result, 1)).collect();
                let first = self.inner.record(results).await?;
                if first.repeated > 0 {
                    self.inner.record(twice).await?;
                }
                return Ok(first);
            }
            Fault::LateResultsVote => {
                for result in &mut results {
                    if let Some(newest) = self.newest(result).await.filter(|newest| result.id.slot < *newest) {
                        *result = Self::moved(result, newest.as_millis() - result.id.slot.as_millis() + 1);
                    }
                }
            }
            Fault::ManualResultsVote => results.iter_mut().for_each(|result| result.id.kind = Kind::Scheduled),
            Fault::HalfABatch if results.len() > 4 => drop(results.split_off(results.len() / 2)),
            Fault::HalfWhenDropped => {
                let second = results.split_off(results.len() / 2);
                let first = self.inner.record(results).await?;
                tokio::task::yield_now().await;
                let second = self.inner.record(second).await?;
                return Ok(joined(first, second));
            }
            Fault::OrderOfArrival => {
                let mut whole = Recorded::default();
                for result in results {
                    whole = joined(whole, self.inner.record(vec![result]).await?);
                }
                return Ok(whole);
            }
            _ => {}
        }
        let mut recorded = self.inner.record(results).await?;
        match self.fault {
            Fault::ForgetsEntriesOnRepeat if recorded.inserted == 0 => recorded.entries.clear(),
            Fault::RefusesTheWholeBatch if !recorded.set_aside.is_empty() => {
                return Err(StoreError::Refused("some of it cannot be recorded".into()));
            }
            Fault::DropsWhatItSetsAside => recorded.set_aside.clear(),
            _ => {}
        }
        Ok(recorded)
    }

    async fn summary_faulty(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>, StoreError> {
        let mut summed = self.inner.summary(id, from, to).await?;
        let Some(found) = &mut summed else { return Ok(None) };
        match self.fault {
            Fault::SumsEveryKind => {
                let query = ResultQuery { from: Some(from), to: Some(to), ..ResultQuery::default() };
                for mut stored in self.inner.results(id, &query, NonZeroUsize::MAX).await? {
                    let kind = std::mem::replace(&mut stored.result.id.kind, Kind::Scheduled);
                    found.summary.extend(Some(&stored.result).filter(|_| kind != Kind::Scheduled));
                }
            }
            Fault::SumsTheEnd => {
                let to = Slot::from_millis(to.as_millis() + 1);
                found.summary =
                    self.inner.summary(id, from, to).await?.map(|summed| summed.summary).unwrap_or_default();
            }
            Fault::SumsOnce => {
                let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
                *found = sums.entry((id, from, to)).or_insert_with(|| found.clone()).clone();
            }
            Fault::SumsOthers => {
                for other in self.inner.services(&ServiceFilter::default(), None, NonZeroUsize::MAX).await? {
                    if other.service.id != id
                        && let Some(summed) = self.inner.summary(other.service.id, from, to).await?
                    {
                        found.summary.merge(&summed.summary);
                    }
                }
            }
            _ => {}
        }
        Ok(summed)
    }

    fn renumbered(&self, mut entries: Vec<LogEntry>) -> Vec<LogEntry> {
        if self.is(Fault::SkipsASeq) {
            entries.iter_mut().filter(|entry| entry.seq.0 > 3).for_each(|entry| entry.seq = entry.seq.next());
        }
        entries
    }
}

fn joined(mut first: Recorded, mut second: Recorded) -> Recorded {
    first.inserted += second.inserted;
    first.repeated += second.repeated;
    first.set_aside.append(&mut second.set_aside);
    first.entries.append(&mut second.entries);
    first.sooner.append(&mut second.sooner);
    first
}

#[async_trait]
impl ResultStore for Faulty {
    async fn now(&self) -> Result<Timestamp, StoreError> {
        self.inner.now().await
    }

    async fn register(&self, id: ServiceId, settings: ServiceSettings) -> Result<Service, StoreError> {
        self.inner.register(id, settings).await
    }

    async fn change(&self, id: ServiceId, expected: Option<Revision>, change: Change) -> Result<Changed, StoreError> {
        let expected = expected.filter(|_| !self.is(Fault::NoConflict));
        if self.is(Fault::AlwaysARevision) && change == Change::Pause {
            self.inner.change(id, expected, Change::Resume).await?;
        }
        self.inner.change(id, expected, change).await
    }

    async fn service(&self, id: ServiceId) -> Result<Option<ServiceView>, StoreError> {
        let mut view = self.inner.service(id).await?;
        if self.is(Fault::LastIsTheLatestToArrive)
            && let Some(last) = view.as_mut().and_then(|view| view.last.as_mut())
        {
            // As if an older result that came later had covered it.
            let query = ResultQuery { to: Some(last.slot), ..ResultQuery::default() };
            let earlier = self.inner.results(id, &query, NonZeroUsize::MIN).await?;
            if let Some(stored) = earlier.first() {
                *last = healthmon_core::ports::LastResult::of(&stored.result);
            }
        }
        Ok(view)
    }

    async fn services(
        &self,
        filter: &ServiceFilter,
        after: Option<ServiceId>,
        limit: NonZeroUsize,
    ) -> Result<Vec<ServiceView>, StoreError> {
        self.inner.services(filter, after, limit).await
    }

    async fn changes(&self, after: Revision, limit: NonZeroUsize) -> Result<Vec<Service>, StoreError> {
        let mut changes = self.inner.changes(after, limit).await?;
        match self.fault {
            Fault::ForgetsDeleted => changes.retain(|service| service.activity != Activity::Deleted),
            Fault::FeedSkips => changes.sort_by_key(|service| service.id),
            Fault::FeedSaysActive => changes.iter_mut().for_each(|service| service.activity = Activity::Active),
            _ => {}
        }
        Ok(changes)
    }

    async fn record(&self, results: Vec<ProbeResult>) -> Result<Recorded, StoreError> {
        let mut recorded = self.record_faulty(results).await?;
        recorded.entries = self.renumbered(recorded.entries);
        Ok(recorded)
    }

    async fn sweep(&self, after: Option<ServiceId>, limit: NonZeroUsize) -> Result<Swept, StoreError> {
        let mut swept = self.inner.sweep(after, limit).await?;
        if self.is(Fault::MissesTwice) {
            swept.missed += 1;
        }
        Ok(swept)
    }

    async fn results(
        &self,
        id: ServiceId,
        query: &ResultQuery,
        limit: NonZeroUsize,
    ) -> Result<Vec<StoredResult>, StoreError> {
        if !self.is(Fault::PagesByOffset) {
            return self.inner.results(id, query, limit).await;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let place = shown.iter().position(|(service, _)| *service == id).filter(|_| query.before.is_some());
        let offset = place.map_or(0, |place| shown.swap_remove(place).1);
        let all = self.inner.results(id, &ResultQuery { before: None, ..query.clone() }, NonZeroUsize::MAX).await?;
        let page: Vec<_> = all.into_iter().skip(offset).take(limit.get()).collect();
        shown.retain(|(service, _)| *service != id);
        shown.push((id, offset + page.len()));
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
        Ok(page)
    }

    async fn result(&self, id: &ProbeId) -> Result<Option<StoredResult>, StoreError> {
        self.inner.result(id).await
    }

    async fn summary(&self, id: ServiceId, from: Slot, to: Slot) -> Result<Option<Summed>, StoreError> {
        self.summary_faulty(id, from, to).await
    }

    async fn log(&self, after: Seq, limit: NonZeroUsize) -> Result<Vec<LogEntry>, StoreError> {
        let entries = self.inner.log(after, limit).await?;
        Ok(self.renumbered(entries))
    }

    async fn service_log(
        &self,
        id: ServiceId,
        before: Option<Seq>,
        limit: NonZeroUsize,
    ) -> Result<Vec<LogEntry>, StoreError> {
        self.inner.service_log(id, before, limit).await
    }

    async fn head(&self) -> Result<LogHead, StoreError> {
        self.inner.head().await
    }

    async fn inputs(
        &self,
        id: ServiceId,
        after: Applied,
        limit: NonZeroUsize,
    ) -> Result<Vec<AppliedInput>, StoreError> {
        let mut inputs = self.inner.inputs(id, after, limit).await?;
        if self.is(Fault::LosesAnInput) && self.calls.fetch_add(1, Ordering::SeqCst) > 0 {
            inputs.retain(|input| input.applied != Applied(3));
        }
        Ok(inputs)
    }

    async fn state(&self, id: ServiceId) -> Result<Option<State<Thresholds>>, StoreError> {
        self.inner.state(id).await
    }
}

macro_rules! faulty {
    ($fault:ident) => {
        async |setup| with(Fault::$fault, setup).await
    };
}

super::faults! { store {
    a_store_that_records_twice: "store that records a repeat again" =>
        a_repeated_batch_returns_the_same_entries_and_nothing_happens_twice, faulty!(RecordsTwice), memory_store;
    a_store_that_forgets_entries_on_repeat: "store that returns no entries for a repeat" =>
        a_repeated_batch_returns_the_same_entries_and_nothing_happens_twice, faulty!(ForgetsEntriesOnRepeat), memory_store;
    a_store_that_lets_late_results_vote: "store that lets late results vote" =>
        a_late_result_is_stored_and_does_not_vote, faulty!(LateResultsVote), memory_store;
    a_store_that_lets_manual_results_vote: "store that lets manual results vote" =>
        a_manual_result_is_stored_and_does_not_vote, faulty!(ManualResultsVote), memory_store;
    a_store_that_skips_a_seq: "store whose log skips a place" =>
        seq_is_gapless_from_one, faulty!(SkipsASeq), memory_store;
    a_store_that_half_applies_a_batch: "store that records half of a large batch" =>
        a_batch_of_thousands_is_recorded_whole, faulty!(HalfABatch), memory_store;
    a_store_that_half_applies_a_dropped_batch: "store that records a batch in two transactions" =>
        a_dropped_record_is_done_or_not_done, faulty!(HalfWhenDropped), memory_store;
    a_store_that_refuses_a_batch_for_one: "store that refuses a batch because of one result" =>
        what_is_set_aside_holds_up_nobody_in_its_batch, faulty!(RefusesTheWholeBatch), memory_store;
    a_store_that_drops_in_silence: "store that does not name what it sets aside" =>
        a_result_of_an_unknown_service_is_set_aside, faulty!(DropsWhatItSetsAside), memory_store;
    a_store_that_folds_in_order_of_arrival: "store that folds results in the order they came" =>
        a_batch_is_folded_in_order_of_slot_whatever_its_own_order, faulty!(OrderOfArrival), memory_store;
    a_store_that_pages_by_offset: "store that pages by offset" =>
        results_pages_are_stable_while_rows_are_added, faulty!(PagesByOffset), memory_store;
    a_store_whose_feed_is_not_by_revision: "store whose feed comes by id, not by revision" =>
        the_feed_gives_each_changed_service_once_with_its_last_revision, faulty!(FeedSkips), memory_store;
    a_store_whose_feed_forgets_deleted_services: "store whose feed leaves deleted services out" =>
        a_deleted_service_leaves_a_tombstone, faulty!(ForgetsDeleted), memory_store;
    a_store_that_ignores_revisions: "store that ignores the revision a caller expects" =>
        of_concurrent_changes_of_one_revision_one_is_made, faulty!(NoConflict), memory_store;
    a_store_that_gives_a_revision_for_nothing: "store that gives a revision for no change" =>
        a_change_to_what_is_gives_no_revision, faulty!(AlwaysARevision), memory_store;
    a_store_that_loses_an_input: "store that loses an input" =>
        inputs_replay_to_exactly_the_state, faulty!(LosesAnInput), memory_store;
    a_store_that_shows_the_latest_arrival_as_newest: "store that shows an older result as the newest" =>
        a_service_shows_its_newest_result, faulty!(LastIsTheLatestToArrive), memory_store;
    a_store_whose_sweep_counts_twice: "store whose sweep notes slots again and again" =>
        silence_is_noted_once_and_shows_as_blind, faulty!(MissesTwice), memory_store;
    a_store_that_sums_every_kind: "store that sums a person's probes too" =>
        a_summary_is_the_sum_of_the_scheduled_results, faulty!(SumsEveryKind), memory_store;
    a_store_that_sums_the_end: "store that counts the slot that a span ends with" =>
        a_summary_holds_its_first_slot_and_not_its_end, faulty!(SumsTheEnd), memory_store;
    a_store_that_sums_once: "store that never sums an hour again" =>
        late_results_are_in_the_summary_and_repeats_are_not, faulty!(SumsOnce), memory_store;
    a_store_that_sums_others: "store that sums all services" =>
        a_summary_is_of_one_service, faulty!(SumsOthers), memory_store;
} }
