//! Bounds are exact at every moment, over all shards, while all threads write.

use hotset::__private::validate;
use hotset::{Loaded, LocalCache, LocalCacheBuilder, Policy, RemovalCause};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

const THREADS: u64 = 8;
const CALLS: u64 = 1_500;
/// The least key that no thread uses.
const FIRST_UNUSED_KEY: u64 = 1 << 32;

/// A cache in which each value is its own weight.
type Cache = LocalCache<u64, u64>;
/// The number of calls of the removal listener, by cause.
type Notified = Arc<Mutex<HashMap<RemovalCause, u64>>>;

fn bounded(entries: usize, shards: usize) -> LocalCacheBuilder<u64, u64> {
    LocalCache::builder().capacity(entries).shards(shards)
}

fn weighted(weight: u64, shards: usize) -> LocalCacheBuilder<u64, u64> {
    LocalCache::builder()
        .max_weight(weight)
        .weigher(|_, &value| value)
        .shards(shards)
}

/// Builds a cache whose removals are counted by cause.
fn counted(builder: LocalCacheBuilder<u64, u64>) -> (Cache, Notified) {
    let notified = Notified::default();
    let listener = {
        let notified = Arc::clone(&notified);
        move |_, _, cause| *notified.lock().unwrap().entry(cause).or_default() += 1
    };
    (builder.on_removal(listener).build().unwrap(), notified)
}

fn build(builder: LocalCacheBuilder<u64, u64>) -> Cache {
    builder.build().unwrap()
}

fn load(cache: &Cache, key: u64, loaded: impl Into<Loaded<u64>>) -> u64 {
    let loaded = cache.get_or_load_entry(&key, |_| Ok::<_, Infallible>(loaded.into()));
    loaded.unwrap()
}

/// Writes random keys and weights from many threads, each of which calls `check` after each of its writes.
fn write_concurrently(cache: &Cache, keys: u64, heaviest: u64, check: impl Fn() + Sync) {
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let check = &check;
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed);
                for _ in 0..CALLS {
                    let key = random.random_range(0..keys);
                    let weight = random.random_range(0..=heaviest);
                    match random.random_range(0..12) {
                        0..4 => cache.insert(key, weight),
                        8..12 => {
                            cache.get(&key);
                        }
                        4 => {
                            cache.remove(&key);
                        }
                        5 => {
                            load(cache, key, weight);
                        }
                        6 => {
                            cache.update(&key, |_| Some(weight));
                        }
                        _ => {
                            cache.update(&key, |current| current.map(|_| weight));
                        }
                    }
                    check();
                }
            });
        }
    });
}

/// Checks that counters, listener and content agree, while no other thread uses the cache.
fn check_settled(cache: &Cache, notified: &Notified) {
    validate(cache);
    let stats = cache.stats();
    let by_cause = [
        (RemovalCause::Replaced, stats.replaced),
        (RemovalCause::Removed, stats.removed),
        (RemovalCause::Expired, stats.expired),
        (RemovalCause::Evicted, stats.evicted),
        (RemovalCause::Cleared, stats.cleared),
    ];
    for (cause, count) in by_cause {
        let notified = notified.lock().unwrap().get(&cause).copied();
        assert_eq!(notified.unwrap_or_default(), count, "{cause:?}");
    }
    let removals: u64 = by_cause.iter().map(|(_, count)| count).sum();
    assert_eq!(stats.inserts - removals, stats.entries);
    let entries: Vec<_> = cache.iter().collect();
    assert_eq!(entries.len() as u64, stats.entries);
    assert_eq!(cache.len(), entries.len());
    assert_eq!(cache.weight(), stats.weight);
}

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];

/// Capacities and numbers of shards, in different proportions.
const SIZES: &[(usize, usize)] = &[
    (1, 1),
    (300, 1),
    (300, 2),
    (300, 8),
    (300, 64),
    (64, 64),
    (3, 16),
    (1, 16),
    (2, 64),
];

