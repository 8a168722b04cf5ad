//! `get_or_load` for threads, and what else reads, runs user code, and then writes: `update` and
//! `retain`. All of them are flights, so the user code runs without a lock, and a write in between
//! is noticed.

use super::removal::{RemovalCause, Removals};
use super::write::Outdated;
use super::{LocalCache, Place};
use crate::cache::{ErasedLoader, with_erased};
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::flight::{Boarding, Candidate, Leader, Outcome, Step, blocking};
use crate::stats::{Count, Counters};
use std::any::Any;
use std::hash::{BuildHasher, Hash};
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
            None => with_erased(load, |load| self.load(&place, key, load)),
        }
    }

    /// `get_or_load` after a miss.
    #[cold]
    pub(super) fn load(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>> {
        let settings = &self.inner.settings;
        let timeout = settings.wait_timeout;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let candidate = Candidate::new(settings.lease);
            let step = match place.cell.flights.board(place.hash.0, key, candidate) {
                Boarding::Lead(leader) => Step::Lead(leader),
                Boarding::Wait(waiter) => blocking::wait(waiter, settings.lease, deadline)
                    .ok_or(LoadError::WaitTimeout)?,
                Boarding::Recursive => return Err(LoadError::Recursive),
            };
            match step {
                Step::Lead(leader) => return self.lead(place, key, leader, load),
                Step::Landed(landed) => {
                    self.inner.counters.count(Count::Coalesced);
                    return match landed.into_outcome() {
                        Outcome::Value(value) => Ok(value),
                        Outcome::Failed(error) => Err(LoadError::Failed(error)),
                    };
                }
                Step::BoardAgain => {}
            }
        }
    }

    /// Runs the loader, stores what it returns, and tells those who wait.
    fn lead(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        leader: Leader<'_, K, V>,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>> {
        // Another flight may have landed between the miss and this one's registration. The order,
        // register and then look, is also what `flight`'s proof rests on.
        if let Some(value) = self.peek(place, key, |value, _| value.clone()) {
            self.inner.counters.count(Count::Coalesced);
            leader.land(|| Outcome::Value(value.clone()));
            return Ok(value);
        }
        let timer = LoadTimer::start(&self.inner.counters);
        let loaded = match load(key) {
            Ok(loaded) => loaded,
            Err(error) => {
                drop(timer);
                leader.land(|| Outcome::Failed(error.clone()));
                return Err(LoadError::Failed(error));
            }
        };
        timer.succeeded();
        let value = loaded.value.clone();
        let mut removals = self.removals();
        // Outdated or not: its callers get the value.
        let _ = self.store(place, key.clone(), loaded, Some(&leader), &mut removals);
        leader.land(|| Outcome::Value(value.clone()));
        removals.finish();
        Ok(value)
    }

    /// Replaces the value of a key by what `change` makes of it, as one step: if the key is
    /// written to meanwhile, `change` is called again with the new value.
    ///
    /// `change` is given the live value, if one is held, and returns the new one, or `None` to
    /// remove the key. The new entry's time to live begins anew. Returns the new value. Loads of
    /// the key that are under way do not store their results.
    ///
    /// `change` runs without a lock and may call the cache; if it writes to the same key each time,
    /// it is called for ever.
    ///
    /// ```
    /// let visits: hotset::LocalCache<&str, u64> = hotset::LocalCache::new(100);
    /// for _ in 0..3 {
    ///     visits.update(&"home", |count| Some(count.map_or(1, |count| count + 1)));
    /// }
    /// assert_eq!(visits.get("home"), Some(3));
    /// assert_eq!(visits.update(&"home", |_| None), None);
    /// assert!(visits.is_empty());
    /// ```
    pub fn update(&self, key: &K, mut change: impl FnMut(Option<&V>) -> Option<V>) -> Option<V> {
        let place = self.place(key);
        loop {
            let claim = self.claim(&place, key);
            let current = self.peek(&place, key, |value, _| value.clone());
            let next = change(current.as_ref());
            let mut removals = self.removals();
            let written = match next.clone() {
                Some(value) => {
                    let loaded = Loaded::new(value);
                    self.store(&place, key.clone(), loaded, Some(&claim), &mut removals)
                }
                None => self.remove_claimed(&place, key, &claim, &mut removals),
            };
            // Not as it returns: a panic in a `drop` then leaks what is on its way to the caller.
            drop((claim, current));
            removals.finish();
            if written.is_ok() {
                return next;
            }
        }
    }

    /// Takes out the entries for which `keep` returns `false`.
    ///
    /// `keep` is called without a lock, once for each live entry, and again if the entry is
    /// written to meanwhile. It counts as no lookup and no use. Entries inserted meanwhile may or
    /// may not be seen; so a load under way, of a key that is not held yet, stores what it finds.
    /// [`clear`](Self::clear) and [`remove`](Self::remove) are for that.
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool) {
        for cell in &self.inner.cells {
            let now = self.inner.settings.clock.now();
            // Outside, so that it is dropped there if a `clone` panics.
            let mut keys = Vec::new();
            cell.shard.read(|shard| {
                let live = shard.hottest_first(now);
                keys.extend(live.map(|(key, _)| key.clone()));
            });
            for key in keys {
                while self.retain_one(&key, &mut keep).is_err() {}
            }
        }
    }

    fn retain_one(&self, key: &K, keep: &mut impl FnMut(&K, &V) -> bool) -> Result<(), Outdated> {
        let place = self.place(key);
        let claim = self.claim(&place, key);
        let value = self.peek(&place, key, |value, _| value.clone());
        if value.is_none_or(|value| keep(key, &value)) {
            return Ok(());
        }
        let mut removals = self.removals();
        let removed = self.remove_claimed(&place, key, &claim, &mut removals);
        drop(claim);
        removals.finish();
        removed
    }

    fn claim<'a>(&self, place: &Place<'a, K, V>, key: &K) -> Leader<'a, K, V> {
        let candidate = Candidate::new(self.inner.settings.lease);
        let flights = &place.cell.flights;
        flights.register_exclusive(place.hash.0, key.clone(), candidate)
    }

    fn remove_claimed(
        &self,
        place: &Place<'_, K, V>,
        key: &K,
        claim: &Leader<'_, K, V>,
        removals: &mut Removals<'_, K, V>,
    ) -> Result<(), Outdated> {
        self.take_out(place, key, RemovalCause::Removed, Some(claim), removals)?;
        Ok(())
    }
}

/// Counts a run of a loader, as failed unless it is told otherwise: also if it panics.
struct LoadTimer<'a> {
    counters: &'a Counters,
    started: Instant,
    failed: bool,
}

impl<'a> LoadTimer<'a> {
    fn start(counters: &'a Counters) -> Self {
        counters.count(Count::Load);
        Self {
            counters,
            started: Instant::now(),
            failed: true,
        }
    }

    fn succeeded(mut self) {
        self.failed = false;
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
