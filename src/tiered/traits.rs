//! The implementations of the backend-neutral traits.

use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError, LoaderError};
use crate::stats::Stats;
use crate::tiered::{BlockingCache, RemoteKey, RemoteValue, TieredCache};
use crate::traits::key::DynKey;
use crate::traits::{
    AsyncCache, Cache, CacheFuture, ErasedAsyncBatchLoader, ErasedAsyncLoader, ErasedAsyncWrite,
    ErasedBatchLoader, ErasedKey, ErasedLoader, ErasedWrite, WriteFailed,
};
use crate::warm::{Run, WarmOptions, WarmReport};
use equivalent::Equivalent;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::future::{Future, ready};
use std::hash::Hash;
use std::time::Duration;

impl<K: RemoteKey, V: RemoteValue> AsyncCache<K, V> for TieredCache<K, V> {
    fn get_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Option<V>> {
        match self.inner.look_up_l1(&DynKey(key)) {
            Some(value) => CacheFuture::ready(Some(value)),
            None => CacheFuture::new(self.inner.look_up_missing(key.to_key())),
        }
    }

    fn get_many_erased<'a>(
        &'a self,
        keys: &'a [&'a dyn ErasedKey<K>],
    ) -> CacheFuture<'a, Vec<Option<V>>> {
        let keys: Vec<K> = keys.iter().map(|key| key.to_key()).collect();
        let values = self.inner.look_up_many_in_l1(&keys);
        CacheFuture::new(async move { self.inner.look_up_many_missing(&keys, values).await })
    }

    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> CacheFuture<'_, Propagation> {
        CacheFuture::new(self.insert_loaded(key, loaded))
    }

    fn invalidate_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Propagation> {
        CacheFuture::new(async move { self.invalidate(&key.to_key()).await })
    }

    fn invalidate_tag<'a>(&'a self, tag: &'a str) -> CacheFuture<'a, Propagation> {
        CacheFuture::new(self.invalidate_tag(tag))
    }

    fn clear(&self) -> CacheFuture<'_, Propagation> {
        CacheFuture::new(self.clear())
    }

    fn write_through_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedAsyncWrite<'a, V>,
    ) -> CacheFuture<'a, Result<Propagation, WriteFailed>> {
        CacheFuture::new(async move {
            let write = |value| write.run(value);
            self.write_through_loaded(key.to_key(), loaded, write).await
        })
    }

    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        mut loader: ErasedAsyncLoader<'a, K, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
        let inner = &self.inner;
        if let Some(value) = inner.hit_l1(&DynKey(key)) {
            return CacheFuture::ready(Ok(value));
        }
        CacheFuture::new(async move {
            let key = &DynKey(key);
            // Looked up again when the future is polled: the read lease may have ended since.
            let missed = match inner.look_up_to_load(key) {
                Ok(value) => return Ok(value),
                Err(missed) => missed,
            };
            let found = (missed, loader.properties);
            inner.load_missed(key, found, |key| loader.run(key)).await
        })
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
            let keys = keys.iter().collect();
            self.inner.get_many_or_load(keys, error_type, load).await
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
            let ask = |batch: Vec<K>| async move {
                let load = |missing| loader.lock().run(missing);
                let keys = batch.iter().collect();
                let result = self.inner.get_many_or_load(keys, error_type, load).await;
                (batch, result)
            };
            self.inner.warm(Run::new(options, keys), ask).await
        })
    }

    fn flush(&self) -> CacheFuture<'_, ()> {
        CacheFuture::new(self.flush())
    }

    fn contains_key_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, bool> {
        CacheFuture::new(async move { self.contains_key(&key.to_key()).await })
    }

    fn remaining_ttl_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
    ) -> CacheFuture<'a, Option<Duration>> {
        CacheFuture::new(async move { self.remaining_ttl(&key.to_key()).await })
    }

    fn stats(&self) -> Stats {
        self.stats()
    }

    fn get_or_load_entry_async<Q, E, F, M>(
        &self,
        key: &Q,
        load: impl FnOnce(K) -> F + Send,
    ) -> impl Future<Output = Result<V, LoadError<E>>> + Send
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + Sync + ?Sized,
        F: Future<Output = Result<Loaded<V>, E>> + Send,
        E: LoaderError<M>,
    {
        // The method of the type, which needs no boxed loader.
        self.get_or_load_entry_async(key, load)
    }
}

