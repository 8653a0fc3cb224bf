use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use healthmon_core::{
    conformance::heartbeats::{HeartbeatsFixture, HeartbeatsSetup},
    heartbeat::{End, Heard, KeyDigest, Noted, Pulse, Sign},
    id::ServiceId,
    ports::{Heartbeats, StoreError},
    status::Status,
    time::Timestamp,
};

use crate::memory_heartbeats;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    ForgetsMessages,
    TakesAnybody,
    KeepsTheOldKey,
    RemembersTheDeleted,
    KeysForNobody,
    CountsRepeats,
    NewestIsTheLatestToArrive,
    ForgetsRuns,
    AnswersOutOfOrder,
    MixesServices,
    AlwaysUp,
    KnowsOneEnd,
    LosesTheOthers,
    HalfWhenDropped,
    ForgetsOnRestart,
    NeverDeaf,
}

/// What a faulty store believes beside what it keeps.
#[derive(Default)]
struct Beliefs {
    keys: HashMap<ServiceId, KeyDigest>,
    pulses: HashMap<ServiceId, Pulse>,
}

/// Heartbeats in memory, with one fault.
struct Faulty {
    inner: Arc<dyn Heartbeats>,
    fault: Fault,
    beliefs: Mutex<Beliefs>,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn beliefs(&self) -> std::sync::MutexGuard<'_, Beliefs> {
        self.beliefs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The signs as the fault makes them.
    fn spoilt(&self, mut signs: Vec<Sign>) -> Vec<Sign> {
        match self.fault {
            Fault::ForgetsMessages => signs.iter_mut().for_each(|sign| sign.message = None),
            Fault::ForgetsRuns => signs.iter_mut().for_each(|sign| sign.run = None),
            Fault::CountsRepeats | Fault::NewestIsTheLatestToArrive => {
                // A sign's time is when it is noted, whatever it says.
                let mut beliefs = self.beliefs();
                for sign in &mut signs {
                    let pulse = beliefs.pulses.entry(sign.service).or_default();
                    let newest =
                        [&pulse.success, &pulse.failure, &pulse.start].into_iter().flatten().map(|s| s.at).max();
                    let next = newest.map(|at| at.after(std::time::Duration::from_micros(1)));
                    if self.fault == Fault::CountsRepeats {
                        sign.run = None;
                    }
                    sign.at = next.map_or(sign.at, |next| next.max(sign.at));
                    pulse.note(sign);
                }
            }
            Fault::MixesServices => {
                if let Some(first) = signs.first().map(|sign| sign.service) {
                    signs.iter_mut().skip(100).for_each(|sign| sign.service = first);
                }
            }
            _ => {}
        }
        signs
    }
}

#[async_trait]
impl Heartbeats for Faulty {
    async fn set_key(&self, service: ServiceId, key: KeyDigest) -> Result<(), StoreError> {
        self.beliefs().keys.entry(service).or_insert(key);
        match self.inner.set_key(service, key).await {
            Err(StoreError::NotFound(_)) if self.is(Fault::KeysForNobody) => Ok(()),
            done => done,
        }
    }

    async fn keys(&self, services: &[ServiceId]) -> Result<Vec<(ServiceId, KeyDigest)>, StoreError> {
        if self.is(Fault::KeepsTheOldKey) || self.is(Fault::RemembersTheDeleted) {
            let beliefs = self.beliefs();
            return Ok(services.iter().filter_map(|id| beliefs.keys.get(id).map(|key| (*id, *key))).collect());
        }
        self.inner.keys(services).await
    }

    async fn note(&self, signs: Vec<Sign>) -> Result<Vec<Noted>, StoreError> {
        if self.is(Fault::HalfWhenDropped) {
            let mut noted = Vec::new();
            for sign in signs {
                noted.extend(self.inner.note(vec![sign]).await?);
                tokio::task::yield_now().await;
            }
            return Ok(noted);
        }
        if self.is(Fault::LosesTheOthers) {
            // Reads, and writes what it read in memory, without a lock.
            let mut known = Vec::new();
            for sign in &signs {
                known.push(self.heard(sign.service).await?.unwrap_or_default().pulse);
            }
            tokio::task::yield_now().await;
            let mut noted = Vec::new();
            for (sign, mut pulse) in signs.into_iter().zip(known) {
                let service = sign.service;
                pulse.note(&sign);
                noted.extend(self.inner.note(vec![sign]).await?);
                self.beliefs().pulses.insert(service, pulse);
            }
            return Ok(noted);
        }
        let count = signs.len();
        let mut noted = self.inner.note(self.spoilt(signs)).await?;
        for noted in &mut noted {
            match noted {
                Noted::News { status, .. } if self.is(Fault::AlwaysUp) => *status = Status::Up,
                Noted::News { before, .. } if self.is(Fault::KnowsOneEnd) => *before = Some(End::Well),
                Noted::Nobody if self.is(Fault::TakesAnybody) => *noted = Noted::Known,
                _ => {}
            }
        }
        if self.is(Fault::AnswersOutOfOrder) && count > 2 {
            noted.reverse();
        }
        Ok(noted)
    }

