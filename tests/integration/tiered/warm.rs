//! Warming of a process that has just started.

use super::servers::Server;
use super::{DEADLINE, MINUTE, SHORT_HEARTBEAT, builder, fails, proven, value};
use hotset::{
    AsyncCache, Cache as _, Consistency, LoadError, LocalCache, Propagation, SnapshotError,
    TieredCache, WarmOptions, WarmOutcome,
};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

type Cache = TieredCache<u64, u64>;

async fn rows(keys: Vec<u64>) -> Result<Vec<(u64, u64)>, Infallible> {
    let rows = keys.into_iter().map(|key| (key, key * 10));
    Ok(rows.collect())
}

/// Checks that all of these keys are hits in L1, without a call to Redis.
async fn assert_in_l1(cache: &Cache, keys: impl Iterator<Item = u64>) {
    let before = (cache.tier_stats().l2_hits, cache.tier_stats().l2_misses);
    for key in keys {
        assert_eq!(cache.get(&key).await, Some(key * 10));
    }
    let after = (cache.tier_stats().l2_hits, cache.tier_stats().l2_misses);
    assert_eq!(after, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_one_process_warms_are_found_in_redis_by_another() {
    for consistency in [Consistency::Realtime, MINUTE] {
        let server = Server::start();
        // Invalidations are not proven to arrive yet, so warming waits.
        let one: Cache = builder(&server.url(), consistency).build().unwrap();
        let report = one.warm_async(0..1_000, rows).await;
        assert_eq!((report.found, report.end), (1_000, WarmOutcome::Done));
        assert_in_l1(&one, 0..1_000).await;
        assert_eq!(one.tier_stats().fills, 1_000);

        let other: Cache = builder(&server.url(), consistency).build().unwrap();
        let report = other
            .warm_from_l2(WarmOptions::new().batch(100), 500..1_500)
            .await;
        assert_eq!(
            (report.found, report.left_out, report.failed),
            (500, 500, 0)
        );
        assert_in_l1(&other, 500..1_000).await;
        // No lease remains for the keys that were left out.
        let loaded = other.get_or_load_async(&1_200, |_| value(1)).await.unwrap();
        assert_eq!((loaded, other.tier_stats().l2_waits), (1, 0));
        // An invalidation removes a value that was found by warming.
        assert_eq!(one.invalidate(&700).await, Propagation::Acknowledged);
        if consistency == Consistency::Realtime {
            assert_eq!(
                other.get_or_load_async(&700, |_| value(1)).await.unwrap(),
                1
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_from_a_snapshot_takes_keys_from_it_and_values_from_redis() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices");
    let one = proven::<u64>(&server.url(), Consistency::Realtime).await;
    one.warm_async(0..100, rows).await;
    assert_eq!(one.snapshot(&path).await.unwrap().entries, 100);
    // The change comes while the first process is not running.
    assert_eq!(one.invalidate(&3).await, Propagation::Acknowledged);
    one.write_through(4, 1, |_| async { Ok::<_, Infallible>(()) })
        .await
        .unwrap();
    drop(one);

    let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let report = other.warm_from_snapshot(WarmOptions::new(), &path).await;
    let report = report.unwrap();
    assert_eq!((report.found, report.left_out), (99, 1));
    assert_in_l1(&other, (0..100).filter(|key| ![3, 4].contains(key))).await;
    assert_eq!(other.get(&3).await, None);
    assert_eq!(other.get_or_load_async(&4, fails).await.unwrap(), 1);

    let none = other.warm_from_snapshot(WarmOptions::new(), folder.path().join("none"));
    assert!(matches!(none.await, Err(SnapshotError::NotFound)));
    // Keys of another type are refused.
    let local: LocalCache<i64, u64> = LocalCache::new(9);
    local.snapshot(&path).unwrap();
    let refused = other.warm_from_snapshot(WarmOptions::new(), &path).await;
    assert!(matches!(refused, Err(SnapshotError::KeySchema { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_without_redis_loads_or_reports_the_missing_proof() {
    let mut server = Server::start();
    let cache = proven::<u64>(&server.url(), MINUTE).await;
    server.kill();
    let warming = WarmOptions::new()
        .batch(10)
        .concurrency(1)
        .stop_after_failures(2);
    let report = cache.warm_from_l2(warming, 0..1_000).await;
    assert_eq!(
        (report.end, report.failed, report.found),
        (WarmOutcome::Failures, 20, 0)
    );
    assert!(matches!(report.failures[0].error, LoadError::Failed(_)));
    let report = cache.warm_async(0..1_000, rows).await;
    assert_eq!((report.found, report.failed), (1_000, 0));
    assert_in_l1(&cache, 0..1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_a_realtime_cache_without_proof_loads_nothing() {
    let mut server = Server::start();
    let url = server.url();
    server.kill();
    let cache = builder(&url, Consistency::Realtime).heartbeat(SHORT_HEARTBEAT);
    let cache: Cache = cache.build().unwrap();
    let report = cache.warm_async(0.., rows).await;
    assert_eq!((report.end, report.found), (WarmOutcome::NotProven, 0));
    let report = cache.warm_from_l2(WarmOptions::new(), 0..).await;
    assert_eq!((report.end, report.failed), (WarmOutcome::NotProven, 0));
    assert_eq!((cache.stats().loads, cache.stats().entries), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_in_class_l2_only_fills_redis_up_to_the_capacity_of_l1() {
    let server = Server::start();
    let cache = || -> Cache {
        let builder = builder(&server.url(), Consistency::L2Only);
        builder.build().unwrap()
    };
    let one = cache();
    let report = one.warm_async(0.., rows).await;
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 10_000));
    assert_eq!(one.tier_stats().fills, 10_000);
    let report = cache().warm_from_l2(WarmOptions::new(), 0..).await;
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 10_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_from_redis_finds_no_keys_that_the_rollout_excludes() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    one.warm_async(0..1_000, rows).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    other.rollout().set_percent(25.0).unwrap();
    let report = other.warm_from_l2(WarmOptions::new(), 0..1_000).await;
    assert!((150..350).contains(&report.found), "{}", report.found);
    assert_eq!(report.found + report.left_out, 1_000);
    let shadow = proven::<u64>(&server.url(), MINUTE).await;
    shadow.rollout().set_shadow(true);
    let report = shadow.warm_from_l2(WarmOptions::new(), 0..1_000).await;
    assert_eq!((report.found, report.left_out), (0, 1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_stops_when_l1_is_full() {
    let server = Server::start();
    let small = || {
        let builder = LocalCache::builder().capacity(100);
        let builder = builder.time_to_live(Duration::from_secs(300));
        let builder = builder.redis(server.url(), "small").consistency(MINUTE);
        builder.deadline(DEADLINE).build().unwrap()
    };
    let cache: Cache = small();
    let report = cache.warm_async(0.., rows).await;
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 100));
    let other: Cache = small();
    let report = other.warm_from_l2(WarmOptions::new(), 0..).await;
    assert_eq!((report.end, report.found), (WarmOutcome::Full, 100));
    assert_eq!(other.stats().evicted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trait_objects_warm_both_levels() {
    let server = Server::start();
    let one: Cache = builder(&server.url(), MINUTE).build().unwrap();
    let tasks: Arc<dyn AsyncCache<u64, u64>> = Arc::new(one.clone());
    let options = WarmOptions::new().batch(10);
    let report = tasks.warm_with_async(options, 0..100, rows).await;
    assert_eq!((report.found, report.end), (100, WarmOutcome::Done));
    assert_in_l1(&one, 0..100).await;
    assert_eq!(one.tier_stats().loads, 10);

    let other: Cache = builder(&server.url(), MINUTE).build().unwrap();
    let blocking: Arc<dyn hotset::Cache<u64, u64>> = Arc::new(other.blocking());
    let warming = tokio::task::spawn_blocking(move || {
        let options = WarmOptions::new().batch(50);
        let report = blocking.warm_with(options, 50..150, |keys| {
            assert!(keys[0] >= 100, "the other keys are in Redis");
            let rows = keys.into_iter().map(|key| (key, key * 10));
            Ok::<_, Infallible>(rows)
        });
        blocking.flush();
        report
    });
    assert_eq!(warming.await.unwrap().found, 100);
    assert_in_l1(&other, 50..150).await;
    tasks.flush().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trait_object_over_a_realtime_cache_without_proof_loads_nothing() {
    let mut server = Server::start();
    let url = server.url();
    server.kill();
    let cache = builder(&url, Consistency::Realtime).heartbeat(SHORT_HEARTBEAT);
    let cache: Cache = cache.build().unwrap();
    let tasks: Arc<dyn AsyncCache<u64, u64>> = Arc::new(cache.clone());
    let report = tasks.warm_async(0.., rows).await;
    assert_eq!((report.end, report.found), (WarmOutcome::NotProven, 0));
    let blocking: Arc<dyn hotset::Cache<u64, u64>> = Arc::new(cache.blocking());
    let load = |_| -> Result<[(u64, u64); 0], Infallible> { unreachable!() };
    let warming = tokio::task::spawn_blocking(move || blocking.warm(0.., load));
    assert_eq!(warming.await.unwrap().end, WarmOutcome::NotProven);
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_through_a_trait_object_waits_until_redis_answers() {
    let mut server = Server::start();
    let cache = proven::<u64>(&server.url(), MINUTE).await;
    let tasks: Arc<dyn AsyncCache<u64, u64>> = Arc::new(cache.clone());
    server.kill();
    assert_eq!(tasks.invalidate(&1).await, Propagation::Queued);
    let limit = Duration::from_millis(50);
    assert!(tokio::time::timeout(limit, tasks.flush()).await.is_err());
    server.restart();
    tasks.flush().await;
    assert_eq!(cache.health().queued, 0);
}
