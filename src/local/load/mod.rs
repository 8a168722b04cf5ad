//! `get_or_load`: the path of a caller on a miss, written once for threads and tasks.
//!
//! The public methods are in `blocking.rs`, `tasks.rs`, `many.rs`, `detached.rs` and `reload.rs`.

pub(crate) mod batch;
mod blocking;
mod builder;
mod complete;
#[cfg(feature = "tokio")]
pub(crate) mod detached;
mod load_timer;
mod many;
pub(crate) mod refresh;
mod reload;
mod tasks;
pub(crate) mod waiting;

use crate::clock::precise_now;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::load::load_timer::LoadTimer;
use crate::local::load::waiting::{WaitFailure, WaitLimits};
use crate::local::lookup::Lookup;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::blocking::block_on;
use crate::single_flight::{
    Answer, Candidate, Leader, Outcome, Permit, Reentry, Role, Timer, Waiter, run_within,
};
use crate::stats::Count;
use crate::sync::reentrancy::assert_no_lock_held;
use crate::traits::erasure::{LoadResult, LoaderProperties};
use crate::traits::key::LookupKey;
use std::cell::Cell;
use std::future::{Future, ready};
use std::hash::{BuildHasher, Hash};
use std::task::{Context, Waker};

/// A leader that may load at once, and its permit if it needs one.
pub(crate) type PermittedLeader<'a, K, V> = (Leader<'a, K, V>, Option<Permit>);

