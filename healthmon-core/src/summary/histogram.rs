use std::collections::BTreeMap;

/// How long things took, in buckets that grow with what is in them: sums of parts are exact, and a
/// quantile is off by a thirty-second of itself at most.
///
/// Below 32 µs each microsecond has a bucket; from there on sixteen share each doubling. That is
/// fixed for ever: it is what stores keep.
///
/// ```
/// use healthmon_core::summary::Histogram;
/// let (mut one, mut two) = (Histogram::default(), Histogram::default());
/// (1..=500).for_each(|ms| one.add(ms * 1_000));
/// (501..=1_000).for_each(|ms| two.add(ms * 1_000));
/// one.merge(&two);
/// let median = one.quantile_us(500).ok_or("there are some")?;
/// assert!(median.abs_diff(500_000) <= 500_000 / 32);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Buckets that are not empty.
    buckets: BTreeMap<u16, u64>,
}

/// Bytes that are no histogram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistogramError {
    /// Written by a newer build; the number is its version.
    #[error("the histogram has version {0}, which this build does not know")]
    Newer(u8),
    /// Not a histogram at all, or a damaged one.
    #[error("the histogram is damaged")]
    Damaged,
}

impl Histogram {
    /// How many buckets there are.
    pub const BUCKETS: u16 = 464;
    /// The version that [`encode`](Self::encode) writes.
    pub const VERSION: u8 = 1;
    /// A count above this one is written apart from its bucket.
    pub const SHORT: u64 = 63;
    /// A bucket and a count up to [`SHORT`](Self::SHORT) are one number: the count times this, plus
    /// the bucket.
    pub const UNIT: u16 = 512;

    /// The bucket that a latency falls in.
    ///
    /// With `s` the number of its bits beyond five, it is 16·s plus what is left of it when the last
    /// `s` bits are cut off.
    pub const fn bucket(latency_us: u32) -> u16 {
        let shift = (u32::BITS - latency_us.leading_zeros()).saturating_sub(5);
        // At most 16 · 27 + 31.
        (16 * shift + (latency_us >> shift)) as u16
    }

    /// The shortest latency in a bucket, in microseconds.
    pub const fn shortest_us(bucket: u16) -> u32 {
        let bucket = if bucket < Self::BUCKETS { bucket } else { Self::BUCKETS - 1 };
        match bucket {
            0..32 => bucket as u32,
            _ => (bucket as u32 % 16 + 16) << (bucket / 16 - 1),
        }
    }

    /// What stands for the latencies in a bucket: its middle.
    const fn middle_us(bucket: u16) -> u32 {
        let half = if bucket < 32 { 0 } else { (1 << (bucket / 16 - 1)) / 2 };
        Self::shortest_us(bucket) + half
    }

    /// Adds one latency.
    pub fn add(&mut self, latency_us: u32) {
        self.add_to_bucket(Self::bucket(latency_us), 1);
    }

    /// Adds `count` latencies of a bucket. One that there is not counts as the last.
    pub fn add_to_bucket(&mut self, bucket: u16, count: u64) {
        if count > 0 {
            let there = self.buckets.entry(bucket.min(Self::BUCKETS - 1)).or_default();
            *there = there.saturating_add(count);
        }
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(bucket, count)| self.add_to_bucket(*bucket, *count));
    }

    /// How many latencies there are.
    pub fn count(&self) -> u64 {
        self.buckets.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The latency that so many of a thousand do not exceed, in microseconds: 500 for the median, 990 for
    /// the 99th percentile. None when there are no latencies.
    pub fn quantile_us(&self, per_mille: u16) -> Option<u32> {
        let rank = (u128::from(self.count()) * u128::from(per_mille.min(1_000))).div_ceil(1_000).max(1);
        let mut below = 0u128;
        let mut passed = self.buckets.iter().map(|(bucket, count)| {
            below += u128::from(*count);
            (*bucket, below)
        });
        passed.find(|(_, below)| *below >= rank).map(|(bucket, _)| Self::middle_us(bucket))
    }

    /// The histogram as bytes: the version, then each bucket with its count, two bytes as long as the
    /// count is small.
    ///
    /// A bucket is a big-endian 16-bit number: the count times [`UNIT`](Self::UNIT), plus the bucket. The
    /// count is 0 there when it is larger than [`SHORT`](Self::SHORT), and follows in 32 bits.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 2 * self.buckets.len());
        bytes.push(Self::VERSION);
        for (bucket, count) in &self.buckets {
            let mut left = *count;
            while left > 0 {
                let part = left.min(u64::from(u32::MAX));
                left -= part;
                match u32::try_from(part) {
                    Ok(part) if u64::from(part) > Self::SHORT => {
                        bytes.extend(bucket.to_be_bytes());
                        bytes.extend(part.to_be_bytes());
                    }
                    // It is up to 63, so that it fits.
                    _ => bytes.extend((part as u16 * Self::UNIT + bucket).to_be_bytes()),
                }
            }
        }
        bytes
    }

    /// The histogram that these bytes hold.
    ///
    /// # Errors
    /// When the bytes are of a newer version, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, HistogramError> {
        let mut rest = match bytes.split_first() {
            None | Some((0, _)) => return Err(HistogramError::Damaged),
            Some((&Self::VERSION, rest)) => rest,
            Some((version, _)) => return Err(HistogramError::Newer(*version)),
        };
        let mut histogram = Self::default();
        while let Some((head, after)) = rest.split_first_chunk() {
            let head = u16::from_be_bytes(*head);
            let (bucket, mut count) = (head % Self::UNIT, u64::from(head / Self::UNIT));
            rest = after;
            if count == 0 {
                let (long, after) = rest.split_first_chunk().ok_or(HistogramError::Damaged)?;
                count = u64::from(u32::from_be_bytes(*long));
                rest = after;
            }
            if bucket >= Self::BUCKETS || count == 0 {
                return Err(HistogramError::Damaged);
            }
            histogram.add_to_bucket(bucket, count);
        }
        if rest.is_empty() { Ok(histogram) } else { Err(HistogramError::Damaged) }
    }
}
