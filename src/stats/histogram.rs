//! Histograms of durations, and what they are counted in.

use crate::sync::thread_slot::{SLOTS, ThreadSlot};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A histogram of durations from 1 microsecond to 13 days, each bucket at most a quarter wide.
#[derive(Clone, PartialEq, Eq)]
pub struct DurationHistogram {
    total: Duration,
    buckets: Box<[u64]>,
}

/// Buckets are 4 to a power of two; the first holds everything below 2^10 ns, the last everything
/// from 2^50 ns on.
const SUB_BUCKETS: u32 = 4;
const FIRST_POWER: u32 = 10;
const LAST_POWER: u32 = 50;
const BUCKETS: usize = ((LAST_POWER - FIRST_POWER) * SUB_BUCKETS + 2) as usize;

fn bucket_of(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2();
    if power < FIRST_POWER {
        0
    } else if power >= LAST_POWER {
        BUCKETS - 1
    } else {
        let sub = (nanos >> (power - 2)) & 3;
        ((power - FIRST_POWER) * SUB_BUCKETS) as usize + sub as usize + 1
    }
}

/// The first duration above the bucket; `None` for the last one.
fn upper_bound(bucket: usize) -> Option<Duration> {
    if bucket >= BUCKETS - 1 {
        return None;
    }
    let (power, sub) = (bucket / 4, bucket as u64 % 4);
    Some(Duration::from_nanos((4 + sub) << (power + 10 - 2)))
}

impl DurationHistogram {
    /// All durations added up.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }

    /// How many durations there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The arithmetic mean; zero if there is none.
    #[must_use]
    pub fn mean(&self) -> Duration {
        match self.count() {
            0 => Duration::ZERO,
            count => Duration::from_nanos(
                u64::try_from(self.total.as_nanos() / u128::from(count)).unwrap_or(u64::MAX),
            ),
        }
    }

    /// The duration that `percent` (0 to 100) of all stay below, rounded up to its bucket's bound;
    /// zero if there is none, `Duration::MAX` if it is above 13 days.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    pub fn percentile(&self, percent: f64) -> Duration {
        let rank = (self.count() as f64 * percent.clamp(0.0, 100.0) / 100.0).ceil() as u64;
        let mut seen = 0;
        for (bound, count) in self.buckets() {
            seen += count;
            if count > 0 && seen >= rank {
                return bound;
            }
        }
        Duration::ZERO
    }

    /// The buckets in rising order: the first duration above each, and how many fell in it. The
    /// last one's bound is `Duration::MAX`.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .map(|(bucket, &count)| (upper_bound(bucket).unwrap_or(Duration::MAX), count))
    }
}

/// A histogram's growth, for recorders that count values one by one.
#[cfg(feature = "metrics")]
impl DurationHistogram {
    /// What came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&before.buckets);
        Self {
            total: self.total.saturating_sub(before.total),
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.total += other.total;
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += more;
        }
    }

    /// A value of each bucket in seconds, and how many there are: all as far into their buckets as it
    /// takes for the sum to be the total.
    pub(crate) fn seconds(&self) -> Vec<(f64, u64)> {
        let counted = self
            .buckets
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        let ranges = counted.map(|(bucket, &count)| {
            let least = bucket.checked_sub(1).and_then(upper_bound);
            let least = least.unwrap_or_default().as_secs_f64();
            let width = upper_bound(bucket).map_or(least, |most| most.as_secs_f64() - least);
            (least, width, count)
        });
        let least = sum(ranges.clone().map(|(least, _, count)| (least, count)));
        let width = sum(ranges.clone().map(|(_, width, count)| (width, count)));
        let part = (self.total.as_secs_f64() - least) / width.max(f64::MIN_POSITIVE);
        let part = part.clamp(0.0, 1.0);
        let value = |(least, width, count)| (least + width * part, count);
        ranges.map(value).collect()
    }

    /// The total is what these come to: where it was read before the buckets were, or after, the rest is
    /// for the next time.
    pub(crate) fn set_total(&mut self, seconds: &[(f64, u64)]) {
        let sum = sum(seconds.iter().copied());
        self.total = Duration::try_from_secs_f64(sum).unwrap_or_default();
    }
}

#[cfg(feature = "metrics")]
#[allow(clippy::cast_precision_loss)]
fn sum(values: impl Iterator<Item = (f64, u64)>) -> f64 {
    values.map(|(value, count)| value * count as f64).sum()
}

impl Default for DurationHistogram {
    fn default() -> Self {
        Self {
            total: Duration::ZERO,
            buckets: vec![0; BUCKETS].into(),
        }
    }
}

impl fmt::Debug for DurationHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurationHistogram")
            .field("count", &self.count())
            .field("total", &self.total)
            .field("p50", &self.percentile(50.0))
            .field("p99", &self.percentile(99.0))
            .finish_non_exhaustive()
    }
}

/// Adds to a counter that no other thread writes, so that there is no update to lose. Returns the sum.
#[inline]
pub(crate) fn add_alone(counter: &AtomicU64, amount: u64) -> u64 {
    let sum = counter.load(Relaxed).wrapping_add(amount);
    counter.store(sum, Relaxed);
    sum
}

