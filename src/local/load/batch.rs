//! Batches: the missing keys of one call are loaded with one call of the loader.
//!
//! Each missing key has its own load in flight, which batches and single calls share. A batch first loads the keys that
//! it leads, and only then waits for keys that other callers lead, so two batches never wait for each other. It waits
//! for all of these keys together. Whenever it becomes the leader of several of them at once, for example because
//! another batch was dropped, it loads them with one call.

use crate::clock::Nanos;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::load::waiting::{WaitFailure, WaitLimits};
use crate::local::lookup::Lookup;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::blocking::block_on;
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{
    Answer, Leader, LeaderGroup, Outcome, Permit, Role, Timer, WaiterGroup, run_within,
};
use crate::traits::erasure::{BatchResult, ErrorType};
use crate::traits::key::LookupKey;
use hashbrown::HashTable;
use std::cell::Cell;
use std::future::{Future, ready};
use std::hash::{BuildHasher, Hash};
use std::task::Context;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Returns the values for several keys, for a loader whose result is in shared form already. The caller accepts
    /// errors of other callers' loads only if they have the type `error_type`.
    pub(in crate::local) fn get_many_or_load_blocking<Q>(
        &self,
        keys: Vec<&Q>,
        error_type: ErrorType,
        mut load: impl FnMut(Vec<K>) -> BatchResult<K, V>,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
    {
        block_on(&Cell::new(None), async |mut timer| {
            let start = |missing| ready(load(missing));
            let batch = Batch::look_up(self, keys, error_type, BatchLookup::Recorded);
            self.load_many(batch, self.wait_limits(), &mut timer, start)
                .await
        })
    }

    /// Returns the values for several keys like [`get_many_or_load_blocking`](Self::get_many_or_load_blocking), for
    /// tasks.
    pub(crate) async fn get_many_or_load_shared<Q, F>(
        &self,
        keys: Vec<&Q>,
        error_type: ErrorType,
        lookup: BatchLookup,
        wait_limits: WaitLimits,
        load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = BatchResult<K, V>>,
    {
        let mut timer = TaskTimer::default();
        let batch = Batch::look_up(self, keys, error_type, lookup);
        // Boxed, so that this future stays small whatever the loader's size.
        Box::pin(self.load_many(batch, wait_limits, &mut timer, load)).await
    }

    /// Returns the values for a batch whose keys have been looked up. Loads the missing ones or waits for them.
    async fn load_many<'a, Q, F>(
        &'a self,
        mut batch: Batch<'a, K, V, S, Q>,
        mut wait_limits: WaitLimits,
        timer: &mut impl Timer,
        mut load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        Q: LookupKey<K> + ?Sized,
        F: Future<Output = BatchResult<K, V>>,
    {
        let (mut led, mut waiting) = (LeaderGroup::new(), WaiterGroup::new());
        loop {
            batch.join_or_lead(&mut led, &mut waiting)?;
            if !led.is_empty() {
                // The caller runs its own loads before it waits for others, so that two callers never wait for each
                // other. While it loads, it does not become the leader of the loads that it waits for.
                waiting.mark_busy();
                let led = std::mem::replace(&mut led, LeaderGroup::new());
                batch.load(led, &wait_limits, timer, &mut load).await?;
                continue;
            }
            if waiting.is_empty() {
                return Ok(batch.into_values());
            }
            let poll = waiting.next_answers(|| self.candidate(), wait_limits.next(), timer);
            let Ok(answers) = poll.await else {
                batch.take_stale(&mut waiting)?;
                if wait_limits.is_over() && !waiting.is_empty() {
                    return Err(LoadError::WaitTimeout);
                }
                wait_limits.stale_from = None;
                continue;
            };
            let mut completed = Vec::new();
            for (at, answer) in answers {
                self.count_superseded(&answer);
                match answer {
                    Answer::Completed(outcome) => completed.push((at, outcome)),
                    Answer::Retry { .. } => batch.missing.push(at),
                    Answer::Lead(leader) => led.push(at, leader),
                }
            }
            // Outcomes are processed after all leaders are in `led`, so that an error hands all of them over together.
            for (at, completed) in completed {
                match completed.into_outcome() {
                    // The caller cannot return an error of this type, so it runs its own loader.
                    Outcome::Failed(error) if !batch.error_type.accepts(&error) => {
                        batch.missing.push(at);
                    }
                    outcome => batch.take_outcome(at, outcome)?,
                }
            }
        }
    }
}

/// Whether the statistics and the policy record the lookups of a batch.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum BatchLookup {
    Recorded,
    /// Not recorded, because the caller has already looked up the keys.
    #[cfg(feature = "redis")]
    Unrecorded,
}

/// A vector whose items are dropped in reverse order. The items remove marks from a list of their thread, which is
/// searched from the end, so each mark is found at once.
struct InReverse<T>(Vec<T>);

