//! Warming of L1 and L2: from the database, from L2, and with the keys of a snapshot.

use crate::consistency::Consistency;
use crate::entry::Loaded;
use crate::error::{LoadError, LoaderError};
use crate::local::SnapshotReport;
use crate::snapshot;
use crate::snapshot::SnapshotError;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::l2::remote::RemoteError;
use crate::tiered::{Inner, RemoteKey, RemoteValue, TieredCache};
use crate::warm::{Run, WarmOptions, WarmOutcome, WarmReport, run_all};
use std::future::Future;
use std::path::Path;

/// The number of heartbeats for which a warm-up waits for the proof that invalidations arrive.
const PROOF_HEARTBEATS: u32 = 4;

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Fills L1 with the values of these keys, in batches, until L1 is full. Loads the keys that neither L1 nor Redis
    /// has, and stores their values in Redis.
    ///
    /// Like [`LocalCache::warm_async`](crate::LocalCache::warm_async) otherwise.
    ///
    /// L1 invalidates its entries when invalidations are first [proven](crate::Health::proven_for) to arrive, so the
    /// call waits for the proof before it loads, for four heartbeats at most. Without the proof, for instance because
    /// Redis is down, a cache of the class [`Realtime`](Consistency::Realtime) stores no entries: nothing is loaded,
    /// and the report ends with [`WarmOutcome::NotProven`]. Caches of other classes load nevertheless.
    ///
    /// With [`L2Only`](Consistency::L2Only), the call fills only Redis, with as many keys as L1 has room for.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. Values that were loaded until then stay cached.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_prices(names: Vec<String>) -> std::io::Result<Vec<(String, u64)>> { Ok(Vec::new()) }
    /// # let names: Vec<String> = Vec::new();
    /// let report = prices.warm_async(names, fetch_prices).await;
    /// println!("{} prices", report.found);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn warm_async<T, L, E, F, M>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        self.warm_with_async(WarmOptions::new(), keys, load).await
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
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn fetch_prices(names: Vec<String>) -> std::io::Result<Vec<(String, u64)>> { Ok(Vec::new()) }
    /// # let names: Vec<String> = Vec::new();
    /// use hotset::WarmOptions;
    ///
    /// let options = WarmOptions::new().batch(1_000).stop_after_failures(3);
    /// let report = prices.warm_with_async(options, names, fetch_prices).await;
    /// println!("{} prices, {} failed", report.found, report.failed);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn warm_with_async<T, L, E, F, M>(
        &self,
        options: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
        load: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        F: Future<Output = Result<T, E>>,
        T: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: LoaderError<M>,
    {
        let load = &load;
        let ask = |batch: Vec<K>| async move {
            let result = self.get_many_loaded_async(&batch, load).await;
            (batch, result)
        };
        self.inner.warm(Run::new(options, keys), ask).await
    }

    /// Fills L1 with the values that Redis has for these keys. Nothing is loaded.
    ///
    /// Like [`warm_async`](Self::warm_async) otherwise. Keys that Redis does not have are left out, and the errors in
    /// the report are those of Redis. For keys that the [rollout](Self::rollout) excludes from Redis, and for all keys
    /// in shadow mode, only the values in L1 are found.
    ///
    /// # Cancel safety
    ///
    /// The future may be dropped at any time. Values that were found until then stay cached.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// # let names: Vec<String> = Vec::new();
    /// use hotset::WarmOptions;
    ///
    /// let report = prices.warm_from_l2(WarmOptions::new().batch(1_000), names).await;
    /// println!("{} prices", report.found);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn warm_from_l2(
        &self,
        options: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
    ) -> WarmReport<K, RemoteError> {
        let ask = |batch: Vec<K>| async move {
            let found = self.inner.look_up_many(&batch).await;
            let found = found.map_err(LoadError::failed);
            (batch, found)
        };
        self.inner.warm(Run::new(options, keys), ask).await
    }

    /// Writes the entries of L1 to a file, like [`LocalCache::snapshot`](crate::LocalCache::snapshot), on a thread for
    /// blocking work.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::snapshot`](crate::LocalCache::snapshot).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the file is written nevertheless.
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// let report = prices.snapshot("prices.snapshot").await?;
    /// println!("{} entries", report.entries);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn snapshot(&self, path: impl AsRef<Path>) -> Result<SnapshotReport, SnapshotError> {
        let (l1, path) = (self.inner.l1.clone(), path.as_ref().to_owned());
        let schemas = self.inner.codec.schemas.clone();
        let write = move || l1.snapshot_with_schemas(path, &schemas);
        snapshot::run_blocking(&self.inner.runtime, write).await
    }

    /// Fills L1 with the values that Redis has for the keys of a snapshot, the hottest first.
    ///
    /// Like [`warm_from_l2`](Self::warm_from_l2) otherwise. The values in the snapshot are not used, because they may
    /// have been invalidated since. A snapshot of a [`LocalCache`](crate::LocalCache) works, too.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`LocalCache::restore`](crate::LocalCache::restore), except for the schema of values.
    ///
    /// # Cancel safety
    ///
    /// See [`warm_from_l2`](Self::warm_from_l2).
    ///
    /// # Examples
    ///
    /// ```
    /// # use hotset::TieredCache;
    /// # async fn example(prices: TieredCache<String, u64>) -> Result<(), Box<dyn std::error::Error>> {
    /// use hotset::WarmOptions;
    ///
    /// // Before the process ends:
    /// prices.snapshot("prices.snapshot").await?;
    /// // In the next run:
    /// let report = prices.warm_from_snapshot(WarmOptions::new(), "prices.snapshot").await?;
    /// println!("{} prices", report.found);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn warm_from_snapshot(
        &self,
        options: WarmOptions<'_>,
        path: impl AsRef<Path>,
    ) -> Result<WarmReport<K, RemoteError>, SnapshotError> {
        let (keys, _) = self.keys_of_snapshot(path.as_ref()).await?;
        Ok(self.warm_from_l2(options, keys).await)
    }

    /// Returns the keys of a snapshot, and the length of the file.
    pub(super) async fn keys_of_snapshot(
        &self,
        path: &Path,
    ) -> Result<(Vec<K>, u64), SnapshotError> {
        let path = path.to_owned();
        let schemas = self.inner.codec.schemas.clone();
        let read = move || snapshot::keys(&path, schemas.key());
        snapshot::run_blocking(&self.inner.runtime, read).await
    }
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Runs a warming once invalidations are proven to arrive. `ask` returns the values of a batch.
    pub(super) async fn warm<E: ?Sized, I, F>(
        &self,
        run: Run<'_, K, E, I>,
        ask: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        I: Iterator<Item = K>,
        F: Future<Output = (Vec<K>, Result<Vec<Option<V>>, LoadError<E>>)>,
    {
        // L1 invalidates its entries when the proof begins.
        self.read_lease
            .proven(self.settings.heartbeat * PROOF_HEARTBEATS)
            .await;
        let needs_proof = self.settings.consistency == Consistency::Realtime;
        if needs_proof && !self.read_lease.is_all_proven(now()) {
            return run.refuse(WarmOutcome::NotProven);
        }
        run_all(run, || self.l1.room(), ask).await
    }
}