/// The result of [`value_or_lead`](LocalCache::value_or_lead).
pub(crate) enum ValueOrLead<'a, K, V> {
    Value(V),
    Lead(PermittedLeader<'a, K, V>),
    /// The caller runs its loader for itself alone.
    LeadUnshared(Reentry),
}

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Completes `get_or_load` if the lookup was not a [`Lookup::Hit`].
    #[cold]
    pub(crate) fn load_blocking<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        lookup: Lookup<'a, K, V>,
        loader: LoaderProperties,
        load: &mut dyn FnMut() -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let lookup = match lookup {
            Lookup::Miss(Role::Lead(leader)) if self.inner.leads_at_once => {
                return self.lead_at_once(location, key, leader, loader, load);
            }
            lookup => lookup,
        };
        self.load_on_this_thread(location, key, lookup, loader, load)
    }

    /// Completes [`load_blocking`](Self::load_blocking) if the caller leads at once. Without optimization this is a
    /// separate function, so that other loads within loads need less of the stack.
    #[inline]
    fn lead_at_once<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        mut leader: Leader<'_, K, V>,
        loader: LoaderProperties,
        load: &mut dyn FnMut() -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        // Most misses take this path, which needs no future.
        let load_timer = self.load_timer(leader.since);
        let entered = (leader.enter(loader.id), load_timer.span.enter());
        let result = load();
        drop(entered);
        let load_time = self.stop_timer(load_timer, result.is_ok());
        // The key of the load is dropped before the result is returned: if the drop panicked after that, the
        // result would never be dropped.
        match result {
            Ok(loaded) => {
                let key = key.to_key();
                let leading = &mut leader;
                let value = self.complete_load(location, key, leading, loaded, load_time);
                drop(leader);
                Ok(value)
            }
            Err(error) => {
                let result = self.complete_failed(location, key, &mut leader, error);
                drop(leader);
                result
            }
        }
    }

    /// Completes [`load_blocking`](Self::load_blocking) if the caller does not lead at once.
    #[inline(never)]
    fn load_on_this_thread<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        lookup: Lookup<'a, K, V>,
        loader: LoaderProperties,
        load: &mut dyn FnMut() -> LoadResult<V>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        block_on(&Cell::new(None), async |mut timer| {
            let start = || ready(load());
            let found = (lookup, loader);
            self.load(location, key, found, &mut timer, start).await
        })
    }

    /// Returns the value for a key whose lookup had the result `lookup`.
    pub(crate) async fn load<'a, Q, F>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        (lookup, loader): (Lookup<'a, K, V>, LoaderProperties),
        timer: &mut impl Timer,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>>,
    {
        if let Lookup::NeedsRefresh(old) = lookup {
            let Some(leader) = self.begin_refresh(location, key) else {
                return Ok(old);
            };
            let refreshed = self.run(location, key, leader, loader, load).await;
            return refreshed.or(Ok(old));
        }
        match self
            .value_or_lead(location, key, lookup, loader, timer)
            .await?
        {
            ValueOrLead::Value(value) => Ok(value),
            ValueOrLead::Lead(leader) => self.run(location, key, leader, loader, load).await,
            ValueOrLead::LeadUnshared(reentry) => self.run_unshared(&reentry, loader, load).await,
        }
    }

    /// Waits until the caller has a value or is to load it.
    pub(crate) async fn value_or_lead<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        mut lookup: Lookup<'a, K, V>,
        loader: LoaderProperties,
        timer: &mut impl Timer,
    ) -> Result<ValueOrLead<'a, K, V>, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let mut limits = self.wait_limits();
        if loader.reloads {
            limits.stale_from = None;
        }
        let value_of = |outcome| {
            let value = self.take_outcome(key, outcome);
            value.map(ValueOrLead::Value)
        };
        // The result of a wait that took too long. A caller that reloads is not given the old value.
        let instead = |failure| match failure {
            WaitFailure::Stale(_) if loader.reloads => Err(LoadError::WaitTimeout),
            failure => {
                let value = self.stale_or_timeout(key, failure);
                value.map(ValueOrLead::Value)
            }
        };
        loop {
            let role = match lookup {
                Lookup::Miss(role) => role,
                Lookup::Hit(value) | Lookup::NeedsRefresh(value) => {
                    return value_of(Outcome::Value(value));
                }
                Lookup::Stale(value) => return value_of(Outcome::Stale(value)),
            };
            let lead = match role {
                Role::Lead(leader) => Some((leader, false)),
                Role::Recursive(reentry) if reentry.may_be_stolen(loader.id) => {
                    return Ok(ValueOrLead::LeadUnshared(reentry));
                }
                Role::Recursive(_) => return Err(LoadError::Recursive),
                Role::Wait(waiter) => {
                    match self
                        .wait_for_load(location, key, waiter, &limits, timer)
                        .await
                    {
                        Ok(Answer::Lead(leader)) => Some((leader, true)),
                        Ok(Answer::Retry { .. }) => None,
                        Ok(Answer::Completed(completed)) => match completed.into_outcome() {
                            // A batch's loader returned no value for the key. This caller's loader may.
                            Outcome::Absent => None,
                            // The caller cannot return this error and still has its loader.
                            Outcome::Failed(error) if !loader.error_type.accepts(&error) => None,
                            outcome => return value_of(outcome),
                        },
                        Err(failure) => return instead(failure),
                    }
                }
            };
            let Some((mut leader, took_over)) = lead else {
                lookup = self.look_up_or_reload(location, key, loader);
                continue;
            };
            let permit = match self
                .permit_for(location, key, &leader, &limits, timer)
                .await
            {
                Ok(permit) => permit,
                Err(failure) => return instead(failure),
            };
            if permit.is_some() && !leader.begin(self.permitted_candidate(true)) {
                drop((leader, permit));
                lookup = self.look_up_or_reload(location, key, loader);
                continue;
            }
            // By now there may be a value, or a failure so recent that no other load begins.
            if !loader.reloads && (took_over || !self.inner.leads_at_once) {
                if let Some(outcome) = self.look_up_again(location, key, &leader) {
                    leader.complete(|| outcome.clone());
                    return value_of(outcome);
                }
            }
            return Ok(ValueOrLead::Lead((leader, permit)));
        }
    }

    /// Looks up a key again, or joins or leads its load if the caller reloads.
    fn look_up_or_reload<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        loader: LoaderProperties,
    ) -> Lookup<'a, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        if loader.reloads {
            Lookup::Miss(Self::reload(location, key, self.candidate()))
        } else {
            self.join_or_lead(location, key, || self.candidate())
        }
    }

    /// Joins or leads the load of a key, whether it has a live value or not.
    pub(crate) fn reload<'a, Q>(
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        candidate: Candidate,
    ) -> Role<'a, K, V>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let in_flight = &location.cell.in_flight;
        let join_or_lead = |_: &_| in_flight.join_or_lead(location.hash.0, key, candidate);
        let role = location.cell.shard.read(join_or_lead);
        assert_no_lock_held("load into");
        role
    }

    /// Waits for another caller's load of one key.
    async fn wait_for_load<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
        mut waiter: Waiter<'a, K, V>,
        limits: &WaitLimits,
        timer: &mut impl Timer,
    ) -> Result<Answer<'a, K, V>, WaitFailure<Outcome<V>>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let poll = |cx: &mut Context<'_>| waiter.poll(self.candidate(), cx.waker());
        let answer = self.wait_for(location, key, limits, timer, poll).await?;
        self.count_superseded(&answer);
        Ok(answer)
    }

    /// Runs the loader, stores its result, and passes the outcome to the waiters.
    pub(crate) async fn run<Q, F>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        (leader, permit): PermittedLeader<'_, K, V>,
        loader: LoaderProperties,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = LoadResult<V>>,
    {
        let load_timer = self.load_timer(leader.since);
        let enter_permit = || permit.as_ref().map(Permit::enter);
        let enter = || {
            (
                leader.enter(loader.id),
                enter_permit(),
                load_timer.span.enter(),
            )
        };
        let result = run_within(enter, load).await;
        drop(permit);
        self.finish_load(location, key, leader, result, load_timer)
    }

    /// Stores the result of a load that has ended, or falls back on an expired value. This is a separate function, so
    /// that loads within loads need less of the stack.
    #[inline(never)]
    fn finish_load<Q>(
        &self,
        location: &KeyLocation<'_, K, V>,
        key: &Q,
        mut leader: Leader<'_, K, V>,
        result: LoadResult<V>,
        load_timer: LoadTimer<'_>,
    ) -> Result<V, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let load_time = self.stop_timer(load_timer, result.is_ok());
        let result = match result {
            Ok(loaded) => {
                let key = key.to_key();
                Ok(self.complete_load(location, key, &mut leader, loaded, load_time))
            }
            Err(error) => self.complete_failed(location, key, &mut leader, error),
        };
        // As in `load_blocking`.
        drop(leader);
        result
    }

    /// Runs the loader of a caller that interrupts the load of the same key on this thread. The result is for this
    /// caller alone and is not stored.
    pub(crate) async fn run_unshared<F>(
        &self,
        reentry: &Reentry,
        loader: LoaderProperties,
        load: impl FnOnce() -> F,
    ) -> Result<V, LoadError<AnyError>>
    where
        F: Future<Output = LoadResult<V>>,
    {
        let load_timer = self.load_timer(precise_now());
        let enter = || (reentry.enter(loader.id), load_timer.span.enter());
        let result = run_within(enter, load).await;
        load_timer.stop(result.is_ok());
        result.map(Loaded::into_value)
    }

    /// Begins the load that refreshes a live entry. Returns `None` if another caller loads the key already, or if a
    /// permit is needed and none is free. It does not wait for either, because the live value can be served.
    pub(crate) fn begin_refresh<'a, Q>(
        &self,
        location: &KeyLocation<'a, K, V>,
        key: &Q,
    ) -> Option<PermittedLeader<'a, K, V>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        let permit = match self.required_bulkhead() {
            Some(bulkhead) => Some(bulkhead.try_acquire()?),
            None => None,
        };
        let candidate = self.permitted_candidate(permit.is_some());
        let leader = match Self::reload(location, key, candidate) {
            Role::Lead(leader) => leader,
            Role::Wait(mut waiter) => {
                // If this returns `None`, another caller loads, and its lease has not ended.
                let answer = waiter.poll(candidate, Waker::noop()).ok()?;
                self.count_superseded(&answer);
                let Answer::Lead(leader) = answer else {
                    return None;
                };
                leader
            }
            Role::Recursive(_) => return None,
        };
        self.inner.counters.count(Count::Refresh);
        Some((leader, permit))
    }
}
