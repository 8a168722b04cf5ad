//! Refreshes over Redis: those that the application requests, and those by a rule.

use super::servers::{Server, in_time, soon, soon_async};
use super::{LONG_LEASE, MINUTE, builder_with, fails, forget_lost_readers, value};
use hotset::{
    AsyncCache, Cache, Consistency, LoadError, Loaded, LocalCache, LocalCacheBuilder, Propagation,
    TieredCache,
};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::caches::wait_until_proven;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const OLD: u64 = 10;
const NEW: u64 = 20;

/// The age at which values are due for a refresh.
const AGE: Duration = Duration::from_millis(5);

/// The classes that share values over Redis.
const SHARED: [Consistency; 3] = [Consistency::Realtime, MINUTE, Consistency::L2Only];

type Prices = TieredCache<u64, u64>;

async fn cache_with(
    server: &Server,
    consistency: Consistency,
    set_up: impl FnOnce(LocalCacheBuilder<u64, u64>) -> LocalCacheBuilder<u64, u64>,
) -> Prices {
    let set_up = |local| set_up(local).lease(LONG_LEASE);
    let builder = builder_with(&server.url(), consistency, set_up);
    let cache = builder.build().unwrap();
    wait_until_proven(&cache).await;
    forget_lost_readers(&server.url());
    cache
}

async fn cache(server: &Server, consistency: Consistency) -> Prices {
    cache_with(server, consistency, |local| local).await
}

/// Returns a cache whose values are due for a refresh at [`AGE`].
async fn refreshing(server: &Server, consistency: Consistency) -> Prices {
    cache_with(server, consistency, |local| local.refresh_after(AGE)).await
}

/// The result of a call for key 1.
type Found = Result<u64, LoadError<&'static str>>;

/// A call whose database query has begun, and ends on command.
struct Query {
    end: Arc<Semaphore>,
    caller: JoinHandle<Found>,
}

/// The loader of a [`Query`].
struct Loader {
    begun: Arc<Semaphore>,
    end: Arc<Semaphore>,
    result: Result<u64, &'static str>,
}

impl Loader {
    async fn run(self) -> Result<u64, &'static str> {
        self.begun.add_permits(1);
        drop(self.end.acquire().await.unwrap());
        self.result
    }
}

