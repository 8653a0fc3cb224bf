//! Sums of results, as both databases make them: grouped by region, outcome and bucket of latency.

use std::collections::BTreeMap;

use healthmon_core::{
    id::{InvalidRegion, Region},
    summary::{Histogram, RegionSummary, Summary},
    time::Slot,
};

/// An expression for the bucket that a column of latencies falls in, as [`Histogram::bucket`] has it.
/// The column holds 32 bits without a sign, as they are or as a number that has one.
pub(crate) fn bucket_sql(latency: &str) -> String {
    let arm = |shift: u32| format!("WHEN {latency} < {} THEN {} + ({latency} >> {shift})", 32 << shift, 16 * shift);
    let arms: Vec<String> = (0..26).map(arm).collect();
    format!(
        "CASE WHEN {latency} < 0 OR {latency} > 2147483647 THEN 432 + (({latency} >> 27) & 31) {} \
         ELSE 416 + ({latency} >> 26) END",
        arms.join(" ")
    )
}

/// So many results of one region, outcome and bucket.
pub(crate) struct Group<'a> {
    pub(crate) region: &'a str,
    pub(crate) outcome: i64,
    /// Of those that passed.
    pub(crate) bucket: i64,
    pub(crate) count: u64,
    /// The newest slot, in milliseconds.
    pub(crate) newest: i64,
}

/// Sums by region, by its name.
#[derive(Default)]
pub(crate) struct Sums(BTreeMap<String, RegionSummary>);

impl Sums {
    /// What has come from a region so far.
    pub(crate) fn of(&mut self, region: &str) -> &mut RegionSummary {
        self.0.entry(region.to_owned()).or_default()
    }

    /// Adds a group; says what is wrong with it if no build has written such a thing.
    pub(crate) fn add(&mut self, group: &Group<'_>) -> Result<(), String> {
        let Group { region, outcome, bucket, count, newest } = *group;
        let part = self.of(region);
        let counts = &mut part.counts;
        let place = match outcome {
            0 => &mut counts.pass,
            1 => &mut counts.slow,
            2 | 3 => &mut counts.fail,
            4 => &mut counts.indeterminate,
            _ => return Err(format!("outcome {outcome}")),
        };
        *place += count;
        if outcome <= 1 {
            let bucket = u16::try_from(bucket).ok().filter(|bucket| *bucket < Histogram::BUCKETS);
            part.latency.add_to_bucket(bucket.ok_or("a latency")?, count);
        }
        part.newest = part.newest.max(Some(Slot::from_millis(newest)));
        Ok(())
    }

    /// All of them.
    pub(crate) fn summary(self) -> Result<Summary, InvalidRegion> {
        let mut summary = Summary::default();
        for (name, part) in self.0 {
            summary.add_region(&Region::new(&name)?, &part);
        }
        Ok(summary)
    }
}

/// Latencies at the edges of all buckets.
#[cfg(test)]
pub(crate) fn edges() -> Vec<u32> {
    let edges = (0..Histogram::BUCKETS).map(Histogram::shortest_us);
    edges.flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1]).chain([u32::MAX]).collect()
}
