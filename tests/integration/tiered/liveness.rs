//! Futures that are not polled and loaders that hang, over Redis.

use super::servers::{Server, in_time, soon, with_growing_time};
use super::{DEADLINE, HEARTBEAT, LONG_LEASE, MINUTE, builder_with, fails, value};
use futures_util::{StreamExt, stream};
use hotset::{Consistency, LocalCache, LocalCacheBuilder, TieredCache};
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use support::caches::wait_until_proven;
use tokio::task::JoinHandle;

/// A lease whose end tests wait for.
const LEASE: Duration = Duration::from_millis(200);

async fn cache_with(
    server: &Server,
    consistency: Consistency,
    set_up: impl FnOnce(LocalCacheBuilder<u64, u64>) -> LocalCacheBuilder<u64, u64>,
) -> TieredCache<u64, u64> {
    let cache = set_up(LocalCache::builder().capacity(10_000).lease(LEASE))
        .redis(server.url(), "test")
        .consistency(consistency)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    cache
}

fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

/// A loader that hangs.
async fn hang(_: u64) -> Result<u64, &'static str> {
    pending().await
}

/// The stream keeps more loads in flight than there are permits by default.
#[tokio::test(flavor = "multi_thread")]
async fn buffered_stream_whose_body_asks_the_cache_ends_and_other_tasks_go_on() {
    let server = Server::start();
    for consistency in [Consistency::Realtime, MINUTE, Consistency::L2Only] {
        let cache = cache_with(&server, consistency, |local| local).await;
        let others = cache.clone();
        let others = tokio::spawn(async move {
            for key in 10_000..10_300 {
                let got = others.get_or_load_async(&key, value).await;
                assert_eq!(got.unwrap(), key);
            }
        });
        let rows = async {
            let keys: Vec<u64> = (0..300).collect();
            let rows = stream::iter(&keys).map(|key| {
                let cache = &cache;
                async move { cache.get_or_load_async(key, value).await }
            });
            let mut rows = pin!(rows.buffered(100));
            let mut count = 0;
            while let Some(row) = rows.next().await {
                let key = row.unwrap() + 1_000;
                let body = async { cache.get_or_load_async(&key, value).await };
                assert_eq!(body.await.unwrap(), key);
                count += 1;
            }
            count
        };
        assert_eq!(in_time(rows).await, 300);
        in_time(others).await.unwrap();
        cache.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_loader_of_one_key_leaves_permits_to_other_keys() {
    let server = Server::start();
    for consistency in [Consistency::Realtime, Consistency::L1Only] {
        let cache = cache_with(&server, consistency, |local| local.max_concurrent_loads(2)).await;
        let callers: Vec<_> = (0..10)
            .map(|_| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.get_or_load_async(&0, hang).await })
            })
            .collect();
        for key in 1.. {
            let got = in_time(cache.get_or_load_async(&key, value)).await;
            assert_eq!(got.unwrap(), key);
            if cache.tier_stats().abandoned_loads > 2 {
                break;
            }
        }
        assert!(cache.health().overdue_loads > 0);
        for caller in callers {
            caller.abort();
        }
        soon("the loads end", || cache.health().overdue_loads == 0).await;
        cache.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn permit_offered_to_an_unpolled_future_passes_to_other_callers() {
    with_growing_time(LEASE, permit_passes_an_unpolled_future).await;
}

/// Returns `false` if the lease of the holder has ended before all other calls were in the queue.
async fn permit_passes_an_unpolled_future(lease: Duration) -> bool {
    let server = Server::start();
    let one_permit = |local: LocalCacheBuilder<_, _>| local.lease(lease).max_concurrent_loads(1);
    let cache = cache_with(&server, MINUTE, one_permit).await;
    let holder = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_load_async(&1, hang).await }
    });
    soon("it loads", || cache.tier_stats().loads == 1).await;
    let keys = [2, 3, 4];
    let mut unpolled: Vec<_> = keys
        .iter()
        .map(|key| Box::pin(cache.get_or_load_async(key, value)))
        .collect();
    let mut batch = Box::pin(cache.get_many_or_load_async(&[5, 6], pairs));
    let mut are_pending = true;
    soon("all calls are in the queue", || {
        are_pending = unpolled.iter_mut().all(|future| poll(future).is_pending())
            && poll(&mut batch).is_pending();
        !are_pending || cache.tier_stats().queued_loads == 4
    })
    .await;
    if !are_pending {
        assert!(cache.tier_stats().abandoned_loads > 0);
        return false;
    }
    holder.abort();
    for key in [2, 3, 4, 7] {
        let got = in_time(cache.get_or_load_async(&key, value)).await;
        assert_eq!(got.unwrap(), key);
    }
    let found = in_time(cache.get_many_or_load_async(&[5, 6], pairs)).await;
    assert_eq!(found.unwrap(), [Some(105), Some(106)]);
    for (key, future) in keys.into_iter().zip(unpolled) {
        assert_eq!(in_time(future).await.unwrap(), key);
    }
    assert_eq!(in_time(batch).await.unwrap(), [Some(105), Some(106)]);
    true
}

