//! Warming from what is behind the cache.

use crate::entry::Loaded;
use crate::local::{Bound, LocalCache};
use crate::warm::{Room, Run, WarmOptions, WarmReport, run_all};
use std::any::Any;
use std::future::Future;
use std::hash::{BuildHasher, Hash};

/// A cache that weighs is given up after so many keys of which it holds none.
const MOST_UNKEPT: u64 = 10_000;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Loads what is not held of these keys, in batches, as
    /// [`get_many_or_load`](Self::get_many_or_load) does, until the cache is full.
    ///
    /// `keys` may be lazy and without end: they are taken as they are needed, so give the ones that matter
    /// most first, and each once. What comes first is stored first, and is so the first to be evicted by what
    /// is stored later, unless it was hit since: where all keys surely fit, give them the other way round. (A
    /// snapshot is restored in the right order.)
    ///
    /// `load` is as for `get_many_or_load`: single flight, `max_concurrent_loads` and invalidations that win
    /// hold, so the cache may be in use meanwhile. A batch that fails does not stop the others.
    /// [`Stats`](crate::Stats) count what it looks up as hits and misses.
    ///
    /// It stops when there is room for no more entries, with those that other callers load meanwhile. Where
    /// entries have weights, their average is that of what is held, which batches that begin with one key
    /// find out; so warming evicts little or nothing of what it has warmed, as far as what comes later weighs
    /// about the same.
    ///
    /// It stops as well once it has found as many keys as the cache has room for, or 10,000 where a cache
    /// with weights holds nothing even so: values that are not kept, for their weight or a time to live of
    /// zero, do not make it endless. An unbounded cache has room for all; and keys without end that all
    /// fail or are left out are for [`WarmOptions::stop_after_failures`] and for their iterator to end.
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
        self.warm_with(WarmOptions::new(), keys, load)
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
        warming: WarmOptions<'_>,
        keys: impl IntoIterator<Item = K>,
        mut load: impl FnMut(Vec<K>) -> Result<M, E>,
    ) -> WarmReport<K, E>
    where
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let mut run = Run::new(warming, keys);
        while let Some(batch) = run.next_batch(&self.room()) {
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
        self.warm_with_async(WarmOptions::new(), keys, load).await
    }

    /// As [`warm_async`](Self::warm_async), as one wants it.
    ///
    /// # Cancellation
    ///
    /// As [`warm_async`](Self::warm_async).
    pub async fn warm_with_async<M, L, E, F>(
        &self,
        warming: WarmOptions<'_>,
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
        run_all(Run::new(warming, keys), || self.room(), ask).await
    }
}

impl<K: Eq + Hash, V, S: BuildHasher> LocalCache<K, V, S> {
    pub(crate) fn room(&self) -> Room {
        let room = self.room_now();
        // What is held may be dead.
        if room.free == 0 && self.evict_expired() > 0 {
            return self.room_now();
        }
        room
    }

    fn room_now(&self) -> Room {
        let budget = &self.inner.budget;
        let (free, all) = (budget.left(), budget.limit());
        if self.inner.bound != Bound::Weight {
            let weighed = None;
            return Room { free, all, weighed };
        }
        let (held, weight) = (self.len() as u64, self.weight());
        let entries = |room: u64| {
            let entries = u128::from(room) * u128::from(held) / u128::from(weight.max(1));
            u64::try_from(entries).unwrap_or(u64::MAX)
        };
        let (free, all) = match held {
            0 => (free, all.min(MOST_UNKEPT)),
            _ => (entries(free), entries(all)),
        };
        let weighed = Some(held);
        Room { free, all, weighed }
    }
}
