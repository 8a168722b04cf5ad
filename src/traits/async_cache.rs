//! The trait of caches for async tasks.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::stats::Stats;
use crate::traits::batch::{erase_keys, missing_keys, store_pair};
use crate::traits::cache_future::CacheFuture;
use crate::traits::erasure::{
    BoxedBatchLoad, BoxedLoad, ErasedAsyncBatchLoader, ErasedAsyncLoader, FOREIGN_ERROR,
    LoaderProperties, MAX_REPETITIONS, SECOND_CALL, downcast, into_entries, share_batch,
    share_entry, take_once, typed_error,
};
use crate::traits::key::ErasedKey;
use crate::traits::warm::warm_in_batches_async;
use crate::traits::write::{ErasedAsyncWrite, FOREIGN_FAILURE, WriteFailed};
use crate::warm::{WarmOptions, WarmReport};
use equivalent::Equivalent;
use std::convert::Infallible;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

/// A cache for async tasks, independent of the backend that stores its values. The async form of
/// [`Cache`](crate::Cache).
///
/// Write application code against `impl AsyncCache<K, V>` or `Arc<dyn AsyncCache<K, V>>`, so that the backend can
/// change without it. [`LocalCache`](crate::LocalCache), [`TieredCache`](crate::TieredCache) and
/// [`ConfiguredAsyncCache`](crate::ConfiguredAsyncCache) implement this trait, and so do references to a cache and
/// pointers to a trait object.
///
/// A method of [`LocalCache`](crate::LocalCache) that this trait lacks has no meaning on some of the backends: see
/// [What is not offered over Redis](crate::TieredCache#what-is-not-offered-over-redis).
///
/// The methods whose names end in `_erased` have no type parameters, so that they can be called on a trait object. An
/// implementation provides these; callers use the methods without the suffix.
///
/// # Cancel safety
///
/// Each future may be dropped at any time. It is then not known whether its operation has taken effect.
///
/// # Examples
///
/// ```
/// use hotset::{AsyncCache, LocalCache};
/// use std::sync::Arc;
///
/// async fn greet(names: &impl AsyncCache<u32, String>) -> String {
///     let fetch = |_| async { Ok::<_, std::io::Error>("Ada".to_string()) };
///     format!("hello {}", names.get_or_load_async(&1, fetch).await.unwrap())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let names: Arc<dyn AsyncCache<u32, String>> = Arc::new(LocalCache::new(10));
/// assert_eq!(greet(&names).await, "hello Ada");
/// assert_eq!(names.get(&1).await.as_deref(), Some("Ada"));
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `AsyncCache` with keys of type `{K}` and values of type `{V}`",
    note = "pass `&*cache` if this is an `Arc` of a cache"
)]
pub trait AsyncCache<K, V>: Send + Sync {
    /// Returns a clone of the value for `key`, or `None` if the key is absent or expired. See [`get`](Self::get).
    fn get_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Option<V>>;

