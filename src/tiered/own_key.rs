//! Writes under keys that cannot be encoded, and so are each process's own.

use super::load::Fresh;
use super::write::run_write;
use super::{Delivery, TierKey, TierValue, TieredCache};
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
        run_write(write, || drop(inner.l1.remove(&key))).await?;
        let local = inner.local(Fresh::read(loaded, begun));
        if !promise.keep(key.clone(), local) {
            inner.l1.remove(&key);
        }
        Ok(Delivery::LocalOnly)
    }
}
