//! Changes of the database and of the cache in one call.

use crate::entry::Loaded;
use crate::local::{DefaultHasher, KeyLocation, LocalCache};
use crate::single_flight::Leader;
use crate::single_flight::blocking::block_on;
use crate::traits::write::InvalidateOnDrop;
use std::cell::Cell;
use std::future::{Future, ready};
use std::hash::{BuildHasher, Hash};

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Changes the database by `write`, then stores the new value.
    ///
    /// Readers get the old value until `write` has returned. If the key is written to, invalidated or loaded meanwhile,
    /// the cache stores neither value, because only the database knows which of them is newer. So of two callers that
    /// write one key at the same time, none leaves an outdated value in the cache. Loads of the key that are in flight
    /// do not store their results.
    ///
    /// The new entry has the cache's time to live and no tags, whatever the old entry had: see
    /// [`write_through_loaded`](Self::write_through_loaded). `write` runs with no lock held and may call the cache, but
    /// if it writes or loads this key, the value is not stored.
    ///
    /// # Errors
    ///
    /// Returns the error of `write`. The cache is not changed then. If the database may have changed despite the error,
    /// for example after a timeout, call [`invalidate`](Self::invalidate) once it can no longer change.
    ///
    /// # Panics
    ///
    /// Panics if `write` does. The key is then invalidated, because it is unknown whether the database has changed.
    ///
    /// # Blocking
    ///
    /// Blocks while `write` runs.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn update_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// use hotset::LocalCache;
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// prices.write_through(7, 800, |&price| update_price(7, price))?;
    /// assert_eq!(prices.get(&7), Some(800));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("put", "writeThrough", "CacheWriter"))]
    pub fn write_through<E>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<(), E> {
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
    /// Blocks while `write` runs.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn update_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// use hotset::{Loaded, LocalCache};
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let price = Loaded::new(800).tags(["fruit"]);
    /// prices.write_through_loaded(7, price, |&price| update_price(7, price))?;
    /// prices.invalidate_tag("fruit");
    /// assert_eq!(prices.get(&7), None);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_through_loaded<E>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(&V) -> Result<(), E>,
    ) -> Result<(), E> {
        let write = |value: &V| ready(write(value));
        let insertion = self.write_and_insert(key, loaded, write, |loaded| loaded);
        block_on(&Cell::new(None), |_| insertion)
    }

    /// Like [`write_through`](Self::write_through), but for tasks. `write` is given a clone of the value.
    ///
    /// # Errors
    ///
    /// See [`write_through`](Self::write_through).
    ///
    /// # Panics
    ///
    /// See [`write_through`](Self::write_through).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while `write` runs, the key is invalidated, because it is unknown whether the database
    /// has changed. If the database may still change after that, run the call in a task that is not cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn update_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use hotset::LocalCache;
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// prices.write_through_async(7, 800, |price| update_price(7, price)).await?;
    /// assert_eq!(prices.get(&7), Some(800));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_through_async<E, F>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(V) -> F,
    ) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        self.write_through_loaded_async(key, Loaded::new(value), write)
            .await
    }

    /// Like [`write_through_async`](Self::write_through_async), for a value with its own time to live, weight and tags.
    ///
    /// # Errors
    ///
    /// See [`write_through`](Self::write_through).
    ///
    /// # Panics
    ///
    /// See [`write_through`](Self::write_through).
    ///
    /// # Cancel safety
    ///
    /// See [`write_through_async`](Self::write_through_async).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn update_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// use hotset::{Loaded, LocalCache};
    /// use std::time::Duration;
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let price = Loaded::new(800).ttl(Duration::from_secs(60));
    /// prices.write_through_loaded_async(7, price, |price| update_price(7, price)).await?;
    /// assert!(prices.remaining_ttl(&7).unwrap() <= Duration::from_secs(60));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn write_through_loaded_async<E, F>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(V) -> F,
    ) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let write = |value: &V| write(value.clone());
        let insertion = self.write_and_insert(key, loaded, write, |loaded| loaded);
        // Boxed, so that this future stays small whatever the size of the write.
        Box::pin(insertion).await
    }

    /// Changes the database by `write`, then inserts the value, completed by `complete`. Removes the entry instead if
    /// the key was written to since the call, or if `write` or the insertion is interrupted.
    pub(crate) async fn write_and_insert<E, F>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(&V) -> F,
        complete: impl FnOnce(Loaded<V>) -> Loaded<V>,
    ) -> Result<(), E>
    where
        F: Future<Output = Result<(), E>>,
    {
        // Begun before the write, so that it fails if the key is changed during the write.
        let insertion = self.begin_insertion(&key);
        let interrupted = InvalidateOnDrop::new(|| self.invalidate(&key));
        let written = write(&loaded.value).await;
        if written.is_ok() && !insertion.commit(key.clone(), complete(loaded)) {
            self.invalidate(&key);
        }
        interrupted.disarm();
        written
    }

    /// Begins the insertion of a value that the caller gets from elsewhere. The value is stored unless the key is
    /// written to meanwhile.
    pub(crate) fn begin_insertion(&self, key: &K) -> ConditionalInsertion<'_, K, V, S> {
        let location = self.location(key);
        let claim = self.claim(&location, key.clone());
        ConditionalInsertion {
            cache: self,
            location,
            claim,
        }
    }
}

/// The insertion of a value from elsewhere. The value is stored unless the key was written to since the insertion was
/// begun.
pub(crate) struct ConditionalInsertion<'a, K, V, S = DefaultHasher> {
    cache: &'a LocalCache<K, V, S>,
    location: KeyLocation<'a, K, V>,
    claim: Leader<'a, K, V>,
}

impl<K, V, S> ConditionalInsertion<'_, K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Stores the value. Returns `false` if the key was written to meanwhile.
    pub(crate) fn commit(self, key: K, loaded: Loaded<V>) -> bool {
        self.commit_as_of(u64::MAX, key, loaded)
    }

    /// Stores a value like [`commit`](Self::commit), if it was read in an earlier [epoch](LocalCache::epoch).
    /// Invalidations since then apply to it.
    pub(crate) fn commit_as_of(mut self, epoch: u64, key: K, loaded: Loaded<V>) -> bool {
        let cache = self.cache;
        let mut removals = cache.removals();
        let provenance = cache.provenance(&loaded, self.claim.epoch.min(epoch), 0);
        let claim = Some(&mut self.claim);
        let stored = cache.store(
            &self.location,
            key,
            loaded,
            provenance,
            claim,
            &mut removals,
        );
        drop(self);
        removals.finish();
        stored.is_ok()
    }
}
