//! The settings of an entry that `update` keeps when it replaces the value.

use crate::common::{Cache, Fixture, just_before, seconds, until};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, RemovalCause};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

fn increment(value: Option<&u64>) -> Option<u64> {
    value.copied().unwrap_or_default().checked_add(1)
}

#[test]
fn update_keeps_the_remaining_time_of_an_entry_in_a_cache_without_time_to_live() {
    let f = Fixture::new(|builder| builder);
    f.cache.insert_with_ttl(1, 10, seconds(60));
    for second in 1..60 {
        f.clock.set(seconds(second));
        f.cache.update(&1, increment);
        let left = f.cache.remaining_ttl(&1);
        assert_eq!(left, Some(seconds(60 - second)));
    }
    assert_eq!(f.cache.get(&1), Some(69));
    f.clock.set(seconds(60));
    assert_eq!(f.cache.get(&1), None);
    validate(&f.cache);
}

#[test]
fn update_keeps_the_deadline_to_the_nanosecond() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
    let ttl = Duration::new(60, 123_456_789);
    f.cache.insert_with_ttl(1, 10, ttl);
    for nanos in 1..1_000 {
        f.clock.set(Duration::from_nanos(nanos * 7));
        f.cache.update(&1, increment);
    }
    f.clock.set(just_before(ttl));
    assert_eq!(f.cache.get(&1), Some(1_009));
    f.clock.set(ttl);
    assert_eq!(f.cache.get(&1), None);
    validate(&f.cache);
}

#[test]
fn update_keeps_the_deadline_by_the_caches_time_to_live() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
    f.cache.insert(1, 10);
    f.clock.set(seconds(9));
    f.cache.update(&1, increment);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(1)));
    f.clock.set(seconds(10));
    assert_eq!(f.cache.get(&1), None);
}

#[test]
fn update_of_an_entry_that_never_expires_does_not_make_it_expire() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
    f.cache.insert_with_ttl(1, 10, Duration::MAX);
    f.cache.update(&1, increment);
    assert_eq!(f.cache.remaining_ttl(&1), Some(Duration::MAX));
}

#[test]
fn update_adds_no_jitter() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(1_000)).ttl_jitter(0.5));
    f.cache.insert(1, 10);
    let left = f.cache.remaining_ttl(&1);
    (0..100).for_each(|_| assert!(f.cache.update(&1, increment).is_some()));
    assert_eq!(f.cache.remaining_ttl(&1), left);
}

#[test]
fn update_of_a_loaded_entry_keeps_the_loaders_time_to_live() {
    let f = Fixture::new(|builder| builder);
    let load = |_: &u32| Ok::<_, Infallible>(Loaded::new(10).ttl(seconds(5)));
    f.cache.get_or_load_entry(&1, load).unwrap();
    f.clock.set(seconds(2));
    f.cache.update(&1, increment);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(3)));
}

#[test]
fn update_restarts_the_idle_time_and_keeps_the_limit() {
    let f = Fixture::new(|builder| builder.time_to_idle(seconds(4)));
    f.cache.insert_with_ttl(1, 10, seconds(10));
    f.clock.set(seconds(3));
    f.cache.update(&1, increment);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(4)));
    f.clock.set(seconds(6));
    f.cache.update(&1, increment);
    f.clock.set(seconds(8));
    f.cache.update(&1, increment);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(2)));
    f.clock.set(seconds(10));
    assert_eq!(f.cache.get(&1), None);
    validate(&f.cache);
}

#[test]
fn update_of_a_missing_or_expired_entry_has_the_caches_time_to_live() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
    assert_eq!(f.cache.update(&1, increment), Some(1));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
    f.cache.insert_with_ttl(1, 10, seconds(60));
    f.clock.set(seconds(60));
    assert_eq!(f.cache.update(&1, increment), Some(1));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
}

#[test]
fn update_whose_entry_expires_meanwhile_is_repeated_without_a_value() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
    f.cache.insert(1, 10);
    let mut seen = Vec::new();
    let updated = f.cache.update(&1, |value| {
        f.clock.set(seconds(10));
        seen.push(value.copied());
        increment(value)
    });
    assert_eq!(seen, [Some(10), None]);
    assert_eq!((updated, f.cache.get(&1)), (Some(1), Some(1)));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
    assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Expired)]);
    assert_eq!((f.cache.stats().refused, f.cache.stats().outdated), (0, 1));
    validate(&f.cache);
}

#[test]
fn insert_over_an_entry_has_the_caches_time_to_live() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
    f.cache.insert_with_ttl(1, 10, seconds(60));
    f.cache.insert(1, 11);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
}

#[test]
fn update_loaded_replaces_the_time_to_live_if_set() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
    f.cache.insert_with_ttl(1, 10, seconds(60));
    let extend = |value: Option<&u64>| Some(Loaded::new(*value?).ttl(seconds(90)));
    assert_eq!(f.cache.update_loaded(&1, extend), Some(10));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(90)));
    f.clock.set(seconds(5));
    let keep = |value: Option<&u64>| Some(Loaded::new(*value?));
    assert_eq!(f.cache.update_loaded(&1, keep), Some(10));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(85)));
    assert_eq!(f.cache.update_loaded(&1, |_| None), None);
    assert!(f.cache.is_empty());
    let missing = f
        .cache
        .update_loaded(&1, |_| Some(Loaded::new(1).ttl(seconds(7))));
    assert_eq!(missing, Some(1));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(7)));
}

