//! The methods for loading and reading that a tiered cache shares with a local one.

use super::servers::Server;
use super::{DEADLINE, HEARTBEAT, MINUTE};
use futures_util::future::BoxFuture;
use hotset::{
    AsyncCache, Cache, Consistency, LoadError, Loaded, LocalCache, LocalCacheBuilder, Propagation,
    TieredCache,
};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use support::caches::wait_until_proven;

type Lengths = TieredCache<String, u64>;

const HOUR: Duration = Duration::from_secs(3_600);

async fn cache_with(
    server: &Server,
    set_up: impl FnOnce(LocalCacheBuilder<String, u64>) -> LocalCacheBuilder<String, u64>,
) -> Lengths {
    cache_of_class(server, MINUTE, set_up).await
}

async fn cache_of_class(
    server: &Server,
    consistency: Consistency,
    set_up: impl FnOnce(LocalCacheBuilder<String, u64>) -> LocalCacheBuilder<String, u64>,
) -> Lengths {
    let local = LocalCache::builder().capacity(1_000).time_to_live(HOUR);
    let cache = set_up(local)
        .redis(server.url(), "test")
        .consistency(consistency)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    cache
}

async fn cache(server: &Server) -> Lengths {
    cache_with(server, |local| local).await
}

async fn length(name: String) -> Result<u64, Infallible> {
    Ok(name.len() as u64)
}

async fn fails(_: String) -> Result<u64, &'static str> {
    Err("not to be loaded")
}

