//! The interface of a tiered cache for threads.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{LoadError, LoaderError};
use crate::single_flight::blocking::block_on;
use crate::tiered::{RemoteKey, RemoteValue, Rollout, TieredCache};
use crate::traits::erasure::{LoaderProperties, share, typed};
use equivalent::Equivalent;
use std::cell::Cell;
use std::fmt;
use std::future::{Future, ready};
use std::hash::Hash;

/// A handle to a [`TieredCache`] for threads, from [`TieredCache::blocking`]. It implements [`Cache`](crate::Cache).
///
/// # Panics
///
/// A method panics if it has to block and is called by a task. Tasks use the [`TieredCache`] itself.
///
/// # Blocking
///
/// A hit in L1 does not block. Other calls block the thread while calls to Redis run in the runtime in which the cache
/// was built. That runtime needs a thread of its own: it must have tokio's `multi_thread` flavor, or be driven by
/// another thread.
///
/// # Examples
///
/// ```
/// # use hotset::BlockingCache;
/// # fn fetch_price(name: &str) -> std::io::Result<u64> { Ok(120) }
/// # fn store_price(name: &str, price: u64) -> std::io::Result<()> { Ok(()) }
/// # fn example(prices: BlockingCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
/// use hotset::Cache;
///
/// let price = prices.get_or_load("apple", fetch_price)?;
/// prices.write_through("apple".to_string(), price + 10, |price| store_price("apple", *price))?;
/// # Ok(())
/// # }
/// ```
pub struct BlockingCache<K, V> {
    pub(super) tier: TieredCache<K, V>,
}

impl<K, V> Clone for BlockingCache<K, V> {
    fn clone(&self) -> Self {
        Self {
            tier: self.tier.clone(),
        }
    }
}

impl<K: RemoteKey, V: RemoteValue> BlockingCache<K, V> {
    pub(super) fn new(tier: TieredCache<K, V>) -> Self {
        Self { tier }
    }

    /// Blocks until `future` is ready. It is polled in the context of the runtime, but not as one of its tasks, because
    /// a loader may block, and may run another runtime.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = &self.tier.inner.runtime;
        // Panics if this is called by a task, whose thread must not be blocked.
        runtime.block_on(ready(()));
        let _entered = runtime.enter();
        block_on(&Cell::new(None), |_| future)
    }

    /// Returns the tiered cache, for its methods that do not block, such as [`health`](TieredCache::health) and
    /// [`tier_stats`](TieredCache::tier_stats).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(prices: hotset::BlockingCache<String, u64>) {
    /// for warning in prices.tiered().health().warnings {
    ///     eprintln!("{warning}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn tiered(&self) -> &TieredCache<K, V> {
        &self.tier
    }

    /// Returns the rollout of the cache, to change it while the cache is in use.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::BlockingCache;
    /// # fn example(prices: BlockingCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// prices.rollout().set_percent(50.0)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rollout(&self) -> &Rollout {
        self.tier.rollout()
    }

    /// Returns an estimate of the memory that L1 has allocated, in bytes, like [`TieredCache::memory_usage`].
    #[must_use]
    #[doc(alias = "memory_used")]
    pub fn memory_usage(&self) -> usize {
        self.tier.memory_usage()
    }

    /// Invalidates the value for a key, like [`TieredCache::invalidate`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::BlockingCache;
    /// # fn example(prices: BlockingCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # fn store_price(name: &str, price: u64) -> std::io::Result<()> { Ok(()) }
    /// store_price("apple", 130)?;
    /// prices.invalidate("apple");
    /// # Ok(())
    /// # }
    /// ```
    #[allow(clippy::must_use_candidate)]
    #[doc(alias("remove", "delete"))]
    pub fn invalidate<Q>(&self, key: &Q) -> Propagation
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        self.wait(self.tier.invalidate(key))
    }

    /// Invalidates all values that have this tag, like [`TieredCache::invalidate_tag`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::BlockingCache;
    /// # fn example(prices: BlockingCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// prices.invalidate_tag("fruit");
    /// # Ok(())
    /// # }
    /// ```
    #[allow(clippy::must_use_candidate)]
    pub fn invalidate_tag(&self, tag: &str) -> Propagation {
        self.wait(self.tier.invalidate_tag(tag))
    }

    /// Loads the value for `key` now, like [`TieredCache::refresh_async`]. `load` may block.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`TieredCache::refresh_async`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::BlockingCache;
    /// # fn fetch_price(name: &str) -> std::io::Result<u64> { Ok(120) }
    /// # fn example(prices: BlockingCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let price = prices.refresh("apple", fetch_price)?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "reload")]
    pub fn refresh<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(&Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |_, _| ready(share(load(key).map(Loaded::new)));
        typed(self.wait(self.tier.inner.refresh(key, loader, load)))
    }

    /// Like [`refresh`](Self::refresh), but `load` is given the current value, or `None` if there is no live one.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`TieredCache::refresh_async`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::BlockingCache;
    /// # fn fetch_page(old: Option<String>) -> std::io::Result<String> { Ok(old.unwrap_or_default()) }
    /// # fn example(pages: BlockingCache<String, String>) -> Result<(), Box<dyn std::error::Error>> {
    /// let page = pages.refresh_with("/", fetch_page)?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "reload")]
    pub fn refresh_with<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(Option<V>) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |_, current| ready(share(load(current).map(Loaded::new)));
        typed(self.wait(self.tier.inner.refresh(key, loader, load)))
    }

    /// Changes the database by `write`, which may block, and then the caches, like [`TieredCache::write_through`].
    ///
    /// # Errors
    ///
    /// Returns the error of `write`. The caches are not changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::BlockingCache;
    /// # fn example(prices: BlockingCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # fn store_price(name: &str, price: u64) -> std::io::Result<()> { Ok(()) }
    /// prices.write_through("apple".to_string(), 130, |price| store_price("apple", *price))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_through<E>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<Propagation, E> {
        self.write_through_loaded(key, Loaded::new(value), write)
    }

    /// Like [`write_through`](Self::write_through), for a value with its own time to live, weight and tags.
    ///
    /// # Errors
    ///
    /// See [`write_through`](Self::write_through).
    pub fn write_through_loaded<E>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<Propagation, E> {
        let write = |value: V| ready(write(&value));
        self.wait(self.tier.write_through_loaded(key, loaded, write))
    }
}

impl<K, V> fmt::Debug for BlockingCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockingCache").field(&self.tier).finish()
    }
}
