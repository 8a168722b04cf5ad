//! Warming L1 and L2: from the database, from L2 alone, and by the keys of a snapshot.

use crate::consistency::Consistency;
use crate::entry::Loaded;
use crate::error::LoadError;
use crate::local::SnapshotReport;
use crate::snapshot;
use crate::snapshot::SnapshotError;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::l2::remote::RemoteError;
use crate::tiered::{Inner, RemoteKey, RemoteValue, TieredCache};
use crate::warm::{Run, WarmOptions, WarmOutcome, WarmReport, run_all};
use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;

/// How many heartbeats a warming waits for the proof that invalidations arrive, if Redis is down.
const PATIENCE: u32 = 4;

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Loads what neither L1 nor Redis holds of these keys, in batches, as
    /// [`LocalCache::warm_async`](crate::LocalCache::warm_async), until L1 is full: L1 gets what Redis
    /// holds, and Redis what is loaded.
    ///
    /// L1 forgets what it holds when it is [proven](crate::Health::proven_for) that invalidations arrive, so
    /// this waits for that first, for four heartbeats at most. A cache of the class
    /// [`Realtime`](Consistency::Realtime) keeps nothing without that proof, so where there is none by then,
    /// as when Redis is down, nothing is loaded, and the report ends with [`WarmOutcome::NotProven`]. Others load.
    ///
    /// With [`L2Only`](Consistency::L2Only) it fills Redis alone, with as many keys as L1 has room for.
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time. What was loaded until then is held.
    pub async fn warm_async<M, L, E, F>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        F: Future<Output = Result<M, E>>,
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        self.warm_with_async(WarmOptions::new(), keys, load).await
    }

    /// As [`warm_async`](Self::warm_async), as one wants it.
    ///
    /// # Cancellation
    ///
    /// As [`warm_async`](Self::warm_async).
    pub async fn warm_with_async<M, L, E, F>(
        &self,
        warming: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
        load: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        F: Future<Output = Result<M, E>>,
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let load = &load;
        let ask = |batch: Vec<K>| async move {
            let result = self.get_many_or_load_async(&batch, load).await;
            (batch, result)
        };
        self.inner.warm(Run::new(warming, keys), ask).await
    }

    /// Fills L1 with what Redis holds of these keys, as [`warm_async`](Self::warm_async). Nothing is
    /// loaded: what Redis does not hold is left out, and what fails is Redis. Of the
    /// keys that the [rollout](Self::rollout) keeps from Redis, those outside its share and in the shadow
    /// all, only those are found that L1 holds already.
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time. What was found until then is held.
    pub async fn warm_from_l2(
        &self,
        warming: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
    ) -> WarmReport<K, RemoteError> {
        let ask = |batch: Vec<K>| async move {
            let found = self.inner.look_up_many(&batch).await;
            let found = found.map_err(|error| LoadError::Failed(Arc::new(error)));
            (batch, found)
        };
        self.inner.warm(Run::new(warming, keys), ask).await
    }

    /// Writes what L1 holds to a file, as [`LocalCache::snapshot`](crate::LocalCache::snapshot), in a
    /// thread for what blocks.
    ///
    /// # Errors
    ///
    /// As [`LocalCache::snapshot`](crate::LocalCache::snapshot).
    ///
    /// # Cancellation
    ///
    /// If the future is dropped the file is written all the same.
    pub async fn snapshot(&self, path: impl AsRef<Path>) -> Result<SnapshotReport, SnapshotError> {
        let (l1, path) = (self.inner.l1.clone(), path.as_ref().to_owned());
        let schemas = self.inner.codec.schemas.clone();
        self.unblocked(move || l1.snapshot_with_schemas(path, &schemas))
            .await
    }

    /// As [`warm_from_l2`](Self::warm_from_l2), with the keys of a snapshot, hottest first. Its values are
    /// not used: they may have been invalidated while this process did not run, which Redis knows. A
    /// snapshot by a [`LocalCache`](crate::LocalCache) will do.
    ///
    /// # Errors
    ///
    /// As [`LocalCache::restore`](crate::LocalCache::restore), but for the schema of values.
    ///
    /// # Cancellation
    ///
    /// As [`warm_from_l2`](Self::warm_from_l2).
    pub async fn warm_from_snapshot(
        &self,
        warming: WarmOptions<'_>,
        path: impl AsRef<Path>,
    ) -> Result<WarmReport<K, RemoteError>, SnapshotError> {
        let path = path.as_ref().to_owned();
        let schemas = self.inner.codec.schemas.clone();
        let read = move || snapshot::keys(&path, schemas.key());
        let keys = self.unblocked(read).await?;
        Ok(self.warm_from_l2(warming, keys).await)
    }

    /// Runs what blocks where it may.
    async fn unblocked<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, SnapshotError> {
        match self.inner.runtime.spawn_blocking(run).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(io::Error::other("the runtime was shut down").into()),
            },
        }
    }
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    async fn warm<E, I, F>(
        &self,
        run: Run<'_, K, E, I>,
        ask: impl Fn(Vec<K>) -> F,
    ) -> WarmReport<K, E>
    where
        I: Iterator<Item = K>,
        F: Future<Output = (Vec<K>, Result<Vec<Option<V>>, LoadError<E>>)>,
    {
        // When the proof begins, L1 forgets what it held before.
        self.read_lease
            .proven(self.settings.heartbeat * PATIENCE)
            .await;
        let needs_proof = self.settings.consistency == Consistency::Realtime;
        if needs_proof && !self.read_lease.is_proven(now()) {
            return run.refuse(WarmOutcome::NotProven);
        }
        run_all(run, || self.l1.room(), ask).await
    }
}
