//! Statistics: striped counters that cost a hit almost nothing, and snapshots of them.

pub(crate) mod histogram;
mod load_sampling;
#[cfg(feature = "serde")]
pub(crate) mod serialize;
mod stripes;
pub(crate) mod timer;

use crate::stats::histogram::{DurationHistogram, StripedHistogram, add_shared, add_unshared};
use crate::stats::stripes::Stripes;
use crate::stats::timer::{CountOperation, Outcome};
use crate::storage::allocated::AllocatedBytes;
use crate::sync::thread_slot::ThreadSlot;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A snapshot of the statistics of a cache: its operations so far, and its content.
///
/// The numbers are read one after the other and shard by shard while the cache is in use, so a sum over several of
/// them may miss what happened meanwhile. They are exact if the cache is not in use.
///
/// # Examples
///
/// ```
/// use hotset::LocalCache;
///
/// let prices: LocalCache<String, u64> = LocalCache::new(100);
/// for _ in 0..4 {
///     prices.get_or_load("apple", |_| "120".parse())?;
/// }
/// let stats = prices.stats();
/// assert_eq!((stats.hits, stats.misses, stats.loads), (3, 1, 1));
/// assert!(stats.to_string().starts_with("3 hits, 1 misses (75.0%)"));
/// # Ok::<(), hotset::LoadError<std::num::ParseIntError>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
#[doc(alias = "CacheStats")]
pub struct Stats {
    /// Lookups that found a live entry.
    #[doc(alias = "hitCount")]
    pub hits: u64,
    /// Lookups that found no live entry.
    #[doc(alias = "missCount")]
    pub misses: u64,
    /// Loaders that were run.
    #[doc(alias = "loadCount")]
    pub loads: u64,
    /// Loaders that returned an error or panicked, or whose caller was cancelled.
    #[doc(alias = "loadFailureCount")]
    pub load_failures: u64,
    /// Callers that missed, and got the value or the error of another caller's load.
    pub coalesced: u64,
    /// Loaders that were run to refresh a live entry.
    pub refreshes: u64,
    /// Callers that were served an expired value because a load failed, had failed recently, or took too long.
    pub stale: u64,
    /// Loads that had to wait for a permit.
    pub queued: u64,
    /// Loads that exceeded their [lease](crate::LocalCacheBuilder::lease), so that another caller loaded, or their
    /// permit passed to another load. While they run, they do not count towards
    /// [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads).
    pub abandoned_loads: u64,
    /// The run times of loaders, failed ones included.
    ///
    /// Each load is counted, and each load of 10 microseconds or more is timed. Of the shorter loads of a thread, the
    /// first 64 are timed, and then about one in 16, at random. The others are counted with the run time of the last
    /// short load that was timed, so that the distribution is unbiased. Whether a load is short is determined by the
    /// time-stamp counter of x86-64. On other processors all loads are timed.
    ///
    /// All loads are timed too if the cache [tracks ages](crate::LocalCacheBuilder::track_ages), or if it has a removal
    /// listener, a weigher, a time to idle, a rule of expiration, or a rule for refreshes.
    #[doc(alias = "totalLoadTime")]
    pub load_times: DurationHistogram,
    /// The ages of served values: the times since they were read from their source. One hit in 64 is counted, if the
    /// cache [tracks ages](crate::LocalCacheBuilder::track_ages).
    pub ages: DurationHistogram,
    /// Entries stored, replacements included.
    pub inserts: u64,
    /// Values not stored: heavier than the bound of the cache, or with a time to live of zero.
    pub refused: u64,
    /// Loads whose value was not stored, and steps of `update`, `compute` and `retain` that were repeated, because the
    /// key was written or removed meanwhile.
    pub outdated: u64,
    /// Entries that were replaced by a new value of their key.
    pub replaced: u64,
    /// Entries removed by `invalidate`, `remove`, `retain`, `update` or `compute`, or by `set_ttl` with zero.
    pub removed: u64,
    /// Entries removed because they had expired.
    pub expired: u64,
    /// Entries removed by the policy to make room for others.
    #[doc(alias = "evictionCount")]
    pub evicted: u64,
    /// Entries removed by `clear`.
    pub cleared: u64,
    /// Entries removed because one of their tags was invalidated.
    pub invalidated: u64,
    /// The number of entries, including expired ones that have not been removed yet.
    #[doc(alias = "entry_count")]
    pub entries: u64,
    /// The weight of these entries. Without a weigher, each weighs 1.
    #[doc(alias = "weighted_size")]
    pub weight: u64,
}

impl Stats {
    /// Returns the share of lookups that found a live entry, from 0 to 1, or 0 before the first lookup.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(100);
    /// cache.insert("apple", 120);
    /// cache.get("apple");
    /// cache.get("pear");
    /// assert!((cache.stats().hit_ratio() - 0.5).abs() < f64::EPSILON);
    /// ```
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    #[doc(alias("hitRate", "hit_rate"))]
    pub fn hit_ratio(&self) -> f64 {
        match self.hits + self.misses {
            0 => 0.0,
            lookups => self.hits as f64 / lookups as f64,
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} hits, {} misses ({:.1}%), {} loads ({} failed, {} coalesced, p99 {:?}), \
             {} inserts, {} evicted, {} expired, {} entries",
            self.hits,
            self.misses,
            self.hit_ratio() * 100.0,
            self.loads,
            self.load_failures,
            self.coalesced,
            self.load_times.percentile(99.0),
            self.inserts,
            self.evicted,
            self.expired,
            self.entries,
        )
    }
}

