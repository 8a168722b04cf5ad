//! Caches whose backend is not known at compile time, converted from a local cache.

use hotset::{AsyncCache, Cache, ConfiguredAsyncCache, ConfiguredCache, LocalCache};
use std::sync::Arc;

/// A value that Redis cannot store.
#[derive(Debug, Clone, PartialEq)]
struct Opaque(u64);

fn local() -> LocalCache<u64, Opaque> {
    let builder = LocalCache::builder().name("numbers").capacity(10);
    builder.build().unwrap()
}

#[test]
fn local_cache_becomes_a_configured_cache_for_threads() {
    let local = local();
    let configured = ConfiguredCache::from(local.clone());
    configured.insert(1, Opaque(10));
    assert_eq!(local.get(&1), Some(Opaque(10)));
    assert_eq!(configured.clone().get(&1), Some(Opaque(10)));
    assert_eq!(configured.name(), Some("numbers"));
    assert!(format!("{configured:?}").starts_with("ConfiguredCache { name: Some(\"numbers\")"));
    let object: Arc<dyn Cache<u64, Opaque>> = configured.into();
    assert_eq!(object.get(&1), Some(Opaque(10)));
}

#[tokio::test]
async fn local_cache_becomes_a_configured_cache_for_tasks() {
    let local = local();
    let configured = ConfiguredAsyncCache::from(local.clone());
    configured.insert(1, Opaque(10)).await;
    assert_eq!(local.get(&1), Some(Opaque(10)));
    assert_eq!(configured.name(), Some("numbers"));
    let object: Arc<dyn AsyncCache<u64, Opaque>> = configured.into();
    assert_eq!(object.get(&1).await, Some(Opaque(10)));
}

#[test]
fn cache_without_a_name_has_none() {
    let configured = ConfiguredCache::from(LocalCache::<u64, u64>::new(1));
    assert_eq!(configured.name(), None);
}

#[cfg(feature = "redis")]
#[test]
fn local_cache_has_no_state_of_redis() {
    let threads = ConfiguredCache::from(local());
    assert!(threads.rollout().is_none());
    assert!(threads.tier_stats().is_none() && threads.health().is_none());
    let tasks = ConfiguredAsyncCache::from(local());
    assert!(tasks.rollout().is_none());
    assert!(tasks.tier_stats().is_none() && tasks.health().is_none());
}

#[cfg(feature = "metrics")]
#[test]
fn configured_cache_is_watched_by_its_name() {
    let metrics = hotset::Metrics::new();
    let configured = ConfiguredCache::from(local());
    metrics.watch(&configured).unwrap();
    assert!(metrics.watch(&ConfiguredAsyncCache::from(local())).is_err());
}

#[cfg(feature = "snapshot")]
mod snapshots {
    use super::*;
    use hotset::SnapshotError;

    fn new() -> LocalCache<u64, u64> {
        LocalCache::new(10)
    }

    #[test]
    fn snapshot_is_restored_by_a_thread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let first = ConfiguredCache::from(new());
        let missing = first.restore(&path);
        assert!(matches!(missing, Err(SnapshotError::NotFound)));
        first.insert(1, 10);
        assert_eq!(first.snapshot(&path).unwrap().entries, 1);
        let second = ConfiguredCache::from(new());
        let report = second.restore(&path).unwrap();
        assert_eq!((report.restored, report.failed), (1, 0));
        assert_eq!(second.get(&1), Some(10));
    }

    #[cfg(feature = "tokio")]
    #[tokio::test]
    async fn snapshot_is_restored_by_a_task() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers");
        let first = ConfiguredAsyncCache::from(new());
        let missing = first.restore(&path).await;
        assert!(matches!(missing, Err(SnapshotError::NotFound)));
        first.insert(1, 10).await;
        assert_eq!(first.snapshot(&path).await.unwrap().entries, 1);
        let second = ConfiguredAsyncCache::from(new());
        assert_eq!(second.restore(&path).await.unwrap().restored, 1);
        assert_eq!(second.get(&1).await, Some(10));
    }
}
