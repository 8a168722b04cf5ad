//! The in-process cache.

mod budget;
mod build;
mod builder;
mod compute;
mod get;
mod get_many;
mod info;
mod insert;
mod iter;
mod load;
mod lookup;
#[cfg(feature = "metrics")]
mod metrics;
mod removal;
mod remove;
mod resize;
#[cfg(feature = "snapshot")]
mod restore;
pub(crate) mod settings;
mod shard;
#[cfg(feature = "snapshot")]
mod snapshot;
mod tags;
#[cfg(feature = "redis")]
pub(crate) mod tier_hooks;
mod traits;
mod walk;
mod warm;
mod write_through;

#[cfg(feature = "tokio")]
pub use crate::local::load::detached::Detached;
pub use builder::LocalCacheBuilder;
pub use info::validate;
pub use iter::{Iter, Keys};
pub use removal::RemovalCause;
#[cfg(feature = "snapshot")]
pub use restore::RestoreReport;
#[cfg(feature = "snapshot")]
pub use snapshot::SnapshotReport;

use crate::local::budget::Budget;
use crate::local::removal::Removals;
use crate::local::settings::Settings;
use crate::local::shard::Shard;
use crate::local::shard::hash::KeyHash;
use crate::local::tags::Tags;
use crate::single_flight::{Bulkhead, InFlightLoads};
use crate::stats::Counters;
use crate::sync::read_biased_lock::ReadBiasedLock;
use std::hash::{BuildHasher, Hash, Hasher};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

/// The default hasher of a cache: ahash with a random seed, or with a fixed one on `wasm32-unknown-unknown`.
pub type DefaultHasher = ahash::RandomState;

/// A concurrent, sharded, bounded, in-process cache with per-entry expiration.
///
/// Entries are evicted in LRU order or by another [`Policy`](crate::Policy). The bound is a number of entries or a
/// total weight.
///
/// A clone is another handle to the same cache, so share it by cloning.
///
/// A hit acquires no exclusive lock. Except for the first few hits after a write to its shard, it writes no memory that
/// another core reads. If the process has more than 64 threads that use caches, the others share counters of the
/// statistics.
///
/// All methods may be called from any thread, and also by removal listeners, by loaders, and by the `Drop` of keys and
/// values, all of which run with no lock held.
///
/// # Panics
///
/// `Clone`, `Eq` and `Hash` of keys and values, and the closure of [`get_with`](Self::get_with), run inside the cache.
/// This code may read caches, with one exception: an `Eq` that a write calls panics if its read would have to wait, for
/// instance because it reads the shard that is written to. If this code writes to a cache or loads, in this cache or
/// another one, it panics, because it could deadlock. A panic in user code reaches the caller and leaves the cache
/// valid.
///
/// # Blocking
///
/// A read waits for a write to its shard that is in progress. A write waits for reads and writes of its shard. Neither
/// waits for a loader. A write waits for another shard only if it needs room, its own shard is empty, and all shards
/// that are not empty are in use. Only the methods that take a loader, such as [`get_or_load`](Self::get_or_load), wait
/// for loaders.
///
/// # Examples
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
pub struct LocalCache<K, V, S = DefaultHasher> {
    inner: Arc<Inner<K, V, S>>,
}

struct Inner<K, V, S> {
    /// The shards. Their number is a power of two.
    cells: Box<[ShardCell<K, V>]>,
    /// The number of shards, minus one.
    cell_mask: usize,
    /// `true` if most hits need the time: if the cache has a time to live, a time to idle, or rules for refreshes.
    expires: bool,
    /// `true` if live entries are refreshed, or expired values are served when a load fails.
    has_refresh_rules: bool,
    insertions: Insertions,
    /// `true` if a leader may load at once, without a permit and without another lookup.
    leads_at_once: bool,
    hasher: S,
    settings: Settings<K, V>,
    counters: Counters,
    tags: Tags,
    bulkhead: Option<Arc<Bulkhead>>,
    bound: Bound,
    budget: Budget,
}

/// The work that insertions need.
#[derive(Clone, Copy, PartialEq)]
enum Insertions {
    /// No optional setting affects them: there is no listener, no weigher, no rule of expiration, no time to idle and
    /// no rule for refreshes.
    Plain,
    General,
}

/// The unit of the budget.
#[derive(Clone, Copy, PartialEq)]
enum Bound {
    Entries,
    Weight,
    None,
}

/// A shard with its lock and its loads in flight. It shares no cache line with another shard.
#[repr(C, align(128))]
struct ShardCell<K, V> {
    shard: ReadBiasedLock<Shard<K, V>>,
    in_flight: InFlightLoads<K, V>,
}

/// The shard of a key, and the key's hash.
pub(crate) struct KeyLocation<'a, K, V> {
    cell: &'a ShardCell<K, V>,
    hash: KeyHash,
}

impl<K, V> Clone for KeyLocation<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for KeyLocation<'_, K, V> {}

impl<K, V, S> Clone for LocalCache<K, V, S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K: Eq + Hash, V> LocalCache<K, V> {
    /// Creates a cache of at most `capacity` entries.
    ///
    /// An entry expires only if it is stored with its own time to live. Use [`builder`](Self::builder) for all other
    /// settings.
    ///
    /// # Examples
    ///
    /// ```
    /// let cache = hotset::LocalCache::new(1_000);
    /// cache.insert("apple", 120);
    /// assert_eq!(cache.capacity(), Some(1_000));
    /// ```
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::from_builder(Self::builder().capacity(capacity))
    }
}

impl<K, V> LocalCache<K, V> {
    /// Returns a builder with the default settings.
    ///
    /// # Examples
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
    #[doc(alias("with_options", "newBuilder"))]
    pub fn builder() -> LocalCacheBuilder<K, V> {
        LocalCacheBuilder::new()
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Returns the hash of a key.
    #[inline]
    #[allow(clippy::manual_hash_one)]
    fn hash_of<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        // Not by `hash_one`, which a hasher may specialize for the type of the key. A `DynKey` has the hash of its key.
        let mut hasher = self.inner.hasher.build_hasher();
        key.hash(&mut hasher);
        hasher.finish()
    }

    /// Returns the shard and the hash of a key.
    #[inline]
    fn location<Q: Hash + ?Sized>(&self, key: &Q) -> KeyLocation<'_, K, V> {
        let hash = KeyHash(self.hash_of(key));
        KeyLocation {
            cell: &self.inner.cells[self.inner.shard_index(hash)],
            hash,
        }
    }
}

impl<K, V, S> Inner<K, V, S> {
    /// Returns the index of the shard of a hash.
    #[inline]
    fn shard_index(&self, hash: KeyHash) -> usize {
        hash.shard_bits() & self.cell_mask
    }
}

impl<K, V, S> LocalCache<K, V, S> {
    /// Creates an empty list for the entries that a write removes.
    fn removals(&self) -> Removals<'_, K, V> {
        Removals::new(self.inner.settings.listener.as_deref())
    }
}

/// A panic in user code leaves the cache valid, so the cache may be used after the panic is caught.
impl<K, V, S> UnwindSafe for LocalCache<K, V, S> {}
impl<K, V, S> RefUnwindSafe for LocalCache<K, V, S> {}
