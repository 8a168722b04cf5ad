//! `set_ttl`, which replaces the time to live of an entry.

use crate::common::{Fixture, WAYS, just_before, seconds};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, RemovalCause};
use std::time::Duration;

#[test]
fn entry_expires_when_the_new_time_to_live_ends() {
    for (ttl, expected) in [(200, 210), (5, 15), (100, 110)] {
        let f = Fixture::new(|builder| builder.time_to_live(seconds(100)));
        f.cache.insert_loaded(1, Loaded::new(10).tags(["tag"]));
        f.clock.set(seconds(10));
        assert!(f.cache.set_ttl(&1, seconds(ttl)));
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(ttl)));
        f.clock.set(just_before(seconds(expected)));
        assert_eq!(f.cache.get(&1), Some(10));
        f.clock.set(seconds(expected));
        assert_eq!(f.cache.get(&1), None);
        assert!(!f.cache.set_ttl(&1, seconds(5)));
        f.cache.remove_expired();
        assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Expired)]);
        validate(&f.cache);
    }
}

#[test]
fn set_ttl_leaves_value_tags_and_statistics_unchanged() {
    let f = Fixture::new(|builder| builder);
    f.cache.insert_loaded(1, Loaded::new(10).tags(["tag"]));
    let before = f.cache.stats();
    assert!(f.cache.set_ttl(&1, seconds(5)));
    let after = f.cache.stats();
    assert_eq!(
        (before.hits, before.inserts, before.replaced),
        (after.hits, after.inserts, after.replaced)
    );
    assert!(f.take_notified().is_empty());
    assert_eq!(f.cache.peek(&1), Some(10));
    f.cache.invalidate_tag("tag");
    assert!(!f.cache.set_ttl(&1, seconds(5)));
    assert_eq!(f.cache.get(&1), None);
}

#[test]
fn set_ttl_does_not_count_as_a_use_of_the_entry() {
    let f = Fixture::new(|builder| builder.capacity(3));
    (1..4).for_each(|key| f.cache.insert(key, 0));
    assert!(f.cache.set_ttl(&1, seconds(5)));
    f.cache.insert(4, 0);
    assert_eq!(f.take_notified(), [(1, 0, RemovalCause::Evicted)]);
}

#[test]
fn set_ttl_of_zero_removes_the_entry_at_once() {
    let f = Fixture::new(|builder| builder);
    f.cache.insert(1, 10);
    assert!(f.cache.set_ttl(&1, Duration::ZERO));
    assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Removed)]);
    assert!(f.cache.is_empty());
    assert!(!f.cache.set_ttl(&1, Duration::ZERO));
    validate(&f.cache);
}

#[test]
fn entry_with_the_maximum_time_to_live_never_expires() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(1)));
    f.cache.insert(1, 10);
    assert!(f.cache.set_ttl(&1, Duration::MAX));
    f.clock.set(Duration::MAX);
    assert_eq!(f.cache.get(&1), Some(10));
    assert_eq!(f.cache.remaining_ttl(&1), Some(Duration::MAX));
    validate(&f.cache);
}

#[test]
fn set_ttl_of_an_absent_or_expired_entry_stores_nothing() {
    for stale in [false, true] {
        let f = Fixture::new(|builder| {
            let builder = builder.time_to_live(seconds(1));
            if stale {
                builder.stale_if_error(seconds(100))
            } else {
                builder
            }
        });
        f.cache.insert(1, 10);
        f.clock.set(seconds(1));
        assert!(!f.cache.set_ttl(&1, seconds(100)));
        assert!(!f.cache.set_ttl(&2, seconds(100)));
        assert_eq!((f.cache.get(&1), f.cache.get(&2)), (None, None));
        validate(&f.cache);
    }
}

#[test]
fn entry_with_a_shortened_time_to_live_is_removed_by_remove_expired() {
    let f = Fixture::new(|builder| builder);
    (0..1_000).for_each(|key| f.cache.insert(key, 0));
    for key in (0..1_000).step_by(7) {
        assert!(f.cache.set_ttl(&key, seconds(5)));
    }
    validate(&f.cache);
    f.clock.set(seconds(5));
    f.cache.remove_expired();
    assert_eq!(f.cache.len(), 1_000 - 143);
    assert_eq!(f.take_notified().len(), 143);
    validate(&f.cache);
}

