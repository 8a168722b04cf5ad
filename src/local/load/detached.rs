//! Loads that run in tasks of their own.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::load::{Approach, Cleared};
use crate::local::lookup::Lookup;
use crate::local::shard::hash::KeyHash;
use crate::local::{DefaultHasher, KeyLocation, LocalCache};
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{Pending, Suspended, is_loading};
use crate::traits::erasure::{erase, typed};
use std::any::{Any, type_name_of_val};
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
    /// So a request that is cancelled does not waste a query, and callers that wait for the query do
    /// not start again. Entries that are due for [renewal](crate::LocalCacheBuilder::refresh_after) are renewed
    /// in the background, so that no caller waits.
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
    /// Like [`LocalCache::get_or_load_async`], but runs the load in a task of its own, so `load` must own all that
    /// it needs. A load within a load runs in the task of the outer load.
    ///
    /// # Errors
    ///
    /// Like [`LocalCache::get_or_load_async`], and [`Shutdown`](LoadError::Shutdown) if the runtime
    /// is shut down before the load is done.
    ///
    /// # Panics
    ///
    /// Panics if it has to load and is not called in a tokio runtime. A panic of the loader reaches this
    /// caller, unless the caller was dropped.
    ///
    /// # Cancellation
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
                let idle = !is_loading();
                if let Some(held) = idle.then(|| self.0.begin_refresh(&location, key)).flatten() {
                    self.spawn_load(&location, key, held, load);
                }
                Ok(value)
            }
            lookup => Box::pin(self.load(location, key, lookup, load)).await,
        }
    }

    async fn load<'a, L, E, F>(
        &self,
        location: KeyLocation<'a, K, V>,
        key: &K,
        mut lookup: Lookup<'a, K, V>,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> Result<V, LoadError<E>>
    where
        F: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let loader = Some(type_name_of_val(&load));
        let mut alarm = TaskTimer::default();
        let mut patience = self.0.patience();
        let held = loop {
            match self
                .0
                .approach(&location, key, lookup, loader, &mut alarm)
                .await
            {
                Ok(Approach::Load(held)) => break held,
                Ok(Approach::LoadUnshared(reentry)) => {
                    let running = self
                        .0
                        .run_unshared(key, &reentry, loader, |_| load(), erase);
                    return typed(running.await).expect("the error is of this caller's loader");
                }
                Ok(Approach::Arrived(value)) => return Ok(value),
                Err(error) => {
                    // `None`: another caller's load failed with an error of another type. This caller still has its
                    // loader.
                    if let Some(result) = typed(Err(error)) {
                        return result;
                    }
                    lookup = self.0.join_or_lead(&location, key, || self.0.candidate());
                }
            }
        };
        if is_loading() {
            let running = self.0.run(&location, key, held, loader, |_| load(), erase);
            return typed(running.await).expect("the error is of this caller's loader");
        }
        // The caller accepts an expired value when the lease of its load ends, if not before.
        let lease_end = held.0.since.checked_add(self.0.inner.settings.lease);
        patience.stale_from = patience.stale_from.into_iter().chain(lease_end).min();
        let mut load = self.spawn_load(&location, key, held, load);
        let outcome = |cx: &mut Context<'_>| match Pin::new(&mut load).poll(cx) {
            Poll::Ready(result) => Ok(result),
            Poll::Pending => Err(Pending { again: None }),
        };
        let waiting = self
            .0
            .wait_for(&location, key, &patience, &mut alarm, outcome);
        let result = match waiting.await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
            Ok(Err(_)) => return Err(LoadError::Shutdown),
            // The load continues.
            Err(waited) => self.0.give_up(&location, key, waited),
        };
        typed(result).expect("the error is of this caller's loader")
    }

    /// Runs a load in a task.
    fn spawn_load<L, E, F>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        (leader, permit): Cleared<'_, K, V>,
        load: impl FnOnce() -> F + Send + 'static,
    ) -> JoinHandle<Result<V, LoadError<AnyError>>>
    where
        F: Future<Output = Result<L, E>> + Send + 'static,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let mut departure = SpawnedLoad {
            cache: self.0.clone(),
            index: location.index,
            hash: location.hash,
            leader: Some(leader.suspend()),
        };
        let key = key.clone();
        tokio::spawn(async move {
            let leader = departure.leader.take().expect("departs once");
            let location = departure.location();
            let held = (location.cell.flights.resume(leader), permit);
            let cache = &departure.cache;
            cache
                .run(&location, &key, held, None, |_| load(), erase)
                .await
        })
    }
}

/// A load that is about to run in a task, with all that it needs of the cache.
struct SpawnedLoad<K, V, S> {
    cache: LocalCache<K, V, S>,
    index: usize,
    hash: KeyHash,
    /// The leader, `None` once the task runs. If the task never runs, dropping this hands over to a waiter.
    leader: Option<Suspended<K, V>>,
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
            drop(self.location().cell.flights.resume(leader));
        }
    }
}

impl<K, V, S> fmt::Debug for Detached<'_, K, V, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Detached").field(self.0).finish()
    }
}
