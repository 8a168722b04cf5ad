//! The result of a load that began before a write to its key, or before an invalidation of its tag, is never stored.

use crate::common::{Cache, PAIRS, RUNTIME, WAYS, Way};
use hotset::__private::validate;
use hotset::Loaded;
use std::convert::Infallible;
use std::time::Duration;

/// The results of the loads in flight, and of loads after the write.
const OLD: u64 = 10;
const NEW: u64 = 20;

fn found() -> Loaded<u64> {
    Loaded::new(OLD).tags(["tag", "other tag"])
}

fn remove(cache: &Cache) {
    assert_eq!(cache.remove(&1), None);
}

fn invalidate(cache: &Cache) {
    cache.invalidate_tag("tag");
}

fn retain(cache: &Cache) {
    cache.retain(|_, _| false);
}

/// The writes after which the key is not cached.
const REMOVALS: [fn(&Cache); 4] = [remove, Cache::clear, invalidate, retain];

/// Writes while key 1 is being loaded. The result of the load must not be stored.
fn assert_load_in_flight_is_not_stored(make: impl Fn() -> Cache, write: impl Fn(&Cache)) {
    for way in WAYS {
        let cache = make();
        let load = way.load(&cache, 1);
        write(&cache);
        let left = cache.get(&1);
        assert_eq!(load.finish(Ok(found())).unwrap(), OLD);
        assert_eq!(cache.get(&1), left);
        assert_eq!(cache.stats().outdated, 1);
        validate(&cache);
    }
}

fn small() -> Cache {
    Cache::new(10)
}

#[test]
fn load_started_before_remove_is_not_stored() {
    assert_load_in_flight_is_not_stored(small, remove);
}

#[test]
fn load_started_before_insert_is_not_stored() {
    assert_load_in_flight_is_not_stored(small, |cache| cache.insert(1, NEW));
}

#[test]
fn load_started_before_clear_is_not_stored() {
    assert_load_in_flight_is_not_stored(small, Cache::clear);
}

#[test]
fn load_started_before_retain_is_not_stored() {
    assert_load_in_flight_is_not_stored(small, retain);
    assert_load_in_flight_is_not_stored(small, |cache| cache.retain(|_, _| true));
    assert_load_in_flight_is_not_stored(small, |cache| cache.retain(|&key, _| key != 1));
}

#[test]
fn load_started_before_invalidation_of_its_tag_is_not_stored() {
    assert_load_in_flight_is_not_stored(small, invalidate);
    assert_load_in_flight_is_not_stored(small, |cache| cache.invalidate_tag("other tag"));
}

#[test]
fn load_started_before_update_is_not_stored() {
    assert_load_in_flight_is_not_stored(small, |cache| {
        let kept_or_new = cache.update(&1, |value| value.copied().or(Some(NEW)));
        assert_eq!(kept_or_new, Some(NEW));
    });
    assert_load_in_flight_is_not_stored(small, |cache| {
        assert_eq!(cache.update(&1, |_| None), None);
    });
}

#[test]
fn load_started_before_a_refused_insert_is_not_stored() {
    let weighted = || {
        let builder = Cache::builder().max_weight(10).weigher(|_, &v| v);
        builder.build().unwrap()
    };
    assert_load_in_flight_is_not_stored(weighted, |cache| {
        cache.insert(1, 11);
        assert_eq!(cache.get(&1), None);
    });
}

#[test]
fn load_started_before_an_insert_is_not_stored_after_that_entry_expired_or_was_evicted() {
    assert_load_in_flight_is_not_stored(
        || Cache::new(1),
        |cache| {
            cache.insert_with_ttl(1, NEW, Duration::ZERO);
            cache.insert(1, NEW);
            cache.insert(2, 0);
            assert_eq!(cache.get(&1), None);
        },
    );
}

