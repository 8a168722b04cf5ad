//! The front for threads.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::single_flight::blocking::block_on;
use crate::tiered::write::Delivery;
use crate::tiered::{RemoteKey, RemoteValue, Rollout, TieredCache};
use crate::traits::erasure::ErrorType;
use crate::traits::{AsyncCache, Cache, ErasedLoader};
use std::cell::Cell;
use std::fmt;
use std::future::{Future, ready};
use std::time::Duration;

/// A [`TieredCache`] for threads, from [`TieredCache::blocking`]: a [`Cache`].
///
/// # Blocking
///
/// Hits in L1 do not block. What asks Redis blocks the thread, and what it asks runs in the runtime
/// in which the cache was built, which needs a thread of its own for that: it must be of tokio's
/// `multi_thread` flavor, or be driven by another thread.
///
/// # Panics
///
/// Where it would have to block, if it is called by a task: tasks use the [`TieredCache`] itself.
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

    /// In the runtime's context, but not as one of its tasks: a loader may block, and run another
    /// runtime.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        let runtime = &self.tier.inner.runtime;
        // Panics where it is called by a task, whose thread must not be blocked.
        runtime.block_on(ready(()));
        let _entered = runtime.enter();
        block_on(&Cell::new(None), |_| future)
    }

    /// As [`TieredCache::invalidate`].
    #[allow(clippy::must_use_candidate)]
    pub fn invalidate(&self, key: &K) -> Delivery {
        self.wait(self.tier.invalidate(key))
    }

    /// As [`TieredCache::invalidate_tag`].
    #[allow(clippy::must_use_candidate)]
    pub fn invalidate_tag(&self, tag: &str) -> Delivery {
        self.wait(self.tier.invalidate_tag(tag))
    }

    /// As [`TieredCache::write_through`], with a `write` that blocks.
    ///
    /// # Errors
    ///
    /// What `write` fails with; the caches are then left as they are.
    pub fn write_through<E>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<Delivery, E> {
        let write = |value: V| ready(write(&value));
        self.wait(self.tier.write_through(key, value, write))
    }
}

impl<K: RemoteKey, V: RemoteValue> Cache<K, V> for BlockingCache<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        match self.tier.inner.get_local(key) {
            Some(value) => Some(value),
            None => self.wait(self.tier.inner.look_up(key)),
        }
    }

    fn insert(&self, key: K, value: V) {
        self.wait(self.tier.insert(key, value));
    }

    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) {
        self.wait(self.tier.insert_loaded(key, Loaded::new(value).ttl(ttl)));
    }

    /// Returns what L1 held.
    fn remove(&self, key: &K) -> Option<V> {
        self.wait(AsyncCache::remove(&self.tier, key))
    }

    fn clear(&self) {
        self.wait(self.tier.clear());
    }

    fn rollout(&self) -> Option<&Rollout> {
        Some(self.tier.rollout())
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
        let inner = &self.tier.inner;
        if let Some(value) = inner.get_local(key) {
            return Ok(value);
        }
        let load = || ready(load(key).map_err(LoadError::Failed));
        self.wait(inner.get_or_fetch(key, ErrorType::ANY, load))
    }
}

impl<K, V> fmt::Debug for BlockingCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BlockingCache").field(&self.tier).finish()
    }
}
