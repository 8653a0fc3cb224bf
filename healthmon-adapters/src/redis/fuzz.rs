//! Probes and results as they lie in Redis: whatever is read is written as something that is read
//! as the same, and what is made up is read as it was written.

use bytes::BytesMut;
use healthmon_core::{
    id::{ClaimEpoch, Epoch, Region, ServiceId},
    probe::{Kind, Observation, Outcome, Phases, Probe, ProbeId, ProbeResult, Reason},
    shard::{Claim, Shard},
    time::{Slot, Timestamp},
};

use super::codec::{Decoder, Encoder, Head, decode_result, encode_result};
use crate::fuzzing::{assert_printable, probe};

pub(crate) fn target(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            if let Ok(result) = decode_result(rest) {
                round_of(&result);
            }
        }
        1 => read_probe(rest),
        2 => {
            if let Some(result) = made_up(rest) {
                round_of(&result);
            }
        }
        _ => written_probe(rest),
    }
}

fn round_of(result: &ProbeResult) {
    let written = encode_result(result).unwrap_or_else(|error| panic!("{result:?}: {error}"));
    let read = decode_result(&written).unwrap_or_else(|error| panic!("{result:?}: {error}"));
    assert_eq!(read, *result);
    for short in 0..written.len() {
        assert!(decode_result(&written[..short]).is_err(), "a part of a result was read, up to {short}");
    }
}

fn read_probe(payload: &[u8]) {
    if let Ok((head, rest)) = Head::read(payload) {
        assert!(payload.ends_with(rest) && head.service.get() > 0);
    }
    if let Ok(probe) = Decoder::new().decode(&Region::default(), payload) {
        round(&probe);
    }
}

fn round(probe: &Probe) {
    let mut written = BytesMut::new();
    let ends = Encoder::new().encode([probe].into_iter(), &mut written).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ends, [written.len()]);
    let read = Decoder::new().decode(&probe.id.region, &written);
    assert_eq!(read.as_ref(), Ok(probe), "written as {:?}", String::from_utf8_lossy(&written));
}

/// Numbers out of what is left, nought when nothing is.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = N.min(self.0.len());
        out[..taken].copy_from_slice(&self.0[..taken]);
        self.0 = &self.0[taken..];
        out
    }

    fn id(&mut self) -> Option<ServiceId> {
        ServiceId::new(u64::from_be_bytes(self.next())).ok()
    }

    fn kind(&mut self) -> Kind {
        Kind::from_code(i64::from(self.next::<1>()[0] % 3)).unwrap_or(Kind::Manual)
    }

    fn maybe(&mut self) -> Option<u32> {
        (self.next::<1>()[0] & 1 == 1).then(|| u32::from_be_bytes(self.next()))
    }
}

fn made_up(data: &[u8]) -> Option<ProbeResult> {
    let mut numbers = Numbers(data);
    let (service, kind) = (numbers.id()?, numbers.kind());
    let reason = Reason::from_code(i64::from(numbers.next::<1>()[0]));
    let outcome = Outcome::from_code(i64::from(numbers.next::<1>()[0] % 5), reason)?;
    let slot = Slot::from_millis(i64::from_be_bytes(numbers.next()));
    let started = Timestamp::from_micros(i64::from_be_bytes(numbers.next()));
    let mut seen = Observation::new(outcome, std::time::Duration::ZERO);
    seen.latency_us = u32::from_be_bytes(numbers.next());
    seen.phases = Phases {
        dns_us: numbers.maybe(),
        connect_us: numbers.maybe(),
        tls_us: numbers.maybe(),
        first_byte_us: numbers.maybe(),
    };
    seen.code = numbers.maybe().and_then(|code| u16::try_from(code).ok());
    seen.certificate_expires = numbers.maybe().map(|time| Timestamp::from_micros(i64::from(time) << 20));
    let epoch = Epoch(u32::from_be_bytes(numbers.next()));
    let detail = String::from_utf8_lossy(numbers.0);
    if !detail.is_empty() {
        seen = seen.with_detail(&detail);
        assert_printable(seen.detail.as_deref().unwrap_or_default());
    }
    let region = Region::new("eu-west-1").unwrap_or_default();
    Some(ProbeResult { id: ProbeId { service, slot, region, kind }, epoch, started, seen })
}

fn written_probe(data: &[u8]) {
    let mut numbers = Numbers(data);
    let (slot, start_by) = (i64::from_be_bytes(numbers.next()), i64::from_be_bytes(numbers.next()));
    let kind = numbers.kind();
    let [high, low] = numbers.next::<2>();
    let claim = (high & 1 == 1).then(|| Claim {
        shard: Shard(u16::from_be_bytes([high, low])),
        epoch: ClaimEpoch(u64::from_be_bytes(numbers.next())),
    });
    let Ok(sections) = serde_json::from_slice(numbers.0) else { return };
    let Some(mut probe) = probe("http://shop.test/", &sections) else { return };
    probe.id.slot = Slot::from_millis(slot);
    probe.id.kind = kind;
    probe.start_by = Timestamp::from_micros(start_by);
    probe.claim = claim;
    round(&probe);
}
