//! What the loader says of the entry: its time to live, its weight, its tags.

use crate::common::{Cache, Fixture, PAIRS, RUNTIME, WAYS, seconds};
use hotset::__private::validate;
use hotset::{Loaded, LocalCache, ManualClock};
use std::convert::Infallible;
use std::time::Duration;

#[test]
fn the_loaders_ttl_goes_before_the_caches() {
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
fn a_ttl_of_zero_stores_nothing_and_reaches_the_caller() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let loaded = Loaded::new(7).ttl(Duration::ZERO);
        assert_eq!(way.ask_for(&f.cache, 1, Ok(loaded)).unwrap(), 7);
        assert_eq!((f.cache.len(), f.cache.stats().refused), (0, 1));
        assert_eq!(way.ask(&f.cache, 1, Ok(8)).unwrap(), 8);
    }
}

#[test]
fn the_loaders_weight_goes_before_the_weighers() {
    for way in WAYS {
        let builder = Cache::builder().max_weight(10).weigher(|_, _| 2).shards(1);
        let cache = builder.build().unwrap();
        let weighing = |weight| Ok(Loaded::new(7).weight(weight));
        way.ask_for(&cache, 1, weighing(5)).unwrap();
        way.ask(&cache, 2, Ok(7)).unwrap();
        assert_eq!(cache.weight(), 7);
        // At least 1 is counted.
        way.ask_for(&cache, 3, weighing(0)).unwrap();
        assert_eq!(cache.weight(), 8);
        assert_eq!(way.ask_for(&cache, 4, weighing(11)).unwrap(), 7);
        assert!(!cache.contains_key(&4));
        // Room is made by what was used least recently.
        way.ask_for(&cache, 5, weighing(4)).unwrap();
        assert_eq!(cache.weight(), 7);
        let held = [1, 2, 3, 5].map(|key| cache.contains_key(&key));
        assert_eq!(held, [false, true, true, true]);
        validate(&cache);
    }
}

#[test]
fn the_loaders_tags_are_the_entrys() {
    for way in WAYS {
        let f = Fixture::new(|builder| builder);
        let tagged = |tags: &[&'static str]| Ok(Loaded::new(7).tags(tags.iter().copied()));
        way.ask_for(&f.cache, 1, tagged(&["a", "b"])).unwrap();
        way.ask_for(&f.cache, 2, tagged(&["b"])).unwrap();
        way.ask_for(&f.cache, 3, tagged(&[])).unwrap();
        f.cache.invalidate_tag("a");
        let held = || [1, 2, 3].map(|key| f.cache.contains_key(&key));
        assert_eq!(held(), [false, true, true]);
        f.cache.invalidate_tag("b");
        assert_eq!(held(), [false, false, true]);
        // Loaded anew, it has the tags that it is loaded with now.
        way.ask_for(&f.cache, 1, tagged(&["c"])).unwrap();
        f.cache.invalidate_tag("b");
        assert_eq!(held(), [true, false, true]);
        validate(&f.cache);
    }
}

#[test]
fn who_waits_has_the_value_and_the_leaders_settings_are_the_entrys() {
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

/// That there is no such row is known for a shorter time than a row.
#[test]
fn what_is_not_there_can_be_cached_with_a_ttl_of_its_own() {
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
                users.get_or_load(&key, |&key| select(key)).unwrap()
            } else {
                let load = async || select(key);
                RUNTIME
                    .block_on(users.get_or_load_async(&key, load))
                    .unwrap()
            }
        };
        for (second, loads) in [(0, 2), (4, 2), (5, 3), (9, 3), (10, 4)] {
            clock.set(seconds(second));
            assert_eq!((user(1), user(2)), (Some("Ada"), None));
            assert_eq!(users.stats().loads, loads);
        }
        // Held, and held to be nothing.
        assert_eq!((users.get(&2), users.get(&3)), (Some(None), None));
    }
}
