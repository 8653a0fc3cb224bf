//! How probes and results lie in Redis: in bundles, because a call of the server costs by the entry.
//!
//! A bundle of probes: how many, the earliest start-by, the longest timeout, the earliest slot, and of
//! each probe its length and its bytes. A probe: a head of fixed length, then the service as JSON. A
//! bundle of results: how many, and of each its length and its bytes: one for the version, then
//! postcard. Scripts read bundles and heads, which are the same in all versions. Payloads of a version
//! this program does not know are left to nobody: the probe is given up, see [`probes`](super::probes).

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use healthmon_core::{
    id::{ClaimEpoch, Epoch, Region, ServiceId},
    probe::{Kind, Observation, Outcome, Phases, Probe, ProbeId, ProbeResult, Reason},
    service::Service,
    shard::{Claim, Shard},
    time::{Slot, Timestamp},
};
use serde::{Deserialize, Serialize};

use crate::services::Services;

const VERSION: u8 = 1;
/// version, start-by in µs, timeout in ms, slot in ms, service, kind. Scripts know the last three
/// together as the probe's name.
const HEAD: usize = 1 + 8 + 4 + 8 + 8 + 1;
/// Then whether there is a claim: 0, or 1, shard and epoch.
const CLAIM: usize = 2 + 8;

/// A payload that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unreadable: of another version, or not healthmon's")]
pub(super) struct Unreadable;

/// The most probes in a bundle: as many go to a worker together, and are put back one by one when it
/// vanishes or has no room for them.
pub(super) const PROBES: usize = 16;
/// The most results in a bundle.
pub(super) const RESULTS: usize = 64;
/// How long a probe's name is: slot, service and kind, as they lie in its head.
pub(super) const NAME: usize = 8 + 8 + 1;

/// Adds the name by which scripts know a probe.
pub(super) fn put_name(id: &ProbeId, out: &mut BytesMut) {
    out.put_i64(id.slot.as_millis());
    out.put_u64(id.service.get());
    out.put_u8(id.kind as u8);
}

fn timeout_ms(probe: &Probe) -> u32 {
    u32::try_from(probe.service.settings.timeout.get().as_millis()).unwrap_or(u32::MAX)
}

/// Writes probes; a service is encoded once for as long as it is the same.
pub(super) struct Encoder(Services<Bytes>);

impl Encoder {
    pub(super) fn new() -> Self {
        Self(Services::new())
    }

    /// Writes these bundles, each of [`PROBES`] at most.
    pub(super) fn encode<'a>(
        &self,
        bundles: impl Iterator<Item = &'a [&'a Probe]>,
    ) -> Result<Vec<Bytes>, serde_json::Error> {
        let mut kept = self.0.kept();
        let (mut out, mut ends) = (BytesMut::new(), Vec::with_capacity(bundles.size_hint().0));
        for bundle in bundles {
            out.put_u16(u16::try_from(bundle.len()).unwrap_or(u16::MAX));
            out.put_i64(bundle.iter().map(|probe| probe.start_by.as_micros()).min().unwrap_or_default());
            out.put_u32(bundle.iter().map(|probe| timeout_ms(probe)).max().unwrap_or_default());
            out.put_i64(bundle.iter().map(|probe| probe.id.slot.as_millis()).min().unwrap_or_default());
            for probe in bundle {
                let json = kept.text(&probe.service, |service| serde_json::to_vec(service).map(Bytes::from))?;
                let claim = if probe.claim.is_some() { CLAIM } else { 0 };
                out.put_u32(u32::try_from(HEAD + 1 + claim + json.len()).unwrap_or(u32::MAX));
                out.put_u8(VERSION);
                out.put_i64(probe.start_by.as_micros());
                out.put_u32(timeout_ms(probe));
                put_name(&probe.id, &mut out);
                match probe.claim {
                    None => out.put_u8(0),
                    Some(claim) => {
                        out.put_u8(1);
                        out.put_u16(claim.shard.0);
                        out.put_u64(claim.epoch.0);
                    }
                }
                out.extend_from_slice(json);
            }
            ends.push(out.len());
        }
        let (out, mut from) = (out.freeze(), 0);
        Ok(ends.into_iter().map(|end| out.slice(std::mem::replace(&mut from, end)..end)).collect())
    }
}

