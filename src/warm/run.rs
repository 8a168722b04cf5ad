//! The state of a warming in progress: the next keys, and the results so far.

use crate::clock::Instant;
use crate::error::LoadError;
use crate::warm::{FailedBatch, WarmOptions, WarmOutcome, WarmProgress, WarmReport};
use std::future::{Future, poll_fn};
use std::iter::Fuse;
use std::pin::Pin;
use std::task::Poll;

/// Maximum number of keys of failed batches in a report.
const MAX_REPORTED_KEYS: usize = 10_000;

/// The room in a cache, in entries of average weight.
pub(crate) struct Room {
    /// The number of entries for which there is free capacity.
    pub(crate) free: u64,
    /// The number of entries for which there is capacity in total.
    pub(crate) all: u64,
    /// The number of entries from which the average weight was computed. `None` if all entries have the same weight.
    pub(crate) weighed: Option<u64>,
}

impl Room {
    /// The room in a cache whose bound is not known.
    pub(crate) const UNKNOWN: Self = Self {
        free: u64::MAX,
        all: u64::MAX,
        weighed: None,
    };
}

/// A warming in progress.
pub(crate) struct Run<'a, K, E: ?Sized, I: Iterator<Item = K>> {
    options: WarmOptions<'a>,
    keys: Fuse<I>,
    /// The number of keys in batches that are in flight.
    keys_in_flight: usize,
    progress: WarmProgress,
    failed_batches: usize,
    failures: Vec<FailedBatch<K, E>>,
    /// The number of keys in `failures`.
    reported_keys: usize,
    end: WarmOutcome,
    begun: Instant,
}

impl<'a, K, E: ?Sized, I: Iterator<Item = K>> Run<'a, K, E, I> {
    /// Creates a warming that has loaded nothing yet.
    pub(crate) fn new(options: WarmOptions<'a>, keys: impl IntoIterator<IntoIter = I>) -> Self {
        let keys = keys.into_iter();
        let total = match keys.size_hint() {
            (least, Some(most)) if least == most => Some(least as u64),
            _ => None,
        };
        Self {
            options,
            keys: keys.fuse(),
            keys_in_flight: 0,
            progress: WarmProgress {
                total,
                ..WarmProgress::default()
            },
            failed_batches: 0,
            failures: Vec::new(),
            reported_keys: 0,
            end: WarmOutcome::Done,
            begun: Instant::now(),
        }
    }

    /// Returns the next batch of keys, limited by the room in the cache. Returns `None` if there is no further batch,
    /// now or at all. Takes no key from the iterator that is not in the batch.
    pub(crate) fn next_batch(&mut self, room: &Room) -> Option<Vec<K>> {
        if self.keys.size_hint().1 == Some(0) {
            return None;
        }
        let max_failures = self.options.max_failures;
        if max_failures.is_some_and(|max| self.failed_batches >= max) {
            self.end = WarmOutcome::Failures;
            return None;
        }
        let room = self.max_in_flight(room).saturating_sub(self.keys_in_flight);
        if room == 0 {
            if self.keys_in_flight == 0 {
                self.end = WarmOutcome::Full;
            }
            return None;
        }
        let size = self.options.batch.min(room);
        let batch: Vec<K> = self.keys.by_ref().take(size).collect();
        self.keys_in_flight += batch.len();
        (!batch.is_empty()).then_some(batch)
    }

    /// Returns the largest number of keys that may be in flight.
    fn max_in_flight(&self, room: &Room) -> usize {
        let found = self.progress.found;
        // The second limit ends a warming whose values the cache does not keep.
        let max = room.free.min(room.all.saturating_sub(found));
        // The average weight of few entries says little about many.
        let step = room
            .weighed
            .map_or(u64::MAX, |weighed| weighed.max(found).max(1));
        usize::try_from(max.min(step)).unwrap_or(usize::MAX)
    }

    /// Runs the warming on this thread, one batch after the other.
    pub(crate) fn run_blocking<V>(
        mut self,
        room: impl Fn() -> Room,
        mut load: impl FnMut(&[K]) -> Result<Vec<Option<V>>, LoadError<E>>,
    ) -> WarmReport<K, E> {
        while let Some(batch) = self.next_batch(&room()) {
            let result = load(&batch);
            self.note(batch, result);
        }
        self.finish()
    }

    /// Ends the warming before the first batch.
    #[cfg(any(feature = "redis", feature = "testing"))]
    pub(crate) fn refuse(mut self, end: WarmOutcome) -> WarmReport<K, E> {
        self.end = end;
        self.finish()
    }

    /// Records the result of a batch, and calls the listener.
    pub(crate) fn note<V>(&mut self, batch: Vec<K>, result: Result<Vec<Option<V>>, LoadError<E>>) {
        self.keys_in_flight -= batch.len();
        match result {
            Ok(values) => {
                let found = values.iter().flatten().count();
                self.progress.found += found as u64;
                self.progress.left_out += (values.len() - found) as u64;
            }
            Err(error) => {
                self.progress.failed += batch.len() as u64;
                self.failed_batches += 1;
                self.report_failure(batch, error);
            }
        }
        if let Some(listener) = &mut self.options.on_progress {
            listener(&self.progress);
        }
    }

    /// Adds a failed batch to the report, with as many keys as the report may still contain.
    fn report_failure(&mut self, mut keys: Vec<K>, error: LoadError<E>) {
        keys.truncate(MAX_REPORTED_KEYS - self.reported_keys);
        if !keys.is_empty() {
            self.reported_keys += keys.len();
            self.failures.push(FailedBatch { keys, error });
        }
    }

    /// Returns the report.
    pub(crate) fn finish(self) -> WarmReport<K, E> {
        WarmReport {
            found: self.progress.found,
            left_out: self.progress.left_out,
            failed: self.progress.failed,
            failures: self.failures,
            end: self.end,
            time_taken: self.begun.elapsed(),
        }
    }
}

/// Runs a warming with several batches in flight, within the caller's task.
pub(crate) async fn run_all<K, V, E: ?Sized, I, F>(
    mut run: Run<'_, K, E, I>,
    room: impl Fn() -> Room,
    load: impl Fn(Vec<K>) -> F,
) -> WarmReport<K, E>
where
    I: Iterator<Item = K>,
    F: Future<Output = (Vec<K>, Result<Vec<Option<V>>, LoadError<E>>)>,
{
    let mut in_flight = Vec::new();
    loop {
        while in_flight.len() < run.options.concurrency {
            let Some(batch) = run.next_batch(&room()) else {
                break;
            };
            in_flight.push(Box::pin(load(batch)));
        }
        if in_flight.is_empty() {
            return run.finish();
        }
        let (batch, result) = first_completed(&mut in_flight).await;
        run.note(batch, result);
    }
}

/// Removes the first future that has completed, and returns its output. All of them are polled whenever one wakes the
/// task, because there are few.
async fn first_completed<F: Future>(futures: &mut Vec<Pin<Box<F>>>) -> F::Output {
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
