//! Edge probes for services that said something new: at once, but not too often, and a crowd of them
//! spread. Losing one costs only time: the next slot sees the same.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use healthmon_core::{
    id::ServiceId,
    ports::{QueueError, StoreError},
    runtime::{Handle, HandleError},
    service::Service,
};
use tokio::{sync::mpsc, time::Instant};

use super::SCHEME;

/// Two edge probes of a service come at least this far apart.
const APART: Duration = Duration::from_secs(1);
/// How many services are probed at a time, ...
const BATCH: usize = 100;
/// ... and how long until the next ones.
const SPREAD: Duration = Duration::from_millis(20);
/// Services that wait, at most; the slots of others must do.
const MOST: usize = 50_000;
/// Questions on their way.
const ASKED: usize = 4_096;

/// Asks for edge probes.
pub(super) struct Asker(mpsc::Sender<ServiceId>);

impl Asker {
    pub(super) fn ask(&self, service: ServiceId) {
        if self.0.try_send(service).is_err() {
            tracing::debug!(id = %service, "too many services turn at once; the next slot must do");
        }
    }
}

/// Who asks, and what does it until the asker is dropped.
pub(super) fn nudges(handle: Handle) -> (Asker, impl Future<Output = ()> + Send) {
    let (sender, asked) = mpsc::channel(ASKED);
    (Asker(sender), run(handle, asked))
}

async fn run(handle: Handle, mut asked: mpsc::Receiver<ServiceId>) {
    let mut plan = Plan::default();
    loop {
        let next = plan.next();
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            service = asked.recv() => match service {
                Some(service) => plan.ask(service, Instant::now()),
                None => return,
            },
            () = wait => {
                let services = plan.take(Instant::now());
                if let Err(pause) = probe(&handle, &services).await {
                    let again = Instant::now() + pause;
                    services.into_iter().for_each(|service| plan.put_off(service, again));
                }
            }
        }
    }
}

/// Has these services probed; on trouble that passes, says when to try again.
async fn probe(handle: &Handle, ids: &[ServiceId]) -> Result<(), Duration> {
    let mut services: Vec<Service> = Vec::with_capacity(ids.len());
    for id in ids {
        match handle.service(*id).await {
            // It may have become another's target since it was given its token.
            Ok(view) => services.extend(view.map(|view| view.service).filter(|it| it.settings.url.scheme() == SCHEME)),
            Err(error) => return later(error.into()),
        }
    }
    match handle.probe_out_of_turn(services).await {
        Ok(_) => Ok(()),
        Err(error) => later(error),
    }
}

fn later(error: HandleError) -> Result<(), Duration> {
    match &error {
        HandleError::Store(StoreError::Transient { retry_after, .. })
        | HandleError::Queue(QueueError::Full { retry_after } | QueueError::Transient { retry_after, .. }) => {
            tracing::debug!(%error, "edge probes must wait");
            Err((*retry_after).max(SPREAD))
        }
        _ => {
            tracing::warn!(%error, "edge probes cannot be asked for; the next slots must do");
            Ok(())
        }
    }
}

/// Which services are to be probed, and when.
#[derive(Default)]
struct Plan {
    due: BTreeSet<(Instant, ServiceId)>,
    /// By service: when it is due, or since when it may be again.
    places: HashMap<ServiceId, Place>,
    /// No earlier than this is anybody taken.
    not_before: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Place {
    Due,
    /// Probed lately: not again before this.
    Resting(Instant),
}

impl Plan {
    fn ask(&mut self, service: ServiceId, now: Instant) {
        let at = match self.places.get(&service) {
            // It has not been looked at yet, and will be.
            Some(Place::Due) => return,
            Some(Place::Resting(until)) => (*until).max(now),
            None => now,
        };
        if self.due.len() < MOST {
            self.put(service, at);
        }
    }

    fn put(&mut self, service: ServiceId, at: Instant) {
        self.due.insert((at, service));
        self.places.insert(service, Place::Due);
    }

    /// Once more for one that was taken and could not be probed, unless it was asked for meanwhile.
    fn put_off(&mut self, service: ServiceId, at: Instant) {
        if !matches!(self.places.get(&service), Some(Place::Due)) {
            self.put(service, at);
        }
    }

    fn next(&self) -> Option<Instant> {
        let first = self.due.first()?.0;
        Some(self.not_before.map_or(first, |earliest| first.max(earliest)))
    }

    /// Those that are due, up to a batch of them.
    fn take(&mut self, now: Instant) -> Vec<ServiceId> {
        if self.places.len() > 2 * MOST {
            self.places
                .retain(|_, place| matches!(place, Place::Due) || matches!(place, Place::Resting(u) if *u > now));
        }
        let mut taken = Vec::new();
        while taken.len() < BATCH
            && let Some(&(at, service)) = self.due.first().filter(|(at, _)| *at <= now)
        {
            self.due.remove(&(at, service));
            self.places.insert(service, Place::Resting(now + APART));
            taken.push(service);
        }
        if self.due.is_empty() {
            self.places.retain(|_, place| matches!(place, Place::Resting(until) if *until > now));
        }
        self.not_before = Some(now + SPREAD);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ServiceId {
        ServiceId::new(number).unwrap()
    }

    #[test]
    fn a_service_is_probed_at_once_and_then_no_oftener_than_each_second() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        for _ in 0..1_000 {
            plan.ask(id(1), now);
        }
        assert_eq!(plan.next(), Some(now));
        assert_eq!(plan.take(now), [id(1)]);
        assert_eq!(plan.next(), None);
        for _ in 0..1_000 {
            plan.ask(id(1), now + Duration::from_millis(10));
        }
        assert_eq!(plan.next(), Some(now + APART), "once more, for what was said since");
        assert_eq!(plan.take(now + APART), [id(1)]);
        assert_eq!(plan.next(), None);
        plan.ask(id(1), now + 5 * APART);
        assert_eq!(plan.next(), Some(now + 5 * APART));
    }

    #[test]
    fn a_crowd_is_spread_and_bounded_and_is_not_remembered() {
        let (mut plan, mut now) = (Plan::default(), Instant::now());
        for number in 1..=2 * MOST as u64 {
            plan.ask(id(number), now);
        }
        let mut taken = 0;
        while let Some(next) = plan.next() {
            now = next;
            let batch = plan.take(now);
            assert!((1..=BATCH).contains(&batch.len()));
            taken += batch.len();
        }
        assert_eq!(taken, MOST);
        plan.ask(id(1), now + APART);
        plan.take(now + APART);
        assert!(plan.places.len() <= 1, "{}", plan.places.len());
    }

    #[test]
    fn one_that_could_not_be_probed_is_tried_again() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.ask(id(1), now);
        let taken = plan.take(now);
        plan.put_off(taken[0], now + Duration::from_secs(5));
        plan.ask(id(1), now);
        assert_eq!(plan.next(), Some(now + Duration::from_secs(5)));
    }
}
