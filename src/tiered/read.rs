//! Reads of single keys.

use crate::clock::Nanos;
use crate::consistency::Consistency;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::local::tier_hooks::Missed;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::health::count;
use crate::tiered::refresh_by_rule::{CopyInL1, DueForRefresh};
use crate::tiered::{Inner, RemoteKey, RemoteValue, TieredCache};
use crate::traits::erasure::{
    LoadResult, LoaderProperties, share_entry, share_value, take_once, typed,
};
use crate::traits::key::LookupKey;
use equivalent::Equivalent;
use std::convert::Infallible;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Returns the value for `key` from L1 or Redis, or `None` if neither has a valid one.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(price) = prices.get("apple").await {
    ///     println!("an apple costs {price}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "getIfPresent")]
    pub async fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.inner.look_up_l1(key) {
            Some(value) => Some(value),
            None => Box::pin(self.inner.look_up_missing(key.to_owned())).await,
        }
    }

    /// Returns `true` if L1 or Redis has a valid value for `key`.
    ///
    /// The call counts neither as a lookup of L1 nor as a use of its entry.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// if !prices.contains_key("apple").await {
    ///     println!("the price of an apple is not cached");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "containsKey")]
    pub async fn contains_key<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        self.remaining_ttl(key).await.is_some()
    }

    /// Returns the time until the value for `key` expires, or `None` if neither L1 nor Redis has a valid one.
    ///
    /// If L1 has the value, the result is the time until it expires there. That may be before it expires in Redis: see
    /// [`local_time_to_live`](crate::TieredCacheBuilder::local_time_to_live). Returns `Duration::MAX` for a value that
    /// never expires. The call counts neither as a lookup of L1 nor as a use of its entry.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(left) = prices.remaining_ttl("apple").await {
    ///     println!("valid for another {left:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "getExpiresAfter")]
    pub async fn remaining_ttl<Q>(&self, key: &Q) -> Option<Duration>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(left) = self.inner.remaining_ttl_in_l1(key) {
            return Some(left);
        }
        Box::pin(self.inner.remaining_ttl_in_l2(key.to_owned())).await
    }

    /// Returns the value for `key` from L1 or Redis. If neither has a valid one, runs `load` and stores its result in
    /// both.
    ///
    /// Within this process it works like
    /// [`LocalCache::get_or_load_async`](crate::LocalCache::get_or_load_async). Of all processes that miss a key
    /// together, one loads, and the others wait for it. If its load takes longer than the
    /// [lease](crate::LocalCacheBuilder::lease), another process loads, and the late value goes to its own
    /// callers and is not stored. A value whose key was invalidated during the load is not stored either.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::get_or_load_async`](crate::LocalCache::get_or_load_async). A failure of
    /// Redis is not an error: the loader runs instead.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. Another caller or another process then loads.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_price(name: String) -> std::io::Result<u64> { Ok(120) }
    /// let price = prices.get_or_load_async("apple", fetch_price).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "try_get_with")]
    #[doc(alias = "get_or_insert_async")]
    #[doc(alias = "get_value_or_guard_async")]
    #[doc(alias = "optionally_get_with")]
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
        match self.inner.look_up_to_load(key) {
            Ok(value) => Ok(value),
            Err(missed) => {
                let found = (missed, LoaderProperties::new::<E, _>(&load));
                let load = |key| share_value(load(key));
                // Boxed, so that this future stays small whatever the loader's size.
                typed(Box::pin(self.inner.load_missed(key, found, load)).await)
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
    /// # Cancel safety
    ///
    /// See [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_price(name: String) -> std::io::Result<u64> { Ok(120) }
    /// use hotset::Loaded;
    ///
    /// let load = async |name| fetch_price(name).await.map(|price| Loaded::new(price).tags(["fruit"]));
    /// let price = prices.get_or_load_entry_async("apple", load).await?;
    /// prices.invalidate_tag("fruit").await;
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
        match self.inner.look_up_to_load(key) {
            Ok(value) => Ok(value),
            Err(missed) => {
                let found = (missed, LoaderProperties::new::<E, _>(&load));
                let load = |key| share_entry(load(key));
                // Boxed, so that this future stays small whatever the loader's size.
                typed(Box::pin(self.inner.load_missed(key, found, load)).await)
            }
        }
    }

    /// Returns the value for `key` from L1 or Redis. If neither has a valid one, computes it by `compute` and stores it
    /// in both.
    ///
    /// Like [`get_or_load_async`](Self::get_or_load_async), for a loader that cannot fail. Where `get_or_load_async`
    /// would return an error, this call runs `compute` for itself and stores nothing.
    ///
    /// # Cancel safety
    ///
    /// See [`get_or_load_async`](Self::get_or_load_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(lengths: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let length = lengths.get_or_insert_with_async("apple", async |name| name.len() as u64).await;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("get_with", "get_or_insert", "or_insert_with"))]
    pub async fn get_or_insert_with_async<Q, F>(&self, key: &Q, compute: impl FnOnce(K) -> F) -> V
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future<Output = V>,
    {
        let mut compute = Some(compute);
        let load = |key: K| {
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

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Returns the value in L1, if L1 may serve it and no rule may find it due for a refresh. Counts a hit, but no
    /// miss, for a caller that looks it up again.
    #[inline]
    pub(super) fn hit_l1<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let now = now();
        if self.read_lease.may_serve(now) && !self.l1.refreshes_by_rule() {
            self.l1.hit_or_uncounted_miss(key, now)
        } else {
            None
        }
    }

    /// Returns the remaining time to live of the entry in L1, if L1 may serve it.
    pub(super) fn remaining_ttl_in_l1<Q>(&self, key: &Q) -> Option<Duration>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.may_serve(now())
            .then(|| self.l1.remaining_ttl(key))
            .flatten()
    }

    /// Returns the value in L1, if L1 may serve it, and counts a hit or a miss.
    #[inline]
    pub(super) fn look_up_l1<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let now = now();
        if !self.may_serve(now) {
            self.l1.miss();
            return None;
        }
        let value = self.l1.hit_or_uncounted_miss(key, now);
        if value.is_none() {
            self.l1.miss();
        }
        value
    }

    /// Returns the value in L1, if L1 may serve it, and counts a hit or a miss. On a miss, joins the load of L1 that is
    /// in flight or leads a new one: pass the result to [`load_missed`](Self::load_missed).
    #[inline(always)]
    pub(super) fn look_up_to_load<Q>(&self, key: &Q) -> Result<V, Missed<'_, K, V>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let now = now();
        // If L1 may not serve its entries, they are invalid after this, and the lookup misses.
        self.may_serve(now);
        self.l1.look_up_to_load(key, now)
    }

    /// Checks whether L1 may serve its entries. If not, it invalidates them and its loads in flight, so that this
    /// caller and later ones get none of them.
    #[inline]
    pub(super) fn may_serve(&self, now: Nanos) -> bool {
        self.read_lease.may_serve(now) || self.begin_epoch(now)
    }

    /// Begins an epoch in L1, after a read lease has ended. Returns whether L1 may serve entries of earlier epochs.
    #[cold]
    fn begin_epoch(&self, now: Nanos) -> bool {
        match self.settings.consistency {
            Consistency::Realtime => {
                count(&self.counters.unproven_reads);
                let map = &self.partitions.map;
                let is_proven = |part: &usize| {
                    let mut numbers = map.containing(*part);
                    numbers.all(|number| self.read_lease.is_proven(number, now))
                };
                let (proven, unproven): (Vec<_>, Vec<_>) =
                    (0..map.count_in_l1()).partition(is_proven);
                // The entries of the other partitions stay live.
                for part in unproven {
                    self.l1.invalidate_partition(part);
                }
                !proven.is_empty()
            }
            Consistency::L2Only => {
                count(&self.counters.unproven_reads);
                self.l1.invalidate_all_entries();
                false
            }
            Consistency::Bounded(_) | Consistency::L1Only => {
                // Later callers do not join a load that began before now.
                self.l1.begin_epoch();
                self.read_lease.extend(now);
                true
            }
        }
    }

    /// Invalidates the entries of a partition in L1.
    pub(super) fn invalidate_partition(&self, number: usize) {
        for part in self.partitions.map.parts_in_l1(number) {
            self.l1.invalidate_partition(part);
        }
    }

    /// Returns the value from L2 or the loader after a miss of L1, with the single flight of L1.
    pub(super) async fn load_missed<Q, F>(
        self: &Arc<Self>,
        key: &Q,
        (missed, loader): (Missed<'_, K, V>, LoaderProperties),
        load: impl FnOnce(K) -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>>,
    {
        if missed.needs_refresh() {
            let copy = CopyInL1 {
                left: self.remaining_ttl_in_l1(key).unwrap_or(Duration::ZERO),
                write: self.l1.write_in_l2(key),
            };
            let refreshing = self.refresh_by_rule(key, (missed, loader), copy, load);
            // Boxed, so that the future of a miss stays small.
            return Box::pin(refreshing).await;
        }
        // They begin with the call, and not when the caller becomes the leader.
        let limits = self.l1.wait_limits();
        let (due, mut load) = (DueForRefresh::default(), Some(load));
        let (due_ref, load_ref) = (&due, &mut load);
        let fetch = move || async move {
            let key = key.to_key();
            let load = || take_once(load_ref)(key.clone());
            self.fetch(&key, limits, due_ref, load).await
        };
        let value = self.l1.load_missed(key, missed, loader, fetch).await?;
        if let (Some(copy), Some(load)) = (due.value(), load) {
            let due = self.l1.due_for_refresh(key, value);
            return Box::pin(self.refresh_by_rule(key, (due, loader), copy, load)).await;
        }
        Ok(value)
    }
}
