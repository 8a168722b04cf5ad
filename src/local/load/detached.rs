//! Loads that run in tasks of their own.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::load::{Loader, PermittedLeader, ValueOrLead};
use crate::local::lookup::Lookup;
use crate::local::shard::hash::KeyHash;
use crate::local::{DefaultHasher, KeyLocation, LocalCache};
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{Pending, SuspendedLeader, is_loading};
use crate::traits::erasure::{share, typed};
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;

/// A view of a cache whose loads run in tasks of their own, from [`LocalCache::detached`].
pub struct Detached<'a, K, V, S = DefaultHasher>(&'a LocalCache<K, V, S>);

impl<K, V, S> LocalCache<K, V, S> {
    /// Returns a view of this cache whose loads continue when their caller is dropped.
    ///
    /// So a request that is cancelled does not waste a query, and callers that wait for the query do not start again.
    /// Entries that are due for a [refresh](crate::LocalCacheBuilder::refresh_after) are refreshed in the background,
    /// so that no caller waits.
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
    ///     move || async move { db.fetch_price(7).await }
    /// };
    /// assert_eq!(prices.detached().get_or_load_async(&7, fetch).await?, 700);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
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
    /// Like [`LocalCache::get_or_load_async`], but runs the load in a task of its own, so `load` must own all values
    /// that it uses. A load within a load runs in the task of the outer load.
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
    pub async fn get_or_load_async<L, E, F>(
        &self,
        key: &K,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> Result<V, LoadError<E>>
    where
        F: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let location = self.0.location(key);
        match self.0.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            Lookup::NeedsRefresh(value) => {
                // A loader's call refreshes nothing: its loads run within its own task.
                let may_refresh = !is_loading();
                let leader = may_refresh.then(|| self.0.begin_refresh(&location, key));
                if let Some(leader) = leader.flatten() {
                    self.spawn_load(&location, key, leader, load);
                }
                Ok(value)
            }
            lookup => typed(Box::pin(self.load(location, key, lookup, load)).await),
        }
    }

    /// Completes the call if the lookup was not a hit.
    async fn load<'a, L, E, F>(
        &self,
        location: KeyLocation<'a, K, V>,
        key: &K,
        lookup: Lookup<'a, K, V>,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> Result<V, LoadError<AnyError>>
    where
        F: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let loader = Loader::new::<E, _>(&load);
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
                let load = |_: &K| load();
                return self
                    .0
                    .run_unshared(key, &reentry, loader, load, share)
                    .await;
            }
        };
        if is_loading() {
            let load = |_: &K| load();
            return self
                .0
                .run(&location, key, leader, loader, load, share)
                .await;
        }
        // The caller accepts an expired value when the lease of its load ends, if not before.
        let lease_end = leader.0.since.checked_add(self.0.inner.settings.lease);
        limits.stale_from = limits.stale_from.into_iter().chain(lease_end).min();
        let mut task = self.spawn_load(&location, key, leader, load);
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
            Err(failure) => self.0.stale_or_timeout(&location, key, failure),
        }
    }

    /// Runs a load in a task.
    fn spawn_load<L, E, F>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        (leader, permit): PermittedLeader<'_, K, V>,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<Result<V, LoadError<AnyError>>>
    where
        F: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let mut spawned = SpawnedLoad {
            cache: self.0.clone(),
            index: location.index,
            hash: location.hash,
            leader: Some(leader.suspend()),
        };
        let key = key.clone();
        tokio::spawn(async move {
            let leader = spawned.leader.take().expect("the task runs once");
            let location = spawned.location();
            let leader = (location.cell.in_flight.resume(leader), permit);
            let load = |_: &K| load();
            spawned
                .cache
                .run(&location, &key, leader, Loader::ERASED, load, share)
                .await
        })
    }
}

/// A load that is about to run in a task, with a handle to its cache.
struct SpawnedLoad<K, V, S> {
    cache: LocalCache<K, V, S>,
    index: usize,
    hash: KeyHash,
    /// The leader, `None` once the task runs. If the task never runs, dropping this hands over to a waiter.
    leader: Option<SuspendedLeader<K, V>>,
}

impl<K, V, S> SpawnedLoad<K, V, S> {
    fn location(&self) -> KeyLocation<'_, K, V> {
        KeyLocation {
            cell: &self.cache.inner.cells[self.index],
            index: self.index,
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
