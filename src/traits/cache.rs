//! The trait of caches for blocking callers.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::stats::Stats;
use crate::traits::batch::{erase_keys, missing_keys, store_pair};
use crate::traits::erasure::{
    ErasedBatchLoader, ErasedLoader, LoaderProperties, into_entries, share_batch, take_once,
    typed_batch, typed_error, with_erased,
};
use crate::traits::key::ErasedKey;
use crate::traits::warm::warm_in_batches;
use crate::traits::write::{ErasedWrite, FOREIGN_FAILURE, InvalidateOnDrop, WriteFailed};
use crate::warm::{WarmOptions, WarmReport};
use equivalent::Equivalent;
use std::convert::Infallible;
use std::hash::Hash;
use std::time::Duration;

/// A cache for blocking callers, independent of the backend that stores its values.
///
/// Write application code against `impl Cache<K, V>` or `Arc<dyn Cache<K, V>>`, so that the backend can change without
/// it. [`LocalCache`](crate::LocalCache), [`BlockingCache`](crate::BlockingCache) and
/// [`ConfiguredCache`](crate::ConfiguredCache) implement this trait, and so do references to a cache and pointers to a
/// trait object. A test can implement it as well.
///
/// A method of [`LocalCache`](crate::LocalCache) that this trait lacks has no meaning on some of the backends: see
/// [What is not offered over Redis](crate::TieredCache#what-is-not-offered-over-redis).
///
/// # Implementing the trait
///
/// The methods whose names end in `_erased` have no type parameters, so that they can be called on a trait object.
/// Implement these, and call the methods without the suffix. [`ErasedKey::to_key`] returns a key in its owned form.
///
/// # Examples
///
/// ```
/// use hotset::{AnyError, Cache, ErasedKey, ErasedLoader, LoadError, Loaded, Propagation};
/// use std::{collections::HashMap, sync::{Arc, Mutex}};
///
/// /// A cache for tests. It keeps all entries without limit.
/// #[derive(Default)]
/// struct MapCache(Mutex<HashMap<u32, String>>);
///
/// impl Cache<u32, String> for MapCache {
///     fn get_erased(&self, key: &dyn ErasedKey<u32>) -> Option<String> {
///         self.0.lock().unwrap().get(&key.to_key()).cloned()
///     }
///     fn insert_loaded(&self, key: u32, loaded: Loaded<String>) -> Propagation {
///         self.0.lock().unwrap().insert(key, loaded.into_value());
///         Propagation::Acknowledged
///     }
///     fn invalidate_erased(&self, key: &dyn ErasedKey<u32>) -> Propagation {
///         self.0.lock().unwrap().remove(&key.to_key());
///         Propagation::Acknowledged
///     }
///     fn invalidate_tag(&self, _: &str) -> Propagation {
///         self.clear()
///     }
///     fn clear(&self) -> Propagation {
///         self.0.lock().unwrap().clear();
///         Propagation::Acknowledged
///     }
///     fn get_or_load_erased(
///         &self,
///         key: &dyn ErasedKey<u32>,
///         mut loader: ErasedLoader<'_, String>,
///     ) -> Result<String, LoadError<AnyError>> {
///         if let Some(value) = self.get_erased(key) {
///             return Ok(value);
///         }
///         let loaded = loader.run()?;
///         self.insert_loaded(key.to_key(), loaded.clone());
///         Ok(loaded.into_value())
///     }
/// }
///
/// fn greet(names: &impl Cache<u32, String>) -> String {
///     let name = names.get_or_load(&1, |_| Ok::<_, std::io::Error>("Ada".to_string()));
///     format!("hello {}", name.unwrap())
/// }
///
/// assert_eq!(greet(&MapCache::default()), "hello Ada");
/// assert_eq!(greet(&hotset::LocalCache::new(10)), "hello Ada");
/// let shared: Arc<dyn Cache<u32, String>> = Arc::new(MapCache::default());
/// assert_eq!(greet(&shared), "hello Ada");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Cache` with keys of type `{K}` and values of type `{V}`",
    note = "pass `&*cache` if this is an `Arc` of a cache",
    note = "a `TieredCache` is an `AsyncCache`: threads use the handle that its method `blocking` returns"
)]
pub trait Cache<K, V>: Send + Sync {
    /// Returns a clone of the value for `key`, or `None` if the key is absent or expired. See [`get`](Self::get).
    fn get_erased(&self, key: &dyn ErasedKey<K>) -> Option<V>;

