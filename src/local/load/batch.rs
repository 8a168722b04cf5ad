//! `get_many_or_load`: one load for all missing ones of several keys.
//!
//! Each missing key has a flight of its own, which batches and single loads share. A batch first loads
//! the keys that it leads, and only then waits for keys that others lead, so two batches never wait for each
//! other. It waits for all of its keys at once, and loads all that it can lead at that
//! moment with one call. So a batch that is lost is loaded again by one call of each batch that waits for it.

use crate::clock::Nanos;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::load::waiting::{Patience, Waited};
use crate::local::lookup::Lookup;
use crate::local::{KeyLocation, LocalCache};
use crate::single_flight::blocking::block_on;
use crate::single_flight::future::TaskTimer;
use crate::single_flight::{
    Alarm, Leader, Leaders, Outcome, Permit, Role, Step, Waiting, run_within,
};
use crate::traits::erasure::typed;
use hashbrown::HashTable;
use std::any::Any;
use std::cell::Cell;
use std::future::{Future, ready};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::task::Context;

impl<K, V, S> LocalCache<K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    /// Returns the values for several keys, in their order. Calls `load` once for all missing keys.
    ///
    /// `load` is given the keys that no other caller loads, each once, and returns pairs of key and
    /// value, in any order, as a map, a vector or any other iterator. A key that it leaves out is
    /// `None` in the result, is not cached, and is no error for the other keys. A key that it was not asked for
    /// is ignored. The call waits for keys that other callers load, alone or in batches. `load` is
    /// called again only for those of them whose load is lost by a panic, a hang, or a caller that
    /// was dropped. Keys that are lost together, like those of a batch, are one call.
    ///
    /// Each [`Loaded`] value has its own settings. A batch renews no entries: those past
    /// [`refresh_after`](crate::LocalCacheBuilder::refresh_after) are served as they are.
    ///
    /// ```
    /// use hotset::LocalCache;
    ///
    /// let prices: LocalCache<u32, u64> = LocalCache::new(1_000);
    /// prices.insert(1, 100);
    /// let found = prices.get_many_or_load(&[1, 2, 3], |missing| {
    ///     assert_eq!(missing, [2, 3]);
    ///     Ok::<_, std::io::Error>([(2, 200)])
    /// })?;
    /// assert_eq!(found, [Some(100), Some(200), None]);
    /// # Ok::<(), hotset::LoadError<std::io::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Like [`get_or_load`](Self::get_or_load), if any of the keys fails. The loaded values of the other keys are
    /// cached. A call on a thread that runs the loader of one of the keys is always
    /// [`Recursive`](LoadError::Recursive).
    ///
    /// # Blocking
    ///
    /// Like [`get_or_load`](Self::get_or_load).
    pub fn get_many_or_load<M, L, E>(
        &self,
        keys: &[K],
        mut load: impl FnMut(Vec<K>) -> Result<M, E>,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        loop {
            let result = block_on(&Cell::new(None), async |mut alarm| {
                let start = |missing| ready(load(missing));
                let batch = Batch::look_up(self, keys, BatchLookup::Counted);
                self.load_many(batch, &mut alarm, start, erase_many).await
            });
            // `None`: another caller's load failed with an error of another type.
            if let Some(result) = typed(result) {
                return result;
            }
        }
    }

    /// Like [`get_many_or_load`](Self::get_many_or_load), but for tasks.
    ///
    /// # Errors
    ///
    /// Like [`get_many_or_load`](Self::get_many_or_load).
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time: see [`get_or_load_async`](Self::get_or_load_async).
    pub async fn get_many_or_load_async<M, L, E, F>(
        &self,
        keys: &[K],
        mut load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<E>>
    where
        F: Future<Output = Result<M, E>>,
        M: IntoIterator<Item = (K, L)>,
        L: Into<Loaded<V>>,
        E: Any + Send + Sync,
    {
        let mut alarm = TaskTimer::default();
        loop {
            let batch = Batch::look_up(self, keys, BatchLookup::Counted);
            let result = self.load_many(batch, &mut alarm, &mut load, erase_many);
            if let Some(result) = typed(Box::pin(result).await) {
                return result;
            }
        }
    }

    /// Like [`get_many_or_load_async`](Self::get_many_or_load_async), but for a loader whose errors are
    /// shared already.
    #[cfg(feature = "redis")]
    pub(crate) async fn get_many_or_load_shared<F>(
        &self,
        keys: &[K],
        lookup: BatchLookup,
        load: impl FnMut(Vec<K>) -> F,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        let mut alarm = TaskTimer::default();
        let batch = Batch::look_up(self, keys, lookup);
        self.load_many(batch, &mut alarm, load, |result| result)
            .await
    }

    async fn load_many<'a, F: Future>(
        &'a self,
        mut batch: Batch<'a, K, V, S>,
        alarm: &mut impl Alarm,
        mut load: impl FnMut(Vec<K>) -> F,
        erase: impl Fn(F::Output) -> BatchResult<K, V>,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>> {
        let mut patience = self.patience();
        let (mut led, mut waiting) = (Leaders::new(), Waiting::new());
        loop {
            batch.join_or_lead(&mut led, &mut waiting)?;
            if !led.is_empty() {
                // This comes before any wait, so that no caller waits for others while others wait for it, neither
                // in the flights that this caller leads nor in those in which it might be the next to lead.
                waiting.step_back();
                let led = std::mem::replace(&mut led, Leaders::new());
                batch.load(led, &patience, alarm, &mut load, &erase).await?;
                continue;
            }
            if waiting.is_empty() {
                return Ok(batch.into_values());
            }
            let turn = waiting.any(|| self.candidate(), patience.next(), alarm);
            let Ok(told) = turn.await else {
                batch.take_stale(&mut waiting)?;
                if patience.is_over() && !waiting.is_empty() {
                    return Err(LoadError::WaitTimeout);
                }
                patience.stale_from = None;
                continue;
            };
            let mut landed = Vec::new();
            for (at, step) in told {
                self.count_superseded(&step);
                match step {
                    Step::Completed(outcome) => landed.push((at, outcome)),
                    Step::BoardAgain { .. } => batch.missing.push(at),
                    Step::Lead(leader) => led.push(at, leader),
                }
            }
            // This comes last, because an error drops all leads together.
            for (at, landed) in landed {
                batch.take_outcome(at, landed.into_outcome())?;
            }
        }
    }
}

