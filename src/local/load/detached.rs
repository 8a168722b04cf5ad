//! Loads that run in separate tasks.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::local::load::{PermittedLeader, ValueOrLead};
use crate::local::lookup::Lookup;
use crate::local::shard::hash::KeyHash;
use crate::local::{DefaultHasher, KeyLocation, LocalCache};
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{Pending, SuspendedLeader, is_loading};
use crate::traits::erasure::{LoadResult, LoaderProperties, share_entry, share_value, typed};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// A view of a cache whose loads run in separate tasks, from [`LocalCache::detached`].
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
/// # async fn fetch_price(name: String) -> std::io::Result<u64> { Ok(120) }
/// use hotset::LocalCache;
///
/// let prices: LocalCache<String, u64> = LocalCache::new(1_000);
/// // The query continues if this future is dropped.
/// let price = prices.detached().get_or_load_async("apple", fetch_price).await?;
/// assert_eq!(price, 120);
/// # Ok(())
/// # }
/// ```
pub struct Detached<'a, K, V, S = DefaultHasher>(&'a LocalCache<K, V, S>);

impl<K, V, S> LocalCache<K, V, S> {
    /// Returns a view of this cache whose loads continue when their caller is dropped.
    ///
    /// So the query of a cancelled request is not wasted, and other callers that wait for it need not start another
    /// one. Entries that are due for a [refresh](crate::LocalCacheBuilder::refresh_after) are refreshed in the
    /// background, so that no caller waits.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[derive(Clone)]
    /// # struct Database;
    /// # impl Database {
    /// #     async fn fetch_price(&self, id: u64) -> std::io::Result<u64> { Ok(id * 100) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// # let db = Database;
    /// let prices: hotset::LocalCache<u64, u64> = hotset::LocalCache::new(1_000);
    /// let fetch = {
    ///     let db = db.clone();
    ///     move |id| async move { db.fetch_price(id).await }
    /// };
    /// assert_eq!(prices.detached().get_or_load_async(&7, fetch).await?, 700);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    #[doc(alias = "executor")]
    pub fn detached(&self) -> Detached<'_, K, V, S> {
        Detached(self)
    }
}

