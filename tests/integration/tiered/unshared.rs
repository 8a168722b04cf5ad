//! Values that Redis cannot store and keys that cannot be encoded: both stay in L1.

use super::servers::{Server, soon};
use super::{DEADLINE, HEARTBEAT, MINUTE, value};
use hotset::{
    AsyncCache, Consistency, Loaded, LocalCache, Propagation, Schema, Schemas, TieredCache, Warning,
};
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use std::borrow::Cow;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use support::caches::wait_until_proven;
use tokio::sync::Semaphore;

/// The classes in which L1 stores values.
const CLASSES_WITH_L1: [Consistency; 3] = [Consistency::Realtime, MINUTE, Consistency::L1Only];

async fn cache<K, V>(url: &str, consistency: Consistency) -> TieredCache<K, V>
where
    K: Eq + Hash + Clone + Serialize + DeserializeOwned + Send + Sync + 'static,
    V: Schema + Clone + Send + Sync + 'static,
{
    let cache = LocalCache::builder()
        .capacity(1_000)
        .redis_with_schemas(url, "test", Schemas::new("key", V::schema()))
        .consistency(consistency)
        .heartbeat(HEARTBEAT)
        .deadline(DEADLINE)
        .max_value_size(10_000)
        .build()
        .unwrap();
    wait_until_proven(&cache).await;
    cache
}

/// A number that can be serialized only if it is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
struct Odd(u64);

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 2 == 1 {
            self.0.serialize(serializer)
        } else {
            Err(serde::ser::Error::custom("it is even"))
        }
    }
}

impl Schema for Odd {
    fn schema() -> Cow<'static, str> {
        "odd".into()
    }
}

/// Returns the result of a write whose value Redis cannot store.
fn propagation(consistency: Consistency) -> Propagation {
    // In the class `L1Only` no value is meant for Redis.
    if consistency == Consistency::L1Only {
        Propagation::Acknowledged
    } else {
        Propagation::NotShared
    }
}

