//! The public methods for writes and invalidations.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::tiered::l2::remote::Subject;
use crate::tiered::load::Fetched;
use crate::tiered::publish::{Change, NewEntry};
use crate::tiered::{RemoteKey, RemoteValue, TieredCache};
use crate::traits::write::InvalidateOnDrop;
use equivalent::Equivalent;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::hash::Hash;
use std::time::{Duration, Instant};

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Invalidates the value for a key in this process, in Redis and in all other processes.
    ///
    /// Call it after the database was changed. A load of the key that is in flight in any process does not store its
    /// result.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after it was polled, the invalidation continues.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn store_price(name: &str, price: u64) -> std::io::Result<()> { Ok(()) }
    /// use hotset::Propagation;
    ///
    /// store_price("apple", 130).await?;
    /// if prices.invalidate("apple").await == Propagation::Queued {
    ///     println!("Redis is unreachable: other processes are notified later");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("remove", "delete"))]
    pub async fn invalidate<Q>(&self, key: &Q) -> Propagation
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let key = key.to_owned();
        let Some(name) = self.inner.key_name(&key) else {
            self.inner.l1.remove(&key);
            return Propagation::LocalOnly;
        };
        let change = Change::invalidation(Subject::Key(name), Some(&key));
        self.inner.publish(change).await
    }

    /// Invalidates all values that have this [tag](Loaded::tags). Like [`invalidate`](Self::invalidate) otherwise.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after it was polled, the invalidation continues.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// prices.invalidate_tag("fruit").await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn invalidate_tag(&self, tag: &str) -> Propagation {
        let change = Change::invalidation(Subject::Tag(tag.into()), None);
        self.inner.publish(change).await
    }

    /// Invalidates all values of the namespace. Like [`invalidate`](Self::invalidate) otherwise.
    ///
    /// Redis is not scanned. The values there become invalid, because their version is older than that of the call, and
    /// are deleted when their time to live ends.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after it was polled, the invalidation continues.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// prices.clear().await;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("invalidate_all", "invalidateAll"))]
    pub async fn clear(&self) -> Propagation {
        let change = Change::invalidation(Subject::All, None);
        self.inner.publish(change).await
    }

    /// Waits until all queued invalidations are sent. Call it before shutdown: invalidations still queued when the
    /// process exits are lost.
    ///
    /// It waits without limit while Redis does not answer, so use a timeout:
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<u64, u64>) {
    /// let limit = std::time::Duration::from_secs(10);
    /// if tokio::time::timeout(limit, prices.flush()).await.is_err() {
    ///     eprintln!("{} invalidations were not sent", prices.health().queued);
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time.
    pub async fn flush(&self) {
        for partition in self.inner.partitions.iter() {
            partition.pending_invalidations.emptied().await;
        }
    }

    /// Inserts a value into L1 and Redis, and invalidates the old value in all other processes.
    ///
    /// If another caller inserts or invalidates the key at the same time, the later call wins, in the order in which Redis
    /// receives them. While Redis cannot be reached, nothing is stored. A value that Redis cannot store is stored in this process's L1, and the result is
    /// [`Propagation::NotShared`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while it asks Redis for the old value, nothing is changed. If it is dropped later, the
    /// insertion continues.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// prices.insert("apple".to_string(), 120).await;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "put")]
    pub async fn insert(&self, key: K, value: V) -> Propagation {
        self.insert_loaded(key, Loaded::new(value)).await
    }

    /// Inserts a value with its own time to live. Like [`insert`](Self::insert) otherwise.
    ///
    /// # Cancel safety
    ///
    /// See [`insert`](Self::insert).
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let minute = std::time::Duration::from_secs(60);
    /// prices.insert_with_ttl("apple".to_string(), 120, minute).await;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias("put", "put_with_ttl"))]
    pub async fn insert_with_ttl(&self, key: K, value: V, ttl: Duration) -> Propagation {
        self.insert_loaded(key, Loaded::new(value).ttl(ttl)).await
    }

    /// Inserts a value with its own time to live, weight and tags. Like [`insert`](Self::insert) otherwise.
    ///
    /// # Cancel safety
    ///
    /// See [`insert`](Self::insert).
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// use hotset::Loaded;
    /// use std::time::Duration;
    ///
    /// let price = Loaded::new(120).ttl(Duration::from_secs(60)).tags(["fruit"]);
    /// prices.insert_loaded("apple".to_string(), price).await;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "put")]
    pub async fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> Propagation {
        let no_write = |_: &V| ready(Ok::<_, Infallible>(()));
        match self.write(key, loaded, no_write, true).await {
            Ok(propagation) => propagation,
            Err(never) => match never {},
        }
    }

    /// Changes the database by `write`, then stores the new value in L1 and Redis, and invalidates the old value in all
    /// other processes.
    ///
    /// If another caller writes or invalidates the key at the same time, no cache stores either value, because only the
    /// database knows which of them is newer. `write` must not read the key through the cache: it would wait for itself
    /// until the [lease](crate::LocalCacheBuilder::lease) ends.
    ///
    /// A value that Redis cannot store is stored in this process's L1, and the result is
    /// [`Propagation::NotShared`].
    ///
    /// The new entry has the cache's time to live and no tags, whatever the old entry had: see
    /// [`write_through_loaded`](Self::write_through_loaded).
    ///
    /// ```
    /// # use hotset::{Propagation, TieredCache};
    /// # async fn example(prices: TieredCache<u64, u64>) -> std::io::Result<()> {
    /// # async fn update_price(id: u64, price: u64) -> std::io::Result<()> { Ok(()) }
    /// let propagation = prices.write_through(7, 800, |price| update_price(7, price)).await?;
    /// if propagation == Propagation::Queued {
    ///     // The database has the new price. Other processes get the invalidation once Redis answers again.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the error of `write`. The caches are not changed then. If the database may have changed despite the
    /// error, for example after a timeout, call [`invalidate`](Self::invalidate) once it can no longer change.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while `write` runs, the key is invalidated, because it is unknown whether the database
    /// has changed. If it is dropped later, the write continues.
    pub async fn write_through<E, F>(
        &self,
        key: K,
        value: V,
        write: impl FnOnce(V) -> F,
    ) -> Result<Propagation, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        self.write_through_loaded(key, Loaded::new(value), write)
            .await
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
    pub async fn write_through_loaded<E, F>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: impl FnOnce(V) -> F,
    ) -> Result<Propagation, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let write = |value: &V| write(value.clone());
        Box::pin(self.write(key, loaded, write, false)).await
    }

    /// Changes the database by `write`, and then the caches. For an insertion, `write` does nothing.
    async fn write<E, F>(
        &self,
        key: K,
        mut loaded: Loaded<V>,
        write: impl FnOnce(&V) -> F,
        is_inserted: bool,
    ) -> Result<Propagation, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let inner = &self.inner;
        inner.l1.apply_expire_after(&key, &mut loaded);
        let (begun, epoch) = (Instant::now(), inner.l1.epoch());
        let Some(name) = inner.key_name(&key) else {
            let complete = |loaded| inner.for_l1(Fetched::written(loaded, begun));
            let written = inner.l1.write_and_insert(key, loaded, write, complete);
            return written.await.map(|()| Propagation::LocalOnly);
        };
        let prior = inner.prior_state(&name, is_inserted).await;
        let subject = Subject::Key(name);
        let interrupted = InvalidateOnDrop::new(|| {
            let invalidation = Change::invalidation(subject.clone(), None);
            drop(inner.spawn_publication(invalidation));
        });
        let written = write(&loaded.value).await;
        interrupted.disarm();
        written?;
        let change = Change {
            subject,
            key: Some(key),
            value: Some(NewEntry {
                loaded,
                prior,
                is_inserted,
                begun,
                epoch,
            }),
        };
        Ok(inner.publish(change).await)
    }
}
