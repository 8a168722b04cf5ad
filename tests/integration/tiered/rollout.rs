//! Rollout to Redis in steps, and shadow mode.

use super::servers::Server;
use super::{MINUTE, builder, fails, proven, value};
use hotset::{BuildError, Consistency, LocalCache, Propagation, Rollout, TieredCache};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use support::caches::wait_until_proven;

/// The number of keys.
const KEYS: u64 = 200;

fn cache(server: &Server, rollout: &Rollout) -> TieredCache<u64, u64> {
    let builder = builder(&server.url(), Consistency::Realtime);
    builder.rollout(rollout).build().unwrap()
}

async fn proven_with(server: &Server, rollout: &Rollout) -> TieredCache<u64, u64> {
    let cache = cache(server, rollout);
    wait_until_proven(&cache).await;
    cache
}

#[tokio::test]
async fn rollout_stores_its_percentage_of_keys_in_redis_and_reports_it() {
    let server = Server::start();
    let rollout = Rollout::with_percent(0.0).unwrap();
    let cache = proven_with(&server, &rollout).await;
    let mut entries = 0;
    for percent in [0_u32, 10, 50, 100] {
        rollout.set_percent(percent.into()).unwrap();
        let shown = format!("{}", cache.health().percent);
        assert_eq!(shown, percent.to_string());
        cache.clear().await;
        for key in 0..KEYS {
            cache.get_or_load_async(&key, value).await.unwrap();
            // L1 has every key, whatever the percentage is.
            cache.get_or_load_async(&key, fails).await.unwrap();
        }
        let now = server.entries("test").len();
        let most = percent as usize * 2;
        assert!(
            now >= entries && now.abs_diff(most) <= 25,
            "{now} at {percent}"
        );
        entries = now;
    }
    assert_eq!(entries as u64, KEYS);
}

/// The two processes have different percentages.
#[tokio::test]
async fn change_is_visible_to_processes_with_different_percentages() {
    let server = Server::start();
    for (percent, other) in [(0.0, 100.0), (100.0, 0.0), (0.0, 0.0)] {
        let writer = proven_with(&server, &Rollout::with_percent(percent).unwrap()).await;
        let reader = proven_with(&server, &Rollout::with_percent(other).unwrap()).await;
        for cache in [&reader, &writer] {
            cache.get_or_load_async(&7, |_| value(1)).await.unwrap();
        }
        assert_eq!(
            writer
                .write_through(7, 2, |_| async { Ok::<_, ()>(()) })
                .await,
            Ok(Propagation::Acknowledged)
        );
        assert_eq!(reader.get_or_load_async(&7, |_| value(2)).await.unwrap(), 2);
        assert_eq!(writer.insert(8, 3).await, Propagation::Acknowledged);
        assert_eq!(writer.get(&8).await, Some(3));
        writer.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn percentage_changed_under_load_causes_no_error() {
    let server = Server::start();
    let rollout = Rollout::with_percent(0.0).unwrap();
    let caches = [
        proven_with(&server, &rollout).await,
        proven_with(&server, &rollout).await,
    ];
    let rows: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(AtomicU64::new).collect());
    let acknowledged = Arc::new((0..KEYS).map(AtomicU64::new).collect::<Vec<_>>());
    let mut tasks = Vec::new();
    for task in 0..8 {
        let acknowledged = Arc::clone(&acknowledged);
        let (cache, rows, rollout) = (caches[task % 2].clone(), Arc::clone(&rows), rollout.clone());
        tasks.push(tokio::spawn(async move {
            let mut turn = 0;
            // Read until all percentages were set.
            while !rollout.is_shadow() {
                turn += 1;
                let key = (turn * 7 + task) % rows.len();
                if turn % 20 == 0 {
                    let row = rows[key].fetch_add(KEYS, SeqCst) + KEYS;
                    let propagation = cache.invalidate(&(key as u64)).await;
                    assert_eq!(propagation, Propagation::Acknowledged);
                    acknowledged[key].fetch_max(row, SeqCst);
                }
                let least = acknowledged[key].load(SeqCst);
                let load = |_| value(rows[key].load(SeqCst));
                let read = cache.get_or_load_async(&(key as u64), load).await.unwrap();
                assert!(read % KEYS == key as u64 && read >= least, "{read} {least}");
            }
            turn
        }));
    }
    for percent in [0.0, 10.0, 50.0, 100.0, 0.0] {
        rollout.set_percent(percent).unwrap();
        let reads = || caches.iter().map(|cache| cache.stats().hits).sum::<u64>();
        let before = reads();
        super::servers::soon("reads continue", || reads() > before + 2_000).await;
    }
    rollout.set_shadow(true);
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn shadow_mode_compares_values_and_does_not_serve_them() {
    let server = Server::start();
    let real: TieredCache<u64, u64> = proven(&server.url(), MINUTE).await;
    for key in 0..4 {
        real.get_or_load_async(&key, value).await.unwrap();
    }
    let rollout = Rollout::full();
    rollout.set_shadow(true);
    let cache = proven_with(&server, &rollout).await;
    assert!(cache.health().shadow);
    // The database is changed without an invalidation.
    let load = |key: u64| value(if key == 2 { 20 } else { key });
    assert_eq!(cache.get(&1).await, None);
    assert_eq!(cache.get_or_load_async(&1, load).await.unwrap(), 1);
    assert_eq!(cache.get_or_load_async(&2, load).await.unwrap(), 20);
    let many = |keys: Vec<u64>| {
        value(
            keys.into_iter()
                .map(|key| (key, key + 30))
                .collect::<Vec<_>>(),
        )
    };
    let read = cache
        .get_many_or_load_async(&[0, 3, 9], many)
        .await
        .unwrap();
    assert_eq!(read, [Some(30), Some(33), Some(39)]);
    let stats = cache.tier_stats();
    assert_eq!((stats.shadow_same, stats.shadow_different), (1, 3));
    // Keys that Redis does not have are stored there.
    assert_eq!(real.get(&9).await, Some(39));
    rollout.set_shadow(false);
    cache.invalidate(&1).await;
    real.get_or_load_async(&1, |_| value(100)).await.unwrap();
    assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), 100);
}