/// Checks that values which Redis cannot store replace `old` and stay in L1, for each kind of write.
async fn check_stays_in_l1<K, V>(keys: [K; 4], old: Option<V>, new: V, tags: usize)
where
    K: Eq + Hash + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
    V: Schema + Clone + PartialEq + Debug + Send + Sync + 'static,
{
    let loaded_new = || {
        let tags = (0..tags).map(|tag| format!("tag {tag}"));
        Loaded::new(new.clone()).tags(tags)
    };
    for consistency in CLASSES_WITH_L1 {
        let server = Server::start();
        let one = cache::<K, V>(&server.url(), consistency).await;
        let other = cache::<K, V>(&server.url(), consistency).await;
        if let Some(old) = &old {
            for key in &keys {
                one.insert(key.clone(), old.clone()).await;
                other
                    .get_or_load_async(key, |_| value(old.clone()))
                    .await
                    .unwrap();
            }
        }
        let [inserted, written, loaded, in_batch] = &keys;
        let expected = propagation(consistency);
        let result = one.insert_loaded(inserted.clone(), loaded_new()).await;
        assert_eq!(result, expected, "{consistency:?}");
        let result = one
            .write_through_loaded(written.clone(), loaded_new(), |_| value(()))
            .await;
        assert_eq!(result, Ok(expected), "{consistency:?}");
        one.invalidate(loaded).await;
        let result = one
            .get_or_load_entry_async(loaded, |_| value(loaded_new()))
            .await;
        assert_eq!(result.unwrap(), new);
        one.invalidate(in_batch).await;
        let load = |keys: Vec<K>| value(keys.into_iter().map(|key| (key, loaded_new())));
        let result = one.get_many_or_load_entries_async([in_batch], load);
        assert_eq!(result.await.unwrap(), [Some(new.clone())]);
        for key in &keys {
            assert_eq!(
                one.get(key).await,
                Some(new.clone()),
                "{key:?} {consistency:?}"
            );
        }
        // No process has the old value.
        if let Some(old) = &old {
            soon("the events arrive", || other.tier_stats().events >= 8).await;
            for key in &keys {
                assert_eq!(other.get(key).await, None, "{old:?} {consistency:?}");
            }
        }
        // Leases are released in the background.
        soon("Redis has no entry", || server.entries("test").is_empty()).await;
        assert_eq!(one.tier_stats().l2_failures, 0);
        // Other processes can invalidate the new value.
        let events = one.tier_stats().events;
        assert_eq!(other.get(inserted).await, None);
        for key in &keys {
            assert_eq!(other.invalidate(key).await, Propagation::Acknowledged);
        }
        soon("the events arrive", || {
            one.tier_stats().events >= events + 4
        })
        .await;
        for key in &keys {
            assert_eq!(one.get(key).await, None, "{consistency:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn value_above_max_value_size_stays_in_l1_and_replaces_the_old_one() {
    let new = "new".repeat(10_000);
    check_stays_in_l1([1_u64, 2, 3, 4], Some("old".to_string()), new, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_with_more_than_64_tags_stays_in_l1_and_replaces_the_old_one() {
    check_stays_in_l1([1_u64, 2, 3, 4], Some(10_u64), 11, 300).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_does_not_serialize_stays_in_l1_and_replaces_the_old_one() {
    check_stays_in_l1([1_u64, 2, 3, 4], Some(Odd(1)), Odd(2), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_under_a_key_above_1_kib_stays_in_l1_and_others_can_invalidate_it() {
    let keys = [2_000, 5_000, 30_000, 60_000].map(|length| "k".repeat(length));
    check_stays_in_l1(keys, None, 11_u64, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_redis_cannot_store_is_not_stored_in_class_l2_only() {
    let server = Server::start();
    let cache: TieredCache<u64, String> = cache(&server.url(), Consistency::L2Only).await;
    let large = "large".repeat(10_000);
    cache.insert(1, "old".into()).await;
    assert_eq!(cache.insert(1, large.clone()).await, Propagation::NotShared);
    assert_eq!(cache.get(&1).await, None);
    let written = cache.write_through(1, large, |_| value(())).await;
    assert_eq!(written, Ok(Propagation::NotShared));
    assert_eq!(cache.get(&1).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_write_throughs_that_are_not_shared_leave_no_wrong_value_in_a_cache() {
    for consistency in [Consistency::Realtime, Consistency::L1Only] {
        let server = Server::start();
        // Redis cannot store the key.
        let one: TieredCache<String, u64> = cache(&server.url(), consistency).await;
        let other: TieredCache<String, u64> = cache(&server.url(), consistency).await;
        let key = "k".repeat(2_000);
        let database = AtomicU64::new(0);
        for round in 0..100_u64 {
            let (first, second) = (Semaphore::new(0), Semaphore::new(0));
            let is_swapped = round % 2 == 0;
            // The second change of the database is propagated first, or last.
            let early = one.write_through(key.clone(), 2 * round, |new| {
                database.store(new, SeqCst);
                first.add_permits(1);
                let (second, is_swapped) = (&second, is_swapped);
                async move {
                    if is_swapped {
                        second.acquire().await.unwrap().forget();
                    }
                    Ok::<_, ()>(())
                }
            });
            let late = async {
                first.acquire().await.unwrap().forget();
                let write = |new| {
                    database.store(new, SeqCst);
                    value(())
                };
                let written = other.write_through(key.clone(), 2 * round + 1, write).await;
                second.add_permits(1);
                written
            };
            let (early, late) = tokio::join!(early, late);
            assert!(early.is_ok() && late.is_ok());
            let truth = database.load(SeqCst);
            if consistency == Consistency::L1Only {
                let events = || (one.tier_stats().events, other.tier_stats().events);
                soon("the events arrive", || events() == (round + 1, round + 1)).await;
            }
            for cache in [&one, &other] {
                let seen = cache
                    .get_or_load_async(&key, |_| value(truth))
                    .await
                    .unwrap();
                assert_eq!(seen, truth, "{consistency:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_of_a_tag_or_of_all_during_a_write_through_that_is_not_shared_removes_its_value()
 {
    let server = Server::start();
    let one: TieredCache<u64, String> = cache(&server.url(), Consistency::Realtime).await;
    let other: TieredCache<u64, String> = cache(&server.url(), Consistency::Realtime).await;
    for all in [false, true] {
        let new = Loaded::new("new".repeat(10_000)).tags(["shop"]);
        let write = |_| async {
            let propagation = if all {
                other.clear().await
            } else {
                other.invalidate_tag("shop").await
            };
            assert_eq!(propagation, Propagation::Acknowledged);
            Ok::<_, ()>(())
        };
        let written = one.write_through_loaded(1, new, write).await;
        assert_eq!(written, Ok(Propagation::NotShared));
        assert_eq!(one.get(&1).await, None, "all: {all}");
    }
}

/// Keys of which some have no name in Redis, and some share a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Key {
    Named(u64),
    Unnamed(Odd),
    Ambiguous {
        shared: u64,
        #[serde(skip)]
        own: u64,
    },
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_under_a_key_that_cannot_be_encoded_is_local_and_no_other_entry_changes() {
    for consistency in CLASSES_WITH_L1 {
        let server = Server::start();
        let one: TieredCache<Key, u64> = cache(&server.url(), consistency).await;
        let other: TieredCache<Key, u64> = cache(&server.url(), consistency).await;
        let beside = Key::Named(1);
        assert_eq!(
            one.insert(beside.clone(), 10).await,
            Propagation::Acknowledged
        );
        soon("the event arrives", || other.tier_stats().events == 1).await;
        other
            .get_or_load_async(&beside, |_| value(10))
            .await
            .unwrap();
        let invalidations = one.tier_stats().invalidations;
        assert_eq!(one.health().warnings, []);
        let ambiguous = |own| Key::Ambiguous { shared: 1, own };
        for key in [Key::Unnamed(Odd(2)), ambiguous(1)] {
            assert_eq!(one.insert(key.clone(), 20).await, Propagation::LocalOnly);
            assert_eq!(one.get(&key).await, Some(20), "{consistency:?}");
            let failed = one.write_through(key.clone(), 21, |_| async { Err(()) });
            assert_eq!(failed.await, Err(()));
            assert_eq!(one.get(&key).await, Some(20));
            let written = one.write_through(key.clone(), 21, |_| value(())).await;
            assert_eq!(written, Ok(Propagation::LocalOnly));
            assert_eq!(one.get(&key).await, Some(21));
            assert_eq!(one.invalidate(&key).await, Propagation::LocalOnly);
            assert_eq!(one.get(&key).await, None);
            let loaded = one.get_or_load_async(&key, |_| value(22)).await;
            assert_eq!((loaded.unwrap(), one.get(&key).await), (22, Some(22)));
            let load = |_| async { Err::<[(Key, u64); 0], _>("the loader was called") };
            let found = one.get_many_or_load_async([&key], load).await;
            assert_eq!(found.unwrap(), [Some(22)]);
            // The entry exists in one process only.
            assert_eq!(other.get(&key).await, None);
            assert_eq!(one.get(&key).await, Some(22));
            AsyncCache::invalidate(&one, &key).await;
            assert_eq!(one.get(&key).await, None);
        }
        // Another key with the same name has its own value.
        one.insert(ambiguous(2), 30).await;
        assert_eq!(one.get(&ambiguous(0)).await, None);
        for cache in [&one, &other] {
            let load = |_| async { Err::<u64, _>("the loader was called") };
            assert_eq!(cache.get_or_load_async(&beside, load).await.unwrap(), 10);
        }
        assert_eq!(one.tier_stats().invalidations, invalidations);
        // Events arrive in order: there was none before the next one.
        one.invalidate(&beside).await;
        soon("the next event arrives", || other.tier_stats().events > 1).await;
        assert_eq!(other.tier_stats().events, 2);
        assert!(one.tier_stats().unencodable > 0);
        let schema = "key".to_owned();
        assert_eq!(one.health().warnings, [Warning::UnencodableKeys { schema }]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_write_through_under_a_local_key_removes_its_entry() {
    let server = Server::start();
    let cache: TieredCache<Key, u64> = cache(&server.url(), MINUTE).await;
    let key = Key::Unnamed(Odd(2));
    cache.insert(key.clone(), 10).await;
    let begun = Semaphore::new(0);
    tokio::select! {
        _ = cache.write_through(key.clone(), 11, |_| async {
            begun.add_permits(1);
            std::future::pending::<Result<(), ()>>().await
        }) => unreachable!("the write hangs"),
        permit = begun.acquire() => permit.unwrap().forget(),
    }
    assert_eq!(cache.get(&key).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalidation_of_a_key_too_long_for_an_event_reaches_no_other_process() {
    let server = Server::start();
    let one: TieredCache<String, u64> = cache(&server.url(), MINUTE).await;
    let other: TieredCache<String, u64> = cache(&server.url(), MINUTE).await;
    let key = "k".repeat(100_000);
    assert_eq!(one.insert(key.clone(), 10).await, Propagation::LocalOnly);
    assert_eq!(one.get(&key).await, Some(10));
    assert_eq!(one.invalidate(&key).await, Propagation::LocalOnly);
    assert_eq!(one.get(&key).await, None);
    // Events arrive in order: there was none before this one.
    assert_eq!(one.invalidate("k").await, Propagation::Acknowledged);
    soon("the event arrives", || other.tier_stats().events > 0).await;
    assert_eq!(other.tier_stats().events, 1);
}
