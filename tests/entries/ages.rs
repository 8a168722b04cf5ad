//! Ages of served values.

use hotset::{LocalCache, LocalCacheBuilder, ManualClock, Policy};
use std::convert::Infallible;
use std::time::Duration;

/// The number of hits of a test, about a hundred of which are sampled.
const HITS: u64 = 64 * 100;
/// The largest error of an age. Ages are stored with a resolution of 4.2 ms.
const MAX_AGE_ERROR: Duration = Duration::from_millis(5);

fn tracking(clock: &ManualClock) -> LocalCacheBuilder<u64, u64> {
    let builder = LocalCache::builder().capacity(1_000).clock(clock.clone());
    builder.track_ages(true)
}

fn hit(cache: &LocalCache<u64, u64>, keys: impl Fn(u64) -> u64) {
    for number in 0..HITS {
        assert!(cache.get(&keys(number)).is_some());
    }
}

/// Checks that one hit in 64 was sampled, and that all sampled values have this age.
fn assert_aged(cache: &LocalCache<u64, u64>, age: Duration) {
    let ages = cache.stats().ages;
    assert!((95..=105).contains(&ages.count()), "{ages:?}");
    assert!(ages.mean().abs_diff(age) <= MAX_AGE_ERROR, "{ages:?}");
    assert!(
        ages.percentile(100.0) <= age * 5 / 4 + MAX_AGE_ERROR,
        "{ages:?}"
    );
}

#[test]
fn age_of_one_hit_in_64_is_counted() {
    let clock = ManualClock::new();
    let cache = tracking(&clock).build().unwrap();
    cache.insert(1, 1);
    clock.advance(Duration::from_secs(10));
    hit(&cache, |_| 1);
    assert_aged(&cache, Duration::from_secs(10));
    assert_eq!(
        cache.stats().hits,
        HITS,
        "the second lookup of a sampled hit is not counted as a hit"
    );
}

#[test]
fn hits_of_get_or_load_are_sampled_too() {
    let clock = ManualClock::new();
    let cache = tracking(&clock).build().unwrap();
    cache.insert(1, 1);
    clock.advance(Duration::from_secs(3));
    for _ in 0..HITS {
        cache.get_or_load(&1, |_| Ok::<u64, Infallible>(2)).unwrap();
    }
    assert_aged(&cache, Duration::from_secs(3));
}

#[test]
fn new_value_has_age_zero_when_it_replaces_or_evicts_another() {
    for policy in [Policy::Lru, Policy::S3Fifo, Policy::Adaptive] {
        let clock = ManualClock::new();
        let builder = tracking(&clock).policy(policy).shards(1);
        let cache = builder.build().unwrap();
        for key in 0..1_000 {
            cache.insert(key, 0);
        }
        clock.advance(Duration::from_secs(60));
        for key in (0..1_000).rev() {
            cache.insert(key, 1);
        }
        // Each of these evicts an entry and gets its slot.
        for key in 1_000..2_000 {
            cache.insert(key, 2);
        }
        clock.advance(Duration::from_secs(2));
        let keys: Vec<u64> = cache.iter().map(|(key, _)| key).collect();
        assert_eq!(keys.len(), 1_000);
        hit(&cache, |number| {
            keys[usize::try_from(number).unwrap() % 1_000]
        });
        assert_aged(&cache, Duration::from_secs(2));
    }
}

#[test]
fn age_of_a_loaded_value_includes_the_load_time() {
    let cache = LocalCache::builder().capacity(10).track_ages(true);
    let cache: LocalCache<u64, u64> = cache.build().unwrap();
    let load = |_: &u64| {
        // The load has to take time, because the age of its value is counted from its start.
        std::thread::sleep(Duration::from_millis(320));
        Ok::<u64, Infallible>(1)
    };
    cache.get_or_load(&1, load).unwrap();
    hit(&cache, |_| 1);
    let ages = cache.stats().ages;
    // The clock is as coarse as 16 ms on some systems.
    assert!(ages.mean() >= Duration::from_millis(300), "{ages:?}");
}

#[test]
fn keys_that_are_requested_in_turn_are_sampled_equally_often() {
    // If every 64th hit were sampled, it would be the same key each time.
    let clock = ManualClock::new();
    let cache = tracking(&clock).build().unwrap();
    cache.insert(0, 0);
    clock.advance(Duration::from_secs(1_000));
    for key in 1..64 {
        cache.insert(key, 0);
    }
    for number in 0..HITS * 100 {
        cache.get(&(number % 64));
    }
    let ages = cache.stats().ages;
    let is_old = |(bound, _): &(Duration, u64)| *bound > Duration::from_secs(900);
    let old: u64 = ages.buckets().filter(is_old).map(|(_, count)| count).sum();
    let expected = ages.count() / 64;
    assert!(
        (expected / 2..expected * 2).contains(&old),
        "{old} of {}",
        ages.count()
    );
}

#[test]
fn cache_without_track_ages_counts_no_age() {
    let cache = LocalCache::builder().capacity(10).track_ages(false);
    let cache: LocalCache<u64, u64> = cache.build().unwrap();
    cache.insert(1, 1);
    hit(&cache, |_| 1);
    assert_eq!(cache.stats().ages.count(), 0);
}

#[test]
fn age_of_a_stale_value_that_is_served_after_a_failed_load_is_counted() {
    let clock = ManualClock::new();
    let builder = tracking(&clock).time_to_live(Duration::from_secs(1));
    let builder = builder.stale_if_error(Duration::from_secs(3_600));
    let cache = builder.build().unwrap();
    cache.insert(1, 1);
    clock.advance(Duration::from_secs(600));
    for _ in 0..HITS {
        let served = cache.get_or_load(&1, |_| Err::<u64, _>("down"));
        assert_eq!(served.unwrap(), 1);
    }
    assert_eq!(cache.stats().stale, HITS);
    assert_aged(&cache, Duration::from_secs(600));
}

#[test]
fn age_of_months_does_not_wrap() {
    let clock = ManualClock::new();
    let cache = tracking(&clock).build().unwrap();
    cache.insert(1, 1);
    let months = Duration::from_secs(150 * 24 * 3_600);
    clock.advance(months);
    hit(&cache, |_| 1);
    let ages = cache.stats().ages;
    // All ages are in the bucket that has no bound.
    assert!(ages.mean().abs_diff(months) <= MAX_AGE_ERROR, "{ages:?}");
    assert_eq!(ages.percentile(1.0), Duration::MAX);
}

#[cfg(feature = "snapshot")]
#[test]
fn restored_value_keeps_its_age() {
    let clock = ManualClock::new();
    let cache = tracking(&clock).build().unwrap();
    cache.insert(1, 1);
    let age = Duration::from_secs(36_000);
    clock.advance(age);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot");
    cache.snapshot(&file).unwrap();
    let next = tracking(&ManualClock::new()).build().unwrap();
    next.restore(&file).unwrap();
    hit(&next, |_| 1);
    let ages = next.stats().ages;
    let passed = Duration::from_secs(60);
    assert!(
        (age..age + passed).contains(&(ages.mean() + MAX_AGE_ERROR)),
        "{ages:?}"
    );
}
