//! Filling a cache before, or while, its callers come.

mod run;

pub(crate) use run::{Room, Run, run_all};

use crate::error::LoadError;
use std::fmt;
use std::time::Duration;

const DEFAULT_BATCH: usize = 256;
const DEFAULT_CONCURRENCY: usize = 4;

type Listener<'a> = dyn FnMut(&WarmProgress) + Send + 'a;

/// How a cache is warmed, for [`LocalCache::warm_with`](crate::LocalCache::warm_with) and its kin: in batches of 256 keys, by tasks four
/// at one time, unless it is told otherwise.
///
/// ```
/// use hotset::{LocalCache, WarmOptions};
///
/// let prices: LocalCache<u64, u64> = LocalCache::new(10_000);
/// let warming = WarmOptions::new()
///     .batch(500)
///     .stop_after_failures(3)
///     .on_progress(|progress| println!("{} of {:?}", progress.done(), progress.total));
/// let report = prices.warm_with(warming, 0..1_000, |keys| {
///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
///     Ok::<_, std::io::Error>(keys.into_iter().map(|id| (id, id * 100)))
/// });
/// assert_eq!((report.found, report.failed), (1_000, 0));
/// assert_eq!(prices.len(), 1_000);
/// ```
#[must_use = "it does nothing until it is given to warm_with"]
pub struct WarmOptions<'a> {
    batch: usize,
    concurrency: usize,
    most_failures: Option<usize>,
    on_progress: Option<Box<Listener<'a>>>,
}

impl<'a> WarmOptions<'a> {
    /// As [`LocalCache::warm`](crate::LocalCache::warm) does it.
    pub fn new() -> Self {
        Self {
            batch: DEFAULT_BATCH,
            concurrency: DEFAULT_CONCURRENCY,
            most_failures: None,
            on_progress: None,
        }
    }

    /// So many keys are asked for at once, and at least one. A cache whose entries have weights is asked for
    /// less at first, until those that it holds tell what one weighs.
    pub fn batch(mut self, keys: usize) -> Self {
        self.batch = keys.max(1);
        self
    }

    /// So many batches are under way at one time, and at least one; in a thread, always one.
    /// [`max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads) bounds them together with all other
    /// loads.
    pub fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches.max(1);
        self
    }

    /// No batch is begun after so many have failed. Default: all are tried.
    pub fn stop_after_failures(mut self, batches: usize) -> Self {
        self.most_failures = Some(batches);
        self
    }

    /// Is told after each batch how far it is, by the thread or task that warms.
    pub fn on_progress(mut self, told: impl FnMut(&WarmProgress) + Send + 'a) -> Self {
        self.on_progress = Some(Box::new(told));
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
            .field("stop_after_failures", &self.most_failures)
            .finish_non_exhaustive()
    }
}

/// How far a warming is, in keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmProgress {
    /// Those that have a value: see [`WarmReport::found`].
    pub found: u64,
    /// Those of which the loader had nothing.
    pub left_out: u64,
    /// Those of batches that failed.
    pub failed: u64,
    /// How many there are, if their iterator knows exactly.
    pub total: Option<u64>,
}

impl WarmProgress {
    /// How many are done with, one way or another.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.found + self.left_out + self.failed
    }
}

/// What came of a warming, in keys.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WarmReport<K, E> {
    /// Those that have a value: that was held already, or was loaded, or found in Redis. It is not always
    /// held now: it may be too heavy, or live for no time, or have been invalidated meanwhile. A key that
    /// comes twice counts twice.
    pub found: u64,
    /// Those of which the loader had nothing.
    pub left_out: u64,
    /// Those of batches that failed.
    pub failed: u64,
    /// The batches that failed, until they have 10,000 keys together. `failed` counts the others too.
    pub failures: Vec<FailedBatch<K, E>>,
    /// Why it ended.
    pub end: WarmOutcome,
    /// How long it took.
    pub time_taken: Duration,
}

/// Keys that failed together, and why. Some of them may be held all the same: those that others loaded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailedBatch<K, E> {
    /// The keys, as far as the report has room.
    pub keys: Vec<K>,
    /// The error, which others who waited for the same load share.
    pub error: LoadError<E>,
}

/// Why a warming ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarmOutcome {
    /// There were no more keys.
    Done,
    /// The cache is full: what came later would have taken the place of what came before. Or as many keys
    /// were found as the cache has room for, though it did not keep them.
    Full,
    /// Nothing was loaded, since a `TieredCache` of the class
    /// [`Realtime`](crate::Consistency::Realtime) would not have kept it: it was not
    /// proven that invalidations arrive, as when Redis is down.
    NotProven,
    /// As many batches failed as [`stop_after_failures`](WarmOptions::stop_after_failures) allows.
    Failures,
}