#[tokio::test]
async fn rollout_is_changed_by_a_build_that_succeeds_and_by_no_other() {
    let server = Server::start();
    let rollout = Rollout::with_percent(10.0).unwrap();
    let build = |shards| {
        let local = LocalCache::<u64, u64>::builder().capacity(1).shards(shards);
        let tiered = local.redis(server.url(), "test").percent(50.0).shadow(true);
        tiered.rollout(&rollout).build()
    };
    assert_eq!(build(0).err(), Some(BuildError::Shards(0)));
    assert_eq!((rollout.percent(), rollout.is_shadow()), (10.0, false));
    let cache = build(1).unwrap();
    assert_eq!((rollout.percent(), rollout.is_shadow()), (50.0, true));
    assert!(cache.health().shadow);
}

#[test]
fn percentage_out_of_range_is_refused() {
    let error = Rollout::with_percent(120.0).unwrap_err();
    assert_eq!(error, BuildError::OutOfRange("percent"));
}

#[tokio::test]
async fn change_propagated_during_the_load_counts_as_no_difference_in_shadow_mode() {
    let server = Server::start();
    let real: TieredCache<u64, u64> = proven(&server.url(), MINUTE).await;
    real.get_or_load_async(&1, value).await.unwrap();
    let rollout = Rollout::full();
    rollout.set_shadow(true);
    let cache = proven_with(&server, &rollout).await;
    let load = |_| async {
        // The change comes after the loader has read the row.
        real.invalidate(&1).await;
        real.get_or_load_async(&1, |_| value(3)).await.unwrap();
        value(2).await
    };
    assert_eq!(cache.get_or_load_async(&1, load).await.unwrap(), 2);
    assert_eq!(cache.tier_stats().shadow_different, 0);
}

#[tokio::test]
async fn batches_of_two_processes_in_shadow_mode_take_one_load_each() {
    let server = Server::start();
    let rollout = Rollout::full();
    rollout.set_shadow(true);
    let caches = [
        proven_with(&server, &rollout).await,
        proven_with(&server, &rollout).await,
    ];
    let keys: Vec<u64> = (0..50).collect();
    let loads = AtomicU64::new(0);
    let begun = tokio::sync::Barrier::new(2);
    let read = |cache: TieredCache<u64, u64>| {
        let (keys, loads, begun) = (&keys, &loads, &begun);
        async move {
            let load = |missing: Vec<u64>| async move {
                loads.fetch_add(1, SeqCst);
                // Both processes load before either has stored its values.
                begun.wait().await;
                value(
                    missing
                        .into_iter()
                        .map(|key| (key, key))
                        .collect::<Vec<_>>(),
                )
                .await
            };
            cache.get_many_or_load_async(keys, load).await.unwrap()
        }
    };
    let [one, other] = caches;
    let (one, other) = futures_util::future::join(read(one), read(other)).await;
    let expected: Vec<_> = keys.iter().copied().map(Some).collect();
    assert_eq!((&one, &other), (&expected, &expected));
    assert_eq!(loads.load(SeqCst), 2);
}
