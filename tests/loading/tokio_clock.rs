//! `TokioClock` in a runtime whose clock is paused.

use crate::common::seconds;
use hotset::{Clock, LoadError, LocalCache, LocalCacheBuilder, TokioClock};
use std::future::{Ready, pending, ready};
use std::time::Duration;
use tokio::time::{Instant, advance, sleep};

type Cache = LocalCache<u32, u64>;

fn cache(set_up: impl FnOnce(LocalCacheBuilder<u32, u64>) -> LocalCacheBuilder<u32, u64>) -> Cache {
    let builder = LocalCache::builder().capacity(10).clock(TokioClock::new());
    set_up(builder).build().unwrap()
}

fn load(value: Result<u64, &'static str>) -> Ready<Result<u64, &'static str>> {
    ready(value)
}

#[tokio::test(start_paused = true)]
async fn entries_expire_in_the_time_of_tokio() {
    let cache = cache(|builder| {
        builder
            .time_to_live(seconds(3_600))
            .time_to_idle(seconds(600))
    });
    cache.insert(1, 10);
    sleep(seconds(599)).await;
    assert_eq!(cache.get(&1), Some(10));
    sleep(seconds(599)).await;
    assert_eq!(cache.remaining_ttl(&1), Some(seconds(1)));
    advance(seconds(1)).await;
    assert_eq!(cache.get(&1), None);
    cache.insert_with_ttl(2, 20, Duration::from_millis(1));
    advance(Duration::from_millis(1)).await;
    assert_eq!(cache.get(&2), None);
}

#[tokio::test(start_paused = true)]
async fn refreshes_and_stale_values_follow_the_time_of_tokio() {
    let cache = cache(|builder| {
        builder
            .time_to_live(seconds(100))
            .refresh_after(seconds(50))
            .stale_if_error(seconds(10))
    });
    cache.insert(1, 10);
    let get = async |value| cache.get_or_load_async(&1, |_| load(value)).await;
    assert_eq!(get(Ok(20)).await.unwrap(), 10);
    sleep(seconds(50)).await;
    assert_eq!(get(Ok(20)).await.unwrap(), 20);
    sleep(seconds(105)).await;
    assert_eq!(get(Err("no")).await.unwrap(), 20);
    assert_eq!(get(Ok(30)).await.unwrap(), 20);
    sleep(seconds(1)).await;
    assert_eq!(get(Ok(30)).await.unwrap(), 30);
}

#[tokio::test(start_paused = true)]
async fn lease_and_wait_timeout_follow_the_time_of_tokio() {
    let cache = cache(|builder| builder.lease(seconds(7)).wait_timeout(seconds(4)));
    let hanging = tokio::spawn({
        let cache = cache.clone();
        async move {
            let load = |_| pending::<Result<u64, &str>>();
            cache.get_or_load_async(&1, load).await
        }
    });
    tokio::task::yield_now().await;
    let start = Instant::now();
    let result = cache.get_or_load_async(&1, |_| load(Ok(1))).await;
    assert!(matches!(result, Err(LoadError::WaitTimeout)), "{result:?}");
    assert_eq!(start.elapsed().as_secs(), 4);
    let taken_over = cache.get_or_load_async(&1, |_| load(Ok(1))).await;
    assert_eq!(taken_over.unwrap(), 1);
    assert_eq!(start.elapsed().as_secs(), 7);
    assert_eq!(cache.stats().abandoned_loads, 1);
    hanging.abort();
}

#[tokio::test(start_paused = true)]
async fn load_times_are_measured_in_the_time_of_tokio() {
    let cache = cache(|builder| builder);
    let load = |_| async {
        sleep(seconds(30)).await;
        Ok::<_, &str>(1)
    };
    cache.get_or_load_async(&1, load).await.unwrap();
    let stats = cache.stats();
    assert_eq!(stats.load_times.count(), 1);
    assert_eq!(stats.load_times.total().as_secs(), 30);
}

#[test]
fn clock_advances_outside_of_a_runtime() {
    let clock = TokioClock::default();
    let start = clock.now();
    crate::common::until(|| clock.now() > start);
}

#[test]
fn cache_built_outside_of_a_runtime_follows_a_paused_one() {
    let cache = cache(|builder| builder.time_to_live(seconds(100)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        cache.insert(1, 10);
        sleep(seconds(99)).await;
        assert_eq!(cache.get(&1), Some(10));
        sleep(seconds(1)).await;
        assert_eq!(cache.get(&1), None);
    });
}
