//! A cache for tests that fails, hangs or is slow on command (feature `testing`).

use crate::clock::{Instant, precise_now};
use crate::consistency::Propagation;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::LocalCache;
use crate::single_flight::blocking::block_on;
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{Pending, Timer, poll_until};
use crate::stats::Stats;
use crate::traits::{
    AsyncCache, Cache, CacheFuture, ErasedAsyncBatchLoader, ErasedAsyncLoader, ErasedAsyncWrite,
    ErasedBatchLoader, ErasedKey, ErasedLoader, ErasedWrite, WriteFailed,
};
use crate::warm::{Run, WarmOptions, WarmOutcome, WarmReport};
use parking_lot::Mutex;
use std::cell::Cell;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

/// The behavior of a [`TestCache`].
///
/// # Examples
///
/// ```
/// use hotset::Cache;
/// use hotset::testing::{Fault, TestCache};
///
/// let prices = TestCache::new();
/// prices.insert(7, 120);
/// prices.set_fault(Fault::Fail);
/// assert_eq!(prices.get(&7), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Fault {
    /// The cache works.
    #[default]
    None,
    /// Reads find nothing. Writes and invalidations have no effect and return [`Propagation::Queued`], and
    /// `write_through` only runs its write. Calls that load return [`LoadError::WaitTimeout`] without running their
    /// loader. Calls that warm the cache end with [`WarmOutcome::NotProven`].
    Fail,
    /// Calls do not return until the fault is changed.
    Hang,
    /// Each call waits for this long, and then works.
    Delay(Duration),
}

/// A cache for tests that fails, hangs or is slow on command. It implements [`Cache`] and [`AsyncCache`].
///
/// Give it to code that is written against one of the traits, and set a [`Fault`] to test how the code behaves. Clones
/// are handles to the same cache. The waits of tasks follow the time of tokio, which a test may pause. A blocking call
/// in a runtime whose clock is paused waits until another task advances the clock.
///
/// # Examples
///
/// ```
/// use hotset::testing::{Fault, TestCache};
/// use hotset::{AsyncCache, LoadError};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// /// The code under test: it answers without the cache if that takes too long.
/// async fn price(prices: Arc<dyn AsyncCache<u64, u64>>, id: u64) -> Option<u64> {
///     let load = |id| async move { Ok::<_, std::io::Error>(id * 100) };
///     let limit = Duration::from_secs(1);
///     tokio::time::timeout(limit, prices.get_or_load_async(&id, load)).await.ok()?.ok()
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// let prices = TestCache::new();
/// assert_eq!(price(Arc::new(prices.clone()), 7).await, Some(700));
///
/// prices.set_fault(Fault::Hang);
/// assert_eq!(price(Arc::new(prices.clone()), 7).await, None);
///
/// prices.set_fault(Fault::Fail);
/// let result = prices.get_or_load_async(&7, |_| async { Err("not called") }).await;
/// assert!(matches!(result, Err(LoadError::WaitTimeout)));
/// # });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TestCache<K, V> {
    cache: LocalCache<K, V>,
    state: Arc<Mutex<State>>,
}

/// The fault of a cache, and the callers that wait until it changes.
#[derive(Default)]
struct State {
    fault: Fault,
    waiting: Vec<Waker>,
}

impl State {
    /// Registers a caller that waits until the fault changes.
    fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|other| other.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }
}

/// The error of a call to a cache that fails.
struct Failed;

/// Applies a change, unless the cache fails.
fn applied<T>(passed: Result<(), Failed>, change: impl FnOnce() -> T) -> Propagation {
    passed.map_or(Propagation::Queued, |()| {
        change();
        Propagation::Acknowledged
    })
}

impl<K: Eq + Hash, V> TestCache<K, V> {
    /// Creates a cache that works. It has no bound, and its entries do not expire unless they are stored with a time to
    /// live.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cache: LocalCache::from_iter([]),
            state: Arc::default(),
        }
    }
}

