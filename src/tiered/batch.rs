//! Several keys at once: one round trip for what L1 misses, one load for what L2 misses too, one round
//! trip for what was loaded.

use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::BatchLookup;
use crate::tiered::coherence::key_waiters::Wait;
use crate::tiered::coherence::read_lease::now;
use crate::tiered::fetch::{POLL, Read};
use crate::tiered::health::count;
use crate::tiered::l2::remote::Token;
use crate::tiered::load::Fresh;
use crate::tiered::load_lease::{Granted, Lease};
use crate::tiered::{Inner, RemoteKey, RemoteValue, TieredCache};
use crate::traits::erasure::{BatchResult, ErrorType, share_batch, typed};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// The values of several keys, in their order, as
    /// [`LocalCache::get_many_or_load_async`](crate::LocalCache::get_many_or_load_async): Redis is asked
    /// once for all that L1 misses, and `load` once for all that Redis misses too. Keys that other
    /// processes load are waited for. Those of them whose loads are lost are asked of `load`, together as
    /// far as they are lost together.
    ///
    /// # Errors
    ///
    /// As [`get_or_load_async`](Self::get_or_load_async), if that is what became of any of the keys.
    ///
    /// # Cancellation
    ///
    /// The future may be dropped at any time.
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
        let inner = &self.inner;
        // Locked while it makes a future, and not while that runs.
        let load = Mutex::new(|missing| {
            let loading = load(missing);
            async move { share_batch(loading.await) }
        });
        let first = Round::default();
        let error_type = ErrorType::of::<E>();
        let values = inner.load_round(keys, error_type, BatchLookup::Recorded, &load, &first);
        let mut values = typed(values.await)?;
        // Keys that other processes load, or that another batch of this one has left to them. Not
        // within the batch, where those would wait who wait for its other keys.
        let mut left_out = first.left_out.into_inner();
        let mut wait_limits = None;
        loop {
            let missing = |at: &usize| values[*at].is_none() && !left_out.contains(&keys[*at]);
            let rest: Vec<usize> = (0..keys.len()).filter(missing).collect();
            if rest.is_empty() {
                return Ok(values);
            }
            let wait_limits = wait_limits.get_or_insert_with(|| inner.l1.wait_limits());
            let rest_keys: Vec<K> = rest.iter().map(|&at| keys[at].clone()).collect();
            let names: Vec<_> = rest_keys.iter().map(|key| inner.key_name(key)).collect();
            // Before L2 is asked, so that no word is missed.
            let waiters_by_key = names.iter().flatten();
            let waiters_by_key: Vec<_> = waiters_by_key
                .map(|name| inner.waiters_by_key.enter(name))
                .collect();
            let round = Round::default();
            let found = inner
                .load_round(
                    &rest_keys,
                    error_type,
                    BatchLookup::Unrecorded,
                    &load,
                    &round,
                )
                .await;
            for (at, value) in rest.into_iter().zip(typed(found)?) {
                values[at] = value;
            }
            left_out.extend(round.left_out.into_inner());
            let led = round.led.into_inner();
            // Where there is none, another batch of this process has left the keys to other processes.
            if led.is_empty() {
                continue;
            }
            if wait_limits.next().is_none_or(|next| Instant::now() < next) {
                inner
                    .wait_for_others(&led, waiters_by_key, wait_limits.next())
                    .await;
                continue;
            }
            for (key, value) in keys.iter().zip(&mut values) {
                if value.is_none() && !left_out.contains(key) {
                    *value = inner.l1.stale_in_place(key);
                    if value.is_none() && wait_limits.is_over() {
                        return Err(LoadError::WaitTimeout);
                    }
                }
            }
            wait_limits.stale_from = None;
        }
    }
}

/// What is known of the keys of a batch that have no value after they were asked for.
struct Round<K> {
    /// The loader knows nothing of them.
    left_out: Mutex<HashSet<K>>,
    /// Other processes load them, with leases that last for as long as this.
    led: Mutex<HashMap<Box<[u8]>, Duration>>,
}

impl<K> Default for Round<K> {
    fn default() -> Self {
        Self {
            left_out: Mutex::default(),
            led: Mutex::default(),
        }
    }
}

/// Keys to load, with the lead of each, where L2 gave it.
pub(crate) type ToLoad<K, V> = Vec<(K, Option<Granted<K, V>>)>;

/// For the value of a key, or the lead of its load.
struct Question<K, V> {
    key: K,
    lease: Lease<K, V>,
    /// What this wrote cannot be read.
    refused: Option<Token>,
}

