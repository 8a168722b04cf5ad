//! Statistics of a tiered cache, and the ages of its values.

use super::history::CLOCK_RESOLUTION;
use super::servers::{Server, soon};
use super::{DEADLINE, HEARTBEAT, MINUTE, builder, fails, proven, set_time_left, value};
use hotset::{Consistency, TieredCache};
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_loads_of_the_loader_and_calls_by_operation() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    assert!(cache.get_or_load_async(&2, fails).await.is_err());
    // The value is found in Redis, which is a load for L1 but not for the loader.
    other.get_or_load_async(&1, fails).await.unwrap();
    other.invalidate(&1).await;
    // The call of the acknowledgement may end after the other process has received it.
    soon("the acknowledgement is counted", || {
        cache.tier_stats().calls.acknowledge.times.count() == 1
    })
    .await;
    let (mine, others) = (cache.tier_stats(), other.tier_stats());
    assert_eq!((mine.loads, mine.load_failures), (2, 1));
    assert_eq!(mine.load_times.count(), 2);
    assert_eq!((others.loads, other.stats().loads), (0, 1));
    let calls = &mine.calls;
    assert_eq!((calls.lookup.times.count(), calls.lookup.failures), (2, 0));
    assert!(calls.fill.times.count() >= 1, "{calls:?}");
    assert!(calls.renew.times.count() >= 1, "{calls:?}");
    assert_eq!(others.calls.invalidate.times.count(), 1);
    let sum = calls.iter().map(|(_, calls)| calls.failures).sum::<u64>();
    assert_eq!((mine.l2_failures, sum), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_counts_one_hit_or_miss_in_each_tier_that_it_reaches() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let counts = || {
        let (l1, l2) = (cache.stats(), cache.tier_stats());
        (l1.hits, l1.misses, l2.l2_hits, l2.l2_misses)
    };
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    assert_eq!(counts(), (0, 1, 0, 1));
    cache.get_or_load_async(&1, fails).await.unwrap();
    assert_eq!(counts(), (1, 1, 0, 1));
    assert_eq!((cache.get(&1).await, cache.get(&2).await), (Some(10), None));
    assert_eq!(counts(), (2, 2, 0, 2));
    let load = |keys: Vec<u64>| async move {
        let pairs = keys.into_iter().map(|key| (key, key));
        Ok::<_, ()>(pairs.collect::<Vec<_>>())
    };
    let batch = cache.get_many_or_load_async(&[1, 3, 4], load).await;
    assert_eq!(batch.unwrap(), [Some(10), Some(3), Some(4)]);
    assert_eq!(counts(), (3, 4, 0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_load_is_not_filled_and_value_not_stored_in_l1_is_not_counted_as_refused() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::L2Only).await;
    for key in 0..10 {
        cache.get_or_load_async(&key, |_| value(10)).await.unwrap();
    }
    assert_eq!(cache.stats().refused, 0);
    assert_eq!(cache.tier_stats().fills, 10);
    for key in 10..20 {
        assert!(cache.get_or_load_async(&key, fails).await.is_err());
    }
    let is_released = || cache.tier_stats().calls.release.times.count() > 0;
    soon("the lease is released", is_released).await;
    assert_eq!(cache.tier_stats().calls.fill.times.count(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_for_a_permit_does_not_count_as_age_of_the_value() {
    let server = Server::start();
    let cache = cache_with_one_permit(&server);
    wait_until_proven(&cache).await;
    let slow = cache.clone();
    let slow = tokio::spawn(async move {
        let ended = parking_lot::Mutex::new(None);
        let load = |_| async {
            // Simulates a query that keeps the only permit.
            tokio::time::sleep(Duration::from_secs(2)).await;
            *ended.lock() = Some(Instant::now());
            value(10).await
        };
        slow.get_or_load_async(&1, load).await.unwrap();
        ended.into_inner().unwrap()
    });
    soon("the loader runs", || cache.tier_stats().loads == 1).await;
    cache.get_or_load_async(&2, |_| value(10)).await.unwrap();
    let permit_free_since = slow.await.unwrap();
    let age = tokio::task::spawn_blocking(move || mean_age(&cache, 2)).await;
    let (age, most) = (age.unwrap(), permit_free_since.elapsed() + CLOCK_RESOLUTION);
    assert!(age <= most, "{age:?} > {most:?}");
}

/// Returns a cache with one permit for loads.
fn cache_with_one_permit(server: &Server) -> TieredCache<u64, u64> {
    hotset::LocalCache::builder()
        .capacity(100)
        .track_ages(true)
        .max_concurrent_loads(1)
        .redis(server.url(), "test")
        .consistency(MINUTE)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_cache_detects_an_outage() {
    let mut server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    server.kill();
    soon("the breaker opens", || cache.health().breaker_open).await;
    server.restart();
    soon("the breaker closes", || !cache.health().breaker_open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_loader_counts_as_failed() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), MINUTE).await;
    let begun = Semaphore::new(0);
    let load = |_| async {
        begun.add_permits(1);
        std::future::pending::<Result<u64, ()>>().await
    };
    tokio::select! {
        _ = cache.get_or_load_async(&1, load) => unreachable!("the loader hangs"),
        () = async {
            begun.acquire().await.unwrap().forget();
            // The time that the load takes until it is dropped.
            tokio::time::sleep(Duration::from_millis(150)).await;
        } => {}
    }
    let stats = cache.tier_stats();
    assert_eq!((stats.loads, stats.load_failures), (1, 1));
    assert!(stats.load_times.total() >= Duration::from_millis(100));
}

/// Returns the mean age of the values of hits in L1.
fn mean_age(cache: &TieredCache<u64, u64>, key: u64) -> Duration {
    let runtime = tokio::runtime::Handle::current();
    for _ in 0..6_400 {
        let hit = runtime.block_on(cache.get_or_load_async(&key, fails));
        assert_eq!(hit.unwrap(), 10);
    }
    let ages = cache.stats().ages;
    assert!(ages.count() > 90, "{ages:?}");
    ages.mean()
}

fn tracking(server: &Server) -> TieredCache<u64, u64> {
    hotset::LocalCache::builder()
        .capacity(100)
        .track_ages(true)
        .time_to_live(Duration::from_secs(300))
        .redis(server.url(), "test")
        .consistency(MINUTE)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn value_from_redis_keeps_its_age() {
    let begun = Instant::now();
    let server = Server::start();
    let first = tracking(&server);
    wait_until_proven(&first).await;
    first.get_or_load_async(&1, |_| value(10)).await.unwrap();
    // Shortens the remaining time to live by a minute, as if the value had been stored a minute before.
    set_time_left(&server, Duration::from_secs(240));
    let second = tracking(&server);
    wait_until_proven(&second).await;
    second.get_or_load_async(&1, fails).await.unwrap();
    let (young, old) =
        tokio::task::spawn_blocking(move || (mean_age(&first, 1), mean_age(&second, 1)))
            .await
            .unwrap();
    let (minute, most) = (Duration::from_secs(60), begun.elapsed() + CLOCK_RESOLUTION);
    assert!(young < most, "{young:?}");
    assert!(
        (minute..minute + most + CLOCK_RESOLUTION).contains(&(old + CLOCK_RESOLUTION)),
        "{old:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn name_of_a_tiered_cache_is_that_of_l1_or_the_namespace() {
    let url = "redis://127.0.0.1:1/";
    let cache = builder::<u64>(url, MINUTE).build().unwrap();
    assert_eq!(cache.name(), "test");
    let named = hotset::LocalCache::<u64, u64>::builder().capacity(1);
    let named = named.name("prices").redis(url, "test").build().unwrap();
    assert_eq!(named.name(), "prices");
}

#[tokio::test(flavor = "multi_thread")]
async fn published_metrics_are_the_documented_ones_and_show_an_outage() {
    use hotset::Metrics;
    use metrics_exporter_prometheus::PrometheusBuilder;

    let mut server = Server::start();
    let cache = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let metrics = Metrics::new();
    metrics.watch(&cache).unwrap();
    let ours = metrics_exporter_prometheus::Matcher::Prefix("hotset_".into());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(ours, Metrics::BUCKETS);
    let recorder = recorder.unwrap().build_recorder();
    let scrape = || {
        metrics::with_local_recorder(&recorder, || metrics.publish());
        recorder.handle().render()
    };
    let has = |line: &str| {
        let scraped = scrape();
        assert!(scraped.contains(line), "{line}\n{scraped}");
    };
    for row in include_str!("../../../src/metrics/table.md")
        .lines()
        .skip(2)
    {
        let name = row.split('`').nth(1).unwrap();
        has(&format!("\n# TYPE {name} "));
    }
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    has("\nhotset_loads_total{cache=\"test\"} 1\n");
    has("\nhotset_misses_total{cache=\"test\",tier=\"l2\"} 1\n");
    has("\nhotset_l2_fills_total{cache=\"test\",result=\"stored\"} 1\n");
    has("\nhotset_breaker_open{cache=\"test\"} 0\n");
    has("\nhotset_backplane_proven{cache=\"test\"} 1\n");
    server.kill();
    soon("the breaker opens", || cache.health().breaker_open).await;
    has("\nhotset_breaker_open{cache=\"test\"} 1\n");
    soon("not proven", || cache.health().proven_for.is_none()).await;
    has("\nhotset_backplane_proven{cache=\"test\"} 0\n");
    has("\nhotset_backplane_proven_seconds{cache=\"test\"} 0\n");
    cache.invalidate(&1).await;
    has("\nhotset_invalidations_total{cache=\"test\",result=\"deferred\"} 1\n");
    has("\nhotset_invalidations_queued{cache=\"test\"} 1\n");
}