#[cold]
pub(crate) fn add_shared(counter: &AtomicU64, amount: u64) -> u64 {
    counter.fetch_add(amount, Relaxed).wrapping_add(amount)
}

/// DurationHistogram as they are counted, by any number of threads.
pub(crate) struct Tally {
    /// The sum, in two parts, since a sum of nanoseconds would be full after 500 years of ages.
    seconds: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            seconds: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Tally {
    #[cfg(feature = "redis")]
    pub(crate) fn count(&self, duration: Duration) {
        self.count_by(add_shared, duration);
    }

    fn count_by(&self, add: impl Fn(&AtomicU64, u64) -> u64, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        add(&self.seconds, duration.as_secs());
        add(&self.nanos, duration.subsec_nanos().into());
        add(&self.buckets[bucket_of(nanos)], 1);
    }

    fn add_to(&self, sum: &mut DurationHistogram) {
        let (seconds, nanos) = (self.seconds.load(Relaxed), self.nanos.load(Relaxed));
        sum.total += Duration::from_secs(seconds) + Duration::from_nanos(nanos);
        for (sum, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Relaxed);
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn snapshot(&self) -> DurationHistogram {
        let mut sum = DurationHistogram::default();
        self.add_to(&mut sum);
        sum
    }
}

/// A tally for each thread that counts, and one that all further threads share. They are large, so only
/// who counts has one.
pub(crate) struct StripedTally([OnceLock<Box<Tally>>; SLOTS + 1]);

impl StripedTally {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }

    pub(crate) fn count(&self, slot: ThreadSlot, duration: Duration) {
        let tally = self.0[slot.index()].get_or_init(Box::default);
        if slot.index() < SLOTS {
            tally.count_by(add_alone, duration);
        } else {
            tally.count_by(add_shared, duration);
        }
    }

    pub(crate) fn snapshot(&self) -> DurationHistogram {
        let mut sum = DurationHistogram::default();
        for tally in self.0.iter().filter_map(OnceLock::get) {
            tally.add_to(&mut sum);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_below_its_bucket_bound_and_at_or_above_the_one_before() {
        for power in 0..64 {
            for nanos in [1u64 << power, (1 << power) + (1 << power) / 3] {
                let bucket = bucket_of(nanos);
                let nanos = Duration::from_nanos(nanos);
                assert!(upper_bound(bucket).is_none_or(|bound| nanos < bound));
                assert!(bucket == 0 || upper_bound(bucket - 1).unwrap() <= nanos);
            }
        }
    }

    #[test]
    fn percentiles_are_within_a_quarter_and_means_exact() {
        let tally = StripedTally::new();
        for micros in 1..=1_000 {
            tally.count(ThreadSlot::current(), Duration::from_micros(micros));
        }
        let times = tally.snapshot();
        assert_eq!(times.count(), 1_000);
        assert_eq!(times.mean(), Duration::from_nanos(500_500));
        for (percent, exact) in [(50.0, 500), (99.0, 990), (100.0, 1_000)] {
            let (found, exact) = (times.percentile(percent), Duration::from_micros(exact));
            assert!(
                found >= exact && found <= exact * 5 / 4,
                "{percent}: {found:?}"
            );
        }
        assert_eq!(
            DurationHistogram::default().percentile(50.0),
            Duration::ZERO
        );
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn growth_is_told_value_by_value_with_the_sum_exact() {
        let tally = StripedTally::new();
        let count = |micros| tally.count(ThreadSlot::current(), Duration::from_micros(micros));
        (1..100).for_each(count);
        let before = tally.snapshot();
        (1_000..3_000).for_each(count);
        let growth = tally.snapshot().since(&before);
        assert_eq!(growth.count(), 2_000);
        let values = growth.seconds();
        let told = sum(values.iter().copied());
        assert!((told - growth.total().as_secs_f64()).abs() < 1e-9, "{told}");
        for (value, count) in values {
            assert!(
                count > 0 && (0.000_75..0.003_75).contains(&value),
                "{value}"
            );
        }
        let mut both = before.clone();
        both.add(&growth);
        assert_eq!(both, tally.snapshot());
        assert_eq!(DurationHistogram::default().seconds(), []);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn a_total_that_is_read_before_its_bucket_is_made_up_for() {
        let one = Duration::from_millis(1_240);
        let (mut known, mut told, mut sum_of_all) = (
            DurationHistogram::default(),
            0.0,
            DurationHistogram::default(),
        );
        for _ in 0..1_000 {
            let mut torn = sum_of_all.clone();
            torn.total += one;
            sum_of_all = torn.clone();
            sum_of_all.buckets[bucket_of(1_240_000_000)] += 1;
            for read in [&torn, &sum_of_all] {
                let mut news = read.since(&known);
                let values = news.seconds();
                told += sum(values.iter().copied());
                news.set_total(&values);
                known.add(&news);
            }
        }
        assert!((told - 1_240.0).abs() < 1.0, "{told}");
    }

    #[test]
    fn a_sum_of_long_durations_does_not_run_over() {
        let tally = StripedTally::new();
        let year = Duration::from_millis(365 * 24 * 3_600 * 1_000 + 1);
        for _ in 0..1_000 {
            tally.count(ThreadSlot::current(), year);
        }
        assert_eq!(tally.snapshot().total(), year * 1_000);
    }
}
