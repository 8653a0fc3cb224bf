use crate::{
    id::Seq,
    probe::Reason,
    status::{LogEntry, LogEvent, Status},
    time::Timestamp,
};

/// A span in which a service was down: from a transition to DOWN to the next UP.
///
/// A transition to UNKNOWN ends it too: the service was deleted, or is another target now. One to
/// DEGRADED does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// The place in the log of the transition that it began with; none if that is no longer there.
    pub seq: Option<Seq>,
    /// When it began, or when the span that was asked for did.
    pub from: Timestamp,
    /// When it ended, or when the span that was asked for did.
    pub to: Timestamp,
    /// Whether it went on beyond the end of the span.
    pub is_open: bool,
    /// What the result gave as its reason that took the service down.
    pub reason: Option<Reason>,
}

/// The incidents that a service's log tells of and that touch the span from `from` to `to`, oldest first.
///
/// `log` is a part of the log, oldest first. It should begin with, or before, the last transition
/// from UP or UNKNOWN before `from`: of incidents that began earlier it cannot tell.
pub fn incidents<'a>(log: impl IntoIterator<Item = &'a LogEntry>, from: Timestamp, to: Timestamp) -> Vec<Incident> {
    let mut open: Option<Incident> = None;
    let mut found = Vec::new();
    for entry in log {
        let LogEvent::Transition(transition) = entry.event else { continue };
        if transition.from == Status::Down && open.is_none() {
            open = Some(Incident { seq: None, from, to, is_open: true, reason: None });
        }
        match transition.to {
            Status::Down if open.is_none() => {
                let (seq, reason) = (Some(entry.seq), entry.reason);
                open = Some(Incident { seq, from: entry.at, to, is_open: true, reason });
            }
            Status::Up | Status::Unknown => {
                found.extend(open.take().map(|incident| Incident { to: entry.at, is_open: false, ..incident }));
            }
            Status::Down | Status::Degraded => {}
        }
    }
    found.extend(open);
    found.retain(|incident| incident.from < to && incident.to > from);
    for incident in &mut found {
        incident.from = incident.from.max(from);
        if incident.to > to {
            (incident.to, incident.is_open) = (to, true);
        }
    }
    found
}
