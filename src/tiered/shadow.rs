//! Shadow mode: L2 is asked and filled, but its values are compared with loaded values instead of served.

use crate::codec::fingerprint;
use crate::entry::Loaded;
use crate::local::tier_hooks::WaitLimits;
use crate::tiered::batch::BatchAnswer;
use crate::tiered::fetch::L2Answer;
use crate::tiered::health::count;
use crate::tiered::l2::remote::{LookupReply, LookupRequest};
use crate::tiered::load::Fetched;
use crate::tiered::{Inner, RemoteKey, RemoteValue};
use crate::traits::erasure::LoadResult;
use std::collections::HashMap;
use std::future::Future;
use std::slice;
use std::sync::Arc;
use std::time::Instant;

impl<K: RemoteKey, V: RemoteValue> Inner<K, V> {
    /// Like [`fetch`](Self::fetch), but each process loads for itself.
    pub(super) async fn fetch_in_shadow<F>(
        self: &Arc<Self>,
        key: &K,
        limits: WaitLimits,
        load: impl FnOnce() -> F,
    ) -> LoadResult<V>
    where
        F: Future<Output = LoadResult<V>>,
    {
        let permit = if let Some(permit) = self.try_permit() {
            permit
        } else {
            let deadline = self.end_of_wait(slice::from_ref(key), limits);
            self.wait_for_permit(deadline).await?
        };
        let name = self.key_name(key);
        let answer = match &name {
            Some(name) => self.ask(name, None).await,
            None => L2Answer::L2Unavailable,
        };
        let begun = Instant::now();
        let mut loaded = self.run(permit, load).await?;
        self.l1.apply_expire_after(key, &mut loaded);
        let mut fetched = vec![Fetched::loaded(loaded, begun)];
        match answer {
            L2Answer::LoadLease(lease) => self.fill(vec![(Some(lease), 0)], &mut fetched).await,
            L2Answer::Value(shadow) => {
                count(&self.counters.unleased_values);
                let loaded = &fetched[0].loaded.value;
                self.compare(vec![(key, shadow.loaded.value, loaded)]).await;
            }
            L2Answer::L2Unavailable | L2Answer::Unreadable(_) | L2Answer::LeasedElsewhere(_) => {
                count(&self.counters.unleased_values);
            }
        }
        Ok(self.for_l1(fetched.remove(0)))
    }

    /// Removes the values from the answer of L2 and adds their keys to those to load. Returns the values, for a
    /// comparison.
    pub(super) fn take_shadow_values(answer: &mut BatchAnswer<K, V>) -> Vec<(K, Fetched<V>)> {
        let shadow = std::mem::take(&mut answer.found);
        let keys = shadow.iter().map(|(key, _)| (key.clone(), None));
        answer.to_load.extend(keys);
        shadow
    }

    /// Compares the values of a batch in L2 with the loaded values.
    pub(super) async fn compare_many(
        &self,
        shadow: Vec<(K, Fetched<V>)>,
        loaded: &[(K, Loaded<V>)],
    ) {
        let loaded: HashMap<&K, &V> = loaded.iter().map(|(key, it)| (key, &it.value)).collect();
        let pairs = shadow.iter().filter_map(|(key, fetched)| {
            let loaded = *loaded.get(key)?;
            Some((key, fetched.loaded.value.clone(), loaded))
        });
        self.compare(pairs.collect()).await;
    }

    /// Compares values from L2 with loaded values, and counts the result. It compares their serialized forms, because
    /// values need not be `Eq`.
    async fn compare(&self, pairs: Vec<(&K, V, &V)>) {
        let mut differ = Vec::new();
        for (key, shadow, loaded) in pairs {
            let shadow = fingerprint(&shadow);
            if shadow == fingerprint(loaded) {
                count(&self.counters.shadow_same);
            } else if let Some(name) = self.key_name(key) {
                differ.push((key, name, shadow));
            }
        }
        if differ.is_empty() {
            return;
        }
        // If L2 has another value by now, the difference was caused by a change that was propagated meanwhile.
        let requests = differ.iter().map(|(_, name, _)| {
            (
                self.partitions.map.number_of(name),
                LookupRequest::without_load(name),
            )
        });
        let answers = self.partitions.lookup(&requests.collect::<Vec<_>>()).await;
        for ((key, _, shadow), answer) in differ.iter().zip(answers) {
            let Ok(LookupReply::Value { envelope, .. }) = answer else {
                continue;
            };
            let now = self.codec.decode(&envelope, key).ok();
            if now.and_then(|now| fingerprint(&now.value)) == *shadow {
                count(&self.counters.shadow_different);
            }
        }
    }
}
