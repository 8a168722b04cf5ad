//! Statistics: counters that cost a hit next to nothing, and the snapshot that one reads.

use crate::thread_slot::{SLOTS, ThreadSlot};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a cache has done so far, and what it holds: a snapshot.
///
/// They are read one after the other and shard by shard while the cache goes on, so a sum over
/// several may be off by what happened meanwhile. While nothing happens all are exact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Lookups that found a live entry.
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Loaders that were run.
    pub loads: u64,
    /// Loaders that returned an error or panicked.
    pub load_failures: u64,
    /// Callers who missed, and got what another caller's load had found.
    pub coalesced: u64,
    /// Loaders that were run for an entry that was alive, to renew it.
    pub renewals: u64,
    /// Callers who were served an expired value, since the load failed or had failed lately.
    pub stale: u64,
    /// Loads that had to wait for others to end, for want of a permit.
    pub queued: u64,
    /// How long loaders took, failed ones included.
    pub load_times: LoadTimes,
    /// Entries stored, replacements included.
    pub inserts: u64,
    /// Values not stored: heavier than the whole budget, or with a time to live of zero.
    pub refused: u64,
    /// Loads whose value was not stored, and steps of `update` and `retain` taken again, since the
    /// key was written or removed meanwhile.
    pub outdated: u64,
    /// Entries that gave way to a new value of their key.
    pub replaced: u64,
    /// Entries taken out by `remove`, `retain` or `update`.
    pub removed: u64,
    /// Entries that were found past their deadline and taken out.
    pub expired: u64,
    /// Entries that gave way to others for want of room.
    pub evicted: u64,
    /// Entries taken out by `clear`.
    pub cleared: u64,
    /// Entries taken out since a tag of theirs was invalidated.
    pub invalidated: u64,
    /// Entries held now, expired ones that have not been taken out yet included.
    pub entries: u64,
    /// What they weigh. Without a weigher, each weighs 1.
    pub weight: u64,
}

impl Stats {
    /// The share of lookups that found a live entry, from 0 to 1; 0 before the first lookup.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
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

/// A histogram of durations from 1 microsecond to 18 minutes, each bucket at most a quarter wide.
#[derive(Clone, PartialEq, Eq)]
pub struct LoadTimes {
    total: Duration,
    buckets: Box<[u64]>,
}

/// Buckets are 4 to a power of two; the first holds everything below 2^10 ns, the last everything
/// from 2^40 ns on.
const SUB_BUCKETS: u32 = 4;
const FIRST_POWER: u32 = 10;
const LAST_POWER: u32 = 40;
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

impl LoadTimes {
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
    /// zero if there is none, `Duration::MAX` if it is above 18 minutes.
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

impl Default for LoadTimes {
    fn default() -> Self {
        Self {
            total: Duration::ZERO,
            buckets: vec![0; BUCKETS].into(),
        }
    }
}

impl fmt::Debug for LoadTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadTimes")
            .field("count", &self.count())
            .field("total", &self.total)
            .field("p50", &self.percentile(50.0))
            .field("p99", &self.percentile(99.0))
            .finish_non_exhaustive()
    }
}

/// What is counted outside a shard's lock. Writes count in their shard, under its lock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    Hit,
    Miss,
    Load,
    LoadFailure,
    Coalesced,
    Renewal,
    Stale,
    Queued,
    Refused,
    Outdated,
}

const COUNTS: usize = Count::Outdated as usize + 1;

/// A cache line (two, for those that are fetched in pairs) that one thread writes.
#[derive(Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; COUNTS]);

/// How long loads took, in nanoseconds, as counted by one thread.
struct LoadStripe {
    total: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// Adds to a counter that no other thread writes, so that there is no update to lose.
#[inline]
fn add_alone(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

#[cold]
fn add_shared(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}

/// The counters of one cache, one stripe a thread, and one that all further threads share.
pub(crate) struct Counters {
    stripes: Box<[Stripe; SLOTS]>,
    /// Of all threads without a slot of their own.
    shared: Stripe,
    /// Only threads that load have one: they are large.
    load_stripes: Box<[OnceLock<Box<LoadStripe>>; SLOTS + 1]>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            stripes: Box::new(std::array::from_fn(|_| Stripe::default())),
            shared: Stripe::default(),
            load_stripes: Box::new(std::array::from_fn(|_| OnceLock::new())),
        }
    }

    #[inline]
    pub(crate) fn add(&self, slot: ThreadSlot, count: Count) {
        match self.stripes.get(slot.index()) {
            Some(Stripe(counts)) => add_alone(&counts[count as usize], 1),
            None => add_shared(&self.shared.0[count as usize], 1),
        }
    }

    /// As [`add`](Self::add), for where it is not called on every hit.
    pub(crate) fn count(&self, count: Count) {
        self.add(ThreadSlot::current(), count);
    }

    pub(crate) fn add_load_time(&self, elapsed: Duration) {
        let slot = ThreadSlot::current();
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let stripe = self.load_stripes[slot.index()].get_or_init(|| {
            Box::new(LoadStripe {
                total: AtomicU64::new(0),
                buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            })
        });
        let add = if slot.index() < SLOTS {
            add_alone
        } else {
            add_shared
        };
        add(&stripe.total, nanos);
        add(&stripe.buckets[bucket_of(nanos)], 1);
    }

    fn load_times(&self) -> LoadTimes {
        let mut times = LoadTimes::default();
        for stripe in self.load_stripes.iter().filter_map(OnceLock::get) {
            times.total += Duration::from_nanos(stripe.total.load(Relaxed));
            for (sum, bucket) in times.buckets.iter_mut().zip(&stripe.buckets) {
                *sum += bucket.load(Relaxed);
            }
        }
        times
    }

    /// The part of a snapshot that is counted here.
    pub(crate) fn snapshot(&self) -> Stats {
        let sum = |count: Count| {
            let of_stripe = |stripe: &Stripe| stripe.0[count as usize].load(Relaxed);
            let stripes = self.stripes.iter().chain([&self.shared]);
            stripes.map(of_stripe).sum()
        };
        Stats {
            hits: sum(Count::Hit),
            misses: sum(Count::Miss),
            loads: sum(Count::Load),
            load_failures: sum(Count::LoadFailure),
            coalesced: sum(Count::Coalesced),
            renewals: sum(Count::Renewal),
            stale: sum(Count::Stale),
            queued: sum(Count::Queued),
            refused: sum(Count::Refused),
            outdated: sum(Count::Outdated),
            load_times: self.load_times(),
            ..Stats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

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
    fn percentiles_are_within_a_quarter() {
        let counters = Counters::new();
        for micros in 1..=1_000 {
            counters.add_load_time(Duration::from_micros(micros));
        }
        let times = counters.snapshot().load_times;
        assert_eq!(times.count(), 1_000);
        assert_eq!(times.mean(), Duration::from_nanos(500_500));
        for (percent, exact) in [(50.0, 500), (99.0, 990), (100.0, 1_000)] {
            let (found, exact) = (times.percentile(percent), Duration::from_micros(exact));
            assert!(
                found >= exact && found <= exact * 5 / 4,
                "{percent}: {found:?}"
            );
        }
        assert_eq!(LoadTimes::default().percentile(50.0), Duration::ZERO);
    }

    #[test]
    fn no_count_is_lost_with_more_threads_than_stripes() {
        let counters = Counters::new();
        let threads = SLOTS + 16;
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..1_000).for_each(|_| counters.count(Count::Hit)));
            }
        });
        assert_eq!(counters.snapshot().hits, threads as u64 * 1_000);
    }
}