/// Returns a cache whose weigher returns 1,000 for every entry.
fn weighing() -> Cache {
    let builder = Cache::builder().max_weight(10_000).shards(1);
    builder.weigher(|_, _| 1_000).build().unwrap()
}

#[test]
fn update_keeps_an_explicit_weight() {
    let cache = weighing();
    cache.insert_loaded(1, Loaded::new(10).weight(5));
    (0..3).for_each(|_| assert!(cache.update(&1, increment).is_some()));
    assert_eq!((cache.get(&1), cache.weight()), (Some(13), 5));
    cache.insert(2, 10);
    cache.update(&2, increment);
    assert_eq!(cache.weight(), 1_005);
    // The next entry of the slot has no explicit weight.
    cache.remove(&1);
    cache.insert(3, 10);
    cache.update(&3, increment);
    assert_eq!(cache.weight(), 2_000);
    validate(&cache);
}

#[test]
fn update_keeps_an_explicit_weight_equal_to_the_weighers() {
    let builder = Cache::builder().max_weight(1_000).shards(1);
    let cache = builder.weigher(|_, &value| value).build().unwrap();
    cache.insert_loaded(1, Loaded::new(10).weight(10));
    cache.insert(2, 10);
    for key in [1, 2] {
        cache.update(&key, |value| value.map(|value| value * 10));
    }
    assert_eq!(cache.weight(), 110);
    validate(&cache);
}

#[test]
fn insert_over_an_entry_with_an_explicit_weight_calls_the_weigher() {
    let cache = weighing();
    cache.insert_loaded(1, Loaded::new(10).weight(5));
    cache.insert(1, 11);
    cache.update(&1, increment);
    assert_eq!(cache.weight(), 1_000);
    validate(&cache);
}

#[test]
fn update_loaded_replaces_the_weight_if_set() {
    let cache = weighing();
    cache.insert_loaded(1, Loaded::new(10).weight(5));
    cache.update_loaded(&1, |value| Some(Loaded::new(*value?).weight(7)));
    assert_eq!(cache.weight(), 7);
    cache.update(&1, increment);
    assert_eq!(cache.weight(), 7);
    validate(&cache);
}

#[test]
fn update_of_an_expired_entry_with_an_explicit_weight_calls_the_weigher() {
    let clock = hotset::ManualClock::new();
    let builder = Cache::builder().max_weight(10_000).clock(clock.clone());
    let cache = builder.weigher(|_, _| 1_000).build().unwrap();
    cache.insert_loaded(1, Loaded::new(10).weight(5).ttl(seconds(1)));
    clock.set(seconds(1));
    cache.update(&1, increment);
    assert_eq!(cache.weight(), 1_000);
    validate(&cache);
}

#[test]
fn update_loaded_replaces_the_tags_if_set() {
    let f = Fixture::new(|builder| builder);
    f.cache.insert_loaded(1, Loaded::new(10).tags(["old"]));
    let rename = |value: Option<&u64>| Some(Loaded::new(*value?).tags(["new"]));
    f.cache.update_loaded(&1, rename);
    f.cache
        .update_loaded(&1, |value| Some(Loaded::new(*value?)));
    f.cache.invalidate_tag("old");
    assert_eq!(f.cache.get(&1), Some(10));
    f.cache.invalidate_tag("new");
    assert_eq!(f.cache.get(&1), None);
    validate(&f.cache);
}

#[test]
fn update_loaded_is_repeated_if_an_old_or_new_tag_is_invalidated_meanwhile() {
    for tag in ["old", "new"] {
        let f = Fixture::new(|builder| builder);
        f.cache.insert_loaded(1, Loaded::new(10).tags(["old"]));
        let mut seen = Vec::new();
        f.cache.update_loaded(&1, |value| {
            if seen.is_empty() {
                f.cache.invalidate_tag(tag);
            }
            seen.push(value.copied());
            Some(Loaded::new(increment(value)?).tags(["new"]))
        });
        let (second, value) = if tag == "old" {
            (None, 1)
        } else {
            (Some(10), 11)
        };
        assert_eq!(seen, [Some(10), second]);
        assert_eq!(f.cache.get(&1), Some(value));
        validate(&f.cache);
    }
}

/// Early refresh depends on the duration of the load, which an update keeps.
#[test]
fn updated_entry_is_still_refreshed_early() {
    let clock = hotset::ManualClock::new();
    let cache: LocalCache<u32, u64> = LocalCache::builder()
        .capacity(10)
        .time_to_live(seconds(10))
        .early_refresh(1.0)
        .clock(clock.clone())
        .build()
        .unwrap();
    let loads = Arc::new(AtomicU64::new(0));
    let load = || {
        let loads = Arc::clone(&loads);
        move |_: &u32| {
            let begun = Instant::now();
            until(|| begun.elapsed() > Duration::from_millis(1));
            Ok::<_, Infallible>(loads.fetch_add(1, SeqCst))
        }
    };
    cache.get_or_load(&1, load()).unwrap();
    cache.update(&1, increment);
    // A nanosecond before the deadline nearly every hit refreshes the entry, because its load took a million.
    clock.set(just_before(seconds(10)));
    cache.get_or_load(&1, load()).unwrap();
    assert_eq!(loads.load(SeqCst), 2);
}
