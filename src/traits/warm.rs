//! Warming in batches, for the default methods of the traits.

use crate::error::{AnyError, LoadError};
use crate::traits::batch::erase_keys;
use crate::traits::erasure::{
    BoxedBatchLoad, ErasedAsyncBatchLoader, ErasedBatchLoader, FOREIGN_ERROR, MAX_REPETITIONS,
    repeat_batch,
};
use crate::traits::{AsyncCache, Cache, CacheFuture};
use crate::warm::{Room, Run, WarmOptions, WarmReport, run_all};
use parking_lot::Mutex;
use std::hash::Hash;

/// Loads keys by one call of `get_many_or_load_erased` for each batch.
pub(super) fn warm_in_batches<K, V, C>(
    cache: &C,
    options: WarmOptions<'_>,
    keys: &mut dyn Iterator<Item = K>,
    mut loader: ErasedBatchLoader<'_, K, V>,
) -> WarmReport<K, AnyError>
where
    K: Hash + Eq + Clone + Sync,
    V: Clone,
    C: Cache<K, V> + ?Sized,
{
    let properties = loader.properties;
    let mut load = |missing| loader.run(missing);
    let load_batch = |batch: &[K]| {
        let keys: Vec<&K> = batch.iter().collect();
        repeat_batch(properties, || {
            let loader = ErasedBatchLoader::new(&mut load, properties);
            cache.get_many_or_load_erased(&erase_keys(&keys), loader)
        })
    };
    Run::new(options, keys).run_blocking(|| Room::UNKNOWN, load_batch)
}

/// Loads keys like [`warm_in_batches`], with several batches in flight.
pub(super) fn warm_in_batches_async<'a, K, V, C>(
    cache: &'a C,
    options: WarmOptions<'a>,
    keys: &'a mut (dyn Iterator<Item = K> + Send + 'a),
    loader: ErasedAsyncBatchLoader<'a, K, V>,
) -> CacheFuture<'a, WarmReport<K, AnyError>>
where
    K: Hash + Eq + Clone + Send + Sync,
    V: Clone + Send + Sync,
    C: AsyncCache<K, V> + ?Sized,
{
    CacheFuture::new(async move {
        let loader = &Mutex::new(loader);
        let load_batch = |batch: Vec<K>| async move {
            let result = load_batch(cache, &batch, loader).await;
            (batch, result)
        };
        run_all(Run::new(options, keys), || Room::UNKNOWN, load_batch).await
    })
}

/// Loads a batch. `loader` is locked while it creates a future, and not while that runs.
async fn load_batch<K, V, C>(
    cache: &C,
    batch: &[K],
    loader: &Mutex<ErasedAsyncBatchLoader<'_, K, V>>,
) -> Result<Vec<Option<V>>, LoadError<AnyError>>
where
    K: Hash + Eq + Clone + Send + Sync,
    V: Clone + Send + Sync,
    C: AsyncCache<K, V> + ?Sized,
{
    let keys: Vec<&K> = batch.iter().collect();
    let keys = erase_keys(&keys);
    let properties = loader.lock().properties;
    for _ in 0..=MAX_REPETITIONS {
        let mut load = |missing| -> BoxedBatchLoad<'_, K, V> { loader.lock().run(missing) };
        let loader = ErasedAsyncBatchLoader::new(&mut load, properties);
        let result = cache.get_many_or_load_erased(&keys, loader).await;
        if properties.error_type.accepts_result(&result) {
            return result;
        }
    }
    panic!("{FOREIGN_ERROR}");
}
