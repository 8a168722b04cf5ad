//! `expire_after`, the rule for the time to live of each entry.

use crate::common::{Fixture, RUNTIME, WAYS, seconds};
use hotset::__private::validate;
use hotset::{Compute, LoadError, Loaded, LocalCache};
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Returns a cache whose values are their times to live in seconds. For the value 0, the rule returns `None`.
fn fixture() -> Fixture {
    Fixture::new(|builder| {
        builder
            .time_to_live(seconds(1_000))
            .expire_after(|_, &value| (value > 0).then(|| seconds(value)))
    })
}

#[test]
fn rule_applies_to_insertions_and_loads() {
    for way in WAYS {
        let f = fixture();
        f.cache.insert(1, 7);
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(7)));
        way.ask(&f.cache, 2, Ok(8)).unwrap();
        assert_eq!(f.cache.remaining_ttl(&2), Some(seconds(8)));
        way.ask(&f.cache, 3, Ok(0)).unwrap();
        assert_eq!(f.cache.remaining_ttl(&3), Some(seconds(1_000)));
        f.cache.insert(1, 0);
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(1_000)));
        f.clock.set(seconds(8));
        assert_eq!((f.cache.get(&1), f.cache.get(&2)), (Some(0), None));
        validate(&f.cache);
    }
}

#[test]
fn rule_applies_to_batches_and_refreshes() {
    let f = fixture();
    let load = |keys: Vec<u32>| Ok::<_, &str>(keys.into_iter().map(|key| (key, u64::from(key))));
    f.cache.get_many_or_load(&[5, 6], load).unwrap();
    let batch = f
        .cache
        .get_many_or_load_async(&[7], async |keys| load(keys));
    RUNTIME.block_on(batch).unwrap();
    for key in [5, 6, 7] {
        assert_eq!(f.cache.remaining_ttl(&key), Some(seconds(key.into())));
    }
    f.cache.refresh(&5, |_| Ok::<_, &str>(50)).unwrap();
    assert_eq!(f.cache.remaining_ttl(&5), Some(seconds(50)));
    f.cache.warm([8], load);
    assert_eq!(f.cache.remaining_ttl(&8), Some(seconds(8)));
}

#[test]
fn updated_entry_gets_the_time_to_live_of_the_rule_or_keeps_its_own() {
    let f = fixture();
    f.cache.insert(1, 7);
    f.clock.set(seconds(5));
    f.cache.update(&1, |_| Some(20));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(20)));
    f.clock.set(seconds(10));
    f.cache.compute(&1, |_| Compute::Put(0));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(15)));
    f.cache.compute(&1, |_| Compute::Put(30));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(30)));
}

#[test]
fn explicit_time_to_live_prevails_over_the_rule() {
    let f = fixture();
    f.cache.insert_with_ttl(1, 7, seconds(90));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(90)));
    let load = |_: &u32| Ok::<_, &str>(Loaded::new(7).ttl(Duration::MAX));
    f.cache.get_or_load_entry(&2, load).unwrap();
    assert_eq!(f.cache.remaining_ttl(&2), Some(Duration::MAX));
    f.cache
        .update_loaded(&1, |_| Some(Loaded::new(7).ttl(seconds(80))));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(80)));
    assert!(f.cache.set_ttl(&1, seconds(70)));
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(70)));
    // An uncached value is not stored, whatever the rule says.
    f.cache.insert_loaded(1, Loaded::uncached(7));
    assert!(!f.cache.contains_key(&1));
}

#[test]
fn value_with_zero_is_not_stored_and_with_the_maximum_never_expires() {
    for way in WAYS {
        let f = Fixture::new(|builder| {
            builder.expire_after(|_, &value| {
                Some(if value == 0 {
                    Duration::ZERO
                } else {
                    Duration::MAX
                })
            })
        });
        f.cache.insert(1, 1);
        assert_eq!(f.cache.remaining_ttl(&1), Some(Duration::MAX));
        f.cache.insert(1, 0);
        assert_eq!(f.cache.get(&1), None);
        assert_eq!(way.ask(&f.cache, 1, Ok(0)).unwrap(), 0);
        assert_eq!(f.cache.get(&1), None);
        f.cache.insert(2, 1);
        assert_eq!(f.cache.update(&2, |_| Some(0)), Some(0));
        assert_eq!(f.cache.len(), 0);
        assert_eq!(f.cache.stats().refused, 3);
        validate(&f.cache);
    }
}

