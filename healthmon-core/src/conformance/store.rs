//! The contract of [`ResultStore`], clause by clause.

mod concurrency;
mod drops;
mod log;
mod pages;
mod record;
mod services;
mod summary;
mod sweep;
mod votes;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

pub use concurrency::*;
pub use drops::*;
pub use log::*;
pub use pages::*;
pub use record::*;
pub use services::*;
pub use summary::*;
pub use sweep::*;
pub use votes::*;

use tokio::sync::OnceCell;

use super::{
    TestTime,
    samples::{ALL, id, result},
};
use crate::{
    engine::{Control, Input, State, Thresholds},
    id::{Applied, Revision, Seq, ServiceId},
    ports::{AppliedInput, Change, Changed, Recorded, ResultQuery, ResultStore, StoredResult},
    probe::{Outcome, ProbeResult},
    service::{Service, ServiceSettings},
    status::{LogEntry, LogEvent, Status},
    time::Slot,
};

/// What a clause needs of the store that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSetup {
    /// How long results are to be kept.
    pub retention: Duration,
}

impl Default for StoreSetup {
    fn default() -> Self {
        Self { retention: Duration::from_hours(24) }
    }
}

/// Opens the backend anew.
pub type Reopen = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Arc<dyn ResultStore>> + Send>> + Send + Sync>;

/// An empty store, and what a clause does with it.
pub struct StoreFixture {
    /// One node's handle.
    pub store: Arc<dyn ResultStore>,
    /// Another node's handle on the same backend.
    pub other: Arc<dyn ResultStore>,
    /// How time passes for the store.
    pub time: TestTime,
    /// Opens the same backend anew, as after a restart.
    pub reopen: Reopen,
    start: OnceCell<Slot>,
    /// What must live as long as the test.
    _guard: Box<dyn Send>,
}

impl StoreFixture {
    /// Two nodes' handles on one empty backend. `guard` is kept as long as the test lasts: a
    /// temporary folder, a database of its own.
    pub fn new(
        store: Arc<dyn ResultStore>,
        other: Arc<dyn ResultStore>,
        time: TestTime,
        reopen: Reopen,
        guard: impl Send + 'static,
    ) -> Self {
        Self { store, other, time, reopen, start: OnceCell::new(), _guard: Box::new(guard) }
    }

    /// A store that lives in one process: both nodes and every restart have the same handle, since
    /// without the process there is nothing.
    pub fn in_process(store: Arc<dyn ResultStore>, time: TestTime) -> Self {
        let again = Arc::clone(&store);
        let reopen: Reopen = Box::new(move || {
            let again = Arc::clone(&again);
            Box::pin(async { again })
        });
        Self::new(Arc::clone(&store), store, time, reopen, ())
    }

    /// A slot an hour ago, and a second later with every number: results can be recorded in it
    /// without any time passing.
    async fn slot(&self, number: u64) -> Slot {
        let start = self.start.get_or_init(async || {
            let now = self.store.now().await.expect("the store's time");
            Slot::at(now.before(Duration::from_hours(1)))
        });
        start.await.after(Duration::from_secs(number))
    }
}

