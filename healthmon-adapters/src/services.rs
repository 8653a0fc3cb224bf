//! Services on their way through a shared queue: each is written and read once for as long as it is
//! the same, and there is room.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use healthmon_core::{id::ServiceId, service::Service};
use indexmap::IndexMap;

/// How many bytes of texts are kept; what is made of them takes a few times as much.
const KEPT: usize = 64 << 20;

/// A service as a queue carries it.
pub(crate) trait Text {
    fn bytes(&self) -> &[u8];
}

#[cfg(feature = "redis")]
impl Text for bytes::Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }
}

#[cfg(feature = "postgres")]
impl Text for Arc<str> {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Services and their texts, up to a number of bytes.
///
/// When there is no room, whatever chance points at makes some. Services come round and round, so
/// that to let the oldest go would keep nothing at all as soon as they do not all fit; this way the
/// share stays that does.
pub(crate) struct Services<T>(Mutex<Kept<T>>);

pub(crate) struct Kept<T> {
    by_id: IndexMap<ServiceId, (Arc<Service>, T)>,
    bytes: usize,
    room: usize,
    /// The state of a generator of numbers that need not be good.
    chance: u64,
}

impl<T: Text> Services<T> {
    pub(crate) fn new() -> Self {
        Self::with_room(KEPT)
    }

    fn with_room(room: usize) -> Self {
        Self(Mutex::new(Kept { by_id: IndexMap::new(), bytes: 0, room, chance: 0x9e37_79b9_7f4a_7c15 }))
    }

    /// What is kept, for as long as a batch takes.
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Text> Kept<T> {
    /// The text of `service`, which `write` makes if it is not kept.
    ///
    /// # Errors
    /// Those of `write`.
    pub(crate) fn text<E>(
        &mut self,
        service: &Arc<Service>,
        write: impl FnOnce(&Service) -> Result<T, E>,
    ) -> Result<&T, E> {
        let known = self.by_id.get_index_of(&service.id).filter(|at| {
            let (known, _) = &self.by_id[*at];
            Arc::ptr_eq(known, service) || known == service
        });
        let at = match known {
            Some(at) => at,
            None => self.keep(Arc::clone(service), write(service)?),
        };
        Ok(&self.by_id[at].1)
    }

    /// The service that `text` says, which `read` reads if it is not kept.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn service<E>(
        &mut self,
        id: ServiceId,
        text: &[u8],
        read: impl FnOnce() -> Result<(Service, T), E>,
    ) -> Result<Arc<Service>, E> {
        if let Some((service, known)) = self.by_id.get(&id)
            && known.bytes() == text
        {
            return Ok(Arc::clone(service));
        }
        let (service, text) = read()?;
        let service = Arc::new(service);
        self.keep(Arc::clone(&service), text);
        Ok(service)
    }

    /// Keeps a service; returns where.
    fn keep(&mut self, service: Arc<Service>, text: T) -> usize {
        self.bytes += text.bytes().len();
        let (mut at, replaced) = self.by_id.insert_full(service.id, (service, text));
        self.bytes -= replaced.map_or(0, |(_, old)| old.bytes().len());
        while self.bytes > self.room && self.by_id.len() > 1 {
            self.chance ^= self.chance << 13;
            self.chance ^= self.chance >> 7;
            self.chance ^= self.chance << 17;
            let places = self.by_id.len() - 1;
            // Any but the one that has just come.
            let chosen = (self.chance % places as u64) as usize;
            let gone = if chosen < at { chosen } else { chosen + 1 };
            if let Some((_, (_, old))) = self.by_id.swap_remove_index(gone) {
                self.bytes -= old.bytes().len();
            }
            if at == places {
                at = gone;
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use healthmon_core::{
        id::{Epoch, Revision},
        service::ServiceSettings,
        time::Timestamp,
    };

    use super::*;

    impl Text for Vec<u8> {
        fn bytes(&self) -> &[u8] {
            self
        }
    }

    fn service(number: u64) -> Arc<Service> {
        let settings = serde_json::json!({"name": "a", "url": "http://a.test/", "interval": "30s"});
        let settings: ServiceSettings = serde_json::from_value(settings).expect("settings");
        let id = ServiceId::new(number).expect("an id");
        Arc::new(Service::registered(id, settings, Revision(1), Epoch(1), Timestamp::from_millis(0)))
    }

    fn written(kept: &Services<Vec<u8>>, service: &Arc<Service>) -> usize {
        let mut times = 0;
        let text: Result<_, Infallible> = kept
            .kept()
            .text(service, |service| {
                times += 1;
                Ok(service.id.get().to_be_bytes().to_vec())
            })
            .cloned();
        let Ok(text) = text;
        assert_eq!(text, service.id.get().to_be_bytes(), "its own text, whoever made room");
        times
    }

    #[test]
    fn a_service_is_written_again_only_when_it_has_changed() {
        let kept = Services::new();
        let mut one = service(1);
        assert_eq!([written(&kept, &one), written(&kept, &one), written(&kept, &service(1))], [1, 0, 0]);
        Arc::make_mut(&mut one).revision = Revision(2);
        assert_eq!([written(&kept, &one), written(&kept, &one)], [1, 0]);
    }

    #[test]
    fn of_more_than_fit_the_share_that_does_is_kept_round_after_round() {
        let kept = Services::with_room(8 * 500);
        let services: Vec<_> = (1..=1_000).map(service).collect();
        let round = || services.iter().map(|service| written(&kept, service)).sum::<usize>();
        round();
        let again = round();
        assert!((400..=800).contains(&again), "{again} of 1,000 were written again with room for 500");
        assert_eq!(kept.kept().by_id.len(), 500);
        assert_eq!(kept.kept().bytes, 8 * 500);
    }
}
