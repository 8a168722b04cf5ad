//! The settings that a loader gives an entry: time to live, weight and tags.

use crate::common::{Cache, Fixture, PAIRS, RUNTIME, WAYS, seconds};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, ManualClock};
use std::convert::Infallible;
use std::time::Duration;

#[test]
fn time_to_live_of_the_loader_overrides_that_of_the_cache() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
        let ttls = [
            Some(seconds(3)),
            Some(seconds(30)),
            Some(Duration::MAX),
            None,
        ];
        for (key, ttl) in (0..).zip(ttls) {
            let loaded = match ttl {
                Some(ttl) => Loaded::new(7).ttl(ttl),
                None => Loaded::new(7),
            };
            assert_eq!(way.ask_for(&f.cache, key, Ok(loaded)).unwrap(), 7);
            let left = ttl.unwrap_or(seconds(10));
            assert_eq!(f.cache.remaining_ttl(&key), Some(left));
        }
        f.clock.set(seconds(10));
        let live = [0, 1, 2, 3].map(|key| f.cache.contains_key(&key));
        assert_eq!(live, [false, true, true, false]);
        validate(&f.cache);
    }
}

#[test]
fn loaded_value_with_zero_time_to_live_is_returned_and_not_stored() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let loaded = Loaded::new(7).ttl(Duration::ZERO);
        assert_eq!(way.ask_for(&f.cache, 1, Ok(loaded)).unwrap(), 7);
        assert_eq!((f.cache.len(), f.cache.stats().refused), (0, 1));
        assert_eq!(way.ask(&f.cache, 1, Ok(8)).unwrap(), 8);
    }
}

#[test]
fn weight_of_the_loader_overrides_that_of_the_weigher() {
    for way in WAYS {
        let builder = Cache::builder().max_weight(10).weigher(|_, _| 2).shards(1);
        let cache = builder.build().unwrap();
        let weighing = |weight| Ok(Loaded::new(7).weight(weight));
        way.ask_for(&cache, 1, weighing(5)).unwrap();
        way.ask(&cache, 2, Ok(7)).unwrap();
        assert_eq!(cache.weight(), 7);
        // A weight is at least 1.
        way.ask_for(&cache, 3, weighing(0)).unwrap();
        assert_eq!(cache.weight(), 8);
        assert_eq!(way.ask_for(&cache, 4, weighing(11)).unwrap(), 7);
        assert!(!cache.contains_key(&4));
        // The least recently used entry is evicted.
        way.ask_for(&cache, 5, weighing(4)).unwrap();
        assert_eq!(cache.weight(), 7);
        let present = [1, 2, 3, 5].map(|key| cache.contains_key(&key));
        assert_eq!(present, [false, true, true, true]);
        validate(&cache);
    }
}

#[test]
fn entry_has_the_tags_of_its_loader() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let tagged = |tags: &[&'static str]| Ok(Loaded::new(7).tags(tags.iter().copied()));
        way.ask_for(&f.cache, 1, tagged(&["a", "b"])).unwrap();
        way.ask_for(&f.cache, 2, tagged(&["b"])).unwrap();
        way.ask_for(&f.cache, 3, tagged(&[])).unwrap();
        f.cache.invalidate_tag("a");
        let present = || [1, 2, 3].map(|key| f.cache.contains_key(&key));
        assert_eq!(present(), [false, true, true]);
        f.cache.invalidate_tag("b");
        assert_eq!(present(), [false, false, true]);
        // After another load it has the tags of that load.
        way.ask_for(&f.cache, 1, tagged(&["c"])).unwrap();
        f.cache.invalidate_tag("b");
        assert_eq!(present(), [true, false, true]);
        validate(&f.cache);
    }
}

#[test]
fn waiter_gets_the_value_and_the_entry_has_the_settings_of_the_leader() {
    for (loads, waits) in PAIRS {
        let f = Fixture::new(|builder| builder.time_to_live(seconds(10)));
        let load = loads.load(&f.cache, 1);
        let waiter = waits.wait(&f.cache, 1);
        let loaded = Loaded::new(7).ttl(seconds(3)).tags(["tag"]);
        assert_eq!(load.finish(Ok(loaded)).unwrap(), 7);
        assert_eq!(waiter.answer(Err("the loader was called")).unwrap(), 7);
        assert_eq!(f.cache.remaining_ttl(&1), Some(seconds(3)));
        f.cache.invalidate_tag("tag");
        assert_eq!(f.cache.get(&1), None);
    }
}

/// An absent row is cached for a shorter time than a row.
#[test]
fn absent_value_can_be_cached_with_its_own_time_to_live() {
    for blocking in [true, false] {
        let clock = ManualClock::new();
        let users: LocalCache<u32, Option<&str>> = LocalCache::builder()
            .capacity(10)
            .time_to_live(seconds(60))
            .clock(clock.clone())
            .build()
            .unwrap();
        let select = |key: u32| {
            let row = (key == 1).then_some("Ada");
            let loaded = Loaded::new(row);
            let loaded = if row.is_none() {
                loaded.ttl(seconds(5))
            } else {
                loaded
            };
            Ok::<_, Infallible>(loaded)
        };
        let user = |key: u32| {
            if blocking {
                users.get_or_load_entry(&key, |&key| select(key)).unwrap()
            } else {
                let load = async |key| select(key);
                RUNTIME
                    .block_on(users.get_or_load_entry_async(&key, load))
                    .unwrap()
            }
        };
        for (second, loads) in [(0, 2), (4, 2), (5, 3), (9, 3), (10, 4)] {
            clock.set(seconds(second));
            assert_eq!((user(1), user(2)), (Some("Ada"), None));
            assert_eq!(users.stats().loads, loads);
        }
        // The key is cached, with no value.
        assert_eq!((users.get(&2), users.get(&3)), (Some(None), None));
    }
}