#[test]
fn rule_that_panics_leaves_the_cache_valid() {
    for way in WAYS {
        let f = Fixture::new(|builder| {
            builder.expire_after(|_, &value| {
                if value == 13 {
                    panic_any("panic")
                } else {
                    None
                }
            })
        });
        f.cache.insert(1, 1);
        let insert = AssertUnwindSafe(|| f.cache.insert(1, 13));
        assert!(catch_unwind(insert).is_err());
        let update = AssertUnwindSafe(|| f.cache.update(&1, |_| Some(13)));
        assert!(catch_unwind(update).is_err());
        let load = AssertUnwindSafe(|| way.ask(&f.cache, 2, Ok(13)));
        assert!(catch_unwind(load).is_err());
        let refresh = AssertUnwindSafe(|| f.cache.refresh(&1, |_| Ok::<_, &str>(13)));
        assert!(catch_unwind(refresh).is_err());
        assert_eq!(f.cache.get(&1), Some(1));
        assert_eq!(way.ask(&f.cache, 2, Ok(2)).unwrap(), 2);
        f.cache.insert(1, 3);
        assert_eq!(f.cache.get(&1), Some(3));
        validate(&f.cache);
    }
}

#[test]
fn rule_may_call_the_cache() {
    type Handle = Arc<Mutex<Option<LocalCache<u32, u64>>>>;
    let handle = Handle::default();
    let inner = Arc::clone(&handle);
    let cache = LocalCache::<u32, u64>::builder()
        .capacity(100)
        .expire_after(move |&key, _| {
            let cache = inner.lock().unwrap().clone()?;
            if key < 10 {
                cache.insert(key + 10, 1);
                assert_eq!(cache.get_or_insert_with(&(key + 20), |_| 2), 2);
                cache.invalidate(&(key + 10));
            }
            cache.get(&key).map(seconds)
        })
        .build()
        .unwrap();
    *handle.lock().unwrap() = Some(cache.clone());
    cache.insert(1, 5);
    assert_eq!(cache.get_or_insert_with(&2, |_| 6), 6);
    cache.update(&1, |_| Some(7));
    cache
        .get_many_or_load(&[3, 4], |keys| {
            Ok::<_, &str>(keys.into_iter().map(|key| (key, 8)))
        })
        .unwrap();
    assert_eq!(cache.len(), 8);
    assert!(cache.remaining_ttl(&1).unwrap() <= seconds(5));
    validate(&cache);
    *handle.lock().unwrap() = None;
}

#[test]
fn ttl_jitter_and_time_to_idle_apply_to_times_of_the_rule() {
    let f = Fixture::new(|builder| {
        builder
            .ttl_jitter(0.5)
            .expire_after(|_, &value| Some(seconds(value)))
    });
    f.cache.insert(1, 100);
    let left = f.cache.remaining_ttl(&1).unwrap();
    assert!((seconds(50)..=seconds(100)).contains(&left));
    let f = Fixture::new(|builder| {
        builder
            .time_to_idle(seconds(10))
            .expire_after(|_, &value| Some(seconds(value)))
    });
    f.cache.insert(1, 100);
    assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(10)));
    f.cache.insert(2, 5);
    assert_eq!(f.cache.remaining_ttl(&2), Some(seconds(5)));
}

#[test]
fn load_of_the_stored_key_by_the_rule_is_recursive() {
    type Handle = Arc<Mutex<Option<LocalCache<u32, u64>>>>;
    let handle = Handle::default();
    let inner = Arc::clone(&handle);
    let cache = LocalCache::<u32, u64>::builder()
        .capacity(100)
        .lease(Duration::MAX)
        .expire_after(move |key, _| {
            let cache = inner.lock().unwrap().clone()?;
            let loaded = cache.get_or_load(key, |_| Ok::<_, Infallible>(1));
            assert!(matches!(loaded, Err(LoadError::Recursive) | Ok(1)));
            None
        })
        .build()
        .unwrap();
    *handle.lock().unwrap() = Some(cache.clone());
    // The rule of the load, and then the rule of the load that the rule of the insertion begins.
    assert_eq!(cache.get_or_insert_with(&1, |_| 5), 5);
    cache.insert(2, 6);
    let loaded = cache.get_many_or_load(&[3, 4], |_| Ok::<_, Infallible>([(3, 30), (4, 40)]));
    assert_eq!(loaded.unwrap(), [Some(30), Some(40)]);
    *handle.lock().unwrap() = None;
    validate(&cache);
}
