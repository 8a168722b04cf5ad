//! `get_or_load`: what a caller does on a miss, written once, for threads and tasks.

use super::{LocalCache, Place};
use crate::cache::{ErasedLoader, with_erased};
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::flight::blocking::block_on;
use crate::flight::{Alarm, Boarding, Candidate, Leader, Outcome, Step, TooLate, run_within, wait};
use crate::stats::{Count, Counters};
use std::any::Any;
use std::cell::Cell;
use std::future::{Future, ready};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::Instant;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// The value of a key; if no live one is held, what `load` returns, which is then stored.
    ///
    /// Of all callers who miss a key together one runs its loader; the others wait and get the same
    /// value, or the same error. `load` returns a `V`, or a [`Loaded<V>`](Loaded) with a time to
    /// live or a weight of its own. It runs without a lock and may call the cache.
    ///
    /// - An error is not cached: the next call loads again.
    /// - A panic reaches the caller whose loader it was; exactly one of the waiting callers then
    ///   runs its own loader.
    /// - A loader that takes longer than the lease (10 seconds, see
    ///   [`Builder::lease`](crate::Builder::lease)) is not waited for any longer: exactly one of the
    ///   waiting callers runs its own. The late value goes to its own caller, and is stored if
    ///   nothing newer was.
    /// - If the key is inserted, removed, updated or cleared while it is loaded, those who wait get
    ///   the loaded value, but it is not stored, and callers to come load anew. So a loader that
    ///   has read a database before a change never leaves what it read in the cache, if the one who
    ///   made the change calls [`remove`](Self::remove) after it.
    ///
    /// ```
    /// use hotset::{LoadError, LocalCache};
    ///
    /// let prices: LocalCache<String, u64> = LocalCache::new(1_000);
    /// let key = "apple".to_string();
    ///
    /// let error = prices.get_or_load(&key, |_| Err::<u64, _>("no connection")).unwrap_err();
    /// assert!(matches!(error, LoadError::Failed(reason) if *reason == "no connection"));
    ///
    /// assert_eq!(prices.get_or_load(&key, |_| Ok::<_, &str>(120))?, 120);
    /// assert_eq!(prices.get_or_load(&key, |_| Err::<u64, _>("not asked"))?, 120);
    /// # Ok::<(), LoadError<&str>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Failed`](LoadError::Failed): this load, or the one it waited for, returned an error. A
    ///   caller whose error type is another than that of the load it waited for calls its own
    ///   loader instead.
    /// - [`WaitTimeout`](LoadError::WaitTimeout): the load of another caller took longer than
    ///   [`Builder::wait_timeout`](crate::Builder::wait_timeout).
    /// - [`Recursive`](LoadError::Recursive): called from the loader of this key, on its thread.
    ///
    /// # Blocking
    ///
    /// While `load` runs, here or in the caller it waits for. A hit never waits for a loader.
    #[inline]
    pub fn get_or_load<L, E>(
        &self,
        key: &K,
        load: impl FnOnce(&K) -> Result<L, E>,
    ) -> Result<V, LoadError<E>>
    where
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let place = self.place(key);
        match self.hit(&place, key, V::clone) {
            Some(value) => Ok(value),
            None => with_erased(load, |load| self.load_blocking(&place, key, load)),
        }
    }

    /// `get_or_load` after a miss.
    #[cold]
    pub(super) fn load_blocking(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>> {
        block_on(&Cell::new(None), async |mut alarm| {
            let start = |key: &K| ready(load(key));
            self.load(place, key, &mut alarm, start, |result| result)
                .await
        })
    }

    /// A caller's way to the value of a key that was not there: it leads or it waits.
    pub(super) async fn load<F>(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        alarm: &mut impl Alarm,
        load: impl FnOnce(&K) -> F,
        erase: impl FnOnce(F::Output) -> Result<Loaded<V>, Arc<AnyError>>,
    ) -> Result<V, LoadError<AnyError>>
    where
        F: Future,
    {
        let deadline = self.wait_deadline();
        loop {
            let step = match self.board(place, key) {
                Boarding::Lead(leader) => Step::Lead(leader),
                Boarding::Wait(waiter) => {
                    wait(waiter, || self.candidate(), deadline, alarm).await?
                }
                Boarding::Recursive => return Err(LoadError::Recursive),
            };
            match step {
                Step::Lead(leader) => return self.lead(place, key, leader, load, erase).await,
                Step::Landed(landed) => return self.disembark(landed.into_outcome()),
                Step::BoardAgain => {}
            }
        }
    }

    fn board<'a>(&self, place: &Place<'a, K, V>, key: &K) -> Boarding<'a, K, V> {
        place
            .cell
            .flights
            .board(place.hash.0, key, self.candidate())
    }

    /// The terms on which the current caller would load.
    pub(super) fn candidate(&self) -> Candidate {
        Candidate {
            now: Instant::now(),
            lease: self.inner.settings.lease,
            epoch: 0,
            permitted: true,
        }
    }

    fn wait_deadline(&self) -> Option<Instant> {
        let timeout = self.inner.settings.wait_timeout?;
        Instant::now().checked_add(timeout)
    }

    /// What a waiter makes of what another caller's load came to.
    fn disembark(&self, outcome: Outcome<V>) -> Result<V, LoadError<AnyError>> {
        self.inner.counters.count(Count::Coalesced);
        match outcome {
            Outcome::Value(value) => Ok(value),
            Outcome::Failed(error) => Err(LoadError::Failed(error)),
        }
    }

    /// Runs the loader, stores what it returns, and tells those who wait.
    async fn lead<F>(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        leader: Leader<'_, K, V>,
        load: impl FnOnce(&K) -> F,
        erase: impl FnOnce(F::Output) -> Result<Loaded<V>, Arc<AnyError>>,
    ) -> Result<V, LoadError<AnyError>>
    where
        F: Future,
    {
        // Another flight may have landed between the miss and this one's registration. The order,
        // register and then look, is also what `flight`'s proof rests on.
        if let Some(value) = self.peek(place, key, |value, _| value.clone()) {
            self.inner.counters.count(Count::Coalesced);
            leader.land(|| Outcome::Value(value.clone()));
            return Ok(value);
        }
        let timer = LoadTimer::start(&self.inner.counters, leader.since);
        let result = run_within(|| leader.enter(), || load(key)).await;
        let result = erase(result);
        timer.stop(result.is_ok());
        self.settle(place, key, leader, result)
    }

    /// Stores what a load has found, and tells those who wait.
    fn settle(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        mut leader: Leader<'_, K, V>,
        result: Result<Loaded<V>, Arc<AnyError>>,
    ) -> Result<V, LoadError<AnyError>> {
        let loaded = match result {
            Ok(loaded) => loaded,
            Err(error) => {
                leader.land(|| Outcome::Failed(error.clone()));
                return Err(LoadError::Failed(error));
            }
        };
        let value = loaded.value.clone();
        let mut removals = self.removals();
        // Outdated or not: its callers get the value.
        let _ = self.store(place, key.clone(), loaded, Some(&mut leader), &mut removals);
        leader.land(|| Outcome::Value(value.clone()));
        removals.finish();
        Ok(value)
    }
}

impl<E: ?Sized> From<TooLate> for LoadError<E> {
    fn from(TooLate: TooLate) -> Self {
        Self::WaitTimeout
    }
}

/// Counts a run of a loader, as failed unless it is told otherwise: also if it panics or is
/// cancelled.
struct LoadTimer<'a> {
    counters: &'a Counters,
    started: Instant,
    failed: bool,
}

impl<'a> LoadTimer<'a> {
    fn start(counters: &'a Counters, started: Instant) -> Self {
        counters.count(Count::Load);
        Self {
            counters,
            started,
            failed: true,
        }
    }

    fn stop(mut self, succeeded: bool) {
        self.failed = !succeeded;
    }
}

impl Drop for LoadTimer<'_> {
    fn drop(&mut self) {
        self.counters.add_load_time(self.started.elapsed());
        if self.failed {
            self.counters.count(Count::LoadFailure);
        }
    }
}
