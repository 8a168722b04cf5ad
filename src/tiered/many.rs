//! Several keys at once: one round trip for what L1 misses, one load for what L2 misses too, one round
//! trip for what was loaded.

use super::fetch::{Read, TimedOut};
use super::lease::{Granted, Lease};
use super::load::{Fresh, LoadResult};
use super::remote::Token;
use super::trust::now;
use super::{Inner, TierKey, TierValue, TieredCache};
use crate::cache::typed;
use crate::entry::Loaded;
use crate::error::{AnyError, LoadError};
use crate::local::{BatchResult, erase_many};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

impl<K: TierKey, V: TierValue> TieredCache<K, V> {
    /// The values of several keys, in their order, as
    /// [`LocalCache::get_many_or_load_async`](crate::LocalCache::get_many_or_load_async): Redis is asked
    /// once for all that L1 misses, and `load` once for all that Redis misses too. Keys that other
    /// processes load are waited for, and asked of `load` one by one if that comes to nothing.
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
            async move { erase_many(loading.await) }
        });
        let (mut values, left_out) = loop {
            inner.may_serve(now());
            let left_out = Mutex::new(HashSet::new());
            let fetch = |missing| inner.fetch_many(missing, &load, &left_out);
            let result = Box::pin(inner.l1.get_many_or_load_shared(keys, fetch)).await;
            if let Some(result) = typed(result.map_err(TimedOut::reveal)) {
                break (result?, left_out.into_inner());
            }
        };
        // Keys that other processes load, or that another batch of this one has left to them. Not
        // within the batch, where those would wait who wait for its other keys.
        let missing = keys.iter().zip(&mut values);
        let missing: Vec<_> = missing
            .filter(|(key, value)| value.is_none() && !left_out.contains(*key))
            .collect();
        let rest = missing.iter().map(|(key, _)| inner.fetch_one(key, &load));
        let rest = join_all(rest).await;
        for ((_, place), value) in missing.into_iter().zip(rest) {
            *place = value?;
        }
        Ok(values)
    }
}

/// An error among those of loaders: a loader of several keys had nothing to say of this one.
pub(super) struct Absent;

/// Keys to load, with the lead of each, where L2 gave it.
pub(super) type ToLoad<K, V> = Vec<(K, Option<Granted<K, V>>)>;

/// For the value of a key, or the lead of its load.
struct Question<K, V> {
    key: K,
    lease: Lease<K, V>,
    /// What this wrote cannot be read.
    refused: Option<Token>,
}

/// What L2 answers to a batch.
pub(super) struct Asked<K, V> {
    pub(super) found: Vec<(K, Fresh<V>)>,
    pub(super) to_load: ToLoad<K, V>,
    /// What other processes load is to be loaded as well.
    is_shadow: bool,
}

impl<K: TierKey, V: TierValue> Inner<K, V> {
    /// What the flights of a batch run, but for keys that other processes load. `left_out` are those of
    /// which the loader knows nothing.
    async fn fetch_many<F>(
        self: &Arc<Self>,
        keys: Vec<K>,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
        left_out: &Mutex<HashSet<K>>,
    ) -> BatchResult<K, V>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        let is_shadow = self.settings.rollout.is_shadow();
        let mut asked = self.ask_many(&keys, is_shadow).await;
        let mut permit = None;
        if !asked.to_load.is_empty() || is_shadow {
            permit = self.try_permit();
            if permit.is_none() {
                // Who waits for a permit holds no lead, which might end before it begins.
                drop(asked);
                permit = Some(self.queue(self.wait_deadline()).await?);
                asked = self.ask_many(&keys, is_shadow).await;
            }
        }
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
            let mut loaded = self.fill_many(to_load, loaded, begun, left_out).await;
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
                Read::Led(_) => {}
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

    /// The value of one key of a batch, which another process was to load.
    async fn fetch_one<F, E: Any + Send + Sync>(
        self: &Arc<Self>,
        key: &K,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
    ) -> Result<Option<V>, LoadError<E>>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        loop {
            let load = || self.load_one(key, load);
            let result = Box::pin(self.get_or_fetch(key, load)).await;
            match result {
                Err(LoadError::Failed(error)) if error.is::<Absent>() => return Ok(None),
                result => {
                    if let Some(result) = typed(result) {
                        return result.map(Some);
                    }
                }
            }
        }
    }

    async fn load_one<F>(&self, key: &K, load: &Mutex<impl FnMut(Vec<K>) -> F>) -> LoadResult<V>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        let loading = (load.lock())(vec![key.clone()]);
        let mut pairs = loading.await?.into_iter();
        let found = pairs.find(|(other, _)| other == key);
        let absent = || Arc::new(Absent) as Arc<AnyError>;
        found.map(|(_, loaded)| loaded).ok_or_else(absent)
    }
}