/// The result of a loader of several keys, in the form that flights share.
pub(crate) type BatchResult<K, V> = Result<Vec<(K, Loaded<V>)>, Arc<AnyError>>;

pub(crate) fn erase_many<M, K, L, V, E>(result: Result<M, E>) -> BatchResult<K, V>
where
    M: IntoIterator<Item = (K, L)>,
    L: Into<Loaded<V>>,
    E: Any + Send + Sync,
{
    match result {
        Ok(found) => Ok(found
            .into_iter()
            .map(|(key, it)| (key, it.into()))
            .collect()),
        Err(error) => Err(Arc::new(error)),
    }
}

/// The way in which a batch looks its keys up.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum BatchLookup {
    Counted,
    /// The caller has looked before, so neither the statistics nor the policy record it.
    #[cfg(feature = "redis")]
    Again,
}

/// A vector that is dropped from the back. Marks of a thread are searched from the last, so each is found at once.
struct InReverse<T>(Vec<T>);

impl<T> Drop for InReverse<T> {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// The keys of one call, by position, and their values as far as they are known.
struct Batch<'a, K, V, S> {
    cache: &'a LocalCache<K, V, S>,
    keys: &'a [K],
    places: Vec<KeyLocation<'a, K, V>>,
    /// The first position of each key.
    first: HashTable<usize>,
    values: Vec<Option<V>>,
    /// The first positions of keys to load or to wait for.
    missing: Vec<usize>,
}

