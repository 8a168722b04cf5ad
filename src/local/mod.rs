//! The cache in this process.

mod budget;
mod builder;
mod compute;
mod insert;
mod iter;
mod load;
mod lookup;
#[cfg(feature = "metrics")]
mod metrics;
mod removal;
mod shard;
#[cfg(feature = "snapshot")]
mod snapshot;
mod tags;
mod walk;
mod warm;

#[cfg(feature = "redis")]
pub(crate) use crate::local::compute::Promise;
#[cfg(feature = "redis")]
pub(crate) use crate::local::load::batch::BatchLookup;
#[cfg(feature = "tokio")]
pub use crate::local::load::detached::Detached;
#[cfg(all(feature = "metrics", feature = "redis"))]
pub(crate) use crate::local::metrics::{Loads, samples};
pub use builder::LocalCacheBuilder;
pub use iter::Iter;
pub use removal::RemovalCause;
#[cfg(feature = "snapshot")]
pub use snapshot::{RestoreReport, SnapshotReport};

use crate::error::{AnyError, LoadError};
use crate::local::load::Loader;
use crate::local::lookup::Sought;
use crate::local::shard::hash::KeyHash;
use crate::local::shard::metadata::Kinds;
use crate::policy::AnyPolicy;
use crate::single_flight::{Bulkhead, InFlightLoads};
use crate::stats::{Counters, Stats};
use crate::sync::read_biased_lock::ReadBiasedLock;
use crate::traits::{Cache, ErasedLoader};
use budget::Budget;
use builder::Settings;
use removal::Removals;
use shard::{Setup, Shard};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tags::Tags;

/// The hasher of a cache that was given none: foldhash, seeded at random.
pub type DefaultHasher = foldhash::fast::RandomState;

/// Shards are chosen by the top 16 bits of a hash.
pub(crate) const MAX_SHARDS: usize = 1 << 16;

/// A sharded cache in this process: LRU or another [`Policy`](crate::Policy), with a time to live for each entry, bounded
/// by entries or by weight.
///
/// A clone is another handle to the same cache, so share it by cloning.
///
/// A hit takes no exclusive lock and, but for the first few after a write to its shard, writes
/// nothing that another core reads. Methods may be called from any thread, also from removal
/// listeners, loaders and the `Drop` of keys and values: these run without a lock.
///
/// ```
/// use hotset::LocalCache;
/// use std::sync::Arc;
///
/// let profiles: LocalCache<u64, Arc<str>> = LocalCache::new(100_000);
/// let fetch = |id: &u64| Ok::<Arc<str>, std::io::Error>(format!("profile {id}").into());
///
/// let profile = profiles.get_or_load(&7, fetch)?;
/// assert_eq!(&*profile, "profile 7");
/// assert!(profiles.contains_key(&7));
/// # Ok::<(), hotset::LoadError<std::io::Error>>(())
/// ```
///
/// # Panics
///
/// `Clone`, `Eq` and `Hash` of keys and values, and the closure of [`get_with`](Self::get_with), run
/// inside the cache. They may read caches, but for an `Eq` that a write calls: if its read had to wait,
/// as for the very shard that is written to, it panics. Where one of them writes or loads, into this
/// cache or another, that call panics, since it could deadlock. A panic in any user code reaches the caller
/// and leaves the cache valid.
///
/// # Blocking
///
/// A read waits for a write to its shard that is under way, a write for reads and writes of its
/// shard; none of them for a loader. They wait for another shard in one case: where a write needs
/// room, its own shard is empty, and those that are not are all in use. Only
/// [`get_or_load`](Self::get_or_load) waits for loaders.
pub struct LocalCache<K, V, S = DefaultHasher> {
    inner: Arc<Inner<K, V, S>>,
}

struct Inner<K, V, S> {
    cells: Box<[ShardCell<K, V>]>,
    /// One less than the number of cells, a power of two.
    cell_mask: usize,
    /// Do entries have a deadline unless they are given none?
    expires: bool,
    /// Are there renewals, or old values that serve where a load fails?
    renews: bool,
    /// May one who leads a flight load at once, without a look at anything else?
    leads_at_once: bool,
    /// Which hits are looked at for the age of what they served: see `is_sampled`.
    samples_below: u64,
    hasher: S,
    settings: Settings<K, V>,
    counters: Counters,
    tags: Tags,
    bulkhead: Option<Arc<Bulkhead>>,
    bound: Bound,
    budget: Budget,
}