impl<K: RemoteKey, V: RemoteValue> Cache<K, V> for BlockingCache<K, V> {
    fn get_erased(&self, key: &dyn ErasedKey<K>) -> Option<V> {
        match self.tier.inner.look_up_l1(&DynKey(key)) {
            Some(value) => Some(value),
            None => self.wait(self.tier.inner.look_up_missing(key.to_key())),
        }
    }

    fn get_many_erased(&self, keys: &[&dyn ErasedKey<K>]) -> Vec<Option<V>> {
        let keys: Vec<K> = keys.iter().map(|key| key.to_key()).collect();
        let inner = &self.tier.inner;
        let values = inner.look_up_many_in_l1(&keys);
        if values.iter().all(Option::is_some) {
            return values;
        }
        self.wait(inner.look_up_many_missing(&keys, values))
    }

    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> Propagation {
        self.wait(self.tier.insert_loaded(key, loaded))
    }

    fn invalidate_erased(&self, key: &dyn ErasedKey<K>) -> Propagation {
        self.invalidate(&key.to_key())
    }

    fn invalidate_tag(&self, tag: &str) -> Propagation {
        self.invalidate_tag(tag)
    }

    fn clear(&self) -> Propagation {
        self.wait(self.tier.clear())
    }

    fn write_through_erased(
        &self,
        key: &dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedWrite<'_, V>,
    ) -> Result<Propagation, WriteFailed> {
        self.write_through_loaded(key.to_key(), loaded, |value| write.run(value))
    }

    fn get_or_load_erased(
        &self,
        key: &dyn ErasedKey<K>,
        mut loader: ErasedLoader<'_, V>,
    ) -> Result<V, LoadError<AnyError>> {
        let (inner, key) = (&self.tier.inner, &DynKey(key));
        match inner.look_up_to_load(key) {
            Ok(value) => Ok(value),
            Err(missed) => {
                let found = (missed, loader.properties);
                self.wait(inner.load_missed(key, found, |_| ready(loader.run())))
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
        let load = |missing| ready(loader.run(missing));
        let keys = keys.iter().collect();
        self.wait(self.tier.inner.get_many_or_load(keys, error_type, load))
    }

    fn warm_erased(
        &self,
        options: WarmOptions<'_>,
        keys: &mut dyn Iterator<Item = K>,
        loader: ErasedBatchLoader<'_, K, V>,
    ) -> WarmReport<K, AnyError> {
        let error_type = loader.properties.error_type;
        let loader = &RefCell::new(loader);
        let inner = &self.tier.inner;
        let ask = |batch: Vec<K>| async move {
            let load = |missing| ready(loader.borrow_mut().run(missing));
            let keys = batch.iter().collect();
            let result = inner.get_many_or_load(keys, error_type, load).await;
            (batch, result)
        };
        // One batch at a time, because the loader blocks.
        let run = Run::new(options.concurrency(1), keys);
        self.wait(inner.warm(run, ask))
    }

    fn flush(&self) {
        self.wait(self.tier.flush());
    }

    fn contains_key_erased(&self, key: &dyn ErasedKey<K>) -> bool {
        Cache::remaining_ttl_erased(self, key).is_some()
    }

    fn remaining_ttl_erased(&self, key: &dyn ErasedKey<K>) -> Option<Duration> {
        match self.tier.inner.remaining_ttl_in_l1(&DynKey(key)) {
            Some(left) => Some(left),
            None => self.wait(self.tier.inner.remaining_ttl_in_l2(key.to_key())),
        }
    }

    fn stats(&self) -> Stats {
        self.tier.stats()
    }
}