    /// Returns clones of the values for several keys. See [`get_many`](Self::get_many).
    ///
    /// The default implementation calls [`get_erased`](Self::get_erased) for each key.
    fn get_many_erased<'a>(
        &'a self,
        keys: &'a [&'a dyn ErasedKey<K>],
    ) -> CacheFuture<'a, Vec<Option<V>>>
    where
        V: Send,
    {
        CacheFuture::new(async move {
            let mut values = Vec::with_capacity(keys.len());
            for key in keys {
                values.push(self.get_erased(*key).await);
            }
            values
        })
    }

    /// Inserts a value with its own time to live, weight and tags.
    #[doc(alias = "put")]
    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> CacheFuture<'_, Propagation>;

    /// Removes the entry of `key`, if there is one. See [`invalidate`](Self::invalidate).
    fn invalidate_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Propagation>;

    /// Invalidates all entries that were stored with this [tag](Loaded::tags). Loads in flight that return the tag do
    /// not store their results.
    fn invalidate_tag<'a>(&'a self, tag: &'a str) -> CacheFuture<'a, Propagation>;

    /// Removes all entries. Loads in flight do not store their results.
    #[doc(alias("invalidate_all", "invalidateAll"))]
    fn clear(&self) -> CacheFuture<'_, Propagation>;

    /// Changes the database by `write`, then stores the new value. See [`write_through`](Self::write_through).
    ///
    /// The default implementation does not store the new value: it runs `write`, and then invalidates the key.
    ///
    /// # Errors
    ///
    /// Returns the failure of `write`.
    ///
    /// # Cancel safety
    ///
    /// If the future of the default implementation is dropped while `write` runs, the key is not invalidated.
    fn write_through_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedAsyncWrite<'a, V>,
    ) -> CacheFuture<'a, Result<Propagation, WriteFailed>> {
        let writing = write.run(loaded.value);
        CacheFuture::new(async move {
            writing.await?;
            Ok(self.invalidate_erased(key).await)
        })
    }

    /// Returns the value for `key`. On a miss, runs `loader` and stores its result. See
    /// [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// An implementation runs `loader` at most once. If it returns an error other than [`LoadError::Failed`], it has
    /// not run `loader`.
    ///
    /// # Errors
    ///
    /// Returns the same errors as `get_or_load_async`. A [`LoadError::Failed`] contains the unchanged error of a
    /// caller's loader.
    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        loader: ErasedAsyncLoader<'a, K, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>>;

    /// Returns the values for several keys. Runs `loader` for the missing ones and stores its results. See
    /// [`get_many_or_load_async`](Self::get_many_or_load_async).
    ///
    /// The default implementation runs `loader` once, for all keys that [`get_erased`](Self::get_erased) does not find.
    /// It merges no loads, and an invalidation during the load does not prevent the insertion of the loaded value. Its
    /// time grows with the square of the number of missing keys.
    ///
    /// # Errors
    ///
    /// Returns the same errors as `get_many_or_load_async`. A [`LoadError::Failed`] contains the unchanged error of a
    /// caller's loader.
    fn get_many_or_load_erased<'a>(
        &'a self,
        keys: &'a [&'a dyn ErasedKey<K>],
        mut loader: ErasedAsyncBatchLoader<'a, K, V>,
    ) -> CacheFuture<'a, Result<Vec<Option<V>>, LoadError<AnyError>>>
    where
        K: Send,
        V: Clone + Send + Sync,
    {
        CacheFuture::new(async move {
            let mut values = self.get_many_erased(keys).await;
            let missing = missing_keys(keys, &values);
            if !missing.is_empty() {
                for (key, loaded) in loader.run(missing).await? {
                    if store_pair(keys, &mut values, &key, &loaded.value) {
                        self.insert_loaded(key, loaded).await;
                    }
                }
            }
            Ok(values)
        })
    }

    /// Loads the keys that are not cached yet, in batches. See [`warm_async`](Self::warm_async).
    ///
    /// The default implementation calls [`get_many_or_load_erased`](Self::get_many_or_load_erased) for each batch. It
    /// does not know how many entries the cache has room for, so it ends with the last key.
    fn warm_erased<'a>(
        &'a self,
        options: WarmOptions<'a>,
        keys: &'a mut (dyn Iterator<Item = K> + Send + 'a),
        loader: ErasedAsyncBatchLoader<'a, K, V>,
    ) -> CacheFuture<'a, WarmReport<K, AnyError>>
    where
        K: Hash + Eq + Clone + Send + Sync,
        V: Clone + Send + Sync,
    {
        warm_in_batches_async(self, options, keys, loader)
    }

    /// Returns `true` if the cache contains a live value for `key`. See [`contains_key`](Self::contains_key).
    fn contains_key_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, bool>
    where
        V: Send,
    {
        CacheFuture::new(async move { self.get_erased(key).await.is_some() })
    }

    /// Returns the time until the entry for `key` expires. See [`remaining_ttl`](Self::remaining_ttl).
    ///
    /// The default implementation returns `Duration::MAX` for each key that has a value.
    fn remaining_ttl_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
    ) -> CacheFuture<'a, Option<Duration>>
    where
        V: Send,
    {
        CacheFuture::new(async move { self.get_erased(key).await.map(|_| Duration::MAX) })
    }

    /// Waits until all queued invalidations are sent to the other processes. Call it before shutdown: invalidations
    /// still queued when the process exits are lost.
    ///
    /// It waits without limit while Redis does not answer, so use a timeout. The future of the default implementation,
    /// which is also that of a [`LocalCache`](crate::LocalCache), is ready at once.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{AsyncCache, LocalCache};
    /// use std::{sync::Arc, time::Duration};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let prices: Arc<dyn AsyncCache<u64, u64>> = Arc::new(LocalCache::new(100));
    /// if tokio::time::timeout(Duration::from_secs(10), prices.flush()).await.is_err() {
    ///     eprintln!("not all invalidations were sent");
    /// }
    /// # }
    /// ```
    fn flush(&self) -> CacheFuture<'_, ()> {
        CacheFuture::ready(())
    }

    /// Returns the statistics of the cache. The default implementation returns zeros.
    fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Returns a clone of the value for `key`, or `None` if the key is absent or expired.
    #[doc(alias = "getIfPresent")]
    fn get<Q>(&self, key: &Q) -> impl Future<Output = Option<V>> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        V: Send,
        Self: Sized,
    {
        async move { self.get_erased(&key).await }
    }

    /// Returns clones of the values for several keys, in their order, with `None` for each key that is absent or
    /// expired.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{AsyncCache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let prices: Arc<dyn AsyncCache<String, u64>> = Arc::new(LocalCache::new(100));
    /// prices.insert("apple".to_string(), 120).await;
    /// assert_eq!(prices.get_many(["apple", "pear"]).await, [Some(120), None]);
    /// # }
    /// ```
    #[doc(alias("get_all_present", "getAllPresent"))]
    fn get_many<'a, Q>(
        &'a self,
        keys: impl IntoIterator<Item = &'a Q>,
    ) -> CacheFuture<'a, Vec<Option<V>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized + 'a,
        V: Send,
        Self: Sized,
    {
        let keys: Vec<&'a Q> = keys.into_iter().collect();
        CacheFuture::new(async move { self.get_many_erased(&erase_keys(&keys)).await })
    }

    /// Returns `true` if the cache contains a live value for `key`.
    #[doc(alias = "containsKey")]
    fn contains_key<Q>(&self, key: &Q) -> impl Future<Output = bool> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        V: Send,
        Self: Sized,
    {
        async move { self.contains_key_erased(&key).await }
    }

    /// Returns the time until the entry for `key` expires, or `None` if the key is absent or expired.
    ///
    /// Returns `Duration::MAX` for an entry that never expires.
    #[doc(alias = "getExpiresAfter")]
    fn remaining_ttl<Q>(&self, key: &Q) -> impl Future<Output = Option<Duration>> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        V: Send,
        Self: Sized,
    {
        async move { self.remaining_ttl_erased(&key).await }
    }

    /// Inserts a value with the time to live of the cache.
    #[doc(alias = "put")]
    fn insert(&self, key: K, value: V) -> CacheFuture<'_, Propagation> {
        self.insert_loaded(key, Loaded::new(value))
    }

    /// Inserts a value with its own time to live.
    #[doc(alias = "put")]
    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> CacheFuture<'_, Propagation> {
        self.insert_loaded(key, Loaded::new(value).ttl(ttl))
    }

    /// Removes the entry of `key`, if there is one. A load of this key that is in flight does not store its result.
    #[doc(alias = "remove")]
    fn invalidate<Q>(&self, key: &Q) -> impl Future<Output = Propagation> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        Self: Sized,
    {
        async move { self.invalidate_erased(&key).await }
    }

    /// Changes the database by `write`, then stores the new value, and invalidates the old value in all other
    /// processes.
    ///
    /// If another caller writes or invalidates the key at the same time, no cache stores either value, because only the
    /// database knows which of them is newer. `write` must not read the key through the cache: over Redis, it would
    /// wait for itself until the [lease](crate::LocalCacheBuilder::lease) ends.
    ///
    /// The new entry has the cache's time to live and no tags, whatever the old entry had: see
    /// [`write_through_loaded`](Self::write_through_loaded).
    ///
    /// # Errors
    ///
    /// Returns the error of `write`. The cache is not changed then. If the database may have changed despite the error,
    /// for example after a timeout, call [`invalidate`](Self::invalidate) once it can no longer change.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while `write` runs, the key is invalidated, because it is unknown whether the database
    /// has changed. The [default implementation](Self::write_through_erased) does not do that.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn store_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use hotset::{AsyncCache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn AsyncCache<u64, u64>> = Arc::new(LocalCache::new(100));
    /// let propagation = prices.write_through(7, 800, |price| store_price(7, price)).await?;
    /// assert!(propagation.is_acknowledged());
    /// assert_eq!(prices.get(&7).await, Some(800));
    /// # Ok(())
    /// # }
    /// ```
    fn write_through<E, F>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(V) -> F + Send,
    ) -> impl Future<Output = Result<Propagation, E>> + Send
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Send,
        K: Hash + Eq + Clone + Send + Sync,
        V: Send,
        Self: Sized,
    {
        self.write_through_loaded(key, Loaded::new(value), write)
    }

    /// Like [`write_through`](Self::write_through), for a value with its own time to live, weight and tags.
    ///
    /// # Errors
    ///
    /// See [`write_through`](Self::write_through).
    ///
    /// # Cancel safety
    ///
    /// See [`write_through`](Self::write_through).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn store_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use hotset::{AsyncCache, Loaded, LocalCache};
    /// use std::{sync::Arc, time::Duration};
    ///
    /// let prices: Arc<dyn AsyncCache<u64, u64>> = Arc::new(LocalCache::new(100));
    /// let price = Loaded::new(800).ttl(Duration::from_secs(60));
    /// prices.write_through_loaded(7, price, |price| store_price(7, price)).await?;
    /// assert!(prices.remaining_ttl(&7).await.unwrap() <= Duration::from_secs(60));
    /// # Ok(())
    /// # }
    /// ```
    fn write_through_loaded<E, F>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(V) -> F + Send,
    ) -> impl Future<Output = Result<Propagation, E>> + Send
    where
        F: Future<Output = Result<(), E>> + Send,
        E: Send,
        K: Hash + Eq + Clone + Send + Sync,
        V: Send,
        Self: Sized,
    {
        async move {
            let mut error = None;
            let written = {
                let write = ErasedAsyncWrite::new(write, &mut error);
                self.write_through_erased(&&key, loaded, write).await
            };
            written.map_err(|_| error.expect(FOREIGN_FAILURE))
        }
    }

    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// `load` receives the key in its owned form, and creates the future that loads. `Self` must be sized, which
    /// `Arc<dyn AsyncCache<K, V>>` is.
    ///
    /// # Errors
    ///
    /// Returns an error if the load failed, or if the result of another caller's load could not be awaited: see
    /// [`LoadError`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_price(name: String) -> std::io::Result<u64> { Ok(120) }
    /// use hotset::{AsyncCache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn AsyncCache<String, u64>> = Arc::new(LocalCache::new(100));
    /// assert_eq!(prices.get_or_load_async("apple", fetch_price).await?, 120);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "try_get_with")]
    #[doc(alias = "get_or_insert_async")]
    #[doc(alias = "get_value_or_guard_async")]
    #[doc(alias = "optionally_get_with")]
    fn get_or_load_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F + Send,
    ) -> impl Future<Output = Result<V, LoadError<E>>> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        F: Future<Output = Result<V, E>> + Send,
        E: LoaderError<M>,
        K: Send,
        V: Send,
        Self: Sized,
    {
        let load = |key| {
            let loading = load(key);
            async { loading.await.map(Loaded::new) }
        };
        self.get_or_load_entry_async(key, load)
    }

    /// Like [`get_or_load_async`](Self::get_or_load_async), but `load` returns a [`Loaded`], which has its own time to
    /// live, weight and tags.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_price(name: &str) -> std::io::Result<u64> { Ok(120) }
    /// use hotset::{AsyncCache, Loaded, LocalCache};
    /// use std::{io, sync::Arc, time::Duration};
    ///
    /// let prices: Arc<dyn AsyncCache<String, u64>> = Arc::new(LocalCache::new(100));
    /// let load = |name: String| async move {
    ///     let price = fetch_price(&name).await?;
    ///     Ok::<_, io::Error>(Loaded::new(price).ttl(Duration::from_secs(60)).tags([name]))
    /// };
    /// assert_eq!(prices.get_or_load_entry_async("apple", load).await?, 120);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("try_get_with", "or_try_insert_with"))]
    fn get_or_load_entry_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F + Send,
    ) -> impl Future<Output = Result<V, LoadError<E>>> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        F: Future<Output = Result<Loaded<V>, E>> + Send,
        E: LoaderError<M>,
        K: Send,
        V: Send,
        Self: Sized,
    {
        async move {
            let properties = LoaderProperties::new::<E, _>(&load);
            let mut load = Some(load);
            for _ in 0..=MAX_REPETITIONS {
                let result = {
                    let mut erased = |key| -> BoxedLoad<'_, V> {
                        let load = load.take().expect(SECOND_CALL);
                        Box::pin(share_entry(load(key)))
                    };
                    let loader = ErasedAsyncLoader::new(&mut erased, properties);
                    self.get_or_load_erased(&key, loader).await
                };
                if let Some(result) = downcast(result) {
                    return result;
                }
                assert!(load.is_some(), "{FOREIGN_ERROR}");
            }
            panic!("{FOREIGN_ERROR}");
        }
    }

    /// Returns the value for `key`. On a miss, computes it by `compute` and stores it.
    ///
    /// If the result of another caller's load cannot be awaited, `compute` runs for this caller, and nothing is stored.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use hotset::{AsyncCache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let lengths: Arc<dyn AsyncCache<String, usize>> = Arc::new(LocalCache::new(100));
    /// let length = lengths.get_or_insert_with_async("apple", |name| async move { name.len() });
    /// assert_eq!(length.await, 5);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("get_with", "get_or_insert", "or_insert_with"))]
    fn get_or_insert_with_async<Q, F>(
        &self,
        key: &Q,
        compute: impl FnOnce(K) -> F + Send,
    ) -> impl Future<Output = V> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        F: Future<Output = V> + Send,
        K: Send,
        V: Send,
        Self: Sized,
    {
        async move {
            let mut compute = Some(compute);
            let load = |key| {
                let computing = take_once(&mut compute)(key);
                async { Ok::<_, Infallible>(computing.await) }
            };
            match self.get_or_load_async(key, load).await {
                Ok(value) => value,
                // Boxed like the load, so that this future stays small.
                Err(_) => Box::pin(take_once(&mut compute)(key.to_owned())).await,
            }
        }
    }

    /// Returns the values for several keys, in their order. Calls `load` once for all missing keys.
    ///
    /// For a key that `load` leaves out, the result is `None` and nothing is cached. A pair for a key that `load` did
    /// not receive is ignored.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load_async`](Self::get_or_load_async), if the load of any key fails.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use hotset::{AsyncCache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn AsyncCache<u64, u64>> = Arc::new(LocalCache::new(100));
    /// let load = |missing: Vec<u64>| async move {
    ///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
    ///     Ok::<_, std::io::Error>(missing.into_iter().map(|id| (id, id * 100)))
    /// };
    /// assert_eq!(prices.get_many_or_load_async(&[7, 8], load).await?, [Some(700), Some(800)]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("getAll", "get_all"))]
    fn get_many_or_load_async<'a, Q, T, E, F, M>(
        &'a self,
        keys: impl IntoIterator<Item = &'a Q>,
        mut load: impl FnMut(Vec<K>) -> F + Send + 'a,
    ) -> CacheFuture<'a, Result<Vec<Option<V>>, LoadError<E>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized + 'a,
        F: Future<Output = Result<T, E>> + Send,
        T: IntoIterator<Item = (K, V)>,
        E: LoaderError<M>,
        K: Send,
        V: Clone + Send + Sync,
        Self: Sized,
    {
        let load = move |missing| {
            let loading = load(missing);
            async { loading.await.map(into_entries) }
        };
        self.get_many_or_load_entries_async(keys, load)
    }

    /// Like [`get_many_or_load_async`](Self::get_many_or_load_async), but `load` returns pairs of key and [`Loaded`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_many_or_load_async`](Self::get_many_or_load_async).
    #[doc(alias("getAll", "get_all"))]
    fn get_many_or_load_entries_async<'a, Q, T, E, F, M>(
        &'a self,
        keys: impl IntoIterator<Item = &'a Q>,
        mut load: impl FnMut(Vec<K>) -> F + Send + 'a,
    ) -> CacheFuture<'a, Result<Vec<Option<V>>, LoadError<E>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized + 'a,
        F: Future<Output = Result<T, E>> + Send,
        T: IntoIterator<Item = (K, Loaded<V>)>,
        E: LoaderError<M>,
        K: Send,
        V: Clone + Send + Sync,
        Self: Sized,
    {
        let keys: Vec<&'a Q> = keys.into_iter().collect();
        CacheFuture::new(async move {
            let properties = LoaderProperties::new::<E, _>(&load);
            let keys = erase_keys(&keys);
            for _ in 0..=MAX_REPETITIONS {
                let result = {
                    let mut erased = |missing| -> BoxedBatchLoad<'_, K, V> {
                        let loading = load(missing);
                        Box::pin(async move { share_batch(loading.await) })
                    };
                    let loader = ErasedAsyncBatchLoader::new(&mut erased, properties);
                    self.get_many_or_load_erased(&keys, loader).await
                };
                if let Some(result) = downcast(result) {
                    return result;
                }
            }
            panic!("{FOREIGN_ERROR}");
        })
    }

    /// Loads the keys that are not cached yet, in batches like
    /// [`get_many_or_load_async`](Self::get_many_or_load_async), until the cache is full.
    ///
    /// `keys` may be lazy and endless. Give the most important ones first. Several batches are loaded at one time, and
    /// a batch that fails does not stop the others. See
    /// [`LocalCache::warm_async`](crate::LocalCache::warm_async) and, for caches over Redis,
    /// [`TieredCache::warm_async`](crate::TieredCache::warm_async), which ends with
    /// [`WarmOutcome::NotProven`](crate::WarmOutcome::NotProven) if L1 may not store entries.
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
    /// use hotset::{AsyncCache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn AsyncCache<u64, u64>> = Arc::new(LocalCache::new(1_000));
    /// let report = prices.warm_async(0..100, |ids: Vec<u64>| async {
    ///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// });
    /// assert_eq!(report.await.found, 100);
    /// # }
    /// ```
    fn warm_async<T, L, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = K, IntoIter: Send>,
        load: impl FnMut(Vec<K>) -> F + Send,
    ) -> impl Future<Output = WarmReport<K, E>> + Send
    where
        F: Future<Output = Result<T, E>> + Send,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
        K: Hash + Eq + Clone + Send + Sync,
        V: Clone + Send + Sync,
        Self: Sized,
    {
        self.warm_with_async(WarmOptions::new(), keys, load)
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
    /// use hotset::{AsyncCache, LocalCache, WarmOptions};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn AsyncCache<u64, u64>> = Arc::new(LocalCache::new(1_000));
    /// let options = WarmOptions::new().batch(10).concurrency(2);
    /// let load = |ids: Vec<u64>| async {
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// };
    /// assert_eq!(prices.warm_with_async(options, 0..100, load).await.found, 100);
    /// assert_eq!(prices.stats().loads, 10);
    /// # }
    /// ```
    fn warm_with_async<T, L, E, F, M>(
        &self,
        options: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K, IntoIter: Send>,
        mut load: impl FnMut(Vec<K>) -> F + Send,
    ) -> impl Future<Output = WarmReport<K, E>> + Send
    where
        F: Future<Output = Result<T, E>> + Send,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
        K: Hash + Eq + Clone + Send + Sync,
        V: Clone + Send + Sync,
        Self: Sized,
    {
        let mut keys = keys.into_iter();
        async move {
            let properties = LoaderProperties::new::<E, _>(&load);
            let mut load = |missing| -> BoxedBatchLoad<'_, K, V> {
                let loading = load(missing);
                Box::pin(async move { share_batch(loading.await) })
            };
            let loader = ErasedAsyncBatchLoader::new(&mut load, properties);
            let report = self.warm_erased(options, &mut keys, loader).await;
            report.map_errors(typed_error)
        }
    }
}