/// What the budget counts.
#[derive(Clone, Copy, PartialEq)]
enum Bound {
    Entries,
    Weight,
    None,
}

/// A shard with what is concurrent about it, on cache lines of its own.
#[repr(C, align(128))]
struct ShardCell<K, V> {
    shard: ReadBiasedLock<Shard<K, V>>,
    in_flight: InFlightLoads<K, V>,
}

/// Where a key belongs.
pub(crate) struct KeyLocation<'a, K, V> {
    cell: &'a ShardCell<K, V>,
    index: usize,
    hash: KeyHash,
}

impl<K, V, S> Clone for LocalCache<K, V, S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K: Eq + Hash, V> LocalCache<K, V> {
    /// A cache of at most `capacity` entries that do not expire, unless they are stored with a
    /// time to live of their own. [`builder`](Self::builder) sets up everything else.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::from_builder(Self::builder().capacity(capacity))
    }
}

impl<K, V> LocalCache<K, V> {
    /// Sets up a cache.
    ///
    /// ```
    /// use hotset::{BuildError, LocalCache};
    /// use std::time::Duration;
    ///
    /// let pages: LocalCache<String, Vec<u8>> = LocalCache::builder()
    ///     .max_weight(64 << 20)
    ///     .weigher(|url: &String, page: &Vec<u8>| (url.len() + page.len()) as u64)
    ///     .time_to_live(Duration::from_secs(3_600))
    ///     .build()?;
    ///
    /// let refused = LocalCache::<u32, u32>::builder().build();
    /// assert_eq!(refused.unwrap_err(), BuildError::NoBound);
    /// # Ok::<(), BuildError>(())
    /// ```
    pub fn builder() -> LocalCacheBuilder<K, V> {
        LocalCacheBuilder::new()
    }
}

/// How many shards a cache has that was not told: enough that writers seldom meet, but of at least
/// 64 entries, so that a small cache's LRU order does not fall to pieces.
fn default_shards(capacity: Option<usize>) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let by_cores = (cores * 4).next_power_of_two().min(MAX_SHARDS);
    match capacity {
        Some(capacity) => by_cores.min(1 << (capacity / 64).max(1).ilog2()),
        None => by_cores,
    }
}

/// So many that all entries have room in them, with some to spare, since keys do not spread evenly.
/// No more than room for billions, for one who says `usize::MAX` and means none of it.
fn least_shards(capacity: Option<usize>) -> usize {
    let of_half_size = shard::MAX_ENTRIES as usize / 2;
    let shards = capacity.unwrap_or(0).div_ceil(of_half_size);
    shards.min(1_024).next_power_of_two()
}

/// How many entries a shard holds, most likely, when all are full: keys do not spread evenly.
/// Four standard deviations; 0 if nobody knows.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
fn expected_entries(capacity: Option<usize>, shards: usize) -> usize {
    if shards == 1 {
        return capacity.unwrap_or(0);
    }
    let mean = capacity.unwrap_or(0) as f64 / shards as f64;
    (mean + 4.0 * mean.sqrt()).ceil() as usize
}

impl<K: Eq, V, S> LocalCache<K, V, S> {
    fn from_builder(builder: LocalCacheBuilder<K, V, S>) -> Self {
        let (bound, limit) = match (builder.capacity, builder.max_weight) {
            (Some(entries), _) => (Bound::Entries, entries as u64),
            (None, Some(weight)) => (Bound::Weight, weight),
            (None, None) => (Bound::None, u64::MAX),
        };
        let shards = match builder.shards {
            Some(shards) => shards.next_power_of_two(),
            None => default_shards(builder.capacity),
        };
        let shards = shards.max(least_shards(builder.capacity));
        let idle = builder.settings.time_to_idle;
        let idle = idle.map(crate::clock::saturating_nanos);
        let refresh = builder.settings.refresh();
        let tags = Tags::new();
        let choice = Arc::default();
        let cell = |index| {
            let setup = Setup {
                expected: expected_entries(builder.capacity, shards),
                kinds: Kinds {
                    weighted: bound == Bound::Weight,
                    time_to_idle: idle,
                    refresh,
                },
                grace: builder.settings.grace(),
                ages: builder.settings.tracks_ages,
                tag_epoch: tags.shared_epoch(),
                floor: builder.settings.forgets.then(|| tags.shared_floor()),
            };
            let policy = AnyPolicy::new(builder.policy, &choice, index, shards);
            ShardCell {
                shard: ReadBiasedLock::new(Shard::new(setup, policy)),
                in_flight: InFlightLoads::new(),
            }
        };
        let loads = builder.settings.max_concurrent_loads;
        let inner = Inner {
            cells: (0..shards).map(cell).collect(),
            cell_mask: shards - 1,
            expires: builder.settings.time_to_live.is_some() || idle.is_some() || refresh.is_some(),
            renews: refresh.is_some(),
            leads_at_once: loads.is_none() && builder.settings.stale_if_error.is_none(),
            samples_below: if builder.settings.tracks_ages {
                lookup::SAMPLES_BELOW
            } else {
                0
            },
            hasher: builder.hasher,
            bulkhead: loads.map(|loads| Arc::new(Bulkhead::new(loads, builder.settings.lease))),
            settings: builder.settings,
            counters: Counters::new(),
            tags,
            bound,
            budget: Budget::new(limit),
        };
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    #[inline]
    fn location<Q: Hash + ?Sized>(&self, key: &Q) -> KeyLocation<'_, K, V> {
        let hash = KeyHash(self.inner.hasher.hash_one(key));
        let index = hash.shard_bits() & self.inner.cell_mask;
        KeyLocation {
            cell: &self.inner.cells[index],
            index,
            hash,
        }
    }
}

