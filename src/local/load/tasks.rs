//! `get_or_load` for tasks.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::local::lookup::Lookup;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::future::TaskTimer;
use crate::traits::erasure::{
    LoadResult, LoaderProperties, share_entry, share_value, take_once, typed,
};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::convert::Infallible;
use std::future::Future;
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Like [`get_or_load`](Self::get_or_load), but for tasks. Both share their loads: of all threads and tasks that
    /// miss a key together, one loads.
    ///
    /// `load` receives the key in its owned form, and creates the future that loads. It is not called on a hit. The
    /// returned future is `Send` if `load` and its future are, and a hit allocates nothing.
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
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load`](Self::get_or_load). A loader that calls for its own key in its own
    /// task gets [`Recursive`](LoadError::Recursive). A call for this key from a task that the loader has spawned and
    /// awaits waits until the lease ends. If a blocking loader drives a runtime on its own thread, all calls in this
    /// runtime count as calls of the loader.
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load`](Self::get_or_load). With the feature `tokio`, also panics if it has to wait in a
    /// tokio runtime that was built without `enable_time`.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. If it was the one that loads, exactly one of the waiting callers loads in
    /// its place. Use `detached` (feature `tokio`) for loads that have to continue.
    ///
    /// If your own future changes the database and is dropped before it has called [`invalidate`](Self::invalidate),
    /// the cache keeps the outdated value. Do both in a task that is not cancelled.
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
    /// let profile = profiles.get_or_load_async(&7, |id| db.fetch_profile(id)).await?;
    /// assert_eq!(profile, Profile(7));
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias(
        "try_get_with",
        "get_or_insert_async",
        "get_value_or_guard_async",
        "optionally_get_with",
        "try_get_with_by_ref",
        "optionally_get_with_by_ref",
        "or_try_insert_with",
        "or_optionally_insert_with"
    ))]
    pub async fn get_or_load_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<V, E>>,
        E: LoaderError<M>,
    {
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            lookup => {
                let found = (lookup, LoaderProperties::new::<E, _>(&load));
                let load = || share_value(load(key.to_owned()));
                // Boxed, so that this future stays small whatever the loader's size.
                typed(Box::pin(self.load_async(location, key, found, load)).await)
            }
        }
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
    /// # async fn fetch_token(user: &str) -> std::io::Result<(String, u64)> { Ok((user.to_uppercase(), 300)) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), hotset::LoadError<std::io::Error>> {
    /// let tokens: LocalCache<String, String> = LocalCache::new(1_000);
    /// let load = |user: String| async move {
    ///     let (token, seconds) = fetch_token(&user).await?;
    ///     Ok::<_, std::io::Error>(Loaded::new(token).ttl(Duration::from_secs(seconds)))
    /// };
    /// assert_eq!(tokens.get_or_load_entry_async("alice", load).await?, "ALICE");
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("try_get_with", "or_try_insert_with"))]
    pub async fn get_or_load_entry_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = Result<Loaded<V>, E>>,
        E: LoaderError<M>,
    {
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            lookup => {
                let found = (lookup, LoaderProperties::new::<E, _>(&load));
                let load = || share_entry(load(key.to_owned()));
                // Boxed, so that this future stays small whatever the loader's size.
                typed(Box::pin(self.load_async(location, key, found, load)).await)
            }
        }
    }

    /// Like [`get_or_insert_with`](Self::get_or_insert_with), but for tasks.
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
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let lengths: hotset::LocalCache<String, usize> = hotset::LocalCache::new(100);
    /// let length = lengths.get_or_insert_with_async("apple", |name| async move { name.len() });
    /// assert_eq!(length.await, 5);
    /// # }
    /// ```
    #[doc(alias(
        "get_with",
        "get_or_insert",
        "or_insert_with",
        "get_with_by_ref",
        "or_insert",
        "or_default"
    ))]
    pub async fn get_or_insert_with_async<Q, F>(&self, key: &Q, compute: impl FnOnce(K) -> F) -> V
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = V>,
    {
        let mut compute = Some(compute);
        let load = |key: K| {
            let computed = take_once(&mut compute)(key);
            async { Ok::<_, Infallible>(computed.await) }
        };
        match self.get_or_load_async(key, load).await {
            Ok(value) => value,
            // Boxed like the load, so that this future stays small.
            Err(_) => Box::pin(take_once(&mut compute)(key.to_owned())).await,
        }
    }

    /// Returns the value for a key after its lookup.
    pub(in crate::local) async fn load_async<'a, Q, F>(
        &self,
        location: KeyLocation<'a, K, V>,
        key: &Q,
        found: (Lookup<'a, K, V>, LoaderProperties),
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>>,
    {
        let mut timer = TaskTimer::default();
        self.load(&location, key, found, &mut timer, load).await
    }
}
