//! Histograms of durations, and the concurrent counters behind them.

use crate::clock::saturating_nanos;
use crate::stats::load_sampling::LoadSampling;
use crate::stats::stripes::Stripes;
use crate::storage::allocated::AllocatedBytes;
use crate::sync::thread_slot::ThreadSlot;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A histogram of durations from 1 microsecond to 13 days, in buckets that are at most a quarter wide.
///
/// # Examples
///
/// ```
/// use hotset::LocalCache;
/// use std::convert::Infallible;
///
/// let cache: LocalCache<u32, u32> = LocalCache::new(100);
/// cache.get_or_load(&1, |_| Ok::<_, Infallible>(10)).unwrap();
/// let load_times = cache.stats().load_times;
/// assert_eq!(load_times.count(), 1);
/// assert!(load_times.mean() <= load_times.percentile(99.0));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct DurationHistogram {
    total: Duration,
    buckets: Box<[u64]>,
}

/// The binary logarithm of [`SUB_BUCKETS`].
const SUB_BUCKET_BITS: u32 = 2;
/// The number of buckets for each power of two.
const SUB_BUCKETS: u32 = 1 << SUB_BUCKET_BITS;
/// The power of two, in nanoseconds, below which all durations are in the first bucket.
const FIRST_POWER: u32 = 10;
/// The power of two, in nanoseconds, from which on all durations are in the last bucket.
const LAST_POWER: u32 = 50;
/// The number of all buckets.
const BUCKETS: usize = ((LAST_POWER - FIRST_POWER) * SUB_BUCKETS + 2) as usize;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Returns the bucket of a duration.
pub(super) fn bucket_of(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2();
    if power < FIRST_POWER {
        0
    } else if power >= LAST_POWER {
        BUCKETS - 1
    } else {
        #[allow(clippy::cast_possible_truncation)] // It is less than SUB_BUCKETS.
        let sub = ((nanos >> (power - SUB_BUCKET_BITS)) % u64::from(SUB_BUCKETS)) as u32;
        ((power - FIRST_POWER) * SUB_BUCKETS + sub) as usize + 1
    }
}

/// Returns the least duration above a bucket, or `None` for the last bucket.
fn upper_bound(bucket: usize) -> Option<Duration> {
    if bucket >= BUCKETS - 1 {
        return None;
    }
    let bucket = bucket as u64;
    let sub_buckets = u64::from(SUB_BUCKETS);
    let (power, sub) = (bucket / sub_buckets, bucket % sub_buckets);
    let shift = power + u64::from(FIRST_POWER - SUB_BUCKET_BITS);
    Some(Duration::from_nanos((sub_buckets + sub) << shift))
}

impl DurationHistogram {
    /// Returns the sum of all durations.
    ///
    /// # Examples
    ///
    /// ```
    /// let load_times = hotset::LocalCache::<u32, u32>::new(100).stats().load_times;
    /// assert!(load_times.total().is_zero());
    /// ```
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total
    }

    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the arithmetic mean, or zero if there are no durations.
    ///
    /// # Examples
    ///
    /// ```
    /// let lengths: hotset::LocalCache<&str, usize> = hotset::LocalCache::new(100);
    /// lengths.get_or_insert_with(&"apple", |name| name.len());
    /// let load_times = lengths.stats().load_times;
    /// assert_eq!(load_times.mean(), load_times.total()); // of one load
    /// ```
    #[must_use]
    pub fn mean(&self) -> Duration {
        match self.count() {
            0 => Duration::ZERO,
            count => Duration::from_nanos(
                u64::try_from(self.total.as_nanos() / u128::from(count)).unwrap_or(u64::MAX),
            ),
        }
    }

    /// Returns the duration below which `percent` (0 to 100) of all durations are, rounded up to the bound of its
    /// bucket.
    ///
    /// Returns zero if there are no durations, and `Duration::MAX` if the result is above 13 days.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// # let pages: LocalCache<u32, String> = LocalCache::new(100);
    /// let load_times = pages.stats().load_times;
    /// println!("99 percent of all loads take less than {:?}", load_times.percentile(99.0));
    /// # assert_eq!(load_times.percentile(99.0), std::time::Duration::ZERO);
    /// ```
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

    /// Returns the buckets in ascending order, each as the least duration above it and the number of durations in it.
    ///
    /// The bound of the last bucket is `Duration::MAX`.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// let lengths: LocalCache<&str, usize> = LocalCache::new(100);
    /// lengths.get_or_insert_with(&"apple", |name| name.len());
    /// let load_times = lengths.stats().load_times;
    /// let filled: Vec<_> = load_times.buckets().filter(|(_, count)| *count > 0).collect();
    /// for (bound, count) in &filled {
    ///     println!("less than {bound:?}: {count}");
    /// }
    /// assert_eq!(filled.len(), 1);
    /// ```
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .map(|(bucket, &count)| (upper_bound(bucket).unwrap_or(Duration::MAX), count))
    }
}

