//! L2 in the shadow: it is asked and filled, and its values are compared with loaded ones and not served.

use crate::codec::fingerprint;
use crate::entry::Loaded;
use crate::tiered::batch::Asked;
use crate::tiered::fetch::{Found, Read};
use crate::tiered::health::count;
use crate::tiered::l2::remote::{Answer, Ask};
use crate::tiered::load::Fresh;
use crate::tiered::{Inner, RemoteKey, RemoteValue};
use crate::traits::erasure::LoadResult;
use std::collections::HashMap;
use std::future::Future;
use std::slice;
use std::sync::Arc;
use std::time::Instant;

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Fetches a value like [`fetch`](Self::fetch), but each process loads for itself.
    pub(super) async fn fetch_in_shadow<F>(
        self: &Arc<Self>,
        key: &K,
        load: impl FnOnce() -> F,
    ) -> LoadResult<V>
    where
        F: Future<Output = LoadResult<V>>,
    {
        let permit = match self.try_permit() {
            Some(permit) => permit,
            None => {
                let deadline = self.wait_deadline(slice::from_ref(key));
                self.queue(deadline).await?
            }
        };
        let name = self.key_name(key);
        let found = match &name {
            Some(name) => self.ask(name, None).await,
            None => Read::Found(Found::Alone),
        };
        let begun = Instant::now();
        let loaded = self.run(permit, load).await?;
        let mut fresh = vec![Fresh::loaded(loaded, begun)];
        match found {
            Read::Found(Found::Lead(lead)) => self.fill(vec![(Some(lead), 0)], &mut fresh).await,
            Read::Found(Found::Value(held)) => {
                count(&self.counters.alone);
                let loaded = &fresh[0].loaded.value;
                self.compare(vec![(key, held.loaded.value, loaded)]).await;
            }
            Read::Found(Found::Alone) | Read::Refused(_) | Read::Led(_) => {
                count(&self.counters.alone);
            }
        }
        Ok(self.local(fresh.remove(0)))
    }

    /// Takes the values that were found in L2 out of `asked` and adds their keys to those to load. Returns the values, for
    /// a comparison.
    pub(super) fn put_in_shadow(asked: &mut Asked<K, V>) -> Vec<(K, Fresh<V>)> {
        let held = std::mem::take(&mut asked.found);
        let keys = held.iter().map(|(key, _)| (key.clone(), None));
        asked.to_load.extend(keys);
        held
    }

    /// Compares the values of a batch that L2 held with those that were loaded.
    pub(super) async fn compare_many(&self, held: Vec<(K, Fresh<V>)>, loaded: &[(K, Loaded<V>)]) {
        let loaded: HashMap<&K, &V> = loaded.iter().map(|(key, it)| (key, &it.value)).collect();
        let pairs = held.iter().filter_map(|(key, fresh)| {
            let loaded = *loaded.get(key)?;
            Some((key, fresh.loaded.value.clone(), loaded))
        });
        self.compare(pairs.collect()).await;
    }

    /// Compares values from L2 with loaded ones, and counts the result. It compares what serde serializes, because values
    /// need not be `Eq`.
    async fn compare(&self, pairs: Vec<(&K, V, &V)>) {
        let mut differ = Vec::new();
        for (key, held, loaded) in pairs {
            let held = fingerprint(&held);
            if held == fingerprint(loaded) {
                count(&self.counters.shadow_same);
            } else if let Some(name) = self.key_name(key) {
                differ.push((key, name, held));
            }
        }
        if differ.is_empty() {
            return;
        }
        // Where L2 has another value by now, the difference comes from a change that was propagated meanwhile.
        let asks = differ.iter().map(|(_, name, _)| Ask {
            key: name,
            lead: None,
            refused: None,
            head_only: false,
        });
        let answers = self.l2.ask(&asks.collect::<Vec<_>>()).await;
        for ((key, _, held), answer) in differ.iter().zip(answers.unwrap_or_default()) {
            let Answer::Value { envelope, .. } = answer else {
                continue;
            };
            let now = self.codec.decode(&envelope, key).ok();
            if now.and_then(|now| fingerprint(&now.value)) == *held {
                count(&self.counters.shadow_different);
            }
        }
    }
}