impl Query {
    /// Spawns the call that `call` makes with a loader of `result`, and waits until the loader runs.
    async fn begin<F>(result: Result<u64, &'static str>, call: impl FnOnce(Loader) -> F) -> Self
    where
        F: Future<Output = Found> + Send + 'static,
    {
        let (begun, end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let loader = Loader {
            begun: Arc::clone(&begun),
            end: Arc::clone(&end),
            result,
        };
        let caller = tokio::spawn(call(loader));
        drop(begun.acquire().await.unwrap());
        Self { end, caller }
    }

    async fn end(self) -> Found {
        self.end.add_permits(1);
        self.caller.await.unwrap()
    }
}

/// Begins a refresh of key 1 whose loader returns `result` on command.
async fn refresh_of(cache: &Prices, result: Result<u64, &'static str>) -> Query {
    let cache = cache.clone();
    let call = |loader: Loader| async move { cache.refresh_async(&1, |_| loader.run()).await };
    Query::begin(result, call).await
}

/// Begins a `get_or_load` of key 1 whose loader returns `result` on command.
async fn load_of(cache: &Prices, result: Result<u64, &'static str>) -> Query {
    let cache = cache.clone();
    let call = |loader: Loader| async move { cache.get_or_load_async(&1, |_| loader.run()).await };
    Query::begin(result, call).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_replaces_the_value_in_all_processes_and_serves_the_old_one_meanwhile() {
    for consistency in SHARED {
        let server = Server::start();
        let caches = [
            cache(&server, consistency).await,
            cache(&server, consistency).await,
        ];
        let [one, other] = &caches;
        let load = |_| async { Ok::<_, Infallible>(Loaded::new(OLD).tags(["tag"])) };
        for cache in &caches {
            assert_eq!(cache.get_or_load_entry_async(&1, load).await.unwrap(), OLD);
        }
        let query = refresh_of(one, Ok(NEW)).await;
        for cache in &caches {
            assert_eq!(cache.get(&1).await, Some(OLD), "{consistency:?}");
            assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), OLD);
        }
        assert_eq!(query.end().await.unwrap(), NEW);
        for cache in &caches {
            soon_async("the new value is served", || async {
                cache.get(&1).await == Some(NEW)
            })
            .await;
        }
        let stats = one.tier_stats();
        assert_eq!(
            (stats.loads, stats.invalidations),
            (2, 1),
            "{consistency:?}"
        );
        // The new entry has the tags of the old one.
        assert_eq!(other.invalidate_tag("tag").await, Propagation::Acknowledged);
        soon_async("the entry with the tag is invalid", || async {
            one.get(&1).await.is_none()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_refreshes_of_several_processes_load_once() {
    for consistency in SHARED {
        let server = Server::start();
        let one = cache(&server, consistency).await;
        let other = cache(&server, consistency).await;
        one.insert(1, OLD).await;
        let query = refresh_of(&one, Ok(NEW)).await;
        let joining: Vec<_> = [&one, &other]
            .map(|cache| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.refresh_async(&1, fails).await })
            })
            .into();
        soon("the other process waits", || {
            other.tier_stats().l2_waits > 0
        })
        .await;
        assert_eq!(query.end().await.unwrap(), NEW);
        for joined in joining {
            assert_eq!(joined.await.unwrap().unwrap(), NEW, "{consistency:?}");
        }
        assert_eq!((one.tier_stats().loads, other.tier_stats().loads), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_refresh_keeps_the_value_and_lets_another_process_load() {
    let server = Server::start();
    let (one, other) = (cache(&server, MINUTE).await, cache(&server, MINUTE).await);
    one.insert(1, OLD).await;
    let query = refresh_of(&one, Err("no database")).await;
    let joining = {
        let other = other.clone();
        tokio::spawn(async move { other.refresh_async(&1, |_| value(NEW)).await })
    };
    soon("the other process waits", || {
        other.tier_stats().l2_waits > 0
    })
    .await;
    let error = query.end().await.unwrap_err();
    assert!(matches!(error, LoadError::Failed(_)), "{error:?}");
    // The lease of the failed load is released, so this does not wait for its end.
    assert_eq!(joining.await.unwrap().unwrap(), NEW);
    let error = one.refresh_async(&1, fails).await.unwrap_err();
    assert!(matches!(error, LoadError::Failed(_)), "{error:?}");
    soon_async("the new value is served", || async {
        one.get(&1).await == Some(NEW)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_of_a_key_that_is_invalidated_during_its_refresh_is_not_stored() {
    for consistency in SHARED {
        let server = Server::start();
        let one = cache(&server, consistency).await;
        let other = cache(&server, consistency).await;
        for changing in [&one, &other] {
            one.insert(1, OLD).await;
            let query = refresh_of(&one, Ok(NEW)).await;
            assert_eq!(changing.invalidate(&1).await, Propagation::Acknowledged);
            assert_eq!(query.end().await.unwrap(), NEW);
            for cache in [&one, &other] {
                soon_async("the value is not stored", || async {
                    cache.get(&1).await.is_none()
                })
                .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loader_of_refresh_with_is_given_the_value_of_either_level() {
    let server = Server::start();
    let (one, other) = (cache(&server, MINUTE).await, cache(&server, MINUTE).await);
    let add = |old: Option<u64>| async move { Ok::<_, Infallible>(old.unwrap_or(0) + 1) };
    for (cache, expected) in [(&one, 1), (&one, 2), (&other, 3), (&one, 4)] {
        assert_eq!(cache.refresh_with_async(&1, add).await.unwrap(), expected);
        assert_eq!(cache.get(&1).await, Some(expected));
    }
    let (one, other) = (one.blocking(), other.blocking());
    std::thread::spawn(move || {
        let add = |old: Option<u64>| Ok::<_, Infallible>(old.unwrap_or(0) + 1);
        assert_eq!(other.refresh_with(&1, add).unwrap(), 5);
        assert_eq!(
            one.refresh(&1, |key| Ok::<_, Infallible>(key + 6)).unwrap(),
            7
        );
        assert_eq!(one.get(&1), Some(7));
        assert!(one.refresh(&1, |_| Err("no database")).is_err());
        assert_eq!(other.refresh_with(&1, add).unwrap(), 8);
    })
    .join()
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_without_redis_is_stored_in_l1() {
    let server = Server::start();
    let one = cache(&server, MINUTE).await;
    one.insert(1, OLD).await;
    drop(server);
    for new in [NEW, 30] {
        assert_eq!(one.refresh_async(&1, |_| value(new)).await.unwrap(), new);
        assert_eq!(one.get(&1).await, Some(new));
    }
    assert_eq!(one.health().queued, 0, "a refresh is no change");
}

/// Inserts the old value of key 1, and waits until it is due for a refresh.
async fn insert_due(cache: &Prices) {
    cache.insert(1, OLD).await;
    let inserted = Instant::now();
    soon("the value is due", || inserted.elapsed() > 2 * AGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_due_by_its_age_is_served_while_one_process_loads_it() {
    for consistency in SHARED {
        let server = Server::start();
        let one = refreshing(&server, consistency).await;
        let other = refreshing(&server, consistency).await;
        insert_due(&one).await;
        let query = load_of(&one, Ok(NEW)).await;
        for _ in 0..20 {
            for cache in [&one, &other] {
                let found = cache.get_or_load_async(&1, fails).await.unwrap();
                assert_eq!(found, OLD, "{consistency:?}");
            }
        }
        assert_eq!((one.tier_stats().loads, other.tier_stats().loads), (1, 0));
        assert_eq!(query.end().await.unwrap(), NEW);
        for cache in [&one, &other] {
            // A failed load leaves the value, so the new one comes from the process that has loaded it.
            soon_async("the new value arrives", || async {
                cache.get_or_load_async(&1, fails).await.unwrap() == NEW
            })
            .await;
        }
        // The insertion was published, and the refresh was not.
        assert_eq!(one.tier_stats().invalidations, 1);
        assert!(one.stats().refreshes > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn value_due_by_its_age_is_refreshed_through_the_traits_and_by_threads() {
    let server = Server::start();
    let cache = refreshing(&server, MINUTE).await;
    insert_due(&cache).await;
    let dynamic: Arc<dyn AsyncCache<u64, u64>> = Arc::new(cache.clone());
    let found = dynamic.get_or_load_async(&1, |_| value(NEW)).await.unwrap();
    assert_eq!(found, NEW);
    insert_due(&cache).await;
    let blocking = cache.blocking();
    let found = std::thread::spawn(move || blocking.get_or_load(&1, |_| Ok::<_, Infallible>(NEW)));
    assert_eq!(found.join().unwrap().unwrap(), NEW);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_refresh_by_a_rule_keeps_the_value() {
    let server = Server::start();
    let cache = refreshing(&server, MINUTE).await;
    insert_due(&cache).await;
    let query = load_of(&cache, Err("no database")).await;
    assert_eq!(query.end().await.unwrap(), OLD);
    assert_eq!(cache.get(&1).await, Some(OLD));
    let stats = cache.stats();
    assert_eq!((stats.load_failures, stats.refreshes), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_changes_during_its_refresh_by_a_rule_prevails() {
    for consistency in SHARED {
        let server = Server::start();
        let one = refreshing(&server, consistency).await;
        let other = cache(&server, consistency).await;
        insert_due(&one).await;
        let query = load_of(&one, Ok(NEW)).await;
        assert_eq!(other.insert(1, 30).await, Propagation::Acknowledged);
        assert_eq!(query.end().await.unwrap(), NEW);
        soon_async("the inserted value is served", || async {
            one.get(&1).await == Some(30)
        })
        .await;
        assert_eq!(other.get(&1).await, Some(30), "{consistency:?}");
        assert_eq!(one.tier_stats().lost_fills, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uncached_result_of_a_refresh_removes_the_value() {
    let server = Server::start();
    let one = refreshing(&server, MINUTE).await;
    let other = cache(&server, MINUTE).await;
    insert_due(&one).await;
    assert_eq!(other.get(&1).await, Some(OLD));
    let load = |_| async { Ok::<_, Infallible>(Loaded::uncached(NEW)) };
    assert_eq!(one.get_or_load_entry_async(&1, load).await.unwrap(), NEW);
    for cache in [&one, &other] {
        soon_async("the value is removed", || async {
            cache.get(&1).await.is_none()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn early_refresh_knows_the_duration_of_the_load_of_another_process() {
    for consistency in SHARED {
        let server = Server::start();
        // With this `beta`, a value whose load took a microsecond is due at once.
        let early = |local: LocalCacheBuilder<u64, u64>| local.early_refresh(1e12);
        let one = cache_with(&server, consistency, early).await;
        let other = cache_with(&server, consistency, early).await;
        assert_eq!(
            one.get_or_load_async(&1, |_| value(OLD)).await.unwrap(),
            OLD
        );
        assert_eq!(other.get(&1).await, Some(OLD));
        let found = other.get_or_load_async(&1, |_| value(NEW)).await.unwrap();
        assert_eq!(found, NEW, "{consistency:?}");
        assert_eq!(other.tier_stats().fills, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uncached_result_of_a_refresh_without_redis_invalidates_no_other_key() {
    let server = Server::start();
    let one = refreshing(&server, Consistency::L1Only).await;
    let other = cache(&server, Consistency::L1Only).await;
    insert_due(&one).await;
    one.insert(2, OLD).await;
    soon("the insertions arrive", || other.tier_stats().events == 2).await;
    for key in [1, 2] {
        let found = other.get_or_load_async(&key, |_| value(OLD)).await;
        assert_eq!(found.unwrap(), OLD);
    }
    let load = |_| async { Ok::<_, Infallible>(Loaded::uncached(NEW)) };
    assert_eq!(one.get_or_load_entry_async(&1, load).await.unwrap(), NEW);
    soon_async("the value is removed in the other process", || async {
        other.get(&1).await.is_none()
    })
    .await;
    assert_eq!(one.get(&1).await, None);
    assert_eq!(one.get(&2).await, Some(OLD));
    assert_eq!(other.get(&2).await, Some(OLD));
}

// With one thread, no reply of Redis arrives during a poll.
#[tokio::test]
async fn refresh_that_is_dropped_while_it_is_published_leaves_no_old_value_in_its_process() {
    let server = Server::start();
    let one = cache(&server, Consistency::Realtime).await;
    let other = cache(&server, Consistency::Realtime).await;
    one.insert(1, OLD).await;
    assert_eq!(other.get(&1).await, Some(OLD));
    let (begun, end) = (&Semaphore::new(0), &Semaphore::new(0));
    let load = |_| async {
        begun.add_permits(1);
        drop(end.acquire().await.unwrap());
        Ok::<_, Infallible>(NEW)
    };
    let mut refresh = Box::pin(one.refresh_async(&1, load));
    tokio::select! {
        result = &mut refresh => panic!("the loader has not ended: {result:?}"),
        begun = begun.acquire() => drop(begun.unwrap()),
    }
    end.add_permits(1);
    // The loader ends, and the value is sent to Redis.
    let polled = futures_util::poll!(&mut refresh);
    assert!(polled.is_pending(), "{polled:?}");
    drop(refresh);
    for cache in [&other, &one] {
        soon_async("the old value is invalid", || async {
            cache.get(&1).await != Some(OLD)
        })
        .await;
    }
    let found = [one.get(&1).await, other.get(&1).await];
    assert_eq!(found[0], found[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_another_process_has_refreshed_is_adopted_whatever_its_time_to_live() {
    let endless = |_| LocalCache::builder().capacity(100).refresh_after(AGE);
    for consistency in [Consistency::Realtime, MINUTE] {
        for ttl in [Duration::from_secs(10), Duration::MAX] {
            let server = Server::start();
            let one = cache_with(&server, consistency, endless).await;
            let other = cache_with(&server, consistency, endless).await;
            insert_due(&one).await;
            assert_eq!(other.get(&1).await, Some(OLD));
            let load = |_| async move { Ok::<_, Infallible>(Loaded::new(NEW).ttl(ttl)) };
            assert_eq!(one.get_or_load_entry_async(&1, load).await.unwrap(), NEW);
            // A failed load leaves the value, so the new one comes from the process that has loaded it.
            let found = other.get_or_load_async(&1, fails).await.unwrap();
            assert_eq!(found, NEW, "{consistency:?} {ttl:?}");
            assert_eq!(other.get(&1).await, Some(NEW));
        }
    }
}

/// Returns the largest number of attempts that one process makes to refresh a key from `begun` until now.
fn most_attempts_since(begun: Instant) -> u64 {
    begun.elapsed().as_secs() + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_of_a_value_that_another_process_refreshes_ask_redis_once_per_second() {
    for consistency in SHARED {
        let server = Server::start();
        let one = refreshing(&server, consistency).await;
        let other = refreshing(&server, consistency).await;
        insert_due(&one).await;
        assert_eq!(other.get(&1).await, Some(OLD));
        let query = load_of(&one, Ok(NEW)).await;
        let lookups = || other.tier_stats().calls.lookup.times.count();
        let (begun, before) = (Instant::now(), lookups());
        for _ in 0..50 {
            assert_eq!(other.get_or_load_async(&1, fails).await.unwrap(), OLD);
        }
        // Without L1 each call asks for the value.
        let expected = if consistency == Consistency::L2Only {
            50
        } else {
            0
        };
        let asked = lookups() - before - expected;
        assert!(
            asked <= most_attempts_since(begun),
            "{consistency:?}: {asked}"
        );
        assert_eq!(query.end().await.unwrap(), NEW);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loader_that_fails_to_refresh_a_value_is_called_once_per_second() {
    for consistency in SHARED {
        let server = Server::start();
        let cache = refreshing(&server, consistency).await;
        insert_due(&cache).await;
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), OLD);
        }
        let loads = cache.tier_stats().loads;
        assert!(
            (1..=most_attempts_since(begun)).contains(&loads),
            "{consistency:?}: {loads}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn result_of_a_refresh_is_stored_although_the_old_value_has_expired() {
    for consistency in SHARED {
        let server = Server::start();
        let early = |local: LocalCacheBuilder<u64, u64>| local.early_refresh(1e12);
        let one = cache_with(&server, consistency, early).await;
        let other = cache(&server, consistency).await;
        for by_rule in [true, false] {
            let ttl = Duration::from_millis(100);
            let load = |_| async move { Ok::<_, Infallible>(Loaded::new(OLD).ttl(ttl)) };
            let _ = one.invalidate(&1).await;
            assert_eq!(one.get_or_load_entry_async(&1, load).await.unwrap(), OLD);
            let query = if by_rule {
                load_of(&one, Ok(NEW)).await
            } else {
                refresh_of(&one, Ok(NEW)).await
            };
            soon_async("the old value has expired", || async {
                other.get(&1).await.is_none() && one.get(&1).await.is_none()
            })
            .await;
            assert_eq!(query.end().await.unwrap(), NEW);
            for cache in [&one, &other] {
                assert_eq!(cache.get(&1).await, Some(NEW), "{consistency:?} {by_rule}");
            }
        }
        assert_eq!(one.tier_stats().lost_fills, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_of_any_kind_prevails_over_a_refresh() {
    let load = |_| async { Ok::<_, Infallible>(Loaded::new(OLD).tags(["tag"])) };
    for consistency in SHARED {
        let server = Server::start();
        let one = refreshing(&server, consistency).await;
        let other = cache(&server, consistency).await;
        for by_rule in [true, false] {
            for kind in ["key", "tag", "all"] {
                let _ = one.invalidate(&1).await;
                assert_eq!(one.get_or_load_entry_async(&1, load).await.unwrap(), OLD);
                let loaded = Instant::now();
                soon("the value is due", || loaded.elapsed() > 2 * AGE).await;
                let query = if by_rule {
                    tagged_load_of(&one).await
                } else {
                    refresh_of(&one, Ok(NEW)).await
                };
                let propagation = match kind {
                    "key" => other.invalidate(&1).await,
                    "tag" => other.invalidate_tag("tag").await,
                    _ => other.clear().await,
                };
                assert_eq!(propagation, Propagation::Acknowledged);
                assert_eq!(query.end().await.unwrap(), NEW);
                for cache in [&one, &other] {
                    soon_async("the value is not stored", || async {
                        cache.get(&1).await.is_none()
                    })
                    .await;
                }
            }
        }
        assert_eq!(one.tier_stats().lost_fills, 6, "{consistency:?}");
    }
}

/// Begins a `get_or_load` of key 1 whose loader returns the new value with a tag on command.
async fn tagged_load_of(cache: &Prices) -> Query {
    let cache = cache.clone();
    let call = |loader: Loader| async move {
        let load = |_| async {
            let loaded = loader.run().await;
            loaded.map(|value| Loaded::new(value).tags(["tag"]))
        };
        cache.get_or_load_entry_async(&1, load).await
    };
    Query::begin(Ok(NEW), call).await
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_by_a_loader_of_the_same_key_is_recursive() {
    for consistency in SHARED {
        let server = Server::start();
        let cache = &cache(&server, consistency).await;
        cache.insert(1, OLD).await;
        let inner = async |_| {
            cache
                .refresh_async(&1, fails)
                .await
                .map_err(|it| it.to_string())
        };
        let recursive = LoadError::<&str>::Recursive.to_string();
        let error = cache.refresh_async(&1, inner).await.unwrap_err();
        assert_eq!(error.as_inner(), Some(&recursive), "{consistency:?}");
        assert_eq!(cache.get(&1).await, Some(OLD));
        let error = cache.get_or_load_async(&2, async |_| {
            cache
                .refresh_async(&2, fails)
                .await
                .map_err(|it| it.to_string())
        });
        assert_eq!(error.await.unwrap_err().as_inner(), Some(&recursive));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loader_that_refreshes_another_key_needs_no_second_permit() {
    let server = Server::start();
    let one = |local: LocalCacheBuilder<u64, u64>| local.max_concurrent_loads(1);
    let cache = &cache_with(&server, MINUTE, one).await;
    let inner = async |_| {
        cache
            .refresh_async(&2, |_| value(OLD))
            .await
            .map_err(|_| "failed")
    };
    assert_eq!(cache.refresh_async(&1, inner).await.unwrap(), OLD);
    assert_eq!(cache.get(&2).await, Some(OLD));
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_that_is_dropped_or_panics_lets_another_process_load_at_once() {
    for consistency in SHARED {
        let server = Server::start();
        let one = cache(&server, consistency).await;
        let other = cache(&server, consistency).await;
        one.insert(1, OLD).await;
        for panics in [false, true] {
            let query = refresh_of(&one, Ok(NEW)).await;
            let waits = other.tier_stats().l2_waits;
            let joining = {
                let other = other.clone();
                tokio::spawn(async move { other.refresh_async(&1, |_| value(NEW)).await })
            };
            soon("the other process waits", || {
                other.tier_stats().l2_waits > waits
            })
            .await;
            if panics {
                query.end.close();
                assert!(query.caller.await.unwrap_err().is_panic());
            } else {
                query.caller.abort();
            }
            let joined = in_time(joining).await;
            assert_eq!(joined.unwrap().unwrap(), NEW, "{consistency:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_joins_the_load_of_another_process() {
    for consistency in SHARED {
        let server = Server::start();
        let one = cache(&server, consistency).await;
        let other = cache(&server, consistency).await;
        let query = load_of(&one, Ok(NEW)).await;
        let joining = {
            let other = other.clone();
            tokio::spawn(async move { other.refresh_async(&1, fails).await })
        };
        soon("the other process waits", || {
            other.tier_stats().l2_waits > 0
        })
        .await;
        assert_eq!(query.end().await.unwrap(), NEW);
        assert_eq!(joining.await.unwrap().unwrap(), NEW, "{consistency:?}");
        assert_eq!((one.tier_stats().loads, other.tier_stats().loads), (1, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_that_waits_for_another_process_ends_at_its_wait_timeout() {
    let server = Server::start();
    let limited =
        |local: LocalCacheBuilder<u64, u64>| local.wait_timeout(Duration::from_millis(50));
    let one = cache(&server, MINUTE).await;
    let other = cache_with(&server, MINUTE, limited).await;
    one.insert(1, OLD).await;
    let query = refresh_of(&one, Ok(NEW)).await;
    let error = other.refresh_async(&1, fails).await.unwrap_err();
    assert!(matches!(error, LoadError::WaitTimeout), "{error:?}");
    assert_eq!(other.get(&1).await, Some(OLD));
    assert_eq!(query.end().await.unwrap(), NEW);
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_counts_what_becomes_of_its_value() {
    let server = Server::start();
    let one = cache(&server, MINUTE).await;
    one.insert(1, OLD).await;
    assert_eq!(one.refresh_async(&1, |_| value(NEW)).await.unwrap(), NEW);
    let query = refresh_of(&one, Ok(NEW)).await;
    let _ = one.invalidate(&1).await;
    assert_eq!(query.end().await.unwrap(), NEW);
    drop(server);
    assert_eq!(one.refresh_async(&1, |_| value(NEW)).await.unwrap(), NEW);
    let stats = one.tier_stats();
    let counts = (stats.fills, stats.lost_fills, stats.unleased_values);
    assert_eq!(counts, (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshed_value_that_redis_cannot_store_is_not_replaced_by_an_older_one() {
    let server = Server::start();
    let cache = refreshing(&server, MINUTE).await;
    insert_due(&cache).await;
    let load = |_| async {
        let tags = (0..65).map(|tag| tag.to_string());
        Ok::<_, Infallible>(Loaded::new(NEW).tags(tags))
    };
    let found = cache.get_or_load_entry_async(&1, load).await.unwrap();
    assert_eq!(found, NEW);
    let loads = cache.tier_stats().loads;
    soon_async("the value is due again", || async {
        assert_eq!(cache.get_or_load_async(&1, fails).await.unwrap(), NEW);
        cache.tier_stats().loads > loads
    })
    .await;
    assert_eq!(cache.get(&1).await, Some(NEW));
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_waits_for_a_permit_without_the_lease_and_refresh_by_a_rule_does_not_wait() {
    for consistency in SHARED {
        let server = Server::start();
        let limited =
            |local: LocalCacheBuilder<u64, u64>| local.refresh_after(AGE).max_concurrent_loads(1);
        let one = cache_with(&server, consistency, limited).await;
        let other = cache(&server, consistency).await;
        insert_due(&one).await;
        let (begun, end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let blocking = {
            let (one, begun, end) = (one.clone(), Arc::clone(&begun), Arc::clone(&end));
            tokio::spawn(async move {
                let load = |_| async move {
                    begun.add_permits(1);
                    drop(end.acquire().await.unwrap());
                    Ok::<_, Infallible>(OLD)
                };
                one.get_or_load_async(&2, load).await.unwrap()
            })
        };
        drop(begun.acquire().await.unwrap());
        // The only permit is taken.
        assert_eq!(one.get_or_load_async(&1, fails).await.unwrap(), OLD);
        let waiting = {
            let one = one.clone();
            tokio::spawn(async move { one.refresh_async(&1, |_| value(NEW)).await })
        };
        soon("the refresh waits", || one.tier_stats().queued_loads > 0).await;
        let found = in_time(other.refresh_async(&1, |_| value(30))).await;
        assert_eq!(found.unwrap(), 30, "{consistency:?}");
        end.add_permits(1);
        let waited = in_time(waiting).await;
        assert_eq!(waited.unwrap().unwrap(), NEW);
        assert_eq!(blocking.await.unwrap(), OLD);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_process_serves_the_new_value_once_refresh_has_returned() {
    for consistency in [Consistency::Realtime, Consistency::L2Only] {
        let server = Server::start();
        let one = cache(&server, consistency).await;
        let other = cache(&server, consistency).await;
        for new in 0..100 {
            assert_eq!(one.refresh_async(&1, |_| value(new)).await.unwrap(), new);
            assert_eq!(other.get(&1).await, Some(new), "{consistency:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshed_value_expires_by_the_rule_of_the_cache() {
    let server = Server::start();
    let limit = Duration::from_secs(20);
    let rule =
        move |local: LocalCacheBuilder<u64, u64>| local.expire_after(move |_, _| Some(limit));
    let one = cache_with(&server, MINUTE, rule).await;
    let other = cache(&server, MINUTE).await;
    assert_eq!(one.refresh_async(&1, |_| value(NEW)).await.unwrap(), NEW);
    for cache in [&one, &other] {
        let left = cache.remaining_ttl(&1).await.unwrap();
        assert!(left <= limit, "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refresh_in_shadow_mode_does_not_call_redis() {
    let server = Server::start();
    let cache = cache(&server, MINUTE).await;
    cache.rollout().set_shadow(true);
    assert_eq!(cache.refresh_async(&1, |_| value(NEW)).await.unwrap(), NEW);
    assert_eq!(cache.get(&1).await, Some(NEW));
    let calls = cache.tier_stats().calls;
    let lookups = calls.lookup.times.count() + calls.invalidate.times.count();
    assert_eq!((lookups, cache.tier_stats().unleased_values), (0, 1));
}