fn of_each_policy() -> impl Iterator<Item = (Policy, &'static (usize, usize))> {
    let policies = POLICIES.into_iter();
    policies.flat_map(|policy| SIZES.iter().map(move |sizes| (policy, sizes)))
}

#[test]
fn number_of_entries_never_exceeds_the_capacity() {
    for (policy, &(capacity, shards)) in of_each_policy() {
        let (cache, notified) = counted(bounded(capacity, shards).policy(policy));
        let keys = capacity as u64 * 2 + 4;
        write_concurrently(&cache, keys, 1, || {
            assert!(cache.len() <= capacity);
            // All entries of a shard are listed at one moment, so this check does not depend on the budget.
            assert!(shards > 1 || cache.iter().count() <= capacity);
        });
        check_settled(&cache, &notified);
        for key in 0..capacity as u64 + 5 {
            cache.insert(FIRST_UNUSED_KEY + key, 1);
            assert!(cache.contains_key(&(FIRST_UNUSED_KEY + key)));
        }
        assert_eq!(cache.len(), capacity);
        check_settled(&cache, &notified);
    }
}

#[test]
fn weight_of_entries_never_exceeds_the_maximum_weight() {
    for (policy, &(budget, shards)) in of_each_policy() {
        let budget = budget as u64;
        let (cache, notified) = counted(weighted(budget, shards).policy(policy));
        let weigh = |cache: &Cache| cache.iter().map(|(_, value)| value.max(1)).sum::<u64>();
        // Some values are heavier than the whole budget.
        write_concurrently(&cache, 50, budget + budget / 16 + 1, || {
            assert!(cache.weight() <= budget);
            assert!(shards > 1 || weigh(&cache) <= budget);
        });
        check_settled(&cache, &notified);
        assert_eq!(cache.weight(), weigh(&cache));
        assert!(cache.stats().refused > 0);
        cache.clear();
        assert!(cache.is_empty());
        for key in FIRST_UNUSED_KEY..FIRST_UNUSED_KEY + budget + 5 {
            cache.insert(key, 1);
            assert!(cache.contains_key(&key));
        }
        assert_eq!(cache.weight(), budget);
        assert_eq!(cache.len() as u64, budget);
        check_settled(&cache, &notified);
    }
}

#[test]
fn entry_as_heavy_as_the_budget_evicts_all_others_in_all_shards() {
    for shards in [1, 4, 64] {
        let (cache, notified) = counted(weighted(100, shards));
        (0..100).for_each(|key| cache.insert(key, 1));
        assert_eq!(cache.len(), 100);
        cache.insert(FIRST_UNUSED_KEY, 100);
        assert_eq!(cache.iter().collect::<Vec<_>>(), [(FIRST_UNUSED_KEY, 100)]);
        cache.insert(0, 1);
        assert_eq!(cache.iter().collect::<Vec<_>>(), [(0, 1)]);
        assert_eq!(cache.stats().evicted, 101);
        check_settled(&cache, &notified);
    }
}

#[test]
fn value_heavier_than_the_budget_is_refused_and_removes_the_previous_one() {
    for shards in [1, 16] {
        let (cache, notified) = counted(weighted(10, shards));
        cache.insert(1, 10);
        cache.insert(1, 11);
        assert_eq!(cache.get(&1), None);
        assert!(cache.is_empty());
        let stats = cache.stats();
        assert_eq!((stats.refused, stats.inserts, stats.replaced), (1, 1, 1));
        cache.insert(1, 3);
        cache.insert(2, 3);
        cache.insert(3, u64::MAX);
        assert_eq!(
            (cache.len(), cache.weight(), cache.stats().refused),
            (2, 6, 2)
        );
        assert_eq!(cache.update(&1, |_| Some(12)), Some(12));
        assert_eq!(cache.iter().collect::<Vec<_>>(), [(2, 3)]);
        assert_eq!(cache.stats().refused, 3);
        check_settled(&cache, &notified);
    }
}

