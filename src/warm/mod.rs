//! Options and results of warming: loading many keys into a cache ahead of requests.

mod run;

pub(crate) use run::{Room, Run, run_all};

use crate::error::LoadError;
#[cfg(feature = "serde")]
use crate::stats::serialize::{chain, seconds};
use std::fmt;
use std::time::Duration;

/// Default maximum number of keys in a batch.
const DEFAULT_BATCH: usize = 256;

/// Default maximum number of batches in flight.
const DEFAULT_CONCURRENCY: usize = 4;

type Listener<'a> = dyn FnMut(&WarmProgress) + Send + 'a;

/// Options for warming a cache with [`LocalCache::warm_with`](crate::LocalCache::warm_with) and similar methods.
///
/// The keys are loaded in batches of 256 by default. Asynchronous methods load four batches at a time.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, WarmOptions};
///
/// let prices: LocalCache<u64, u64> = LocalCache::new(10_000);
/// let options = WarmOptions::new()
///     .batch(500)
///     .stop_after_failures(3)
///     .on_progress(|progress| println!("{} of {:?}", progress.done(), progress.total));
/// let report = prices.warm_with(options, 0..1_000, |keys| {
///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
///     Ok::<_, std::io::Error>(keys.into_iter().map(|id| (id, id * 100)))
/// });
/// assert_eq!((report.found, report.failed), (1_000, 0));
/// assert_eq!(prices.len(), 1_000);
/// ```
#[must_use = "options have no effect until they are passed to warm_with"]
pub struct WarmOptions<'a> {
    batch: usize,
    concurrency: usize,
    max_failures: Option<usize>,
    on_progress: Option<Box<Listener<'a>>>,
}

impl<'a> WarmOptions<'a> {
    /// Creates the default options, which [`LocalCache::warm`](crate::LocalCache::warm) uses.
    pub fn new() -> Self {
        Self {
            batch: DEFAULT_BATCH,
            concurrency: DEFAULT_CONCURRENCY,
            max_failures: None,
            on_progress: None,
        }
    }

    /// Sets the maximum number of keys in a batch, at least 1. Default: 256.
    ///
    /// In a cache that is bounded by weight, the first batches are smaller, until enough entries are cached to estimate
    /// their average weight.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, WarmOptions};
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// prices.warm_with(WarmOptions::new().batch(2), 0..4, |ids| {
    ///     assert_eq!(ids.len(), 2);
    ///     Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)))
    /// });
    /// ```
    pub fn batch(mut self, keys: usize) -> Self {
        self.batch = keys.max(1);
        self
    }

    /// Sets the maximum number of batches in flight, at least 1. Default: 4.
    ///
    /// Blocking methods always load one batch at a time.
    /// [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads) also applies: each batch counts as one
    /// load.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use hotset::{LocalCache, WarmOptions};
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let options = WarmOptions::new().batch(10).concurrency(8);
    /// let load = async |ids: Vec<u64>| Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)));
    /// assert_eq!(prices.warm_with_async(options, 0..100, load).await.found, 100);
    /// # }
    /// ```
    pub fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches.max(1);
        self
    }

    /// Sets the number of failed batches after which no further batch is started. Default: no limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, WarmOptions, WarmOutcome};
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let options = WarmOptions::new().batch(10).stop_after_failures(3);
    /// let report = prices.warm_with(options, 0..1_000, |_| Err::<Vec<(u64, u64)>, _>("no connection"));
    /// assert_eq!((report.end, report.failed), (WarmOutcome::Failures, 30));
    /// ```
    pub fn stop_after_failures(mut self, batches: usize) -> Self {
        self.max_failures = Some(batches);
        self
    }

    /// Sets a listener that is called after each batch, by the thread or task that warms the cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use hotset::{LocalCache, WarmOptions};
    ///
    /// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
    /// let mut seen = Vec::new();
    /// let options = WarmOptions::new().batch(50).on_progress(|progress| seen.push(progress.done()));
    /// prices.warm_with(options, 0..100, |ids| Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100))));
    /// assert_eq!(seen, [50, 100]);
    /// ```
    pub fn on_progress(mut self, listener: impl FnMut(&WarmProgress) + Send + 'a) -> Self {
        self.on_progress = Some(Box::new(listener));
        self
    }
}

impl Default for WarmOptions<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WarmOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WarmOptions")
            .field("batch", &self.batch)
            .field("concurrency", &self.concurrency)
            .field("stop_after_failures", &self.max_failures)
            .finish_non_exhaustive()
    }
}

