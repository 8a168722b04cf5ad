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
use crate::local::lookup::Sought;
use crate::local::shard::Shard;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::blocking::block_on;
use crate::single_flight::{
    Answer, Leader, LoaderId, Outcome, Permit, Reentry, Role, TimedOut, Timer, run_within,
};
use crate::stats::{Count, Counters};
use crate::sync::reentrancy::assert_holds_nothing;
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
use std::time::{Duration, Instant};

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
        match self.seek(&location, key) {
            Sought::Live(value) => Ok(value),
            sought => {
                let (mut sought, loader) = (Some(sought), Some(type_name_of_val(&load)));
                with_erased(load, |load| {
                    let sought = sought
                        .take()
                        .unwrap_or_else(|| self.join_or_lead(&location, key));
                    self.load_blocking(&location, key, sought, loader, load)
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
        sought: Sought<'a, K, V>,
        loader: LoaderId,
        load: &mut ErasedLoader<'_, K, V>,
    ) -> Result<V, LoadError<AnyError>> {
        let sought = match sought {
            // Most misses take this path, which needs no future.
            Sought::Missing(Role::Lead(leader)) if self.inner.leads_at_once => {
                let load_timer = self.load_timer(leader.since);
                let entered = (leader.enter(loader), load_timer.span.enter());
                let result = load(key);
                drop(entered);
                return self.finish_load(location, key, leader, result, load_timer);
            }
            sought => sought,
        };
        block_on(&Cell::new(None), async |mut timer| {
            let start = |key: &K| ready(load(key));
            let found = (sought, loader);
            self.load(location, key, found, &mut timer, start, |result| result)
                .await
        })
    }

    /// Completes a call from the result of its lookup to a value. `erase` converts the result of the loader into the
    /// form that flights share.
    pub(crate) async fn load<'a, F: Future>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        (sought, loader): (Sought<'a, K, V>, LoaderId),
        timer: &mut impl Timer,
        load: impl FnOnce(&K) -> F,
        erase: impl FnOnce(F::Output) -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>> {
        if let Sought::Due(old) = sought {
            let Some(permitted_leader) = self.begin_refresh(location, key) else {
                return Ok(old);
            };
            let refreshed = self
                .run(location, key, permitted_leader, loader, load, erase)
                .await;
            return refreshed.or(Ok(old));
        }
        match self
            .value_or_lead(location, key, sought, loader, timer)
            .await?
        {
            ValueOrLead::Value(value) => Ok(value),
            ValueOrLead::Lead(permitted_leader) => {
                self.run(location, key, permitted_leader, loader, load, erase)
                    .await
            }
            ValueOrLead::LeadUnshared(reentry) => {
                self.run_unshared(key, &reentry, loader, load, erase).await
            }
        }
    }

    /// Waits until the caller has a value or is to load it.
    pub(crate) async fn value_or_lead<'a>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &K,
        mut sought: Sought<'a, K, V>,
        loader: LoaderId,
        timer: &mut impl Timer,
    ) -> Result<ValueOrLead<'a, K, V>, LoadError<AnyError>> {
        let wait_limits = self.wait_limits();
        loop {
            let role = match sought {
                Sought::Missing(role) => role,
                Sought::Live(value) | Sought::Due(value) => {
                    let outcome = Outcome::Value(value);
                    return self
                        .take_outcome(location, key, outcome)
                        .map(ValueOrLead::Value);
                }
                Sought::Stale(value) => {
                    let outcome = Outcome::Stale(value);
                    return self
                        .take_outcome(location, key, outcome)
                        .map(ValueOrLead::Value);
                }
            };
            let lead = match role {
                Role::Lead(leader) => Some((leader, false)),
                Role::Recursive(reentry) if reentry.may_be_stolen(loader) => {
                    return Ok(ValueOrLead::LeadUnshared(reentry));
                }
                Role::Recursive(_) => return Err(LoadError::Recursive),
                Role::Wait(mut waiter) => {
                    let turn = |cx: &mut Context<'_>| waiter.poll(self.candidate(), cx.waker());
                    let answer = match self
                        .wait_for(location, key, &wait_limits, timer, turn)
                        .await
                    {
                        Ok(answer) => answer,
                        Err(waited) => {
                            return self
                                .stale_or_timeout(location, key, waited)
                                .map(ValueOrLead::Value);
                        }
                    };
                    self.count_superseded(&answer);
                    match answer {
                        Answer::Lead(leader) => Some((leader, true)),
                        Answer::Retry { .. } => None,
                        Answer::Completed(completed) => match completed.into_outcome() {
                            // The loader of a batch returned no value for the key; this caller's loader may.
                            Outcome::Absent => None,
                            outcome => {
                                return self
                                    .take_outcome(location, key, outcome)
                                    .map(ValueOrLead::Value);
                            }
                        },
                    }
                }
            };
            let Some((mut leader, took_over)) = lead else {
                sought = self.join_or_lead(location, key);
                continue;
            };
            let permit = match self
                .permit_for(location, key, &leader, &wait_limits, timer)
                .await
            {
                Ok(permit) => permit,
                Err(waited) => {
                    return self
                        .stale_or_timeout(location, key, waited)
                        .map(ValueOrLead::Value);
                }
            };
            if permit.is_some() && !leader.begin(self.permitted_candidate(true)) {
                drop((leader, permit));
                sought = self.join_or_lead(location, key);
                continue;
            }
            // There may be a value by now, or a failure after which no load is to begin so soon.
            if took_over || !self.inner.leads_at_once {
                if let Some(outcome) = self.look_up_again(location, key, &leader) {
                    leader.complete(|| outcome.clone());
                    return self
                        .take_outcome(location, key, outcome)
                        .map(ValueOrLead::Value);
                }
            }
            return Ok(ValueOrLead::Lead((leader, permit)));
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
    pub(crate) fn look_up_again(
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
        (leader, permit): PermittedLeader<'_, K, V>,
        loader: LoaderId,
        load: impl FnOnce(&K) -> F,
        erase: impl FnOnce(F::Output) -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>> {
        let load_timer = self.load_timer(leader.since);
        let permit_of = || permit.as_ref().map(Permit::enter);
        let enter = || (leader.enter(loader), permit_of(), load_timer.span.enter());
        let result = run_within(enter, || load(key), erase).await;
        drop(permit);
        self.finish_load(location, key, leader, result, load_timer)
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
        let load_timer = self.load_timer(Instant::now());
        let enter = || (reentry.enter(loader), load_timer.span.enter());
        let result = run_within(enter, || load(key), erase).await;
        load_timer.stop(result.is_ok());
        result.map(Loaded::into_value).map_err(LoadError::Failed)
    }

    pub(crate) fn load_timer(&self, started: Instant) -> LoadTimer<'_> {
        let name = self.inner.settings.name.as_deref();
        #[cfg(feature = "redis")]
        if self.inner.settings.forgets {
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
    ) -> Option<PermittedLeader<'a, K, V>> {
        let permit = match self.required_bulkhead() {
            Some(bulkhead) => Some(bulkhead.try_acquire()?),
            None => None,
        };
        let in_flight = &location.cell.in_flight;
        let terms = self.permitted_candidate(permit.is_some());
        let join_or_lead = |_: &_| in_flight.join_or_lead(location.hash.0, key, terms);
        let role = location.cell.shard.read(join_or_lead);
        assert_holds_nothing("load into");
        let leader = match role {
            Role::Lead(leader) => leader,
            Role::Wait(mut waiter) => {
                // `None`: another caller loads, and its lease has not ended.
                let answer = waiter.poll(terms, Waker::noop()).ok()?;
                self.count_superseded(&answer);
                let Answer::Lead(leader) = answer else {
                    return None;
                };
                leader
            }
            Role::Recursive(_) => return None,
        };
        self.inner.counters.count(Count::Renewal);
        Some((leader, permit))
    }

    /// Stores the result of a load that has ended, or falls back on an expired value.
    fn finish_load(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        leader: Leader<'_, K, V>,
        result: LoadResult<V>,
        load_timer: LoadTimer<'_>,
    ) -> Result<V, LoadError<AnyError>> {
        let load_time = load_timer.stop(result.is_ok());
        match result {
            Ok(loaded) => Ok(self.complete(location, key, leader, loaded, load_time)),
            Err(error) => self.complete_failed(location, key, leader, error),
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
        if !loaded.tags.is_empty() || self.inner.settings.forgets {
            // Callers that came after an invalidation, perhaps of one of these tags, look for themselves.
            leader.outdate(leader.epoch + 1);
        }
        let origin = self.origin(&loaded, leader.epoch, load_time);
        let mut removals = self.removals();
        let (key, out) = (key.clone(), &mut removals);
        // The callers get the value even if it is outdated and was not stored.
        let _ = self.store(location, key, loaded, origin, Some(&mut leader), out);
        leader.complete(|| Outcome::Value(value.clone()));
        removals.finish();
        value
    }

    /// Ends a load that has failed: its callers get an expired value, if one may serve, or the error.
    pub(crate) fn complete_failed(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &K,
        leader: Leader<'_, K, V>,
        error: Arc<AnyError>,
    ) -> Result<V, LoadError<AnyError>> {
        // This comes before anything is read: see `look_again`.
        leader.outdate(leader.epoch + 1);
        if self.inner.renews {
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
pub(crate) type PermittedLeader<'a, K, V> = (Leader<'a, K, V>, Option<Permit>);

/// The result of [`approach`](LocalCache::approach).
pub(crate) enum ValueOrLead<'a, K, V> {
    Value(V),
    Lead(PermittedLeader<'a, K, V>),
    /// The caller runs its loader for itself alone.
    LeadUnshared(Reentry),
}

impl<E: ?Sized> From<TimedOut> for LoadError<E> {
    fn from(TimedOut: TimedOut) -> Self {
        Self::WaitTimeout
    }
}

/// A timer that counts a run of a loader. The run counts as failed unless `stop` says otherwise, so also if it panics or
/// is cancelled.
pub(crate) struct LoadTimer<'a> {
    counters: &'a Counters,
    started: Instant,
    failed: bool,
    elapsed: Option<Duration>,
    pub(crate) span: Span,
}

impl<'a> LoadTimer<'a> {
    fn start(counters: &'a Counters, started: Instant, span: Span) -> Self {
        counters.count(Count::Load);
        Self {
            counters,
            started,
            failed: true,
            elapsed: None,
            span,
        }
    }

    /// Returns the duration of the load.
    pub(crate) fn stop(mut self, succeeded: bool) -> Nanos {
        self.failed = !succeeded;
        self.elapsed = Some(self.started.elapsed());
        saturating_nanos(self.elapsed.unwrap_or_default())
    }
}

impl Drop for LoadTimer<'_> {
    fn drop(&mut self) {
        let elapsed = self.elapsed.unwrap_or_else(|| self.started.elapsed());
        self.counters.add_load_time(elapsed);
        if self.failed {
            self.counters.count(Count::LoadFailure);
        }
    }
}
