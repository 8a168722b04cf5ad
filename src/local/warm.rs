//! Warming a cache from its source.

use crate::entry::Loaded;
use crate::error::LoaderError;
use crate::local::{Bound, LocalCache};
use crate::warm::{Room, Run, WarmOptions, WarmReport, run_all};
use std::future::Future;
use std::hash::{BuildHasher, Hash};

/// The number of keys after which a weighted cache that is still empty counts as full.
const MAX_KEYS_WITHOUT_ENTRY: u64 = 10_000;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Loads the keys that are not cached yet, in batches like [`get_many_or_load`](Self::get_many_or_load), until the
    /// cache is full.
    ///
    /// `keys` may be lazy and endless, because keys are taken as they are needed. Give the most important ones first,
    /// and each once. The first ones are stored first, so they are also the first to be evicted by later insertions,
    /// unless they were hit since. If all keys fit in any case, give the most important ones last. (A snapshot is
    /// restored in the right order.)
    ///
    /// `load` has the contract of `get_many_or_load`: loads are merged, `max_concurrent_loads` holds, and invalidations
    /// prevail, so the cache may be in use meanwhile. A batch that fails does not stop the others.
    /// [`Stats`](crate::Stats) counts the lookups as hits and misses.
    ///
    /// Warming ends when there is no room for more entries, including those that other callers load meanwhile. In a
    /// weighted cache, the room is estimated by the average weight of the cached entries. While there are none, a batch
    /// has one key. So warming evicts few or none of its own entries, if later entries weigh about the same.
    ///
    /// Warming also ends when it has found as many keys as the cache has room for, or 10,000 if a weighted cache is
    /// empty even then: values that are not stored, because of their weight or a time to live of zero, do not make it
    /// endless. An unbounded cache has room for all keys. If endless keys may all fail or be left out, use
    /// [`WarmOptions::stop_after_failures`] or end the iterator.
    ///
    /// # Panics
    ///
    /// Panics if `load` or the iterator does. The entries that were loaded before stay cached.
    ///
    /// # Blocking
    ///
    /// Loads on this thread, one batch after the other.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let report = prices.warm(0..500, |ids| {
    ///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// });
    /// assert_eq!((report.found, prices.len()), (500, 500));
    /// ```
    pub fn warm<T, L, E, M>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> WarmReport<K, E>
    where
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        self.warm_with(WarmOptions::new(), keys, load)
    }

    /// Like [`warm`](Self::warm), but with the given options.
    ///
    /// # Panics
    ///
    /// Panics like [`warm`](Self::warm), and if the listener of progress panics.
    ///
    /// # Blocking
    ///
    /// Blocks like [`warm`](Self::warm).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, WarmOptions};
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let report = prices.warm_with(WarmOptions::new().batch(10), 0..100, |ids| {
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// });
    /// assert_eq!((report.found, prices.stats().loads), (100, 10));
    /// ```
    pub fn warm_with<T, L, E, M>(
        &self,
        options: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
        mut load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> WarmReport<K, E>
    where
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        let load = |batch: &[K]| self.get_many_loaded(batch, &mut load);
        Run::new(options, keys).run_blocking(|| self.room(), load)
    }

    /// Like [`warm`](Self::warm), but for tasks on any runtime, and with several batches at one time.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. The entries that were loaded until then stay cached.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use hotset::LocalCache;
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let report = prices.warm_async(0..100, async |ids| {
    ///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// });
    /// assert_eq!(report.await.found, 100);
    /// # }
    /// ```
    pub async fn warm_async<T, L, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        self.warm_with_async(WarmOptions::new(), keys, load).await
    }

    /// Like [`warm_async`](Self::warm_async), but with the given options.
    ///
    /// # Cancel safety
    ///
    /// See [`warm_async`](Self::warm_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use hotset::{LocalCache, WarmOptions};
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let options = WarmOptions::new().batch(10).concurrency(2);
    /// let report = prices.warm_with_async(options, 0..100, async |ids| {
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// });
    /// assert_eq!(report.await.found, 100);
    /// assert_eq!(prices.stats().loads, 10);
    /// # }
    /// ```
    pub async fn warm_with_async<T, L, E, F, M>(
        &self,
        options: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
        load: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        let load = &load;
        let load_batch = |batch: Vec<K>| async move {
            let result = self.get_many_loaded_async(&batch, load).await;
            (batch, result)
        };
        run_all(Run::new(options, keys), || self.room(), load_batch).await
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    /// Returns the room for further entries. In a full cache, removes dead entries first.
    pub(crate) fn room(&self) -> Room {
        let room = self.current_room();
        if room.free == 0 && self.remove_expired() > 0 {
            return self.current_room();
        }
        room
    }

    /// Returns the room for further entries, as an estimate in a weighted cache.
    fn current_room(&self) -> Room {
        let budget = &self.inner.budget;
        let (free, all) = (budget.left(), budget.limit());
        if self.inner.bound != Bound::Weight {
            let weighed = None;
            return Room { free, all, weighed };
        }
        let (entries, weight) = (self.len() as u64, self.weight());
        // By the average weight of the entries.
        let room_for = |room: u64| {
            let estimate = u128::from(room) * u128::from(entries) / u128::from(weight.max(1));
            u64::try_from(estimate).unwrap_or(u64::MAX)
        };
        let (free, all) = match entries {
            0 => (free, all.min(MAX_KEYS_WITHOUT_ENTRY)),
            _ => (room_for(free), room_for(all)),
        };
        let weighed = Some(entries);
        Room { free, all, weighed }
    }
}