#[tokio::test(flavor = "multi_thread")]
async fn borrowed_keys_find_values_in_both_levels() {
    let server = Server::start();
    let (one, other) = (cache(&server).await, cache(&server).await);
    assert_eq!(one.get_or_load_async("apple", length).await.unwrap(), 5);
    assert_eq!(one.get_or_load_async("apple", fails).await.unwrap(), 5);
    assert_eq!(other.get("apple").await, Some(5));
    assert!(other.contains_key("apple").await && !other.contains_key("pear").await);
    let added = one.get_or_insert_with_async("fig", |name| async move { name.len() as u64 });
    assert_eq!(added.await, 3);
    assert_eq!(other.get_or_load_async("fig", fails).await.unwrap(), 3);
    one.invalidate("fig").await;
    assert_eq!(one.get("fig").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn remaining_ttl_is_that_of_l1_or_of_redis() {
    let server = Server::start();
    let (one, other) = (cache(&server).await, cache(&server).await);
    let load = |_| async { Ok::<_, Infallible>(Loaded::new(1).ttl(HOUR / 2)) };
    one.get_or_load_entry_async("apple", load).await.unwrap();
    // In this class of consistency, an entry lives in L1 for a minute at most.
    assert!(one.remaining_ttl("apple").await.unwrap() <= Duration::from_secs(60));
    let left = other.remaining_ttl("apple").await.unwrap();
    assert!(left <= HOUR / 2 && left > HOUR / 3, "{left:?}");
    assert_eq!(other.remaining_ttl("pear").await, None);
    // Neither call has stored the value in L1, or counted a lookup of it.
    assert_eq!((other.stats().hits, other.stats().misses), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn uncached_value_is_stored_in_neither_level() {
    let server = Server::start();
    let (one, other) = (cache(&server).await, cache(&server).await);
    let load = |_| async { Ok::<_, Infallible>(Loaded::uncached(1)) };
    assert_eq!(one.get_or_load_entry_async("apple", load).await.unwrap(), 1);
    assert_eq!(
        (one.get("apple").await, other.get("apple").await),
        (None, None)
    );
    assert_eq!(one.stats().refused, 0);
    // The lease of the load was released, so the next caller does not wait for its end.
    assert_eq!(other.get_or_load_async("apple", length).await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn expire_after_sets_the_time_to_live_in_redis() {
    let server = Server::start();
    let rule = |local: LocalCacheBuilder<String, u64>| {
        local.expire_after(|_, &length| (length < 10).then(|| Duration::from_secs(length * 100)))
    };
    let (one, other) = (cache_with(&server, rule).await, cache(&server).await);
    one.get_or_load_async("apple", length).await.unwrap();
    one.insert("fig".to_string(), 3).await;
    one.insert("a long name".to_string(), 11).await;
    let loaded = one.get_many_or_load_async(["pear"], |_| async {
        Ok::<_, Infallible>([("pear".to_string(), 4)])
    });
    loaded.await.unwrap();
    let load = |_| async { Ok::<_, Infallible>(Loaded::new(1).ttl(HOUR / 2)) };
    one.get_or_load_entry_async("own", load).await.unwrap();
    for (name, seconds) in [
        ("apple", 500),
        ("fig", 300),
        ("pear", 400),
        ("own", 1_800),
        ("a long name", 3_600),
    ] {
        let left = other.remaining_ttl(name).await.unwrap();
        let ttl = Duration::from_secs(seconds);
        assert!(left <= ttl && left > ttl * 9 / 10, "{name}: {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_of_entries_keeps_their_settings_in_redis() {
    let server = Server::start();
    let (one, other) = (cache(&server).await, cache(&server).await);
    let load = |names: Vec<String>| async move {
        let entry = |name: String| {
            let length = name.len() as u64;
            (name, Loaded::new(length).ttl(HOUR / 2).tags(["fruit"]))
        };
        Ok::<_, Infallible>(names.into_iter().map(entry))
    };
    let found = one
        .get_many_or_load_entries_async(["apple", "fig", "apple"], load)
        .await;
    assert_eq!(found.unwrap(), [Some(5), Some(3), Some(5)]);
    assert!(other.remaining_ttl("fig").await.unwrap() <= HOUR / 2);
    other.invalidate_tag("fruit").await;
    let found = other.get_many_or_load_async(["apple"], |_| async {
        Err::<[(String, u64); 0], _>("gone")
    });
    assert!(matches!(found.await, Err(LoadError::Failed(reason)) if *reason == "gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn trait_objects_have_the_methods_of_a_tiered_cache() {
    let server = Server::start();
    let (one, other) = (cache(&server).await, cache(&server).await);
    let tasks: Arc<dyn AsyncCache<String, u64>> = Arc::new(one.clone());
    assert_eq!(tasks.get_or_load_async("apple", length).await.unwrap(), 5);
    let loaded = tasks.get_many_or_load_async(["apple", "fig"], |missing| async move {
        assert_eq!(missing, ["fig"]);
        Ok::<_, Infallible>([("fig".to_string(), 3)])
    });
    assert_eq!(loaded.await.unwrap(), [Some(5), Some(3)]);
    assert_eq!(tasks.stats(), one.stats());

    let blocking: Arc<dyn Cache<String, u64>> = Arc::new(other.blocking());
    let thread = tokio::task::spawn_blocking(move || {
        assert_eq!(blocking.get("fig"), Some(3));
        assert!(blocking.contains_key("apple") && !blocking.contains_key("pear"));
        assert!(blocking.remaining_ttl("apple").unwrap() <= HOUR);
        let found = blocking.get_many_or_load(["apple", "pear"], |missing| {
            assert_eq!(missing, ["pear"]);
            Ok::<_, Infallible>([("pear".to_string(), 4)])
        });
        assert_eq!(found.unwrap(), [Some(5), Some(4)]);
        let entry = Loaded::new(4).tags(["green"]);
        let load = |_: &str| Ok::<_, Infallible>(entry);
        assert_eq!(blocking.get_or_load_entry("lime", load).unwrap(), 4);
        blocking.invalidate_tag("green");
        assert_eq!(
            blocking.get_or_insert_with("lime", |name| name.len() as u64 + 1),
            5
        );
        blocking.invalidate("lime");
        assert_eq!(blocking.get("lime"), None);
    });
    thread.await.unwrap();
    assert_eq!(tasks.get("pear").await, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_through_trait_objects_reach_other_processes() {
    let server = Server::start();
    let exact = || cache_of_class(&server, Consistency::Realtime, |local| local);
    let (one, other) = (exact().await, exact().await);
    let tasks: Arc<dyn AsyncCache<String, u64>> = Arc::new(one.clone());
    let apple = || "apple".to_string();
    let acknowledged = Propagation::Acknowledged;
    assert_eq!(tasks.insert(apple(), 1).await, acknowledged);
    assert_eq!(other.get("apple").await, Some(1));
    let read = || async { (tasks.get("apple").await, other.get("apple").await) };
    let failed = tasks.write_through(apple(), 2, |_| async { Err("down") });
    assert_eq!(failed.await, Err("down"));
    assert_eq!(read().await, (Some(1), Some(1)));
    let write = |value| async move { (value == 3).then_some(()).ok_or("another value") };
    let loaded = Loaded::new(3).ttl(HOUR / 2).tags(["fruit"]);
    let written = tasks.write_through_loaded(apple(), loaded, write).await;
    assert_eq!(written, Ok(acknowledged));
    assert_eq!(read().await, (Some(3), Some(3)));
    assert_eq!(tasks.invalidate_tag("fruit").await, acknowledged);
    assert_eq!(read().await, (None, None));

    let blocking: Arc<dyn Cache<String, u64>> = Arc::new(one.blocking());
    let thread = tokio::task::spawn_blocking(move || {
        assert_eq!(blocking.insert(apple(), 4), acknowledged);
        let write = |value: &u64| if *value == 5 { Ok(()) } else { Err("down") };
        assert_eq!(blocking.write_through(apple(), 6, write), Err("down"));
        assert_eq!(blocking.get("apple"), Some(4));
        let written = blocking.write_through(apple(), 5, write);
        assert_eq!(
            (written, blocking.get("apple")),
            (Ok(acknowledged), Some(5))
        );
    });
    thread.await.unwrap();
    assert_eq!(read().await, (Some(5), Some(5)));
    assert_eq!(tasks.clear().await, acknowledged);
    assert_eq!(read().await, (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_several_keys_are_read_from_redis_in_one_call() {
    let mut server = Server::start();
    // In this class, the insertions are known in all processes when they are acknowledged.
    let exact = || cache_of_class(&server, Consistency::Realtime, |local| local);
    let (one, other, third) = (exact().await, exact().await, exact().await);
    for (name, length) in [("apple", 5), ("fig", 3)] {
        one.insert(name.to_string(), length).await;
    }
    let names = ["fig", "pear", "apple", "fig"];
    let found = [Some(3), None, Some(5), Some(3)];
    let calls = other.tier_stats().calls.lookup.times.count();
    assert_eq!(other.get_many(names).await, found);
    assert_eq!(other.tier_stats().calls.lookup.times.count(), calls + 1);
    // Both values are in L1 now.
    assert_eq!(
        (
            other.get_many(["fig", "apple"]).await.len(),
            other.stats().hits
        ),
        (2, 2)
    );
    let tasks: Arc<dyn AsyncCache<String, u64>> = Arc::new(one.clone());
    assert_eq!(tasks.get_many(names).await, found);
    let blocking: Arc<dyn Cache<String, u64>> = Arc::new(third.blocking());
    let get = tokio::task::spawn_blocking(move || blocking.get_many(names));
    assert_eq!(get.await.unwrap(), found);
    let bounded = cache(&server).await;
    assert_eq!(bounded.get_many(names).await, found);
    server.kill();
    // In this class, L1 still serves without Redis.
    assert_eq!(bounded.get_many(names).await, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_is_visible_through_trait_objects() {
    let cache: Lengths = LocalCache::builder()
        .capacity(10)
        .redis("redis://127.0.0.1:1/", "test")
        .consistency(Consistency::L1Only)
        .build()
        .unwrap();
    let tasks: Arc<dyn AsyncCache<String, u64>> = Arc::new(cache.clone());
    let apple = || "apple".to_string();
    let write = |_| async { Ok::<_, Infallible>(()) };
    let changes = [
        tasks.insert(apple(), 1).await,
        tasks.insert_with_ttl(apple(), 1, HOUR).await,
        tasks.insert_loaded(apple(), Loaded::new(1)).await,
        tasks.write_through(apple(), 1, write).await.unwrap(),
        tasks.invalidate("apple").await,
        tasks.invalidate_tag("fruit").await,
        tasks.clear().await,
    ];
    assert!(
        changes.iter().all(|it| *it == Propagation::Queued),
        "{changes:?}"
    );
    let blocking: Arc<dyn Cache<String, u64>> = Arc::new(cache.blocking());
    let thread = tokio::task::spawn_blocking(move || {
        let write = |_: &u64| Ok::<_, Infallible>(());
        let written = blocking.write_through(apple(), 1, write).unwrap();
        [written, blocking.invalidate("apple"), blocking.clear()]
    });
    assert_eq!(thread.await.unwrap(), [Propagation::Queued; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn caller_through_a_trait_object_keeps_its_deadline_after_an_error_of_another_type() {
    let server = Server::start();
    let waits = |local: LocalCacheBuilder<String, u64>| local.wait_timeout(Duration::from_secs(20));
    let cache = cache_with(&server, waits).await;
    let tasks: Arc<dyn AsyncCache<String, u64>> = Arc::new(cache.clone());
    let (begun, begins) = tokio::sync::oneshot::channel();
    let (end, ends) = tokio::sync::oneshot::channel::<()>();
    let leader = tokio::spawn({
        let cache = cache.clone();
        async move {
            let load = |_| async {
                begun.send(()).unwrap();
                ends.await.unwrap();
                Err::<u64, _>("down")
            };
            cache.get_or_load_async("apple", load).await
        }
    });
    begins.await.unwrap();
    let waiting = tokio::spawn(async move { tasks.get_or_load_async("apple", length).await });
    let joined = || cache.stats().misses == 2;
    super::servers::soon("the second caller waits", joined).await;
    end.send(()).unwrap();
    assert!(leader.await.unwrap().is_err());
    // The second caller cannot return the error of another type, and runs its own loader.
    assert_eq!(waiting.await.unwrap().unwrap(), 5);
    assert_eq!(cache.tier_stats().loads, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_and_health_are_serialized() {
    let server = Server::start();
    let cache = cache(&server).await;
    cache.get_or_load_async("apple", length).await.unwrap();
    let stats = serde_json::to_value(cache.tier_stats()).unwrap();
    assert_eq!(
        (&stats["loads"], &stats["load_times"]["count"]),
        (&1.into(), &1.into())
    );
    assert!(
        stats["calls"]["lookup"]["times"]["mean"].as_f64().unwrap() > 0.0,
        "{stats}"
    );
    let health = serde_json::to_value(cache.health()).unwrap();
    assert_eq!(health["breaker_open"], false);
    assert!(health["proven_for"].as_f64().unwrap() > 0.0, "{health}");
    assert!(health["last_error"].is_null() && health["warnings"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_of_the_class_l1_only_works_without_redis() {
    let cache: Lengths = LocalCache::builder()
        .capacity(10)
        .redis("redis://127.0.0.1:1/", "test")
        .consistency(Consistency::L1Only)
        .build()
        .unwrap();
    assert_eq!(cache.get_or_load_async("apple", length).await.unwrap(), 5);
    assert!(cache.contains_key("apple").await);
    assert_eq!(cache.remaining_ttl("apple").await, Some(Duration::MAX));
    assert_eq!(cache.remaining_ttl("fig").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn loader_that_requests_its_own_key_gets_recursive_at_once() {
    /// Loads the length of a name through the cache that it is loaded for.
    fn load(
        cache: Lengths,
        name: String,
    ) -> BoxFuture<'static, Result<u64, LoadError<Infallible>>> {
        Box::pin(async move {
            let load = |name| load(cache.clone(), name);
            let loaded = cache.get_or_load_async(&name, load).await;
            loaded.map_err(|error| match error.into_inner() {
                Some(inner) => (*inner).clone(),
                None => LoadError::Recursive,
            })
        })
    }

    let server = Server::start();
    let waits = |local: LocalCacheBuilder<String, u64>| local.lease(HOUR);
    let cache = cache_with(&server, waits).await;
    let loaded = tokio::time::timeout(Duration::from_secs(60), load(cache, "apple".to_string()));
    assert!(matches!(loaded.await, Ok(Err(LoadError::Recursive))));
}