impl<K, V, S> Detached<'_, K, V, S>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Send + Sync + 'static,
{
    /// Like [`LocalCache::get_or_load_async`], but runs the load in a separate task, so `load` must own all values that
    /// it uses. A load within a load runs in the task of the outer load.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::get_or_load_async`], and [`Shutdown`](LoadError::Shutdown) if the
    /// runtime is shut down before the load has ended.
    ///
    /// # Panics
    ///
    /// Panics if it has to load and is not called in a tokio runtime. A panic of the loader reaches this caller, unless
    /// the caller was dropped.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. A load that it has begun continues.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn fetch_price(name: String) -> std::io::Result<u64> { Ok(120) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// let prices: hotset::LocalCache<String, u64> = hotset::LocalCache::new(1_000);
    /// assert_eq!(prices.detached().get_or_load_async("apple", fetch_price).await?, 120);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("try_get_with", "AsyncLoadingCache"))]
    pub async fn get_or_load_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F + Send + 'static,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>> + Send + 'static,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |key| async { share_value(load(key)).await };
        typed(self.get_or_load_shared(key, loader, load).await)
    }

    /// Like [`get_or_load_async`](Self::get_or_load_async), but `load` returns a [`Loaded`], which has its own time to
    /// live, weight and tags.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Cancel safety
    ///
    /// See [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let load = |id| async move {
    ///     Ok::<_, std::io::Error>(Loaded::new(id * 100).ttl(Duration::from_secs(60)))
    /// };
    /// assert_eq!(prices.detached().get_or_load_entry_async(&7, load).await?, 700);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("try_get_with", "or_try_insert_with"))]
    pub async fn get_or_load_entry_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F + Send + 'static,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<Loaded<V>, E>> + Send + 'static,
        E: LoaderError<M>,
    {
        let loader = LoaderProperties::new::<E, _>(&load);
        let load = |key| async { share_entry(load(key)).await };
        typed(self.get_or_load_shared(key, loader, load).await)
    }

    /// Returns the value for a key, for a loader whose result is in shared form already.
    async fn get_or_load_shared<Q, F>(
        &self,
        key: &Q,
        loader: LoaderProperties,
        load: impl FnOnce(K) -> F + Send + 'static,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>> + Send + 'static,
    {
        let location = self.0.location(key);
        match self.0.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            Lookup::NeedsRefresh(value) => {
                // A loader that calls the cache starts no refresh, because its loads run in its own task and would
                // delay it.
                let may_refresh = !is_loading();
                let leader = may_refresh.then(|| self.0.begin_refresh(&location, key));
                if let Some(leader) = leader.flatten() {
                    self.spawn_load(&location, key.to_key(), leader, load);
                }
                Ok(value)
            }
            // Boxed, so that this future stays small whatever the loader's size.
            lookup => Box::pin(self.load(location, key, (lookup, loader), load)).await,
        }
    }

    /// Completes `get_or_load_async` if the lookup was not a hit.
    async fn load<'a, Q, F>(
        &self,
        location: KeyLocation<'a, K, V>,
        key: &Q,
        (lookup, loader): (Lookup<'a, K, V>, LoaderProperties),
        load: impl FnOnce(K) -> F + Send + 'static,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>> + Send + 'static,
    {
        let mut timer = TaskTimer::default();
        let mut limits = self.0.wait_limits();
        let leader = match self
            .0
            .value_or_lead(&location, key, lookup, loader, &mut timer)
            .await?
        {
            ValueOrLead::Value(value) => return Ok(value),
            ValueOrLead::Lead(leader) => leader,
            ValueOrLead::LeadUnshared(reentry) => {
                let load = || load(key.to_key());
                return self.0.run_unshared(&reentry, loader, load).await;
            }
        };
        if is_loading() {
            let load = || load(key.to_key());
            return self.0.run(&location, key, leader, loader, load).await;
        }
        // The caller accepts an expired value at the end of its load's lease, or at `stale_from` if that is earlier.
        let lease_end = leader.0.since.checked_add(self.0.inner.settings.lease);
        limits.stale_from = limits.stale_from.into_iter().chain(lease_end).min();
        let mut task = self.spawn_load(&location, key.to_key(), leader, load);
        let poll = |cx: &mut Context<'_>| match Pin::new(&mut task).poll(cx) {
            Poll::Ready(result) => Ok(result),
            Poll::Pending => Err(Pending { again: None }),
        };
        match self
            .0
            .wait_for(&location, key, &limits, &mut timer, poll)
            .await
        {
            Ok(Ok(result)) => result,
            Ok(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
            Ok(Err(_)) => Err(LoadError::Shutdown),
            // The load continues.
            Err(failure) => self.0.stale_or_timeout(key, failure),
        }
    }

    /// Spawns a task that runs a load.
    fn spawn_load<F>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: K,
        (leader, permit): PermittedLeader<'_, K, V>,
        load: impl FnOnce(K) -> F + Send + 'static,
    ) -> JoinHandle<Result<V, LoadError<AnyError>>>
    where
        F: Future<Output = LoadResult<V>> + Send + 'static,
    {
        let mut spawned = SpawnedLoad {
            cache: self.0.clone(),
            hash: location.hash,
            leader: Some(leader.suspend()),
        };
        tokio::spawn(async move {
            let leader = spawned.leader.take().expect("the task runs once");
            let location = spawned.location();
            let leader = (location.cell.in_flight.resume(leader), permit);
            let load = || load(key.clone());
            spawned
                .cache
                .run(&location, &key, leader, LoaderProperties::ERASED, load)
                .await
        })
    }
}

/// A load that is about to run in a task, with a handle to its cache.
struct SpawnedLoad<K, V, S> {
    cache: LocalCache<K, V, S>,
    hash: KeyHash,
    /// The leader, or `None` once the task runs. If the task never runs, `drop` makes a waiter the leader instead.
    leader: Option<SuspendedLeader<K, V>>,
}

impl<K, V, S> SpawnedLoad<K, V, S> {
    /// Returns the shard and the hash of the key.
    fn location(&self) -> KeyLocation<'_, K, V> {
        let inner = &self.cache.inner;
        KeyLocation {
            cell: &inner.cells[inner.shard_index(self.hash)],
            hash: self.hash,
        }
    }
}

impl<K, V, S> Drop for SpawnedLoad<K, V, S> {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.take() {
            drop(self.location().cell.in_flight.resume(leader));
        }
    }
}

impl<K, V, S> fmt::Debug for Detached<'_, K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Detached").field(self.0).finish()
    }
}