/// What a bundle of probes holds.
pub(super) fn parts(bundle: &Bytes) -> Result<Vec<Bytes>, Unreadable> {
    let count = u16::from_be_bytes(part(bundle, 0)?);
    cut::<4>(bundle, 22, count, |length| u32::from_be_bytes(length) as usize)
}

/// So many pieces, each after its length.
fn cut<const N: usize>(
    bytes: &Bytes,
    mut at: usize,
    count: u16,
    length: impl Fn([u8; N]) -> usize,
) -> Result<Vec<Bytes>, Unreadable> {
    let mut pieces = Vec::with_capacity(usize::from(count).min(bytes.len() / N));
    for _ in 0..count {
        let from = at + N;
        at = from.checked_add(length(part(bytes, at)?)).filter(|end| *end <= bytes.len()).ok_or(Unreadable)?;
        pieces.push(bytes.slice(from..at));
    }
    if at == bytes.len() { Ok(pieces) } else { Err(Unreadable) }
}

/// Reads probes; a service is decoded once for as long as its bytes are the same.
pub(super) struct Decoder(Services<Bytes>);

impl Decoder {
    pub(super) fn new() -> Self {
        Self(Services::new())
    }

    pub(super) fn decode(&self, region: &Region, payload: &[u8]) -> Result<Probe, Unreadable> {
        let (head, rest) = Head::read(payload)?;
        if payload[0] != VERSION {
            return Err(Unreadable);
        }
        let (claim, json) = match rest.split_first() {
            Some((0, json)) => (None, json),
            Some((1, rest)) if rest.len() >= CLAIM => {
                let (claim, json) = rest.split_at(CLAIM);
                let shard = Shard(u16::from_be_bytes(part(claim, 0)?));
                (Some(Claim { shard, epoch: ClaimEpoch(u64::from_be_bytes(part(claim, 2)?)) }), json)
            }
            _ => return Err(Unreadable),
        };
        let service = self.service(head.service, json)?;
        let id = ProbeId { service: head.service, slot: head.slot, region: region.clone(), kind: head.kind };
        Ok(Probe { id, service, start_by: head.start_by, claim })
    }

    fn service(&self, id: ServiceId, json: &[u8]) -> Result<Arc<Service>, Unreadable> {
        self.0.kept().service(id, json, || {
            let service: Service = serde_json::from_slice(json).map_err(|_| Unreadable)?;
            if service.id == id { Ok((service, Bytes::copy_from_slice(json))) } else { Err(Unreadable) }
        })
    }
}

/// What stands before the service.
pub(super) struct Head {
    pub(super) start_by: Timestamp,
    pub(super) slot: Slot,
    pub(super) kind: Kind,
    pub(super) service: ServiceId,
}

impl Head {
    pub(super) fn read(payload: &[u8]) -> Result<(Self, &[u8]), Unreadable> {
        if payload.len() <= HEAD {
            return Err(Unreadable);
        }
        let (head, rest) = payload.split_at(HEAD);
        let head = Self {
            start_by: Timestamp::from_micros(i64::from_be_bytes(part(head, 1)?)),
            slot: Slot::from_millis(i64::from_be_bytes(part(head, 13)?)),
            service: ServiceId::new(u64::from_be_bytes(part(head, 21)?)).map_err(|_| Unreadable)?,
            kind: Kind::from_code(i64::from(head[29])).ok_or(Unreadable)?,
        };
        Ok((head, rest))
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Unreadable> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or(Unreadable)
}

/// A result as it lies in Redis. Fields are added at the end, with a new version.
#[derive(Serialize, Deserialize)]
struct Written<'a> {
    service: ServiceId,
    slot: Slot,
    region: &'a str,
    kind: u8,
    epoch: Epoch,
    started_us: i64,
    outcome: u8,
    reason: u8,
    latency_us: u32,
    phases: [Option<u32>; 4],
    code: Option<u16>,
    certificate_expires_us: Option<i64>,
    detail: Option<&'a str>,
}

