//! Loads into a full cache without optional settings, whose results take the short path of insertions.

use hotset::__private::validate;
use hotset::{Loaded, LocalCache};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Cache = LocalCache<u32, u32>;

const CAPACITY: u32 = 8;

/// Returns a full cache with one shard, whose keys are below `CAPACITY`.
fn full_cache() -> Cache {
    let builder = Cache::builder().capacity(CAPACITY as usize).shards(1);
    let cache = builder.build().unwrap();
    (0..CAPACITY).for_each(|key| cache.insert(key, key));
    cache
}

fn load(cache: &Cache, key: u32, value: u32, during: impl FnOnce()) -> u32 {
    let loaded = cache.get_or_load(&key, |_| {
        during();
        Ok::<_, Infallible>(value)
    });
    loaded.unwrap()
}

#[test]
fn loaded_value_replaces_an_entry_of_a_full_cache() {
    let cache = full_cache();
    for key in 100..200 {
        assert_eq!(load(&cache, key, key + 1, || ()), key + 1);
        assert_eq!(cache.get(&key), Some(key + 1));
    }
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.evicted), (100, 100));
    assert_eq!((stats.entries, stats.load_times.count()), (8, 100));
    validate(&cache);
}

#[test]
fn value_loaded_before_a_write_to_its_key_is_not_stored() {
    type Write = (fn(&Cache), Option<u32>);
    let writes: [Write; 6] = [
        (|cache| cache.insert(100, 7), Some(7)),
        (|cache| cache.invalidate(&100), None),
        (|cache| assert_eq!(cache.remove(&100), None), None),
        (
            |cache| cache.insert_with_ttl(100, 7, Duration::from_secs(60)),
            Some(7),
        ),
        (|cache| cache.retain(|_, _| true), None),
        (Cache::clear, None),
    ];
    for (write, expected) in writes {
        let cache = full_cache();
        let refill = || (0..CAPACITY).for_each(|key| cache.insert(key, key));
        let value = load(&cache, 100, 1, || {
            write(&cache);
            if cache.get(&100).is_none() {
                refill();
            }
        });
        assert_eq!((value, cache.get(&100)), (1, expected));
        validate(&cache);
    }
}

#[test]
fn loads_within_a_load_are_all_stored() {
    let cache = full_cache();
    load(&cache, 100, 1, || {
        load(&cache, 101, 2, || {
            load(&cache, 102, 3, || ());
        });
    });
    let values = [100, 101, 102].map(|key| cache.get(&key));
    assert_eq!(values, [Some(1), Some(2), Some(3)]);
    validate(&cache);
}

#[test]
fn loaded_value_has_the_time_to_live_or_the_tags_of_its_loader() {
    let cache = full_cache();
    let short = Duration::from_secs(60);
    let with_ttl = |_: &u32| Ok::<_, Infallible>(Loaded::new(1).ttl(short));
    cache.get_or_load_entry(&100, with_ttl).unwrap();
    assert!(cache.remaining_ttl(&100).is_some_and(|left| left <= short));
    let with_tag = |_: &u32| Ok::<_, Infallible>(Loaded::new(2).tags(["tag"]));
    cache.get_or_load_entry(&101, with_tag).unwrap();
    cache.invalidate_tag("tag");
    assert_eq!((cache.get(&100), cache.get(&101)), (Some(1), None));
    let uncached = |_: &u32| Ok::<_, Infallible>(Loaded::uncached(3));
    assert_eq!(cache.get_or_load_entry(&102, uncached).unwrap(), 3);
    assert_eq!(cache.get(&102), None);
    validate(&cache);
}

#[test]
fn keys_of_ended_loads_are_dropped() {
    let cache: LocalCache<Arc<u32>, u32> =
        LocalCache::builder().capacity(1).shards(1).build().unwrap();
    let key = Arc::new(1);
    cache.insert(Arc::new(0), 0);
    cache.get_or_load(&key, |_| Ok::<_, Infallible>(1)).unwrap();
    assert_eq!(Arc::strong_count(&key), 2);
    cache.clear();
    assert_eq!(Arc::strong_count(&key), 1);
}

#[test]
fn failed_loads_are_all_counted() {
    let cache = full_cache();
    for key in 1_000..2_000 {
        cache
            .get_or_load(&key, |_| Err::<u32, _>("no connection"))
            .unwrap_err();
    }
    let stats = cache.stats();
    assert_eq!((stats.loads, stats.load_failures), (1_000, 1_000));
    assert_eq!(stats.load_times.count(), 1_000);
}

#[test]
fn each_long_load_among_sampled_short_ones_is_timed() {
    let long = Duration::from_micros(50);
    let wait = || {
        let start = Instant::now();
        while start.elapsed() < long {}
    };
    // A cache that tracks ages times all loads.
    let cache = Cache::builder().capacity(CAPACITY as usize).shards(1);
    let cache = cache.track_ages(false).build().unwrap();
    for key in 1_000..21_000 {
        if key % 100 == 0 {
            load(&cache, key, key, wait);
        } else {
            load(&cache, key, key, || ());
        }
    }
    let load_times = cache.stats().load_times;
    assert_eq!(load_times.count(), 20_000);
    // One load in 100 is long, so this is the run time of the second shortest of the 200 long loads.
    assert!(load_times.percentile(99.006) >= long, "{load_times:?}");
    assert!(load_times.total() >= 200 * long);
}
