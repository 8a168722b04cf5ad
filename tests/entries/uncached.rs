//! `Loaded::uncached`: values that reach their callers and are not stored.

use crate::common::{Fixture, PAIRS, RUNTIME, WAYS, seconds};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, RemovalCause};

#[test]
fn uncached_value_reaches_the_caller_and_all_waiters() {
    for (loading, waiting) in PAIRS {
        let f = Fixture::new(|builder| builder);
        let load = loading.load(&f.cache, 1);
        let waiter = waiting.wait(&f.cache, 1);
        assert_eq!(load.finish(Ok(Loaded::uncached(7))).unwrap(), 7);
        assert_eq!(waiter.answer(Err("called")).unwrap(), 7);
        let stats = f.cache.stats();
        assert_eq!(
            (stats.loads, stats.coalesced, stats.refused, stats.inserts),
            (1, 1, 0, 0)
        );
        assert!(f.cache.is_empty());
        validate(&f.cache);
    }
}

#[test]
fn uncached_value_removes_the_older_value() {
    let f = Fixture::new(|builder| builder.refresh_after(seconds(1)));
    let uncached = || Loaded::uncached(7).ttl(seconds(5)).weight(3).tags(["tag"]);
    let ways: [&dyn Fn(); 4] = [
        &|| f.cache.insert_loaded(1, uncached()),
        &|| assert_eq!(f.cache.update_loaded(&1, |_| Some(uncached())), Some(7)),
        &|| {
            f.clock.advance(seconds(1));
            let refreshed = f.cache.get_or_load_entry(&1, |_| Ok::<_, &str>(uncached()));
            assert_eq!(refreshed.unwrap(), 7);
        },
        &|| {
            f.clock.advance(seconds(1));
            let load = async |_| Ok::<_, &str>(uncached());
            let refreshed = RUNTIME.block_on(f.cache.get_or_load_entry_async(&1, load));
            assert_eq!(refreshed.unwrap(), 7);
        },
    ];
    for (index, store) in ways.into_iter().enumerate() {
        f.cache.insert(1, 10);
        store();
        assert_eq!(f.cache.get(&1), None, "{index}");
        assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Replaced)]);
        assert_eq!(f.cache.stats().refused, 0);
        validate(&f.cache);
    }
}

#[test]
fn uncached_values_of_a_batch_are_returned_and_not_stored() {
    let f = Fixture::new(|builder| builder);
    let load = |keys: Vec<u32>| {
        let entry = |key| {
            let value = u64::from(key);
            let is_odd = key % 2 == 1;
            (
                key,
                if is_odd {
                    Loaded::uncached(value)
                } else {
                    Loaded::new(value)
                },
            )
        };
        Ok::<_, &str>(keys.into_iter().map(entry))
    };
    let found = f.cache.get_many_or_load_entries(&[1, 2, 3, 1], load);
    assert_eq!(found.unwrap(), [Some(1), Some(2), Some(3), Some(1)]);
    let found = f
        .cache
        .get_many_or_load_entries_async(&[5, 4], async |keys| load(keys));
    assert_eq!(RUNTIME.block_on(found).unwrap(), [Some(5), Some(4)]);
    assert_eq!((f.cache.len(), f.cache.stats().refused), (2, 0));
    validate(&f.cache);
}

#[test]
fn uncached_value_too_heavy_for_the_cache_is_not_refused() {
    let cache = LocalCache::<u32, u64>::builder()
        .max_weight(10)
        .weigher(|_, value| *value)
        .build()
        .unwrap();
    cache.insert_loaded(1, Loaded::uncached(100));
    assert_eq!(cache.stats().refused, 0);
    cache.insert(1, 100);
    assert_eq!(cache.stats().refused, 1);
}

#[test]
fn uncached_value_is_loaded_again_by_the_next_caller() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder.stale_if_error(seconds(10)));
        for _ in 0..3 {
            assert_eq!(
                way.ask_for(&f.cache, 1, Ok(Loaded::uncached(7))).unwrap(),
                7
            );
        }
        assert_eq!(f.cache.stats().loads, 3);
        assert!(way.ask(&f.cache, 1, Err("no")).is_err());
    }
}

#[test]
fn insertion_of_an_uncached_value_revokes_a_load_in_flight() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let load = way.load(&f.cache, 1);
        f.cache.insert_loaded(1, Loaded::uncached(7));
        assert_eq!(load.find(20), 20);
        assert_eq!((f.cache.get(&1), f.cache.stats().outdated), (None, 1));
    }
}
