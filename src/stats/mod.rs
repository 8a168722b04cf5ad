//! Statistics: striped counters that cost a hit almost nothing, and snapshots of them.

pub(crate) mod histogram;
mod load_sampling;
#[cfg(feature = "serde")]
pub(crate) mod serialize;
mod stripes;
pub(crate) mod timer;

use crate::random::mix;
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
    /// Values that were served, live or not.
    Served,
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
#[repr(align(128))]
struct Stripe {
    counts: [AtomicU64; COUNTS],
    /// The number of the next served value whose age is sampled.
    next_sample: AtomicU64,
}

impl Default for Stripe {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            next_sample: AtomicU64::new(u64::MAX),
        }
    }
}

/// The number of served values in a stripe of which the age of one is sampled.
const SAMPLE_BLOCK: u64 = 64;

impl Stripe {
    /// Selects the served value whose age is sampled in the block of numbers from `begin` on. Its position in the block
    /// varies, because a caller that requests the same keys in turn could otherwise have the same key sampled each
    /// time.
    fn select_sample(&self, begin: u64) {
        let position = mix(begin) % SAMPLE_BLOCK;
        self.next_sample.store(begin + position, Relaxed);
    }
}

/// The counters of one cache.
pub(crate) struct Counters {
    stripes: Box<Stripes<Stripe>>,
    /// The run times of loaders.
    load_times: Box<StripedHistogram>,
    /// The ages of values on the sampled hits.
    ages: Box<StripedHistogram>,
}

impl Counters {
    /// Creates counters that are zero. If `samples_ages` is set, the ages of some of the served values are sampled.
    pub(crate) fn new(samples_ages: bool) -> Self {
        let stripes = Box::<Stripes<Stripe>>::default();
        if samples_ages {
            for stripe in stripes.iter() {
                stripe.select_sample(0);
            }
        }
        Self {
            stripes,
            load_times: Box::new(StripedHistogram::new()),
            ages: Box::new(StripedHistogram::new()),
        }
    }

    /// Increments a counter of this thread. Returns its new value.
    #[inline]
    pub(crate) fn add(&self, slot: ThreadSlot, count: Count) -> u64 {
        self.add_to_stripe(slot, count).0
    }

    /// Counts a served value. Returns `true` if its age is to be sampled, which is so for one value in 64.
    #[inline(always)]
    pub(crate) fn add_served(&self, slot: ThreadSlot) -> bool {
        let (number, stripe) = self.add_to_stripe(slot, Count::Served);
        let is_sampled = number >= stripe.next_sample.load(Relaxed);
        if is_sampled {
            stripe.select_sample((number / SAMPLE_BLOCK + 1) * SAMPLE_BLOCK);
        }
        is_sampled
    }

    /// Increments a counter of this thread. Returns its new value and its stripe.
    #[inline(always)]
    fn add_to_stripe(&self, slot: ThreadSlot, count: Count) -> (u64, &Stripe) {
        if let Some(stripe) = self.stripes.own(slot) {
            (add_unshared(&stripe.counts[count as usize], 1), stripe)
        } else {
            let stripe = self.stripes.shared(slot);
            (add_shared(&stripe.counts[count as usize], 1), stripe)
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
            let of_stripe = |stripe: &Stripe| stripe.counts[count as usize].load(Relaxed);
            self.stripes.iter().map(of_stripe).sum()
        };
        let served: u64 = sum(Count::Served);
        let stale = sum(Count::Stale);
        Stats {
            // A stale value that is being served may be counted as such only.
            hits: served.saturating_sub(stale),
            misses: sum(Count::Miss),
            loads: sum(Count::Load),
            load_failures: sum(Count::LoadFailure),
            coalesced: sum(Count::Coalesced),
            refreshes: sum(Count::Refresh),
            stale,
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
    use crate::stats::histogram::AtomicHistogram;
    use crate::sync::thread_slot::tests::on_live_threads;

    #[test]
    fn counts_of_300_live_threads_are_exact_and_the_memory_is_bounded() {
        let counters = Counters::new(false);
        let count = || {
            let (slot, age) = (ThreadSlot::current(), Duration::from_millis(1_500));
            for _ in 0..1_000 {
                counters.add(slot, Count::Served);
                counters.add_age(slot, age);
            }
        };
        on_live_threads(300, count);
        let stats = counters.snapshot();
        assert_eq!((stats.hits, stats.ages.count()), (300_000, 300_000));
        assert_eq!(stats.ages.total(), Duration::from_secs(450_000));
        on_live_threads(600, count);
        assert_eq!(counters.snapshot().hits, 900_000);
        // Which stripes are allocated depends on the slots of these threads, and thus on tests that run meanwhile.
        let stripes = counters.stripes.iter().count();
        let histograms = 2 * size_of::<StripedHistogram>() + stripes * size_of::<AtomicHistogram>();
        assert!(counters.allocated_bytes() <= size_of_val(&*counters.stripes) + histograms);
    }

    #[test]
    fn sum_returned_to_each_of_300_live_threads_is_the_number_of_its_hit_in_a_stripe() {
        let counters = Counters::new(false);
        let mut sums = on_live_threads(300, || {
            let slot = ThreadSlot::current();
            let stripe = counters
                .stripes
                .own(slot)
                .unwrap_or_else(|| counters.stripes.shared(slot));
            let stripe = std::ptr::from_ref(stripe) as usize;
            (0..100)
                .map(|_| (stripe, counters.add(slot, Count::Served)))
                .collect::<Vec<_>>()
        })
        .concat();
        sums.sort_unstable();
        for sums in sums.chunk_by(|(first, _), (second, _)| first == second) {
            assert!(sums.iter().map(|&(_, sum)| sum).eq(1..=sums.len() as u64));
        }
    }
}