#[test]
fn loaded_value_heavier_than_the_budget_is_returned_and_not_stored() {
    let cache = build(weighted(10, 1));
    assert_eq!(load(&cache, 1, 11), 11);
    assert_eq!(load(&cache, 1, Loaded::new(5).weight(11)), 5);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.refused, stats.entries), (2, 2, 0));
}

#[test]
fn explicit_weight_overrides_the_weigher() {
    let cache = build(weighted(10, 1));
    load(&cache, 1, Loaded::new(11).weight(4));
    load(&cache, 2, Loaded::new(5).weight(0));
    assert_eq!((cache.len(), cache.weight()), (2, 5));
    let cache = build(bounded(2, 1));
    load(&cache, 1, Loaded::new(5).weight(11));
    assert_eq!((cache.len(), cache.weight()), (1, 1));
}

#[test]
fn weight_of_zero_counts_as_one() {
    let cache = build(weighted(5, 1));
    (0..20).for_each(|key| cache.insert(key, 0));
    assert_eq!((cache.len(), cache.weight()), (5, 5));
}

#[test]
fn weight_changes_with_the_value_that_replaces_another() {
    let (cache, notified) = counted(weighted(10, 1));
    for key in 0..3 {
        cache.insert(key, 3);
    }
    cache.insert(0, 1);
    assert_eq!((cache.len(), cache.weight()), (3, 7));
    // The new weight exceeds the room by 2. The least recently used of the other keys is 1.
    cache.insert(2, 8);
    assert_eq!((cache.len(), cache.weight()), (2, 9));
    assert!(!cache.contains_key(&1));
    cache.update(&2, |_| Some(9));
    assert_eq!((cache.len(), cache.weight()), (2, 10));
    check_settled(&cache, &notified);
}

#[test]
fn weights_near_the_maximum_of_their_type_do_not_wrap() {
    let half = u64::MAX / 2;
    for shards in [1, 16] {
        let (cache, notified) = counted(weighted(u64::MAX, shards));
        (0..3).for_each(|key| cache.insert(key, half));
        assert_eq!((cache.len(), cache.weight()), (2, half * 2));
        cache.insert(3, u64::MAX);
        assert_eq!((cache.len(), cache.weight()), (1, u64::MAX));
        cache.insert(4, half + 1);
        cache.insert(4, half + 2);
        assert_eq!((cache.len(), cache.weight()), (1, half + 2));
        check_settled(&cache, &notified);
    }
}

#[test]
fn cache_with_capacity_zero_stores_nothing_and_loads_each_time() {
    for builder in [bounded(0, 1), bounded(0, 16), weighted(0, 1)] {
        let (cache, notified) = counted(builder);
        cache.insert(1, 1);
        assert_eq!(cache.get(&1), None);
        assert_eq!((load(&cache, 1, 2), load(&cache, 1, 3)), (2, 3));
        assert_eq!(
            cache.update(&1, |current| current.map_or(Some(4), |_| None)),
            Some(4)
        );
        assert_eq!(cache.remove(&1), None);
        assert!(cache.is_empty());
        assert_eq!(cache.capacity(), Some(0));
        let stats = cache.stats();
        assert_eq!((stats.inserts, stats.refused, stats.loads), (0, 4, 2));
        check_settled(&cache, &notified);
    }
}

#[test]
fn cache_with_capacity_zero_coalesces_concurrent_loads() {
    let cache = build(bounded(0, 1));
    let loading = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..CALLS {
                    let loaded = cache.get_or_load(&1, |_| {
                        assert_eq!(loading.fetch_add(1, Relaxed), 0);
                        thread::yield_now();
                        loading.fetch_sub(1, Relaxed);
                        Ok::<_, Infallible>(7)
                    });
                    assert_eq!(loaded.unwrap(), 7);
                }
            });
        }
    });
    let stats = cache.stats();
    assert_eq!(stats.loads + stats.coalesced, THREADS * CALLS);
    assert_eq!(stats.refused, stats.loads);
    validate(&cache);
}

