//! Several keys at once: one round trip for what L1 misses, one load for what L2 misses too, one round
//! trip for what was loaded.

use super::fetch::{Found, Read, TimedOut};
use super::health::count;
use super::lease::{Granted, Lease};
use super::{Inner, TierKey, TierValue, TieredCache, name_of, now};
use crate::cache::typed;
use crate::entry::Loaded;
use crate::error::LoadError;
use crate::flight::{Permit, run_within};
use crate::local::{BatchResult, erase_many};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

impl<K: TierKey, V: TierValue> TieredCache<K, V> {
    /// The values of several keys, in their order, as
    /// [`LocalCache::get_many_or_load_async`](crate::LocalCache::get_many_or_load_async): Redis is asked
    /// once for all that L1 misses, and `load` for all that Redis misses too, but for keys that other
    /// callers or processes load.
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
        inner.may_serve(now());
        // Locked while it makes a future, and not while that runs.
        let load = Mutex::new(|missing| {
            let loading = load(missing);
            async move { erase_many(loading.await) }
        });
        loop {
            let fetch = |missing| inner.fetch_many(missing, &load);
            let result = Box::pin(inner.l1.get_many_or_load_shared(keys, fetch)).await;
            if let Some(result) = typed(result.map_err(TimedOut::reveal)) {
                return result;
            }
        }
    }
}

/// Keys to load, with the lead of each, where L2 gave it.
type ToLoad<K, V> = Vec<(K, Option<Granted<K, V>>)>;

impl<K: TierKey, V: TierValue> Inner<K, V> {
    /// What the flights of a batch run.
    async fn fetch_many<F>(
        self: &Arc<Self>,
        keys: Vec<K>,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
    ) -> BatchResult<K, V>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        let deadline = self.wait_deadline();
        let (mut found, to_load, led) = self.ask_many(keys).await;
        found.extend(self.load_many(to_load, deadline, load).await?);
        // Others' keys last, one by one: who waits holds no lead that somebody may wait for.
        for (key, name) in led {
            let lead = match self.find(&name, deadline).await? {
                Found::Value(loaded, asked) => {
                    found.push((key, self.local(loaded, asked, asked)));
                    continue;
                }
                Found::Lead(lead) => Some(lead),
                Found::Alone => None,
            };
            let to_load = vec![(key, lead)];
            found.extend(self.load_many(to_load, deadline, load).await?);
        }
        Ok(found)
    }

    /// What L2 holds, what is to be loaded here, and what other processes load, with its name.
    #[allow(clippy::type_complexity)]
    async fn ask_many(
        self: &Arc<Self>,
        keys: Vec<K>,
    ) -> (Vec<(K, Loaded<V>)>, ToLoad<K, V>, Vec<(K, Box<[u8]>)>) {
        let (mut found, mut to_load, mut led) = (Vec::new(), Vec::new(), Vec::new());
        let mut asked_for = Vec::new();
        for key in keys {
            match name_of(&key).filter(|name| self.asks_l2(name)) {
                Some(name) => asked_for.push((key, Lease::ask(self, &name))),
                None => to_load.push((key, None)),
            }
        }
        let asks = asked_for.iter().map(|(_, lease)| lease.question(None));
        let asks: Vec<_> = asks.collect();
        let asked = Instant::now();
        let answers = if asks.is_empty() {
            Ok(Vec::new())
        } else {
            self.l2.ask(&asks).await
        };
        drop(asks);
        // After a failure there is none, and all are loaded.
        let answers = answers.unwrap_or_default().into_iter().map(Some);
        let answers = answers.chain(std::iter::repeat_with(|| None));
        for ((key, lease), answer) in asked_for.into_iter().zip(answers) {
            let name: Box<[u8]> = lease.key().into();
            let Some(answer) = answer else {
                to_load.push((key, None));
                continue;
            };
            match self.read(lease, answer, asked) {
                Read::Found(Found::Value(loaded, asked)) => {
                    found.push((key, self.local(loaded, asked, asked)));
                }
                Read::Found(Found::Lead(lead)) => to_load.push((key, Some(lead))),
                Read::Found(Found::Alone) => to_load.push((key, None)),
                // What cannot be read is asked for again, like what another loads.
                Read::Refused(_) | Read::Led(_) => led.push((key, name)),
            }
        }
        (found, to_load, led)
    }

    /// Loads keys at once, and stores in L2 what this process leads.
    async fn load_many<F>(
        self: &Arc<Self>,
        to_load: ToLoad<K, V>,
        deadline: Option<Instant>,
        load: &Mutex<impl FnMut(Vec<K>) -> F>,
    ) -> BatchResult<K, V>
    where
        F: Future<Output = BatchResult<K, V>>,
    {
        if to_load.is_empty() {
            return Ok(Vec::new());
        }
        let alone = to_load.iter().filter(|(_, lead)| lead.is_none());
        alone.for_each(|_| count(&self.counters.alone));
        let permit = self.permit(deadline).await?;
        let begun = Instant::now();
        let keys = to_load.iter().map(|(key, _)| key.clone()).collect();
        let enter = || permit.as_ref().map(Permit::enter);
        let pairs = run_within(enter, || (load.lock())(keys), |result| result).await?;
        drop(permit);
        let mut loaded: HashMap<K, Loaded<V>> = pairs.into_iter().collect();
        let stored = Instant::now();
        let (mut found, mut leads) = (Vec::new(), Vec::new());
        for (key, lead) in to_load {
            // Of what the loader left out the lead is given back.
            let Some(loaded) = loaded.remove(&key) else {
                continue;
            };
            leads.extend(lead.map(|lead| (lead, found.len())));
            found.push((key, loaded));
        }
        let mut kept = vec![true; found.len()];
        let (leads, places): (Vec<_>, Vec<_>) = leads.into_iter().unzip();
        let values = places.iter().map(|&place: &usize| &found[place].1);
        let filled = self.fill(leads.into_iter().zip(values).collect()).await;
        for (place, filled) in places.into_iter().zip(filled) {
            kept[place] = filled;
        }
        let found = found.into_iter().zip(kept);
        let found =
            found.map(|((key, loaded), kept)| (key, self.keep(loaded, kept, begun, stored)));
        Ok(found.collect())
    }
}
