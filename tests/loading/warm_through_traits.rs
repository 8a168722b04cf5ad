//! Warming through trait objects, and of caches that implement only the required methods of the traits.

use hotset::{
    AnyError, AsyncCache, BatchResult, Cache, CacheFuture, ErasedAsyncBatchLoader,
    ErasedAsyncLoader, ErasedBatchLoader, ErasedKey, ErasedLoader, LoadError, Loaded, LocalCache,
    Propagation, WarmOptions, WarmOutcome,
};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Returns the rows of a batch, or the error "odd" if its first key is odd.
fn rows(keys: Vec<u64>) -> Result<Vec<(u64, u64)>, &'static str> {
    if keys[0] % 2 == 1 {
        return Err("odd");
    }
    Ok(keys.into_iter().map(|key| (key, key * 10)).collect())
}

fn blocking(cache: LocalCache<u64, u64>) -> Arc<dyn Cache<u64, u64>> {
    Arc::new(cache)
}

fn tasks(cache: LocalCache<u64, u64>) -> Arc<dyn AsyncCache<u64, u64>> {
    Arc::new(cache)
}

#[test]
fn trait_object_warms_a_local_cache_until_it_is_full() {
    let cache = LocalCache::new(100);
    let report = blocking(cache.clone()).warm(0.., rows);
    assert_eq!((report.found, report.end), (100, WarmOutcome::Full));
    assert_eq!((cache.len(), cache.get(&99)), (100, Some(990)));
}

#[tokio::test]
async fn trait_object_for_tasks_warms_a_local_cache_until_it_is_full() {
    let cache = LocalCache::new(100);
    let tasks = tasks(cache.clone());
    let report = tasks.warm_async(0.., async |keys| rows(keys)).await;
    assert_eq!((report.found, report.end), (100, WarmOutcome::Full));
    assert_eq!((cache.len(), cache.get(&99)), (100, Some(990)));
}

#[test]
fn report_of_a_trait_object_has_errors_of_the_type_of_the_loader() {
    let cache = LocalCache::new(100);
    let mut done = Vec::new();
    let options = WarmOptions::new()
        .batch(3)
        .on_progress(|it| done.push((it.done(), it.total)));
    let report = blocking(cache.clone()).warm_with(options, 0..9, rows);
    assert_eq!((report.found, report.failed), (6, 3));
    assert_eq!(report.failures[0].keys, [3, 4, 5]);
    assert_eq!(report.failures[0].error.as_inner(), Some(&"odd"));
    assert_eq!(done, [(3, Some(9)), (6, Some(9)), (9, Some(9))]);
    assert_eq!(cache.stats().loads, 3);
}

#[tokio::test]
async fn report_of_a_trait_object_for_tasks_has_errors_of_the_type_of_the_loader() {
    let cache = LocalCache::new(100);
    let options = WarmOptions::new().batch(3);
    let tasks = tasks(cache);
    let warming = tasks.warm_with_async(options, 0..9, async |keys| rows(keys));
    let report = warming.await;
    assert_eq!((report.found, report.failed), (6, 3));
    assert_eq!(report.failures[0].keys, [3, 4, 5]);
    assert_eq!(report.failures[0].error.as_inner(), Some(&"odd"));
}

#[tokio::test]
async fn trait_object_for_tasks_loads_several_batches_at_one_time() {
    let cache = LocalCache::new(100);
    let barrier = tokio::sync::Barrier::new(3);
    let load = |keys: Vec<u64>| async {
        // Ends only once three batches are in flight.
        barrier.wait().await;
        Ok::<_, Infallible>(keys.into_iter().map(|key| (key, Loaded::new(key))))
    };
    let options = WarmOptions::new().batch(10).concurrency(3);
    let report = tasks(cache).warm_with_async(options, 0..30, load).await;
    assert_eq!(report.found, 30);
}

/// A cache without a bound that stores pairs, and whose batches fail with a foreign error at first.
#[derive(Default)]
struct Double {
    pairs: Mutex<Vec<(u64, u64)>>,
    /// The number of batches that fail before the others.
    foreign_errors: AtomicUsize,
}

impl Double {
    fn find(&self, key: &dyn ErasedKey<u64>) -> Option<u64> {
        let pairs = self.pairs.lock().unwrap();
        let pair = pairs.iter().find(|(own, _)| key.is_form_of(own));
        pair.map(|(_, value)| *value)
    }

    /// Returns the error of another caller's load, as long as some are left.
    fn check(&self) -> Result<(), LoadError<AnyError>> {
        let take_one = |left: usize| left.checked_sub(1);
        match self.foreign_errors.fetch_update(SeqCst, SeqCst, take_one) {
            Ok(_) => Err(LoadError::erased(404_u16.to_string())),
            Err(_) => Ok(()),
        }
    }

    fn store(&self, rows: BatchResult<u64, u64>) -> Result<Vec<Option<u64>>, LoadError<AnyError>> {
        let rows: Vec<_> = rows?
            .into_iter()
            .map(|(key, row)| (key, row.into_value()))
            .collect();
        self.pairs.lock().unwrap().extend(&rows);
        Ok(rows.into_iter().map(|(_, value)| Some(value)).collect())
    }
}

