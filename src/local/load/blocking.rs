//! `get_or_load` for threads.

use crate::entry::Loaded;
use crate::error::{LoadError, LoaderError};
use crate::local::LocalCache;
use crate::local::lookup::Lookup;
use crate::traits::erasure::{LoaderProperties, erase_loader, take_once, typed};
use equivalent::Equivalent;
use std::convert::Infallible;
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// Of all callers that miss a key together, one runs its loader. The others wait and get the same value, or the
    /// same error. `load` runs without a lock and may call the cache.
    /// [`get_or_load_entry`](Self::get_or_load_entry) takes a loader that also returns a time to live, a weight or
    /// tags. [`get_or_insert_with`](Self::get_or_insert_with) takes one that cannot fail.
    ///
    /// The key may have any borrowed form that [`ToOwned`] converts to the type of the keys, such as `&str` for keys of
    /// type `String`. For keys of type `Arc<str>`, it is an `&Arc<str>`. The key is cloned only if a load starts.
    ///
    /// - An error is not cached: the next call loads again.
    /// - A panic reaches the caller whose loader panicked. Exactly one of the waiting callers then runs its own loader.
    /// - If a loader takes longer than the lease (10 seconds by default, see
    ///   [`LocalCacheBuilder::lease`](crate::LocalCacheBuilder::lease)), exactly one of the waiting callers runs its
    ///   own loader. The late value is returned to its own caller, and is stored if no newer value was.
    /// - If the key is written to, or [`clear`](Self::clear) or [`retain`](Self::retain) is called, during the load,
    ///   then callers that already wait get the loaded value. The value is not stored, and later callers load again. So
    ///   a value that was read from a database before a change never stays in the cache, if
    ///   [`invalidate`](Self::invalidate) is called after the change.
    ///
    /// # Errors
    ///
    /// - [`Failed`](LoadError::Failed): this load, or the load that the call waited for, returned an error. If the load
    ///   that it waited for fails with an error of another type, the call runs its own loader instead.
    /// - [`WaitTimeout`](LoadError::WaitTimeout): the load of another caller, or the wait for a permit of
    ///   [`LocalCacheBuilder::max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads), took longer than
    ///   [`LocalCacheBuilder::wait_timeout`](crate::LocalCacheBuilder::wait_timeout).
    /// - [`Recursive`](LoadError::Recursive): the loader of this key called for the same key, on its own thread. There
    ///   is one exception: if both calls have a loader of the same type, the inner call is assumed to belong to another
    ///   job, which a thread of a work-stealing pool runs while the loader waits. The inner call then runs its own
    ///   loader and stores nothing, up to a depth of 8.
    ///
    /// # Panics
    ///
    /// Panics if `load` does, or if the call has to load and comes from code that [runs inside a
    /// cache](crate::LocalCache#panics), such as an `Eq` or the closure of [`get_with`](Self::get_with).
    ///
    /// # Blocking
    ///
    /// Blocks while `load` runs, in this call or in the call that it waits for. A hit never waits for a loader.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LoadError, LocalCache};
    ///
    /// let prices: LocalCache<String, u64> = LocalCache::new(1_000);
    ///
    /// let error = prices.get_or_load("apple", |_| Err("no connection")).unwrap_err();
    /// assert!(matches!(error, LoadError::Failed(reason) if *reason == "no connection"));
    ///
    /// assert_eq!(prices.get_or_load("apple", |_| "120".parse())?, 120);
    /// assert_eq!(prices.get_or_load("apple", |_| "not called".parse())?, 120);
    /// # Ok::<(), LoadError<std::num::ParseIntError>>(())
    /// ```
    #[inline]
    #[doc(alias(
        "try_get_with",
        "get_value_or_guard",
        "optionally_get_with",
        "computeIfAbsent",
        "try_get_with_by_ref",
        "optionally_get_with_by_ref",
        "or_try_insert_with",
        "or_optionally_insert_with"
    ))]
    pub fn get_or_load<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(&Q) -> Result<V, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: LoaderError<M>,
    {
        // Written out in both methods, because a function for both costs each hit about five instructions.
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            lookup => {
                let loader = LoaderProperties::new::<E, _>(&load);
                let mut load = erase_loader(|| load(key).map(Loaded::new));
                typed(self.load_blocking(&location, key, lookup, loader, &mut load))
            }
        }
    }

    /// Like [`get_or_load`](Self::get_or_load), but `load` returns a [`Loaded`], which has its own time to live, weight
    /// and tags.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`get_or_load`](Self::get_or_load).
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load`](Self::get_or_load).
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{Loaded, LocalCache};
    /// use std::time::Duration;
    ///
    /// # fn fetch_token(user: &str) -> std::io::Result<(String, u64)> { Ok((user.to_uppercase(), 300)) }
    /// let tokens: LocalCache<String, String> = LocalCache::new(1_000);
    /// let token = tokens.get_or_load_entry("alice", |user| {
    ///     let (token, seconds) = fetch_token(user)?;
    ///     Ok::<_, std::io::Error>(Loaded::new(token).ttl(Duration::from_secs(seconds)))
    /// })?;
    /// assert_eq!(token, "ALICE");
    /// assert!(tokens.remaining_ttl("alice").unwrap() <= Duration::from_secs(300));
    /// # Ok::<(), hotset::LoadError<std::io::Error>>(())
    /// ```
    #[inline]
    #[doc(alias("try_get_with", "or_try_insert_with"))]
    pub fn get_or_load_entry<Q, E, M>(
        &self,
        key: &Q,
        load: impl FnOnce(&Q) -> Result<Loaded<V>, E>,
    ) -> Result<V, LoadError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: LoaderError<M>,
    {
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            lookup => {
                let loader = LoaderProperties::new::<E, _>(&load);
                let mut load = erase_loader(|| load(key));
                typed(self.load_blocking(&location, key, lookup, loader, &mut load))
            }
        }
    }

    /// Returns the value for `key`. On a miss, computes it by `compute` and stores it.
    ///
    /// Like [`get_or_load`](Self::get_or_load), for a loader that cannot fail. Where `get_or_load` would return
    /// [`WaitTimeout`](LoadError::WaitTimeout) or [`Recursive`](LoadError::Recursive), this call runs `compute` for
    /// itself and stores nothing.
    ///
    /// # Panics
    ///
    /// Panics like [`get_or_load`](Self::get_or_load).
    ///
    /// # Blocking
    ///
    /// Blocks like [`get_or_load`](Self::get_or_load).
    ///
    /// # Examples
    ///
    /// ```
    /// let lengths: hotset::LocalCache<String, usize> = hotset::LocalCache::new(100);
    /// assert_eq!(lengths.get_or_insert_with("apple", |name| name.len()), 5);
    /// ```
    #[doc(alias(
        "get_with",
        "get_or_insert",
        "or_insert_with",
        "get_with_by_ref",
        "or_insert",
        "or_default",
        "putIfAbsent",
        "computeIfAbsent"
    ))]
    pub fn get_or_insert_with<Q>(&self, key: &Q, compute: impl FnOnce(&Q) -> V) -> V
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let mut compute = Some(compute);
        let loaded = self.get_or_load(key, |key| Ok::<_, Infallible>(take_once(&mut compute)(key)));
        loaded.unwrap_or_else(|_| take_once(&mut compute)(key))
    }
}