/// What L2 answers to a batch.
pub(crate) struct Asked<K, V> {
    pub(crate) found: Vec<(K, Fresh<V>)>,
    pub(crate) to_load: ToLoad<K, V>,
    /// The names of keys that other processes load, and how long their leases last.
    led: HashMap<Box<[u8]>, Duration>,
    /// What other processes load is to be loaded as well.
    is_shadow: bool,
}

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Asks L1, L2 and the loader for keys, once. Keys that other processes load have no value.
    async fn load_round<F>(
        self: &Arc<Self>,
        keys: &[K],
        error_type: ErrorType,
        lookup: BatchLookup,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
        round: &Round<K>,
    ) -> Result<Vec<Option<V>>, LoadError<AnyError>>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        self.may_serve(now());
        let fetch = |missing| self.fetch_many(missing, load, round);
        let values = self
            .l1
            .get_many_or_load_shared(keys, error_type, lookup, fetch);
        Box::pin(values).await
    }

    /// Waits until something has become of all keys that other processes load, so that those whose loads
    /// were lost are loaded together; but no longer than until they are to be asked for again.
    async fn wait_for_others(
        &self,
        led: &HashMap<Box<[u8]>, Duration>,
        mut waiters_by_key: Vec<Wait<'_>>,
        until: Option<Instant>,
    ) {
        let left = led.values().max().copied().unwrap_or_default();
        let mut most = left.min(POLL);
        if let Some(until) = until {
            most = most.min(until.saturating_duration_since(Instant::now()));
        }
        waiters_by_key.retain(|wait| led.contains_key(wait.key()));
        join_all(waiters_by_key.iter_mut().map(|wait| {
            count(&self.counters.l2_waits);
            wait.wait(most)
        }))
        .await;
    }

    /// What the flights of a batch run, except for keys that other processes load.
    async fn fetch_many<F>(
        self: &Arc<Self>,
        keys: Vec<K>,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
        round: &Round<K>,
    ) -> BatchResult<K, V>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        let deadline = self.wait_deadline(&keys);
        let is_shadow = self.settings.rollout.is_shadow();
        let mut asked = self.ask_many(&keys, is_shadow).await;
        let mut permit = None;
        if !asked.to_load.is_empty() || is_shadow {
            permit = self.try_permit();
            if permit.is_none() {
                // Who waits for a permit holds no lead, which might end before it begins.
                drop(asked);
                permit = Some(self.queue(deadline).await?);
                asked = self.ask_many(&keys, is_shadow).await;
            }
        }
        // More than once in a round, if this batch takes keys over from another one.
        round.led.lock().extend(asked.led.drain());
        let mut held = Vec::new();
        if is_shadow {
            held = Self::put_in_shadow(&mut asked);
        }
        let to_load = std::mem::take(&mut asked.to_load);
        if let Some(permit) = permit.filter(|_| !to_load.is_empty()) {
            let begun = Instant::now();
            let keys = to_load.iter().map(|(key, _)| key.clone()).collect();
            let loaded = self.run(permit, || (load.lock())(keys)).await?;
            self.compare_many(held, &loaded).await;
            let mut loaded = self
                .fill_many(to_load, loaded, begun, &round.left_out)
                .await;
            asked.found.append(&mut loaded);
        }

        let found = asked.found.into_iter();
        Ok(found.map(|(key, fresh)| (key, self.local(fresh))).collect())
    }

    /// Asks for values, or for the lead of their loads.
    async fn ask_many(self: &Arc<Self>, keys: &[K], is_shadow: bool) -> Asked<K, V> {
        let mut asked = Asked {
            found: Vec::new(),
            to_load: Vec::new(),
            led: HashMap::new(),
            is_shadow,
        };
        let mut questions = Vec::new();
        for key in keys {
            match self.key_name(key).filter(|name| self.asks_l2(name)) {
                Some(name) => questions.push(Question {
                    key: key.clone(),
                    lease: Lease::ask(self, &name),
                    refused: None,
                }),
                None => asked.to_load.push((key.clone(), None)),
            }
        }
        // Once more for those whose values cannot be read; after that they are as others' to load.
        let again = self.ask_round(questions, &mut asked).await;
        self.ask_round(again, &mut asked).await;
        asked
    }

    /// One round trip. Returns the questions to ask again, of values that cannot be read.
    async fn ask_round(
        self: &Arc<Self>,
        questions: Vec<Question<K, V>>,
        asked: &mut Asked<K, V>,
    ) -> Vec<Question<K, V>> {
        let mut again = Vec::new();
        if questions.is_empty() {
            return again;
        }
        let when = Instant::now();
        let asks = questions.iter();
        let asks = asks.map(|question| question.lease.question(question.refused));
        let answers = self.l2.ask(&asks.collect::<Vec<_>>()).await;
        let Ok(answers) = answers else {
            let alone = questions.into_iter().map(|question| (question.key, None));
            asked.to_load.extend(alone);
            return again;
        };
        for (Question { key, lease, .. }, answer) in questions.into_iter().zip(answers) {
            let name: Box<[u8]> = lease.key().into();
            match self.read(lease, answer, when) {
                Read::Found(found) => match found.into_lead() {
                    Ok(lead) => asked.to_load.push((key, lead)),
                    Err(fresh) => asked.found.push((key, fresh)),
                },
                Read::Refused(token) => again.push(Question {
                    key,
                    lease: Lease::ask(self, &name),
                    refused: Some(token),
                }),
                Read::Led(_) if asked.is_shadow => asked.to_load.push((key, None)),
                Read::Led(left) => drop(asked.led.insert(name, left)),
            }
        }
        again
    }

    /// Stores in L2 what was loaded with a lead. Of what the loader left out the lead is given back.
    async fn fill_many(
        &self,
        to_load: ToLoad<K, V>,
        loaded: Vec<(K, Loaded<V>)>,
        begun: Instant,
        left_out: &Mutex<HashSet<K>>,
    ) -> Vec<(K, Fresh<V>)> {
        let mut loaded: HashMap<K, Loaded<V>> = loaded.into_iter().collect();
        let (mut keys, mut fresh, mut leads) = (Vec::new(), Vec::new(), Vec::new());
        for (key, lead) in to_load {
            let Some(loaded) = loaded.remove(&key) else {
                left_out.lock().insert(key);
                continue;
            };
            leads.push((lead, fresh.len()));
            fresh.push(Fresh::loaded(loaded, begun));
            keys.push(key);
        }
        self.fill(leads, &mut fresh).await;
        keys.into_iter().zip(fresh).collect()
    }
}
