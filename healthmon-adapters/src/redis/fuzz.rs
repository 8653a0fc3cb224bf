//! Bundles of probes and results as they lie in Redis: whatever is read is written as something that
//! is read as the same, what is made up is read as it was written, and a part of it is not read.

use bytes::Bytes;
use healthmon_core::{
    id::{ClaimEpoch, Epoch, Region, ServiceId},
    probe::{Kind, Observation, Outcome, Phases, Probe, ProbeId, ProbeResult, Reason},
    shard::{Claim, Shard},
    time::{Slot, Timestamp},
};

use super::codec::{Bundle, Decoder, Encoder, PROBES, RESULTS, decode_results, encode_results};
use crate::fuzzing::{assert_printable, probe};

pub(crate) fn target(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let bundle = Bytes::copy_from_slice(rest);
    match kind % 4 {
        0 => {
            let Ok(read) = decode_results(&bundle) else { return };
            assert!(read.len() <= RESULTS, "{} results", read.len());
            let read: Vec<ProbeResult> = read.into_iter().flatten().collect();
            round_of_results(&read.iter().collect::<Vec<_>>());
        }
        1 => read_probes(&bundle),
        2 => {
            let mut numbers = Numbers(rest);
            let made: Vec<ProbeResult> = std::iter::from_fn(|| made_up(&mut numbers)).take(4).collect();
            round_of_results(&made.iter().collect::<Vec<_>>());
        }
        _ => written_probe(rest),
    }
}

fn round_of_results(results: &[&ProbeResult]) {
    let written = encode_results(results).unwrap_or_else(|error| panic!("{results:?}: {error}"));
    let read = decode_results(&written).unwrap_or_else(|error| panic!("{results:?}: {error}"));
    assert_eq!(read.len(), results.len());
    for (read, result) in read.iter().zip(results) {
        assert_eq!(read.as_ref(), Ok(*result));
    }
    for short in 0..written.len() {
        assert!(decode_results(&written.slice(..short)).is_err(), "a part of a bundle was read, up to {short}");
    }
}

fn read_probes(bundle: &[u8]) {
    let Ok(read) = Bundle::read(bundle) else { return };
    assert!((1..=PROBES).contains(&read.rows.len()) && bundle.ends_with(read.rest), "{} rows", read.rows.len());
    let probes = Decoder::new().decode(&Region::default(), &read, u16::MAX);
    assert_eq!(probes.len(), read.rows.len(), "one that cannot be read keeps its place");
    let probes: Vec<Probe> = probes.into_iter().flatten().collect();
    if !probes.is_empty() {
        round_of_probes(&probes.iter().collect::<Vec<_>>());
    }
}

fn round_of_probes(probes: &[&Probe]) {
    let bundles = Encoder::new().encode([probes].into_iter()).unwrap_or_else(|error| panic!("{error}"));
    let [written] = &bundles[..] else { panic!("{} bundles for one", bundles.len()) };
    let bundle = Bundle::read(written).unwrap_or_else(|error| panic!("{probes:?}: {error}"));
    assert_eq!(bundle.rows.len(), probes.len());
    let (decoder, region) = (Decoder::new(), &probes[0].id.region);
    let read = decoder.decode(region, &bundle, u16::MAX);
    for ((row, read), probe) in bundle.rows.iter().zip(&read).zip(probes) {
        assert_eq!(row.map(|row| row.id(region)).as_ref(), Ok(&probe.id));
        assert_eq!(read.as_ref(), Ok(*probe));
    }
    let last = decoder.decode(region, &bundle, 1 << (probes.len() - 1));
    assert_eq!(last[..], read[probes.len() - 1..], "by itself as with the others");
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

    fn kind(&mut self) -> Kind {
        Kind::from_code(i64::from(self.next::<1>()[0] % 3)).unwrap_or(Kind::Manual)
    }

    fn maybe(&mut self) -> Option<u32> {
        (self.next::<1>()[0] & 1 == 1).then(|| u32::from_be_bytes(self.next()))
    }
}

fn made_up(numbers: &mut Numbers<'_>) -> Option<ProbeResult> {
    let service = ServiceId::new(u64::from_be_bytes(numbers.next())).ok()?;
    let kind = numbers.kind();
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
    let length = usize::from(numbers.next::<1>()[0]).min(numbers.0.len());
    let (detail, rest) = numbers.0.split_at(length);
    numbers.0 = rest;
    if !detail.is_empty() {
        seen = seen.with_detail(&String::from_utf8_lossy(detail));
        assert_printable(seen.detail.as_deref().unwrap_or_default());
    }
    let region = Region::new("eu-west-1").unwrap_or_default();
    Some(ProbeResult { id: ProbeId { service, slot, region, kind }, epoch, started, seen })
}

/// Two probes of one service, the second without a claim.
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
    let Some(mut first) = probe("http://shop.test/", &sections) else { return };
    first.id.slot = Slot::from_millis(slot);
    first.id.kind = kind;
    first.start_by = Timestamp::from_micros(start_by);
    let mut second = first.clone();
    first.claim = claim;
    second.id.kind = Kind::Manual;
    round_of_probes(&[&first, &second]);
}
