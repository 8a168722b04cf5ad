//! `get_or_load`: the path of a caller on a miss, written once for threads and tasks.

pub(crate) mod batch;
#[cfg(feature = "tokio")]
pub(crate) mod detached;
pub(crate) mod refresh;
mod tasks;
mod waiting;

use crate::clock::{Nanos, saturating_nanos};
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::lookup::Lookup;
use crate::local::shard::Shard;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::blocking::block_on;
use crate::single_flight::{
    Alarm, Leader, LoaderId, Outcome, Permit, Reentry, Role, Step, TimedOut, run_within,
};
use crate::stats::timer::OperationTimer;
use crate::stats::{Count, Counters};
use crate::sync::reentrancy::assert_no_lock_held;
use crate::sync::thread_slot::ThreadSlot;
use crate::trace::Span;
use crate::traits::ErasedLoader;
use crate::traits::erasure::with_erased;
use std::any::{Any, type_name_of_val};
use std::cell::Cell;
use std::future::{Future, ready};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Returns the value for `key`. On a miss, runs `load` and stores its result.
    ///
    /// Of all callers that miss a key together, one runs its loader. The others wait and get the same
    /// value, or the same error. `load` returns a `V`, or a [`Loaded<V>`](Loaded) with a time to
    /// live or a weight of its own. It runs without a lock and may call the cache.
    ///
    /// - An error is not cached: the next call loads again.
    /// - A panic reaches the caller whose loader panicked. Exactly one of the waiting callers then
    ///   runs its own loader.
    /// - If a loader takes longer than the lease (10 seconds by default, see
    ///   [`LocalCacheBuilder::lease`](crate::LocalCacheBuilder::lease)), exactly one of the
    ///   waiting callers runs its own loader. The late value goes to its own caller, and is stored if
    ///   no newer value was.
    /// - A write to the key, a [`clear`](Self::clear) or a [`retain`](Self::retain) during the load: callers that already
    ///   wait get the loaded value, it is not stored, and later callers load again. So a value that was read from a
    ///   database before a change never stays in the cache, if [`remove`](Self::remove) is called after the change.
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
    /// - [`Failed`](LoadError::Failed): this load, or the one that it waited for, returned an error. If the load
    ///   that it waited for has another error type, the caller runs its own loader instead.
    /// - [`WaitTimeout`](LoadError::WaitTimeout): the load of another caller, or the wait for a permit of
    ///   [`LocalCacheBuilder::max_concurrent_loads`](crate::LocalCacheBuilder::max_concurrent_loads), took longer than
    ///   [`LocalCacheBuilder::wait_timeout`](crate::LocalCacheBuilder::wait_timeout).
    /// - [`Recursive`](LoadError::Recursive): called from the loader of this key, on its thread. A call with a
    ///   loader of the same type is taken for a job of another caller, which a thread of a work-stealing pool runs
    ///   while it waits. Such a call runs its own loader and stores nothing, up to a depth of 8.
    ///
    /// # Blocking
    ///
    /// Blocks while `load` runs, here or in the caller that it waits for. A hit never waits for a loader.
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
        let location = self.location(key);
        match self.lookup(&location, key) {
            Lookup::Hit(value) => Ok(value),
            lookup => {
                let (mut lookup, loader) = (Some(lookup), Some(type_name_of_val(&load)));
                with_erased(load, |load| {
                    let lookup = lookup
                        .take()
                        .unwrap_or_else(|| self.join_or_lead(&location, key, || self.candidate()));
                    self.load_blocking(&location, key, lookup, loader, load)
                })
            }
        }
    }

    /// Completes `get_or_load` if the lookup was no plain hit.
    #[cold]
    pub(crate) fn load_blocking<'a>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        lookup: Lookup<'a, K, V>,
        loader: LoaderId,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>> {
        let lookup = match lookup {
            // Most misses take this path, which needs no future.
            Lookup::Miss(Role::Lead(leader)) if self.inner.leads_at_once => {
                let timer = self.load_timer(leader.since);
                let entered = (leader.enter(loader), timer.span.enter());
                let result = load(key);
                drop(entered);
                return self.settle(location, key, leader, result, timer);
            }
            lookup => lookup,
        };
        block_on(&Cell::new(None), async |mut alarm| {
            let start = |key: &K| ready(load(key));
            let found = (lookup, loader);
            self.load(location, key, found, &mut alarm, start, |result| result)
                .await
        })
    }

    /// Completes a call from the result of its lookup to a value. `erase` converts the result of the loader into the
    /// form that flights share.
    pub(crate) async fn load<'a, F: Future>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        (lookup, loader): (Lookup<'a, K, V>, LoaderId),
        alarm: &mut impl Alarm,
        load: impl FnOnce(&K) -> F,
        erase: impl FnOnce(F::Output) -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>> {
        if let Lookup::NeedsRefresh(old) = lookup {
            let Some(held) = self.begin_refresh(location, key) else {
                return Ok(old);
            };
            let refreshed = self.run(location, key, held, loader, load, erase).await;
            return refreshed.or(Ok(old));
        }
        match self.approach(location, key, lookup, loader, alarm).await? {
            Approach::Arrived(value) => Ok(value),
            Approach::Load(held) => self.run(location, key, held, loader, load, erase).await,
            Approach::LoadUnshared(reentry) => {
                self.run_unshared(key, &reentry, loader, load, erase).await
            }
        }
    }

    /// Waits until the caller has a value or is to load it.
    pub(crate) async fn approach<'a>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        mut lookup: Lookup<'a, K, V>,
        loader: LoaderId,
        alarm: &mut impl Alarm,
    ) -> Result<Approach<'a, K, V>, LoadError<AnyError>> {
        let patience = self.patience();
        loop {
            let boarding = match lookup {
                Lookup::Miss(boarding) => boarding,
                Lookup::Hit(value) | Lookup::NeedsRefresh(value) => {
                    let outcome = Outcome::Value(value);
                    return self
                        .take_outcome(location, key, outcome)
                        .map(Approach::Arrived);
                }
                Lookup::Stale(value) => {
                    let outcome = Outcome::Stale(value);
                    return self
                        .take_outcome(location, key, outcome)
                        .map(Approach::Arrived);
                }
            };
            let lead = match boarding {
                Role::Lead(leader) => Some((leader, false)),
                Role::Recursive(reentry) if reentry.may_be_stolen(loader) => {
                    return Ok(Approach::LoadUnshared(reentry));
                }
                Role::Recursive(_) => return Err(LoadError::Recursive),
                Role::Wait(mut waiter) => {
                    let turn = |cx: &mut Context<'_>| waiter.poll(self.candidate(), cx.waker());
                    let step = match self.wait_for(location, key, &patience, alarm, turn).await {
                        Ok(step) => step,
                        Err(waited) => {
                            return self.give_up(location, key, waited).map(Approach::Arrived);
                        }
                    };
                    self.count_superseded(&step);
                    match step {
                        Step::Lead(leader) => Some((leader, true)),
                        Step::BoardAgain { .. } => None,
                        Step::Completed(landed) => match landed.into_outcome() {
                            // The loader of a batch returned no value for the key; this caller's loader may.
                            Outcome::Absent => None,
                            outcome => {
                                return self
                                    .take_outcome(location, key, outcome)
                                    .map(Approach::Arrived);
                            }
                        },
                    }
                }
            };
            let Some((mut leader, took_over)) = lead else {
                lookup = self.join_or_lead(location, key, || self.candidate());
                continue;
            };
            let permit = match self
                .permit_for(location, key, &leader, &patience, alarm)
                .await
            {
                Ok(permit) => permit,
                Err(waited) => return self.give_up(location, key, waited).map(Approach::Arrived),
            };
            if permit.is_some() && !leader.begin(self.permitted(true)) {
                drop((leader, permit));
                lookup = self.join_or_lead(location, key, || self.candidate());
                continue;
            }
            // There may be a value by now, or a failure after which no load is to begin so soon.
            if took_over || !self.inner.leads_at_once {
                if let Some(outcome) = self.look_again(location, key, &leader) {
                    leader.complete(|| outcome.clone());
                    return self
                        .take_outcome(location, key, outcome)
                        .map(Approach::Arrived);
                }
            }
            return Ok(Approach::Load((leader, permit)));
        }
    }

    /// Returns the result of a call from the outcome of another caller's load, and counts the call.
    pub(crate) fn take_outcome(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        outcome: Outcome<V>,
    ) -> Result<V, LoadError<AnyError>> {
        let result = match outcome {
            Outcome::Stale(value) => {
                self.count_stale(location, key);
                return Ok(value);
            }
            Outcome::Value(value) => Ok(value),
            Outcome::Failed(error) => Err(LoadError::Failed(error)),
            Outcome::Absent => unreachable!("handled by the callers of this function"),
        };
        self.inner.counters.count(Count::Coalesced);
        result
    }

    fn count_stale(&self, location: &KeyLocation<'_, K, V>, key: &K) {
        self.count_served(ThreadSlot::current(), Count::Stale, location, key);
    }

    /// Looks for a value again for a leader that looked some time ago.
    pub(crate) fn look_again(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        leader: &Leader<'_, K, V>,
    ) -> Option<Outcome<V>> {
        // Callers that come after an invalidation, perhaps of the value that is found here, look for themselves.
        leader.outdate(leader.epoch + 1);
        let live = self.peek(location, key, |value, _| value.clone());
        let found = live.map(Outcome::Value);
        found.or_else(|| self.stale(location, key))
    }

    /// Runs the loader, stores its result, and passes the outcome to the waiters.
    pub(crate) async fn run<F: Future>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        (leader, permit): Cleared<'_, K, V>,
        loader: LoaderId,
        load: impl FnOnce(&K) -> F,
        erase: impl FnOnce(F::Output) -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>> {
        let timer = self.load_timer(leader.since);
        let permit_of = || permit.as_ref().map(Permit::enter);
        let enter = || (leader.enter(loader), permit_of(), timer.span.enter());
        let result = run_within(enter, || load(key), erase).await;
        drop(permit);
        self.settle(location, key, leader, result, timer)
    }

    /// Runs the loader of a caller that interrupts the load of the same key on this thread. The result is for this
    /// caller alone, and is not stored.
    pub(crate) async fn run_unshared<F: Future>(
        &self,
        key: &K,
        reentry: &Reentry,
        loader: LoaderId,
        load: impl FnOnce(&K) -> F,
        erase: impl FnOnce(F::Output) -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>> {
        let timer = self.load_timer(Instant::now());
        let enter = || (reentry.enter(loader), timer.span.enter());
        let result = run_within(enter, || load(key), erase).await;
        timer.stop(result.is_ok());
        result.map(Loaded::into_value).map_err(LoadError::Failed)
    }

    pub(crate) fn load_timer(&self, started: Instant) -> LoadTimer<'_> {
        let name = self.inner.settings.name.as_deref();
        #[cfg(feature = "redis")]
        if self.inner.settings.is_l1 {
            return LoadTimer::start(&self.inner.counters, started, Span::fetch(name));
        }
        LoadTimer::start(&self.inner.counters, started, Span::load(name))
    }

    /// Boards to renew an entry. Returns `None` if another caller loads it already, or if a permit is needed and
    /// none is free: the entry is live, so its renewal does not wait.
    pub(crate) fn begin_refresh<'a>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
    ) -> Option<Cleared<'a, K, V>> {
        let permit = match self.bulkhead_to_pass() {
            Some(bulkhead) => Some(bulkhead.try_pass()?),
            None => None,
        };
        let flights = &location.cell.flights;
        let terms = self.permitted(permit.is_some());
        let join_or_lead = |_: &_| flights.join_or_lead(location.hash.0, key, terms);
        let boarding = location.cell.shard.read(join_or_lead);
        assert_no_lock_held("load into");
        let leader = match boarding {
            Role::Lead(leader) => leader,
            Role::Wait(mut waiter) => {
                // `None`: another caller loads, and its lease has not ended.
                let step = waiter.poll(terms, Waker::noop()).ok()?;
                self.count_superseded(&step);
                let Step::Lead(leader) = step else {
                    return None;
                };
                leader
            }
            Role::Recursive(_) => return None,
        };
        self.inner.counters.count(Count::Refresh);
        Some((leader, permit))
    }

    /// Stores the result of a load that has ended, or falls back on an expired value.
    fn settle(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        leader: Leader<'_, K, V>,
        result: LoadResult<V>,
        timer: LoadTimer<'_>,
    ) -> Result<V, LoadError<AnyError>> {
        let load_time = timer.stop(result.is_ok());
        match result {
            Ok(loaded) => Ok(self.complete(location, key, leader, loaded, load_time)),
            Err(error) => self.fall_back(location, key, leader, error),
        }
    }

    /// Stores the result of a load, and passes it to the waiters.
    pub(crate) fn complete(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        mut leader: Leader<'_, K, V>,
        loaded: Loaded<V>,
        load_time: Nanos,
    ) -> V {
        let value = loaded.value.clone();
        if !loaded.tags.is_empty() || self.inner.settings.is_l1 {
            // Callers that came after an invalidation, perhaps of one of these tags, look for themselves.
            leader.outdate(leader.epoch + 1);
        }
        let provenance = self.provenance(&loaded, leader.epoch, load_time);
        let mut removals = self.removals();
        let (key, out) = (key.clone(), &mut removals);
        // The callers get the value even if it is outdated and was not stored.
        let _ = self.store(location, key, loaded, provenance, Some(&mut leader), out);
        leader.complete(|| Outcome::Value(value.clone()));
        removals.finish();
        value
    }

    /// Ends a load that has failed: its callers get an expired value, if one may serve, or the error.
    pub(crate) fn fall_back(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        leader: Leader<'_, K, V>,
        error: Arc<AnyError>,
    ) -> Result<V, LoadError<AnyError>> {
        // This comes before anything is read: see `look_again`.
        leader.outdate(leader.epoch + 1);
        if self.inner.has_refresh_rules {
            let now = self.inner.settings.clock.now();
            let note = |shard: &Shard<K, V>| shard.load_failed(location.hash, key, now);
            location.cell.shard.read(note);
        }
        if let Some(outcome) = self.stale(location, key) {
            if let Outcome::Stale(_) = outcome {
                self.count_stale(location, key);
            }
            leader.complete(|| outcome.clone());
            return match outcome {
                Outcome::Value(value) | Outcome::Stale(value) => Ok(value),
                Outcome::Failed(_) | Outcome::Absent => unreachable!("there is a value"),
            };
        }
        leader.complete(|| Outcome::Failed(error.clone()));
        Err(LoadError::Failed(error))
    }
}