impl<K: Eq + Hash, V> Default for TestCache<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> TestCache<K, V> {
    /// Sets the behavior of the cache. Calls that hang or are delayed continue with the new behavior.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::Cache;
    /// use hotset::testing::{Fault, TestCache};
    ///
    /// let prices = TestCache::new();
    /// prices.insert(7, 120);
    /// prices.set_fault(Fault::Fail);
    /// assert_eq!(prices.get(&7), None);
    /// prices.set_fault(Fault::None);
    /// assert_eq!(prices.get(&7), Some(120));
    /// ```
    pub fn set_fault(&self, fault: Fault) {
        let mut state = self.state.lock();
        state.fault = fault;
        let waiting = std::mem::take(&mut state.waiting);
        // Waking runs the code of an executor.
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Returns the underlying cache, to prepare or to check its entries. It works whatever the fault is.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::Cache;
    /// use hotset::testing::{Fault, TestCache};
    ///
    /// let prices = TestCache::new();
    /// prices.set_fault(Fault::Fail);
    /// prices.insert("apple", 120); // has no effect
    /// assert!(prices.inner().is_empty());
    /// ```
    #[must_use]
    pub fn inner(&self) -> &LocalCache<K, V> {
        &self.cache
    }

    /// Waits as long as the fault requires.
    async fn pass(&self, timer: &mut impl Timer) -> Result<(), Failed> {
        let mut end_of_delay: Option<Instant> = None;
        let poll = |cx: &mut Context<'_>| {
            let mut state = self.state.lock();
            match state.fault {
                Fault::None => Ok(Ok(())),
                Fault::Fail => Ok(Err(Failed)),
                Fault::Hang => {
                    state.wait(cx.waker());
                    Err(Pending { again: None })
                }
                Fault::Delay(by) => {
                    let now = precise_now();
                    if end_of_delay.is_none() {
                        end_of_delay = now.checked_add(by);
                    }
                    if end_of_delay.is_some_and(|end| end <= now) {
                        return Ok(Ok(()));
                    }
                    state.wait(cx.waker());
                    Err(Pending {
                        again: end_of_delay,
                    })
                }
            }
        };
        poll_until(timer, None, poll).await.unwrap_or(Err(Failed))
    }

    /// Waits as long as the fault requires, in a task.
    async fn pass_task(&self) -> Result<(), Failed> {
        self.pass(&mut TaskTimer::default()).await
    }

    /// Waits as long as the fault requires, on this thread.
    fn pass_thread(&self) -> Result<(), Failed> {
        block_on(&Cell::new(None), async |mut timer| {
            self.pass(&mut timer).await
        })
    }

    /// Applies a change on this thread as the fault requires.
    fn change_on_thread<T>(&self, change: impl FnOnce() -> T) -> Propagation {
        applied(self.pass_thread(), change)
    }

    /// Applies a change in a task as the fault requires.
    async fn change_in_task<T>(&self, change: impl FnOnce() -> T) -> Propagation {
        applied(self.pass_task().await, change)
    }
}

impl<K, V> Cache<K, V> for TestCache<K, V>
where
    K: Eq + Hash + Clone + Send + Sync,
    V: Clone + Send + Sync,
{
    fn get_erased(&self, key: &dyn ErasedKey<K>) -> Option<V> {
        self.pass_thread().ok()?;
        Cache::get_erased(&self.cache, key)
    }

    fn get_many_erased(&self, keys: &[&dyn ErasedKey<K>]) -> Vec<Option<V>> {
        match self.pass_thread() {
            Ok(()) => Cache::get_many_erased(&self.cache, keys),
            Err(Failed) => vec![None; keys.len()],
        }
    }

    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> Propagation {
        self.change_on_thread(|| self.cache.insert_loaded(key, loaded))
    }

    fn invalidate_erased(&self, key: &dyn ErasedKey<K>) -> Propagation {
        self.change_on_thread(|| Cache::invalidate_erased(&self.cache, key))
    }

    fn invalidate_tag(&self, tag: &str) -> Propagation {
        self.change_on_thread(|| self.cache.invalidate_tag(tag))
    }

    fn clear(&self) -> Propagation {
        self.change_on_thread(|| self.cache.clear())
    }

    fn write_through_erased(
        &self,
        key: &dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedWrite<'_, V>,
    ) -> Result<Propagation, WriteFailed> {
        match self.pass_thread() {
            Ok(()) => Cache::write_through_erased(&self.cache, key, loaded, write),
            Err(Failed) => write.run(&loaded.value).map(|()| Propagation::Queued),
        }
    }

    fn get_or_load_erased(
        &self,
        key: &dyn ErasedKey<K>,
        loader: ErasedLoader<'_, V>,
    ) -> Result<V, LoadError<AnyError>> {
        self.pass_thread()
            .map_err(|Failed| LoadError::WaitTimeout)?;
        Cache::get_or_load_erased(&self.cache, key, loader)
    }

    fn get_many_or_load_erased(
        &self,
        keys: &[&dyn ErasedKey<K>],
        loader: ErasedBatchLoader<'_, K, V>,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>> {
        self.pass_thread()
            .map_err(|Failed| LoadError::WaitTimeout)?;
        Cache::get_many_or_load_erased(&self.cache, keys, loader)
    }

    fn warm_erased(
        &self,
        options: WarmOptions<'_>,
        keys: &mut dyn Iterator<Item = K>,
        loader: ErasedBatchLoader<'_, K, V>,
    ) -> WarmReport<K, AnyError> {
        match self.pass_thread() {
            Ok(()) => Cache::warm_erased(&self.cache, options, keys, loader),
            Err(Failed) => Run::new(options, keys).refuse(WarmOutcome::NotProven),
        }
    }

    fn flush(&self) {
        // A cache that fails has nothing queued.
        let _ = self.pass_thread();
    }

    fn contains_key_erased(&self, key: &dyn ErasedKey<K>) -> bool {
        self.pass_thread().is_ok() && Cache::contains_key_erased(&self.cache, key)
    }

    fn remaining_ttl_erased(&self, key: &dyn ErasedKey<K>) -> Option<Duration> {
        self.pass_thread().ok()?;
        Cache::remaining_ttl_erased(&self.cache, key)
    }

    fn stats(&self) -> Stats {
        self.cache.stats()
    }
}

