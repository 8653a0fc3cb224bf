//! Bulkheads of a worker: how many probes of one host are under way, and which wait for their turn.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{ports::Delivery, probe::IndeterminateReason};

/// How long a probe waits for its turn at most: the queue hands out anew what was with a worker for
/// longer than its timeout and a margin of seconds, and the probe itself and the canary come after.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Places for probes, host by host.
///
/// A host has so many places, and a line of as many who wait for one, first come first served. Who
/// waits holds no permit of the worker, so others are taken meanwhile; a probe that ends hands its
/// permit and its place to the next in its host's line. All lines together are bounded too.
///
/// The fuller the worker, the fewer places has each host: in proportion to the permits that are
/// left, as switches share a buffer among ports (Choudhury and Hahne, 1998). So one host that hangs
/// gets its whole share, and many that do leave some permits to the others.
#[derive(Debug)]
pub(super) struct Lanes {
    concurrency: usize,
    per_host: usize,
    inner: Mutex<Inner>,
    /// Somebody has to leave earlier than was known.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of all hosts.
    under_way: usize,
    hosts: HashMap<Arc<str>, Host>,
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// The same by when they have to leave.
    by_end: BTreeSet<(Instant, u64)>,
}

#[derive(Debug, Default)]
struct Host {
    under_way: usize,
    line: VecDeque<u64>,
}

#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    host: Arc<str>,
    end: Instant,
    /// What becomes of it at its end.
    reason: IndeterminateReason,
}

/// A probe's place among those of its host; given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    lanes: Arc<Lanes>,
    host: Option<Arc<str>>,
}

/// What becomes of a probe that arrives.
#[derive(Debug)]
pub(super) enum Admission {
    /// It may begin.
    Begins(Delivery, Place),
    /// It waits for its turn.
    Waits,
    /// There is no room for it to wait in.
    Crowded(Delivery),
}

impl Lanes {
    /// Places for `per_host` of `concurrency` probes of a host, and for as many in all that wait.
    pub(super) fn new(concurrency: NonZeroUsize, per_host: NonZeroUsize) -> Arc<Self> {
        let (concurrency, per_host) = (concurrency.get(), per_host.get());
        Arc::new(Self { concurrency, per_host, inner: Mutex::default(), changed: Notify::new() })
    }

    /// How many places a host has while so many probes are under way in all; alone it gets all of
    /// its share.
    fn places(&self, under_way: usize) -> usize {
        let (left, others) =
            (self.concurrency.saturating_sub(under_way), self.concurrency.saturating_sub(self.per_host));
        (left * self.per_host).checked_div(others).unwrap_or(self.per_host).clamp(1, self.per_host)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No invariant is broken between two statements that can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `delivery` a place, or one in its host's line, where it may stay until its start-by,
    /// which is `left` from now. A probe without a host needs no place.
    pub(super) fn admit(self: &Arc<Self>, host: Option<&str>, delivery: Delivery, left: Duration) -> Admission {
        let place = |host| Place { lanes: Arc::clone(self), host };
        let Some(host) = host else { return Admission::Begins(delivery, place(None)) };
        let mut guard = self.inner();
        let inner = &mut *guard;
        let known = inner.hosts.get_key_value(host).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| host.into());
        let (waiting, places) = (inner.waiting.len(), self.places(inner.under_way));
        let lane = inner.hosts.entry(Arc::clone(&name)).or_default();
        let has_place = lane.under_way < places;
        if has_place {
            lane.under_way += 1;
            inner.under_way += 1;
            if lane.line.is_empty() {
                return Admission::Begins(delivery, place(Some(name)));
            }
        } else if lane.line.len() >= self.per_host || waiting >= self.concurrency {
            return Admission::Crowded(delivery);
        }
        inner.next += 1;
        let number = inner.next;
        lane.line.push_back(number);
        let (stay, reason) = match left {
            left if left <= PATIENCE => (left, IndeterminateReason::Expired),
            _ => (PATIENCE, IndeterminateReason::Crowded),
        };
        let end = Instant::now() + stay;
        let first = inner.by_end.first().is_none_or(|(first, _)| end < *first);
        inner.by_end.insert((end, number));
        inner.waiting.insert(number, Waiting { delivery, host: Arc::clone(&name), end, reason });
        // Places grew while others waited: the first of them has this one's permit.
        let begins = if has_place { inner.first_in_line(&name) } else { None };
        drop(guard);
        if first {
            self.changed.notify_one();
        }
        match begins {
            Some(delivery) => Admission::Begins(delivery, place(Some(name))),
            None => Admission::Waits,
        }
    }