    /// Returns clones of the values for several keys. See [`get_many`](Self::get_many).
    ///
    /// The default implementation calls [`get_erased`](Self::get_erased) for each key.
    fn get_many_erased(&self, keys: &[&dyn ErasedKey<K>]) -> Vec<Option<V>> {
        keys.iter().map(|key| self.get_erased(*key)).collect()
    }

    /// Inserts a value with its own time to live, weight and tags.
    #[doc(alias = "put")]
    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> Propagation;

    /// Removes the entry of `key`, if there is one. See [`invalidate`](Self::invalidate).
    fn invalidate_erased(&self, key: &dyn ErasedKey<K>) -> Propagation;

    /// Invalidates all entries that were stored with this [tag](Loaded::tags). Loads in flight that return the tag do
    /// not store their results.
    fn invalidate_tag(&self, tag: &str) -> Propagation;

    /// Removes all entries. Loads in flight do not store their results.
    #[doc(alias("invalidate_all", "invalidateAll"))]
    fn clear(&self) -> Propagation;

    /// Changes the database by `write`, then stores the new value. See [`write_through`](Self::write_through).
    ///
    /// The default implementation does not store the new value: it runs `write`, and then invalidates the key.
    ///
    /// # Errors
    ///
    /// Returns the failure of `write`.
    ///
    /// # Panics
    ///
    /// Panics if `write` does. The key is then invalidated.
    fn write_through_erased(
        &self,
        key: &dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedWrite<'_, V>,
    ) -> Result<Propagation, WriteFailed> {
        let interrupted = InvalidateOnDrop::new(|| {
            self.invalidate_erased(key);
        });
        let written = write.run(&loaded.value);
        interrupted.disarm();
        written.map(|()| self.invalidate_erased(key))
    }

    /// Returns the value for `key`. On a miss, runs `loader` and stores its result. See
    /// [`get_or_load`](Self::get_or_load).
    ///
    /// An implementation runs `loader` at most once. If it returns an error other than [`LoadError::Failed`], it has
    /// not run `loader`.
    ///
    /// # Errors
    ///
    /// Returns the same errors as `get_or_load`. A [`LoadError::Failed`] contains the unchanged error of a caller's
    /// loader.
    fn get_or_load_erased(
        &self,
        key: &dyn ErasedKey<K>,
        loader: ErasedLoader<'_, V>,
    ) -> Result<V, LoadError<AnyError>>;

    /// Returns the values for several keys. Runs `loader` for the missing ones and stores its results. See
    /// [`get_many_or_load`](Self::get_many_or_load).
    ///
    /// The default implementation runs `loader` once, for all keys that [`get_erased`](Self::get_erased) does not find.
    /// It merges no loads, and an invalidation during the load does not prevent the insertion of the loaded value. Its
    /// time grows with the square of the number of missing keys.
    ///
    /// # Errors
    ///
    /// Returns the same errors as `get_many_or_load`. A [`LoadError::Failed`] contains the unchanged error of a
    /// caller's loader.
    fn get_many_or_load_erased(
        &self,
        keys: &[&dyn ErasedKey<K>],
        mut loader: ErasedBatchLoader<'_, K, V>,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        V: Clone,
    {
        let mut values = self.get_many_erased(keys);
        let missing = missing_keys(keys, &values);
        if !missing.is_empty() {
            for (key, loaded) in loader.run(missing)? {
                if store_pair(keys, &mut values, &key, &loaded.value) {
                    self.insert_loaded(key, loaded);
                }
            }
        }
        Ok(values)
    }

    /// Loads the keys that are not cached yet, in batches. See [`warm`](Self::warm).
    ///
    /// The default implementation calls [`get_many_or_load_erased`](Self::get_many_or_load_erased) for each batch. It
    /// does not know how many entries the cache has room for, so it ends with the last key.
    fn warm_erased(
        &self,
        options: WarmOptions<'_>,
        keys: &mut dyn Iterator<Item = K>,
        loader: ErasedBatchLoader<'_, K, V>,
    ) -> WarmReport<K, AnyError>
    where
        K: Hash + Eq + Clone + Sync,
        V: Clone,
    {
        warm_in_batches(self, options, keys, loader)
    }

    /// Returns `true` if the cache contains a live value for `key`. See [`contains_key`](Self::contains_key).
    fn contains_key_erased(&self, key: &dyn ErasedKey<K>) -> bool {
        self.get_erased(key).is_some()
    }

    /// Returns the time until the entry for `key` expires. See [`remaining_ttl`](Self::remaining_ttl).
    ///
    /// The default implementation returns `Duration::MAX` for each key that has a value.
    fn remaining_ttl_erased(&self, key: &dyn ErasedKey<K>) -> Option<Duration> {
        self.get_erased(key).map(|_| Duration::MAX)
    }

    /// Waits until all queued invalidations are sent to the other processes. Call it before shutdown: invalidations
    /// still queued when the process exits are lost.
    ///
    /// It waits without limit while Redis does not answer. The default implementation, which is also that of a
    /// [`LocalCache`](crate::LocalCache), returns at once.
    ///
    /// # Blocking
    ///
    /// Blocks until the queue is empty.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn Cache<u64, u64>> = Arc::new(LocalCache::new(100));
    /// prices.invalidate(&7);
    /// prices.flush();
    /// ```
    fn flush(&self) {}

    /// Returns the statistics of the cache. The default implementation returns zeros.
    fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Returns a clone of the value for `key`, or `None` if the key is absent or expired.
    #[doc(alias = "getIfPresent")]
    fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        Self: Sized,
    {
        self.get_erased(&key)
    }

    /// Returns clones of the values for several keys, in their order, with `None` for each key that is absent or
    /// expired.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn Cache<String, u64>> = Arc::new(LocalCache::new(100));
    /// prices.insert("apple".to_string(), 120);
    /// assert_eq!(prices.get_many(["apple", "pear"]), [Some(120), None]);
    /// ```
    #[doc(alias("get_all_present", "getAllPresent"))]
    fn get_many<'q, Q>(&self, keys: impl IntoIterator<Item = &'q Q>) -> Vec<Option<V>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized + 'q,
        Self: Sized,
    {
        let keys: Vec<&Q> = keys.into_iter().collect();
        self.get_many_erased(&erase_keys(&keys))
    }