/// The progress of warming a cache, in keys.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, WarmOptions};
///
/// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
/// let options = WarmOptions::new().on_progress(|progress| {
///     println!("{} of {:?}, {} failed", progress.done(), progress.total, progress.failed);
/// });
/// prices.warm_with(options, 0..1_000, |ids| Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100))));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmProgress {
    /// The number of keys that have a value: see [`WarmReport::found`].
    pub found: u64,
    /// The number of keys for which the loader returned no value.
    pub left_out: u64,
    /// The number of keys in batches that failed.
    pub failed: u64,
    /// The total number of keys, or `None` if the iterator does not know it exactly.
    pub total: Option<u64>,
}

impl WarmProgress {
    /// Returns the number of processed keys: found, left out or failed.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.found + self.left_out + self.failed
    }
}

/// The result of warming a cache, in keys.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, WarmOutcome};
///
/// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
/// // There is no product 7.
/// let load = |ids: Vec<u64>| Ok::<_, std::io::Error>(ids.into_iter().filter(|id| *id != 7).map(|id| (id, id * 100)));
/// let report = prices.warm(0..10, load);
/// assert_eq!((report.found, report.left_out, report.end), (9, 1, WarmOutcome::Done));
/// for batch in report.failures {
///     eprintln!("{:?}: {}", batch.keys, batch.error);
/// }
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(bound(serialize = "K: serde::Serialize"))
)]
#[non_exhaustive]
pub struct WarmReport<K, E: ?Sized> {
    /// The number of keys for which a value was cached already, loaded, or found in Redis. The cache does not always
    /// contain the value afterwards: it may be too heavy, have a time to live of zero, or have been invalidated in the
    /// meantime. A key that occurs twice counts twice.
    pub found: u64,
    /// The number of keys for which the loader returned no value.
    pub left_out: u64,
    /// The number of keys in batches that failed.
    pub failed: u64,
    /// The batches that failed, with at most 10,000 keys in total. Further keys are only counted in `failed`.
    pub failures: Vec<FailedBatch<K, E>>,
    /// The reason why the warming ended.
    pub end: WarmOutcome,
    /// The total duration of the warming.
    #[cfg_attr(feature = "serde", serde(serialize_with = "seconds"))]
    pub time_taken: Duration,
}

impl<K, E: ?Sized> WarmReport<K, E> {
    /// Converts the errors of the failed batches.
    pub(crate) fn map_errors<E2>(
        self,
        convert: impl Fn(LoadError<E>) -> LoadError<E2>,
    ) -> WarmReport<K, E2> {
        let failures = self.failures.into_iter().map(|failed| FailedBatch {
            keys: failed.keys,
            error: convert(failed.error),
        });
        WarmReport {
            found: self.found,
            left_out: self.left_out,
            failed: self.failed,
            failures: failures.collect(),
            end: self.end,
            time_taken: self.time_taken,
        }
    }
}

/// A batch of keys whose load failed. Some of the keys may still be cached, because other callers loaded them.
///
/// # Examples
///
/// ```
/// use hotset::LocalCache;
///
/// let prices: LocalCache<u64, u64> = LocalCache::new(1_000);
/// let report = prices.warm(0..3, |_| Err::<Vec<(u64, u64)>, _>("no connection"));
/// let batch = &report.failures[0];
/// assert_eq!(batch.keys, [0, 1, 2]);
/// assert_eq!(batch.error.as_inner(), Some(&"no connection"));
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(bound(serialize = "K: serde::Serialize"))
)]
#[non_exhaustive]
pub struct FailedBatch<K, E: ?Sized> {
    /// The keys of the batch, up to the limit of [`WarmReport::failures`].
    pub keys: Vec<K>,
    /// The error. It is shared with all other callers that waited for the same load.
    #[cfg_attr(feature = "serde", serde(serialize_with = "chain"))]
    pub error: LoadError<E>,
}

/// The reason why a warming ended.
///
/// # Examples
///
/// ```
/// use hotset::{LocalCache, WarmOutcome};
///
/// let prices: LocalCache<u64, u64> = LocalCache::new(100);
/// let load = |ids: Vec<u64>| Ok::<_, std::io::Error>(ids.into_iter().map(|id| (id, id * 100)));
/// assert_eq!(prices.warm(0..50, load).end, WarmOutcome::Done);
/// assert_eq!(prices.warm(50.., load).end, WarmOutcome::Full);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum WarmOutcome {
    /// All keys have been processed.
    Done,
    /// The cache is full, so that further keys would evict earlier ones. This is also the reason if as many keys were
    /// found as the cache has capacity for, although the cache has not kept all of their values.
    Full,
    /// Nothing was loaded, because there was no proof that invalidations arrive, for example because Redis was
    /// unreachable. Without this proof, a `TieredCache` of the class [`Realtime`](crate::Consistency::Realtime) stores
    /// no entries in L1. Caches of other classes do not end with this reason.
    NotProven,
    /// The number of failed batches reached [`stop_after_failures`](WarmOptions::stop_after_failures).
    Failures,
}
