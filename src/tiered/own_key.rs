//! Writes under keys that cannot be encoded, whose entries are therefore each process's own.

use crate::entry::Loaded;
use crate::tiered::load::Fresh;
use crate::tiered::write::run_write;
use crate::tiered::{Delivery, RemoteKey, RemoteValue, TieredCache};
use std::future::Future;
use std::time::Instant;

impl<K: RemoteKey, V: RemoteValue> TieredCache<K, V> {
    /// Stores a value under a key that has no name in L2, in this process alone, once `write` has changed the database.
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
        // Taken before the write, so that a change of the key during the write prevents the store.
        let promise = inner.l1.promise(&key);
        run_write(write, || drop(inner.l1.remove(&key))).await?;
        let local = inner.local(Fresh::read(loaded, begun));
        if !promise.keep(key.clone(), local) {
            inner.l1.remove(&key);
        }
        Ok(Delivery::LocalOnly)
    }
}
