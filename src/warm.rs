//! Filling a cache before, or while, its callers come.

use crate::entry::Loaded;
use crate::error::LoadError;
use crate::local::LocalCache;
use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, Hash};
use std::iter::Peekable;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

const DEFAULT_BATCH: usize = 256;
const DEFAULT_CONCURRENCY: usize = 4;

type Listener<'a> = dyn FnMut(&WarmProgress) + Send + 'a;

/// Keys of failed batches that a report lists.
const MOST_LISTED: usize = 10_000;

/// How a cache is warmed, for [`LocalCache::warm_with`] and its kin: in batches of 256 keys, by tasks four
/// at one time, unless it is told otherwise.
///
/// ```
/// use hotset::{LocalCache, Warming};
///
/// let prices: LocalCache<u64, u64> = LocalCache::new(10_000);
/// let warming = Warming::new()
///     .batch(500)
///     .stop_after_failures(3)
///     .on_progress(|progress| println!("{} of {:?}", progress.done(), progress.total));
/// let report = prices.warm_with(warming, 0..1_000, |keys| {
///     // Your query: `SELECT id, cents FROM prices WHERE id IN (..)`.
///     Ok::<_, std::io::Error>(keys.into_iter().map(|id| (id, id * 100)))
/// });
/// assert_eq!((report.held, report.failed), (1_000, 0));
/// assert_eq!(prices.len(), 1_000);
/// ```
#[must_use = "it does nothing until it is given to warm_with"]
pub struct Warming<'a> {
    batch: usize,
    concurrency: usize,
    most_failures: Option<usize>,
    on_progress: Option<Box<Listener<'a>>>,
}

impl<'a> Warming<'a> {
    /// As [`LocalCache::warm`] does it.
    pub fn new() -> Self {
        Self {
            batch: DEFAULT_BATCH,
            concurrency: DEFAULT_CONCURRENCY,
            most_failures: None,
            on_progress: None,
        }
    }

    /// So many keys are asked for at once, and at least one.
    pub fn batch(mut self, keys: usize) -> Self {
        self.batch = keys.max(1);
        self
    }

    /// So many batches are under way at one time, and at least one; in a thread, always one.
    /// [`max_concurrent_loads`](crate::Builder::max_concurrent_loads) bounds them together with all other
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

impl Default for Warming<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Warming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warming")
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
    /// Those that were held already, or loaded.
    pub held: u64,
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
        self.held + self.left_out + self.failed
    }
}

/// What came of a warming, in keys.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WarmReport<K, E> {
    /// Those that were held already, or loaded.
    pub held: u64,
    /// Those of which the loader had nothing.
    pub left_out: u64,
    /// Those of batches that failed.
    pub failed: u64,
    /// The batches that failed, until they have 10,000 keys together. `failed` counts the others too.
    pub failures: Vec<FailedBatch<K, E>>,
    /// Why it ended.
    pub end: WarmEnd,
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
pub enum WarmEnd {
    /// There were no more keys.
    Done,
    /// The cache is full: what came later would have taken the place of what came before.
    Full,
    /// As many batches failed as [`stop_after_failures`](Warming::stop_after_failures) allows.
    Failures,
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Loads what is not held of these keys, in batches, as
    /// [`get_many_or_load`](Self::get_many_or_load) does, until the cache is full.
    ///
    /// `keys` may be lazy and without end: they are taken as they are needed. Give the ones that matter
    /// most first. `load` is as for `get_many_or_load`: single flight, `max_concurrent_loads` and
    /// invalidations that win hold, so the cache may be in use meanwhile. A batch that fails does not
    /// stop the others.
    ///
    /// It stops when there is room for no more entries, with those that other callers load meanwhile; where
    /// entries have weights, for none of the average weight of what is held.
    ///
    /// # Blocking
    ///
    /// This thread loads, one batch after the other.
    ///
    /// # Panics
    ///
    /// If `load` or the iterator does, at once. What was loaded before is held.
    pub fn warm<M, L, E>(
        &self,
        keys: impl IntoIterator<Item = K>,
        load: impl FnMut(Vec<K>) -> Result<M, E>,
    ) -> WarmReport<K, E>
    where
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        self.warm_with(Warming::new(), keys, load)
    }

    /// As [`warm`](Self::warm), as one wants it.
    ///
    /// # Blocking
    ///
    /// As [`warm`](Self::warm).
    ///
    /// # Panics
    ///
    /// As [`warm`](Self::warm), and if the listener to progress does.
    pub fn warm_with<M, L, E>(
        &self,
        warming: Warming<'_>,
        keys: impl IntoIterator<Item = K>,
        mut load: impl FnMut(Vec<K>) -> Result<M, E>,
    ) -> WarmReport<K, E>
    where
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let mut run = Run::new(warming, keys);
        while let Some(batch) = run.next_batch(room(self)) {
            let result = self.get_many_or_load(&batch, &mut load);
            run.note(batch, result);
        }
        run.finish()
    }

    /// As [`warm`](Self::warm), for tasks, on any runtime: several batches at one time.
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
        self.warm_with_async(Warming::new(), keys, load).await
    }

    /// As [`warm_async`](Self::warm_async), as one wants it.
    ///
    /// # Cancellation
    ///
    /// As [`warm_async`](Self::warm_async).
    pub async fn warm_with_async<M, L, E, F>(
        &self,
        warming: Warming<'_>,
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
        run_all(Run::new(warming, keys), || room(self), ask).await
    }
}