#[test]
fn load_whose_loader_writes_to_the_key_is_not_stored() {
    let writes: [(fn(&Cache), _); 4] = [
        (retain, None),
        (|cache| cache.insert(1, NEW), Some(NEW)),
        (remove, None),
        (invalidate, None),
    ];
    for (write, left) in writes {
        let cache = small();
        let load = |_: &u32| {
            write(&cache);
            Ok::<_, Infallible>(found())
        };
        assert_eq!(cache.get_or_load_entry(&1, load).unwrap(), OLD);
        assert_eq!(cache.get(&1), left);
        let cache = small();
        let load = async |_| {
            write(&cache);
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(found())
        };
        let loaded = RUNTIME.block_on(cache.get_or_load_entry_async(&1, load));
        assert_eq!((loaded.unwrap(), cache.get(&1)), (OLD, left));
    }
}

#[test]
fn load_is_stored_after_a_write_to_another_key_or_tag() {
    for way in WAYS {
        let cache = Cache::builder().capacity(10).shards(1).build().unwrap();
        let load = way.load(&cache, 1);
        cache.insert(2, 0);
        cache.remove(&2);
        cache.invalidate_tag("a tag that is not its own");
        load.finish(Ok(found())).unwrap();
        assert_eq!(cache.get(&1), Some(OLD));
        validate(&cache);
    }
}

#[test]
fn caller_after_a_write_loads_again_while_the_old_load_continues() {
    for (old, new) in PAIRS {
        for write in REMOVALS {
            let cache = small();
            let load = old.load(&cache, 1);
            write(&cache);
            assert_eq!(new.ask(&cache, 1, Ok(NEW)).unwrap(), NEW);
            assert_eq!(load.finish(Ok(found())).unwrap(), OLD);
            assert_eq!(cache.get(&1), Some(NEW));
            validate(&cache);
        }
    }
}

/// It cannot be seen from outside whether the waiter has joined the load. It usually has when its miss is counted, so
/// this repeats until it had.
#[test]
fn caller_that_waited_before_a_write_gets_the_value_of_the_old_load() {
    for (loads, waits) in PAIRS {
        for write in REMOVALS {
            let waited = (0..1_000).any(|_| {
                let cache = small();
                let load = loads.load(&cache, 1);
                let waiter = waits.wait(&cache, 1);
                write(&cache);
                assert_eq!(load.finish(Ok(found())).unwrap(), OLD);
                let value = waiter.answer(Ok(Loaded::new(NEW))).unwrap();
                validate(&cache);
                assert_eq!(cache.get(&1), (value == NEW).then_some(NEW));
                value == OLD
            });
            assert!(waited);
        }
    }
}

/// The tags of a load in flight are not known, so any invalidation makes the next caller start another load. It must be
/// a single one, because a tag that is invalidated often would make every caller load otherwise.
#[test]
fn loads_after_invalidations_are_single_flight() {
    for (old, new) in PAIRS {
        let cache = small();
        let first = old.load(&cache, 1);
        invalidate(&cache);
        let second = new.load(&cache, 1);
        invalidate(&cache);
        let third = old.wait(&cache, 1);
        assert!(!third.has_started());
        assert_eq!(second.finish(Ok(found())).unwrap(), OLD);
        // The result of the second load is not for a caller that came after the invalidation.
        third.started();
        assert_eq!(cache.get(&1), None);
        assert_eq!(third.finish(Ok(found().ttl(Duration::MAX))).unwrap(), OLD);
        assert_eq!(cache.get(&1), Some(OLD));
        first.find(NEW);
        assert_eq!(cache.get(&1), Some(OLD));
        assert_eq!(cache.stats().loads, 3);
        validate(&cache);
    }
}

#[test]
fn waiter_of_a_load_without_tags_gets_its_value_after_any_invalidation_of_a_tag() {
    for (old, new) in PAIRS {
        let cache = small();
        let first = old.load(&cache, 1);
        invalidate(&cache);
        let second = new.load(&cache, 1);
        invalidate(&cache);
        let third = old.wait(&cache, 1);
        assert_eq!(second.find(NEW), NEW);
        let unused = Err("the loader was called");
        assert_eq!(third.answer(unused).unwrap(), NEW);
        first.find(OLD);
        assert_eq!(Way::Thread.hit(&cache, 1), NEW);
        validate(&cache);
    }
}