#[test]
fn entry_with_an_extended_time_to_live_is_not_removed_by_remove_expired() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(5)));
    (0..100).for_each(|key| f.cache.insert(key, 0));
    assert!(f.cache.set_ttl(&50, seconds(10)));
    f.clock.set(seconds(5));
    f.cache.remove_expired();
    assert_eq!((f.cache.len(), f.cache.get(&50)), (1, Some(0)));
    f.clock.set(seconds(10));
    f.cache.remove_expired();
    assert_eq!(f.cache.len(), 0);
    validate(&f.cache);
}

#[test]
fn entry_expires_at_the_earlier_of_set_ttl_and_time_to_idle() {
    let f = Fixture::new(|builder| builder.time_to_idle(seconds(10)));
    f.cache.insert(1, 10);
    assert!(f.cache.set_ttl(&1, seconds(15)));
    for second in [9, 14] {
        f.clock.set(seconds(second));
        assert_eq!(f.cache.get(&1), Some(10));
    }
    f.clock.set(seconds(15));
    assert_eq!(f.cache.get(&1), None);
    f.cache.insert(2, 20);
    assert!(f.cache.set_ttl(&2, Duration::MAX));
    f.clock.set(just_before(seconds(25)));
    assert_eq!(f.cache.peek(&2), Some(20));
    f.clock.set(seconds(25));
    assert_eq!(f.cache.get(&2), None);
    f.cache.insert(3, 30);
    assert!(f.cache.set_ttl(&3, seconds(3)));
    f.clock.set(just_before(seconds(28)));
    assert_eq!(f.cache.get(&3), Some(30));
    f.clock.set(seconds(28));
    assert_eq!(f.cache.get(&3), None);
    validate(&f.cache);
}

#[test]
fn set_ttl_begins_the_time_to_idle_again() {
    let f = Fixture::new(|builder| builder.time_to_idle(seconds(10)));
    f.cache.insert(1, 10);
    f.clock.set(seconds(9));
    assert!(f.cache.set_ttl(&1, seconds(100)));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
}

#[test]
fn ttl_jitter_shortens_the_time_to_live_of_set_ttl() {
    let f = Fixture::new(|builder| builder.ttl_jitter(0.5));
    let ttls: Vec<_> = (0..100)
        .map(|key| {
            f.cache.insert(key, 0);
            assert!(f.cache.set_ttl(&key, seconds(100)));
            f.cache.remaining_ttl(&key).unwrap()
        })
        .collect();
    assert!(
        ttls.iter()
            .all(|ttl| (seconds(50)..=seconds(100)).contains(ttl))
    );
    assert!(ttls.iter().any(|ttl| *ttl != ttls[0]));
    f.cache.insert(1, 0);
    assert!(f.cache.set_ttl(&1, Duration::from_nanos(1)));
    assert_eq!(f.cache.get(&1), Some(0));
    assert!(f.cache.set_ttl(&1, Duration::MAX));
    assert_eq!(f.cache.remaining_ttl(&1), Some(Duration::MAX));
}

#[test]
fn load_in_flight_does_not_replace_the_entry_whose_time_to_live_was_set() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder.refresh_after(seconds(1)));
        f.cache.insert(1, 10);
        f.clock.set(seconds(1));
        let refresh = way.load(&f.cache, 1);
        assert!(f.cache.set_ttl(&1, seconds(5)));
        assert_eq!(refresh.find(20), 20);
        assert_eq!(f.cache.get(&1), Some(10));
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(5)));
        assert_eq!(f.cache.stats().outdated, 1);
        validate(&f.cache);
    }
}

#[test]
fn load_in_flight_of_an_absent_key_is_stored_after_set_ttl() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let load = way.load(&f.cache, 1);
        assert!(!f.cache.set_ttl(&1, seconds(5)));
        assert_eq!(load.find(20), 20);
        assert_eq!(f.cache.get(&1), Some(20));
    }
}

#[test]
fn update_keeps_the_time_to_live_that_was_set() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(100)));
    f.cache.insert(1, 10);
    assert!(f.cache.set_ttl(&1, seconds(30)));
    f.clock.set(seconds(10));
    let mut calls = 0;
    f.cache.update(&1, |value| {
        calls += 1;
        if calls == 1 {
            assert!(f.cache.set_ttl(&1, seconds(40)));
        }
        value.copied()
    });
    assert_eq!(calls, 2);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(40)));
    // An insertion begins with the time to live of the cache again.
    f.cache.insert(1, 10);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(100)));
}

#[test]
fn set_ttl_of_a_key_in_borrowed_form_finds_the_entry() {
    let cache: LocalCache<String, u64> = LocalCache::new(10);
    cache.insert("key".to_string(), 1);
    assert!(cache.set_ttl("key", seconds(5)));
    assert!(cache.remaining_ttl("key").unwrap() <= seconds(5));
}