impl<'a, K, V, S> Batch<'a, K, V, S>
where
    K: Eq + Hash + Clone,
    V: Clone,
    S: BuildHasher,
{
    fn look_up(cache: &'a LocalCache<K, V, S>, keys: &'a [K], lookup: BatchLookup) -> Self {
        let mut batch = Self {
            cache,
            keys,
            places: keys.iter().map(|key| cache.location(key)).collect(),
            first: HashTable::with_capacity(keys.len()),
            values: vec![None; keys.len()],
            missing: Vec::new(),
        };
        for (at, key) in keys.iter().enumerate() {
            if batch.position(key, &batch.places[at]).is_some() {
                continue;
            }
            let Batch { places, first, .. } = &mut batch;
            first.insert_unique(places[at].hash.0, at, |&other| places[other].hash.0);
            if lookup == BatchLookup::Counted {
                batch.values[at] = cache.hit(&batch.places[at], key, V::clone);
            }
            if batch.values[at].is_none() {
                batch.missing.push(at);
            }
        }
        batch
    }

    fn position(&self, key: &K, location: &KeyLocation<'_, K, V>) -> Option<usize> {
        let is_it = |&other: &usize| self.keys[other] == *key;
        self.first.find(location.hash.0, is_it).copied()
    }

    /// Boards the flights of all missing keys on the same terms, so that their leases end together.
    fn join_or_lead(
        &mut self,
        led: &mut Leaders<'a, K, V>,
        waiting: &mut Waiting<'a, K, V>,
    ) -> Result<(), LoadError<AnyError>> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let candidate = self.cache.candidate();
        for at in std::mem::take(&mut self.missing) {
            let join_or_lead = self
                .cache
                .join_or_lead(&self.places[at], &self.keys[at], || candidate);
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

    /// Loads the keys that this caller leads, except for those whose values have been stored meanwhile.
    async fn load<F: Future>(
        &mut self,
        led: Leaders<'a, K, V>,
        patience: &Patience,
        alarm: &mut impl Alarm,
        load: &mut impl FnMut(Vec<K>) -> F,
        erase: &impl Fn(F::Output) -> BatchResult<K, V>,
    ) -> Result<(), LoadError<AnyError>> {
        let Some(permit) = self.permit(&led, patience, alarm).await? else {
            return Ok(());
        };
        let led = self.begin(led, permit.is_some())?;
        let Some((_, leader)) = led.iter().next() else {
            return Ok(());
        };
        let asked = led.iter().map(|&(at, _)| self.keys[at].clone()).collect();
        let timer = self.cache.load_timer(leader.since);
        let enter = || {
            let leaders = led.iter().map(|(_, leader)| leader.enter(None));
            (
                InReverse(leaders.collect()),
                permit.as_ref().map(Permit::enter),
                timer.span.enter(),
            )
        };
        let result = run_within(enter, || load(asked), erase).await;
        let load_time = timer.stop(result.is_ok());
        drop(permit);
        self.settle(led, result, load_time)
    }

    /// Waits for a permit, where one is needed. Returns `None` if the wait takes too long, and expired values serve
    /// instead.
    async fn permit(
        &mut self,
        led: &Leaders<'a, K, V>,
        patience: &Patience,
        alarm: &mut impl Alarm,
    ) -> Result<Option<Option<Permit>>, LoadError<AnyError>> {
        let mut queued = match self.cache.permit_or_place() {
            Ok(permit) => return Ok(Some(permit)),
            Err(queued) => queued,
        };
        let turn = |cx: &mut Context<'_>| {
            let candidate = self.cache.candidate();
            for (_, leader) in led.iter() {
                leader.prolong(candidate);
            }
            queued.poll(cx.waker())
        };
        match patience.wait(alarm, turn, || self.stale_for(led)).await {
            Ok(permit) => Ok(Some(Some(permit))),
            Err(Waited::InVain) => Err(LoadError::WaitTimeout),
            Err(Waited::Instead(outcomes)) => {
                for (at, outcome) in outcomes {
                    self.take_outcome(at, outcome)?;
                }
                Ok(None)
            }
        }
    }

    /// Returns expired values that may serve, if there is one for each key that this caller leads.
    fn stale_for(&self, led: &Leaders<'a, K, V>) -> Option<Vec<(usize, Outcome<V>)>> {
        let stale = |&(at, _): &(usize, Leader<'a, K, V>)| {
            let outcome = self
                .cache
                .stale_for_waiter(&self.places[at], &self.keys[at]);
            outcome.map(|outcome| (at, outcome))
        };
        led.iter().map(stale).collect()
    }

    /// Ends the waits for keys for which an expired value may serve.
    fn take_stale(&mut self, waiting: &mut Waiting<'a, K, V>) -> Result<(), LoadError<AnyError>> {
        let mut result = Ok(());
        waiting.retain(|at| {
            let (location, key) = (&self.places[at], &self.keys[at]);
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

    /// Looks again for the values of the keys that this caller leads, and returns the leads that are still to load.
    fn begin(
        &mut self,
        mut led: Leaders<'a, K, V>,
        has_permit: bool,
    ) -> Result<Leaders<'a, K, V>, LoadError<AnyError>> {
        let permitted = self.cache.permitted(has_permit);
        let mut to_load = Leaders::new();
        while let Some((at, mut leader)) = led.pop() {
            if has_permit && !leader.begin(permitted) {
                self.missing.push(at);
                continue;
            }
            match self
                .cache
                .look_again(&self.places[at], &self.keys[at], &leader)
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

    fn settle(
        &mut self,
        mut led: Leaders<'a, K, V>,
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
        while let Some((at, leader)) = led.pop() {
            let (location, key) = (&self.places[at], &self.keys[at]);
            let value = match (loaded[at].take(), &failed) {
                (Some(loaded), _) => Ok(self
                    .cache
                    .complete(location, key, leader, loaded, load_time)),
                (None, Some(error)) => self.cache.fall_back(location, key, leader, error.clone()),
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

    fn take_outcome(&mut self, at: usize, outcome: Outcome<V>) -> Result<(), LoadError<AnyError>> {
        if !matches!(outcome, Outcome::Absent) {
            self.values[at] = Some({
                let (location, key) = (&self.places[at], &self.keys[at]);
                self.cache.take_outcome(location, key, outcome)?
            });
        }
        Ok(())
    }

    /// Returns the value for each position, also if a key occurs several times.
    fn into_values(mut self) -> Vec<Option<V>> {
        for (at, key) in self.keys.iter().enumerate() {
            let first = self.position(key, &self.places[at]);
            if let Some(first) = first.filter(|&first| first != at) {
                let value = self.values[first].clone();
                self.values[at] = value;
            }
        }
        self.values
    }
}
