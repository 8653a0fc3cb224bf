//! What probers read of services' settings: each is read once for as long as it is the same, and
//! there is room. To parse JSON, compile patterns and take URLs apart costs more than many a probe.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use healthmon_core::{
    id::ServiceId,
    service::{FieldErrors, Service, ServiceSettings},
};
use tokio::time::Instant;

/// How much is kept, as [`weight`] estimates it.
const ROOM: usize = 32 << 20;
/// What has not been wanted for so long makes room.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);
/// What a service takes besides its texts: entries, addresses, tables.
const BASE_WEIGHT: usize = 2 << 10;
/// How many times its text in JSON is taken by what is read of it.
const TEXT_WEIGHT: usize = 8;
/// What a compiled pattern takes by itself, and for each KiB that it was compiled to; as measured, with what
/// its searches take: 9 KiB of 1, 34 of 16, 85 of 32, 95 of 56, but 63 of 3 where it begins with few literals.
const PATTERN_WEIGHT: usize = 24 << 10;
const PATTERN_KIB_WEIGHT: usize = 3 << 9;

/// Something read of a service's settings.
pub(crate) trait Prepare: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// Every field that is wrong.
    fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors>;

    /// How many compiled patterns are in it.
    fn patterns(&self) -> usize {
        0
    }

    /// What they are compiled to, in KiB.
    fn patterns_kib(&self) -> usize {
        0
    }
}

/// Settings that were read, by service.
///
/// When there is no room, those stay that are there: services come round and round, so that to let
/// the oldest go would keep nothing at all as soon as they do not all fit. Those that come no more
/// are let go of after a while.
pub(crate) struct Prepared<S>(Mutex<Kept<S>>);

struct Kept<S> {
    by_id: HashMap<ServiceId, One<S>>,
    weight: usize,
    swept: Instant,
}

struct One<S> {
    /// What it was read of.
    service: Arc<Service>,
    read: Arc<S>,
    weight: usize,
    wanted: Instant,
}

impl<S> fmt::Debug for Prepared<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

impl<S> Default for Prepared<S> {
    fn default() -> Self {
        Self(Mutex::new(Kept { by_id: HashMap::new(), weight: 0, swept: Instant::now() }))
    }
}

impl<S: Prepare> Prepared<S> {
    /// Nothing here panics while it holds the lock, and the map has no half-done state.
    fn kept(&self) -> MutexGuard<'_, Kept<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `service`'s settings say.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub(crate) fn of(&self, service: &Arc<Service>) -> Result<Arc<S>, FieldErrors> {
        let now = Instant::now();
        if let Some(known) = self.kept().by_id.get_mut(&service.id) {
            let same = Arc::ptr_eq(&known.service, service);
            if same || known.service.settings == service.settings {
                if !same {
                    // Another copy: this one is what the next probe will come with.
                    known.service = Arc::clone(service);
                }
                known.wanted = now;
                return Ok(Arc::clone(&known.read));
            }
        }
        let read = Arc::new(S::prepare(&service.settings)?);
        let weight = weight(&service.settings, &*read);
        let one = One { service: Arc::clone(service), read: Arc::clone(&read), weight, wanted: now };
        self.kept().keep(one, now);
        Ok(read)
    }
}

impl<S> Kept<S> {
    fn keep(&mut self, one: One<S>, now: Instant) {
        if let Some(old) = self.by_id.remove(&one.service.id) {
            self.weight -= old.weight;
        }
        if now.duration_since(self.swept) > FORGOTTEN_AFTER {
            self.swept = now;
            self.by_id.retain(|_, known| now.duration_since(known.wanted) < FORGOTTEN_AFTER);
            self.weight = self.by_id.values().map(|known| known.weight).sum();
        }
        if self.weight + one.weight <= ROOM
            && let Entry::Vacant(place) = self.by_id.entry(one.service.id)
        {
            self.weight += one.weight;
            place.insert(one);
        }
    }
}