/// The counters that are kept outside a shard's lock. Writes are counted in their shard, under its lock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    Hit,
    Miss,
    Load,
    LoadFailure,
    Coalesced,
    Refresh,
    Stale,
    Queued,
    Abandoned,
    Refused,
    Outdated,
}

/// The number of variants of [`Count`].
const COUNTS: usize = Count::Outdated as usize + 1;

/// A stripe of counters, on a cache line of its own (two, because some processors fetch lines in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; COUNTS]);

/// The counters of one cache.
pub(crate) struct Counters {
    stripes: Box<Stripes<Stripe>>,
    /// The run times of loaders.
    load_times: Box<StripedHistogram>,
    /// The ages of values on the sampled hits.
    ages: Box<StripedHistogram>,
}

impl Counters {
    /// Creates counters that are zero.
    pub(crate) fn new() -> Self {
        Self {
            stripes: Box::default(),
            load_times: Box::new(StripedHistogram::new()),
            ages: Box::new(StripedHistogram::new()),
        }
    }

    /// Increments a counter of this thread. Returns its new value.
    #[inline]
    pub(crate) fn add(&self, slot: ThreadSlot, count: Count) -> u64 {
        match self.stripes.own(slot) {
            Some(Stripe(counts)) => add_unshared(&counts[count as usize], 1),
            None => add_shared(&self.stripes.shared(slot).0[count as usize], 1),
        }
    }

    /// Like [`add`](Self::add), for callers that are not on the path of every hit.
    pub(crate) fn count(&self, count: Count) {
        self.add(ThreadSlot::current(), count);
    }

    /// Adds the age of a served value, for the thread with this slot.
    pub(crate) fn add_age(&self, slot: ThreadSlot, age: Duration) {
        self.ages.count(slot, age);
    }

    /// Counts a load like [`count_operation`](CountOperation::count_operation). If `is_short` is set, times it only if
    /// it is in the sample. `measure` reads the clock.
    #[inline(always)]
    pub(crate) fn count_sampled_load(
        &self,
        succeeded: bool,
        is_short: bool,
        measure: impl FnOnce() -> Duration,
    ) {
        let slot = ThreadSlot::current();
        self.load_times.count_load(slot, is_short, measure);
        if !succeeded {
            self.count(Count::LoadFailure);
        }
    }

    /// Returns a snapshot of the counters that are kept here.
    pub(crate) fn snapshot(&self) -> Stats {
        let sum = |count: Count| {
            let of_stripe = |stripe: &Stripe| stripe.0[count as usize].load(Relaxed);
            self.stripes.iter().map(of_stripe).sum()
        };
        Stats {
            hits: sum(Count::Hit),
            misses: sum(Count::Miss),
            loads: sum(Count::Load),
            load_failures: sum(Count::LoadFailure),
            coalesced: sum(Count::Coalesced),
            refreshes: sum(Count::Refresh),
            stale: sum(Count::Stale),
            queued: sum(Count::Queued),
            abandoned_loads: sum(Count::Abandoned),
            refused: sum(Count::Refused),
            outdated: sum(Count::Outdated),
            load_times: self.load_times.snapshot(),
            ages: self.ages.snapshot(),
            ..Stats::default()
        }
    }
}

/// Counts the run of a loader. A run that did not end has failed.
impl CountOperation for Counters {
    fn count_operation(&self, elapsed: Duration, outcome: Outcome) {
        self.load_times.count(ThreadSlot::current(), elapsed);
        if outcome != Outcome::Succeeded {
            self.count(Count::LoadFailure);
        }
    }
}

impl AllocatedBytes for Counters {
    fn allocated_bytes(&self) -> usize {
        let histograms = self.load_times.allocated_bytes() + self.ages.allocated_bytes();
        size_of_val(&*self.stripes) + histograms
    }
}

#[cfg(all(test, not(loom_models)))]
mod tests {
    use super::*;
    use crate::sync::thread_slot::tests::on_live_threads;

    #[test]
    fn counts_of_300_live_threads_are_exact_and_the_memory_is_bounded() {
        let counters = Counters::new();
        let count = || {
            let (slot, age) = (ThreadSlot::current(), Duration::from_millis(1_500));
            for _ in 0..1_000 {
                counters.add(slot, Count::Hit);
                counters.add_age(slot, age);
            }
        };
        on_live_threads(300, count);
        let (stats, allocated) = (counters.snapshot(), counters.allocated_bytes());
        assert_eq!((stats.hits, stats.ages.count()), (300_000, 300_000));
        assert_eq!(stats.ages.total(), Duration::from_secs(450_000));
        on_live_threads(600, count);
        assert_eq!(counters.snapshot().hits, 900_000);
        assert_eq!(counters.allocated_bytes(), allocated);
    }

    #[test]
    fn sum_returned_to_each_of_300_live_threads_is_the_number_of_its_hit_in_a_stripe() {
        let counters = Counters::new();
        let mut sums = on_live_threads(300, || {
            let slot = ThreadSlot::current();
            let stripe = counters
                .stripes
                .own(slot)
                .unwrap_or_else(|| counters.stripes.shared(slot));
            let stripe = std::ptr::from_ref(stripe) as usize;
            (0..100)
                .map(|_| (stripe, counters.add(slot, Count::Hit)))
                .collect::<Vec<_>>()
        })
        .concat();
        sums.sort_unstable();
        for sums in sums.chunk_by(|(first, _), (second, _)| first == second) {
            assert!(sums.iter().map(|&(_, sum)| sum).eq(1..=sums.len() as u64));
        }
    }
}
