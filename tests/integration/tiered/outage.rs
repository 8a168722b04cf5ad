//! Outages of Redis: down, slow, restarted empty, or restarted with an older state.

use super::servers::{Cut, Proxy, Server, in_time, soon};
use super::{
    DEADLINE, MINUTE, SHORT_DEADLINE, SHORT_HEARTBEAT, acknowledged, builder, fails, proven, value,
};
use hotset::{Consistency, Loaded, LocalCache, Propagation, RemoteError, TieredCache};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::caches::wait_until_proven;

#[tokio::test(flavor = "multi_thread")]
async fn cache_built_without_redis_works_and_recovers_when_redis_starts() {
    let mut server = Server::start();
    server.kill();
    let cache = builder::<u64>(&server.url(), Consistency::Realtime)
        .build()
        .unwrap();
    assert_eq!(
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    soon("the breaker opens", || cache.health().breaker_open).await;
    let health = cache.health();
    assert!(health.last_error.is_some() && health.proven_for.is_none());
    server.restart();
    wait_until_proven(&cache).await;
    let health = cache.health();
    assert!(
        !health.breaker_open && health.last_error.is_none(),
        "{health:?}"
    );
    assert_eq!(
        cache.get_or_load_async(&1, |_| value(11)).await.unwrap(),
        11
    );
    assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), 11);
    assert_eq!(server.entries("test").len(), 1);
}

/// Calls a read without a pause until another task of the same thread has run.
async fn until_another_task_runs<T>(read: impl AsyncFn() -> T) {
    let (another, ran) = tokio::sync::oneshot::channel();
    tokio::spawn(async move { another.send(()) });
    let mut ran = ran;
    for _ in 0..1_000_000 {
        read().await;
        if ran.try_recv().is_ok() {
            return;
        }
    }
    panic!("the reads leave no time for other tasks");
}

