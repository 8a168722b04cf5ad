//! A load that began before a write to its key, or before an invalidation of its tag, never stores.

use crate::common::{Cache, PAIRS, RUNTIME, WAYS, Way};
use hotset::__private::validate;
use hotset::Loaded;
use std::convert::Infallible;
use std::time::Duration;

/// What the loads under way find, and what loads after the write find.
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

/// After these the key is not held.
const REMOVALS: [fn(&Cache); 4] = [remove, Cache::clear, invalidate, retain];

/// Writes while key 1 is being loaded; the load must not store, whatever the write left.
fn a_load_under_way_does_not_store(make: impl Fn() -> Cache, write: impl Fn(&Cache)) {
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
fn not_after_remove() {
    a_load_under_way_does_not_store(small, remove);
}

#[test]
fn not_after_insert() {
    a_load_under_way_does_not_store(small, |cache| cache.insert(1, NEW));
}

#[test]
fn not_after_clear() {
    a_load_under_way_does_not_store(small, Cache::clear);
}

#[test]
fn load_started_before_retain_is_not_stored() {
    a_load_under_way_does_not_store(small, retain);
    a_load_under_way_does_not_store(small, |cache| cache.retain(|_, _| true));
    a_load_under_way_does_not_store(small, |cache| cache.retain(|&key, _| key != 1));
}

#[test]
fn not_after_one_of_its_tags_was_invalidated() {
    a_load_under_way_does_not_store(small, invalidate);
    a_load_under_way_does_not_store(small, |cache| cache.invalidate_tag("other tag"));
}

#[test]
fn not_after_an_update() {
    a_load_under_way_does_not_store(small, |cache| {
        let kept_or_new = cache.update(&1, |value| value.copied().or(Some(NEW)));
        assert_eq!(kept_or_new, Some(NEW));
    });
    a_load_under_way_does_not_store(small, |cache| {
        assert_eq!(cache.update(&1, |_| None), None);
    });
}

#[test]
fn not_after_an_insert_that_was_refused() {
    let weighted = || {
        let builder = Cache::builder().max_weight(10).weigher(|_, &v| v);
        builder.build().unwrap()
    };
    a_load_under_way_does_not_store(weighted, |cache| {
        cache.insert(1, 11);
        assert_eq!(cache.get(&1), None);
    });
}

#[test]
fn not_after_an_insert_that_has_expired_or_was_evicted_since() {
    a_load_under_way_does_not_store(
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
fn not_after_the_loader_itself_has_written() {
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
        assert_eq!(cache.get_or_load(&1, load).unwrap(), OLD);
        assert_eq!(cache.get(&1), left);
        let cache = small();
        let load = async || {
            write(&cache);
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(found())
        };
        let loaded = RUNTIME.block_on(cache.get_or_load_async(&1, load));
        assert_eq!((loaded.unwrap(), cache.get(&1)), (OLD, left));
    }
}

#[test]
fn a_write_to_another_key_or_tag_is_no_reason() {
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
fn who_comes_after_the_write_loads_anew_while_the_old_load_goes_on() {
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

/// Whether the waiter has boarded the flight cannot be seen from outside; it mostly has once its
/// miss is counted, so this tries until it had.
#[test]
fn who_waited_before_the_write_gets_the_old_loads_value() {
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

/// Nobody knows the tags of a load under way, so any invalidation makes the next caller start
/// another; but only one, or a busy tag would have every caller load.
#[test]
fn of_the_loads_that_follow_invalidations_there_is_one_at_a_time() {
    for (old, new) in PAIRS {
        let cache = small();
        let first = old.load(&cache, 1);
        invalidate(&cache);
        let second = new.load(&cache, 1);
        invalidate(&cache);
        let third = old.wait(&cache, 1);
        assert!(!third.has_started());
        assert_eq!(second.finish(Ok(found())).unwrap(), OLD);
        // What the second found is not for one who came after the invalidation.
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
fn who_waits_for_a_load_without_tags_shares_it_whatever_was_invalidated() {
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