impl Cache<u64, u64> for Double {
    fn get_erased(&self, key: &dyn ErasedKey<u64>) -> Option<u64> {
        self.find(key)
    }
    fn insert_loaded(&self, _: u64, _: Loaded<u64>) -> Propagation {
        Propagation::Acknowledged
    }
    fn invalidate_erased(&self, _: &dyn ErasedKey<u64>) -> Propagation {
        Propagation::Acknowledged
    }
    fn invalidate_tag(&self, _: &str) -> Propagation {
        Propagation::Acknowledged
    }
    fn clear(&self) -> Propagation {
        Propagation::Acknowledged
    }
    fn get_or_load_erased(
        &self,
        _: &dyn ErasedKey<u64>,
        mut loader: ErasedLoader<'_, u64>,
    ) -> Result<u64, LoadError<AnyError>> {
        loader.run().map(Loaded::into_value)
    }
    fn get_many_or_load_erased(
        &self,
        keys: &[&dyn ErasedKey<u64>],
        mut loader: ErasedBatchLoader<'_, u64, u64>,
    ) -> Result<Vec<Option<u64>>, LoadError<AnyError>> {
        self.check()?;
        self.store(loader.run(keys.iter().map(|key| key.to_key()).collect()))
    }
}

impl AsyncCache<u64, u64> for Double {
    fn get_erased<'a>(&'a self, key: &'a dyn ErasedKey<u64>) -> CacheFuture<'a, Option<u64>> {
        CacheFuture::ready(self.find(key))
    }
    fn insert_loaded(&self, _: u64, _: Loaded<u64>) -> CacheFuture<'_, Propagation> {
        CacheFuture::ready(Propagation::Acknowledged)
    }
    fn invalidate_erased<'a>(&'a self, _: &'a dyn ErasedKey<u64>) -> CacheFuture<'a, Propagation> {
        CacheFuture::ready(Propagation::Acknowledged)
    }
    fn invalidate_tag<'a>(&'a self, _: &'a str) -> CacheFuture<'a, Propagation> {
        CacheFuture::ready(Propagation::Acknowledged)
    }
    fn clear(&self) -> CacheFuture<'_, Propagation> {
        CacheFuture::ready(Propagation::Acknowledged)
    }
    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<u64>,
        mut loader: ErasedAsyncLoader<'a, u64, u64>,
    ) -> CacheFuture<'a, Result<u64, LoadError<AnyError>>> {
        CacheFuture::new(async move { loader.run(key.to_key()).await.map(Loaded::into_value) })
    }
    fn get_many_or_load_erased<'a>(
        &'a self,
        keys: &'a [&'a dyn ErasedKey<u64>],
        mut loader: ErasedAsyncBatchLoader<'a, u64, u64>,
    ) -> CacheFuture<'a, Result<Vec<Option<u64>>, LoadError<AnyError>>> {
        CacheFuture::new(async move {
            self.check()?;
            let keys = keys.iter().map(|key| key.to_key()).collect();
            self.store(loader.run(keys).await)
        })
    }
}

#[test]
fn default_warming_loads_every_batch() {
    let double = Double::default();
    let options = WarmOptions::new().batch(4);
    let report = Cache::warm_with(&double, options, 0..10, rows);
    assert_eq!((report.found, report.end), (10, WarmOutcome::Done));
    assert_eq!(double.pairs.lock().unwrap().len(), 10);
    let failed = Cache::warm(&double, [1], rows);
    assert_eq!(failed.failures[0].error.as_inner(), Some(&"odd"));
}

#[tokio::test]
async fn default_warming_of_tasks_loads_every_batch() {
    let double = Double::default();
    let options = WarmOptions::new().batch(4);
    let report = double.warm_with_async(options, 0..10, async |keys| rows(keys));
    let report = report.await;
    assert_eq!((report.found, report.end), (10, WarmOutcome::Done));
    assert_eq!(double.pairs.lock().unwrap().len(), 10);
    let failed = double.warm_async([1], async |keys| rows(keys)).await;
    assert_eq!(failed.failures[0].error.as_inner(), Some(&"odd"));
}

#[tokio::test]
async fn default_warming_repeats_a_batch_after_an_error_of_another_type() {
    let double = Double::default();
    double.foreign_errors.store(3, SeqCst);
    let report = Cache::warm(&double, [0, 2], rows);
    assert_eq!((report.found, report.failed), (2, 0));
    double.foreign_errors.store(3, SeqCst);
    let report = double.warm_async([0, 2], async |keys| rows(keys)).await;
    assert_eq!((report.found, report.failed), (2, 0));
}

#[test]
#[should_panic(expected = "an error that is not its loader's")]
fn default_warming_panics_if_foreign_errors_do_not_end() {
    let double = Double::default();
    double.foreign_errors.store(usize::MAX, SeqCst);
    Cache::warm(&double, [0, 2], rows);
}

#[tokio::test]
async fn flush_of_a_cache_without_other_processes_returns_at_once() {
    blocking(LocalCache::new(1)).flush();
    tasks(LocalCache::new(1)).flush().await;
    Cache::flush(&Double::default());
    AsyncCache::flush(&Double::default()).await;
}

#[tokio::test]
async fn warming_through_a_trait_can_be_spawned() {
    let tasks = tasks(LocalCache::new(10));
    let warming = async move { tasks.warm_async(0..5, async |keys| rows(keys)).await };
    assert_eq!(tokio::spawn(warming).await.unwrap().found, 5);
}
