//! The same application code on each backend, which the configuration selects.

use crate::servers::{self, Server};
use crate::{DEADLINE, HEARTBEAT, MINUTE};
use hotset::{
    AsyncCache, Cache, CacheConfig, ConfiguredAsyncCache, ConfiguredCache, LocalCache, Propagation,
    SnapshotError, TieredCache,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use support::caches::wait_until_proven;

/// Returns the configuration of a service, with the server for any backend.
fn config(server: &Server, backend: &str) -> CacheConfig {
    let file = "capacity = 1000\ntime_to_live = '5m'\nnamespace = 'prices'\ndeadline = '30s'";
    let variables = [("PRICES_BACKEND", backend), ("PRICES_URL", &server.url())];
    let file = CacheConfig::from_toml(file).unwrap();
    file.override_from_vars("PRICES_", variables).unwrap()
}

/// The application, which is independent of the backend.
async fn serve(prices: &impl AsyncCache<u64, String>) -> u64 {
    let loads = AtomicU64::new(0);
    let load = |_| async {
        loads.fetch_add(1, SeqCst);
        Ok::<_, std::io::Error>("7 euros".to_string())
    };
    for _ in 0..3 {
        let price = prices.get_or_load_async(&7, load).await;
        assert_eq!(price.unwrap(), "7 euros");
    }
    prices.insert(8, "8 euros".to_string()).await;
    assert_eq!(prices.get(&8).await.as_deref(), Some("8 euros"));
    prices.invalidate(&8).await;
    assert_eq!(prices.get(&8).await, None);
    loads.load(SeqCst)
}

#[tokio::test]
async fn async_cache_code_runs_on_each_configured_backend() {
    for (backend, entries) in [("local", 0), ("redis", 1), ("tiered", 1)] {
        let server = Server::start();
        let config = config(&server, backend);
        let prices = config.build_async::<u64, String>().unwrap();
        assert_eq!(serve(&prices).await, 1, "{backend}");
        assert_eq!(server.entries("prices").len(), entries, "{backend}");

        // Another process finds the values in Redis.
        let other = config.build_async::<u64, String>().unwrap();
        assert_eq!(serve(&other).await, 1 - entries as u64, "{backend}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_cache_code_runs_on_each_configured_backend() {
    for backend in ["local", "redis", "tiered"] {
        let server = Server::start();
        let prices = config(&server, backend).build_blocking::<u64, u64>();
        let thread = std::thread::spawn(move || {
            let prices: Arc<dyn Cache<u64, u64>> = prices.unwrap().into();
            prices.insert(7, 700);
            prices.get(&7)
        });
        assert_eq!(thread.join().unwrap(), Some(700), "{backend}");
    }
}

#[tokio::test]
async fn backend_redis_stores_nothing_in_the_process() {
    let server = Server::start();
    for (backend, kept) in [("redis", 0), ("tiered", 1)] {
        let config = config(&server, backend);
        let local = config.local_builder().unwrap();
        let builder = config.tiered_builder(local).unwrap();
        let prices: TieredCache<u64, String> = builder.build().unwrap();
        wait_until_proven(&prices).await;
        serve(&prices).await;
        assert_eq!(prices.stats().entries, kept, "{backend}");
    }
}

#[tokio::test]
async fn backend_redis_needs_no_capacity_and_accepts_a_weight() {
    let server = Server::start();
    let mut config = config(&server, "redis");
    config.capacity = None;
    let prices = config.build_async::<u64, String>().unwrap();
    assert_eq!(serve(&prices).await, 1);
    prices.clear().await;
    let weighed = config.build_async_with::<u64, String>(|local| {
        local.max_weight(100).weigher(|_, price| price.len() as u64)
    });
    assert_eq!(serve(&weighed.unwrap()).await, 1);
}

/// The backend is changed by a restart with another configuration, the percentage without a restart.
#[tokio::test]
async fn settings_that_the_backend_redis_excludes_are_refused_before_it_is_built() {
    let server = Server::start();
    let settings = [
        ("PRICES_CONSISTENCY", "bounded 5s"),
        ("PRICES_READ_FROM_REPLICAS", "true"),
    ];
    let config = |backend| {
        let config = config(&server, backend);
        config.override_from_vars("PRICES_", settings).unwrap()
    };
    let builder = |config: CacheConfig| {
        let local = config.local_builder::<u64, u64>().unwrap();
        config.tiered_builder(local).map(drop)
    };
    builder(config("tiered")).unwrap();
    let error = builder(config("redis")).unwrap_err().to_string();
    assert!(error.contains("PRICES_READ_FROM_REPLICAS"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backend_changed_to_redis_and_back_under_load_causes_no_error() {
    let server = Server::start();
    for backend in ["local", "redis", "tiered"] {
        let config = config(&server, backend);
        let config = config.override_from_vars("PRICES_", [("PRICES_PERCENT", "0")]);
        let prices = config.unwrap().build_async::<u64, u64>().unwrap();
        let reads = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let (prices, reads, stop) = (prices.clone(), reads.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut key = task;
                    while !stop.load(SeqCst) {
                        key = (key + 7) % 500;
                        let load = |key| async move { Ok::<_, std::io::Error>(key * 100) };
                        let price = prices.get_or_load_async(&key, load).await.unwrap();
                        assert_eq!(price, key * 100);
                        if reads.fetch_add(1, SeqCst) % 50 == 0 {
                            prices.invalidate(&key).await;
                        }
                    }
                })
            })
            .collect();
        let mut stored = Vec::new();
        for percent in [0.0, 10.0, 50.0, 100.0, 0.0] {
            match prices.rollout() {
                Some(rollout) => rollout.set_percent(percent).unwrap(),
                None => assert_eq!(backend, "local"),
            }
            let from = reads.load(SeqCst);
            servers::soon("reads continue", || reads.load(SeqCst) > from + 1_000).await;
            stored.push(server.entries("prices").len());
        }
        stop.store(true, SeqCst);
        for task in tasks {
            task.await.unwrap();
        }
        let grows = stored[..4].windows(2).all(|pair| pair[0] < pair[1]);
        assert!(grows == (backend != "local"), "{backend}: {stored:?}");
        let () = server.command(&[b"FLUSHALL"]);
    }
}

/// Returns a tiered cache of at most `capacity` entries in L1.
fn unproven(url: &str, capacity: usize) -> TieredCache<u64, u64> {
    LocalCache::builder()
        .capacity(capacity)
        .redis(url, "prices")
        .consistency(MINUTE)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
        .build()
        .unwrap()
}

/// Returns the same, once invalidations are proven to arrive.
async fn tiered(url: &str, capacity: usize) -> TieredCache<u64, u64> {
    let cache = unproven(url, capacity);
    wait_until_proven(&cache).await;
    cache
}

#[tokio::test(flavor = "multi_thread")]
async fn tiered_cache_becomes_a_configured_cache() {
    let server = Server::start();
    let cache = tiered(&server.url(), 100).await;
    let tasks = ConfiguredAsyncCache::from(cache.clone());
    assert_eq!(tasks.insert(7, 700).await, Propagation::Acknowledged);
    let load = |id| async move { Ok::<_, std::io::Error>(id * 100) };
    tasks.get_or_load_async(&8, load).await.unwrap();
    assert_eq!(tasks.name(), Some("prices"));
    assert_eq!(tasks.tier_stats().unwrap().loads, 1);
    assert!(!tasks.health().unwrap().breaker_open);
    tasks.rollout().unwrap().set_percent(50.0).unwrap();
    assert_eq!(cache.health().percent.to_string(), "50");

    for threads in [
        ConfiguredCache::from(cache.clone()),
        ConfiguredCache::from(cache.blocking()),
    ] {
        assert_eq!(threads.name(), Some("prices"));
        assert_eq!(threads.tier_stats().unwrap().loads, 1);
        assert!(threads.health().is_some() && threads.rollout().is_some());
        let get = tokio::task::spawn_blocking(move || threads.get(&7));
        assert_eq!(get.await.unwrap(), Some(700));
    }
    assert_eq!(cache.blocking().tiered().health().percent.to_string(), "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_of_a_configured_cache_is_restored_from_redis() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices");
    let first = ConfiguredAsyncCache::from(tiered(&server.url(), 100).await);
    for id in 0..10 {
        first.insert(id, id * 100).await;
    }
    assert_eq!(first.snapshot(&path).await.unwrap().entries, 10);
    first.invalidate(&3).await;

    let second = ConfiguredAsyncCache::from(tiered(&server.url(), 100).await);
    let report = second.restore(&path).await.unwrap();
    assert_eq!((report.restored, report.expired), (9, 1));
    assert_eq!((report.did_not_fit, report.failed), (0, 0));
    assert_eq!(report.bytes, std::fs::metadata(&path).unwrap().len());
    assert_eq!(
        (second.get(&3).await, second.get(&4).await),
        (None, Some(400))
    );

    let blocking = ConfiguredCache::from(tiered(&server.url(), 4).await);
    let restored = tokio::task::spawn_blocking({
        let (blocking, path) = (blocking.clone(), path.clone());
        move || (blocking.restore(&path), blocking.snapshot(&path))
    });
    let (restored, written) = restored.await.unwrap();
    let report = restored.unwrap();
    let counts = (report.restored + report.expired, report.did_not_fit);
    assert_eq!((counts.0 + counts.1, report.failed), (10, 0));
    assert!(report.restored <= 4 && report.did_not_fit > 0, "{report:?}");
    assert_eq!(written.unwrap().entries, report.restored);

    let missing = second.restore(folder.path().join("missing")).await;
    assert!(matches!(missing, Err(SnapshotError::NotFound)));
    first.snapshot(&path).await.unwrap();
    let url = server.url();
    server.kill();
    let cut_off = ConfiguredAsyncCache::from(unproven(&url, 100));
    let report = cut_off.restore(&path).await.unwrap();
    assert_eq!((report.restored, report.failed), (0, 9));
}
