//! Values and keys that are stored outside the process come back as they were, or are not stored.

#[path = "../servers/mod.rs"]
#[allow(dead_code)]
mod servers;

mod codecs;
mod keys;
mod shapes;

use hotset::{Consistency, LocalCache, Schema, TierKey, TierStats, TierValue, TieredCache};
use servers::Server;
use std::fmt::Debug;
use std::time::Duration;

/// Builds a cache that keeps values in Redis alone, so that each read decodes them.
fn cache<K: TierKey + Schema, V: TierValue + Schema>(
    server: &Server,
    namespace: &str,
) -> TieredCache<K, V> {
    let builder = LocalCache::builder().capacity(100);
    let builder = builder.redis(server.url(), namespace);
    let builder = builder.consistency(Consistency::L2Only);
    builder.deadline(Duration::from_secs(5)).build().unwrap()
}

/// What became of values that were stored.
#[derive(Debug, PartialEq)]
enum Stored {
    /// Each was read as it was written.
    All,
    /// None was stored, and a warning says so.
    None,
}

/// Stores each value in Redis and in a snapshot, and reads it elsewhere. Panics if that yields another value, or if
/// values are lost without a warning.
async fn store<V>(server: &Server, namespace: &str, values: &[V]) -> Stored
where
    V: TierValue + Schema + PartialEq + Debug,
{
    let writer: TieredCache<u64, V> = cache(server, namespace);
    let reader: TieredCache<u64, V> = cache(server, namespace);
    let local: LocalCache<u64, V> = LocalCache::new(100);
    let mut found = 0;
    for (key, value) in (0..).zip(values) {
        writer.insert(key, value.clone()).await;
        local.insert(key, value.clone());
        if let Some(read) = reader.get(&key).await {
            assert_eq!(read, *value, "{namespace}: from Redis");
            found += 1;
        }
    }
    let restored = snapshot(namespace, &local);
    assert_eq!(restored, found, "{namespace}: entries in the snapshot");
    let TierStats {
        altered,
        unstorable,
        unreadable,
        ..
    } = writer.tier_stats();
    assert_eq!((unstorable, unreadable), (0, 0), "{namespace}");
    let warnings = writer.health().warnings;
    let is_warned = warnings
        .iter()
        .any(|warning| matches!(warning, hotset::Warning::AlteredValues { .. }));
    assert_eq!(is_warned, altered > 0, "{namespace}: {warnings:?}");
    if found == values.len() {
        assert_eq!(altered, 0, "{namespace}");
        return Stored::All;
    }
    assert_eq!((found, altered), (0, values.len() as u64), "{namespace}");
    Stored::None
}

/// Writes a snapshot and restores it. Returns the number of entries that came back.
fn snapshot<V>(namespace: &str, cache: &LocalCache<u64, V>) -> usize
where
    V: TierValue + Schema + PartialEq + Debug,
{
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let report = cache.snapshot(&path).unwrap();
    assert_eq!(report.entries + report.altered, cache.len() as u64);
    let restored: LocalCache<u64, V> = LocalCache::new(100);
    restored.restore(&path).unwrap();
    for (key, value) in &restored {
        assert_eq!(Some(value), cache.get(&key), "{namespace}: from a snapshot");
    }
    restored.len()
}
