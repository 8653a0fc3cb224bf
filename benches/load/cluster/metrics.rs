//! What a process says of itself at /metrics.

use std::collections::BTreeMap;

/// Metrics at a moment, by name and labels as they stand.
#[derive(Default)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let metric = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Self(lines.filter_map(metric).collect())
    }

    pub(crate) fn value(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// Seconds that a share of what was noted since `before` stayed below: a bucket's bound, or
    /// part of the way to it as though they lay evenly.
    pub(crate) fn quantile(&self, before: &Self, histogram: &str, share: f64) -> f64 {
        let from = format!("{histogram}_bucket{{le=\"");
        let mut counts: Vec<(f64, f64)> = self
            .0
            .iter()
            .filter_map(|(name, count)| {
                let bound = name.strip_prefix(&from)?.trim_end_matches("\"}").parse().ok()?;
                Some((bound, count - before.value(name)))
            })
            .collect();
        counts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted = counts.last().map_or(0.0, |(_, all)| all * share);
        let (mut low, mut seen) = (0.0, 0.0);
        for (bound, count) in counts {
            if count >= wanted && count > seen {
                return if bound.is_finite() { low + (bound - low) * (wanted - seen) / (count - seen) } else { low };
            }
            (low, seen) = (bound, count);
        }
        low
    }
}
