//! A batch of signs, taken in between reading pulses under a lock and writing them back.

use std::collections::{BTreeMap, BTreeSet};

use healthmon_core::{
    heartbeat::{Heard, Noted, Novelty, Pulse, Sign},
    id::ServiceId,
    status::Status,
};

/// A pulse as it was read.
pub(crate) struct Kept {
    pulse: Pulse,
    status: Status,
    is: Is,
}

/// What has become of a pulse since it was read.
#[derive(PartialEq, Eq)]
enum Is {
    AsRead,
    Changed,
}

/// A row that holds what no build has written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadPulse {
    #[error("a pulse: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the status {0:?}")]
    Status(String),
}

impl Kept {
    /// From its JSON, and the status that is announced.
    pub(crate) fn read(pulse: &str, announced: &str) -> Result<Self, BadPulse> {
        let status = Status::from_name(announced).ok_or_else(|| BadPulse::Status(announced.to_owned()))?;
        Ok(Self { pulse: serde_json::from_str(pulse)?, status, is: Is::AsRead })
    }
}

/// What is known of a service, from the JSON of its pulse and of when signs were taken.
pub(crate) fn heard(pulse: &str, times: &str) -> Result<Heard, BadPulse> {
    Ok(Heard { pulse: serde_json::from_str(pulse)?, listening: serde_json::from_str(times)? })
}

/// The pulses that a batch is about.
pub(crate) struct Pulses(BTreeMap<ServiceId, Kept>);

impl Pulses {
    pub(crate) fn new(kept: BTreeMap<ServiceId, Kept>) -> Self {
        Self(kept)
    }

    /// Whose signs these are, each once, in order: that of locks.
    pub(crate) fn services(signs: &[Sign]) -> BTreeSet<ServiceId> {
        signs.iter().map(|sign| sign.service).collect()
    }

    /// Takes the signs in.
    pub(crate) fn note(&mut self, signs: &[Sign]) -> Vec<Noted> {
        signs.iter().map(|sign| self.note_one(sign)).collect()
    }

    fn note_one(&mut self, sign: &Sign) -> Noted {
        let Some(Kept { pulse, status, is }) = self.0.get_mut(&sign.service) else { return Noted::Nobody };
        let (before, earlier) = (pulse.end().map(|(end, _)| end), pulse.clone());
        let novelty = pulse.note(sign);
        // What is no news may have closed a run, or be remembered as known.
        if *pulse != earlier {
            *is = Is::Changed;
        }
        match novelty {
            Novelty::News => Noted::News { before, status: *status },
            Novelty::Known => Noted::Known,
        }
    }

    /// What is to be written back: ids, and JSON.
    pub(crate) fn changed(self) -> Result<(Vec<i64>, Vec<String>), BadPulse> {
        let (mut ids, mut pulses) = (Vec::new(), Vec::new());
        for (id, kept) in self.0.into_iter().filter(|(_, kept)| kept.is == Is::Changed) {
            ids.push(id.as_i64());
            pulses.push(serde_json::to_string(&kept.pulse)?);
        }
        Ok((ids, pulses))
    }
}
