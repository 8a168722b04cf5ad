//! `get_or_load` for tasks.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::load::Loader;
use crate::local::lookup::Lookup;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::future::TaskTimer;
use crate::traits::erasure::{LoadResult, share, typed};
use crate::traits::{AsyncCache, CacheFuture, ErasedAsyncLoader};
use std::any::Any;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Like [`get_or_load`](Self::get_or_load), but for tasks. Both share their loads: of all threads and tasks that
    /// miss a key together, one loads.
    ///
    /// `load` creates the future that loads. It is not called on a hit. The returned future is `Send` if `load` and its
    /// future are, and a hit allocates nothing.
    ///
    /// # Examples
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
    /// Returns the same errors as [`get_or_load`](Self::get_or_load). A loader that calls for its own key in its own
    /// task gets [`Recursive`](LoadError::Recursive). If the call comes from a task that the loader has spawned and
    /// awaits, it waits until the lease ends. All calls in a runtime that a blocking loader drives on its own thread
    /// count as calls of this loader.
    ///
    /// # Timers
    ///
    /// Waiting tasks are woken by `Waker`s, on any runtime. The [lease](crate::LocalCacheBuilder::lease), the [wait
    /// timeout](crate::LocalCacheBuilder::wait_timeout) and the queue of
    /// [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads) also need a timer. With the feature
    /// `tokio`, in a tokio runtime, this is `tokio::time`. Elsewhere it is a thread named `hotset-timers`, which the
    /// first task of the process that has to wait starts.
    ///
    /// # Futures that are not polled
    ///
    /// A future that was polled once and is then kept without being polled, as with `select!` on `&mut future` or with
    /// `buffered`, delays other callers by at most one lease. They then load in its place, and a permit that it holds
    /// is given to another load.
    ///
    /// # Panics
    ///
    /// With the feature `tokio`, panics if it has to wait in a tokio runtime that was built without `enable_time`.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. If it was the one that loads, exactly one of the waiting callers loads in
    /// its place. Use `detached` (feature `tokio`) for loads that are to continue. Take care of your own futures: if a
    /// future that writes to the database is dropped before it has called [`remove`](Self::remove), the cache keeps the
    /// old value. Do both in a task that is not cancelled.
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
            lookup => {
                let found = (lookup, Loader::new::<E, _>(&load));
                // Boxed, so that this future stays small whatever the loader's size.
                typed(Box::pin(self.load_async(location, key, found, load, share)).await)
            }
        }
    }

    /// Returns the value for a key after its lookup.
    pub(in crate::local) async fn load_async<'a, F: Future>(
        &self,
        location: KeyLocation<'a, K, V>,
        key: &K,
        found: (Lookup<'a, K, V>, Loader),
        load: impl FnOnce() -> F,
        share: impl FnOnce(F::Output) -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>> {
        let mut timer = TaskTimer::default();
        self.load(&location, key, found, &mut timer, |_| load(), share)
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
            lookup => {
                let found = (lookup, Loader::ERASED);
                let share = |result: Result<_, _>| result.map_err(LoadError::Failed);
                CacheFuture::new(self.load_async(location, key, found, load, share))
            }
        }
    }
}
