//! `peek`, `get_many` and the insertion of many pairs.

use crate::common::{Fixture, seconds};
use hotset::__private::validate;
use hotset::{LocalCache, RemovalCause};

#[test]
fn peek_counts_as_neither_a_lookup_nor_a_use_of_the_entry() {
    let f = Fixture::new(|builder| builder.capacity(2).time_to_idle(seconds(10)));
    f.cache.insert(1, 10);
    f.cache.insert(2, 20);
    assert_eq!((f.cache.peek(&1), f.cache.peek(&3)), (Some(10), None));
    f.cache.insert(3, 30);
    assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Evicted)]);
    f.clock.set(seconds(9));
    assert_eq!(f.cache.peek(&2), Some(20));
    f.clock.set(seconds(10));
    assert_eq!(f.cache.peek(&2), None);
    let stats = f.cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.loads), (0, 0, 0));
    assert_eq!(stats.ages.count(), 0);
}

#[test]
fn peek_does_not_refresh_or_return_a_stale_value() {
    let f = Fixture::new(|builder| {
        builder
            .time_to_live(seconds(10))
            .refresh_after(seconds(5))
            .stale_if_error(seconds(100))
    });
    f.cache.insert(1, 10);
    f.clock.set(seconds(5));
    assert_eq!(f.cache.peek(&1), Some(10));
    assert_eq!(f.cache.get_or_load(&1, |_| Ok::<_, &str>(11)).unwrap(), 11);
    assert_eq!(f.cache.stats().refreshes, 1);
    f.clock.set(seconds(15));
    assert_eq!(f.cache.peek(&1), None);
}

#[test]
fn get_many_counts_as_a_lookup_and_a_use_of_each_key() {
    let f = Fixture::new(|builder| builder.capacity(3));
    (1..4).for_each(|key| f.cache.insert(key, key.into()));
    let found = f.cache.get_many(&[1, 9, 1, 2]);
    assert_eq!(found, [Some(1), None, Some(1), Some(2)]);
    let stats = f.cache.stats();
    assert_eq!((stats.hits, stats.misses), (3, 1));
    f.cache.insert(4, 4);
    assert_eq!(f.take_notified(), [(3, 3, RemovalCause::Evicted)]);
    assert_eq!(f.cache.get_many::<u32>([]), []);
}

#[test]
fn extend_inserts_all_pairs_and_keeps_the_last_of_each_key() {
    let f = Fixture::new(|builder| builder.time_to_live(seconds(5)));
    let mut cache = f.cache.clone();
    cache.extend([(1, 10), (2, 20), (1, 11)]);
    let mut shared = &f.cache;
    shared.extend(vec![(3, 30)]);
    assert_eq!(f.cache.get_many(&[1, 2, 3]), [Some(11), Some(20), Some(30)]);
    assert_eq!(f.cache.remaining_ttl(&3), Some(seconds(5)));
    assert_eq!(f.take_notified(), [(1, 10, RemovalCause::Replaced)]);
    let bounded = Fixture::new(|builder| builder.capacity(10));
    (&bounded.cache).extend((0..100).map(|key| (key, 0)));
    assert_eq!(bounded.cache.len(), 10);
    // A cache may be extended by its own entries.
    (&f.cache).extend(&f.cache);
    assert_eq!(f.cache.len(), 3);
    validate(&f.cache);
}

#[test]
fn collected_cache_is_unbounded() {
    let cache: LocalCache<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
    assert_eq!((cache.len(), cache.capacity()), (10_000, None));
    let empty: LocalCache<u32, u32> = [].into_iter().collect();
    assert!(empty.is_empty());
    empty.insert(1, 1);
    assert_eq!(empty.get(&1), Some(1));
    validate(&cache);
}