/// Caches values of keys 1 and 2, and waits until they have expired.
async fn leave_expired(cache: &TieredCache<u64, u64>) {
    for key in [1, 2] {
        let got = cache.get_or_load_async(&key, value).await;
        assert_eq!(got.unwrap(), key);
    }
    while cache.get(&1).await.is_some() || cache.get(&2).await.is_some() {
        // The values expire by the system clock, which only lookups can show.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a load of `key` that never ends.
async fn begin_hanging(cache: &TieredCache<u64, u64>, key: u64) -> JoinHandle<()> {
    let loads = cache.tier_stats().loads;
    let hanging = tokio::spawn({
        let cache = cache.clone();
        async move { drop(cache.get_or_load_async(&key, hang).await) }
    });
    soon("it loads", || cache.tier_stats().loads > loads).await;
    hanging
}

/// Sets one permit for loads, a short time to live, and a short wait after which an expired value is served.
fn with_one_permit_and_stale_values(
    local: LocalCacheBuilder<u64, u64>,
) -> LocalCacheBuilder<u64, u64> {
    local
        .lease(LONG_LEASE)
        .max_concurrent_loads(1)
        .time_to_live(Duration::from_millis(300))
        .stale_if_error(Duration::from_secs(600))
        .stale_if_slow(Duration::from_millis(20))
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_for_a_hanging_database_get_the_expired_value() {
    let server = Server::start();
    for consistency in [Consistency::Realtime, MINUTE] {
        let one = cache_with(&server, consistency, with_one_permit_and_stale_values).await;
        let other = cache_with(&server, consistency, with_one_permit_and_stale_values).await;
        leave_expired(&one).await;
        leave_expired(&other).await;
        let hanging = begin_hanging(&one, 1).await;
        // A waiter in the process that loads, a caller that finds no permit, and one that waits for the other process.
        assert_eq!(in_time(one.get_or_load_async(&1, fails)).await.unwrap(), 1);
        assert_eq!(in_time(one.get_or_load_async(&2, fails)).await.unwrap(), 2);
        assert_eq!(
            in_time(other.get_or_load_async(&1, fails)).await.unwrap(),
            1
        );
        assert_eq!((one.stats().stale, other.stats().stale), (2, 1));
        hanging.abort();
        one.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_that_finds_no_permit_in_shadow_mode_gets_the_expired_value() {
    let server = Server::start();
    let cache = cache_with(&server, MINUTE, with_one_permit_and_stale_values).await;
    leave_expired(&cache).await;
    cache.rollout().set_shadow(true);
    let hanging = begin_hanging(&cache, 1).await;
    let got = in_time(cache.get_or_load_async(&2, fails)).await;
    assert_eq!(got.unwrap(), 2);
    hanging.abort();
}

/// A bound that has passed when a value arrives in L1, whatever the machine's speed.
const SHORTEST_BOUND: Consistency = Consistency::Bounded(Duration::from_nanos(1));

#[tokio::test(flavor = "multi_thread")]
async fn value_that_expires_on_its_way_to_l1_is_kept_only_with_stale_if_error() {
    let server = Server::start();
    for stale_if_error in [true, false] {
        let cache = cache_with(&server, SHORTEST_BOUND, |local| {
            let local = local.time_to_live(Duration::from_millis(100));
            if stale_if_error {
                local.stale_if_error(Duration::from_secs(600))
            } else {
                local
            }
        })
        .await;
        let loaded = cache.get_or_load_async(&1, value).await;
        assert_eq!(loaded.unwrap(), 1);
        assert_eq!(cache.stats().entries, u64::from(stale_if_error));
        soon("Redis has no entry", || server.entries("test").is_empty()).await;
        let served = cache.get_or_load_async(&1, fails).await;
        assert_eq!(served.ok(), stale_if_error.then_some(1));
    }
}

type SetUp = fn(LocalCacheBuilder<u64, u64>) -> LocalCacheBuilder<u64, u64>;

const STALE_IF_SLOW: SetUp = |local| local.stale_if_slow(Duration::from_millis(20));

/// Returns a cache with expired values of keys 1 and 2, while another process loads key 1 and never ends. The second
/// result keeps that process alive.
async fn batch_beside_a_hanging_process(set_up: SetUp) -> (TieredCache<u64, u64>, impl Sized) {
    let server = Server::start();
    let set_up = |local: LocalCacheBuilder<u64, u64>| {
        let local = local.lease(LONG_LEASE);
        set_up(
            local
                .max_concurrent_loads(1)
                .time_to_live(Duration::from_millis(300))
                .stale_if_error(Duration::from_secs(600)),
        )
    };
    let one = cache_with(&server, MINUTE, &set_up).await;
    let other = cache_with(&server, MINUTE, &set_up).await;
    leave_expired(&other).await;
    let hanging = begin_hanging(&one, 1).await;
    (other, (server, one, hanging))
}

/// Loads several keys.
async fn pairs(keys: Vec<u64>) -> Result<Vec<(u64, u64)>, &'static str> {
    Ok(keys.into_iter().map(|key| (key, key + 100)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_that_waits_for_another_process_gets_the_expired_value_after_either_time() {
    let wait_timeout: SetUp = |local| local.wait_timeout(Duration::from_millis(150));
    for set_up in [wait_timeout, STALE_IF_SLOW] {
        let (cache, _others) = batch_beside_a_hanging_process(set_up).await;
        let batch = cache.get_many_or_load_async(&[1, 2], pairs);
        let found = in_time(batch).await.unwrap();
        // On a busy machine, the time may also have passed before key 2 is loaded.
        assert!(found[0] == Some(1) && [Some(2), Some(102)].contains(&found[1]));
        assert!(cache.stats().stale >= 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_that_finds_no_permit_gets_the_expired_values_if_that_takes_long() {
    let (cache, _others) = batch_beside_a_hanging_process(STALE_IF_SLOW).await;
    let holder = begin_hanging(&cache, 3).await;
    let batch = cache.get_many_or_load_async(&[2], pairs);
    assert_eq!(in_time(batch).await.unwrap(), [Some(2)]);
    holder.abort();
}

/// The unpolled reads have sent commands to Redis, as many as may be in flight.
#[tokio::test(flavor = "multi_thread")]
async fn unpolled_reads_do_not_keep_others_from_redis() {
    let server = Server::start();
    let writer = cache_with(&server, MINUTE, |local| local).await;
    let keys: Vec<u64> = (0..320).collect();
    for key in &keys {
        let stored = writer.get_or_load_async(key, value).await;
        assert_eq!(stored.unwrap(), *key);
    }
    // An unpolled read keeps its place until its deadline, within which a polled one has to succeed.
    with_growing_time(Duration::from_secs(2), async |deadline| {
        let long = |local: LocalCacheBuilder<u64, u64>| local.lease(LONG_LEASE);
        let cache = builder_with(&server.url(), Consistency::L2Only, long);
        let cache = cache.deadline(deadline).build().unwrap();
        wait_until_proven(&cache).await;
        let mut unpolled: Vec<_> = keys[..300]
            .iter()
            .map(|key| (*key, Box::pin(cache.get_or_load_async(key, fails))))
            .collect();
        // On a busy machine a reply may arrive while its command is sent.
        unpolled.retain_mut(|(_, future)| poll(future).is_pending());
        let mut found = Vec::new();
        for key in &keys[300..] {
            found.push((
                *key,
                in_time(cache.get_or_load_async(key, fails)).await.ok(),
            ));
        }
        for (key, future) in unpolled {
            found.push((key, in_time(future).await.ok()));
        }
        let is_served = found.iter().all(|(key, found)| *found == Some(*key));
        is_served && !cache.health().breaker_open && cache.tier_stats().l2_failures == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_nobody_polls_delay_no_other_reads() {
    let server = Server::start();
    let cache = cache_with(&server, Consistency::L2Only, |local| local).await;
    cache.insert(1, 10).await;
    let keys: Vec<u64> = (0..100).collect();
    let reads = keys.iter().map(|key| (*key, Box::pin(cache.get(key))));
    let mut unpolled: Vec<_> = reads.collect();
    // On a busy machine a reply may arrive while its command is sent.
    unpolled.retain_mut(|(_, read)| poll(read).is_pending());
    for _ in 0..100 {
        assert_eq!(in_time(cache.get(&1)).await, Some(10));
    }
    // Half of the reads are dropped while they are in flight.
    drop(unpolled.split_off(unpolled.len() / 2));
    for (key, read) in unpolled {
        assert_eq!(in_time(read).await, (key == 1).then_some(10));
    }
}
