//! Writes under keys that cannot be encoded, and so are each process's own.

use super::load::Fresh;
use super::{Delivery, Inner, TierKey, TierValue, TieredCache};
use crate::entry::Loaded;
use std::future::Future;
use std::time::Instant;

impl<K: TierKey, V: TierValue> TieredCache<K, V> {
    /// Writes under a key that is this process's own.
    pub(super) async fn write_here<E, F>(
        &self,
        key: K,
        loaded: Loaded<V>,
        write: Option<impl FnOnce() -> F>,
    ) -> Result<Delivery, E>
    where
        F: Future<Output = Result<(), E>>,
    {
        let inner = &self.inner;
        let begun = Instant::now();
        // Another change of the key that comes now makes it void.
        let promise = inner.l1.promise(&key);
        if let Some(write) = write {
            let unknown = UnknownHere {
                inner,
                key: Some(&key),
            };
            let written = write().await;
            unknown.resolve();
            written?;
        }
        let local = inner.local(Fresh::read(loaded, begun));
        if !promise.keep(key.clone(), local) {
            inner.l1.remove(&key);
        }
        Ok(Delivery::LocalOnly)
    }
}

/// A write of which it is not known how far it came, until it is.
struct UnknownHere<'a, K: TierKey, V: TierValue> {
    inner: &'a Inner<K, V>,
    key: Option<&'a K>,
}

impl<K: TierKey, V: TierValue> UnknownHere<'_, K, V> {
    fn resolve(mut self) {
        self.key = None;
    }
}

impl<K: TierKey, V: TierValue> Drop for UnknownHere<'_, K, V> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.inner.l1.remove(key);
        }
    }
}