    /// Those whose time to wait is over, each with what becomes of it. Waits until there are some.
    pub(super) async fn late(&self) -> Vec<(Delivery, IndeterminateReason)> {
        loop {
            let wake = {
                let mut inner = self.inner();
                let late = inner.leave(Instant::now());
                if !late.is_empty() {
                    return late;
                }
                inner.by_end.first().map(|(end, _)| *end)
            };
            let nap = async {
                match wake {
                    Some(wake) => tokio::time::sleep_until(wake).await,
                    None => std::future::pending().await,
                }
            };
            // `notify_one` leaves a mark, so that nothing is missed between the look and the nap.
            tokio::select! {
                () = nap => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

impl Inner {
    fn leave(&mut self, now: Instant) -> Vec<(Delivery, IndeterminateReason)> {
        let mut late = Vec::new();
        while let Some(&(end, number)) = self.by_end.first().filter(|(end, _)| *end <= now) {
            self.by_end.remove(&(end, number));
            let Some(Waiting { delivery, host, reason, .. }) = self.waiting.remove(&number) else { continue };
            if let Some(lane) = self.hosts.get_mut(&host) {
                lane.line.retain(|waiting| *waiting != number);
            }
            self.forget_if_idle(&host);
            late.push((delivery, reason));
        }
        late
    }

    fn first_in_line(&mut self, host: &Arc<str>) -> Option<Delivery> {
        let number = self.hosts.get_mut(host)?.line.pop_front()?;
        let Waiting { delivery, end, .. } = self.waiting.remove(&number)?;
        self.by_end.remove(&(end, number));
        Some(delivery)
    }

    /// The next in the line of a host that has so many places, or one probe less under way there.
    fn leave_place(&mut self, host: &Arc<str>, places: usize) -> Option<Delivery> {
        let has_place = self.hosts.get(host).is_some_and(|lane| lane.under_way <= places);
        if let Some(next) = has_place.then(|| self.first_in_line(host)).flatten() {
            return Some(next);
        }
        if let Some(lane) = self.hosts.get_mut(host) {
            lane.under_way = lane.under_way.saturating_sub(1);
            self.under_way = self.under_way.saturating_sub(1);
        }
        self.forget_if_idle(host);
        None
    }

    fn forget_if_idle(&mut self, host: &Arc<str>) {
        if self.hosts.get(host).is_some_and(|lane| lane.under_way == 0 && lane.line.is_empty()) {
            self.hosts.remove(host);
        }
    }
}

impl Place {
    /// Hands the place on to the next in its host's line, if there is one.
    pub(super) fn hand_on(mut self) -> Option<(Delivery, Self)> {
        let host = self.host.take()?;
        let mut inner = self.lanes.inner();
        let places = self.lanes.places(inner.under_way);
        let next = inner.leave_place(&host, places);
        drop(inner);
        next.map(|delivery| (delivery, Self { lanes: Arc::clone(&self.lanes), host: Some(host) }))
    }
}

impl Drop for Place {
    /// Only a task that panicked drops a place that it has not handed on; those in line wait on for
    /// another place of their host, or for their time to be over.
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            self.lanes.inner().leave_place(&host, 0);
        }
    }
}

#[cfg(test)]
mod tests;