impl<K, V> AsyncCache<K, V> for TestCache<K, V>
where
    K: Eq + Hash + Clone + Send + Sync,
    V: Clone + Send + Sync,
{
    fn get_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Option<V>> {
        CacheFuture::new(async move {
            self.pass_task().await.ok()?;
            AsyncCache::get_erased(&self.cache, key).await
        })
    }

    fn get_many_erased<'a>(
        &'a self,
        keys: &'a [&'a dyn ErasedKey<K>],
    ) -> CacheFuture<'a, Vec<Option<V>>> {
        CacheFuture::new(async move {
            match self.pass_task().await {
                Ok(()) => Cache::get_many_erased(&self.cache, keys),
                Err(Failed) => vec![None; keys.len()],
            }
        })
    }

    fn insert_loaded(&self, key: K, loaded: Loaded<V>) -> CacheFuture<'_, Propagation> {
        CacheFuture::new(self.change_in_task(move || self.cache.insert_loaded(key, loaded)))
    }

    fn invalidate_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, Propagation> {
        CacheFuture::new(self.change_in_task(move || Cache::invalidate_erased(&self.cache, key)))
    }

    fn invalidate_tag<'a>(&'a self, tag: &'a str) -> CacheFuture<'a, Propagation> {
        CacheFuture::new(self.change_in_task(move || self.cache.invalidate_tag(tag)))
    }

    fn clear(&self) -> CacheFuture<'_, Propagation> {
        CacheFuture::new(self.change_in_task(move || self.cache.clear()))
    }

    fn write_through_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        loaded: Loaded<V>,
        write: ErasedAsyncWrite<'a, V>,
    ) -> CacheFuture<'a, Result<Propagation, WriteFailed>> {
        CacheFuture::new(async move {
            if self.pass_task().await.is_err() {
                write.run(loaded.value).await?;
                return Ok(Propagation::Queued);
            }
            AsyncCache::write_through_erased(&self.cache, key, loaded, write).await
        })
    }

    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
        loader: ErasedAsyncLoader<'a, K, V>,
    ) -> CacheFuture<'a, Result<V, LoadError<AnyError>>> {
        CacheFuture::new(async move {
            let passed = self.pass_task().await;
            passed.map_err(|Failed| LoadError::WaitTimeout)?;
            AsyncCache::get_or_load_erased(&self.cache, key, loader).await
        })
    }

    fn get_many_or_load_erased<'a>(
        &'a self,
        keys: &'a [&'a dyn ErasedKey<K>],
        loader: ErasedAsyncBatchLoader<'a, K, V>,
    ) -> CacheFuture<'a, Result<Vec<Option<V>>, LoadError<AnyError>>> {
        CacheFuture::new(async move {
            let passed = self.pass_task().await;
            passed.map_err(|Failed| LoadError::WaitTimeout)?;
            AsyncCache::get_many_or_load_erased(&self.cache, keys, loader).await
        })
    }

    fn warm_erased<'a>(
        &'a self,
        options: WarmOptions<'a>,
        keys: &'a mut (dyn Iterator<Item = K> + Send + 'a),
        loader: ErasedAsyncBatchLoader<'a, K, V>,
    ) -> CacheFuture<'a, WarmReport<K, AnyError>> {
        CacheFuture::new(async move {
            match self.pass_task().await {
                Ok(()) => AsyncCache::warm_erased(&self.cache, options, keys, loader).await,
                Err(Failed) => Run::new(options, keys).refuse(WarmOutcome::NotProven),
            }
        })
    }

    fn flush(&self) -> CacheFuture<'_, ()> {
        CacheFuture::new(async move {
            let _ = self.pass_task().await;
        })
    }

    fn contains_key_erased<'a>(&'a self, key: &'a dyn ErasedKey<K>) -> CacheFuture<'a, bool> {
        CacheFuture::new(async move {
            self.pass_task().await.is_ok() && Cache::contains_key_erased(&self.cache, key)
        })
    }

    fn remaining_ttl_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<K>,
    ) -> CacheFuture<'a, Option<Duration>> {
        CacheFuture::new(async move {
            self.pass_task().await.ok()?;
            Cache::remaining_ttl_erased(&self.cache, key)
        })
    }

    fn stats(&self) -> Stats {
        self.cache.stats()
    }
}

impl<K, V> Clone for TestCache<K, V> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            state: Arc::clone(&self.state),
        }
    }
}

impl<K, V> fmt::Debug for TestCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCache")
            .field("fault", &self.state.lock().fault)
            .field("cache", &self.cache)
            .finish()
    }
}
