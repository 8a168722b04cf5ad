//! `retain` as an invalidation: its effect on batches, detached loads, updates and other calls of `retain`. Single
//! loads and refreshes are in `invalidation.rs` and `refresh.rs`.

use crate::common::{Cache, RUNTIME, WAYS, Way};
use hotset::__private::validate;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

fn cache() -> Cache {
    Cache::builder().capacity(100).shards(4).build().unwrap()
}

#[test]
fn batch_started_before_retain_is_not_stored() {
    let pairs = |cache: &Cache, missing: Vec<u32>| {
        cache.retain(|_, _| true);
        Ok::<_, Infallible>(missing.into_iter().map(|key| (key, u64::from(key))))
    };
    for way in WAYS {
        let cache = cache();
        let found = match way {
            Way::Thread => cache.get_many_or_load(&[1, 2, 3], |missing| pairs(&cache, missing)),
            Way::Task => {
                RUNTIME.block_on(cache.get_many_or_load_async(&[1, 2, 3], async |missing| {
                    let pairs = pairs(&cache, missing);
                    tokio::task::yield_now().await;
                    pairs
                }))
            }
        };
        assert_eq!(found.unwrap(), [1, 2, 3].map(Some));
        assert_eq!(cache.len(), 0);
        assert_eq!(cache.stats().outdated, 3);
        validate(&cache);
    }
}

#[cfg(feature = "tokio")]
#[test]
fn detached_load_started_before_retain_is_not_stored() {
    let cache = cache();
    let retaining = cache.clone();
    let load = |_| async move {
        retaining.retain(|_, _| true);
        Ok::<_, Infallible>(10)
    };
    let found = RUNTIME.block_on(cache.detached().get_or_load_async(&1, load));
    assert_eq!((found.unwrap(), cache.get(&1)), (10, None));
    validate(&cache);
}

#[test]
fn load_started_while_retain_calls_its_closure_is_stored() {
    let cache = Cache::builder().capacity(10).shards(1).build().unwrap();
    cache.insert(1, 10);
    cache.retain(|_, _| {
        let found = cache.get_or_load(&2, |_| Ok::<_, Infallible>(20));
        found.unwrap() == 20
    });
    assert_eq!((cache.get(&1), cache.get(&2)), (Some(10), Some(20)));
    validate(&cache);
}

#[test]
fn update_in_flight_during_retain_is_not_lost() {
    let cache = cache();
    cache.insert(1, 10);
    for (keeps, expected) in [(true, 11), (false, 1)] {
        let mut seen = Vec::new();
        let updated = cache.update(&1, |value| {
            if seen.is_empty() {
                cache.retain(|_, _| keeps);
            }
            seen.push(value.copied());
            Some(value.map_or(1, |value| value + 1))
        });
        let second = keeps.then_some(expected - 1);
        assert_eq!(seen[1..], [second]);
        assert_eq!((updated, cache.get(&1)), (Some(expected), Some(expected)));
    }
    validate(&cache);
}

#[test]
fn concurrent_retains_remove_the_entries_of_both() {
    let cache = Cache::new(1_000);
    for _ in 0..50 {
        (0..100).for_each(|key| cache.insert(key, 0));
        thread::scope(|scope| {
            for part in 0..4 {
                let cache = &cache;
                scope.spawn(move || cache.retain(|key, _| key % 8 != part));
            }
        });
        let mut left: Vec<u32> = cache.iter().map(|(key, _)| key).collect();
        left.sort_unstable();
        let expected: Vec<u32> = (0..100).filter(|key| key % 8 >= 4).collect();
        assert_eq!(left, expected);
    }
    validate(&cache);
}

/// After a change of the database and a `retain`, no reader gets an older value.
#[test]
fn read_after_retain_is_not_older_than_the_write_before_it() {
    const ROUNDS: u64 = 3_000;
    let cache = Cache::builder().capacity(100).shards(2).build().unwrap();
    let (database, acknowledged) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..=ROUNDS {
                database.store(version, SeqCst);
                cache.retain(|key, _| *key != 1);
                acknowledged.store(version, SeqCst);
                thread::yield_now();
            }
        });
        for way in WAYS {
            let (cache, database, acknowledged) = (&cache, &database, &acknowledged);
            scope.spawn(move || {
                while acknowledged.load(SeqCst) < ROUNDS {
                    let least = acknowledged.load(SeqCst);
                    let read = || {
                        let version = database.load(SeqCst);
                        thread::yield_now();
                        Ok::<_, Infallible>(version)
                    };
                    let found = match way {
                        Way::Thread => cache.get_or_load(&1, |_| read()),
                        Way::Task => {
                            RUNTIME.block_on(cache.get_or_load_async(&1, async |_| read()))
                        }
                    };
                    let found = found.unwrap();
                    assert!(found >= least, "{found} after {least}");
                }
            });
        }
    });
    validate(&cache);
}