impl<T> Drop for InReverse<T> {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// The keys of one call, by position, and the values that are known so far.
struct Batch<'a, K, V, S, Q: ?Sized> {
    cache: &'a LocalCache<K, V, S>,
    keys: Vec<&'a Q>,
    /// The error type of this call. It returns an error of another caller's load only if the error has this type.
    error_type: ErrorType,
    locations: Vec<KeyLocation<'a, K, V>>,
    /// The first position of each key.
    first: HashTable<usize>,
    values: Vec<Option<V>>,
    /// The first positions of the keys that are still to be loaded or waited for.
    missing: Vec<usize>,
}

impl<'a, K, V, S, Q> Batch<'a, K, V, S, Q>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
    Q: LookupKey<K> + ?Sized,
{
    /// Creates a batch. Looks up each distinct key, unless the caller has already done so.
    fn look_up(
        cache: &'a LocalCache<K, V, S>,
        keys: Vec<&'a Q>,
        error_type: ErrorType,
        lookup: BatchLookup,
    ) -> Self {
        let mut batch = Self {
            cache,
            error_type,
            locations: keys.iter().map(|key| cache.location(*key)).collect(),
            first: HashTable::with_capacity(keys.len()),
            values: vec![None; keys.len()],
            missing: Vec::new(),
            keys,
        };
        for at in 0..batch.keys.len() {
            if batch.first_position(at).is_some() {
                continue;
            }
            let key = batch.keys[at];
            let Batch {
                locations, first, ..
            } = &mut batch;
            first.insert_unique(locations[at].hash.0, at, |&other| locations[other].hash.0);
            if lookup == BatchLookup::Recorded {
                batch.values[at] = cache.get_at(&batch.locations[at], key);
            }
            if batch.values[at].is_none() {
                batch.missing.push(at);
            }
        }
        batch
    }

    /// Returns the first position of a key, if the key is in `first`.
    fn position(&self, key: &K, location: &KeyLocation<'_, K, V>) -> Option<usize> {
        let is_it = |&other: &usize| self.keys[other].equivalent(key);
        self.first.find(location.hash.0, is_it).copied()
    }

    /// Returns the first position of the key at a position, if the key is in `first`.
    fn first_position(&self, at: usize) -> Option<usize> {
        let hash = self.locations[at].hash.0;
        // Two keys in borrowed form cannot be compared. Only keys with equal hashes are cloned for it.
        let is_it = |&other: &usize| {
            other == at
                || (self.locations[other].hash.0 == hash
                    && self.keys[other].equivalent(&self.keys[at].to_key()))
        };
        self.first.find(hash, is_it).copied()
    }

    /// Joins or leads the loads of all missing keys with one [`Candidate`](crate::single_flight::Candidate), so that
    /// all leases of this caller end together.
    fn join_or_lead(
        &mut self,
        led: &mut LeaderGroup<'a, K, V>,
        waiting: &mut WaiterGroup<'a, K, V>,
    ) -> Result<(), LoadError<AnyError>> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let candidate = self.cache.candidate();
        for at in std::mem::take(&mut self.missing) {
            let join_or_lead = self
                .cache
                .join_or_lead(&self.locations[at], self.keys[at], || candidate);
            match join_or_lead {
                Lookup::Miss(Role::Lead(leader)) => led.push(at, leader),
                Lookup::Miss(Role::Wait(waiter)) => waiting.push(at, waiter),
                Lookup::Miss(Role::Recursive(_)) => return Err(LoadError::Recursive),
                Lookup::Stale(value) => self.take_outcome(at, Outcome::Stale(value))?,
                Lookup::Hit(value) | Lookup::NeedsRefresh(value) => {
                    self.take_outcome(at, Outcome::Value(value))?;
                }
            }
        }
        Ok(())
    }

    /// Loads the keys that this caller leads, except those whose values have been stored in the meantime.
    async fn load<F>(
        &mut self,
        led: LeaderGroup<'a, K, V>,
        wait_limits: &WaitLimits,
        timer: &mut impl Timer,
        load: &mut impl FnMut(Vec<K>) -> F,
    ) -> Result<(), LoadError<AnyError>>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        let Some(permit) = self.permit(&led, wait_limits, timer).await? else {
            return Ok(());
        };
        let led = self.begin(led, permit.is_some())?;
        let Some((_, leader)) = led.iter().next() else {
            return Ok(());
        };
        let keys = led.iter().map(|&(at, _)| self.keys[at].to_key()).collect();
        let load_timer = self.cache.load_timer(leader.since);
        let enter = || {
            let leaders = led.iter().map(|(_, leader)| leader.enter(None));
            (
                InReverse(leaders.collect()),
                permit.as_ref().map(Permit::enter),
                load_timer.span.enter(),
            )
        };
        let result = run_within(enter, || load(keys)).await;
        let load_time = load_timer.stop(result.is_ok());
        drop(permit);
        self.finish_load(led, result, load_time)
    }

    /// Waits for a permit, if one is needed. The result is `Some(None)` if none is needed, and `None` if the wait takes
    /// too long and expired values are returned to the caller instead.
    async fn permit(
        &mut self,
        led: &LeaderGroup<'a, K, V>,
        wait_limits: &WaitLimits,
        timer: &mut impl Timer,
    ) -> Result<Option<Option<Permit>>, LoadError<AnyError>> {
        let mut queued = match self.cache.permit_or_queue() {
            Ok(permit) => return Ok(Some(permit)),
            Err(queued) => queued,
        };
        let poll = |cx: &mut Context<'_>| {
            let candidate = self.cache.candidate();
            for (_, leader) in led.iter() {
                leader.extend_lease(candidate);
            }
            queued.poll(cx.waker())
        };
        let waited = wait_limits.wait(timer, poll, || self.stale_for(led)).await;
        // A permit that was offered to this caller passes on at once.
        drop(queued);
        match waited {
            Ok(permit) => Ok(Some(Some(permit))),
            Err(WaitFailure::TimedOut) => Err(LoadError::WaitTimeout),
            Err(WaitFailure::Stale(outcomes)) => {
                for (at, outcome) in outcomes {
                    self.take_outcome(at, outcome)?;
                }
                Ok(None)
            }
        }
    }

    /// Returns the values to serve while a load is slow, or `None` unless each key that this caller leads has one.
    fn stale_for(&self, led: &LeaderGroup<'a, K, V>) -> Option<Vec<(usize, Outcome<V>)>> {
        let stale = |&(at, _): &(usize, Leader<'a, K, V>)| {
            let outcome = self
                .cache
                .stale_for_waiter(&self.locations[at], self.keys[at]);
            outcome.map(|outcome| (at, outcome))
        };
        led.iter().map(stale).collect()
    }

    /// Stops waiting for each key that has a value to serve while its load is slow.
    fn take_stale(
        &mut self,
        waiting: &mut WaiterGroup<'a, K, V>,
    ) -> Result<(), LoadError<AnyError>> {
        let mut result = Ok(());
        waiting.retain(|at| {
            let (location, key) = (&self.locations[at], self.keys[at]);
            let Some(outcome) = self.cache.stale_for_waiter(location, key) else {
                return true;
            };
            if let Err(error) = self.take_outcome(at, outcome) {
                result = Err(error);
            }
            false
        });
        result
    }

    /// Looks up the keys that this caller leads again, and returns the leaders of those that are still missing.
    fn begin(
        &mut self,
        mut led: LeaderGroup<'a, K, V>,
        has_permit: bool,
    ) -> Result<LeaderGroup<'a, K, V>, LoadError<AnyError>> {
        let permitted = self.cache.permitted_candidate(has_permit);
        let mut to_load = LeaderGroup::new();
        while let Some((at, mut leader)) = led.pop() {
            if has_permit && !leader.begin(permitted) {
                self.missing.push(at);
                continue;
            }
            match self
                .cache
                .look_up_again(&self.locations[at], self.keys[at], &leader)
            {
                Some(outcome) => {
                    leader.complete(|| outcome.clone());
                    self.take_outcome(at, outcome)?;
                }
                None => to_load.push(at, leader),
            }
        }
        Ok(to_load)
    }

    /// Completes the loads. Stores the loaded values; if the loader failed, serves expired values where that is
    /// allowed.
    fn finish_load(
        &mut self,
        mut led: LeaderGroup<'a, K, V>,
        result: BatchResult<K, V>,
        load_time: Nanos,
    ) -> Result<(), LoadError<AnyError>> {
        let mut loaded: Vec<Option<Loaded<V>>> = Vec::new();
        loaded.resize_with(self.keys.len(), || None);
        let failed = match result {
            Ok(pairs) => {
                for (key, value) in pairs {
                    if let Some(at) = self.position(&key, &self.cache.location(&key)) {
                        loaded[at] = Some(value);
                    }
                }
                None
            }
            Err(error) => Some(error),
        };
        let mut first_error = Ok(());
        while let Some((at, mut leader)) = led.pop() {
            let (location, key) = (&self.locations[at], self.keys[at]);
            let value = match (loaded[at].take(), &failed) {
                (Some(loaded), _) => {
                    Ok(self
                        .cache
                        .complete(location, key.to_key(), &mut leader, loaded, load_time))
                }
                (None, Some(error)) => {
                    self.cache
                        .complete_failed(location, key, &mut leader, error.clone())
                }
                (None, None) => {
                    leader.complete(|| Outcome::Absent);
                    continue;
                }
            };
            match value {
                Ok(value) => self.values[at] = Some(value),
                Err(error) => first_error = first_error.and(Err(error)),
            }
        }
        first_error
    }

    /// Records the value of an outcome for the key at a position, or returns the error of the outcome.
    fn take_outcome(&mut self, at: usize, outcome: Outcome<V>) -> Result<(), LoadError<AnyError>> {
        if !matches!(outcome, Outcome::Absent) {
            self.values[at] = Some(self.cache.take_outcome(self.keys[at], outcome)?);
        }
        Ok(())
    }

    /// Returns the value for each position. All positions of one key get the same value.
    fn into_values(mut self) -> Vec<Option<V>> {
        for at in 0..self.keys.len() {
            let first = self.first_position(at);
            if let Some(first) = first.filter(|&first| first != at) {
                let value = self.values[first].clone();
                self.values[at] = value;
            }
        }
        self.values
    }
}
