//! How probes and results lie in Redis: in bundles, because a call of the server costs by the entry
//! and by the byte.
//!
//! A bundle of probes: how many, the earliest start-by, the timeout that all of them have, the earliest
//! slot; of each probe a row, its name and its start-by; the version; and then, compressed together
//! because services resemble each other, of each probe its claim and its service as JSON. Scripts read
//! what stands before the version, which is the same in all versions. A bundle of results: how many, and of
//! each its length and its bytes: one for the version, then postcard. Payloads of a version this program
//! does not know are left to nobody: the probe is given up, see [`probes`](super::probes).

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use healthmon_core::{
    id::{ClaimEpoch, Epoch, Region, ServiceId},
    probe::{Kind, Observation, Outcome, Phases, Probe, ProbeId, ProbeResult, Reason},
    service::Service,
    shard::{Claim, Shard},
    time::{Slot, Timestamp},
};
use lz4_flex::block;
use serde::{Deserialize, Serialize};

use crate::services::Services;

const VERSION: u8 = 1;
/// What stands before a bundle's rows: how many probes, start-by in µs, timeout in ms, slot in ms.
const HEAD: usize = 2 + 8 + 4 + 8;
/// How long a probe's name is: slot in ms, service and kind.
pub(super) const NAME: usize = 8 + 8 + 1;
/// A row: the name and the start-by in µs.
const ROW: usize = NAME + 8;
/// What a bundle's services may take together, uncompressed: many times what the API lets through.
const MOST: usize = 64 << 20;

/// A payload that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unreadable: of another version, or not healthmon's")]
pub(super) struct Unreadable;

/// The most probes in a bundle: as many go to a worker together, and are put back one by one when it
/// vanishes. A bit of 16 for each tells which of them are meant.
pub(super) const PROBES: usize = 16;
/// How many bytes the services of a bundle take at most, if they are several: each of its probes that is put
/// back takes all of them along.
pub(super) const BYTES: usize = 64 << 10;
/// The most results in a bundle.
pub(super) const RESULTS: usize = 64;

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

    /// How many bytes the services of these probes take.
    pub(super) fn lengths(&self, probes: &[&Probe]) -> Result<Vec<usize>, serde_json::Error> {
        let mut kept = self.0.kept();
        let mut length = |probe: &&Probe| Ok(kept.text(&probe.service, written)?.len());
        probes.iter().map(&mut length).collect()
    }

    /// Writes these bundles, each of [`PROBES`] at most.
    pub(super) fn encode<'a>(
        &self,
        bundles: impl Iterator<Item = &'a [&'a Probe]>,
    ) -> Result<Vec<Bytes>, serde_json::Error> {
        let (mut kept, mut services) = (self.0.kept(), BytesMut::new());
        let write = |bundle: &[&Probe]| {
            services.clear();
            for probe in bundle {
                match probe.claim {
                    None => services.put_u8(0),
                    Some(claim) => {
                        services.put_u8(1);
                        services.put_u16(claim.shard.0);
                        services.put_u64(claim.epoch.0);
                    }
                }
                let json = kept.text(&probe.service, written)?;
                services.put_u32(u32::try_from(json.len()).unwrap_or(u32::MAX));
                services.extend_from_slice(json);
            }
            let services = block::compress_prepend_size(&services);
            let mut out = BytesMut::with_capacity(HEAD + bundle.len() * ROW + 1 + services.len());
            out.put_u16(u16::try_from(bundle.len()).unwrap_or(u16::MAX));
            out.put_i64(bundle.iter().map(|probe| probe.start_by.as_micros()).min().unwrap_or_default());
            out.put_u32(bundle.iter().map(|probe| timeout_ms(probe)).max().unwrap_or_default());
            out.put_i64(bundle.iter().map(|probe| probe.id.slot.as_millis()).min().unwrap_or_default());
            for probe in bundle {
                put_name(&probe.id, &mut out);
                out.put_i64(probe.start_by.as_micros());
            }
            out.put_u8(VERSION);
            out.extend_from_slice(&services);
            Ok(out.freeze())
        };
        bundles.map(write).collect()
    }
}

fn written(service: &Service) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(service).map(Bytes::from)
}

/// What a bundle says of a probe before what is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) start_by: Timestamp,
    pub(super) slot: Slot,
    pub(super) kind: Kind,
    pub(super) service: ServiceId,
}

impl Row {
    fn read(mut row: &[u8]) -> Result<Self, Unreadable> {
        let slot = Slot::from_millis(row.try_get_i64().map_err(|_| Unreadable)?);
        let service = ServiceId::new(row.try_get_u64().map_err(|_| Unreadable)?).map_err(|_| Unreadable)?;
        let kind = Kind::from_code(i64::from(row.try_get_u8().map_err(|_| Unreadable)?)).ok_or(Unreadable)?;
        let start_by = Timestamp::from_micros(row.try_get_i64().map_err(|_| Unreadable)?);
        Ok(Self { start_by, slot, kind, service })
    }