#[tokio::test]
async fn reads_in_a_loop_let_other_tasks_run_while_redis_is_not_asked() {
    for class in [
        Consistency::Realtime,
        Consistency::L2Only,
        Consistency::L1Only,
    ] {
        let mut server = Server::start();
        let cache = proven::<u64>(&server.url(), class).await;
        server.kill();
        if class != Consistency::L1Only {
            let is_open = || cache.health().breaker_open;
            while !is_open() {
                cache.get(&1).await;
            }
        }
        until_another_task_runs(async || cache.get(&1).await).await;
        until_another_task_runs(async || cache.get_many(&[1, 2]).await).await;
        until_another_task_runs(async || cache.contains_key(&1).await).await;
        // Loaders that have their value at once.
        let load = async |_| Ok::<_, &str>(Loaded::uncached(1));
        until_another_task_runs(async || cache.get_or_load_entry_async(&1, load).await).await;
        let load = async |_| Ok::<_, &str>([(1, Loaded::uncached(1))]);
        until_another_task_runs(async || cache.get_many_or_load_entries_async(&[1, 2], load).await)
            .await;
        until_another_task_runs(async || cache.refresh_async(&1, value).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_under_load_fails_no_read_and_keeps_the_bound_on_concurrent_loads() {
    const MAX_LOADS: usize = 8;
    for consistency in [Consistency::Realtime, MINUTE, Consistency::L2Only] {
        let mut server = Server::start();
        let cache: TieredCache<u64, u64> = LocalCache::builder()
            .capacity(100)
            .max_concurrent_loads(MAX_LOADS)
            .redis(server.url(), "test")
            .consistency(consistency)
            .heartbeat(SHORT_HEARTBEAT)
            .build()
            .unwrap();
        wait_until_proven(&cache).await;
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let reader = |seed: u64| {
            let (cache, running, most, answered) = (&cache, &running, &most, &answered);
            let stop = &stop;
            async move {
                let mut key = seed;
                while !stop.load(SeqCst) {
                    key = key
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(seed | 1);
                    let wanted = (key >> 33) % 5_000;
                    let load = |key| async move {
                        most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                        // Simulates a query, so that loads run at the same time.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        running.fetch_sub(1, SeqCst);
                        Ok::<_, ()>(key)
                    };
                    let got = cache.get_or_load_async(&wanted, load).await;
                    assert_eq!(got.unwrap(), wanted);
                    answered.fetch_add(1, SeqCst);
                }
            }
        };
        let readers = futures_util::future::join_all((0..64).map(reader));
        let reads_continue = || async {
            let before = answered.load(SeqCst);
            soon("reads are answered", || {
                answered.load(SeqCst) >= before + 500
            })
            .await;
        };
        let faults = async {
            reads_continue().await;
            server.kill();
            reads_continue().await;
            soon("the breaker opens", || cache.health().breaker_open).await;
            reads_continue().await;
            server.restart();
            wait_until_proven(&cache).await;
            reads_continue().await;
            stop.store(true, SeqCst);
        };
        tokio::join!(readers, faults);
        let most = most.load(SeqCst);
        assert!(most <= MAX_LOADS, "{most} at one time, {consistency:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_server_costs_one_deadline_and_then_nothing() {
    let server = Server::start();
    let cache = builder::<u64>(&server.url(), MINUTE)
        .heartbeat(SHORT_HEARTBEAT)
        .deadline(SHORT_DEADLINE)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    let calls = || {
        let calls = cache.tier_stats().calls;
        calls.lookup.times.count() + calls.fill.times.count() + calls.release.times.count()
    };
    server.pause();
    let loads = cache.get_or_load_async(&1, |_| value(10));
    assert_eq!(in_time(loads).await.unwrap(), 10);
    assert!(cache.tier_stats().calls.lookup.failures > 0);
    soon("the breaker opens", || cache.health().breaker_open).await;
    let before = calls();
    for key in 0..200 {
        cache.get_or_load_async(&key, |_| value(10)).await.unwrap();
    }
    // A few calls that began before the breaker opened may have ended meanwhile.
    assert!(calls() < before + 20, "reads call Redis");
    assert!(matches!(
        cache.health().last_error,
        Some(RemoteError::Timeout)
    ));
    server.resume();
    wait_until_proven(&cache).await;
    assert!(!cache.health().breaker_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_invalidation_is_sent_later_and_no_old_value_is_read_meanwhile() {
    for consistency in [Consistency::Realtime, MINUTE, Consistency::L2Only] {
        let server = Server::start();
        let proxy = Proxy::start(server.address()).await;
        let cut_off = builder::<u64>(&proxy.url(), consistency)
            .heartbeat(SHORT_HEARTBEAT)
            .deadline(SHORT_DEADLINE)
            .build()
            .unwrap();
        let other = proven::<u64>(&server.url(), consistency).await;
        wait_until_proven(&cut_off).await;
        for cache in [&cut_off, &other] {
            cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
        }
        proxy.cut(Cut::All);
        let database = AtomicU64::new(10);
        let write = |new| {
            database.store(new, SeqCst);
            async { Ok::<_, ()>(()) }
        };
        let written = cut_off.write_through(1, 11, write).await;
        assert_eq!(written, Ok(Propagation::Queued), "{consistency:?}");
        assert_eq!(cut_off.health().queued, 1);
        let load = |_| value(database.load(SeqCst));
        for _ in 0..3 {
            let seen = cut_off.get_or_load_async(&1, load).await.unwrap();
            assert_eq!(seen, 11, "{consistency:?}");
        }
        proxy.mend();
        soon("the queue is empty", || cut_off.health().queued == 0).await;
        soon("the event arrives", || other.tier_stats().events == 1).await;
        for cache in [&cut_off, &other] {
            let seen = cache.get_or_load_async(&1, load).await.unwrap();
            assert_eq!(seen, 11, "{consistency:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_queue_becomes_one_invalidation_of_everything() {
    let server = Server::start();
    let proxy = Proxy::start(server.address()).await;
    let cut_off = builder::<u64>(&proxy.url(), MINUTE)
        .heartbeat(SHORT_HEARTBEAT)
        .deadline(SHORT_DEADLINE)
        .max_queued_invalidations(10)
        .build()
        .unwrap();
    let other = proven::<u64>(&server.url(), MINUTE).await;
    wait_until_proven(&cut_off).await;
    other.get_or_load_async(&99, |_| value(10)).await.unwrap();
    proxy.reset();
    for key in 0..20 {
        assert_eq!(cut_off.invalidate(&key).await, Propagation::Queued);
    }
    assert_eq!(cut_off.health().queued, 1);
    assert!(cut_off.tier_stats().overflows >= 1);
    proxy.mend();
    soon("the event arrives", || other.tier_stats().events == 1).await;
    assert_eq!(other.get(&99).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarted_empty_serves_no_old_value() {
    let mut server = Server::start();
    let one = proven::<u64>(&server.url(), Consistency::Realtime).await;
    let other = proven::<u64>(&server.url(), Consistency::Realtime).await;
    for cache in [&one, &other] {
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    }
    server.restart();
    // The first acknowledged change is visible to all.
    acknowledged(&one, 1).await;
    for cache in [&one, &other] {
        let seen = cache.get_or_load_async(&1, |_| value(11)).await.unwrap();
        assert_eq!(seen, 11);
    }
    for cache in [&one, &other] {
        wait_until_proven(cache).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarted_with_an_older_state_serves_no_old_value() {
    let mut server = Server::start_with(&["--dbfilename", "older.rdb"]);
    let one = proven::<u64>(&server.url(), Consistency::L2Only).await;
    one.get_or_load_async(&1, |_| value(10)).await.unwrap();
    let _: String = server.command(&[b"SAVE"]);
    assert_eq!(
        one.write_through(1, 11, |_| value(())).await,
        Ok(Propagation::Acknowledged)
    );
    // The server is killed, so that it does not save later changes.
    server.restart();
    assert_eq!(server.entries("test").len(), 1);
    soon("the breaker closes", || !one.health().breaker_open).await;
    wait_until_proven(&one).await;
    assert_eq!(one.get(&1).await, None);
    assert_eq!(one.get_or_load_async(&1, |_| value(11)).await.unwrap(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_works_after_its_state_was_evicted_or_its_scripts_were_flushed() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), Consistency::Realtime).await;
    one.get_or_load_async(&1, |_| value(10)).await.unwrap();
    for command in [
        &[b"DEL".as_slice(), b"hotset:{test}:state"][..],
        &[b"DEL", b"hotset:{test}:readers"],
        &[b"SCRIPT", b"FLUSH"],
        &[b"FLUSHALL"],
    ] {
        let _: redis::Value = server.command(command);
        acknowledged(&one, 1).await;
        assert_eq!(one.get_or_load_async(&1, |_| value(11)).await.unwrap(), 11);
        wait_until_proven(&one).await;
        assert_eq!(one.get_or_load_async(&1, fails).await.unwrap(), 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_value_is_served_after_a_failed_load_if_stale_if_error_is_set() {
    let mut server = Server::start();
    let cache: TieredCache<u64, u64> = LocalCache::builder()
        .capacity(100)
        .time_to_live(Duration::from_millis(200))
        .stale_if_error(Duration::from_secs(60))
        .redis(server.url(), "test")
        .consistency(Consistency::Realtime)
        .heartbeat(SHORT_HEARTBEAT)
        .deadline(DEADLINE)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    server.kill();
    soon("not proven", || cache.health().proven_for.is_none()).await;
    // The loader fails because the database is down, too.
    let stale = cache.get_or_load_async(&1, fails).await;
    assert_eq!(stale.unwrap(), 10);
    assert_eq!(cache.stats().stale, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_of_the_last_handle_ends_the_background_tasks() {
    let server = Server::start();
    let cache = proven::<u64>(&server.url(), MINUTE).await;
    let last = Arc::new(cache.clone());
    let clients = || -> usize {
        let list: String = server.command(&[b"CLIENT", b"LIST"]);
        // The connection of this command does not count.
        list.lines().count() - 1
    };
    assert!(clients() >= 2);
    drop(cache);
    assert!(clients() >= 2);
    drop(last);
    soon("no connection is left", || clients() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flush_ends_when_all_queued_invalidations_are_sent() {
    let mut server = Server::start();
    let cache = builder::<u64>(&server.url(), Consistency::Realtime);
    let cache = cache.deadline(SHORT_DEADLINE).build().unwrap();
    wait_until_proven(&cache).await;
    let other = proven::<u64>(&server.url(), Consistency::L2Only).await;
    // The queue is empty.
    in_time(cache.flush()).await;
    cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    server.pause();
    let slow = cache.clone();
    let change = tokio::spawn(async move { slow.invalidate(&1).await });
    assert_eq!(change.await.unwrap(), Propagation::Queued);
    let moment = Duration::from_millis(300);
    let flushing = tokio::time::timeout(moment, cache.flush()).await;
    assert!(flushing.is_err(), "Redis does not answer");
    server.resume();
    in_time(cache.flush()).await;
    assert_eq!(cache.health().queued, 0);
    soon("the event arrives", || other.tier_stats().events > 0).await;
    server.kill();
}