/// Differences of histograms, for recorders that count values one by one.
#[cfg(feature = "metrics")]
impl DurationHistogram {
    /// Returns the durations that were added since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let pairs = self.buckets.iter().zip(&before.buckets);
        Self {
            total: self.total.saturating_sub(before.total),
            buckets: pairs.map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    /// Adds all durations of another histogram.
    pub(crate) fn add(&mut self, other: &Self) {
        self.total += other.total;
        for (sum, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += more;
        }
    }

    /// Returns a value in seconds for each bucket that is not empty, and the number of durations in it. All values are
    /// at the same relative position in their buckets, so that their sum is the total.
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

    /// Sets the total to the sum of these values. If the total was read before or after the buckets, the rest is left
    /// for the next difference.
    pub(crate) fn set_total(&mut self, seconds: &[(f64, u64)]) {
        let sum = sum(seconds.iter().copied());
        self.total = Duration::try_from_secs_f64(sum).unwrap_or_default();
    }
}

/// Returns the sum of values, each of which occurs a number of times.
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

/// Adds to a counter that only this thread writes, without a contended instruction. Returns the sum.
#[inline]
pub(crate) fn add_unshared(counter: &AtomicU64, amount: u64) -> u64 {
    let sum = counter.load(Relaxed).wrapping_add(amount);
    counter.store(sum, Relaxed);
    sum
}

/// Adds to a counter that several threads write. Returns the sum.
#[cold]
pub(crate) fn add_shared(counter: &AtomicU64, amount: u64) -> u64 {
    counter.fetch_add(amount, Relaxed).wrapping_add(amount)
}

/// The counters of a histogram to which any number of threads add.
pub(crate) struct AtomicHistogram {
    /// The whole seconds of all durations. The sum has two parts, because a sum of nanoseconds would overflow after 500
    /// years, which ages reach.
    seconds: AtomicU64,
    /// The fractions of a second of all durations, in nanoseconds.
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    pub(super) sampling: LoadSampling,
}

impl Default for AtomicHistogram {
    fn default() -> Self {
        Self {
            seconds: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sampling: LoadSampling::default(),
        }
    }
}

impl AtomicHistogram {
    /// Adds a duration.
    #[cfg(feature = "redis")]
    pub(crate) fn count(&self, duration: Duration) {
        self.count_by(add_shared, duration);
    }

    /// Adds a duration. `add` adds an amount to a counter and returns the sum.
    pub(super) fn count_by(&self, add: impl Fn(&AtomicU64, u64) -> u64, duration: Duration) {
        add(&self.seconds, duration.as_secs());
        self.add_nanos(&add, u64::from(duration.subsec_nanos()));
        add(&self.buckets[bucket_of(saturating_nanos(duration))], 1);
    }

    /// Adds nanoseconds to the sum, less than a second.
    #[inline]
    fn add_nanos(&self, add: impl Fn(&AtomicU64, u64) -> u64, nanos: u64) {
        // Each time that the sum passes a whole second, that second is carried, so that the sum does not overflow.
        if add(&self.nanos, nanos) % NANOS_PER_SECOND < nanos {
            add(&self.seconds, 1);
            add(&self.nanos, NANOS_PER_SECOND.wrapping_neg());
        }
    }

    /// Adds a duration of less than a second, for the only thread that adds to this histogram.
    #[inline]
    pub(super) fn add_short(&self, nanos: u64, bucket: usize) {
        if add_unshared(&self.nanos, nanos) >= NANOS_PER_SECOND {
            add_unshared(&self.seconds, 1);
            add_unshared(&self.nanos, NANOS_PER_SECOND.wrapping_neg());
        }
        add_unshared(&self.buckets[bucket], 1);
    }

    /// Adds all durations to a histogram.
    fn add_to(&self, sum: &mut DurationHistogram) {
        let (seconds, nanos) = (self.seconds.load(Relaxed), self.nanos.load(Relaxed));
        sum.total += Duration::from_secs(seconds) + Duration::from_nanos(nanos);
        for (sum, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Relaxed);
        }
    }

    /// Returns the durations so far.
    #[cfg(any(feature = "redis", test))]
    pub(crate) fn snapshot(&self) -> DurationHistogram {
        let mut sum = DurationHistogram::default();
        self.add_to(&mut sum);
        sum
    }
}

