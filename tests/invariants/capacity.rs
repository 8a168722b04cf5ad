//! Bounds hold exactly: at every moment, over all shards, with all threads writing.

use hotset::{Loaded, LocalCache, LocalCacheBuilder, Policy, RemovalCause};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::convert::Infallible;
use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

const THREADS: u64 = 8;
const CALLS: u64 = 1_500;
/// Keys from here on are used by no thread.
const FRESH: u64 = 1 << 32;

/// A value is its own weight.
type Cache = LocalCache<u64, u64>;
type Told = Arc<Mutex<HashMap<RemovalCause, u64>>>;

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
fn counted(builder: LocalCacheBuilder<u64, u64>) -> (Cache, Told) {
    let told = Told::default();
    let listener = {
        let told = Arc::clone(&told);
        move |_: &u64, _: &u64, cause| *told.lock().unwrap().entry(cause).or_default() += 1
    };
    (builder.on_removal(listener).build().unwrap(), told)
}

fn build(builder: LocalCacheBuilder<u64, u64>) -> Cache {
    builder.build().unwrap()
}

fn load(cache: &Cache, key: u64, loaded: impl Into<Loaded<u64>>) -> u64 {
    let loaded = cache.get_or_load(&key, |_| Ok::<_, Infallible>(loaded));
    loaded.unwrap()
}

/// Writes random keys and weights from many threads, each of which checks after each call.
fn hammer(cache: &Cache, keys: u64, heaviest: u64, check: impl Fn() + Sync) {
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
                            cache.update(&key, |held| held.map(|_| weight));
                        }
                    }
                    check();
                }
            });
        }
    });
}

/// What holds once all threads are done.
fn check_settled(cache: &Cache, told: &Told) {
    cache.validate();
    let stats = cache.stats();
    let by_cause = [
        (RemovalCause::Replaced, stats.replaced),
        (RemovalCause::Removed, stats.removed),
        (RemovalCause::Expired, stats.expired),
        (RemovalCause::Evicted, stats.evicted),
        (RemovalCause::Cleared, stats.cleared),
    ];
    for (cause, count) in by_cause {
        let told = told.lock().unwrap().get(&cause).copied();
        assert_eq!(told.unwrap_or_default(), count, "{cause:?}");
    }
    let removals: u64 = by_cause.iter().map(|(_, count)| count).sum();
    assert_eq!(stats.inserts - removals, stats.entries);
    let held: Vec<_> = cache.iter().collect();
    assert_eq!(held.len() as u64, stats.entries);
    assert_eq!(cache.len(), held.len());
    assert_eq!(cache.weight(), stats.weight);
}

const POLICIES: [Policy; 4] = [Policy::Lru, Policy::S3Fifo, Policy::Car, Policy::Adaptive];

/// Numbers of entries and shards, in every proportion.
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
fn no_thread_ever_sees_more_entries_than_the_capacity() {
    for (policy, &(capacity, shards)) in of_each_policy() {
        let (cache, told) = counted(bounded(capacity, shards).policy(policy));
        let keys = capacity as u64 * 2 + 4;
        hammer(&cache, keys, 1, || {
            assert!(cache.len() <= capacity);
            // A shard is listed at one moment, so this does not rest on what the budget says.
            assert!(shards > 1 || cache.iter().count() <= capacity);
        });
        check_settled(&cache, &told);
        for key in 0..capacity as u64 + 5 {
            cache.insert(FRESH + key, 1);
            assert!(cache.contains_key(&(FRESH + key)));
        }
        assert_eq!(cache.len(), capacity);
        check_settled(&cache, &told);
    }
}

#[test]
fn no_thread_ever_sees_more_weight_than_the_budget() {
    for (policy, &(budget, shards)) in of_each_policy() {
        let budget = budget as u64;
        let (cache, told) = counted(weighted(budget, shards).policy(policy));
        let weigh = |cache: &Cache| cache.iter().map(|(_, value)| value.max(1)).sum::<u64>();
        // A few are heavier than the whole budget.
        hammer(&cache, 50, budget + budget / 16 + 1, || {
            assert!(cache.weight() <= budget);
            assert!(shards > 1 || weigh(&cache) <= budget);
        });
        check_settled(&cache, &told);
        assert_eq!(cache.weight(), weigh(&cache));
        assert!(cache.stats().refused > 0);
        cache.clear();
        assert!(cache.is_empty());
        for key in FRESH..FRESH + budget + 5 {
            cache.insert(key, 1);
            assert!(cache.contains_key(&key));
        }
        assert_eq!(cache.weight(), budget);
        assert_eq!(cache.len() as u64, budget);
        check_settled(&cache, &told);
    }
}

#[test]
fn an_entry_as_heavy_as_the_budget_takes_the_place_of_all_others_in_all_shards() {
    for shards in [1, 4, 64] {
        let (cache, told) = counted(weighted(100, shards));
        (0..100).for_each(|key| cache.insert(key, 1));
        assert_eq!(cache.len(), 100);
        cache.insert(FRESH, 100);
        assert_eq!(cache.iter().collect::<Vec<_>>(), [(FRESH, 100)]);
        cache.insert(0, 1);
        assert_eq!(cache.iter().collect::<Vec<_>>(), [(0, 1)]);
        assert_eq!(cache.stats().evicted, 101);
        check_settled(&cache, &told);
    }
}

