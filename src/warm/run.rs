//! A warming under way: which keys come next, and what came of those before.

use crate::error::LoadError;
use crate::warm::{FailedBatch, WarmOptions, WarmOutcome, WarmProgress, WarmReport};
use std::future::{Future, poll_fn};
use std::iter::Fuse;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

/// Keys of failed batches that a report lists.
const MOST_LISTED: usize = 10_000;

/// What a cache has room for, in entries of the usual weight.
pub(crate) struct Room {
    /// How many more.
    pub(crate) free: u64,
    /// How many in all.
    pub(crate) all: u64,
    /// How many tell what weight is usual; `None` where all weigh the same.
    pub(crate) weighed: Option<u64>,
}

/// A warming under way.
pub(crate) struct Run<'a, K, E, I: Iterator<Item = K>> {
    warming: WarmOptions<'a>,
    keys: Fuse<I>,
    /// Keys that were asked for.
    under_way: usize,
    progress: WarmProgress,
    failed_batches: usize,
    failures: Vec<FailedBatch<K, E>>,
    listed: usize,
    end: WarmOutcome,
    begun: Instant,
}

impl<'a, K, E, I: Iterator<Item = K>> Run<'a, K, E, I> {
    pub(crate) fn new(warming: WarmOptions<'a>, keys: impl IntoIterator<IntoIter = I>) -> Self {
        let keys = keys.into_iter();
        let total = match keys.size_hint() {
            (least, Some(most)) if least == most => Some(least as u64),
            _ => None,
        };
        Self {
            warming,
            keys: keys.fuse(),
            under_way: 0,
            progress: WarmProgress {
                total,
                ..WarmProgress::default()
            },
            failed_batches: 0,
            failures: Vec::new(),
            listed: 0,
            end: WarmOutcome::Done,
            begun: Instant::now(),
        }
    }

    /// The next keys to ask for, where there is so much room; `None` if for now or for good there are none.
    /// No key is taken that is not asked for.
    pub(crate) fn next_batch(&mut self, room: &Room) -> Option<Vec<K>> {
        if self.keys.size_hint().1 == Some(0) {
            return None;
        }
        let most = self.warming.most_failures;
        if most.is_some_and(|most| self.failed_batches >= most) {
            self.end = WarmOutcome::Failures;
            return None;
        }
        let room = self.most_under_way(room).saturating_sub(self.under_way);
        if room == 0 {
            if self.under_way == 0 {
                self.end = WarmOutcome::Full;
            }
            return None;
        }
        let size = self.warming.batch.min(room);
        let batch: Vec<K> = self.keys.by_ref().take(size).collect();
        self.under_way += batch.len();
        (!batch.is_empty()).then_some(batch)
    }

    fn most_under_way(&self, room: &Room) -> usize {
        let found = self.progress.found;
        // So that it ends where nothing that is found is kept.
        let most = room.free.min(room.all.saturating_sub(found));
        // Few do not tell what many will weigh.
        let step = room.weighed.map_or(u64::MAX, |held| held.max(found).max(1));
        usize::try_from(most.min(step)).unwrap_or(usize::MAX)
    }

    /// Ends it before it has begun.
    #[cfg(feature = "redis")]
    pub(crate) fn refuse(mut self, end: WarmOutcome) -> WarmReport<K, E> {
        self.end = end;
        self.finish()
    }

    pub(crate) fn note<V>(&mut self, batch: Vec<K>, result: Result<Vec<Option<V>>, LoadError<E>>) {
        self.under_way -= batch.len();
        match result {
            Ok(values) => {
                let found = values.iter().flatten().count();
                self.progress.found += found as u64;
                self.progress.left_out += (values.len() - found) as u64;
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

/// Runs several batches at one time, within the caller's task.
pub(crate) async fn run_all<K, V, E, I, F>(
    mut run: Run<'_, K, E, I>,
    room: impl Fn() -> Room,
    ask: impl Fn(Vec<K>) -> F,
) -> WarmReport<K, E>
where
    I: Iterator<Item = K>,
    F: Future<Output = (Vec<K>, Result<Vec<Option<V>>, LoadError<E>>)>,
{
    let mut under_way = Vec::new();
    loop {
        while under_way.len() < run.warming.concurrency {
            let Some(batch) = run.next_batch(&room()) else {
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