/// The stripes of a histogram. They are large, so each is allocated when its thread first adds a duration.
pub(crate) struct StripedHistogram(Stripes<OnceLock<Box<AtomicHistogram>>>);

impl StripedHistogram {
    /// Creates counters without durations.
    pub(crate) fn new() -> Self {
        Self(Stripes::default())
    }

    /// Adds a duration, for the thread with this slot.
    pub(crate) fn count(&self, slot: ThreadSlot, duration: Duration) {
        if let Some(own) = self.0.own(slot) {
            own.get_or_init(Box::default)
                .count_by(add_unshared, duration);
        } else {
            let shared = self.0.shared(slot).get_or_init(Box::default);
            shared.count_by(add_shared, duration);
        }
    }

    /// Adds the duration of a load, or in its place that of an earlier load of the thread, see
    /// [`load_sampling`](crate::stats::load_sampling). `measure` reads the clock.
    #[inline(always)]
    pub(crate) fn count_load(
        &self,
        slot: ThreadSlot,
        is_short: bool,
        measure: impl FnOnce() -> Duration,
    ) {
        match self.0.own(slot).and_then(OnceLock::get) {
            Some(histogram) if is_short => histogram.count_short_load(measure),
            Some(histogram) => histogram.count_by(add_unshared, measure()),
            None => self.count(slot, measure()),
        }
    }

    /// Returns the durations so far.
    pub(crate) fn snapshot(&self) -> DurationHistogram {
        let mut sum = DurationHistogram::default();
        for histogram in self.0.iter().filter_map(OnceLock::get) {
            histogram.add_to(&mut sum);
        }
        sum
    }
}

impl AllocatedBytes for StripedHistogram {
    fn allocated_bytes(&self) -> usize {
        let allocated = self.0.iter().filter_map(OnceLock::get);
        allocated.count() * size_of::<AtomicHistogram>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_below_the_bound_of_its_bucket_and_not_below_the_previous_bound() {
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
    fn sum_of_fractions_of_a_second_stays_below_a_second() {
        let histogram = AtomicHistogram::default();
        let duration = Duration::from_millis(999);
        for _ in 0..3_000 {
            histogram.count_by(add_shared, duration);
        }
        let mut sum = DurationHistogram::default();
        histogram.add_to(&mut sum);
        assert_eq!(sum.total, duration * 3_000);
        assert!(histogram.nanos.load(Relaxed) < 1_000_000_000);
    }

    #[test]
    fn percentiles_are_exact_to_a_quarter_and_means_are_exact() {
        let histogram = StripedHistogram::new();
        for micros in 1..=1_000 {
            histogram.count(ThreadSlot::current(), Duration::from_micros(micros));
        }
        let times = histogram.snapshot();
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
    fn values_of_a_difference_have_the_exact_sum() {
        let histogram = StripedHistogram::new();
        let count = |micros| histogram.count(ThreadSlot::current(), Duration::from_micros(micros));
        (1..100).for_each(count);
        let before = histogram.snapshot();
        (1_000..3_000).for_each(count);
        let growth = histogram.snapshot().since(&before);
        assert_eq!(growth.count(), 2_000);
        let values = growth.seconds();
        let recorded = sum(values.iter().copied());
        assert!(
            (recorded - growth.total().as_secs_f64()).abs() < 1e-9,
            "{recorded}"
        );
        for (value, count) in values {
            assert!(
                count > 0 && (0.000_75..0.003_75).contains(&value),
                "{value}"
            );
        }
        let mut both = before.clone();
        both.add(&growth);
        assert_eq!(both, histogram.snapshot());
        assert_eq!(DurationHistogram::default().seconds(), []);
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn total_read_before_its_bucket_is_corrected_by_the_next_difference() {
        let one = Duration::from_millis(1_240);
        let (mut known, mut recorded, mut sum_of_all) = (
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
                let mut difference = read.since(&known);
                let values = difference.seconds();
                recorded += sum(values.iter().copied());
                difference.set_total(&values);
                known.add(&difference);
            }
        }
        assert!((recorded - 1_240.0).abs() < 1.0, "{recorded}");
    }

    #[test]
    fn sum_of_long_durations_does_not_overflow() {
        let histogram = StripedHistogram::new();
        let year = Duration::from_millis(365 * 24 * 3_600 * 1_000 + 1);
        for _ in 0..1_000 {
            histogram.count(ThreadSlot::current(), year);
        }
        assert_eq!(histogram.snapshot().total(), year * 1_000);
    }
}
