//! Waiting for caches over Redis.

use crate::servers::soon;
use hotset::{RemoteKey, RemoteValue, TieredCache};

/// Waits until invalidations by other processes are proven to reach the cache.
pub async fn wait_until_proven<K: RemoteKey, V: RemoteValue>(cache: &TieredCache<K, V>) {
    soon("invalidations are proven to arrive", || {
        cache.health().proven_for.is_some()
    })
    .await;
}
