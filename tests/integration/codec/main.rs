//! Values and keys that are stored outside the process are read as they were written, or are not stored.

mod codecs;
mod keys;
mod shapes;
mod values;

use hotset::{
    Codec, Consistency, LocalCache, MessagePack, RemoteKey, RemoteValue, Schema, TierStats,
    TieredCache, Warning,
};
use serde::{Deserialize, Serialize};
use servers::Server;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use support::servers;
use values::Value;

const MINUTE: Consistency = Consistency::Bounded(Duration::from_secs(60));

/// A type whose encoding without field names decodes to another value if its first field is skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u8>,
    amount: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u8>,
}

hotset::schema!(Rate, "rate/1");

/// Builds a cache that keeps values in Redis alone, so that each read decodes them.
fn cache<K: RemoteKey + Schema, V: RemoteValue + Schema>(
    server: &Server,
    namespace: &str,
) -> TieredCache<K, V> {
    let builder = LocalCache::builder().capacity(100);
    let builder = builder.redis(server.url(), namespace);
    let builder = builder.consistency(Consistency::L2Only);
    builder.deadline(Duration::from_secs(30)).build().unwrap()
}

/// The result of storing several values.
#[derive(Debug, PartialEq)]
enum Stored {
    /// Each value was read as it was written.
    All,
    /// No value was stored, and there is a warning.
    None,
}

/// Stores each value in Redis and in a snapshot, and reads it from there. Panics if that yields another value, if values
/// are lost without a warning, or if a value alone is not decoded like one in a [`Value`].
async fn store<V>(server: &Server, values: &[V]) -> Stored
where
    V: RemoteValue + Schema + PartialEq + Debug + Into<Value>,
{
    let stored = store_all(server, values.iter().cloned().map(V::into).collect()).await;
    for value in values {
        let encoded = MessagePack.encode(&7_u64, value).unwrap();
        let decoded = MessagePack.decode(&encoded).ok();
        let is_same = decoded.is_some_and(|(key, decoded): (u64, V)| key == 7 && decoded == *value);
        assert_eq!(is_same, stored == Stored::All, "{value:?}");
    }
    stored
}

async fn store_all(server: &Server, values: Vec<Value>) -> Stored {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let namespace = format!("store:{}", NEXT.fetch_add(1, Relaxed));
    let writer: TieredCache<u64, Value> = cache(server, &namespace);
    let reader: TieredCache<u64, Value> = cache(server, &namespace);
    let local: LocalCache<u64, Value> = LocalCache::new(100);
    let mut found = 0;
    for (key, value) in (0..).zip(&values) {
        writer.insert(key, value.clone()).await;
        local.insert(key, value.clone());
        if let Some(read) = reader.get(&key).await {
            assert_eq!(read, *value, "from Redis");
            found += 1;
        }
    }
    let restored = snapshot(&local);
    assert_eq!(restored, found, "entries in the snapshot of {values:?}");
    let TierStats {
        altered,
        unstorable,
        unreadable,
        ..
    } = writer.tier_stats();
    assert_eq!((unstorable, unreadable), (0, 0), "{values:?}");
    let warnings = writer.health().warnings;
    let is_warned = warnings
        .iter()
        .any(|warning| matches!(warning, Warning::AlteredValues { .. }));
    assert_eq!(is_warned, altered > 0, "{values:?}: {warnings:?}");
    if found == values.len() {
        assert_eq!(altered, 0, "{values:?}");
        return Stored::All;
    }
    assert_eq!((found, altered), (0, values.len() as u64), "{values:?}");
    Stored::None
}

/// Writes a snapshot and restores it. Returns the number of restored entries.
fn snapshot(cache: &LocalCache<u64, Value>) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let report = cache.snapshot(&path).unwrap();
    assert_eq!(report.entries + report.altered, cache.len() as u64);
    let restored: LocalCache<u64, Value> = LocalCache::new(100);
    restored.restore(&path).unwrap();
    for (key, value) in &restored {
        assert_eq!(Some(value), cache.get(&key), "from a snapshot");
    }
    restored.len()
}