fn weight(settings: &ServiceSettings, read: &impl Prepare) -> usize {
    // Settings came as JSON: what cannot be written as such again is not kept.
    let text = serde_json::to_vec(settings).map_or(ROOM, |text| text.len());
    let patterns = read.patterns().saturating_mul(PATTERN_WEIGHT);
    let kib = read.patterns_kib().saturating_mul(PATTERN_KIB_WEIGHT);
    BASE_WEIGHT.saturating_add(text.saturating_mul(TEXT_WEIGHT)).saturating_add(patterns).saturating_add(kib)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use healthmon_core::{
        id::{Epoch, Revision},
        time::Timestamp,
    };
    use serde_json::json;

    use super::*;

    static READ: AtomicUsize = AtomicUsize::new(0);

    /// Settings that say how many patterns they have.
    struct Counted(usize);

    impl Prepare for Counted {
        fn prepare(service: &ServiceSettings) -> Result<Self, FieldErrors> {
            READ.fetch_add(1, Ordering::SeqCst);
            let patterns = service.options.section("patterns").and_then(serde_json::Value::as_u64);
            patterns.map(|patterns| Self(patterns as usize)).ok_or_else(|| FieldErrors::one("patterns", "is required"))
        }

        fn patterns(&self) -> usize {
            self.0
        }

        fn patterns_kib(&self) -> usize {
            64 * self.0
        }
    }

    fn service(number: u64, patterns: &serde_json::Value) -> Arc<Service> {
        let settings = json!({"name": "a", "url": "http://a.test/", "interval": "30s", "patterns": patterns});
        let settings: ServiceSettings = serde_json::from_value(settings).expect("settings");
        let id = ServiceId::new(number).expect("an id");
        Arc::new(Service::registered(id, settings, Revision(1), Epoch(1), Timestamp::from_millis(0)))
    }

    /// How often something was read meanwhile. One test, for it counts in one place.
    fn reads(meanwhile: impl FnOnce()) -> usize {
        let before = READ.load(Ordering::SeqCst);
        meanwhile();
        READ.load(Ordering::SeqCst) - before
    }

    #[tokio::test(start_paused = true)]
    async fn settings_are_read_again_only_when_they_have_changed_or_found_no_room() {
        let prepared = Prepared::<Counted>::default();
        let said = |service: &Arc<Service>| prepared.of(service).map(|read| read.0);

        let first = service(1, &json!(1));
        assert_eq!(
            reads(|| assert_eq!([said(&first), said(&first), said(&service(1, &json!(1)))], [const { Ok(1) }; 3])),
            1
        );
        let changed = service(1, &json!(2));
        assert_eq!(reads(|| assert_eq!([said(&changed), said(&changed)], [const { Ok(2) }; 2])), 1);
        assert_eq!(reads(|| assert_eq!(said(&first), Ok(1))), 1, "an older copy is not answered by a newer one's");
        let wrong = service(2, &json!("many"));
        assert_eq!(reads(|| assert!(said(&wrong).is_err() && said(&wrong).is_err())), 2);

        // Of those that do not all fit, the share that does is kept round after round.
        let many: Vec<_> = (10..10 + 1_000).map(|number| service(number, &json!(1))).collect();
        let round = || reads(|| many.iter().for_each(|service| assert_eq!(said(service), Ok(1))));
        assert_eq!(round(), 1_000);
        let fit = 1_000 - round();
        assert!((200..ROOM / PATTERN_WEIGHT).contains(&fit), "{fit} fit");
        assert_eq!(1_000 - round(), fit);
        assert!(prepared.kept().weight <= ROOM);

        // Those that come no more make room for others.
        tokio::time::advance(FORGOTTEN_AFTER * 2).await;
        let others: Vec<_> = (5_000..5_100).map(|number| service(number, &json!(1))).collect();
        let round = || reads(|| others.iter().for_each(|service| assert_eq!(said(service), Ok(1))));
        assert_eq!([round(), round()], [100, 0]);
        assert_eq!(prepared.kept().by_id.len(), 100);
    }
}