impl<K, V, S> LocalCache<K, V, S> {
    /// How many entries are held, expired ones that have not been taken out yet included. Never
    /// above the capacity.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn len(&self) -> usize {
        match self.inner.bound {
            Bound::Weight => self.stats().entries as usize,
            Bound::Entries | Bound::None => self.inner.budget.used() as usize,
        }
    }

    /// Is nothing held?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weight() == 0
    }

    /// What the held entries weigh together; without a weigher, each weighs 1. Never above the
    /// budget.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.inner.budget.used()
    }

    /// The budget: a number of entries, or a weight if there is a weigher. `None` if unbounded.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        (self.inner.bound != Bound::None).then(|| self.inner.budget.limit())
    }

    /// What the cache is called, if it was named.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.inner.settings.name.as_deref()
    }

    /// What the cache has done and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.inner.counters.snapshot();
        for cell in &self.inner.cells {
            cell.shard.read(|shard| shard.add_to(&mut stats));
        }
        if let Some(bulkhead) = &self.inner.bulkhead {
            stats.abandoned_loads += bulkhead.abandoned().1;
        }
        stats.weight = self.inner.budget.used();
        stats
    }

    /// Checks what must hold while no call is under way, for tests.
    ///
    /// # Panics
    ///
    /// If something does not hold.
    #[doc(hidden)]
    pub fn validate(&self)
    where
        K: Eq,
    {
        let weight = self.inner.cells.iter().map(|cell| {
            assert_eq!(cell.in_flight.len(), 0, "a flight was left behind");
            cell.shard.read(Shard::validate)
        });
        assert_eq!(weight.sum::<u64>(), self.inner.budget.used());
        assert!(self.inner.budget.used() <= self.inner.budget.limit());
    }

    /// Where a write puts what leaves.
    fn removals(&self) -> Removals<'_, K, V> {
        Removals::new(self.inner.settings.listener.as_deref())
    }
}

/// A panic in user code leaves the cache valid, so it may be used on after one was caught.
impl<K, V, S> UnwindSafe for LocalCache<K, V, S> {}
impl<K, V, S> RefUnwindSafe for LocalCache<K, V, S> {}

impl<K, V, S> fmt::Debug for LocalCache<K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCache")
            .field("name", &self.name())
            .field("capacity", &self.capacity())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<K, V, S> Cache<K, V> for LocalCache<K, V, S>
where
    K: Eq + Hash + Clone + Send + Sync,
    V: Clone + Send + Sync,
    S: BuildHasher + Send + Sync,
{
    fn get(&self, key: &K) -> Option<V> {
        self.get(key)
    }

    fn insert(&self, key: K, value: V) {
        self.insert(key, value);
    }

    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) {
        self.insert_with_ttl(key, value, ttl);
    }

    fn remove(&self, key: &K) -> Option<V> {
        self.remove(key)
    }

    fn clear(&self) {
        self.clear();
    }

    #[cfg(feature = "metrics")]
    fn observed(&self) -> Option<crate::metrics::Observed>
    where
        Self: 'static,
    {
        crate::Watch::observed(self)
    }

    fn get_or_load_erased(
        &self,
        key: &K,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>> {
        let location = self.location(key);
        match self.seek(&location, key) {
            Sought::Live(value) => Ok(value),
            sought => self.load_blocking(&location, key, sought, Loader::ERASED, load),
        }
    }
}