#[test]
fn a_value_too_heavy_is_refused_and_counted_and_takes_the_old_one_out() {
    for shards in [1, 16] {
        let (cache, told) = counted(weighted(10, shards));
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
        check_settled(&cache, &told);
    }
}

#[test]
fn a_loaded_value_too_heavy_reaches_its_caller() {
    let cache = build(weighted(10, 1));
    assert_eq!(load(&cache, 1, 11), 11);
    assert_eq!(load(&cache, 1, Loaded::new(5).weight(11)), 5);
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.refused, stats.entries), (2, 2, 0));
}

#[test]
fn a_weight_of_its_own_goes_before_the_weigher() {
    let cache = build(weighted(10, 1));
    load(&cache, 1, Loaded::new(11).weight(4));
    load(&cache, 2, Loaded::new(5).weight(0));
    assert_eq!((cache.len(), cache.weight()), (2, 5));
    let cache = build(bounded(2, 1));
    load(&cache, 1, Loaded::new(5).weight(11));
    assert_eq!((cache.len(), cache.weight()), (1, 1));
}

#[test]
fn a_weight_of_zero_counts_as_one() {
    let cache = build(weighted(5, 1));
    (0..20).for_each(|key| cache.insert(key, 0));
    assert_eq!((cache.len(), cache.weight()), (5, 5));
}

#[test]
fn the_weight_follows_what_an_entry_is_replaced_by() {
    let (cache, told) = counted(weighted(10, 1));
    for key in 0..3 {
        cache.insert(key, 3);
    }
    cache.insert(0, 1);
    assert_eq!((cache.len(), cache.weight()), (3, 7));
    // 2 more than there is room for: 1 is the least recently used of the others.
    cache.insert(2, 8);
    assert_eq!((cache.len(), cache.weight()), (2, 9));
    assert!(!cache.contains_key(&1));
    cache.update(&2, |_| Some(9));
    assert_eq!((cache.len(), cache.weight()), (2, 10));
    check_settled(&cache, &told);
}

#[test]
fn weights_near_the_end_of_the_type_do_not_wrap() {
    let half = u64::MAX / 2;
    for shards in [1, 16] {
        let (cache, told) = counted(weighted(u64::MAX, shards));
        (0..3).for_each(|key| cache.insert(key, half));
        assert_eq!((cache.len(), cache.weight()), (2, half * 2));
        cache.insert(3, u64::MAX);
        assert_eq!((cache.len(), cache.weight()), (1, u64::MAX));
        cache.insert(4, half + 1);
        cache.insert(4, half + 2);
        assert_eq!((cache.len(), cache.weight()), (1, half + 2));
        check_settled(&cache, &told);
    }
}

#[test]
fn a_cache_without_room_holds_nothing_and_loads_each_time() {
    for builder in [bounded(0, 1), bounded(0, 16), weighted(0, 1)] {
        let (cache, told) = counted(builder);
        cache.insert(1, 1);
        assert_eq!(cache.get(&1), None);
        assert_eq!((load(&cache, 1, 2), load(&cache, 1, 3)), (2, 3));
        assert_eq!(
            cache.update(&1, |held| held.map_or(Some(4), |_| None)),
            Some(4)
        );
        assert_eq!(cache.remove(&1), None);
        assert!(cache.is_empty());
        assert_eq!(cache.capacity(), Some(0));
        let stats = cache.stats();
        assert_eq!((stats.inserts, stats.refused, stats.loads), (0, 4, 2));
        check_settled(&cache, &told);
    }
}

#[test]
fn a_cache_without_room_makes_one_load_of_several_at_a_time() {
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
    cache.validate();
}

#[test]
fn an_unbounded_cache_holds_all_it_is_given() {
    let (cache, told) = counted(LocalCache::builder().unbounded().shards(4));
    assert_eq!(cache.capacity(), None);
    for key in 0..20_000 {
        cache.insert(key, key);
    }
    assert_eq!((cache.len(), cache.weight()), (20_000, 20_000));
    assert!((0..20_000).all(|key| cache.get(&key) == Some(key)));
    hammer(&cache, 1_000, 1, || assert!(cache.len() >= 19_000));
    assert_eq!(cache.stats().evicted, 0);
    check_settled(&cache, &told);
}

/// All room is in one shard or the other, and readers are always in both.
#[test]
fn an_insert_gets_room_from_a_shard_that_is_always_read() {
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
    cache.validate();
}

/// The survivor of a scan of keys that are asked for once, in a cache of so few entries.
fn hot_key_survives_a_scan(policy: Policy, capacity: usize, hit_during_the_scan: bool) -> bool {
    let cache = build(bounded(capacity, 1).policy(policy));
    for key in 0..capacity as u64 {
        cache.insert(key, key);
    }
    let survives = |scanned: std::ops::Range<u64>| {
        scanned.clone().all(|key| {
            cache.insert(FRESH + key, key);
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
        // These two promise it of a key that has been promoted, without another hit.
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
        let (cache, told) = counted(weighted(ENTRIES, 1));
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
            cache.insert(FRESH, ENTRIES - 10);
            done.store(true, Relaxed);
            observer.join().unwrap()
        });
        assert_eq!(cache.get(&FRESH), Some(ENTRIES - 10));
        assert_eq!(told.lock().unwrap()[&RemovalCause::Evicted], ENTRIES - 10);
        cache.validate();
        seen
    };
    // An observer to whom the system gives no time sees nothing.
    assert!((0..20).any(|_| seen_between() > 0));
}