    pub(super) fn id(&self, region: &Region) -> ProbeId {
        ProbeId { service: self.service, slot: self.slot, region: region.clone(), kind: self.kind }
    }
}

/// A bundle of probes as it lies there.
pub(super) struct Bundle<'a> {
    /// In their places, also those that cannot be read.
    pub(super) rows: Vec<Result<Row, Unreadable>>,
    /// The version and what is compressed.
    pub(super) rest: &'a [u8],
}

impl<'a> Bundle<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let count = usize::from(u16::from_be_bytes(part(bytes, 0)?));
        let end = HEAD + count * ROW;
        if !(1..=PROBES).contains(&count) || bytes.len() <= end {
            return Err(Unreadable);
        }
        let (rows, rest) = (bytes[HEAD..end].chunks_exact(ROW).map(Row::read).collect(), &bytes[end..]);
        Ok(Self { rows, rest })
    }
}

/// Reads probes; a service is decoded once for as long as its bytes are the same.
pub(super) struct Decoder(Services<Bytes>);

impl Decoder {
    pub(super) fn new() -> Self {
        Self(Services::new())
    }

    /// Reads the probes with these places. One that cannot be read hides no other, unless it is what they
    /// have in common.
    pub(super) fn decode(&self, region: &Region, bundle: &Bundle<'_>, places: u16) -> Vec<Result<Probe, Unreadable>> {
        let services = uncompressed(bundle.rest).unwrap_or_default();
        let (mut services, mut kept) = (services.as_slice(), self.0.kept());
        let mut probe = |(place, row): (usize, &Result<Row, Unreadable>)| {
            // In their order, whichever are wanted: they are as long as each says.
            let said = claim_and_service(&mut services);
            (places >> place & 1 == 1).then(|| {
                let (row, (claim, json)) = ((*row)?, said?);
                let service = kept.service(row.service, json, || {
                    let service: Service = serde_json::from_slice(json).map_err(|_| Unreadable)?;
                    if service.id == row.service {
                        Ok((service, Bytes::copy_from_slice(json)))
                    } else {
                        Err(Unreadable)
                    }
                })?;
                Ok(Probe { id: row.id(region), service, start_by: row.start_by, claim })
            })
        };
        bundle.rows.iter().enumerate().filter_map(&mut probe).collect()
    }
}

/// What follows the rows.
fn uncompressed(rest: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let (&VERSION, services) = rest.split_first().ok_or(Unreadable)? else { return Err(Unreadable) };
    // Looked at before anything of that size is set aside.
    let (size, services) = block::uncompressed_size(services).map_err(|_| Unreadable)?;
    if size > MOST {
        return Err(Unreadable);
    }
    block::decompress(services, size).ok().filter(|services| services.len() == size).ok_or(Unreadable)
}

fn claim_and_service<'a>(services: &mut &'a [u8]) -> Result<(Option<Claim>, &'a [u8]), Unreadable> {
    let claim = match services.try_get_u8().map_err(|_| Unreadable)? {
        0 => None,
        1 => {
            let shard = Shard(services.try_get_u16().map_err(|_| Unreadable)?);
            Some(Claim { shard, epoch: ClaimEpoch(services.try_get_u64().map_err(|_| Unreadable)?) })
        }
        _ => return Err(Unreadable),
    };
    let length = services.try_get_u32().map_err(|_| Unreadable)? as usize;
    let (json, rest) = services.split_at_checked(length).ok_or(Unreadable)?;
    *services = rest;
    Ok((claim, json))
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

/// So many pieces, each after its length.
fn cut(bytes: &Bytes, mut at: usize, count: u16) -> Result<Vec<Bytes>, Unreadable> {
    let mut pieces = Vec::with_capacity(usize::from(count).min(RESULTS));
    for _ in 0..count {
        let (from, length) = (at + 4, u32::from_be_bytes(part(bytes, at)?) as usize);
        at = from.checked_add(length).filter(|end| *end <= bytes.len()).ok_or(Unreadable)?;
        pieces.push(bytes.slice(from..at));
    }
    if at == bytes.len() { Ok(pieces) } else { Err(Unreadable) }
}

/// Reads a bundle of results; those that cannot be read keep their places.
pub(super) fn decode_results(bundle: &Bytes) -> Result<Vec<Result<ProbeResult, Unreadable>>, Unreadable> {
    let count = u16::from_be_bytes(part(bundle, 0)?);
    let pieces = cut(bundle, 2, count)?;
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
