use std::collections::{BTreeSet, HashMap};

use crate::{
    id::{Epoch, Region, ServiceId},
    schedule::slot_at,
    service::Service,
    time::{Slot, Timestamp},
};

/// After so many intervals without a hint a row of edge probes is over.
const QUIET_INTERVALS: u32 = 3;

/// Which services are to be probed out of turn, and when. Pure: told of hints and of the time.
///
/// - Every service waits for one edge probe at most, the edge interval after the slot whose result
///   asked for it, or at once where that has passed. None waits where its next slot comes first.
/// - A service is probed only in the regions that it was heard of from while it was undecided, and
///   no more once they have decided.
/// - It gets no more in a row than decide anything its latches can hold. The row is over when its
///   status changes, or when three intervals went by without a hint: flapping gets no more than that.
/// - It holds a bounded number of services. One that finds it full goes without.
#[derive(Debug)]
pub(super) struct EdgeTimer {
    limit: usize,
    rows: HashMap<ServiceId, Row>,
    /// Those that wait, by when they are due.
    due: BTreeSet<(Timestamp, ServiceId)>,
}

#[derive(Debug)]
struct Row {
    /// When its edge probe is due, if it waits for one.
    due: Option<Timestamp>,
    /// Its next slot: an edge probe from then on comes too late.
    next_slot: Timestamp,
    /// The regions that have not decided.
    open: Vec<Region>,
    epoch: Epoch,
    /// Edge probes in a row so far.
    asked: u16,
    /// When the row is forgotten, if nothing more is heard.
    forget: Timestamp,
}

/// What one batch of results said of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    /// The regions it came from.
    pub(super) regions: Vec<Region>,
    /// The newest slot.
    pub(super) slot: Slot,
    /// The settings of that slot's probe.
    pub(super) epoch: Epoch,
}

/// An edge probe that fell due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueEdge {
    pub(super) service: ServiceId,
    pub(super) epoch: Epoch,
    pub(super) regions: Vec<Region>,
}

impl EdgeTimer {
    /// A timer for at most `limit` services.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, rows: HashMap::new(), due: BTreeSet::new() }
    }

    /// A change of `service` is undecided: it may want an edge probe.
    pub(super) fn undecided(&mut self, service: &Service, heard: Heard, now: Timestamp) {
        let (id, interval) = (service.id, service.settings.interval);
        let Some(edge) = service.settings.edge_interval else { return self.forget(id) };
        let next_slot = slot_at(id, interval, heard.slot.time()).after(interval.get()).time();
        let due = heard.slot.time().after(edge.get()).max(now);
        if !self.rows.contains_key(&id) && self.rows.len() >= self.limit {
            self.rows.retain(|_, row| row.due.is_some() || row.forget > now);
            if self.rows.len() >= self.limit {
                return;
            }
        }
        let forget = now.after(interval.get() * QUIET_INTERVALS);
        let Heard { regions, epoch, .. } = heard;
        let row = self.rows.entry(id).or_insert_with(|| Row {
            due: None,
            next_slot,
            open: Vec::new(),
            epoch,
            asked: 0,
            forget,
        });
        if now >= row.forget {
            row.asked = 0;
        }
        row.forget = forget;
        if row.epoch != epoch {
            row.open.clear();
            row.epoch = epoch;
        }
        for region in regions {
            if !row.open.contains(&region) {
                row.open.push(region);
            }
        }
        let wanted = row.due.is_none() && due < next_slot && row.asked < most_in_a_row(service);
        if wanted {
            (row.due, row.next_slot) = (Some(due), next_slot);
            self.due.insert((due, id));
        }
    }

    /// These regions of a service have decided, for now.
    pub(super) fn decided(&mut self, id: ServiceId, regions: &[Region]) {
        let Some(row) = self.rows.get_mut(&id) else { return };
        row.open.retain(|region| !regions.contains(region));
        if row.open.is_empty()
            && let Some(due) = row.due.take()
        {
            self.due.remove(&(due, id));
        }
    }

    /// Forgets all about a service: its status changed, or it is not to be probed any more.
    pub(super) fn forget(&mut self, id: ServiceId) {
        if let Some(Row { due: Some(due), .. }) = self.rows.remove(&id) {
            self.due.remove(&(due, id));
        }
    }

    /// Takes at most `max` of those that are due.
    pub(super) fn take_due(&mut self, now: Timestamp, max: usize) -> Vec<DueEdge> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(&(due, id)) = self.due.first().filter(|(due, _)| *due <= now)
        {
            self.due.remove(&(due, id));
            let Some(row) = self.rows.get_mut(&id) else { continue };
            row.due = None;
            if now < row.next_slot {
                row.asked = row.asked.saturating_add(1);
                taken.push(DueEdge { service: id, epoch: row.epoch, regions: row.open.clone() });
            }
        }
        taken
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }
}

/// So many outcomes drive each of the service's latches to one state, whatever it holds (law 24):
/// more in a row decide nothing more.
fn most_in_a_row(service: &Service) -> u16 {
    let policy = &service.settings.policy;
    let rules = [Some(policy.down), policy.degraded].into_iter().flatten();
    let latches = rules.map(|rule| rule.window().max(rule.success())).max().unwrap_or(1);
    u16::from(latches.max(policy.damping.map_or(1, |damping| damping.cap())))
}

#[cfg(test)]
mod tests;