#[test]
fn unbounded_cache_evicts_nothing() {
    let (cache, notified) = counted(LocalCache::builder().unbounded().shards(4));
    assert_eq!(cache.capacity(), None);
    for key in 0..20_000 {
        cache.insert(key, key);
    }
    assert_eq!((cache.len(), cache.weight()), (20_000, 20_000));
    assert!((0..20_000).all(|key| cache.get(&key) == Some(key)));
    write_concurrently(&cache, 1_000, 1, || assert!(cache.len() >= 19_000));
    assert_eq!(cache.stats().evicted, 0);
    check_settled(&cache, &notified);
}

/// The only entry is in one of two shards, both of which are always being read.
#[test]
fn insert_evicts_from_another_shard_that_is_always_being_read() {
    let cache = build(bounded(1, 2));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    for key in 0..8 {
                        cache.get_with(&key, |_| (0..200).for_each(|_| hint::spin_loop()));
                    }
                }
            });
        }
        for key in 0..20_000 {
            cache.insert(key % 8, 1);
        }
        done.store(true, Relaxed);
    });
    assert_eq!(cache.len(), 1);
    validate(&cache);
}

/// Checks whether a key that was hit survives a scan of keys that are requested once, in a cache of this capacity.
fn hot_key_survives_a_scan(policy: Policy, capacity: usize, hit_during_the_scan: bool) -> bool {
    // S3-FIFO remembers evicted keys as fingerprints. With a random hasher, a new key would sometimes have the fingerprint
    // of an evicted one, and replace the key that was hit.
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let cache = bounded(capacity, 1).policy(policy).hasher(hasher).build();
    let cache = cache.unwrap();
    for key in 0..capacity as u64 {
        cache.insert(key, key);
    }
    let survives = |scanned: std::ops::Range<u64>| {
        scanned.clone().all(|key| {
            cache.insert(FIRST_UNUSED_KEY + key, key);
            !hit_during_the_scan || cache.get(&0).is_some() && cache.get(&0).is_some()
        }) && cache.contains_key(&0)
    };
    assert!((0..3).all(|_| cache.get(&0).is_some()));
    survives(0..100)
}

#[test]
fn hot_key_survives_a_scan_of_other_keys_at_the_smallest_capacities() {
    for capacity in 2..=8 {
        for policy in POLICIES {
            let survives = hot_key_survives_a_scan(policy, capacity, true);
            assert!(survives, "{policy:?} of {capacity}, hit during the scan");
        }
        // With these two policies a promoted key survives without another hit.
        for policy in [Policy::S3Fifo, Policy::Car] {
            let survives = hot_key_survives_a_scan(policy, capacity, false);
            assert!(survives, "{policy:?} of {capacity}");
        }
    }
}

/// An entry as heavy as most others together takes many evictions. If they happened under one hold of the lock, another
/// thread that counts evictions would see none of them or all of them.
#[test]
fn other_callers_proceed_while_a_heavy_entry_evicts_many() {
    const ENTRIES: u64 = 100_000;
    let seen_between = || {
        let (cache, notified) = counted(weighted(ENTRIES, 1));
        (0..ENTRIES).for_each(|key| cache.insert(key, 1));
        let done = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let observer = scope.spawn(|| {
                let mut seen = 0;
                while !done.load(Relaxed) {
                    let stats = cache.stats();
                    assert!(stats.weight <= ENTRIES);
                    seen += u64::from(stats.evicted > 0 && stats.evicted < ENTRIES - 10);
                }
                seen
            });
            cache.insert(FIRST_UNUSED_KEY, ENTRIES - 10);
            done.store(true, Relaxed);
            observer.join().unwrap()
        });
        assert_eq!(cache.get(&FIRST_UNUSED_KEY), Some(ENTRIES - 10));
        assert_eq!(
            notified.lock().unwrap()[&RemovalCause::Evicted],
            ENTRIES - 10
        );
        validate(&cache);
        seen
    };
    // In a run in which the system gives the observer no time, it sees nothing.
    assert!((0..20).any(|_| seen_between() > 0));
}