/// Adds a result to what will be a bundle.
fn put_result(result: &ProbeResult, out: &mut BytesMut) -> Result<(), postcard::Error> {
    let ProbeResult { id, epoch, started, seen } = result;
    let Phases { dns_us, connect_us, tls_us, first_byte_us } = seen.phases;
    let written = Written {
        service: id.service,
        slot: id.slot,
        region: id.region.as_str(),
        kind: id.kind as u8,
        epoch: *epoch,
        started_us: started.as_micros(),
        outcome: u8::try_from(seen.outcome.code()).unwrap_or(u8::MAX),
        reason: seen.outcome.reason().map_or(0, |reason| u8::try_from(reason.code()).unwrap_or(u8::MAX)),
        latency_us: seen.latency_us,
        phases: [dns_us, connect_us, tls_us, first_byte_us],
        code: seen.code,
        certificate_expires_us: seen.certificate_expires.map(Timestamp::as_micros),
        detail: seen.detail.as_deref(),
    };
    let bytes = postcard::to_extend(&written, Vec::with_capacity(96))?;
    out.put_u32(u32::try_from(1 + bytes.len()).unwrap_or(u32::MAX));
    out.put_u8(VERSION);
    out.extend_from_slice(&bytes);
    Ok(())
}

/// Writes a bundle of results, of [`RESULTS`] at most.
pub(super) fn encode_results(results: &[&ProbeResult]) -> Result<Bytes, postcard::Error> {
    let mut out = BytesMut::with_capacity(2 + results.len() * 96);
    out.put_u16(u16::try_from(results.len()).unwrap_or(u16::MAX));
    results.iter().try_for_each(|result| put_result(result, &mut out))?;
    Ok(out.freeze())
}

/// Reads a bundle of results; those that cannot be read keep their places.
pub(super) fn decode_results(bundle: &Bytes) -> Result<Vec<Result<ProbeResult, Unreadable>>, Unreadable> {
    let count = u16::from_be_bytes(part(bundle, 0)?);
    let pieces = cut::<4>(bundle, 2, count, |length| u32::from_be_bytes(length) as usize)?;
    if pieces.len() > RESULTS {
        return Err(Unreadable);
    }
    Ok(pieces.iter().map(|piece| decode_result(piece)).collect())
}

/// Reads a result.
fn decode_result(payload: &[u8]) -> Result<ProbeResult, Unreadable> {
    let (&VERSION, rest) = payload.split_first().ok_or(Unreadable)? else { return Err(Unreadable) };
    let written: Written<'_> = postcard::from_bytes(rest).map_err(|_| Unreadable)?;
    let reason = match written.reason {
        0 => None,
        code => Some(Reason::from_code(i64::from(code)).ok_or(Unreadable)?),
    };
    let local = Region::default();
    let region =
        if written.region == local.as_str() { local } else { Region::new(written.region).map_err(|_| Unreadable)? };
    let kind = Kind::from_code(i64::from(written.kind)).ok_or(Unreadable)?;
    let outcome = Outcome::from_code(i64::from(written.outcome), reason).ok_or(Unreadable)?;
    let [dns_us, connect_us, tls_us, first_byte_us] = written.phases;
    let mut seen = Observation::new(outcome, Duration::ZERO);
    seen.latency_us = written.latency_us;
    seen.phases = Phases { dns_us, connect_us, tls_us, first_byte_us };
    seen.code = written.code;
    seen.certificate_expires = written.certificate_expires_us.map(Timestamp::from_micros);
    seen.detail = written.detail.map(Into::into);
    let id = ProbeId { service: written.service, slot: written.slot, region, kind };
    Ok(ProbeResult { id, epoch: written.epoch, started: Timestamp::from_micros(written.started_us), seen })
}