/// Makes one test of every clause of [`ResultStore`]'s contract, in a module of its own.
///
/// `$fixture` is an async function from [`StoreSetup`](crate::conformance::store::StoreSetup) to
/// [`StoreFixture`](crate::conformance::store::StoreFixture). See [`conformance`](crate::conformance).
#[macro_export]
macro_rules! store_conformance {
    ($(#[$meta:meta])* mod $name:ident, $fixture:expr $(,)?) => {
        $crate::store_conformance! { @tests $(#[$meta])* $name $fixture }
    };
    (@$mode:ident $($rest:tt)*) => {
        $crate::__conformance! { $mode store {
            a_recorded_result_is_read_back_as_it_was
            an_empty_batch_records_nothing
            a_repeated_batch_returns_the_same_entries_and_nothing_happens_twice
            a_repeat_within_a_batch_is_recorded_once
            the_first_result_of_a_probe_stays
            a_batch_of_old_and_new_results_records_the_new_ones
            results_that_differ_in_region_or_kind_are_different_results
            a_batch_of_thousands_is_recorded_whole
            a_result_of_an_unknown_service_is_set_aside
            a_result_of_a_deleted_service_is_set_aside
            a_result_older_than_the_retention_is_set_aside
            a_result_ahead_of_the_stores_time_is_set_aside
            what_is_set_aside_holds_up_nobody_in_its_batch
            a_batch_is_folded_in_order_of_slot_whatever_its_own_order
            any_cut_into_batches_leads_to_the_same_state_and_log
            a_stream_with_repeats_leads_to_what_one_without_does
            a_late_result_is_stored_and_does_not_vote
            a_result_of_older_settings_is_stored_and_does_not_vote
            a_result_of_a_paused_service_is_stored_and_does_not_vote
            a_manual_result_is_stored_and_does_not_vote
            a_result_from_a_region_not_asked_is_stored_and_does_not_vote
            an_edge_result_votes
            each_region_has_a_watermark_of_its_own
            an_undecided_change_asks_for_an_earlier_probe
            an_entry_names_what_caused_it
            a_result_moves_no_other_service
            seq_is_gapless_from_one
            the_log_is_what_the_inputs_make_of_the_engine
            the_log_comes_in_pages_oldest_first
            a_services_log_comes_in_pages_newest_first
            the_head_is_the_newest_entry_and_the_tail_before_the_oldest
            the_log_keeps_its_identity_for_every_node_and_over_a_restart
            inputs_replay_to_exactly_the_state
            applied_numbers_are_gapless_and_name_results_and_controls
            inputs_come_in_pages
            what_was_recorded_is_there_after_a_restart
            a_registered_service_is_there_at_once
            registering_again_returns_the_service_that_is_there
            an_id_taken_by_something_else_is_a_conflict
            every_setting_is_kept
            a_change_gives_the_next_revision
            a_change_of_a_stale_revision_is_a_conflict_and_changes_nothing
            a_change_to_what_is_gives_no_revision
            a_change_of_what_is_not_there_is_not_found
            what_is_judged_otherwise_has_a_new_epoch_and_what_is_not_has_not
            a_new_target_begins_again_at_unknown
            a_paused_service_is_frozen_and_resumes
            maintenance_freezes_what_is_announced_until_it_ends
            a_deleted_service_leaves_a_tombstone
            deleting_closes_what_was_announced_with_cause_deleted
            the_history_of_a_deleted_service_stays_readable
            the_feed_gives_each_changed_service_once_with_its_last_revision
            the_feed_comes_in_pages
            a_service_shows_its_newest_result
            results_come_newest_first
            results_pages_are_stable_while_rows_are_added
            results_of_one_slot_are_paged_without_gap_or_repeat
            results_are_found_by_time_and_outcome
            services_pages_are_stable_while_services_come_and_go
            services_are_found_by_status_group_tags_and_text
            a_filter_and_a_page_go_together
            a_summary_is_the_sum_of_the_scheduled_results
            a_summary_holds_its_first_slot_and_not_its_end
            late_results_are_in_the_summary_and_repeats_are_not
            a_summary_is_of_one_service
            the_summary_of_a_deleted_service_stays_readable
            silence_is_noted_once_and_shows_as_blind
            a_service_that_is_heard_of_is_not_missed
            a_paused_service_is_not_missed
            a_result_that_comes_after_its_slot_was_missed_still_votes
            maintenance_ends_once_by_the_sweep
            the_sweep_goes_on_where_it_stopped
            results_past_their_retention_go
            two_recorders_of_one_batch_record_it_once
            seq_is_in_commit_order_under_concurrent_recorders_and_changes
            inputs_replay_after_concurrent_recorders_and_changes
            revisions_are_gapless_and_in_commit_order_under_concurrent_changes
            of_concurrent_changes_of_one_revision_one_is_made
            two_sweeps_at_once_note_silence_once
            a_dropped_record_is_done_or_not_done
            a_dropped_change_is_done_or_not_done
            a_dropped_registration_is_done_or_not_done
            a_dropped_sweep_is_done_or_not_done
            dropped_reads_hold_up_nobody
        } $($rest)* }
    };
}

/// The names of this suite's clauses.
pub const CLAUSES: &[&str] = crate::store_conformance!(@names);

async fn registered(store: &dyn ResultStore, number: u64, settings: ServiceSettings) -> Service {
    store.register(id(number), settings).await.expect("registered")
}

async fn changed(store: &dyn ResultStore, id: ServiceId, change: Change) -> Changed {
    store.change(id, None, change).await.expect("changed")
}

async fn recorded(store: &dyn ResultStore, results: Vec<ProbeResult>) -> Recorded {
    store.record(results).await.expect("recorded")
}

/// Results of `outcomes` in one slot after the other, beginning with number `first`.
async fn series(fixture: &StoreFixture, service: &Service, first: u64, outcomes: &[Outcome]) -> Vec<ProbeResult> {
    let mut results = Vec::with_capacity(outcomes.len());
    for (number, outcome) in (first..).zip(outcomes) {
        results.push(result(service, fixture.slot(number).await, *outcome));
    }
    results
}

async fn whole_log(store: &dyn ResultStore) -> Vec<LogEntry> {
    store.log(Seq(0), ALL).await.expect("the log")
}

async fn all_results(store: &dyn ResultStore, id: ServiceId) -> Vec<StoredResult> {
    store.results(id, &ResultQuery::default(), ALL).await.expect("results")
}

async fn all_inputs(store: &dyn ResultStore, id: ServiceId) -> Vec<AppliedInput> {
    store.inputs(id, Applied(0), ALL).await.expect("inputs")
}

async fn state(store: &dyn ResultStore, id: ServiceId) -> State<Thresholds> {
    store.state(id).await.expect("a state").expect("a service")
}

async fn status(store: &dyn ResultStore, id: ServiceId) -> Status {
    store.service(id).await.expect("a view").expect("a service").status
}

/// The place that the next change of any service gets, less one: read off the feed.
async fn last_revision(store: &dyn ResultStore) -> Revision {
    let changes = store.changes(Revision(0), ALL).await.expect("changes");
    changes.iter().map(|service| service.revision).max().unwrap_or_default()
}

/// Folds a service's inputs, checking their numbers, and returns the events they lead to.
fn replay(inputs: &[AppliedInput]) -> (State<Thresholds>, Vec<(Applied, LogEvent)>) {
    let (registration, rest) = inputs.split_first().expect("a registration");
    let Input::Control(Control::Configure { policy, regions, .. }) = &registration.input else {
        panic!("the first input is the registration, not {registration:?}");
    };
    assert_eq!(registration.applied, Applied(1), "the registration is number 1");
    let (mut state, mut events) = (State::registered(*policy, regions), Vec::new());
    for AppliedInput { applied, input } in rest {
        let effects = state.apply(input);
        assert_eq!(effects.applied(), Some(*applied), "the number of {input:?} when it is folded again");
        let overlays = effects.overlays.iter().map(|&(overlay, edge)| LogEvent::Overlay { overlay, edge });
        events.extend(overlays.chain(effects.transition.map(LogEvent::Transition)).map(|event| (*applied, event)));
    }
    (state, events)
}

/// Asserts that a service's inputs replay to its state, and to its part of the log.
async fn assert_replays(store: &dyn ResultStore, id: ServiceId) {
    let (folded, events) = replay(&all_inputs(store, id).await);
    assert_eq!(folded, state(store, id).await, "the state is the fold of the inputs");
    let log = whole_log(store).await;
    let told: Vec<_> =
        log.into_iter().filter(|entry| entry.service.id == id).map(|entry| (entry.applied, entry.event)).collect();
    assert_eq!(told, events, "the service's log is what its inputs lead to");
}

/// Asserts that places in the log follow each other without gap or repeat.
fn assert_gapless(entries: &[LogEntry], first: Seq) {
    for (expected, entry) in (first.0..).zip(entries) {
        assert_eq!(entry.seq, Seq(expected), "the log has no gap and no repeat");
    }
}