    async fn heard(&self, service: ServiceId) -> Result<Option<Heard>, StoreError> {
        let believed = self.beliefs().pulses.get(&service).cloned().filter(|_| self.is(Fault::LosesTheOthers));
        let mut heard = self.inner.heard(service).await?;
        if let (Some(heard), Some(pulse)) = (&mut heard, believed) {
            heard.pulse = pulse;
        }
        Ok(heard)
    }

    async fn listening(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.is(Fault::NeverDeaf) { Ok(()) } else { self.inner.listening(now).await }
    }
}

async fn with(fault: Fault, setup: HeartbeatsSetup) -> HeartbeatsFixture {
    let honest = memory_heartbeats(setup).await;
    let faulty: Arc<dyn Heartbeats> =
        Arc::new(Faulty { inner: Arc::clone(&honest.heartbeats), fault, beliefs: Mutex::default() });
    let mut fixture = HeartbeatsFixture::beside(Arc::clone(&honest.store), faulty, honest.time.clone());
    if fault == Fault::ForgetsOnRestart {
        fixture.reopen = Box::new(|| Box::pin(async { memory_heartbeats(HeartbeatsSetup).await.heartbeats }));
    }
    fixture
}

macro_rules! faulty {
    ($fault:ident) => {
        async |setup| with(Fault::$fault, setup).await
    };
}

super::faults! { heartbeats {
    heartbeats_that_forget_messages: "store that forgets what was said about a sign" =>
        signs_are_read_back_as_they_were, faulty!(ForgetsMessages), memory_heartbeats;
    heartbeats_that_take_anybody: "store that takes signs of services without a key" =>
        a_service_without_a_key_takes_no_sign, faulty!(TakesAnybody), memory_heartbeats;
    heartbeats_that_keep_the_old_key: "store whose first key stays" =>
        a_new_key_takes_the_place_of_the_old_one_and_signs_stay, faulty!(KeepsTheOldKey), memory_heartbeats;
    heartbeats_that_remember_the_deleted: "store that keeps the keys of deleted services" =>
        a_deleted_service_has_no_key_and_takes_no_sign, faulty!(RemembersTheDeleted), memory_heartbeats;
    heartbeats_with_keys_for_nobody: "store that takes keys for services that are not there" =>
        only_services_that_there_are_get_a_key, faulty!(KeysForNobody), memory_heartbeats;
    heartbeats_that_count_repeats: "store that takes a repeated batch for new signs" =>
        a_repeated_batch_changes_nothing, faulty!(CountsRepeats), memory_heartbeats;
    heartbeats_by_order_of_arrival: "store that takes the last to arrive for the newest" =>
        a_sign_that_comes_late_does_not_hide_a_newer_one, faulty!(NewestIsTheLatestToArrive), memory_heartbeats;
    heartbeats_that_forget_runs: "store that does not know a run again" =>
        a_sign_of_a_known_run_changes_nothing, faulty!(ForgetsRuns), memory_heartbeats;
    heartbeats_that_answer_out_of_order: "store that answers in another order" =>
        a_batch_is_taken_in_by_its_order_and_answered_in_it, faulty!(AnswersOutOfOrder), memory_heartbeats;
    heartbeats_that_mix_services: "store that gives one service another's signs in a large batch" =>
        many_services_in_one_batch_do_not_mix, faulty!(MixesServices), memory_heartbeats;
    heartbeats_that_are_always_up: "store that does not say what is announced" =>
        what_came_before_and_what_is_announced_are_told, faulty!(AlwaysUp), memory_heartbeats;
    heartbeats_that_know_one_end: "store that does not say how the run before ended" =>
        what_came_before_and_what_is_announced_are_told, faulty!(KnowsOneEnd), memory_heartbeats;
    heartbeats_with_runs_left_out: "store whose pulse is not the fold of all signs" =>
        any_signs_leave_what_the_pulse_says, faulty!(ForgetsRuns), memory_heartbeats;
    heartbeats_that_lose_the_others_signs: "store that writes back what it read without a lock" =>
        signs_noted_at_once_by_two_nodes_are_all_taken_in, faulty!(LosesTheOthers), memory_heartbeats;
    heartbeats_half_noted: "store that notes a batch sign by sign" =>
        a_dropped_note_is_done_or_not_done, faulty!(HalfWhenDropped), memory_heartbeats;
    heartbeats_that_are_never_deaf: "store that does not know when nobody listened" =>
        a_time_in_which_nobody_listened_is_told_to_all, faulty!(NeverDeaf), memory_heartbeats;
    heartbeats_that_forget_on_restart: "store that keeps signs in its process" =>
        signs_and_keys_outlive_a_restart, faulty!(ForgetsOnRestart), memory_heartbeats;
} }
