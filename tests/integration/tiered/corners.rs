//! Regression tests and corner cases.

use super::servers::{Cut, Proxy, Server, in_time, soon, with_growing_time};
use super::{
    DEADLINE, HEARTBEAT, LONG_HEARTBEAT, LONG_LEASE, MINUTE, SHORT_DEADLINE, SHORT_HEARTBEAT,
    builder, builder_with, fails, proven, value,
};
use futures_util::future::join_all;
use hotset::{
    AnyError, AsyncCache, BuildError, Cache, CacheFuture, Consistency, ErasedAsyncLoader,
    ErasedKey, Invalidator, LoadError, Loaded, LocalCache, Propagation, TieredCache, Warning,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use support::caches::wait_until_proven;
use tokio::sync::Semaphore;

const REALTIME: Consistency = Consistency::Realtime;

static BLOCK_NEXT_CLONE: AtomicBool = AtomicBool::new(false);
static IS_BLOCKED: AtomicBool = AtomicBool::new(false);
static MAY_CONTINUE: AtomicBool = AtomicBool::new(false);

/// A key whose next clone blocks its thread once `BLOCK_NEXT_CLONE` is set.
#[derive(Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct SlowKey(u64);

hotset::schema!(SlowKey, "slow/1");

impl Clone for SlowKey {
    fn clone(&self) -> Self {
        if BLOCK_NEXT_CLONE.swap(false, SeqCst) {
            IS_BLOCKED.store(true, SeqCst);
            super::servers::eventually("the clone may continue", || MAY_CONTINUE.load(SeqCst));
        }
        Self(self.0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lookup_during_a_queued_invalidation_stores_no_old_value() {
    let server = Server::start();
    let cache = || -> TieredCache<SlowKey, u64> {
        let builder = LocalCache::builder()
            .capacity(100)
            .redis(server.url(), "test");
        let builder = builder.consistency(REALTIME).heartbeat(HEARTBEAT);
        builder.deadline(DEADLINE).build().unwrap()
    };
    let (one, other) = (cache(), cache());
    wait_until_proven(&one).await;
    other
        .get_or_load_async(&SlowKey(1), |_| value(10))
        .await
        .unwrap();
    BLOCK_NEXT_CLONE.store(true, SeqCst);
    let reader = tokio::spawn({
        let one = one.clone();
        async move { one.get(&SlowKey(1)).await }
    });
    soon("the lookup has begun", || IS_BLOCKED.load(SeqCst)).await;
    // The server rejects scripts for a moment.
    let _: String = server.command(&[b"ACL", b"SETUSER", b"default", b"-evalsha"]);
    assert_eq!(one.invalidate(&SlowKey(1)).await, Propagation::Queued);
    let _: String = server.command(&[b"ACL", b"SETUSER", b"default", b"+evalsha"]);
    MAY_CONTINUE.store(true, SeqCst);
    reader.await.unwrap();
    soon("the queue is empty", || one.health().queued == 0).await;
    wait_until_proven(&one).await;
    let seen = one
        .get_or_load_async(&SlowKey(1), |_| value(11))
        .await
        .unwrap();
    assert_eq!(seen, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_a_batch_finds_before_its_load_ages_during_the_load() {
    let server = Server::start();
    let writer = proven::<u64>(&server.url(), MINUTE).await;
    for is_bounded in [true, false] {
        with_growing_time(Duration::from_millis(500), async |ttl| {
            let consistency = if is_bounded {
                Consistency::Bounded(ttl)
            } else {
                REALTIME
            };
            let proxy = Proxy::start(server.address()).await;
            let reader = builder::<u64>(&proxy.url(), consistency).build().unwrap();
            wait_until_proven(&reader).await;
            let _ = writer.clear().await;
            AsyncCache::insert_with_ttl(&writer, 1, 10, ttl).await;
            proxy.cut(Cut::Subscriptions);
            let load = |missing: Vec<u64>| async move {
                // The query takes longer than the time to live of the first value.
                tokio::time::sleep(ttl * 7 / 5).await;
                Ok::<_, ()>(missing.into_iter().map(|key| (key, key * 10)))
            };
            let found = reader.get_many_or_load_async(&[1, 2], load).await.unwrap();
            assert_eq!(found, [Some(10), Some(20)]);
            if reader.stats().loads > 1 {
                // The first value had expired before the batch looked it up.
                return false;
            }
            assert_eq!(reader.get(&1).await, None, "{consistency:?}");
            true
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_read_does_not_join_a_load_older_than_its_bound() {
    let server = Server::start();
    let proxy = Proxy::start(server.address()).await;
    let bound = Duration::from_millis(300);
    let reader = builder::<u64>(&proxy.url(), Consistency::Bounded(bound))
        .build()
        .unwrap();
    let writer = proven::<u64>(&server.url(), MINUTE).await;
    wait_until_proven(&reader).await;
    proxy.cut(Cut::Subscriptions);
    let go_on = Arc::new(Semaphore::new(0));
    let begun = Arc::new(Semaphore::new(0));
    let first = tokio::spawn({
        let (reader, begun, go_on) = (reader.clone(), Arc::clone(&begun), Arc::clone(&go_on));
        async move {
            let load = |_| async {
                begun.add_permits(1);
                go_on.acquire().await.unwrap().forget();
                Ok::<_, ()>(10)
            };
            reader.get_or_load_async(&1, load).await.unwrap()
        }
    });
    begun.acquire().await.unwrap().forget();
    assert_eq!(writer.invalidate(&1).await, Propagation::Acknowledged);
    // The load has to be older than the bound. Nothing in the cache shows its age, so no condition can be awaited.
    tokio::time::sleep(2 * bound).await;
    // The read starts a new load instead of joining the one in flight.
    assert_eq!(
        reader.get_or_load_async(&1, |_| value(11)).await.unwrap(),
        11
    );
    go_on.add_permits(1);
    assert_eq!(first.await.unwrap(), 10);
    assert_eq!(reader.get_or_load_async(&1, fails).await.unwrap(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_of_the_server_leaves_no_orphaned_load_lease() {
    let server = Server::start();
    let one = builder_with::<u64>(&server.url(), MINUTE, |local| local.lease(LONG_LEASE));
    let one = one.deadline(SHORT_DEADLINE).build().unwrap();
    let other = builder_with::<u64>(&server.url(), MINUTE, |local| local.lease(LONG_LEASE));
    let other = other.build().unwrap();
    wait_until_proven(&one).await;
    server.pause();
    assert_eq!(one.get_or_load_async(&1, |_| value(10)).await.unwrap(), 10);
    server.resume();
    wait_until_proven(&other).await;
    let loaded = in_time(other.get_or_load_async(&1, |_| value(10))).await;
    assert_eq!(loaded.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn longest_durations_are_valid_settings() {
    let server = Server::start();
    for (lease, ttl) in [
        (Duration::MAX, Duration::from_secs(60)),
        (Duration::from_secs(10), Duration::MAX),
        (Duration::from_secs(10), Duration::from_secs(u64::MAX / 2)),
    ] {
        let builder = LocalCache::builder()
            .capacity(100)
            .lease(lease)
            .time_to_live(ttl);
        let builder = builder.redis(server.url(), "test").heartbeat(HEARTBEAT);
        let cache: TieredCache<u64, u64> = builder.deadline(DEADLINE).build().unwrap();
        wait_until_proven(&cache).await;
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
        assert_eq!(cache.insert(2, 20).await, Propagation::Acknowledged);
        assert_eq!(cache.get(&2).await, Some(20));
        assert_eq!(
            (cache.tier_stats().fills, cache.tier_stats().l2_failures),
            (1, 0)
        );
        let _ = cache.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_of_a_removal_listener_does_not_end_the_subscription() {
    let server = Server::start();
    let other = proven::<u64>(&server.url(), REALTIME).await;
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&panics);
    let cache: TieredCache<u64, u64> = LocalCache::builder()
        .capacity(100)
        .on_removal(move |_, _, _| {
            counted.fetch_add(1, SeqCst);
            panic!("on purpose");
        })
        .redis(server.url(), "test")
        .consistency(REALTIME)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    for round in 1..4 {
        cache.get_or_load_async(&1, |_| value(round)).await.unwrap();
        assert_eq!(other.invalidate(&1).await, Propagation::Acknowledged);
        soon("the listener has panicked", || {
            panics.load(SeqCst) as u64 == round
        })
        .await;
        wait_until_proven(&cache).await;
    }
    assert_eq!(cache.health().subscriptions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn value_written_through_has_its_own_tags() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), REALTIME).await;
    let other = proven::<u64>(&server.url(), REALTIME).await;
    let new = Loaded::new(11).tags(["shop"]);
    let written = one.write_through_loaded(1, new, |_| value(())).await;
    assert_eq!(written, Ok(Propagation::Acknowledged));
    assert_eq!(other.get(&1).await, Some(11));
    assert_eq!(
        other.invalidate_tag("shop").await,
        Propagation::Acknowledged
    );
    for cache in [&one, &other] {
        assert_eq!(cache.get(&1).await, None);
    }
}

/// The value that is replaced has an older version than the invalidation. That of the new value is newer.
#[tokio::test(flavor = "multi_thread")]
async fn value_with_a_tag_that_was_invalidated_since_the_replaced_value_was_loaded_is_shared() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), REALTIME).await;
    let other = proven::<u64>(&server.url(), REALTIME).await;
    for key in [1, 2] {
        other.get_or_load_async(&key, |_| value(1)).await.unwrap();
    }
    assert_eq!(
        other.invalidate_tag("shop").await,
        Propagation::Acknowledged
    );
    let new = || Loaded::new(11).tags(["shop"]);
    let written = one.write_through_loaded(1, new(), |_| value(())).await;
    assert_eq!(written, Ok(Propagation::Acknowledged));
    assert_eq!(one.insert_loaded(2, new()).await, Propagation::Acknowledged);
    for key in [1, 2] {
        assert_eq!(other.get(&key).await, Some(11), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn same_namespace_in_two_databases_of_one_server_is_two_namespaces() {
    let server = Server::start();
    let one = proven::<u64>(&format!("{}0", server.url()), REALTIME).await;
    let two = proven::<u64>(&format!("{}1", server.url()), REALTIME).await;
    one.insert(1, 10).await;
    for _ in 0..10 {
        assert_eq!(two.invalidate(&1).await, Propagation::Acknowledged);
    }
    let _ = one.invalidate(&2).await;
    assert_eq!(one.get(&1).await, Some(10));
    assert_eq!((one.health().gaps, one.tier_stats().events), (0, 0));
}

/// A cache that creates the future of a load at once, and polls it later.
struct LatePolls<'a> {
    cache: &'a TieredCache<u64, u64>,
    /// A permit for each future that is created.
    created: Semaphore,
    /// A permit for each future that may be polled.
    go_on: Semaphore,
}

impl AsyncCache<u64, u64> for LatePolls<'_> {
    fn get_erased<'a>(&'a self, key: &'a dyn ErasedKey<u64>) -> CacheFuture<'a, Option<u64>> {
        self.cache.get_erased(key)
    }

    fn insert_loaded(&self, key: u64, loaded: Loaded<u64>) -> CacheFuture<'_, Propagation> {
        AsyncCache::insert_loaded(self.cache, key, loaded)
    }

    fn invalidate_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<u64>,
    ) -> CacheFuture<'a, Propagation> {
        self.cache.invalidate_erased(key)
    }

    fn invalidate_tag<'a>(&'a self, tag: &'a str) -> CacheFuture<'a, Propagation> {
        AsyncCache::invalidate_tag(self.cache, tag)
    }

    fn clear(&self) -> CacheFuture<'_, Propagation> {
        AsyncCache::clear(self.cache)
    }

    fn get_or_load_erased<'a>(
        &'a self,
        key: &'a dyn ErasedKey<u64>,
        loader: ErasedAsyncLoader<'a, u64, u64>,
    ) -> CacheFuture<'a, Result<u64, LoadError<AnyError>>> {
        let loading = self.cache.get_or_load_erased(key, loader);
        self.created.add_permits(1);
        CacheFuture::new(async move {
            self.go_on.acquire().await.unwrap().forget();
            loading.await
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn future_checks_the_read_lease_when_polled_not_when_created() {
    let server = Server::start();
    let proxy = Proxy::start(server.address()).await;
    let reader = builder::<u64>(&proxy.url(), REALTIME).heartbeat(SHORT_HEARTBEAT);
    let reader = reader.deadline(SHORT_DEADLINE).build().unwrap();
    let writer = proven::<u64>(&server.url(), REALTIME).await;
    wait_until_proven(&reader).await;
    let late = LatePolls {
        cache: &reader,
        created: Semaphore::new(0),
        go_on: Semaphore::new(0),
    };
    let change = async {
        late.created.acquire().await.unwrap().forget();
        reader.get_or_load_async(&1, |_| value(10)).await.unwrap();
        proxy.cut(Cut::All);
        assert_eq!(writer.invalidate(&1).await, Propagation::Acknowledged);
        late.go_on.add_permits(1);
    };
    let later = AsyncCache::get_or_load_async(&late, &1, |_| value(11));
    let (loaded, ()) = tokio::join!(later, change);
    assert_eq!(loaded.unwrap(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn change_waits_for_readers_that_the_server_has_lost() {
    let server = Server::start();
    for lost in [b"hotset:{test}:readers".as_slice(), b"hotset:{test}:state"] {
        let proxy = Proxy::start(server.address()).await;
        let cache = |url: &str| builder::<u64>(url, REALTIME).heartbeat(SHORT_HEARTBEAT);
        let reader = cache(&proxy.url()).deadline(SHORT_DEADLINE);
        let (reader, writer) = (
            reader.build().unwrap(),
            cache(&server.url()).build().unwrap(),
        );
        for cache in [&reader, &writer] {
            wait_until_proven(cache).await;
        }
        reader.get_or_load_async(&1, |_| value(10)).await.unwrap();
        proxy.cut(Cut::All);
        let _: u64 = server.command(&[b"DEL", lost]);
        assert_eq!(writer.invalidate(&1).await, Propagation::Acknowledged);
        assert_eq!(
            reader.get_or_load_async(&1, |_| value(11)).await.unwrap(),
            11
        );
        proxy.mend();
        let _ = writer.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_that_waits_for_another_process_does_not_delay_waiters_for_its_other_keys() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    let (begun, go_on) = (Semaphore::new(0), Semaphore::new(0));
    let slow = other.get_or_load_async(&2, |_| async {
        begun.add_permits(1);
        go_on.acquire().await.unwrap().forget();
        Ok::<_, ()>(20)
    });
    let batch = async {
        begun.acquire().await.unwrap().forget();
        one.get_many_or_load_async(&[1, 2, 3], |missing| async move {
            assert_eq!(missing, [1, 3]);
            Ok::<_, ()>([(1, 10_u64)])
        })
        .await
        .unwrap()
    };
    let beside = async {
        soon("the batch has stored the key", || {
            one.tier_stats().fills == 1
        })
        .await;
        assert_eq!(one.get_or_load_async(&1, fails).await.unwrap(), 10);
        go_on.add_permits(1);
    };
    let (_, found, ()) = tokio::join!(slow, batch, beside);
    assert_eq!(found, [Some(10), Some(20), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_loads_only_the_key_whose_load_failed_in_another_process() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), MINUTE).await;
    let other = proven::<u64>(&server.url(), MINUTE).await;
    let (begun, go_on) = (Semaphore::new(0), Semaphore::new(0));
    let failing = other.get_or_load_async(&2, |_| async {
        begun.add_permits(1);
        go_on.acquire().await.unwrap().forget();
        Err::<u64, _>("it fails")
    });
    let asked = parking_lot::Mutex::new(Vec::new());
    let batch = async {
        begun.acquire().await.unwrap().forget();
        one.get_many_or_load_async(&[1, 2, 1], |missing| {
            asked.lock().push(missing.clone());
            async move { Ok::<_, ()>(missing.into_iter().map(|key| (key, key * 10))) }
        })
        .await
        .unwrap()
    };
    let release = async {
        soon("the batch waits", || one.tier_stats().l2_waits > 0).await;
        go_on.add_permits(1);
    };
    let (failed, found, ()) = tokio::join!(failing, batch, release);
    assert!(failed.is_err());
    assert_eq!(found, [Some(10), Some(20), Some(10)]);
    assert_eq!(*asked.lock(), [vec![1], vec![2]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn load_that_waits_for_a_permit_holds_no_lease() {
    with_growing_time(Duration::from_millis(400), async |lease| {
        let server = Server::start();
        let cache: TieredCache<u64, u64> = LocalCache::builder()
            .capacity(100)
            .lease(lease)
            .max_concurrent_loads(1)
            .redis(server.url(), "test")
            // A lost heartbeat would clear L1.
            .heartbeat(LONG_HEARTBEAT)
            .deadline(DEADLINE)
            .build()
            .unwrap();
        wait_until_proven(&cache).await;
        let load = |_| async {
            tokio::time::sleep(lease / 5).await;
            Ok::<_, ()>(1)
        };
        let loads = (0..12).map(|key| {
            let cache = &cache;
            async move { cache.get_or_load_async(&key, load).await.unwrap() }
        });
        futures_util::future::join_all(loads).await;
        let stats = cache.tier_stats();
        (stats.lost_fills, stats.fills, cache.stats().entries) == (0, 12, 12)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_schema_causes_no_stampede_of_batches() {
    let server = Server::start();
    let old = proven::<u64>(&server.url(), MINUTE).await;
    let keys: Vec<u64> = (0..300).collect();
    let load = |missing: Vec<u64>| async { Ok::<_, ()>(missing.into_iter().map(|key| (key, key))) };
    old.get_many_or_load_async(&keys, load).await.unwrap();
    let new = proven::<String>(&server.url(), MINUTE).await;
    let calls = AtomicUsize::new(0);
    let load = |missing: Vec<u64>| {
        calls.fetch_add(1, SeqCst);
        async { Ok::<_, ()>(missing.into_iter().map(|key| (key, key.to_string()))) }
    };
    let found = new.get_many_or_load_async(&keys, load).await.unwrap();
    assert_eq!(found[299], Some("299".to_string()));
    assert_eq!(calls.load(SeqCst), 1);
    assert_eq!(new.tier_stats().fills, 300);
}

#[test]
fn call_from_another_runtime_leaves_the_connection_in_the_runtime_of_the_cache() {
    let server = Server::start();
    let home = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let cache = home.block_on(async { builder::<u64>(&server.url(), MINUTE).build().unwrap() });
    let elsewhere = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    elsewhere.block_on(async {
        let load = cache.get_or_load_async(&1, |_| value(10));
        let _ = tokio::time::timeout(Duration::from_micros(500), load).await;
    });
    // The other runtime still exists, but no thread drives it.
    home.block_on(async {
        wait_until_proven(&cache).await;
        assert_eq!(cache.insert(2, 20).await, Propagation::Acknowledged);
    });
    drop(elsewhere);
}

#[test]
fn blocking_loader_may_load_another_key_and_run_a_runtime() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let tier = runtime.block_on(async { proven::<u64>(&server.url(), REALTIME).await });
    let cache = tier.blocking();
    let loaded = cache.get_or_load(&1, |_| {
        let other = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let ten = other.block_on(async { 10 });
        let nested = cache.get_or_load(&2, |_| Ok::<_, ()>(ten)).unwrap();
        assert!(matches!(
            cache.get_or_load(&1, |_| Ok::<_, ()>(0)),
            Err(LoadError::Recursive)
        ));
        Ok::<_, ()>(nested + 1)
    });
    assert_eq!(loaded.unwrap(), 11);
    assert_eq!(cache.get(&2), Some(10));
    let panicked = runtime.block_on(async {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get(&3) }).await
    });
    assert!(panicked.unwrap_err().is_panic());
}

#[tokio::test(flavor = "multi_thread")]
async fn server_without_free_memory_accepts_invalidations() {
    let server = Server::start();
    let one = proven::<u64>(&server.url(), REALTIME).await;
    let other = proven::<u64>(&server.url(), REALTIME).await;
    for cache in [&one, &other] {
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap();
    }
    let _: String = server.command(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    assert_eq!(one.invalidate(&1).await, Propagation::Acknowledged);
    for cache in [&one, &other] {
        let seen = cache.get_or_load_async(&1, |_| value(11)).await.unwrap();
        assert_eq!(seen, 11);
    }
    assert!(one.health().proven_for.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn user_without_channel_rights_gets_a_warning_and_affects_no_other_process() {
    let server = Server::start();
    let rights: &[&[u8]] = &[
        b"ACL", b"SETUSER", b"app", b"on", b">secret", b"~*", b"+@all",
    ];
    let _: String = server.command(rights);
    let url = format!("redis://app:secret@127.0.0.1:{}/", server.port());
    let healthy = proven::<u64>(&server.url(), REALTIME).await;
    let limited = builder::<u64>(&url, REALTIME).build().unwrap();
    soon("the missing right is reported", || {
        limited.health().not_subscribed.is_some()
    })
    .await;
    assert_eq!(limited.invalidate(&1).await, Propagation::Queued);
    let health = limited.health();
    // A call that needs no channel may have succeeded since, so there may be no last error.
    let is_forbidden = |warning: &Warning| matches!(warning, Warning::Forbidden(_));
    assert!(health.warnings.iter().any(is_forbidden), "{health:?}");
    let health = format!("{health:?} {limited:?}");
    assert!(!health.contains("secret"), "{health}");
    assert_eq!(
        limited.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    let before = healthy.tier_stats();
    let _ = healthy.invalidate(&7).await;
    assert_eq!((healthy.health().gaps, before.events), (0, 0));
    let _: String = server.command(&[b"ACL", b"SETUSER", b"app", b"&hotset:*"]);
    wait_until_proven(&limited).await;
    soon("the queue is empty", || limited.health().queued == 0).await;
    assert_eq!(limited.health().not_subscribed.map(drop), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn demoted_primary_is_abandoned() {
    let (server, primary) = (Server::start(), Server::start());
    let cache = proven::<u64>(&server.url(), MINUTE).await;
    let port = primary.port().to_string();
    let _: String = server.command(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]);
    assert_eq!(cache.invalidate(&1).await, Propagation::Queued);
    assert_eq!(
        cache.get_or_load_async(&1, |_| value(10)).await.unwrap(),
        10
    );
    let _: String = server.command(&[b"REPLICAOF", b"NO", b"ONE"]);
    soon("the queue is empty", || cache.health().queued == 0).await;
    wait_until_proven(&cache).await;
    assert!(cache.health().last_error.is_none());
}

#[test]
fn change_after_the_shutdown_of_the_runtime_is_applied_locally() {
    let server = Server::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let cache = runtime.block_on(async { proven::<u64>(&server.url(), MINUTE).await });
    runtime.block_on(async { cache.insert(1, 10).await });
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    other.block_on(async {
        // Reads at the same time share round trips, which tasks of the runtime make.
        let keys: Vec<u64> = (100..150).collect();
        let reads = keys.iter().map(|key| cache.get(key));
        assert_eq!(in_time(join_all(reads)).await, [None; 50]);
        assert_eq!(cache.invalidate(&1).await, Propagation::Queued);
        assert_eq!(cache.get(&1).await, None);
        assert_eq!(
            cache.get_or_load_async(&1, |_| value(11)).await.unwrap(),
            11
        );
    });
}

#[tokio::test]
async fn invalid_settings_are_errors() {
    let error = |url: &str, namespace: &str| {
        let builder = LocalCache::<u64, u64>::builder().capacity(10);
        builder.redis(url, namespace).build().unwrap_err()
    };
    let is_url = |error: BuildError| matches!(error, BuildError::RedisUrl(_));
    assert!(is_url(error("http://localhost", "test")));
    assert!(is_url(error("not a url with a secret", "test")));
    for namespace in ["", "a b", "{a}", "\u{e9}", &"a".repeat(200)] {
        assert_eq!(error("redis://localhost", namespace), BuildError::Namespace);
    }
    let refused = LocalCache::<u64, u64>::builder()
        .capacity(10)
        .time_to_live(Duration::from_secs(1))
        .refresh_after(Duration::from_secs(1))
        .redis("redis://localhost", "test")
        .build();
    assert_eq!(refused.unwrap_err(), BuildError::RefreshAfterEnd);
    let refused = builder::<u64>("redis://localhost", Consistency::Bounded(Duration::ZERO)).build();
    assert!(matches!(refused, Err(BuildError::ZeroDuration(_))));
    let refused = builder::<u64>("redis://localhost", MINUTE)
        .heartbeat(Duration::ZERO)
        .build();
    assert_eq!(refused.unwrap_err(), BuildError::Heartbeat);
    let text = format!("{:?}", builder::<u64>("redis://:secret@localhost", MINUTE));
    assert!(!text.contains("secret"));
    let outside = std::thread::spawn(|| {
        builder::<u64>("redis://localhost", MINUTE)
            .build()
            .map(drop)
    });
    assert_eq!(outside.join().unwrap(), Err(BuildError::NoRuntime));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_futures_leave_no_lease_and_no_waiter() {
    let server = Server::start();
    let cache = || builder_with::<u64>(&server.url(), REALTIME, |local| local.lease(LONG_LEASE));
    let (cache, other) = (cache().build().unwrap(), cache().build().unwrap());
    wait_until_proven(&cache).await;
    let waits = AtomicU64::new(0);
    let tasks = (0..8_u64).map(|task| {
        let (cache, waits) = (&cache, &waits);
        async move {
            for round in 0..200_u64 {
                let key = (task * 7 + round) % 20;
                let load = |key| async move {
                    // Simulates a query, during which many of the calls are dropped.
                    tokio::time::sleep(Duration::from_micros(300)).await;
                    if round % 5 == 0 {
                        Err("fails")
                    } else {
                        Ok(key)
                    }
                };
                let limit = Duration::from_micros((round * 37) % 3_000);
                let done = match round % 4 {
                    0 => tokio::time::timeout(limit, cache.invalidate(&key))
                        .await
                        .is_ok(),
                    1 => {
                        tokio::time::timeout(limit, cache.write_through(key, key, |_| write_row()))
                            .await
                            .is_ok()
                    }
                    _ => tokio::time::timeout(limit, cache.get_or_load_async(&key, load))
                        .await
                        .is_ok(),
                };
                waits.fetch_add(u64::from(!done), SeqCst);
            }
        }
    });
    futures_util::future::join_all(tasks).await;
    assert!(waits.load(SeqCst) > 100);
    // No lease remains for which others would wait.
    wait_until_proven(&other).await;
    for key in 0..20 {
        let loaded = in_time(other.get_or_load_async(&key, value)).await;
        assert_eq!(loaded.unwrap(), key);
    }
}

/// Simulates a write to the database, during which some of the calls are dropped.
async fn write_row() -> Result<(), ()> {
    tokio::time::sleep(Duration::from_micros(200)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deadline_may_be_as_long_as_a_duration_can_be() {
    let server = Server::start();
    let cache = builder::<u64>(&server.url(), REALTIME).deadline(Duration::MAX);
    let cache = cache.build().unwrap();
    wait_until_proven(&cache).await;
    let keys: Vec<u64> = (0..50).collect();
    let inserted = join_all(keys.iter().map(|&key| cache.insert(key, key))).await;
    assert_eq!(inserted, [Propagation::Acknowledged; 50]);
    let read = join_all(keys.iter().map(|key| cache.get(key))).await;
    assert_eq!(read, keys.iter().copied().map(Some).collect::<Vec<_>>());
    let invalidator = Invalidator::builder(server.url(), "test").heartbeat(HEARTBEAT);
    let invalidator = invalidator.deadline(Duration::MAX).build().unwrap();
    invalidator.invalidate(&7).await.unwrap();
    assert_eq!(cache.get(&7).await, None);
}