/// How many more entries of the usual weight there is room for.
pub(crate) fn room<K, V, S>(cache: &LocalCache<K, V, S>) -> u64
where
    K: Eq + Hash,
    S: BuildHasher,
{
    let free = || {
        let Some(capacity) = cache.capacity() else {
            return u64::MAX;
        };
        let usual = cache.weight() / (cache.len() as u64).max(1);
        capacity.saturating_sub(cache.weight()) / usual.max(1)
    };
    match free() {
        // What is held may be dead.
        0 if cache.evict_expired() > 0 => free(),
        room => room,
    }
}

/// A warming under way.
pub(crate) struct Run<'a, K, E, I: Iterator<Item = K>> {
    warming: Warming<'a>,
    keys: Peekable<I>,
    /// Keys that were asked for.
    under_way: usize,
    progress: WarmProgress,
    failed_batches: usize,
    failures: Vec<FailedBatch<K, E>>,
    listed: usize,
    end: WarmEnd,
    begun: Instant,
}

impl<'a, K, E, I: Iterator<Item = K>> Run<'a, K, E, I> {
    pub(crate) fn new(warming: Warming<'a>, keys: impl IntoIterator<IntoIter = I>) -> Self {
        let keys = keys.into_iter();
        let total = match keys.size_hint() {
            (least, Some(most)) if least == most => Some(least as u64),
            _ => None,
        };
        Self {
            warming,
            keys: keys.peekable(),
            under_way: 0,
            progress: WarmProgress {
                total,
                ..WarmProgress::default()
            },
            failed_batches: 0,
            failures: Vec::new(),
            listed: 0,
            end: WarmEnd::Done,
            begun: Instant::now(),
        }
    }

    /// The next keys to ask for, where there is room for so many more entries; `None` if for now or for
    /// good there are none.
    fn next_batch(&mut self, room: u64) -> Option<Vec<K>> {
        self.keys.peek()?;
        let most = self.warming.most_failures;
        if most.is_some_and(|most| self.failed_batches >= most) {
            self.end = WarmEnd::Failures;
            return None;
        }
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let room = room.saturating_sub(self.under_way);
        if room == 0 {
            if self.under_way == 0 {
                self.end = WarmEnd::Full;
            }
            return None;
        }
        let size = self.warming.batch.min(room);
        let batch: Vec<K> = self.keys.by_ref().take(size).collect();
        self.under_way += batch.len();
        Some(batch)
    }

    fn note<V>(&mut self, batch: Vec<K>, result: Result<Vec<Option<V>>, LoadError<E>>) {
        self.under_way -= batch.len();
        match result {
            Ok(values) => {
                let held = values.iter().flatten().count();
                self.progress.held += held as u64;
                self.progress.left_out += (values.len() - held) as u64;
            }
            Err(error) => {
                self.progress.failed += batch.len() as u64;
                self.failed_batches += 1;
                self.list(batch, error);
            }
        }
        if let Some(told) = &mut self.warming.on_progress {
            told(&self.progress);
        }
    }

    fn list(&mut self, mut keys: Vec<K>, error: LoadError<E>) {
        keys.truncate(MOST_LISTED - self.listed);
        if !keys.is_empty() {
            self.listed += keys.len();
            self.failures.push(FailedBatch { keys, error });
        }
    }

    fn finish(self) -> WarmReport<K, E> {
        WarmReport {
            held: self.progress.held,
            left_out: self.progress.left_out,
            failed: self.progress.failed,
            failures: self.failures,
            end: self.end,
            time_taken: self.begun.elapsed(),
        }
    }
}

/// Runs several batches at one time, within the caller's task.
pub(crate) async fn run_all<K, V, E, I, F>(
    mut run: Run<'_, K, E, I>,
    room: impl Fn() -> u64,
    ask: impl Fn(Vec<K>) -> F,
) -> WarmReport<K, E>
where
    I: Iterator<Item = K>,
    F: Future<Output = (Vec<K>, Result<Vec<Option<V>>, LoadError<E>>)>,
{
    let mut under_way = Vec::new();
    loop {
        while under_way.len() < run.warming.concurrency {
            let Some(batch) = run.next_batch(room()) else {
                break;
            };
            under_way.push(Box::pin(ask(batch)));
        }
        if under_way.is_empty() {
            return run.finish();
        }
        let (batch, result) = first_done(&mut under_way).await;
        run.note(batch, result);
    }
}

/// Takes out the first future that is done. They are few, so each is looked at whenever one of them wakes
/// the task.
async fn first_done<F: Future>(futures: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|cx| {
        for at in 0..futures.len() {
            if let Poll::Ready(output) = futures[at].as_mut().poll(cx) {
                drop(futures.swap_remove(at));
                return Poll::Ready(output);
            }
        }
        Poll::Pending
    })
    .await
}
