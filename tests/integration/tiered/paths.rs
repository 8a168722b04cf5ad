//! The path of a miss and of a write without failures.

use super::servers::{Server, TEST_TIMEOUT, eventually, in_time, soon, with_growing_time};
use super::{DEADLINE, LONG_LEASE, MINUTE, builder, builder_with, fails, proven, value};
use hotset::{
    AsyncCache, Cache, Consistency, LoadError, Loaded, LocalCache, Propagation, TieredCache,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;
use tokio::sync::Semaphore;

/// All consistency classes.
const ALL: [Consistency; 4] = [
    Consistency::Realtime,
    MINUTE,
    Consistency::L2Only,
    Consistency::L1Only,
];

/// Returns a cache whose loads have a long lease.
async fn with_long_lease(server: &Server) -> TieredCache<u64, u64> {
    let cache = builder_with(&server.url(), MINUTE, |local| local.lease(LONG_LEASE));
    let cache = cache.build().unwrap();
    wait_until_proven(&cache).await;
    cache
}

#[tokio::test(flavor = "multi_thread")]
async fn value_loaded_by_one_process_is_found_by_another() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    assert_eq!(one.get_or_load_async(&1, |_| value(10)).await.unwrap(), 10);
    assert_eq!(other.get(&1).await, Some(10));
    assert_eq!(other.get_or_load_async(&1, fails).await.unwrap(), 10);
    assert_eq!(other.stats().hits, 1);
    assert_eq!(other.tier_stats().l2_hits, 1);
    assert_eq!(one.tier_stats().fills, 1);
    assert_eq!(one.get(&2).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_invalidation_is_visible_in_all_processes_as_the_class_promises() {
    for consistency in ALL {
        let server = Server::start();
        let one = proven::<u64>(&server.url(), consistency).await;
        let other = proven::<u64>(&server.url(), consistency).await;
        let at_once = matches!(consistency, Consistency::Realtime | Consistency::L2Only);
        for round in 0..50 {
            let old = 2 * round;
            for cache in [&one, &other] {
                cache.get_or_load_async(&1, |_| value(old)).await.unwrap();
            }
            assert_eq!(one.invalidate(&1).await, Propagation::Acknowledged);
            let seen = one.get_or_load_async(&1, |_| value(old + 1)).await.unwrap();
            assert_eq!(seen, old + 1, "{consistency:?}");
            if !at_once {
                soon("the event arrives", || {
                    other.tier_stats().events > 2 * round
                })
                .await;
            }
            let seen = other
                .get_or_load_async(&1, |_| value(old + 1))
                .await
                .unwrap();
            assert_eq!(seen, old + 1, "{consistency:?}");
            let _ = one.invalidate(&1).await;
            soon("the event arrives", || {
                other.tier_stats().events >= 2 * round + 2
            })
            .await;
        }
        assert_eq!(other.health().gaps, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_of_a_tag_and_clear_remove_exactly_their_entries_in_all_processes() {
    for consistency in ALL {
        let server = Server::start();
        let one = proven::<u64>(&server.url(), consistency).await;
        let other = proven::<u64>(&server.url(), consistency).await;
        let tagged = |value: u64, tag| async move { Ok::<_, ()>(Loaded::new(value).tags([tag])) };
        for cache in [&one, &other] {
            cache
                .get_or_load_entry_async(&1, |_| tagged(10, "a"))
                .await
                .unwrap();
            cache
                .get_or_load_entry_async(&2, |_| tagged(20, "b"))
                .await
                .unwrap();
        }
        assert_eq!(one.invalidate_tag("a").await, Propagation::Acknowledged);
        soon("the event arrives", || other.tier_stats().events == 1).await;
        for cache in [&one, &other] {
            let seen = cache
                .get_or_load_entry_async(&1, |_| tagged(11, "a"))
                .await
                .unwrap();
            assert_eq!(seen, 11, "{consistency:?}");
            let seen = cache
                .get_or_load_entry_async(&2, |_| tagged(20, "b"))
                .await
                .unwrap();
            assert_eq!(seen, 20);
        }
        let loads = |cache: &TieredCache<u64, u64>| cache.stats().loads;
        let before = loads(&one);
        assert_eq!(one.clear().await, Propagation::Acknowledged);
        soon("the event arrives", || other.tier_stats().events == 2).await;
        for cache in [&one, &other] {
            assert_eq!(cache.get(&2).await, None, "{consistency:?}");
        }
        for cache in [&one, &other] {
            let seen = cache
                .get_or_load_entry_async(&2, |_| tagged(21, "b"))
                .await
                .unwrap();
            assert_eq!(seen, 21);
        }
        assert!(loads(&one) > before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_started_before_an_invalidation_by_another_process_is_not_stored() {
    for consistency in ALL {
        for what in ["key", "tag", "clear"] {
            let server = Server::start();
            let one = proven::<u64>(&server.url(), consistency).await;
            let other = proven::<u64>(&server.url(), consistency).await;
            let (begun, go_on) = (Semaphore::new(0), Semaphore::new(0));
            let load = |_| async {
                begun.add_permits(1);
                go_on.acquire().await.unwrap().forget();
                Ok::<_, ()>(Loaded::new(10).tags(["a"]))
            };
            let invalidate = async {
                begun.acquire().await.unwrap().forget();
                let propagation = match what {
                    "key" => other.invalidate(&1).await,
                    "tag" => other.invalidate_tag("a").await,
                    _ => other.clear().await,
                };
                assert_eq!(propagation, Propagation::Acknowledged);
                soon("the event arrives", || one.tier_stats().events == 1).await;
                go_on.add_permits(1);
            };
            let (loaded, ()) = tokio::join!(one.get_or_load_entry_async(&1, load), invalidate);
            assert_eq!(loaded.unwrap(), 10);
            for cache in [&one, &other] {
                assert_eq!(cache.get(&1).await, None, "{consistency:?}, {what}");
            }
            assert_eq!(one.get_or_load_async(&1, |_| value(11)).await.unwrap(), 11);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_several_caches_share_one_load_and_an_error_is_not_cached() {
    let server = Server::start();
    let loads = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let cache = proven::<u64>(&server.url(), MINUTE).await;
        for _ in 0..50 {
            let (cache, loads) = (cache.clone(), Arc::clone(&loads));
            tasks.push(tokio::spawn(async move {
                let load = |_| async {
                    loads.fetch_add(1, SeqCst);
                    // Simulates a query that takes long enough for all callers to arrive.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Ok::<_, ()>(10)
                };
                assert_eq!(cache.get_or_load_async(&1, load).await.unwrap(), 10);
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(loads.load(SeqCst), 1);

    let cache = with_long_lease(&server).await;
    let error = cache.get_or_load_async(&2, fails).await.unwrap_err();
    assert!(matches!(error, LoadError::Failed(_)));
    // The lease is released at once, instead of at its end.
    let other = with_long_lease(&server).await;
    let loaded = in_time(other.get_or_load_async(&2, |_| value(20))).await;
    assert_eq!(loaded.unwrap(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_load_passes_its_lease_to_another_process() {
    let server = Server::start();
    let one = with_long_lease(&server).await;
    let other = with_long_lease(&server).await;
    let begun = Arc::new(Semaphore::new(0));
    let hanging = tokio::spawn({
        let (one, begun) = (one.clone(), Arc::clone(&begun));
        async move {
            let load = |_| async {
                begun.add_permits(1);
                std::future::pending::<Result<u64, ()>>().await
            };
            let _ = one.get_or_load_async(&1, load).await;
        }
    });
    begun.acquire().await.unwrap().forget();
    let waiting = tokio::spawn({
        let other = other.clone();
        async move { other.get_or_load_async(&1, |_| value(10)).await.unwrap() }
    });
    soon("the other cache waits", || other.tier_stats().l2_waits > 0).await;
    hanging.abort();
    assert_eq!(in_time(waiting).await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_that_waits_for_another_process_stops_at_its_own_deadline() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let hasty: TieredCache<u64, u64> = LocalCache::builder()
        .capacity(10)
        .wait_timeout(Duration::from_millis(150))
        .redis(server.url(), "test")
        .deadline(DEADLINE)
        .build()
        .unwrap();
    let begun = Semaphore::new(0);
    let hanging = one.get_or_load_async(&1, |_| async {
        begun.add_permits(1);
        std::future::pending::<Result<u64, ()>>().await
    });
    let waiting = async {
        begun.acquire().await.unwrap().forget();
        hasty.get_or_load_async(&1, fails).await
    };
    tokio::select! {
        _ = hanging => unreachable!("the loader hangs"),
        waited = waiting => assert!(matches!(waited, Err(LoadError::WaitTimeout))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn write_through_changes_the_database_first_and_then_all_caches() {
    for consistency in ALL {
        let server = Server::start();
        let one = proven::<u64>(&server.url(), consistency).await;
        let other = proven::<u64>(&server.url(), consistency).await;
        for cache in [&one, &other] {
            cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
        }
        let written = one.write_through(1, 11, |_| async { Err("no room") }).await;
        assert_eq!(written, Err("no room"));
        assert_eq!(one.get_or_load_async(&1, |_| value(10)).await.unwrap(), 10);

        let database = AtomicUsize::new(10);
        let write = |new: u64| {
            database.store(usize::try_from(new).unwrap(), SeqCst);
            async { Ok::<_, &str>(()) }
        };
        let written = one.write_through(1, 11, write).await;
        assert_eq!(written, Ok(Propagation::Acknowledged));
        assert_eq!(database.load(SeqCst), 11);
        soon("the event arrives", || other.tier_stats().events == 1).await;
        let load = |_| value(database.load(SeqCst) as u64);
        for cache in [&one, &other] {
            let seen = cache.get_or_load_async(&1, load).await.unwrap();
            assert_eq!(seen, 11, "{consistency:?}");
        }
        if consistency != Consistency::L1Only {
            // No process had to load the value again.
            assert_eq!(other.get(&1).await, Some(11));
            assert_eq!(one.tier_stats().l2_misses + other.tier_stats().l2_misses, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_write_throughs_leave_no_wrong_value_in_a_cache() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let database = AtomicUsize::new(0);
    for round in 0..200_u64 {
        let write = |new: u64| {
            let database = &database;
            async move {
                database.store(usize::try_from(new).unwrap(), SeqCst);
                tokio::task::yield_now().await;
                Ok::<_, ()>(())
            }
        };
        let (a, b) = tokio::join!(
            one.write_through(1, 2 * round, write),
            other.write_through(1, 2 * round + 1, write)
        );
        assert_eq!(
            (a, b),
            (Ok(Propagation::Acknowledged), Ok(Propagation::Acknowledged))
        );
        let truth = database.load(SeqCst) as u64;
        for cache in [&one, &other] {
            let seen = cache.get_or_load_async(&1, |_| value(truth)).await.unwrap();
            assert_eq!(seen, truth);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_write_through_invalidates_the_key() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    one.get_or_load_async(&1, |_| value(10)).await.unwrap();
    let begun = Semaphore::new(0);
    tokio::select! {
        _ = one.write_through(1, 11, |_| async {
            begun.add_permits(1);
            std::future::pending::<Result<(), ()>>().await
        }) => unreachable!("the loader hangs"),
        permit = begun.acquire() => permit.unwrap().forget(),
    }
    soon("the key is invalidated", || {
        one.tier_stats().invalidations == 1
    })
    .await;
    assert_eq!(one.get_or_load_async(&1, |_| value(11)).await.unwrap(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn inserted_value_is_found_by_others_with_its_own_time_to_live() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    assert_eq!(one.insert(1, 10).await, Propagation::Acknowledged);
    soon("the event arrives", || other.tier_stats().events == 1).await;
    assert_eq!(other.get(&1).await, Some(10));
    with_growing_time(Duration::from_millis(300), async |ttl| {
        AsyncCache::insert_with_ttl(&one, 2, 20, ttl).await;
        if other.get(&2).await != Some(20) {
            return false;
        }
        let begun = Instant::now();
        // The copy in L1 does not outlive the value in Redis.
        while other.get(&2).await.is_some() {
            assert!(begun.elapsed() < TEST_TIMEOUT);
            // The entry expires by the system clock, which only lookups can show.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    })
    .await;
    AsyncCache::invalidate(&other, &1).await;
    assert_eq!(other.get(&1).await, None);
    soon("the event arrives", || one.tier_stats().events > 0).await;
    assert_eq!(one.get(&1).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_looks_up_each_key_in_redis_and_loads_missing_keys_by_one_call() {
    let server = Server::start();
    // No heartbeat comes during the test, so that each call of a script belongs to the batch.
    let cache = || {
        let cache = builder_with::<u64>(&server.url(), MINUTE, |local| local.lease(LONG_LEASE));
        cache.heartbeat(Duration::from_secs(60))
    };
    let (one, other) = (cache().build().unwrap(), cache().build().unwrap());
    for cache in [&one, &other] {
        wait_until_proven(cache).await;
    }
    one.insert(1, 10).await;
    other.insert(2, 20).await;
    let calls = || -> u64 {
        let stats: String = server.command(&[b"INFO", b"commandstats"]);
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"));
        let calls = line.unwrap().split(['=', ',']).nth(1);
        calls.unwrap().parse().unwrap()
    };
    let before = calls();
    let loads = AtomicUsize::new(0);
    let found = one
        .get_many_or_load_async(&[1, 2, 3, 4, 5, 3], |missing| {
            loads.fetch_add(1, SeqCst);
            assert_eq!(missing, [3, 4, 5]);
            async { Ok::<_, ()>([(3, 30_u64), (4, 40)]) }
        })
        .await
        .unwrap();
    let expected = [Some(10), Some(20), Some(30), Some(40), None, Some(30)];
    assert_eq!(found, expected);
    assert_eq!(loads.load(SeqCst), 1);
    soon("the lease of the key without a value is released", || {
        one.tier_stats().calls.release.times.count() == 1
    })
    .await;
    // The lookups of the keys without a value, the fills, and the release.
    assert_eq!(calls() - before, 3);
    assert_eq!(other.get(&3).await, Some(30));
    // No caller waits for a lease that was released.
    let loaded = in_time(other.get_or_load_async(&5, |_| value(50))).await;
    assert_eq!(loaded.unwrap(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_two_processes_share_their_loads() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    let loaded = AtomicUsize::new(0);
    let load = |missing: Vec<u64>| {
        loaded.fetch_add(missing.len(), SeqCst);
        async move {
            // Simulates a query, so that the loads of the two processes overlap.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok::<_, ()>(missing.into_iter().map(|key| (key, key * 10)))
        }
    };
    let up: Vec<u64> = (0..50).collect();
    let down: Vec<u64> = (0..50).rev().collect();
    let (a, b) = tokio::join!(
        one.get_many_or_load_async(&up, load),
        other.get_many_or_load_async(&down, load)
    );
    let expected: Vec<_> = (0..50).map(|key| Some(key * 10)).collect();
    assert_eq!(a.unwrap(), expected);
    assert_eq!(b.unwrap(), expected.into_iter().rev().collect::<Vec<_>>());
    assert_eq!(loaded.load(SeqCst), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn value_of_another_schema_is_a_miss_and_is_replaced() {
    let server = Server::start();
    let url = server.url();
    let old = proven::<u64>(&url, MINUTE).await;
    let new = proven::<String>(&url, MINUTE).await;
    old.insert(1, 10).await;
    assert_eq!(new.get(&1).await, None);
    assert_eq!(new.tier_stats().unreadable, 1);
    let load = |_| async { Ok::<_, ()>("ten".to_string()) };
    soon("the event arrives", || new.tier_stats().events == 1).await;
    let loaded = new.get_or_load_async(&1, load).await.unwrap();
    assert_eq!(loaded, "ten");
    assert_eq!(new.tier_stats().fills, 1);
}

/// A second lookup would start a new wait, with a new deadline.
#[test]
fn blocking_caller_is_not_looked_up_again_after_an_error_of_another_type() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let _within = runtime.enter();
    // The class `L1Only` needs no server to serve.
    let builder = builder::<u64>("redis://127.0.0.1:1", Consistency::L1Only);
    let tier = builder.build().unwrap();
    let cache = tier.blocking();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let failed = cache.get_or_load(&1, |_| {
                scope.spawn(|| assert_eq!(cache.get_or_load(&1, |_| Ok::<_, ()>(10)).unwrap(), 10));
                eventually("the other caller waits", || tier.stats().misses == 2);
                Err::<u64, _>("no connection")
            });
            assert!(failed.is_err());
        });
    });
    assert_eq!(tier.stats().misses, 2);
}

#[test]
fn blocking_cache_serves_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::start();
    let tier = {
        let _within = runtime.enter();
        builder::<u64>(&server.url(), Consistency::Realtime)
            .build()
            .unwrap()
    };
    let cache: Arc<dyn hotset::Cache<u64, u64>> = Arc::new(tier.blocking());
    let loads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let load = |key: &u64| {
                    loads.fetch_add(1, SeqCst);
                    // Simulates a query that takes long enough for all callers to arrive.
                    std::thread::sleep(Duration::from_millis(50));
                    Ok::<_, ()>(key * 10)
                };
                assert_eq!(cache.get_or_load(&1, load).unwrap(), 10);
            });
        }
    });
    assert_eq!(loads.load(SeqCst), 1);
    assert_eq!(cache.get(&1), Some(10));
    cache.invalidate(&1);
    assert_eq!(cache.get(&1), None);
    cache.insert(2, 20);
    assert_eq!(cache.get(&2), Some(20));
    let written = tier.blocking().write_through(2, 21, |new| {
        assert_eq!(*new, 21);
        Ok::<_, ()>(())
    });
    assert_eq!(written, Ok(Propagation::Acknowledged));
    assert_eq!(cache.get(&2), Some(21));
    cache.clear();
    assert_eq!(cache.get(&2), None);
}