    /// Returns `true` if the cache contains a live value for `key`.
    #[doc(alias = "containsKey")]
    fn contains_key<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        Self: Sized,
    {
        self.contains_key_erased(&key)
    }

    /// Returns the time until the entry for `key` expires, or `None` if the key is absent or expired.
    ///
    /// Returns `Duration::MAX` for an entry that never expires.
    #[doc(alias = "getExpiresAfter")]
    fn remaining_ttl<Q>(&self, key: &Q) -> Option<Duration>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        Self: Sized,
    {
        self.remaining_ttl_erased(&key)
    }

    /// Inserts a value with the time to live of the cache.
    #[doc(alias = "put")]
    fn insert(&self, key: K, value: V) -> Propagation {
        self.insert_loaded(key, Loaded::new(value))
    }

    /// Inserts a value with its own time to live.
    #[doc(alias = "put")]
    fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> Propagation {
        self.insert_loaded(key, Loaded::new(value).ttl(ttl))
    }

    /// Removes the entry of `key`, if there is one. A load of this key that is in flight does not store its result.
    #[doc(alias = "remove")]
    fn invalidate<Q>(&self, key: &Q) -> Propagation
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        Self: Sized,
    {
        self.invalidate_erased(&key)
    }

    /// Changes the database by `write`, then stores the new value, and invalidates the old value in all other
    /// processes.
    ///
    /// If another caller writes or invalidates the key at the same time, no cache stores either value, because only the
    /// database knows which of them is newer. `write` must not read the key through the cache.
    ///
    /// The new entry has the cache's time to live and no tags, whatever the old entry had: see
    /// [`write_through_loaded`](Self::write_through_loaded).
    ///
    /// # Errors
    ///
    /// Returns the error of `write`. The cache is not changed then. If the database may have changed despite the error,
    /// for example after a timeout, call [`invalidate`](Self::invalidate) once it can no longer change.
    ///
    /// # Panics
    ///
    /// Panics if `write` does. The key is then invalidated.
    ///
    /// # Blocking
    ///
    /// Blocks while `write` runs, and until the other processes have acknowledged the invalidation.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn store_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// use hotset::{Cache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn Cache<u64, u64>> = Arc::new(LocalCache::new(100));
    /// let propagation = prices.write_through(7, 800, |&price| store_price(7, price))?;
    /// assert!(propagation.is_acknowledged());
    /// assert_eq!(prices.get(&7), Some(800));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn write_through<E>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<Propagation, E>
    where
        K: Hash + Eq + Clone + Sync,
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
    /// # Panics
    ///
    /// See [`write_through`](Self::write_through).
    ///
    /// # Blocking
    ///
    /// Blocks like [`write_through`](Self::write_through).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn store_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// use hotset::{Cache, Loaded, LocalCache};
    ///
    /// fn set_price(prices: &impl Cache<u64, u64>, id: u64, price: u64) -> std::io::Result<bool> {
    ///     let loaded = Loaded::new(price).tags(["fruit"]);
    ///     let propagation = prices.write_through_loaded(id, loaded, |&price| store_price(id, price))?;
    ///     Ok(propagation.is_acknowledged())
    /// }
    ///
    /// assert!(set_price(&LocalCache::new(100), 7, 800)?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn write_through_loaded<E>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<Propagation, E>
    where
        K: Hash + Eq + Clone + Sync,
        Self: Sized,
    {
        let mut error = None;
        let write = ErasedWrite::new(write, &mut error);
        let written = self.write_through_erased(&&key, loaded, write);
        written.map_err(|_| error.expect(FOREIGN_FAILURE))
    }

    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// `Self` must be sized. `Arc<dyn Cache<K, V>>` is; with `cache: &dyn Cache<K, V>` call
    /// `(&cache).get_or_load(..)`.
    ///
    /// # Errors
    ///
    /// Returns an error if the load failed, or if the result of another caller's load could not be awaited: see
    /// [`LoadError`].
    ///
    /// # Blocking
    ///
    /// Blocks while `load` runs, and while another caller loads the same key.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// fn price(prices: &impl Cache<String, u64>, name: &str) -> Result<u64, Box<dyn std::error::Error>> {
    ///     Ok(prices.get_or_load(name, |name| name.parse())?)
    /// }
    ///
    /// let prices: Arc<dyn Cache<String, u64>> = Arc::new(LocalCache::new(100));
    /// assert_eq!(price(&prices, "120")?, 120);
    /// assert!(price(&prices, "apple").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias(
        "try_get_with",
        "get_value_or_guard",
        "optionally_get_with",
        "computeIfAbsent"
    ))]
    fn get_or_load<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(&Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        E: LoaderError<M>,
        Self: Sized,
    {
        self.get_or_load_entry(key, |key| load(key).map(Loaded::new))
    }

    /// Like [`get_or_load`](Self::get_or_load), but `load` returns a [`Loaded`], which has its own time to live, weight
    /// and tags.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load`](Self::get_or_load).
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, Loaded, LocalCache};
    ///
    /// fn page(pages: &impl Cache<String, String>, path: &str) -> Result<String, Box<dyn std::error::Error>> {
    ///     let read = |path: &str| std::fs::read_to_string(path).map(|page| Loaded::new(page).tags(["page"]));
    ///     Ok(pages.get_or_load_entry(path, read)?)
    /// }
    ///
    /// assert!(page(&LocalCache::new(100), "/no/such/page").is_err());
    /// ```
    #[doc(alias("try_get_with", "or_try_insert_with"))]
    fn get_or_load_entry<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(&Q) -> Result<Loaded<V>, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        E: LoaderError<M>,
        Self: Sized,
    {
        let properties = LoaderProperties::new::<E, _>(&load);
        let call = |loader: ErasedLoader<'_, V>| self.get_or_load_erased(&key, loader);
        with_erased(|| load(key), properties, call)
    }

    /// Returns the value for `key`. On a miss, computes it by `compute` and stores it.
    ///
    /// If the result of another caller's load cannot be awaited, `compute` runs for this caller, and nothing is stored.
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, LocalCache};
    ///
    /// fn length(lengths: &impl Cache<String, usize>, name: &str) -> usize {
    ///     lengths.get_or_insert_with(name, |name| name.len())
    /// }
    ///
    /// assert_eq!(length(&LocalCache::new(100), "apple"), 5);
    /// ```
    #[doc(alias("get_with", "get_or_insert", "or_insert_with"))]
    fn get_or_insert_with<Q>(&self, key: &Q, compute: impl FnOnce(&Q) -> V) -> V
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        Self: Sized,
    {
        let mut compute = Some(compute);
        let loaded = self.get_or_load(key, |key| Ok::<_, Infallible>(take_once(&mut compute)(key)));
        loaded.unwrap_or_else(|_| take_once(&mut compute)(key))
    }

    /// Returns the values for several keys, in their order. Calls `load` once for all missing keys.
    ///
    /// For a key that `load` leaves out, the result is `None` and nothing is cached. A pair for a key that `load` did
    /// not receive is ignored.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load`](Self::get_or_load), if the load of any key fails.
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, LocalCache, LoadError};
    /// use std::io;
    ///
    /// fn prices_of(prices: &impl Cache<u64, u64>, ids: &[u64]) -> Result<Vec<Option<u64>>, LoadError<io::Error>> {
    ///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
    ///     prices.get_many_or_load(ids, |missing| Ok(missing.into_iter().map(|id| (id, id * 100))))
    /// }
    ///
    /// assert_eq!(prices_of(&LocalCache::new(100), &[7, 8])?, [Some(700), Some(800)]);
    /// # Ok::<(), LoadError<io::Error>>(())
    /// ```
    #[doc(alias("getAll", "get_all"))]
    fn get_many_or_load<'q, Q, T, E, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        mut load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized + 'q,
        T: IntoIterator<Item = (K, V)>,
        E: LoaderError<M>,
        V: Clone,
        Self: Sized,
    {
        self.get_many_or_load_entries(keys, |missing| load(missing).map(into_entries))
    }

    /// Like [`get_many_or_load`](Self::get_many_or_load), but `load` returns pairs of key and [`Loaded`].
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_many_or_load`](Self::get_many_or_load).
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    #[doc(alias("getAll", "get_all"))]
    fn get_many_or_load_entries<'q, Q, T, E, M>(
        &self,
        keys: impl IntoIterator<Item = &'q Q>,
        mut load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized + 'q,
        T: IntoIterator<Item = (K, Loaded<V>)>,
        E: LoaderError<M>,
        V: Clone,
        Self: Sized,
    {
        let properties = LoaderProperties::new::<E, _>(&load);
        let mut load = |missing| share_batch(load(missing));
        let keys: Vec<&Q> = keys.into_iter().collect();
        typed_batch(|| {
            let loader = ErasedBatchLoader::new(&mut load, properties);
            self.get_many_or_load_erased(&erase_keys(&keys), loader)
        })
    }

    /// Loads the keys that are not cached yet, in batches like [`get_many_or_load`](Self::get_many_or_load), until the
    /// cache is full.
    ///
    /// `keys` may be lazy and endless. Give the most important ones first. A batch that fails does not stop the others.
    /// See [`LocalCache::warm`](crate::LocalCache::warm) and, for caches over Redis,
    /// [`TieredCache::warm_async`](crate::TieredCache::warm_async), which ends with
    /// [`WarmOutcome::NotProven`](crate::WarmOutcome::NotProven) if L1 may not store entries.
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
    /// use hotset::{Cache, LocalCache};
    /// use std::sync::Arc;
    ///
    /// let prices: Arc<dyn Cache<u64, u64>> = Arc::new(LocalCache::new(1_000));
    /// let report = prices.warm(0..500, |ids| {
    ///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// });
    /// assert_eq!((report.found, prices.get(&7)), (500, Some(700)));
    /// ```
    fn warm<T, L, E, M>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> WarmReport<K, E>
    where
        K: Hash + Eq + Clone + Sync,
        V: Clone,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
        Self: Sized,
    {
        self.warm_with(WarmOptions::new(), keys, load)
    }

    /// Like [`warm`](Self::warm), but with the given options.
    ///
    /// # Panics
    ///
    /// Like [`warm`](Self::warm), and if the listener of progress panics.
    ///
    /// # Blocking
    ///
    /// Like [`warm`](Self::warm).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Cache, LocalCache, WarmOptions, WarmReport};
    /// use std::io;
    ///
    /// fn warm(prices: &impl Cache<u64, u64>, ids: Vec<u64>) -> WarmReport<u64, io::Error> {
    ///     prices.warm_with(WarmOptions::new().batch(10), ids, |ids| {
    ///         Ok(ids.into_iter().map(|id| (id, id * 100)))
    ///     })
    /// }
    ///
    /// let prices = LocalCache::new(1_000);
    /// assert_eq!(warm(&prices, (0..100).collect()).found, 100);
    /// assert_eq!(prices.stats().loads, 10);
    /// ```
    fn warm_with<T, L, E, M>(
        &self,
        options: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
        mut load: impl FnMut(Vec<K>) -> Result<T, E>,
    ) -> WarmReport<K, E>
    where
        K: Hash + Eq + Clone + Sync,
        V: Clone,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
        Self: Sized,
    {
        let properties = LoaderProperties::new::<E, _>(&load);
        let mut load = |missing| share_batch(load(missing));
        let loader = ErasedBatchLoader::new(&mut load, properties);
        let report = self.warm_erased(options, &mut keys.into_iter(), loader);
        report.map_errors(typed_error)
    }
}
