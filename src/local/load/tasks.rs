//! `get_or_load` for tasks.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::lookup::Lookup;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::future::TaskTimer;
use crate::traits::erasure::{erase, typed};
use crate::traits::{AsyncCache, CacheFuture, ErasedAsyncLoader};
use std::any::{Any, type_name_of_val};
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::Duration;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Like [`get_or_load`](Self::get_or_load), but for tasks. Both share their loads: of all threads and tasks
    /// that miss a key together, one loads.
    ///
    /// `load` makes the future that loads. It is not called on a hit. The returned future is `Send` if
    /// `load` and its future are, and a hit allocates nothing.
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// # #[derive(Clone, Debug, PartialEq)]
    /// # struct Profile(u64);
    /// # struct Database;
    /// # impl Database {
    /// #     async fn fetch_profile(&self, id: u64) -> std::io::Result<Profile> { Ok(Profile(id)) }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// # let db = Database;
    /// let profiles: LocalCache<u64, Profile> = LocalCache::new(1_000);
    /// let profile = profiles.get_or_load_async(&7, || db.fetch_profile(7)).await?;
    /// assert_eq!(profile, Profile(7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Like [`get_or_load`](Self::get_or_load). A loader that asks for its own key gets
    /// [`Recursive`](LoadError::Recursive) if it asks in its own task. If it asks from a task that it has spawned and
    /// awaits, it waits until the lease ends. A blocking loader that drives a runtime on its own thread
    /// counts as the caller of everything that runs there.
    ///
    /// # Timers
    ///
    /// Waiting tasks are woken by `Waker`s, on any runtime. The [lease](crate::LocalCacheBuilder::lease), the
    /// [wait timeout](crate::LocalCacheBuilder::wait_timeout) and the queue of
    /// [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads) need a timer as well. With the feature `tokio`,
    /// in a tokio runtime, that is `tokio::time`. Elsewhere it is a thread named `hotset-timers`, which the first
    /// task of the process that has to wait starts.
    ///
    /// # Futures that are not polled
    ///
    /// A future that was polled once and is then kept without being polled, as `select!` with `&mut future` or
    /// `buffered` may do, delays other callers by no more than one lease: they then load in its place, and a permit
    /// that it holds passes on.
    ///
    /// # Panics
    ///
    /// With the feature `tokio`, panics if it has to wait in a tokio runtime that was built without
    /// `enable_time`.
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time. If it was the one that loads, exactly one of the waiting callers
    /// loads in its place. Use `detached` (feature `tokio`) for loads that are to continue. This concerns your
    /// own futures too: if one that writes to the database is dropped before it has called
    /// [`remove`](Self::remove), the cache keeps the old value. Do both where no cancellation can come between.
    pub async fn get_or_load_async<L, E, F>(
        &self,
        key: &K,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<E>>
    where
        F: Future<Output = Result<L, E>>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            // Boxed, so that this future stays small whatever the loader's size.
            lookup => Box::pin(self.load_async(location, key, lookup, load)).await,
        }
    }

    async fn load_async<'a, L, E, F>(
        &self,
        location: KeyLocation<'a, K, V>,
        key: &K,
        mut lookup: Lookup<'a, K, V>,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<E>>
    where
        F: Future<Output = Result<L, E>>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let loader = Some(type_name_of_val(&load));
        let mut load = Some(load);
        let mut alarm = TaskTimer::default();
        loop {
            let start = |_: &K| load.take().expect("a cache calls a loader at most once")();
            let found = (lookup, loader);
            let result = self.load(&location, key, found, &mut alarm, start, erase);
            if let Some(result) = typed(result.await) {
                return result;
            }
            lookup = self.join_or_lead(&location, key, || self.candidate());
        }
    }

    /// Returns the value for a key after its lookup, for a loader whose errors are shared already.
    pub(in crate::local) async fn load_shared<'a, F>(
        &self,
        location: KeyLocation<'a, K, V>,
        key: &K,
        lookup: Lookup<'a, K, V>,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        F: Future<Output = Result<Loaded<V>, Arc<AnyError>>>,
    {
        let mut alarm = TaskTimer::default();
        let (found, load) = ((lookup, None), |_: &K| load());
        self.load(&location, key, found, &mut alarm, load, |result| result)
            .await
    }
}

impl<K, V, S> AsyncCache<K, V> for LocalCache<K, V, S>
where
    K: Eq + Hash + Clone + Send + Sync,
    V: Clone + Send + Sync,
    S: BuildHasher + Send + Sync,
{
    fn get<'a>(&'a self, key: &'a K) -> CacheFuture<'a, Option<V>> {
        CacheFuture::ready(self.get(key))
    }

    fn insert(&self, key: K, value: V) -> CacheFuture<'_, ()> {
        self.insert(key, value);
        CacheFuture::ready(())
    }

    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, ()> {
        self.insert_with_ttl(key, value, ttl);
        CacheFuture::ready(())
    }

    fn invalidate<'a>(&'a self, key: &'a K) -> CacheFuture<'a, ()> {
        self.invalidate(key);
        CacheFuture::ready(())
    }

    fn clear(&self) -> CacheFuture<'_, ()> {
        self.clear();
        CacheFuture::ready(())
    }

    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a K,
        load: &'a mut ErasedAsyncLoader<'_, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => CacheFuture::ready(Ok(value)),
            lookup => CacheFuture::new(self.load_shared(location, key, lookup, load)),
        }
    }
}
