//! The implementations of the backend-neutral traits.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::LocalCache;
use crate::local::load::batch::BatchLookup;
use crate::local::lookup::Lookup;
use crate::stats::Stats;
use crate::traits::key::DynKey;
use crate::traits::{
    AsyncCache, Cache, CacheFuture, ErasedAsyncBatchLoader, ErasedAsyncLoader, ErasedAsyncWrite,
    ErasedBatchLoader, ErasedKey, ErasedLoader, ErasedWrite, WriteFailed,
};
use crate::warm::{Run, WarmOptions, WarmReport, run_all};
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

impl<K, V, S> Cache<K, V> for LocalCache<K, V, S>
where
    K: Eq + Hash + Clone + Send + Sync,
    V: Clone + Send + Sync,
    S: BuildHasher + Send + Sync,
{
    fn get_erased(&self, key: &dyn ErasedKey<K>) -> Option<V> {
        self.get(&DynKey(key))
    }

    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> Propagation {
        self.insert_loaded(key, loaded);
        Propagation::Acknowledged
    }

    fn invalidate_erased(&self, key: &dyn ErasedKey<K>) -> Propagation {
        self.invalidate(&DynKey(key));
        Propagation::Acknowledged
    }

    fn invalidate_tag(&self, tag: &str) -> Propagation {
        self.invalidate_tag(tag);
        Propagation::Acknowledged
    }

    fn clear(&self) -> Propagation {
        self.clear();
        Propagation::Acknowledged
    }

    fn write_through_erased(
        &self,
        key: &dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedWrite<'_, V>,
    ) -> Result<Propagation, WriteFailed> {
        let written = self.write_through_loaded(key.to_key(), loaded, |value| write.run(value));
        written.map(|()| Propagation::Acknowledged)
    }

    fn get_or_load_erased(
        &self,
        key: &dyn ErasedKey<K>,
        mut loader: ErasedLoader<'_, V>,
    ) -> Result<V, LoadError<AnyError>> {
        let key = &DynKey(key);
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            lookup => {
                let properties = loader.properties;
                self.load_blocking(&location, key, lookup, properties, &mut || loader.run())
            }
        }
    }

    fn get_many_or_load_erased(
        &self,
        keys: &[&dyn ErasedKey<K>],
        mut loader: ErasedBatchLoader<'_, K, V>,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>> {
        let keys: Vec<_> = keys.iter().map(|key| DynKey(*key)).collect();
        let error_type = loader.properties.error_type;
        let load = |missing| loader.run(missing);
        self.get_many_or_load_blocking(keys.iter().collect(), error_type, load)
    }

    fn warm_erased(
        &self,
        options: WarmOptions<'_>,
        keys: &mut dyn Iterator<Item = K>,
        mut loader: ErasedBatchLoader<'_, K, V>,
    ) -> WarmReport<K, AnyError> {
        let error_type = loader.properties.error_type;
        let load = |batch: &[K]| {
            let load = |missing| loader.run(missing);
            self.get_many_or_load_blocking(batch.iter().collect(), error_type, load)
        };
        Run::new(options, keys).run_blocking(|| self.room(), load)
    }

    fn contains_key_erased(&self, key: &dyn ErasedKey<K>) -> bool {
        self.contains_key(&DynKey(key))
    }

    fn remaining_ttl_erased(&self, key: &dyn ErasedKey<K>) -> Option<Duration> {
        self.remaining_ttl(&DynKey(key))
    }

    fn stats(&self) -> Stats {
        self.stats()
    }
}

impl<K, V, S> AsyncCache<K, V> for LocalCache<K, V, S>
where
    K: Eq + Hash + Clone + Send + Sync,
    V: Clone + Send + Sync,
    S: BuildHasher + Send + Sync,
{
    fn get_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Option<V>> {
        CacheFuture::ready(self.get(&DynKey(key)))
    }

    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> CacheFuture<'_, Propagation> {
        self.insert_loaded(key, loaded);
        CacheFuture::ready(Propagation::Acknowledged)
    }

    fn invalidate_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Propagation> {
        self.invalidate(&DynKey(key));
        CacheFuture::ready(Propagation::Acknowledged)
    }

    fn invalidate_tag<'a>(&'a self, tag: &'a str) -> CacheFuture<'a, Propagation> {
        self.invalidate_tag(tag);
        CacheFuture::ready(Propagation::Acknowledged)
    }

    fn clear(&self) -> CacheFuture<'_, Propagation> {
        self.clear();
        CacheFuture::ready(Propagation::Acknowledged)
    }

    fn write_through_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedAsyncWrite<'a, V>,
    ) -> CacheFuture<'a, Result<Propagation, WriteFailed>> {
        CacheFuture::new(async move {
            let write = |value| write.run(value);
            self.write_through_loaded_async(key.to_key(), loaded, write)
                .await
                .map(|()| Propagation::Acknowledged)
        })
    }

    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        mut loader: ErasedAsyncLoader<'a, K, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
        let location = self.location(&DynKey(key));
        match self.lookup(&location, &DynKey(key)) {
            Lookup::Hit(value) => CacheFuture::ready(Ok(value)),
            lookup => CacheFuture::new(async move {
                let found = (lookup, loader.properties);
                let load = || loader.run(key.to_key());
                self.load_async(location, &DynKey(key), found, load).await
            }),
        }
    }

    fn get_many_or_load_erased<'a>(
        &'a self,
        keys: &'a [&'a dyn ErasedKey<K>],
        mut loader: ErasedAsyncBatchLoader<'a, K, V>,
    ) -> CacheFuture<'a, Result<Vec<Option<V>>, LoadError<AnyError>>> {
        CacheFuture::new(async move {
            let keys: Vec<_> = keys.iter().map(|key| DynKey(*key)).collect();
            let error_type = loader.properties.error_type;
            let load = |missing| loader.run(missing);
            let (keys, lookup) = (keys.iter().collect(), BatchLookup::Recorded);
            self.get_many_or_load_shared(keys, error_type, lookup, self.wait_limits(), load)
                .await
        })
    }

    fn warm_erased<'a>(
        &'a self,
        options: WarmOptions<'a>,
        keys: &'a mut (dyn Iterator<Item = K> + Send + 'a),
        loader: ErasedAsyncBatchLoader<'a, K, V>,
    ) -> CacheFuture<'a, WarmReport<K, AnyError>> {
        CacheFuture::new(async move {
            let error_type = loader.properties.error_type;
            // Locked while the loader creates a future, and not while that runs.
            let loader = &Mutex::new(loader);
            let load_batch = |batch: Vec<K>| async move {
                let load = |missing| loader.lock().run(missing);
                let (keys, lookup) = (batch.iter().collect(), BatchLookup::Recorded);
                let limits = self.wait_limits();
                let result = self.get_many_or_load_shared(keys, error_type, lookup, limits, load);
                let result = result.await;
                (batch, result)
            };
            run_all(Run::new(options, keys), || self.room(), load_batch).await
        })
    }

    fn contains_key_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, bool> {
        CacheFuture::ready(self.contains_key(&DynKey(key)))
    }

    fn remaining_ttl_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
    ) -> CacheFuture<'a, Option<Duration>> {
        CacheFuture::ready(self.remaining_ttl(&DynKey(key)))
    }

    fn stats(&self) -> Stats {
        self.stats()
    }
}