/// The result of a loader, in the form that flights share.
pub(crate) type LoadResult<V> = Result<Loaded<V>, Arc<AnyError>>;

/// The leader that is about to load, and its permit if it needs one.
pub(crate) type Cleared<'a, K, V> = (Leader<'a, K, V>, Option<Permit>);

/// The result of [`approach`](LocalCache::approach).
pub(crate) enum Approach<'a, K, V> {
    Arrived(V),
    Load(Cleared<'a, K, V>),
    /// The caller runs its loader for itself alone.
    LoadUnshared(Reentry),
}

impl<E: ?Sized> From<TimedOut> for LoadError<E> {
    fn from(TimedOut: TimedOut) -> Self {
        Self::WaitTimeout
    }
}

/// A timer that counts a run of a loader. The run counts as failed unless `stop` says otherwise, so also if it panics or
/// is cancelled.
pub(crate) struct LoadTimer<'a> {
    timer: OperationTimer<'a, Counters>,
    pub(crate) span: Span,
}

impl<'a> LoadTimer<'a> {
    fn start(counters: &'a Counters, started: Instant, span: Span) -> Self {
        counters.count(Count::Load);
        Self {
            timer: OperationTimer::new(counters, started),
            span,
        }
    }

    /// Returns the duration of the load.
    pub(crate) fn stop(self, succeeded: bool) -> Nanos {
        saturating_nanos(self.timer.stop(succeeded))
    }
}
