//! L2 in the shadow: asked and filled, compared with what is loaded, and not served.

use super::fetch::{Found, Read};
use super::health::count;
use super::load::{Fresh, LoadResult};
use super::many::Asked;
use super::remote::{Answer, Ask};
use super::{Inner, TierKey, TierValue, name_of};
use crate::entry::Loaded;
use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

impl<K: TierKey, V: TierValue> Inner<K, V> {
    /// As [`fetch`](Self::fetch), but each process loads for itself.
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
            None => self.queue(self.wait_deadline()).await?,
        };
        let name = name_of(key);
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
                let name = name.unwrap_or_default();
                self.compare(&name, &held.loaded.value, &fresh[0].loaded.value)
                    .await;
            }
            Read::Found(Found::Alone) | Read::Refused(_) | Read::Led(_) => {
                count(&self.counters.alone);
            }
        }
        Ok(self.local(fresh.remove(0)))
    }

    /// What was found in L2 is to be loaded all the same. Returns it, to be compared.
    pub(super) fn put_in_shadow(&self, asked: &mut Asked<K, V>) -> Vec<(K, Fresh<V>)> {
        if !self.settings.rollout.is_shadow() {
            return Vec::new();
        }
        let held = std::mem::take(&mut asked.found);
        let keys = held.iter().map(|(key, _)| (key.clone(), None));
        asked.to_load.extend(keys);
        held
    }

    pub(super) async fn compare_many(&self, held: &[(K, Fresh<V>)], loaded: &[(K, Loaded<V>)]) {
        for (key, fresh) in held {
            let new = loaded.iter().find(|(other, _)| other == key);
            if let (Some(name), Some((_, new))) = (name_of(key), new) {
                self.compare(&name, &fresh.loaded.value, &new.value).await;
            }
        }
    }

    /// As they are written, for values need not be comparable.
    async fn compare(&self, name: &[u8], held: &V, loaded: &V) {
        let written = postcard::to_stdvec(loaded).ok();
        let is_same = |held: &V| postcard::to_stdvec(held).ok() == written;
        if is_same(held) {
            count(&self.counters.shadow_same);
            return;
        }
        // It may have been invalidated since.
        let ask = Ask {
            key: name,
            lead: None,
            refused: None,
        };
        let answers = self.l2.ask(&[ask]).await.unwrap_or_default();
        if let Some(Answer::Value { envelope, .. }) = answers.first() {
            let held = self.codec.decode::<V>(envelope);
            if held.is_ok_and(|held| !is_same(&held.value)) {
                count(&self.counters.shadow_different);
            }
        }
    }
}
